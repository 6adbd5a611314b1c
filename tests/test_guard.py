"""A host's own files, units and snippets cannot take away the hold and the gate before k3s."""

from __future__ import annotations

import pytest

from conftest import Project

HOST = "role: server\naddresses: [192.0.2.11]\n"


def told(project: Project, more: str) -> str:
    """Given more text of a server's file, return what a build says."""
    path = project.root / "hosts/example/server-1.yaml"
    path.write_text(path.read_text() + more)
    done = project.doit("render:server-1")
    assert "Traceback" not in done.err
    return done.err


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            "units: [{name: k3s.service, dropins: [{name: 10-i12e.conf, contents: '[Service]'}]}]\n",
            "the drop-in 10-i12e.conf is i12e's own",
        ),
        (
            'units: [{name: k3s.service, dropins: [{name: 20-x.conf, contents: "[Service]\\nExecStartPre=\\n"}]}]\n',
            "the drop-in 20-x.conf empties ExecStartPre=",
        ),
        (
            'units: [{name: k3s.service, dropins: [{name: 9.conf, contents: "[Unit]\\nConditionPathExists = \\n"}]}]\n',
            "the drop-in 9.conf empties ConditionPathExists=",
        ),
        (
            'units: [{name: k3s.service, contents: "[Service]\\nExecStart=/bin/true\\n"}]\n',
            "k3s.service is i12e's own",
        ),
        ("files: [{path: /opt/i12e/bin/k3s-gate, mode: 0755, contents: ''}]\n", "/opt/i12e/bin/k3s-gate is i12e's own"),
        ("files: [{path: /var/lib/i12e/permit, contents: 'x'}]\n", "i12e"),
        ("files: [{path: /etc/i12e/host.json, contents: '{}'}]\n", "i12e"),
    ],
)
def test_what_would_let_k3s_start_unasked_is_refused(project: Project, more: str, expected: str) -> None:
    said = told(project, more)
    assert expected in said
    assert "hosts/example/server-1.yaml" in said


def test_a_snippet_is_held_to_the_same(project: Project) -> None:
    project.write(
        "hosts/example/butane/x.bu",
        "variant: flatcar\nversion: 1.1.0\nstorage:\n  links:\n"
        "    - {path: /opt/i12e/bin/k3s-gate, target: /bin/true, overwrite: true}\n",
    )
    assert "/opt/i12e/bin/k3s-gate is i12e's own" in told(project, "butane: [x.bu]\n")


def test_a_drop_in_that_only_adds_is_allowed(project: Project) -> None:
    more = 'units: [{name: k3s.service, dropins: [{name: 20-x.conf, contents: "[Service]\\nCPUWeight=200\\n"}]}]\n'
    assert told(project, more) == ""


def test_own_parts_that_contradict_ours_are_told_before_ignition_tells_on_the_host(project: Project) -> None:
    project.write(
        "hosts/example/butane/x.bu",
        "variant: flatcar\nversion: 1.1.0\nstorage:\n  links:\n    - {path: /etc/rancher, target: /srv/rancher}\n",
    )
    said = told(project, "butane: [x.bu]\n")
    assert "hosts/example/server-1.yaml: merged with ours, $.storage" in said
