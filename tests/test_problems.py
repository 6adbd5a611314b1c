"""Everything wrong at once: one report with every place, no traceback, nothing written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from conftest import SMALL_TEMPLATE, Project
from i12e.templates import Templates


def misspell_key(project: Project) -> str:
    append(project, "hosts/example/agent-1.yaml", "lables: {a: b}\n")
    return r"hosts/example/agent-1\.yaml:\d+:1: lables: .*did you mean labels\?"


def misspell_role(project: Project) -> str:
    change(project, "hosts/example/agent-2.yaml", "role: agent", "role: agnet")
    return r'hosts/example/agent-2\.yaml:\d+:\d+: role: "agnet" is not one of server, agent \(did you mean agent\?\)'


def misspell_address(project: Project) -> str:
    change(project, "hosts/example/server-3.yaml", "192.0.2.13", "192.0.2.1333")
    return r'hosts/example/server-3\.yaml:\d+:\d+: addresses\[0\]: "192\.0\.2\.1333"'


def break_template(project: Project) -> str:
    append(project, "templates/files/system.conf", "\n{{ host.name \n")
    return r"templates/files/system\.conf:\d+: "


def miss_variable(project: Project) -> str:
    append(project, "templates/files/crictl.yaml", "\n# {{ host.nmae }}\n")
    return r"templates/files/crictl\.yaml:\d+: host has no nmae \(did you mean name\?\)"


def break_yaml(project: Project) -> str:
    project.write("hosts/example/agent-3.yaml", "role: agent\naddresses: [192.0.2.23\nmac: x\n")
    return r"hosts/example/agent-3\.yaml:\d+:\d+: "


def lose_key(project: Project) -> str:
    (project.root / "secrets/example/demo-key-PUBLIC.txt").unlink()
    return r"secrets/example/cluster\.yaml: no age key here opens it: it is sealed to age1\w+ \(put that key "


def damage_secret(project: Project) -> str:
    path = project.root / "secrets/example/cluster.yaml"
    other = path.read_text().replace("server_token: ENC[AES256_GCM,data:", "server_token: ENC[AES256_GCM,data:AAAA")
    project.write("secrets/example/other.yaml", other)
    return r"secrets/example/other\.yaml: "


def share_address(project: Project) -> str:
    project.write("hosts/example/agent-4.yaml", "role: agent\naddresses: [192.0.2.11]\n")
    return r'hosts/example/(agent-4|server-1)\.yaml:\d+:\d+: addresses\[0\]: "192\.0\.2\.11" is also '


MISTAKES: list[Callable[[Project], str]] = [
    *(misspell_key, misspell_role, misspell_address, break_template, miss_variable),
    *(break_yaml, lose_key, damage_secret, share_address),
]


def append(project: Project, path: str, text: str) -> None:
    place = project.root / path
    place.write_text(place.read_text() + text)


def change(project: Project, path: str, old: str, new: str) -> None:
    place = project.root / path
    text = place.read_text()
    assert old in text
    place.write_text(text.replace(old, new))


def listing(project: Project) -> dict[str, bytes]:
    build = project.root / "build"
    return {str(path): path.read_bytes() for path in build.rglob("*") if path.is_file() and "/hosts/" in str(path)}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
@pytest.mark.parametrize("built", [False, True], ids=["on-a-first-build", "on-a-later-build"])
def test_each_mistake_alone_is_told_with_its_place_and_nothing_is_written(
    project: Project, mistake: Callable[[Project], str], built: bool
) -> None:
    if built:
        project.doit()
    before = listing(project)
    told = mistake(project)
    if mistake is lose_key and built:
        append(project, "secrets/example/cluster.yaml", "\n")  # otherwise there is nothing to open it for
    if mistake is damage_secret:
        append(project, "hosts/example/cluster.yaml", "\n")
        append(project, "templates/files/system.conf", "\n# {{ secrets.other.server_token }}\n")
    done = project.doit()
    assert done.status == 1
    assert re.search(told, done.err), done.err
    assert "Traceback" not in done.err + done.out
    assert listing(project) == before


def test_all_mistakes_at_once_are_one_report(project: Project) -> None:
    project.doit()
    before = listing(project)
    expected = [mistake(project) for mistake in MISTAKES]
    done = project.doit()
    assert done.status == 1
    for told in expected:
        assert re.search(told, done.err), f"{told}\n{done.err}"
    assert "Traceback" not in done.err + done.out
    assert listing(project) == before
    assert len(done.err.splitlines()) == len(set(done.err.splitlines())) >= len(MISTAKES)
    assert re.fullmatch(r"example: \d+ problems, nothing was written \(.*\)\n", done.out)


def test_one_fault_of_a_template_that_many_hosts_share_is_told_once(project: Project) -> None:
    told = miss_variable(project)
    done = project.doit()
    assert len(re.findall(told, done.err)) == 1


def test_a_cluster_file_that_is_missing_or_empty_is_told(small: Project) -> None:
    path = small.root / "hosts/example/cluster.yaml"
    path.write_text("")
    assert "hosts/example/cluster.yaml" in small.doit().err
    path.unlink()
    done = small.doit()
    assert done.status == 1
    assert "Traceback" not in done.err


def test_a_host_file_with_the_wrong_ending_is_told_and_not_silently_left_out(small: Project) -> None:
    small.write("hosts/example/agent-9.yml", "role: agent\naddresses: [192.0.2.29]\n")
    done = small.doit()
    assert done.status == 1
    assert "hosts/example/agent-9.yml: is not read: a host's file ends in .yaml (rename it)" in done.err


def test_a_plain_file_below_secrets_is_refused_with_the_command_that_seals_it(small: Project) -> None:
    small.write("secrets/example/cluster.yaml", "server_token: abc\n")
    done = small.doit()
    assert done.status == 1
    assert "secrets/example/cluster.yaml: is not encrypted (seal it before it is committed: sops encrypt" in done.err


def test_a_full_disk_is_one_clear_line(small: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from i12e import files

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "build/example/hosts/agent-1/config.ign")

    monkeypatch.setattr(files, "replace", full)
    done = small.doit()
    assert done.status == 1
    assert "No space left on device" in done.err
    assert "Traceback" not in done.err


def test_an_override_that_cannot_be_read_is_told_and_not_passed_over_for_ours(small: Project) -> None:
    small.doit()
    before = small.outputs()
    (small.root / "templates/local/files").mkdir(parents=True)
    (small.root / "templates/local/files/hostname").symlink_to("nowhere")
    done = small.doit()
    assert done.status == 1
    assert "templates/local/files/hostname: cannot be read: No such file or directory" in done.err
    assert small.outputs() == before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{{ embed('files/hostname') }}", "files/hostname embeds itself: "),
        ("{% include 'files/hostname' %}", "includes itself, directly or by others"),
        ("{{ embed('files/other') }}", "files/hostname -> files/other -> files/hostname"),
    ],
)
def test_a_template_that_loads_itself_ends_and_is_told(small: Project, text: str, told: str) -> None:
    small.write("templates/files/other", "{{ embed('files/hostname') }}")
    small.write("templates/files/hostname", text)
    done = small.doit()
    assert done.status == 1
    assert told in done.err
    assert "templates/files/" in done.err
    assert len(done.err) < 4000


def test_a_secret_file_that_is_missing_is_told_once_for_each_template_that_asks(small: Project) -> None:
    (small.root / "secrets/example/cluster.yaml").unlink()
    done = small.doit()
    assert done.err.count("secrets/example/cluster.yaml: there is no such secret file") == 2


@pytest.mark.parametrize("place", ["build", "build/example", "build/example/hosts/agent-1/config.ign"])
def test_something_else_in_the_place_of_an_output_is_one_line(small: Project, place: str) -> None:
    path = small.root / place
    if place.endswith(".ign"):
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    done = small.doit()
    assert done.status == 1
    assert "Traceback" not in done.err
    assert place in done.err


def test_an_input_that_changes_while_a_run_is_at_work_is_no_crash(
    small: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from i12e import build

    small.doit()
    small.write("hosts/example/agent-1.yaml", "role: agent\naddresses: [192.0.2.21]\nlabels: {a: b}\n")
    plain = build.Build.prepare

    def edited_meanwhile(self: build.Build) -> None:
        for host in self.request.wanted:
            self.is_current(host)  # all have been looked at
        small.write("templates/files/hostname", "{{ host.name }} new\n")
        plain(self)

    monkeypatch.setattr(build.Build, "prepare", edited_meanwhile)
    assert small.doit().status == 0
    monkeypatch.undo()
    assert small.doit().status == 0
    assert not small.doit().lines


def test_a_stray_file_among_the_outputs_is_left_alone(small: Project) -> None:
    small.doit()
    small.write("build/example/hosts/note.txt", "mine")
    assert not small.doit().lines
    assert (small.root / "build/example/hosts/note.txt").exists()


# --- what only Butane sees, in what a template gave


def break_mode(project: Project, mode: str = "often") -> None:
    """Give both hosts of a small project one template, with this mode for the token's file."""
    project.write("templates/butane/base.bu.j2", SMALL_TEMPLATE.replace("mode: 0600", f"mode: {mode}"))
    for role in ("server", "agent"):
        project.write(f"templates/butane/{role}.bu.j2", '{% extends "butane/base.bu.j2" %}\n')


PLACE = r"templates/butane/base\.bu\.j2:9:13: \$\.storage\.files\.1\.mode: "


def test_what_only_butane_sees_is_told_once_at_the_templates_line_with_all_its_hosts(small: Project) -> None:
    break_mode(small)
    done = small.doit()
    assert done.status == 1
    assert re.fullmatch(
        rf"{PLACE}[^\n]+ \(write a number, without quotes; rendered for agent-1, server-1\)", done.err.strip()
    ), done.err
    assert not small.outputs()


def test_what_only_butane_sees_for_one_host_is_told_with_that_host(small: Project) -> None:
    break_mode(small, '{{ "often" if host.name == "agent-1" else "0600" }}')
    done = small.doit()
    assert done.status == 1
    assert re.fullmatch(rf"{PLACE}[^\n]+ \(write a number, without quotes; rendered for agent-1\)", done.err.strip()), (
        done.err
    )


def test_of_many_hosts_that_share_a_fault_two_are_named(small: Project) -> None:
    for number in (2, 3, 4):
        small.write(f"hosts/example/agent-{number}.yaml", f"role: agent\naddresses: [192.0.2.2{number}]\n")
    break_mode(small)
    assert small.doit().err.strip().endswith("; rendered for agent-1, agent-2 and 3 more)")


def test_a_fault_in_what_a_template_of_the_users_gave_is_told_at_its_line_there(project: Project) -> None:
    project.write(
        "templates/local/butane/more-files.bu.j2", "\n    - path: /etc/x\n      mode: 0644\n      mdoe: 0644\n"
    )
    done = project.doit()
    (line,) = [line for line in done.err.splitlines() if "rendered for server-1" in line]
    assert line.startswith("templates/local/butane/more-files.bu.j2:4:7: $.storage.files.")
    assert line.endswith("(did you mean mode?; rendered for server-1, server-2, server-3)")


def test_a_unit_that_systemd_cannot_read_is_told_where_it_is_embedded_with_its_template(project: Project) -> None:
    append(project, "templates/units/k3s-install.service.j2", "nonsense\n")
    done = project.doit()
    place = r"templates/butane/base\.bu\.j2:\d+:17: \$\.systemd\.units\.0\.contents: invalid unit content: .*"
    told = rf"{place} \(it embeds templates/units/k3s-install\.service\.j2; rendered for agent-1, agent-2 and \d more\)"
    assert re.fullmatch(told, done.err.strip()), done.err


def test_a_local_file_that_is_no_unit_is_told_where_it_is_embedded_with_its_path(small: Project) -> None:
    small.write("hosts/example/files/x.service", "[Unit]\nnonsense\n")
    unit = "systemd:\n  units:\n    - {name: x.service, contents: {{ local_file('x.service') }}}\n"
    append(small, "templates/butane/agent.bu.j2", unit)
    done = small.doit()
    assert re.match(r"templates/butane/agent\.bu\.j2:13:35: \$\.systemd\.units\.0\.contents: ", done.err), done.err
    assert done.err.strip().endswith("(it embeds hosts/example/files/x.service; rendered for agent-1)")


def test_yaml_that_a_template_breaks_is_told_at_the_templates_line(small: Project) -> None:
    change(small, "templates/butane/agent.bu.j2", "  files:\n", "  {% if true %}\n  files: [\n  {% endif %}\n")
    done = small.doit()
    assert re.match(r"templates/butane/agent\.bu\.j2:\d+:\d+: ", done.err), done.err
    assert done.err.strip().endswith("(rendered for agent-1)")


def test_a_fault_of_a_template_that_notices_that_it_is_looked_at_is_told_with_the_line_of_its_text(
    small: Project,
) -> None:
    break_mode(small)
    notices = "{% set x %}a{% endset %}\n# {{ x.__class__.__name__ }}\n"
    small.write("templates/butane/base.bu.j2", notices + (small.root / "templates/butane/base.bu.j2").read_text())
    place = r"templates/butane/(server|agent)\.bu\.j2: rendered line 10, \$\.storage\.files\.1\.mode"
    told = rf"{place}: .* \(.*; rendered for "
    lines = small.doit().err.splitlines()
    assert len(lines) == 2
    assert all(re.match(told, line) for line in lines), lines


def test_a_secret_in_the_wrong_place_is_told_without_its_value(small: Project) -> None:
    small.doit()
    value = re.search(
        r"data:,(\w+)", json.loads(small.outputs()["agent-1"])["storage"]["files"][1]["contents"]["source"]
    )
    assert value
    break_mode(small, "{{ secrets.cluster.server_token | quote }}")
    done = small.doit()
    assert re.match(PLACE, done.err), done.err
    assert value[1] not in done.err + done.out


def test_a_template_without_fault_is_rendered_once(small: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Templates, "trace", lambda *_: pytest.fail("there is nothing to trace"))
    assert small.doit().status == 0


def test_after_a_fault_is_mended_the_config_and_its_inputs_are_as_if_it_had_never_been(small: Project) -> None:
    small.doit()
    configs, known = small.outputs(), small.doit("info", "render:agent-1").out
    break_mode(small)
    assert small.doit().status == 1
    for role in ("server", "agent"):
        small.write(f"templates/butane/{role}.bu.j2", SMALL_TEMPLATE)
    assert small.doit().status == 0
    assert small.outputs() == configs
    assert small.doit("info", "render:agent-1").out == known
