"""A host's own files, units and snippets cannot take away the hold and the gate before k3s."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import pytest

from conftest import Project
from i12e import guard

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


DROPIN = "units: [{{name: {unit}, dropins: [{{name: {name}, contents: {text}}}]}}]\n"


def dropin(text: str, unit: str = "k3s.service", name: str = "20-x.conf") -> str:
    """Given a drop-in's text, return it as lines of a host's file."""
    return DROPIN.format(unit=unit, name=name, text=json.dumps(text))


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("/etc/rancher/k3s/config.yaml", "k3s's settings"),
        ("/etc/rancher/k3s/config.yaml.d/99-x.yaml", "k3s's settings"),
        ("/etc/systemd/system/k3s.service", "k3s's unit"),
        ("/etc/systemd/system/k3s.service.d/99-x.conf", "k3s's unit"),
        ("/etc/systemd/system/k3s-.service.d/99-x.conf", "k3s's unit"),
        ("/etc/systemd/system/k3s-agent.service.d/99-x.conf", "k3s's unit"),
        ("/etc/systemd/system.control/k3s.service.d/99-x.conf", "k3s's unit"),
        ("/etc/systemd/system/service.d/99-x.conf", "k3s's unit, as every service's"),
        ("/etc/systemd/system/k3s.service.env", "k3s's environment"),
        ("/etc/default/k3s", "k3s's environment"),
        ("/etc/sysconfig/k3s", "k3s's environment"),
    ],
)
def test_no_file_changes_what_k3s_is_told_or_how_it_starts(path: str, what: str) -> None:
    for kind, more in (("files", {}), ("links", {"target": "/srv/x"}), ("directories", {"mode": 0o700})):
        (fault,) = guard.faults({}, {"storage": {kind: [{"path": path, **more}]}})
        assert fault[0] == f"{path} would change {what}, past the gate that holds k3s back"
        assert "in the host's file" in fault[1] or "write it in units:" in fault[1]


def test_what_the_template_itself_gave_is_no_change() -> None:
    config = {"storage": {"files": [{"path": "/etc/rancher/k3s/config.yaml", "mode": 0o600}]}}
    assert list(guard.faults(config, config)) == []
    assert len(list(guard.faults(config, {"storage": {"files": [{**config["storage"]["files"][0], "mode": 0}]}}))) == 1


@pytest.mark.parametrize("path", ["/var/opt/i12e/bin/k3s-gate", "/opt/i12e", "/etc/i12e/k3s.conf", "/var/lib/i12e"])
def test_what_is_ours_is_ours_by_its_other_name_too(path: str) -> None:
    (fault,) = guard.faults({}, {"storage": {"links": [{"path": path, "target": "/srv"}]}})
    assert fault == (f"{path} is i12e's own", "put the file elsewhere")


@pytest.mark.parametrize(
    "path",
    [
        "/etc/rancher/k3s/registries.yaml",
        "/etc/rancher/k3s/psa.yaml",
        "/etc/systemd/system/own.service",
        "/etc/systemd/system/multi-user.target.wants/own.service",
        "/etc/default/own",
        "/etc/i12e-own/x",
    ],
)
def test_other_files_are_the_hosts_own_business(path: str) -> None:
    assert list(guard.faults({}, {"storage": {"files": [{"path": path}]}})) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[Service]\nEnvironment=K3S_CLUSTER_INIT=true\n", "sets K3S_ variables"),
        ('[Service]\nEnvironment=A=b "K3S_CLUSTER_INIT=true"\n', "sets K3S_ variables"),
        ("[Service]\n \tEnvironment \\\n = A=b \\\n# no end\nK3S_URL=x\n", "sets K3S_ variables"),
        ("[Service]\nPassEnvironment=K3S_CLUSTER_INIT", "sets K3S_ variables"),
        ("[Service]\nEnvironmentFile=-/srv/env\n", "has EnvironmentFile="),
        ("[Service]\nEnvironmentFile=\n", "has EnvironmentFile="),
        ("[Service]\nExecStart=/opt/bin/k3s server --cluster-init\n", "changes ExecStart="),
        ("[Service]\nExecStart=\n", "empties ExecStart="),
        ("[Service]\nExecStartPre\\\n=\\\n\n", "empties ExecStartPre="),
        ("[Service]\nExecStartPre=\\\n  \\\n\n", "empties ExecStartPre="),
        ("[Service]\nExecCondition=\r\n", "empties ExecCondition="),
        ("[Unit]\n\tConditionPathExists =\n", "empties ConditionPathExists="),
        ("[Unit]\nAssertPathExists=", "empties AssertPathExists="),
        ("[Service]\nSuccessExitStatus=1\n", "sets SuccessExitStatus="),
        ("# a comment ends with its line \\\nExecStart=", "empties ExecStart="),
    ],
)
@pytest.mark.parametrize("unit", guard.K3S)
def test_no_drop_in_of_k3s_leads_past_the_gate(unit: str, text: str, said: str) -> None:
    config = {"systemd": {"units": [{"name": unit, "dropins": [{"name": "99-x.conf", "contents": text}]}]}}
    (fault,) = guard.faults({}, config)
    assert fault[0].startswith(f"{unit}: the drop-in 99-x.conf {said}")


@pytest.mark.parametrize(
    "text",
    [
        "[Service]\nEnvironment=HTTPS_PROXY=http://proxy:3128 NO_PROXY=10.0.0.0/8\n",
        '[Service]\nEnvironment="HTTP_PROXY=http://proxy:3128"\nEnvironment=NOT_K3S_X=1\n',
        "[Service]\nExecStartPre=/sbin/modprobe x\nLimitNOFILE=9\n",
        "[Unit]\nConditionPathExists=/srv/data\n# ExecStart=\n; K3S_URL=x\n",
        "[Service]\nEnvironment=A=b\\\\\nCPUWeight=9\n",
    ],
)
def test_proxies_limits_and_what_only_adds_are_allowed(text: str) -> None:
    for unit in (*guard.K3S, guard.INSTALL):
        config = {"systemd": {"units": [{"name": unit, "dropins": [{"name": "99-x.conf", "contents": text}]}]}}
        assert list(guard.faults({}, config)) == []


def test_no_unit_of_k3s_is_masked_or_replaced() -> None:
    for unit in guard.K3S:
        for more in ({"mask": True}, {"contents": "[Service]\n"}):
            (fault,) = guard.faults({}, {"systemd": {"units": [{"name": unit, **more}]}})
            assert fault == (f"{unit} is i12e's own", "change it by a drop-in")


@pytest.mark.parametrize(
    "unit",
    [
        {"contents": "[Service]\nEnvironment=K3S_CLUSTER_INIT=1\n"},
        {"dropins": [{"name": "x.conf", "contents": "[Service]\nEnvironment=K3S_CLUSTER_INIT=1\n"}]},
        {"dropins": [{"name": "x.conf", "contents": "[Service]\nEnvironmentFile=/srv/x\n"}]},
    ],
)
def test_the_installation_hands_no_variables_on_to_k3s(unit: dict[str, Any]) -> None:
    config = {"systemd": {"units": [{"name": guard.INSTALL, **unit}]}}
    (fault,) = guard.faults({}, config)
    assert "sets K3S_ variables, which the install script hands on to k3s" in fault[0]
    assert list(guard.faults(config, config)) == []


@pytest.mark.parametrize("packed", [False, True])
def test_no_variables_come_by_what_every_service_gets(packed: bool) -> None:
    def system(text: str) -> dict[str, Any]:
        body = base64.b64encode(gzip.compress(text.encode()) if packed else text.encode()).decode()
        contents = {"source": f"data:;base64,{body}", "compression": "gzip" if packed else ""}
        return {"storage": {"files": [{"path": "/etc/systemd/system.conf.d/9.conf", "contents": contents}]}}

    (fault,) = guard.faults({}, system("[Manager]\nDefaultEnvironment=K3S_CLUSTER_INIT=1\n"))
    assert "gives K3S_ variables to every service" in fault[0]
    assert list(guard.faults({}, system("[Manager]\nDefaultEnvironment=HTTP_PROXY=x\n"))) == []
    kernel = {"kernelArguments": {"shouldExist": ["quiet", "systemd.setenv=K3S_CLUSTER_INIT=1"]}}
    (fault,) = guard.faults({}, kernel)
    assert fault[0].startswith('the kernel argument "systemd.setenv=K3S_CLUSTER_INIT=1"')


def test_the_places_are_refused_by_a_build_with_what_to_use_instead(project: Project) -> None:
    said = told(project, "files: [{path: /etc/rancher/k3s/config.yaml.d/99-x.yaml, contents: 'cluster-init: true'}]\n")
    assert "hosts/example/server-1.yaml: /etc/rancher/k3s/config.yaml.d/99-x.yaml would change k3s's settings" in said
    assert "(use k3s.config in the host's file)" in said


def test_a_masked_k3s_is_refused_by_a_build(project: Project) -> None:
    project.write(
        "hosts/example/butane/x.bu",
        "variant: flatcar\nversion: 1.1.0\nsystemd: {units: [{name: k3s.service, mask: true}]}\n",
    )
    assert "k3s.service is i12e's own (change it by a drop-in)" in told(project, "butane: [x.bu]\n")


def test_registries_and_a_proxy_pass_a_build(project: Project) -> None:
    files = "files: [{path: /etc/rancher/k3s/registries.yaml, mode: 0600, contents: 'mirrors: {}'}]\n"
    assert told(project, files + dropin("[Service]\nEnvironment=HTTPS_PROXY=http://proxy:3128\n")) == ""
