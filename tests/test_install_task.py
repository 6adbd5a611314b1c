"""./doit os_install:HOST: what a person is told fits the host, and what a platform gets fits the platform.

Whether the lines work on the real platforms is not tested here: docs/install.md says which were read and where.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from conftest import ROOT, Done, Project, need
from i12e import engine, install
from i12e.build import Build
from i12e.errors import UsageError, UserError
from i12e.paths import Paths
from test_leaks import PLANTED, forms, plant

URL = "https://install.example.com/server-1.ign"
FOLDER = "build/example/install"


def run(project: Project, *args: str) -> Done:
    return project.doit(*args, tasks=engine.install_tasks)


def host(env: str = "example", name: str = "server-1", **changed: Any) -> Any:
    """Given an environment of this checkout, a host's name and what differs, return the host's model."""
    found = next(host for host in Build(Paths(ROOT, env)).checked_hosts() if host.name == name)
    return found.model_copy(update=changed)


def config(size: int = 0, **storage: Any) -> bytes:
    """Given the least size, return a config."""
    text = json.dumps({"ignition": {"version": "3.4.0"}, "storage": storage})
    return text.encode() + b" " * (size - len(text))


def told(platform: str, env: str = "example", url: str = "", **changed: Any) -> str:
    return install.first(host(env, **changed), config(), "F", platform, url).text


# --- what fits


@pytest.mark.parametrize(
    ("platform", "most"), [("ec2", 16384), ("hetzner", 32768), ("openstack", 49149), ("virtualbox", 1023)]
)
def test_a_config_may_be_as_large_as_the_platform_takes_and_no_larger(platform: str, most: int) -> None:
    """OpenStack counts in base64: 49149 bytes are 65532 there, and one more are 65536, which is over 65535."""
    assert install._too_large(platform, config(most)) is None
    assert install._too_large(platform, config(most + 1)) is not None


@pytest.mark.parametrize("platform", ["metal", "pxe", "qemu", "vmware", "user-data"])
def test_where_no_limit_is_known_none_is_checked(platform: str) -> None:
    assert install._too_large(platform, config(10_000_000)) is None


def test_a_pointer_is_small_enough_for_every_platform_also_with_a_long_url() -> None:
    made = install.pointer(config(100_000), f"https://install.example.com/{'x' * 700}")
    assert not any(install._too_large(platform, made) for platform in install.PLATFORMS)


def test_a_pointer_replaces_itself_by_exactly_this_config_and_is_of_its_version() -> None:
    text = config(5000)
    found = json.loads(install.pointer(text, URL))
    digest = hashlib.sha512(text).hexdigest()
    assert found == {
        "ignition": {
            "version": "3.4.0",
            "config": {"replace": {"source": URL, "verification": {"hash": f"sha512-{digest}"}}},
        }
    }


@pytest.mark.ignition
def test_the_real_ignition_takes_a_pointer(ignition_validate: str, tmp_path: Path) -> None:
    """Debian's Ignition reads 3.4.0 under another name (see test_ignition)."""
    made = install.pointer(config(), "s3://bucket/server-1.ign").replace(b'"3.4.0"', b'"3.4.0-experimental"')
    (tmp_path / "pointer.ign").write_bytes(made)
    done = subprocess.run([ignition_validate, tmp_path / "pointer.ign"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr + done.stdout) == (0, "")


def test_what_vmware_gets_is_the_config_and_the_same_bytes_each_time() -> None:
    text = config(5000)
    assert gzip.decompress(base64.b64decode(install.packed(text))) == text
    assert install.packed(text) == install.packed(text)
    assert b"\n" not in install.packed(text)
    made = install.first(host(), text, "F", "vmware", URL)
    assert gzip.decompress(base64.b64decode(made.files["config.ign.gz.b64"])) == made.files["pointer.ign"]


# --- what is told


def commands(text: str) -> list[str]:
    """Given instructions, return their commands: lines with two blanks before them, continued ones joined."""
    lines = re.findall(r"^  (?! )(.*)$|^    (.*)$", text.replace("\\\n", "\\\n"), re.MULTILINE)
    joined = "\n".join(one or more for one, more in lines).replace("\\\n", "")
    return joined.splitlines()


@pytest.mark.parametrize("env", ["example", "example-fcos"])
@pytest.mark.parametrize("platform", install.PLATFORMS)
@pytest.mark.parametrize("arch", ["amd64", "arm64"])
@pytest.mark.parametrize("url", ["", URL])
def test_every_command_is_one_that_a_shell_reads_and_the_file_is_the_right_one(
    env: str, platform: str, arch: str, url: str
) -> None:
    need(shutil.which("sh"), "sh")
    server = host(env)
    server = server.model_copy(update={"os": server.os.model_copy(update={"arch": arch})})
    made = install.first(server, config(), "build/e/install/server-1", platform, url)
    for command in commands(made.text):
        if not command.startswith(("build/", "#!", "set ", "kernel ", "initrd ", "http")):
            done = subprocess.run(["sh", "-n", "-c", command], capture_output=True, text=True, check=False)
            assert done.returncode == 0, (command, done.stderr)
    assert made.text.count("pointer.ign") > 1 or not url or platform == "vmware"  # which packs it
    assert ("pointer.ign" in made.text) == bool(url)
    assert max(map(len, made.text.splitlines())) <= 160
    assert "./doit os_deploy:server-1" in made.text
    assert ("aarch64" in made.text or "arm" in made.text) == (arch == "arm64") or platform not in (
        "metal",
        "qemu",
        "pxe",
    )


def test_each_system_has_its_own_installer_and_its_own_name_in_the_firmware() -> None:
    assert "sudo flatcar-install -d /dev/DISK -C stable -i config.ign" in told("metal")
    assert "sudo coreos-installer install /dev/DISK --ignition-file config.ign" in told("metal", "example-fcos")
    assert "-fw_cfg name=opt/org.flatcar-linux/config,file=F/config.ign" in told("qemu")
    assert "-fw_cfg name=opt/com.coreos/config,file=F/config.ign" in told("qemu", "example-fcos")


def test_metal_is_the_default_and_names_the_others() -> None:
    assert "--platform with one of pxe, qemu, ec2, hetzner, openstack, vmware, virtualbox, user-data" in told("metal")


def test_no_disk_is_named_so_that_a_line_typed_as_it_is_destroys_nothing() -> None:
    for env in ("example", "example-fcos"):
        for platform in install.PLATFORMS:
            assert set(re.findall(r"/dev/\w+", told(platform, env))) <= {"/dev/DISK"}


@pytest.mark.parametrize("platform", ["ec2", "hetzner", "openstack", "user-data"])
def test_it_is_said_who_can_read_user_data_and_with_a_pointer_who_can_read_the_url(platform: str) -> None:
    assert "every process can read it from the metadata service" in told(platform)
    text = told(platform, url=URL)
    assert "every process can read it" not in text
    assert "the URL in it may be read like any user-data" in text


def test_a_url_that_everybody_can_listen_to_is_told_and_an_s3_one_wants_a_role() -> None:
    assert "not encrypted" in told("ec2", url="http://a.example/x")
    assert "not encrypted" not in told("ec2", url=URL)
    assert "--iam-instance-profile" in told("ec2", url="s3://bucket/x")
    assert "so the object is public" in told("hetzner", url="s3://bucket/x")
    assert "so the object is public" not in told("ec2", url="s3://bucket/x")


def test_it_is_said_that_an_install_founds_nothing() -> None:
    assert "an install founds no cluster" in told("metal")
    agent = install.first(host(name="agent-1"), config(), "F", "metal").text
    assert "it joins the cluster when a server answers" in agent


# --- installed again


def test_fedora_coreos_is_installed_again_with_the_partitions_that_its_config_makes() -> None:
    disks = [{"device": "/dev/vda", "partitions": [{"label": "root"}, {"label": "k3s data"}, {"number": 7}]}]
    text = install.again(host("example-fcos"), config(disks=disks), "F").text
    assert "coreos-installer install /dev/DISK --ignition-file config.ign --save-partlabel 'k3s data'\n" in text
    command = next(line for line in text.splitlines() if "--save-partlabel" in line)
    assert shlex.split(command)[-2:] == ["--save-partlabel", "k3s data"]
    assert "its root, with /etc, /var and k3s's data, is lost" in text
    assert "backup" in text


def test_without_partitions_of_its_own_nothing_is_promised() -> None:
    text = install.again(host("example-fcos"), config(), "F").text
    assert "--save-partlabel" not in text
    assert "nothing on this disk is kept" in text


def test_flatcar_is_not_installed_again_but_reset() -> None:
    with pytest.raises(UserError, match="os_deploy:server-1 does it"):
        install.again(host(), config(), "F")


# --- options


@pytest.mark.parametrize(
    "url", ["install.example.com/x", "ftp://a.example/x", "https:///x", "https://a b/x", "file:///x"]
)
def test_what_ignition_cannot_fetch_is_no_url(url: str) -> None:
    with pytest.raises(UsageError):
        install._check_url(url)


@pytest.mark.parametrize(
    "url", ["", URL, "s3://bucket/x", "arn:aws:s3:::bucket/x", "gs://bucket/x", "tftp://a.example/x"]
)
def test_what_ignition_fetches_is_one(url: str) -> None:
    install._check_url(url)


def test_the_platforms_that_the_option_names_are_those_that_there_are() -> None:
    assert tuple(install.PLATFORMS) == engine._PLATFORMS


# --- the task


@pytest.mark.slow
def test_it_prints_the_instructions_alone_and_writes_private_files(small: Project) -> None:
    done = run(small, "os_install:server-1")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("server-1 on a machine of its own, Flatcar (amd64): first install\n")
    folder = small.root / FOLDER / "server-1"
    assert [path.name for path in folder.iterdir()] == ["config.ign"]
    assert stat.S_IMODE((folder / "config.ign").stat().st_mode) == 0o600
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent)} == {0o700}
    assert small.doit("render:server-1").status == 0
    assert (folder / "config.ign").read_bytes() == small.outputs()["server-1"]


@pytest.mark.slow
def test_a_config_that_is_too_large_is_refused_with_what_to_do_and_with_a_url_it_fits(small: Project) -> None:
    small.write("templates/files/hostname", "".join(hashlib.sha512(bytes([n])).hexdigest() for n in range(20)))
    done = run(small, "os_install:server-1", "--platform", "virtualbox")
    size = (small.root / FOLDER / "server-1/config.ign").stat().st_size
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"VirtualBox takes 1023 bytes, and the config of server-1 has {size} (put {FOLDER}/")
    assert "./doit os_install:server-1 --platform virtualbox --url URL" in done.err
    done = run(small, "os_install:server-1", "--platform=virtualbox", f"--url={URL}")
    assert (done.status, done.err) == (0, "")
    pointer = json.loads((small.root / FOLDER / "server-1/pointer.ign").read_text())
    content = (small.root / FOLDER / "server-1/config.ign").read_bytes()
    digest = pointer["ignition"]["config"]["replace"]["verification"]["hash"]
    assert digest == f"sha512-{hashlib.sha512(content).hexdigest()}"


@pytest.mark.slow
def test_a_pointer_of_before_does_not_stay_beside_a_new_config(small: Project) -> None:
    run(small, "os_install:server-1", f"--url={URL}")
    run(small, "os_install:server-1")
    assert [path.name for path in (small.root / FOLDER / "server-1").iterdir()] == ["config.ign"]


@pytest.mark.slow
def test_the_text_is_in_the_json_document_and_no_secret_is_told(small: Project) -> None:
    plant(small)
    done = run(small, "os_install:server-1", "--json")
    assert json.loads(done.out)["results"][0]["text"].startswith("server-1 on ")
    files = json.loads((small.root / FOLDER / "server-1/config.ign").read_bytes())["storage"]["files"]
    assert PLANTED in [unquote(file["contents"]["source"].removeprefix("data:,")) for file in files]
    for args in ((), ("--platform=vmware",), ("--platform=ec2", f"--url={URL}")):
        done = run(small, "os_install:server-1", *args)
        assert not any(form in (done.out + done.err).encode() for form in forms())


@pytest.mark.slow
def test_without_a_host_it_is_usage_and_so_is_a_platform_that_there_is_not(small: Project) -> None:
    done = run(small, "os_install")
    assert (done.status, done.err) == (
        3,
        "os_install: of which host? ./doit os_install:HOST, with one of agent-1, server-1\n",
    )
    done = run(small, "os_install:server-1", "--platform", "ec")
    assert (done.status, done.err) == (3, '--platform "ec": there is no such platform (did you mean ec2?)\n')
    done = run(small, "os_install:server-1", "--platform", "moon")
    assert "one of metal, pxe, qemu" in done.err


@pytest.mark.slow
def test_a_wrong_host_is_told_and_nothing_is_written(small: Project) -> None:
    small.write("hosts/example/agent-1.yaml", "rolle: agent\naddresses: [192.0.2.21]\n")
    done = run(small, "os_install:server-1")
    assert (done.status, done.out) == (1, "")
    assert "hosts/example/agent-1.yaml:1:1: rolle: " in done.err
    assert not (small.root / FOLDER).exists()


@pytest.mark.slow
def test_clean_takes_the_files_of_an_install_along(small: Project) -> None:
    assert small.doit().status == 0
    run(small, "os_install:server-1")
    small.doit("clean")
    assert not (small.root / FOLDER / "server-1").exists()
