"""The JSON Schemas and the reference page: whole, current, and of one mind with ./doit."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, StrictInt

from conftest import ROOT, Project
from i12e import fields, reference, schema, yamlfile
from i12e.fields import dotted
from i12e.model import Fleet
from i12e.paths import Paths, environments
from i12e.patterns import FORMS
from i12e.settings import ALARMS, FORM, SHARED, STORES, UNIT, Cluster, Settings, _said, _text
from i12e.yamlfile import Octal
from sweeps import sampled
from test_engine import holding, process
from test_model import AGENT, BROKEN_FILES, BROKEN_LINES, CLUSTER, DUAL, GOOD, SERVER, cases, load, warnings

SCHEMAS = {kind: schema.schema(kind) for kind in schema.MODELS}
TREES = {kind: schema.tree(kind) for kind in schema.MODELS}
KEYS = [
    *(("cluster", path) for path, _, _ in schema.keys(TREES["cluster"])),
    *(("host", path) for path, _, _ in schema.keys(TREES["host"]) if path[0] not in SHARED),
]
EDITOR_PAGE = (ROOT / "docs/editor.md").read_text()

# Each file has one mistake, at the place behind =>; ./doit and a validator both say so.
BROKEN_CLUSTERS = """\
name: test
k3s: {version: v1.35.4+k3s1}
api: {name: k8s.example.com}
=> ssh_keys

k3s: {version: v1.35.4+k3s1}
api: {name: k8s.example.com}
ssh_keys: [KEY]
=> name

name: test
k3s: {datastore: etcd}
api: {name: k8s.example.com}
ssh_keys: [KEY]
=> k3s.version

name: Test_1
k3s: {version: v1.35.4+k3s1}
api: {name: k8s.example.com}
ssh_keys: [KEY]
=> name

name: test
k3s: {version: v1.35.4+k3s1}
api: {name: k8s.example.com}
ssh_keys: [KEY]
role: server
=> role

name: test
k3s: {version: v1.35.4+k3s1, snapshots: {retention: 0}}
api: {name: k8s.example.com}
ssh_keys: [KEY]
=> k3s.snapshots.retention

name: test
k3s: {version: v1.35.4+k3s1}
api: {name: k8s.example.com, vip: {address: 192.0.2.10, version: v1.0.1}}
ssh_keys: [KEY]
=> api.vip.interface

name: test
k3s: {version: v1.35.4+k3s1}
api: {name: k8s.example.com}
ssh_keys: [KEY]
os: {update: {window: {days: [Sat, Sun]}}}
=> os.update.window.days

name: test
k3s: {version: v1.35.4+k3s1}
api: {name: k8s.example.com}
ssh_keys: [KEY]
os: {name: fcos, update: {strategy: etcd-lock}}
=> os.update.strategy

name: test
k3s:
api: {name: k8s.example.com}
ssh_keys: [KEY]
=> k3s

name: test
k3s: {version: v1.35.4+k3s1}
api: {name: k8s.example.com}
ssh_keys: [KEY]
helm: {app: {chart: app, repository: https://charts.example.com, namespace: web}}
=> helm.app.version

name: test
k3s: {version: v1.35.4+k3s1}
api: {name: k8s.example.com}
ssh_keys: [KEY]
helm: {app: {chart: ./app, version: 1.2.3, namespace: web}}
=> helm.app.version

name: test
k3s: {version: v1.35.4+k3s1}
api: {name: k8s.example.com}
ssh_keys: [KEY]
helm: {app: {chart: 'oci://example.com/app:1.2.3', version: 1.2.3, namespace: web}}
=> helm.app.chart

name: test
k3s: {version: v1.35.4+k3s1}
api: {name: k8s.example.com}
ssh_keys: [KEY]
helm: {app: {chart: ./app, namespace: web, manifest: true}}
=> helm.app.chart

name: test
k3s: {version: v1.35.4+k3s1}
api: {name: k8s.example.com}
ssh_keys: [KEY]
helm: {traefik: {packaged: true, namespace: web}}
=> helm.traefik.namespace

name: test
k3s: {version: v1.35.4+k3s1}
api: {name: k8s.example.com}
ssh_keys: [KEY]
helm: {app: {namespace: web}}
=> helm.app.chart

name: test
k3s: {version: v1.35.4+k3s1}
api: {name: k8s.example.com}
ssh_keys: [KEY]
backup: {stores: [{name: nas}]}
=> backup.stores[0]

name: test
k3s: {version: v1.35.4+k3s1}
api: {name: k8s.example.com}
ssh_keys: [KEY]
backup: {alarms: [{command: /bin/a, ping: b}]}
=> backup.alarms[0].ping
"""
# What is added to a server's file, with the place of its mistake.
BROKEN_HOSTS = """\
rol: x
=> rol

k3s: {verson: v1.35.4+k3s1}
=> k3s.verson

files: [{path: /etc/a, contents: a, pth: b}]
=> files[0].pth

units: [{name: a.service, dropins: [{name: a.conf, contents: a, mode: 0644}]}]
=> units[0].dropins[0].mode

mac: 5254
=> mac

labels: [a]
=> labels

labels: {tier: 1.30}
=> labels.tier

k3s: v1.35.4+k3s1
=> k3s

units: [{name: x.service, enabled: yes}]
=> units[0].enabled

files: [{contents: a}]
=> files[0].path

files: [{path: /etc/motd}]
=> files[0]

files: [{path: /etc/motd, contents: a, local: b}]
=> files[0].local

units: [{name: x.service}]
=> units[0]

os: {name: ubuntu}
=> os.name

network: {backend: ipsec}
=> network.backend

k3s: {disable: [treafik]}
=> k3s.disable[0]

os: {update: {window: {days: [Monday]}}}
=> os.update.window.days[0]

k3s: {version: v1.35}
=> k3s.version

os: {update: {window: {start: '25:00'}}}
=> os.update.window.start

os: {update: {window: {length: 24h}}}
=> os.update.window.length

k3s: {snapshots: {schedule: '61 * * * *'}}
=> k3s.snapshots.schedule

k3s: {snapshots: {retention: 1001}}
=> k3s.snapshots.retention

api: {sans: [192.0.2.300.]}
=> api.sans[0]

api: {name: K8S.example.com}
=> api.name

network: {hosts: [192.0.2.0]}
=> network.hosts[0]

network: {hosts: 192.0.2.0/24, cluster_cidr: []}
=> network.cluster_cidr

network: {cluster_cidr: [10.42.0.0/16, 10.44.0.0/16]}
=> network.cluster_cidr

network: {interface: 'a b'}
=> network.interface

mac: 01:00:5e:00:00:01
=> mac

taints: ['a=b']
=> taints[0]

labels: {foo.k8s.io/a: b}
=> labels."foo.k8s.io/a"

keep: [/etc/rancher]
=> keep[0]

files: [{path: /usr/bin/x, contents: a}]
=> files[0].path

files: [{path: /etc/x, mode: '0644', contents: a}]
=> files[0].mode

files: [{path: /etc/x, mode: 010000, contents: a}]
=> files[0].mode

ssh_keys: [ssh-ed25519 AAAA x]
=> ssh_keys[0]

ssh_keys: []
=> ssh_keys

mirror: https://u:p@x.example.com
=> mirror

butane: [../a.bu]
=> butane[0]

units: [{name: x.servce, enabled: true}]
=> units[0].name

k3s: {config: {token: x}}
=> k3s.config.token

k3s: {config: {debug: }}
=> k3s.config.debug

files: [{path: /a, contents: a}, {path: /a, contents: a}]
=> files[1].path

os: {name: flatcar, update: {window: {days: [Sat, Sun]}}}
=> os.update.window.days
"""
GOOD_CLUSTERS = [
    *("network:\nos:\n", "mirror: ~\n", "keep: [/srv/a, /var/lib/longhorn]\n"),
    "network: {backend: host-gw, hosts: [192.0.2.0/24, '2001:db8::/64']}\n",
    "os: {name: fcos, update: {strategy: reboot, window: {days: [Sat, Sun]}}}\n",
    "os: {update: {strategy: off, window: {days: [Sun], start: '23:30', length: 23h59m, stagger: false}}}\n",
    "network: {cluster_cidr: 10.0.0.0/8, service_cidr: [172.16.0.0/255.255.0.0]}\n",
    "network: {interface: ~}\n",
    "backup: {every: 1d, stores: [{name: a, folder: ~/b}], alarms: [{pushover: true}]}\n",
    "backup:\nhelm:\n",
    "helm: {traefik: {packaged: true, failure_policy: reinstall}}\n",
    "helm: {app: {chart: ./a.tgz, namespace: a, manifest: true}, traefik-crd: {packaged: true, chart: ~}}\n",
    "helm: {app: {chart: app, repository: 'https://charts.example.com/x', version: v1.2.3-rc.1+b, namespace: a}}\n",
]
GOOD_HOSTS = [
    *GOOD,
    *("api: {vip: ~}\n", "network: {hosts: []}\n", "mac: ~\n", "labels: {'9': ''}\n", "k3s: {snapshots: {}}\n"),
    *("k3s: {disable: []}\n", "files: [{path: /a b, contents: '', local: ~, user: ~}]\n"),
    "units: [{name: a.mount, contents: ~, dropins: [{name: 1.conf, contents: ''}]}]\n",
    "files: [{path: /etc/i12e, mode: 0o600, local: ..a/.b}]\n",
    "taints: ['a:NoExecute', 'a=:NoSchedule', 'example.com/a=b:PreferNoSchedule']\n",
    "api: {sans: ['2001:db8::1', '::ffff:192.0.2.1', a]}\n",
]


def as_editor(text: str) -> Any:
    """Given a file's text, return what an editor reads in it: YAML 1.2, where 0644 is the number 644."""
    document = yamlfile.examine(text.encode(), "x.yaml")
    assert not document.problems, document.problems
    return decimal(document.data)


def decimal(value: Any) -> Any:
    if isinstance(value, Octal):
        return int(f"{value:o}")
    if isinstance(value, dict):
        return {key: decimal(item) for key, item in value.items()}
    return [decimal(item) for item in value] if isinstance(value, list) else value


def of_editor(kind: str, text: str) -> set[str]:
    """Given a kind of file and its text, return the places of all that a validator refuses."""
    found: set[str] = set()
    for error in jsonschema.Draft7Validator(SCHEMAS[kind]).iter_errors(as_editor(text)):
        found.update(dotted((*error.absolute_path, *more)) for more in within(error))
    return found


def within(error: Any) -> Iterator[tuple[str | int, ...]]:
    """Given a validator's error, yield the path from its place to what it is about."""
    there, rule = error.instance, error.validator
    if "propertyNames" in error.absolute_schema_path:
        yield (there,)
    elif rule == "required":
        yield from ((key,) for key in error.validator_value if key not in there and repr(key) in error.message)
    elif rule == "additionalProperties":
        yield from ((key,) for key in there if key not in error.schema["properties"])
    elif rule == "uniqueItems":
        place = next(place for place, item in enumerate(there) if item in there[:place])
        yield (place, *{"path", "name"}.intersection(there[place] if isinstance(there[place], dict) else ()))
    else:
        yield ()


def of_doit(fleet: Fleet, file: str) -> set[str]:
    """Given a fleet and a file's name, return the places of its problems in that file."""
    told = [problem for problem in fleet.problems if problem.file == f"hosts/test/{file}.yaml"]
    return {problem.message.partition(": ")[0] for problem in told}


Broken = tuple[str, str, list[str]]


def broken_files() -> list[Broken]:
    """Return (kind, text, places) of every broken file."""
    key = re.escape(CLUSTER.partition("[")[2].partition("]")[0])
    clusters = cases(BROKEN_CLUSTERS.replace("KEY", re.sub(r"\\(.)", r"\1", key)))
    hosts = [(f"{SERVER}{text}\n", places) for text, places in cases(BROKEN_HOSTS)]
    return [*(("cluster", text, places) for text, places in clusters), *(("host", *case) for case in hosts)]


def fleet_with(kind: str, text: str) -> Fleet:
    """Given a kind of file and its text, return the fleet that has it in place of the good one."""
    return load(text, server_1=SERVER) if kind == "cluster" else load(CLUSTER, server_1=text)


FILE = {"cluster": "cluster", "host": "server-1"}


@pytest.mark.parametrize(("kind", "text", "places"), broken_files())
def test_a_broken_file_is_refused_at_the_same_place_by_an_editor_and_by_doit(
    kind: str, text: str, places: list[str]
) -> None:
    assert of_doit(fleet_with(kind, text), FILE[kind]) == set(places)
    assert of_editor(kind, text) == set(places)


def test_the_broken_files_are_at_least_thirty_and_of_both_kinds() -> None:
    kinds = [kind for kind, _, _ in broken_files()]
    assert len(kinds) >= 30
    assert min(kinds.count(kind) for kind in SCHEMAS) >= 10


GOOD_FILES = [
    *(("cluster", CLUSTER + text) for text in GOOD_CLUSTERS),
    *(("host", f"{SERVER}{text}\n") for text in GOOD_HOSTS),
]


@pytest.mark.parametrize(("kind", "text"), GOOD_FILES)
def test_a_good_file_is_taken_by_an_editor_and_by_doit(kind: str, text: str) -> None:
    assert fleet_with(kind, text).problems == []
    assert of_editor(kind, text) == set()


def test_the_good_files_are_at_least_thirty() -> None:
    assert len(GOOD_FILES) >= 30


def only_doit() -> list[re.Pattern[str]]:
    """Return what docs/editor.md lists as told by ./doit alone: `...` stands for anything."""
    listed = EDITOR_PAGE.partition("## What only `./doit` finds")[2]
    rules = re.findall(r"^\| `(.+?)` \|", listed, re.MULTILINE)
    return [re.compile(re.escape(rule).replace(re.escape("..."), ".*")) for rule in rules]


ONLY_DOIT = only_doit()


def all_known_mistakes() -> list[str]:
    lines = [f"{SERVER}{text}\n" for text, _ in cases(BROKEN_LINES)]
    return [*lines, *(f"{text}\n" for text, _ in cases(BROKEN_FILES))]


@pytest.mark.parametrize("text", all_known_mistakes())
def test_what_doit_finds_is_found_by_an_editor_or_listed_in_the_docs(text: str) -> None:
    document = yamlfile.examine(text.encode(), "x.yaml")
    if document.problems or not document.data:
        return  # no YAML, or an empty file: an editor says so without a schema
    fleet = load(server_1=text)
    found, places = of_editor("host", text), of_doit(fleet, "server-1")
    for problem in fleet.problems:
        listed = any(rule.search(problem.message) for rule in ONLY_DOIT)
        assert listed or around(problem.message.partition(": ")[0]) & found, (
            f"{problem}: no editor finds it: say it in lib/i12e/schema.py, or list it in docs/editor.md"
        )
    assert found <= set().union(*map(around, places)), "the schema refuses what ./doit does not"


def around(place: str) -> set[str]:
    """Given a place, return it and the list that it is an entry of: one alone is both."""
    return {place, place.rpartition("[")[0]} if place.endswith("]") else {place}


def test_each_rule_that_the_docs_list_is_one_that_doit_has() -> None:
    """By the words of lib/i12e: a rule that is gone, or worded anew, is gone from the docs too."""
    sources = "".join((ROOT / f"lib/i12e/{name}.py").read_text() for name in ("rules", "fields", "model", "yamlfile"))
    parts = {part for rule in ONLY_DOIT for part in re.split(r"(?:.*: |\.\*)", rule.pattern.replace("\\", ""))}
    assert len(ONLY_DOIT) > 10
    assert {part for part in parts if part.strip() not in sources} == set()


# --- whole


def where(kind: str, path: schema.Path) -> str:
    return f"{'.'.join(path)} of a {kind}'s file (lib/i12e/settings.py)"


@pytest.mark.parametrize(("kind", "path"), KEYS, ids=map(str, KEYS))
def test_each_key_has_a_description_an_example_a_default_and_where_it_counts_a_unit(
    kind: str, path: schema.Path
) -> None:
    node, needed = next((node, needed) for found, node, needed in schema.keys(TREES[kind]) if found == path)
    assert node["description"], f"{where(kind, path)} has no description: write a docstring below it"
    assert node["examples"], f"{where(kind, path)} has no example: Annotated[..., _said(EXAMPLE)]"
    default = "write its default, or Default: WORDS. into its docstring"
    assert needed or schema.default(node), f"{where(kind, path)} has no default: {default}"
    if {"integer", "number"} & {*(node["type"] if isinstance(node["type"], list) else [node["type"]])}:
        assert node.get(UNIT), f"{where(kind, path)} counts something: Annotated[..., _said(EXAMPLE, unit=UNIT)]"


def test_the_default_that_a_docstring_tells_is_the_one_that_the_code_has() -> None:
    for kind, path in KEYS:
        node = schema.at(TREES[kind], path)
        value = node.get("default")
        if node[schema.WORDS] and value not in (None, [], {}):
            shown = schema.written(value, schema.is_octal(node)).strip("[]")
            assert {shown, shown.strip('"')} & set(re.split(r"[ ,](?![*/\d])", node[schema.WORDS])), where(kind, path)


def forms(node: Any) -> Iterator[str]:
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from forms(value)
    if isinstance(node, dict) and FORM in node:
        yield node[FORM]


def test_each_form_of_a_value_has_its_pattern_and_each_pattern_its_form() -> None:
    used = {form for tree in TREES.values() for form in forms(tree)}
    assert used - FORMS.keys() == set(), "a form of lib/i12e/fields.py is not in lib/i12e/patterns.py"
    assert {name for name in FORMS if not callable(getattr(fields, name, None))} == set()


def test_nothing_of_ours_but_the_unit_is_left_in_a_schema_for_editors() -> None:
    text = json.dumps(SCHEMAS)
    assert set(re.findall(r'"(x-[a-z]+)":', text)) == {UNIT}
    assert "$ref" not in text


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_schema_is_one_of_draft_07_and_refuses_unknown_keys_everywhere(kind: str) -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMAS[kind])
    assert SCHEMAS[kind]["$schema"] == "http://json-schema.org/draft-07/schema#"
    sections = [node for _, node, _ in schema.keys(SCHEMAS[kind]) if "properties" in node]
    assert [node for node in [SCHEMAS[kind], *sections] if node["additionalProperties"] is not False] == []


class Release(Settings):
    """A release."""

    chart: Annotated[str, _said("oci://registry.example.com/chart")]
    """The chart."""
    timeout: Annotated[StrictInt | str, _said(30, unit="seconds")] = 60
    """How long it may take."""


class Wide(Cluster):
    """A cluster's file with more in it."""

    releases: dict[Annotated[str, _text(fields.label)], Release] = Field(default_factory=dict)
    """Releases by name. Default: none."""


def test_what_a_later_field_says_is_in_the_schema_and_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(schema.MODELS, "cluster", Wide)
    page = reference.texts()[reference.PAGE]
    for line in (
        "- **type**: a mapping of a DNS label to a mapping",
        "- **example**: `releases: {my-cluster: {chart: oci://registry.example.com/chart}}`",
        "### `releases.NAME.timeout`",
        "- **type**: a whole number or text",
        "- **default**: none, it must be there where `releases` is",
    ):
        assert f"{line}\n" in page
    monkeypatch.setitem(SCHEMAS, "cluster", schema.schema("cluster"))
    assert set(re.findall(r'"(x-[a-z]+)":', json.dumps(SCHEMAS["cluster"]))) == {UNIT}
    assert of_editor("cluster", CLUSTER + "releases: {a: {chart: x, timeout: 5m}}\n") == set()
    wrong = "releases: {a: {chrt: x}, B: {chart: [], timeout: []}}\n"
    places = {"a.chart", "a.chrt", "B", "B.chart", "B.timeout"}
    assert of_editor("cluster", CLUSTER + wrong) == {f"releases.{place}" for place in places}


# --- examples


def with_example(kind: str, path: schema.Path) -> dict[str, Any]:
    """Return a file that has a key's example at its place, and beside it what must be there with it."""
    found: Any = {}
    place = found
    for depth, step in enumerate(path):
        node = schema.at(TREES[kind], path[: depth + 1])
        example = copy.deepcopy(node["examples"][0]) if node.get("examples") else None
        if step == schema.ITEM:
            place = place[0]
        elif depth + 1 < len(path) and step in place:
            place = place[step]
        else:
            place[step] = example
            place = place[step]
    return dict(found)


def example_files() -> Iterator[tuple[str, schema.Path]]:
    yield from ((kind, path) for kind, path in KEYS if schema.VALUE not in path)


@pytest.mark.parametrize(("kind", "path"), list(example_files()))
def test_each_example_is_one_that_an_editor_and_doit_take(kind: str, path: schema.Path) -> None:
    base = as_editor(CLUSTER if kind == "cluster" else SERVER)
    data = merged(base, with_example(kind, path))
    if path[0] == "network" and path[-1].endswith("cidr"):
        both = {name: TREES["cluster"]["properties"]["network"]["properties"][name]["examples"][0] for name in CIDRS}
        more = {"addresses": ["192.0.2.11", "2001:db8::11"]} if kind == "host" else {}
        data = merged(data, {"network": both, **more})
        data["network"].pop("hosts", None)
    if path == ("files", schema.ITEM, "local"):
        del data["files"][0]["contents"]
    for name, kinds in {"stores": STORES, "alarms": ALARMS}.items():
        if path[:3] == ("backup", name, schema.ITEM) and {*path} & {*kinds}:  # an entry has one of these keys alone
            entry = data["backup"][name][0]
            data["backup"][name] = [{key: value for key, value in entry.items() if key not in kinds or key == path[3]}]
    text = json.dumps(data).replace(f'"mode": {0o600}', '"mode": 0600')
    host = DUAL_SERVER if "cidr" in path[-1] else SERVER
    fleet = load(text, server_1=host) if kind == "cluster" else load(CLUSTER, server_1=text)
    assert fleet.problems == []
    assert of_editor(kind, text) == set()
    assert [told for told in warnings(fleet) if "no effect" in told or "etcd of your own" in told] == []


CIDRS = ("cluster_cidr", "service_cidr")
DUAL_SERVER = 'role: server\naddresses: [192.0.2.11, "2001:db8::11"]\n'


def merged(base: Any, over: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return base | {key: merged(base.get(key), value) for key, value in over.items()}


def test_an_example_is_shown_as_a_file_may_have_it() -> None:
    for kind, path in KEYS:
        node = schema.at(TREES[kind], path)
        for example in node["examples"]:
            shown = schema.written(example, schema.is_octal(node))
            assert yamlfile.load(f"a: {shown}".encode(), "x").data == {"a": example}, where(kind, path)


@settings(max_examples=sampled(100))
@given(st.recursive(st.text() | st.integers() | st.booleans(), lambda part: st.lists(part, max_size=3), max_leaves=5))
def test_whatever_is_shown_is_yaml_for_the_same_value(value: Any) -> None:
    shown = schema.written(value)
    if shown.isascii() and "\x7f" not in shown:
        assert yamlfile.load(f"a: {shown}".encode(), "x").data == {"a": value}


# --- patterns


SEEDS = {
    "san": ["*.a.example", "192.0.2.1", "2001:db8::1"],
    "machine": ["192.0.2.1", "2001:db8::1", "a.example"],
    "address": ["10.0.0.1", "2001:db8::1", "1:2:3:4:5:6:7:8", "::ffff:192.0.2.1", "::192.0.2.1"],
    "network": ["10.0.0.0/8", "172.16.0.0/255.240.0.0", "2001:db8::/56", "::/0"],
    "label_key": ["node.kubernetes.io/x", "kubernetes.io/os", "a.kubelet.kubernetes.io/b", "example.com/Disk_1"],
    "taint": ["a:NoExecute", "a.example/b=:PreferNoSchedule"],
    "ssh_key": ['from="192.0.2.0/24" ' + FORMS["ssh_key"].example, FORMS["ssh_key"].example + "\n"],
    "cron": ["@every 1h30m", "CRON_TZ=UTC 5,35 0-6/2 ? JAN-mar MON", "0 */6 * * *", "59 23 31 12 6"],
    "length": ["1439m", "23h59m", "9h", "0h1m"],
    "keep": ["/etc/rancher/node", "/usrx", "/var/lib/x", "/..a/.b"],
    "file_path": ["/usr/local/bin/x", "/a b", "/etc/i12e"],
    "url": ["https://m.example.com:8443/k3s/", "HTTP://[2001:db8::1]:80/x"],
    "chart": ["./charts/app.tgz", "./.", "oci://registry.example.com:5000/charts/a_b.c", "App_1.x"],
    "chart_version": ["v1.2.3-rc.1+build.5"],
    "unit": ["getty@.service", "a-b\\x2d.mount"],
    "span": ["31d", "1d23h59m", "0d1m"],
    "slot": ["90m", "1d", "24h"],
    "folder": ["~/a", "/..a/.b", "~/ b/c:d"],
    "endpoint": ["HTTP://[2001:db8::1]:80/", "https://s3.example.com:9000//"],
    "prefix": ["", "..a/.b", "a/b"],
    "remote": ["my remote+1@x.y:", "b2:a, b:c"],
    "backed_up": ["/var/lib/rancher/k3s/storage", "/var/lib/rancher/k3s/server/db2", "/proc2", "/a b"],
    "script": ["a\nb\n"],
    "hosted_zone": ["Z1", "ZABCDEF0123456789"],
    "k3s_version": ["v1.36.0-rc1+k3s1"],
}
SIGNS = st.sampled_from("0123456789abcdefxyzABFXZ.-_:/@+=*?,# \n\\%[]{}é")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if "pattern" in form.schema])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_pattern_takes_whatever_its_form_takes(name: str, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([FORMS[name].example, *SEEDS.get(name, [])]))
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(start + 2, len(text))))
        text = text[:start] + data.draw(st.text(SIGNS, max_size=2)) + text[end:]
    form: Callable[[str], str] = getattr(fields, name)
    try:
        form(text)
    except fields.Wrong:
        return
    assert re.search(FORMS[name].schema["pattern"], text), text


# --- what is committed


def test_what_is_committed_is_what_doit_schema_writes() -> None:
    for name, text in reference.texts().items():
        assert (ROOT / name).read_text() == text, f"{name} is not current: ./doit schema"


def test_doit_schema_takes_no_lock(small: Project) -> None:
    for name in ("dodo.py", "pyproject.toml"):
        (small.root / name).write_bytes((ROOT / name).read_bytes())
    assert small.doit().status == 0
    held = holding(small.root / "build/example/lock")
    try:
        second = process(small, "schema")
        out, err = second.communicate(timeout=60)
    finally:
        held.release()
    assert second.returncode == 0, err
    assert "SCHEMA   docs/schema, docs/reference.md\n" in out
    assert {name: (small.root / name).read_text() for name in reference.texts()} == reference.texts()


def test_what_is_missing_or_was_edited_is_written_and_what_is_current_left_alone(tmp_path: Path) -> None:
    reference.write(tmp_path)
    page = tmp_path / reference.PAGE
    page.write_text("edited")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    reference.write(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {*reference.texts()}
    assert page.read_text() == reference.texts()[reference.PAGE]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == before


def test_the_page_has_each_key_once_with_its_type_default_example_and_place() -> None:
    page = reference.texts()[reference.PAGE]
    for kind, path in KEYS:
        name = ".".join(path).replace(".[]", "[]").replace(".*", ".NAME")
        assert len(re.findall(rf"^##+ `{re.escape(name)}`$", page, re.MULTILINE)) == 1, where(kind, path)
        part = page.partition(f"# `{name}`\n")[2].partition("\n## ")[0].partition("\n### ")[0]
        told = re.findall(r"^- \*\*(\w+)\*\*: .", part, re.MULTILINE)
        assert [word for word in told if word != "unit"] == ["type", "default", "example", "in"], where(kind, path)


def test_each_file_that_comes_with_i12e_says_where_its_schema_is() -> None:
    for env in environments(ROOT):
        places = Paths(ROOT, env)
        for path in (ROOT / places.hosts).glob("*.yaml"):
            line = places.modeline("cluster" if path.name == "cluster.yaml" else "host")
            assert path.read_text().startswith(line + "\n"), path
            assert (path.parent / line.partition("$schema=")[2]).resolve().is_file()
            assert of_editor("cluster" if path.stem == "cluster" else "host", path.read_text()) == set()


def test_the_line_for_an_editor_points_at_the_schema_from_every_environment(project: Project) -> None:
    assert Paths(project.root, "default").modeline("host").endswith("$schema=../docs/schema/host.json")
    assert Paths(project.root, "prod").modeline("cluster").endswith("$schema=../../docs/schema/cluster.json")


def test_an_agents_file_is_told_of_a_setting_of_servers_and_a_servers_is_not() -> None:
    own = "k3s: {config: {etcd-arg: [a=b]}}\n"
    assert of_editor("host", AGENT + own) == {"k3s.config.etcd-arg"}
    assert of_doit(load(server_1=SERVER, agent_1=AGENT + own), "agent-1") == {"k3s.config.etcd-arg"}
    assert of_editor("host", SERVER + own) == set()


def test_two_networks_of_both_families_are_taken() -> None:
    assert of_editor("cluster", CLUSTER + DUAL) == set()
