"""Our templates: what the hosts of both examples get, and what docs/templates.md promises of a user's own."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from base64 import b64decode
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
import yaml

from conftest import ROOT, Project, copy_of_example

ENVIRONMENTS = ("example", "example-fcos")
CONFIG = "/etc/rancher/k3s/config.yaml"
MANIFESTS = "/var/lib/rancher/k3s/server/manifests/"
OURS = ("i12e-kube-vip-rbac.yaml", "i12e-kube-vip.yaml")
RELEASE = "i12e-helm-prometheus.yaml"


class Config:
    """A rendered config as its host sees it."""

    def __init__(self, ignition: bytes) -> None:
        config = json.loads(ignition)
        self.files: dict[str, dict[str, Any]] = {file["path"]: file for file in config["storage"]["files"]}
        self.links = {link["path"]: link["target"] for link in config["storage"].get("links", ())}
        self.units: dict[str, dict[str, Any]] = {unit["name"]: unit for unit in config["systemd"]["units"]}

    def text(self, path: str) -> str:
        contents = self.files[path]["contents"]
        head, _, body = contents["source"].removeprefix("data:").partition(",")
        data = b64decode(body) if head.endswith(";base64") else unquote_to_bytes(body)
        return (gzip.decompress(data) if contents.get("compression") == "gzip" else data).decode()

    def k3s(self) -> dict[str, Any]:
        found = yaml.safe_load(self.text(CONFIG))
        assert isinstance(found, dict)
        return found


def build(project: Project, env: str = "example") -> dict[str, Config]:
    """Given a project, render an environment; return its configs by host."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("I12E_ENV", env)
        done = project.doit()
    assert done.status == 0, done.err
    return {host: Config(text) for host, text in project.outputs(env).items()}


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def hosts(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Config]:
    """The configs of an example as it comes, for tests that change nothing."""
    return build(copy_of_example(tmp_path_factory.mktemp("example") / "checkout"), request.param)


def edit(project: Project, path: str, old: str, new: str) -> None:
    text = (project.root / path).read_text()
    assert old in text
    project.write(path, text.replace(old, new, 1))


# --- rules for all hosts


def test_a_reset_may_find_every_file_there_already(hosts: dict[str, Config]) -> None:
    for host in hosts.values():
        assert [path for path, file in host.files.items() if file.get("overwrite") is not True] == []


def test_no_token_is_in_a_file_that_others_may_read_nor_in_a_unit(hosts: dict[str, Config]) -> None:
    for host in hosts.values():
        tokens = {host.k3s()["token"], host.k3s().get("agent-token", host.k3s()["token"])}
        places = [path for path in host.files if any(token in host.text(path) for token in tokens)]
        assert places == [CONFIG]
        assert host.files[CONFIG]["mode"] == 0o600
        assert not any(token in json.dumps(host.units) for token in tokens)


def test_no_config_founds_a_cluster(hosts: dict[str, Config]) -> None:
    for name, host in hosts.items():
        assert "cluster-init" not in host.k3s()
        assert ("server" in host.k3s()) == name.startswith("agent")


def test_an_agent_never_learns_the_servers_token(hosts: dict[str, Config]) -> None:
    server, agent = hosts["server-1"].k3s(), hosts["agent-1"].k3s()
    assert agent["token"] == server["agent-token"] != server["token"]
    assert not any(server["token"] in hosts["agent-1"].text(path) for path in hosts["agent-1"].files)


def test_servers_differ_only_in_who_they_are(project: Project) -> None:
    found = [host.k3s() for name, host in build(project).items() if name.startswith("server")]
    for config in found:
        for own in ("node-name", "node-ip"):
            del config[own]
    assert len(found) == 3
    assert found[0] == found[1] == found[2]


def test_k3s_starts_only_through_the_gate(hosts: dict[str, Config]) -> None:
    for name, host in hosts.items():
        unit = host.units["k3s.service" if name.startswith("server") else "k3s-agent.service"]
        dropin = unit["dropins"][0]["contents"]
        assert "ConditionPathExists=!/var/lib/i12e/hold\n" in dropin
        assert "ExecStartPre=/bin/sh /opt/i12e/bin/k3s-gate\n" in dropin
        assert host.files["/opt/i12e/bin/k3s-gate"]["mode"] == 0o755


def test_sh_reads_what_the_scripts_are_told(hosts: dict[str, Config], tmp_path: Path) -> None:
    for name, host in hosts.items():
        file = tmp_path / name
        file.write_text(host.text("/etc/i12e/k3s.conf"))
        asked = f'. {file}; printf "%s\\n" "$host" "$role" "$datastore" "$k3s_version" "$join_urls"'
        done = subprocess.run(["sh", "-euc", asked], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[:4] == [name, name.partition("-")[0], "etcd", "v1.35.4+k3s1"]


def test_each_os_gets_its_own(project: Project) -> None:
    flatcar, fcos = build(project)["server-1"], build(project, "example-fcos")["server-1"]
    masked = {f"/etc/extensions/{name}-flatcar.raw": "/dev/null" for name in ("containerd", "docker")}
    assert flatcar.links.items() >= masked.items()
    assert not any(path.startswith("/etc/extensions/") for path in fcos.links)
    assert "/opt/bin/e" in flatcar.files
    assert "/usr/local/bin/e" in fcos.files
    assert "k3s-selinux.service" not in flatcar.units
    assert "k3s-selinux.service" in fcos.units
    assert fcos.k3s()["selinux"] is True


# --- settings that change what hosts get


def test_updates_that_are_off_are_not_even_downloaded(project: Project) -> None:
    for env in ENVIRONMENTS:
        edit(project, f"hosts/{env}/cluster.yaml", "strategy: reboot", "strategy: off")
    flatcar, fcos = build(project)["server-1"], build(project, "example-fcos")["server-1"]
    lines = flatcar.text("/etc/flatcar/update.conf").splitlines()
    assert lines[-2:] == ["REBOOT_STRATEGY=off", "SERVER=disabled"]
    assert fcos.text("/etc/zincati/config.d/55-i12e.toml") == "[updates]\nenabled = false\n"


def test_a_mirror_holds_the_paths_of_those_who_make_k3s(project: Project) -> None:
    edit(project, "hosts/example/cluster.yaml", "# mirror: ", "mirror: ")
    conf = build(project)["server-1"].text("/etc/i12e/k3s.conf")
    assert "script_url=https://mirror.example.com/k3s-io/k3s/v1.35.4%2Bk3s1/install.sh\n" in conf
    assert "releases_url=https://mirror.example.com/k3s-io/k3s/releases\n" in conf


def test_dual_stack_gives_a_node_an_address_of_each_family(project: Project) -> None:
    cluster = "hosts/example/cluster.yaml"
    edit(project, cluster, "  hosts: [192.0.2.0/24]", '  hosts: [192.0.2.0/24, "2001:db8:1::/64"]')
    edit(project, cluster, "  cluster_cidr: 10.42.0.0/16\n", '  cluster_cidr: [10.42.0.0/16, "2001:db8:42::/56"]\n')
    edit(project, cluster, "  service_cidr: 10.43.0.0/16\n", '  service_cidr: [10.43.0.0/16, "2001:db8:43::/112"]\n')
    for path in (project.root / "hosts/example").glob("*-?.yaml"):
        text = re.sub(
            r"addresses: \[192\.0\.2\.(\d+)\]", r'addresses: [192.0.2.\1, "2001:db8:1::\1"]', path.read_text()
        )
        path.write_text(text)
    config = build(project)["server-1"].k3s()
    assert config["node-ip"] == "192.0.2.11,2001:db8:1::11"
    assert config["cluster-cidr"] == "10.42.0.0/16,2001:db8:42::/56"


def test_without_a_virtual_address_there_is_no_kube_vip_and_servers_join_each_other(project: Project) -> None:
    cluster = (project.root / "hosts/example/cluster.yaml").read_text()
    project.write("hosts/example/cluster.yaml", re.sub(r"  vip:\n(?:    .*\n)+", "", cluster))
    host = build(project)["server-2"]
    assert not any(path.startswith(f"{MANIFESTS}i12e-kube-vip") for path in host.files)
    assert "join_urls='https://192.0.2.11:6443 https://192.0.2.13:6443'\n" in host.text("/etc/i12e/k3s.conf")


def test_the_list_of_manifests_is_what_is_deployed(hosts: dict[str, Config]) -> None:
    host = hosts["server-1"]
    deployed = [path.removeprefix(MANIFESTS) for path in host.files if path.startswith(MANIFESTS)]
    assert host.text("/etc/i12e/manifests").split() == deployed
    assert all(host.files[MANIFESTS + name]["mode"] == 0o600 for name in deployed)
    for name in deployed:
        assert all(isinstance(thing, dict) for thing in yaml.safe_load_all(host.text(MANIFESTS + name)))


# --- the user's own


def examples() -> dict[str, str]:
    """Return the files that docs/templates.md shows."""
    page = (ROOT / "docs/templates.md").read_text()
    shown = re.findall(r"`(templates/local/[\w./-]+)`:\n\n((?:    .*\n|\n)+)", page)
    return {path: re.sub(r"^    ", "", text, flags=re.MULTILINE).rstrip() + "\n" for path, text in shown}


def test_the_examples_of_the_documentation_do_what_it_says(project: Project) -> None:
    assert len(examples()) == 5
    for path, text in examples().items():
        project.write(path, text)
    hosts = build(project)
    for name, host in hosts.items():
        assert host.text("/etc/chrony.conf").startswith(f"# made for {name}\n")
        assert host.units["warm-up.service"]["enabled"] is True
        assert "ExecStart=/usr/bin/true\n" in host.units["warm-up.service"]["contents"]
    assert yaml.safe_load(hosts["server-1"].text(f"{MANIFESTS}i12e-team.yaml"))["metadata"]["name"] == "team"
    assert "i12e-team.yaml" in hosts["server-1"].text("/etc/i12e/manifests").split()


def test_a_manifest_that_renders_to_nothing_is_left_out_and_a_name_gets_the_form_that_k3s_wants(
    project: Project,
) -> None:
    project.write("templates/local/manifests/nothing.yaml.j2", "{% if false %}\nkind: X\n{% endif %}\n\n")
    project.write("templates/local/manifests/my_app.yaml", "kind: Namespace\n")
    names = build(project)["server-1"].text("/etc/i12e/manifests").split()
    assert names == [*OURS, "i12e-my-app.yaml", RELEASE]


def test_a_manifest_in_a_folder_is_deployed_and_what_an_editor_leaves_behind_is_not(project: Project) -> None:
    project.write("templates/local/manifests/team/App_one.yaml.j2", "kind: A\n")
    for name in ("x.yaml.orig", "#x.yaml#", ".x.yaml.swp", "x.yaml~", "notes.txt", "README.md"):
        project.write(f"templates/local/manifests/{name}", "kind: B\n")
    files = build(project)["server-1"].files
    ours = {path.removeprefix(MANIFESTS) for path in files if path.startswith(MANIFESTS)}
    assert ours == {*OURS, "i12e-team-app-one.yaml", RELEASE}
    project.write("templates/local/manifests/team/more/two.yml", "kind: C\n")
    assert MANIFESTS + "i12e-team-more-two.yml" in build(project)["server-1"].files
