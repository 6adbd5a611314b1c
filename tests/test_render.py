"""Rendering: the helpers that templates use, and errors that say which template, which line and what was meant."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote as percent

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT, Project
from i12e import programs
from i12e.errors import Problem, UserError
from i12e.files import Files
from i12e.hosts import join_urls, position, reboot_window
from i12e.model import Host, load_fleet
from i12e.paths import Paths
from i12e.render import Renderer, digest, merge_problems
from i12e.secrets import Secret, Vault
from i12e.templates import quote, shell_quote, to_yaml

ENTRY = "templates/butane/server.bu.j2"
NASTY = [
    *(
        "",
        " ",
        "a: b",
        "- x",
        "# no comment",
        "{{ x }}",
        "'",
        '"',
        "\\",
        "\\n",
        "a\nb\n",
        "\ttab",
        "yes",
        "null",
        "0644",
        "~",
    ),
    *(
        "%",
        "@",
        "`id`",
        "$(id)",
        "$HOME",
        "!tag",
        "&a",
        "*a",
        "a\r\nb",
        "ä→😀",
        "\x7f",
        "\x85",
        "\u2028x\u2029",
        "\ufeffx",
        "\x00",
    ),
]


def host_of(project: Project, more: str = "", cluster: str = "", name: str = "server-1", role: str = "server") -> Host:
    """Given further text of the host's and the cluster's file, return the host."""
    project.write(f"hosts/example/{name}.yaml", f"role: {role}\naddresses: [192.0.2.11]\n{more}")
    if cluster:
        project.write("hosts/example/cluster.yaml", cluster)
    return load_fleet("hosts/example", "example", [name], Files(project.root).read).hosts[name]


CLUSTER = """\
name: example
k3s: {version: v1.35.4+k3s1}
api: {name: k8s.example.com}
ssh_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEzBbaE5lcDr3hNL8WrgNDV5SGe26Y4+DFTPXDPiQ4l6 demo"]
"""
SERVERS = [{"name": f"server-{number}", "addresses": [f"192.0.2.{10 + number}"]} for number in (1, 2, 3)]


def renderer(project: Project, servers: list[dict[str, Any]] = SERVERS) -> Renderer:
    """Given a project, return what a run renders with."""
    paths, files = Paths(project.root, "example"), Files(project.root)
    return Renderer(paths, files, Vault(paths, files), lambda: servers, no_cluster)


def no_cluster() -> NoReturn:
    """What these templates may know of the cluster and its releases."""
    raise AssertionError("no template here asks for it")


def text(project: Project, template: str, host: Host | None = None) -> str:
    """Given a project and an entry template, return what it gives."""
    project.write(ENTRY, template)
    return renderer(project).text(host or host_of(project))


def fault(project: Project, template: str, host: Host | None = None) -> str:
    """Given a project and an entry template that fails, return what is said."""
    project.write("templates/butane/base.bu.j2", "")
    with pytest.raises(UserError) as caught:
        text(project, template, host)
    (problem,) = caught.value.problems
    return str(problem)


# --- helpers


def test_hosts_join_by_the_vip_where_there_is_one(small: Project) -> None:
    assert join_urls(host_of(small), lambda: pytest.fail("the servers are no input then")) == [
        "https://192.0.2.10:6443"
    ]


def test_hosts_join_by_every_other_server_in_order_where_there_is_no_vip(small: Project) -> None:
    host = host_of(small, cluster=CLUSTER, name="server-2")
    assert join_urls(host, lambda: SERVERS) == ["https://192.0.2.11:6443", "https://192.0.2.13:6443"]
    agent = host_of(small, name="agent-1", role="agent")
    assert len(join_urls(agent, lambda: SERVERS)) == 3


def test_an_ipv6_address_stands_in_brackets_and_the_first_address_is_the_one_to_join_by(small: Project) -> None:
    host = host_of(small, cluster=CLUSTER)
    servers = [{"name": "server-2", "addresses": ["2001:db8::2", "192.0.2.12"]}]
    assert join_urls(host, lambda: servers) == ["https://[2001:db8::2]:6443"]


DNS = "dns: {provider: route53, zone: example.com, route53: {zone_id: Z1}}\n"
VIP = CLUSTER.replace(
    "k8s.example.com", "k8s.example.com, vip: {address: 192.0.2.10, version: v1.0.1, interface: eth0}"
)


@pytest.mark.parametrize("cluster", [CLUSTER, VIP])
def test_hosts_join_by_the_name_that_dns_keeps_and_by_nothing_of_other_hosts(small: Project, cluster: str) -> None:
    for role in ("server", "agent"):
        host = host_of(small, cluster=cluster + DNS, name=f"{role}-1", role=role)
        urls = join_urls(host, lambda: pytest.fail("the servers are no input then"))
        assert urls == ["https://k8s.example.com:6443"]


@pytest.mark.parametrize(
    "dns", [DNS.replace("zone:", "join: addresses, zone:", 1), "dns: {provider: none, zone: com}\n"]
)
def test_hosts_join_as_without_dns_where_that_is_said_or_nobody_keeps_the_name(small: Project, dns: str) -> None:
    assert join_urls(host_of(small, cluster=CLUSTER + dns), lambda: SERVERS) == [
        "https://192.0.2.12:6443", "https://192.0.2.13:6443",
    ]  # fmt: skip
    assert join_urls(host_of(small, cluster=VIP + dns), lambda: SERVERS) == ["https://192.0.2.10:6443"]


def test_the_only_server_has_nobody_to_join(small: Project) -> None:
    assert join_urls(host_of(small, cluster=CLUSTER), lambda: SERVERS[:1]) == []


def test_a_servers_position_counts_from_0_in_the_order_of_the_servers(small: Project) -> None:
    assert [position(host_of(small, name=f"server-{number}"), SERVERS) for number in (1, 2, 3)] == [0, 1, 2]


def test_an_agent_has_no_position(small: Project) -> None:
    with pytest.raises(LookupError, match="agent-1 is no server"):
        position(host_of(small, name="agent-1", role="agent"), SERVERS)


def window(
    project: Project, name: str, settings: str, role: str = "server", servers: int = 3
) -> tuple[str, str, list[str]]:
    """Given a host's name and the settings of its window, return start, length and days after staggering."""
    host = host_of(project, f"os: {{update: {{window: {{{settings}}}}}}}\n", name=name, role=role)
    peers = [{"name": f"server-{number}", "addresses": []} for number in range(1, servers + 1)]
    found = reboot_window(host, lambda: peers)
    return found["start"], found["length"], found["days"]


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("server-1", 'start: "02:00", length: 1h', ("02:00", "1h", [])),
        ("server-2", 'start: "02:00", length: 1h', ("03:00", "1h", [])),
        ("server-3", 'start: "02:00", length: 1h30m', ("05:00", "1h30m", [])),
        ("server-3", 'start: "02:00", length: 1h, stagger: false', ("02:00", "1h", [])),
        ("server-2", 'start: "23:30", length: 30m, days: [Sun]', ("00:00", "30m", ["Mon"])),
        ("server-1", 'start: "23:30", length: 1h, days: [Sat]', ("23:30", "1h", ["Sat"])),
        ("server-3", 'start: "23:00", length: 1h, days: [Sat]', ("01:00", "1h", ["Sun"])),
        ("server-3", 'start: "00:05", length: 12h', ("00:05", "12h", [])),
        ("server-2", 'start: "22:10", length: 23h', ("22:10", "23h", [])),
    ],
)
def test_servers_reboot_one_after_another_over_midnight_into_the_next_day(
    small: Project, name: str, settings: str, expected: tuple[str, str, list[str]]
) -> None:
    assert window(small, name, settings) == expected


def test_agents_are_spread_over_four_windows_and_depend_on_no_other_host(small: Project) -> None:
    starts = []
    for number in range(1, 31):
        host = host_of(small, name=f"agent-{number}", role="agent")
        starts.append(reboot_window(host, lambda: pytest.fail("the servers are no input then"))["start"])
    assert set(starts) == {"02:00", "03:00", "04:00", "05:00"}
    assert starts[:4] == ["02:00", "05:00", "04:00", "03:00"]  # for ever: a new hash would move every agent's window


@pytest.mark.parametrize(("length", "slots"), [("3h", 4), ("12h", 2), ("23h", 1)])
def test_agents_share_what_windows_a_day_has(small: Project, length: str, slots: int) -> None:
    starts = {window(small, f"a{n}", f'start: "02:00", length: {length}', role="agent")[0] for n in range(40)}
    assert len(starts) == slots


def test_an_agents_window_without_stagger_stays_where_it_is(small: Project) -> None:
    same = window(small, "agent-1", 'start: "20:00", length: 1h, days: [Sun], stagger: false', role="agent")
    assert same == ("20:00", "1h", ["Sun"])


def test_no_two_servers_windows_overlap_while_all_fit_into_a_day(small: Project) -> None:
    starts = []
    for number in range(1, 13):
        start, _, _ = window(small, f"server-{number}", 'start: "13:20", length: 2h', servers=12)
        starts.append(int(start[:2]) * 60 + int(start[3:]))
    assert sorted((start - starts[0]) % 1440 for start in starts) == list(range(0, 1440, 120))


@pytest.mark.parametrize(("length", "minutes"), [("30m", 30), ("1h", 60), ("1h30m", 90), ("90m", 90), ("23h59m", 1439)])
def test_a_length_is_given_in_minutes_too(small: Project, length: str, minutes: int) -> None:
    host = host_of(small, f"os: {{update: {{window: {{length: {length}}}}}}}\n")
    assert reboot_window(host, lambda: SERVERS)["minutes"] == minutes


def config_of(source: str, compression: str | None = None, path: str = "/a") -> dict[str, Any]:
    """Given the source of a file's contents, return an Ignition config of that one file."""
    contents = {"source": source} if compression is None else {"source": source, "compression": compression}
    return {"ignition": {"version": "3.4.0"}, "storage": {"files": [{"path": path, "contents": contents}]}}


def data(content: bytes) -> str:
    """Given bytes, return them as a data URL in base64."""
    return "data:;base64," + base64.b64encode(content).decode()


def test_the_digest_is_of_the_content_and_not_of_how_it_is_packed() -> None:
    content = b"line with spaces, \xc3\xa4\n" * 200
    packed = [
        config_of(data(gzip.compress(content, 1)), "gzip"),
        config_of(data(gzip.compress(content, 9, mtime=5)), "gzip"),
        config_of(data(content)),
        config_of(data(content), ""),
        config_of("data:," + percent(content)),
    ]
    assert len({digest(config) for config in packed}) == 1
    assert len({str(config) for config in packed}) == len(packed)


def test_the_digest_changes_with_content_path_and_anything_else() -> None:
    configs = [
        config_of(data(b"x")),
        config_of(data(b"y")),
        config_of(data(b"x"), path="/b"),
        config_of("https://example.com/x"),
        {**config_of(data(b"x")), "passwd": {}},
    ]
    assert len({digest(config) for config in configs}) == len(configs)


def test_the_digest_does_not_depend_on_the_order_of_keys() -> None:
    config = config_of(data(b"x"))
    assert digest(dict(reversed(config.items()))) == digest(config)


# --- filters


@pytest.mark.parametrize("value", NASTY)
def test_quote_gives_one_scalar_in_one_line_that_yaml_reads_back(value: str) -> None:
    assert "\n" not in quote(value)
    assert yaml.safe_load(f"a: {{b: {quote(value)}}}\n") == {"a": {"b": value}}
    assert yaml.safe_load(f"[{quote(Secret(value))}]") == [value]


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_quote_and_yaml_give_any_text_back(value: str) -> None:
    assert yaml.safe_load(quote(value)) == value
    key = value[:99]  # of more than 1024 characters, escapes counted, YAML takes none
    assert yaml.safe_load(to_yaml({key: [value]})) == {key: [value]}


@pytest.mark.parametrize("value", [value for value in NASTY if "\x00" not in value])
def test_shell_gives_one_word_that_a_shell_reads_back(value: str) -> None:
    for word in (shell_quote(value), shell_quote(Secret(value))):
        done = subprocess.run(["/bin/sh", "-c", f"printf '%s|' {word}"], capture_output=True, check=True)
        assert done.stdout.decode() == f"{value}|"


def test_yaml_gives_values_back_with_their_types_and_secrets_among_them(small: Project) -> None:
    value = {"a": [1, 1.5, True, None, "yes"], "b": {"c": Secret("x\ny")}, "d": ("t",), "e": {}}
    expected = {"a": [1, 1.5, True, None, "yes"], "b": {"c": "x\ny"}, "d": ["t"], "e": {}}
    assert yaml.safe_load(to_yaml(value)) == expected
    assert "\n" not in to_yaml(value)


def test_yaml_writes_a_set_in_one_order() -> None:
    assert to_yaml({"b", "a", "c"}) == to_yaml(frozenset("cab")) == '["a", "b", "c"]'


def test_yaml_of_what_is_no_data_is_an_error_that_says_so(small: Project) -> None:
    assert fault(small, "{{ host.k3s | yaml }}").endswith("yaml cannot write a K3s")


def test_numbers_are_quoted_as_text() -> None:
    assert quote(6443) == '"6443"'


def test_an_embedded_template_is_one_scalar_with_its_own_variables_and_the_context(small: Project) -> None:
    small.write("templates/files/x.j2", "{{ host.name }}: {{ extra }}\n  'indented' ä\n")
    assert yaml.safe_load(text(small, 'a: {b: {{ embed("files/x.j2", extra="more") }}}')) == {
        "a": {"b": "server-1: more\n  'indented' ä\n"}
    }


def test_a_local_file_is_one_scalar_and_belongs_to_the_environment(small: Project) -> None:
    small.write("hosts/example/files/motd", "hello\n{{ not a template }}\n")
    assert yaml.safe_load(text(small, 'a: {{ local_file("motd") }}')) == {"a": "hello\n{{ not a template }}\n"}


def test_names_are_of_ours_and_the_users_templates_each_once_sorted(small: Project) -> None:
    for name in ("templates/m/b.yaml", "templates/local/m/a.yaml", "templates/local/m/b.yaml", "templates/m/README.md"):
        small.write(name, "")
    assert text(small, "{{ names('m') | join(' ') }}") == "m/a.yaml m/b.yaml"
    assert text(small, "{{ names('nothing') | yaml }}") == "[]"


def test_a_template_of_the_users_is_taken_before_ours_of_the_same_name(small: Project) -> None:
    small.write("templates/files/x", "ours")
    assert text(small, "{% include 'files/x' %}") == "ours"
    small.write("templates/local/files/x", "mine")
    assert text(small, "{% include 'files/x' %}") == "mine"


@pytest.mark.parametrize("name", ["../hosts/example/cluster.yaml", "files/../../secrets/example/cluster.yaml"])
def test_no_template_is_read_from_outside_the_templates(small: Project, name: str) -> None:
    assert f"there is no template {name}" in fault(small, f"{{% include '{name}' %}}")


# --- secrets in templates


def token(project: Project) -> str:
    """Return the server token of the project."""
    paths = Paths(project.root, "example")
    return str(Vault(paths, Files(project.root)).group("cluster").server_token.reveal())


_opened: dict[bytes, programs.Done] = {}


@pytest.fixture(autouse=True)
def _open_each_file_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all tests here share what sops said of the same file: it is the same file each time."""
    run = programs.run

    def remembered(
        program: str, *arguments: str, environ: Mapping[str, str] | None = None, stdin: str | None = None
    ) -> programs.Done:
        content = (stdin or "").encode()
        if content not in _opened:
            _opened[content] = run(program, *arguments, environ=environ, stdin=stdin)
        return _opened[content]

    monkeypatch.setattr(programs, "run", remembered)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("secrets.cluster.server_token", "{}"),
        ('secrets["cluster"]["server_token"]', "{}"),
        ("secrets.cluster.server_token | quote", '"{}"'),
        ("secrets.cluster.server_token | shell", "{}"),
        ("secrets.cluster.server_token | yaml", '"{}"'),
        ("[secrets.cluster.server_token] | yaml", '["{}"]'),
        ("secrets.cluster.server_token.reveal() | upper | lower", "{}"),
        ("secrets.cluster.server_token if true else 'x'", "{}"),
    ],
)
def test_a_secret_that_is_output_whole_or_through_our_filters_is_its_value(
    small: Project, expression: str, expected: str
) -> None:
    assert text(small, f"{{{{ {expression} }}}}").lower() == expected.format(token(small)).lower()


@pytest.mark.parametrize(
    "expression",
    [
        *(
            "{s} | upper",
            "{s} | trim",
            "{s} | string",
            "{s} | replace('a', 'b')",
            "{s} | e",
            "{s} | safe",
            "{s} | urlencode",
        ),
        *(
            "{s} ~ 'x'",
            "'x' ~ {s}",
            "'%s' | format({s})",
            "'%r' | format({s})",
            "'{{}}'.format({s})",
            "[{s}] | join(',')",
        ),
        *(
            "[{s}]",
            "{{'a': {s}}}",
            "({s}, 1)",
            "{s} | pprint",
            "secrets.cluster",
            "[secrets.cluster]",
            "[{s}] | string",
        ),
        *("[{s}] | quote", "{{'a': {s}}} | shell", "secrets.cluster | quote", "[{s}] | map('string') | list | yaml"),
        *(
            "{s} | indent",
            "'x' + {s}",
            "{s} | tojson",
            "{s} | length",
            "{s} | list",
            "{s}[0]",
            "{s} | first",
            "secrets",
        ),
    ],
)
def test_anything_else_that_would_make_text_of_a_secret_is_an_error_at_its_line(
    small: Project, expression: str
) -> None:
    said = fault(small, "one\ntwo {{ " + expression.format(s="secrets.cluster.server_token") + " }}\n")
    assert said.startswith(f"{ENTRY}:2: ")
    assert token(small) not in said


def test_a_mask_is_told_with_the_ways_that_a_secret_may_go(small: Project) -> None:
    told = f"{ENTRY}:1: a secret can only be output whole, or go through quote, shell, yaml or embed"
    assert fault(small, "{{ secrets.cluster.server_token | upper }}") == told


def test_an_exception_that_names_a_secrets_value_is_told_without_it(small: Project) -> None:
    for expression in ("{}[VALUE].x", "[].index(VALUE)"):
        said = fault(small, f"{{{{ {expression.replace('VALUE', 'secrets.cluster.server_token.reveal()')} }}}}")
        assert token(small) not in said


def test_all_faults_of_a_template_and_of_those_that_it_embeds_are_told_at_once(small: Project) -> None:
    small.write("templates/files/t", "{{ host.one }}\n{{ host.two }}\n")
    small.write("templates/files/broken", "{% if %}")
    small.write(
        ENTRY, "{{ three }}\n{{ embed('files/t') }}{{ embed('files/broken') }}{{ secrets.cluster.four }}\n{{ five }}"
    )
    with pytest.raises(UserError) as caught:
        renderer(small).text(host_of(small))
    told = [str(problem) for problem in caught.value.problems]
    assert [line.partition(" (")[0].split(" ")[0] for line in told] == [
        "templates/butane/server.bu.j2:1:",
        "templates/butane/server.bu.j2:2:",
        "templates/butane/server.bu.j2:3:",
        "templates/files/broken:1:",
        "templates/files/t:1:",
        "templates/files/t:2:",
    ]


def test_embedding_a_template_that_outputs_a_secret_gives_its_value(small: Project) -> None:
    small.write("templates/files/t", "token: {{ secrets.cluster.server_token }}\n")
    assert yaml.safe_load(text(small, '{{ embed("files/t") }}')) == f"token: {token(small)}\n"


# --- errors


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("\n{{ hsot.name }}", "2: hsot is not known in templates (did you mean host?)"),
        ("\n{{ zzzz }}", "2: zzzz is not known in templates (see docs/templates.md)"),
        ("\n\n{{ host.nmae }}", "3: host has no nmae (did you mean name?)"),
        ("{{ host.k3s.versoin | quote }}", "1: k3s has no versoin (did you mean version?)"),
        ("{{ host.k3s.versoin | yaml }}", "1: k3s has no versoin (did you mean version?)"),
        ("{{ host.k3s.versoin | shell }}", "1: k3s has no versoin (did you mean version?)"),
        ("{{ [host.nmae] | yaml }}", "1: host has no nmae (did you mean name?)"),
        ("{% if host.nmae %}{% endif %}", "1: host has no nmae (did you mean name?)"),
        ("{% for x in host.tiants %}{% endfor %}", "1: host has no tiants (did you mean taints?)"),
        ("{{ reboot_window().strat }}", "1: a dict has no strat (did you mean start?)"),
        ("{{ reboot_window().zzz }}", "1: a dict has no zzz (it has days, length, minutes, start)"),
        ("{{ host.addresses[7] }}", "1: a tuple has no 7"),
        ("{{ host.name.zzz }}", "1: a str has no zzz"),
        ("{{ secrets.cluster.server_tokne }}", "1: secrets.cluster has no server_tokne (did you mean server_token?)"),
        (
            "\n{{ secrets.clutser.x }}",
            "2: secrets/example/clutser.yaml: there is no such secret file (did you mean cluster?)",
        ),
        ("\n{% include 'files/hostnam' %}", "2: there is no template files/hostnam (did you mean files/hostname?)"),
        ("\n{{ embed('files/hostnam') }}", "2: there is no template files/hostnam (did you mean files/hostname?)"),
        (
            "\n{% extends 'butane/bsae.bu.j2' %}",
            "2: there is no template butane/bsae.bu.j2 (did you mean butane/base.bu.j2?)",
        ),
        ("{{ host.mac }}", "1: the value is not set (null), and would be written as None (test it with {% if %})"),
        (
            "{{ host.mac | quote }}",
            "1: the value is not set (null), and would be written as None (test it with {% if %})",
        ),
        ("{{ None }}", "1: the value is not set (null), and would be written as None (test it with {% if %})"),
        ("{{ host.mac.upper() }}", "1: upper is asked of a value that is not set (null) (test it with {% if %})"),
        ("a\n{{ servers }}", "2: peers is a function, not its result (call it with ())"),
        ("{{ host.name.upper }}", "1: upper is a function, not its result (call it with ())"),
        ("{{ 1 / 0 }}", "1: ZeroDivisionError: division by zero"),
        ("a\n{{ host.name | qoute }}", "2: No filter named 'qoute' (did you mean quote?)"),
        ("{{ host.name is defnied }}", "1: No test named 'defnied' (did you mean defined?)"),
        ("a\n{% if %}", "2: Expected an expression, got 'end of statement block'"),
        ("a\n{{ host.name", "2: unexpected end of template, expected 'end of print statement'"),
    ],
)
def test_a_mistake_in_a_template_is_told_with_its_line_and_what_was_probably_meant(
    small: Project, template: str, told: str
) -> None:
    assert fault(small, template) == f"{ENTRY}:{told}"


BROKEN = "one\ntwo\n{{ host.nmae }}\n"


@pytest.mark.parametrize(
    "entry",
    [
        "{% include 'files/inner' %}",
        "\n\n{{ embed('files/inner') }}",
        "{% import 'files/inner' as x with context %}",
        "{{ embed('files/outer') }}",
        "{% extends 'files/inner' %}",
    ],
)
@pytest.mark.parametrize("folder", ["templates", "templates/local"])
def test_a_mistake_in_another_template_is_told_at_its_place_there(small: Project, entry: str, folder: str) -> None:
    small.write(f"{folder}/files/inner", BROKEN)
    small.write("templates/files/outer", "\n{% include 'files/inner' %}")
    assert fault(small, entry) == f"{folder}/files/inner:3: host has no nmae (did you mean name?)"


def test_a_template_that_cannot_be_parsed_is_told_at_its_place_also_from_another(small: Project) -> None:
    small.write("templates/files/inner", "one\n{% fi %}")
    said = fault(small, "{% include 'files/inner' %}")
    assert said.startswith("templates/files/inner:2: Encountered unknown tag 'fi'")
    assert [str(problem) for problem in renderer(small).templates.syntax_problems()] == [said]


def test_a_template_that_is_not_utf8_is_told_by_its_own_name(small: Project) -> None:
    small.write("templates/files/inner", "")
    (small.root / "templates/files/inner").write_bytes(b"caf\xe9")
    told = "templates/files/inner: is not UTF-8 text"
    assert fault(small, "{% include 'files/inner' %}") == told
    assert [str(problem) for problem in renderer(small).templates.syntax_problems()] == [told]


@pytest.mark.parametrize(
    ("content", "told"), [(b"\xff", "is not UTF-8 text"), (None, "cannot be read: No such file or directory")]
)
def test_a_local_file_that_cannot_be_embedded_is_told_with_who_asks(
    small: Project, content: bytes | None, told: str
) -> None:
    small.write("hosts/example/files/other", "")
    if content is not None:
        (small.root / "hosts/example/files/motd").write_bytes(content)
    assert fault(small, "{{ local_file('motd') }}").startswith(f"hosts/example/files/motd: {told}")


def test_an_entry_template_that_is_missing_is_told_by_its_name(small: Project) -> None:
    host = host_of(small)
    (small.root / ENTRY).unlink()
    with pytest.raises(UserError, match=r"there is no template butane/server\.bu\.j2"):
        renderer(small).text(host)


def test_problems_that_many_hosts_met_are_told_once() -> None:
    one, two = Problem("a", 1, None, "x"), Problem("b", 1, None, "y")
    assert merge_problems([("h1", two), ("h2", two), ("h1", one)]) == (one, two)


# --- the whole


def test_a_key_of_a_secret_file_may_be_called_as_a_mappings_method_is(
    small: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from i12e import secrets

    monkeypatch.setattr(
        Vault, "group", lambda self, name: secrets.Group(name, {"items": "i-value", "place": "p-value"})
    )
    assert (
        text(small, "{{ secrets.x.items }} {{ secrets.x['place'] }} {{ secrets.x.place }}") == "i-value p-value p-value"
    )


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_the_output_is_the_same_in_every_locale_and_with_every_hash_seed(small: Project, locale: str) -> None:
    small.write("templates/files/x", "grüße → 😀\n")
    small.write(
        ENTRY,
        "variant: flatcar\nversion: 1.1.0\nstorage:\n  files:\n"
        "    - path: /ä\n      contents: {inline: {{ embed('files/x') }}}\n",
    )
    host_of(small)
    code = (
        "import hashlib, sys; from pathlib import Path\n"
        "from i12e.files import Files; from i12e.model import load_fleet; from i12e.paths import Paths\n"
        "from i12e.render import Renderer; from i12e.secrets import Vault\n"
        "root = Path(sys.argv[1]); files = Files(root); paths = Paths(root, 'example')\n"
        "host = load_fleet('hosts/example', 'example', ['server-1'], files.read).hosts['server-1']\n"
        "rendered = Renderer(paths, files, Vault(paths, files), list, list).render(host)\n"
        "print(hashlib.sha256(rendered.content).hexdigest())\n"
    )
    environ = {
        "PYTHONPATH": str(ROOT / "lib"),
        "PATH": os.environ["PATH"],
        "LC_ALL": locale,
        "PYTHONHASHSEED": str(len(locale)),
    }
    environ |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, small.root], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == _hash(renderer(small).render(host_of(small)).content)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_the_servers_are_an_input_only_of_a_host_that_asked_for_them(small: Project) -> None:
    servers = "build/example/servers.json"
    head = "variant: flatcar\nversion: 1.1.0\n"
    host = host_of(small, cluster=CLUSTER)
    asks: dict[str, bool] = {"": False, "# {{ servers() | yaml }}\n": True, "# {{ join_urls() | yaml }}\n": True}
    for line, asked in asks.items():
        small.write(ENTRY, head + line)
        assert (servers in renderer(small).render(host).inputs) is asked


def test_rendering_twice_gives_the_same_bytes_and_inputs_though_templates_are_cached(small: Project) -> None:
    host = host_of(small)
    one = renderer(small)
    assert one.render(host) == one.render(host) == renderer(small).render(host)
    assert Path("templates/local/files/hostname").as_posix() in one.render(host).inputs
