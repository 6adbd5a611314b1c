"""Drift: on a host as the real Ignition made it nothing differs, and what is changed by hand is named, nothing else.

Applying a config needs Debian's Ignition and root.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ignition
from conftest import Project, need
from i12e import drift
from i12e.drift import Difference, compare
from i12e.errors import UserError
from ignition import UNITS, Tree
from test_ignition import ENVIRONMENTS, FCOS, checkout, hosts_of

pytestmark = pytest.mark.ignition
__all__ = ["checkout"]  # a fixture

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEzBbaE5lcDr3hNL8WrgNDV5SGe26Y4+DFTPXDPiQ4l6"
INSTALL = "[Unit]\nDescription=a stub\n[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
# The units of the system that the configs speak of.
VENDOR = ("fstrim.timer", "locksmithd.service", "update-engine.service", "sshd.service")


class Host:
    """A tree that Ignition made, as it is after its first boot."""

    def __init__(self, config: dict[str, Any], root: Path) -> None:
        self.config = config
        self.root = root

    @property
    def tree(self) -> Tree:
        """The tree, to look at."""
        return Tree(self.root, frozenset())

    def place(self, path: str) -> Path:
        """Given a path, return where it is."""
        return self.root / path.lstrip("/")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Given a path and a text, put it there."""
        self.place(path).parent.mkdir(parents=True, exist_ok=True)
        self.place(path).write_text(text)
        self.place(path).chmod(mode)

    def append(self, path: str, text: str) -> None:
        """Given a path and a text, put it at the end of the file."""
        with self.place(path).open("a") as file:
            file.write(text)

    def run(self, *command: str) -> None:
        """Given a command, run it on the tree."""
        subprocess.run([word.replace("ROOT", str(self.root)) for word in command], check=True, capture_output=True)

    def look(self, shell: str = "sh") -> str:
        """Return what the script prints."""
        environ = {**os.environ, "I12E_ROOT": str(self.root)}
        script = drift.script(self.config).encode()
        done = subprocess.run([shell, "-s"], input=script, env=environ, capture_output=True, check=True)
        assert done.stderr == b""
        return done.stdout.decode()

    def drift(self) -> list[Difference]:
        """Return all that is not as the config says."""
        return compare(self.config, self.look())

    def told(self) -> list[str]:
        """Return the differences, each as one line."""
        return [f"{one.kind} {one.name}: {one.what}" for one in self.drift()]


def made(config: dict[str, Any], folder: Path, os_name: str = "flatcar") -> Host:
    """Given a config and a folder, apply it with the real Ignition and do what the first boot does."""
    lacking = ignition.missing() or ("" if shutil.which("systemctl") else "systemctl (Debian: apt-get install systemd)")
    need(not lacking, lacking)
    tree = ignition.apply(json.dumps(config, separators=(",", ":")).encode(), folder, os_name)
    host = Host(config, tree.root)
    for name in VENDOR:
        host.write(f"/usr/lib/systemd/system/{name}", INSTALL)
    host.run("systemctl", "--root=ROOT", "preset-all")
    return host


@pytest.fixture(scope="module")
def hosts(checkout: Project, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Host]:
    """Gives a host by its environment and name; none of its files are to be changed."""
    known: dict[str, Host] = {}

    def host(name: str) -> Host:
        if name not in known:
            env, _, short = name.partition("/")
            config = ignition.load(checkout.outputs(env)[short])
            known[name] = made(config, tmp_path_factory.mktemp("host"), "fcos" if name in FCOS else "flatcar")
        return known[name]

    return host


@pytest.fixture
def own(hosts: Callable[[str], Host], tmp_path: Path) -> Host:
    """A server with files, units and users of its own, to be changed."""
    return copied(hosts("example-three/server-2"), tmp_path)


def copied(host: Host, folder: Path) -> Host:
    """Given a host and a folder, return a copy of it."""
    subprocess.run(["cp", "-a", str(host.root), str(folder / "root")], check=True)
    return Host(host.config, folder / "root")


# --- as Ignition made it


@pytest.mark.parametrize("name", hosts_of(ENVIRONMENTS))
def test_nothing_differs_where_ignition_just_applied_the_config(hosts: Callable[[str], Host], name: str) -> None:
    assert hosts(name).told() == []


def test_nothing_is_changed_by_looking(own: Host) -> None:
    def state() -> list[tuple[str, Any]]:
        found = ((path, os.lstat(own.place(path))) for path in sorted(own.tree.walk()))
        return [(path, (info.st_mode, info.st_size, info.st_mtime_ns, info.st_ctime_ns)) for path, info in found]

    before = state()
    own.look()
    assert state() == before


def test_what_k3s_and_the_gate_write_at_run_time_is_no_difference(own: Host) -> None:
    own.write("/etc/rancher/k3s/config.yaml.d/90-i12e.yaml", "server: x\n", 0o600)
    own.write("/etc/rancher/k3s/k3s.yaml", "x", 0o600)
    own.write(f"{UNITS}/k3s.service", INSTALL)
    own.write(f"{UNITS}/k3s.service.env", "A=b\n", 0o600)
    own.run("systemctl", "--root=ROOT", "enable", "k3s.service")
    for name in ("ccm.yaml", "coredns.yaml", "rolebindings.yaml"):
        own.write(f"/var/lib/rancher/k3s/server/manifests/{name}", "x", 0o600)
    own.write("/var/lib/rancher/k3s/server/db/i12e-cluster", "three")
    own.write("/var/lib/i12e/hold", "x")
    assert own.told() == []


def test_bash_sees_what_sh_sees(own: Host) -> None:
    assert own.look("bash") == own.look("sh")


# --- what is changed by hand

MANIFESTS = "/var/lib/rancher/k3s/server/manifests"


def flat(lines: list[str]) -> Iterator[str]:
    """Given the lines of a file, yield each with its end."""
    return (f"{line}\n" for line in lines)


def edit(host: Host, path: str, old: str, new: str) -> None:
    """Given a file, a text in it and another one, put that in its place."""
    text = host.place(path).read_text()
    assert old in text
    host.place(path).write_text(text.replace(old, new, 1))


def masked(host: Host, unit: str) -> None:
    """Given a unit, mask it, whatever is there."""
    host.place(f"{UNITS}/{unit}").unlink(missing_ok=True)
    host.place(f"{UNITS}/{unit}").symlink_to("/dev/null")


def linked(host: Host, path: str, target: str) -> None:
    """Given a path and a target, make it a link."""
    host.place(path).unlink()
    host.place(path).symlink_to(target)


BY_HAND: dict[str, tuple[Callable[[Host], object], list[str]]] = {
    "a file": (
        lambda host: host.append("/etc/crictl.yaml", "debug: true\n"),
        ["file /etc/crictl.yaml: content differs (24 bytes, not 12)"],
    ),
    "a file of the same size": (
        lambda host: host.place("/etc/own/secret.conf").write_text("own = no!\n"),
        ["file /etc/own/secret.conf: content differs (10 bytes, not 10)"],
    ),
    "a file that is gone": (lambda host: host.place("/etc/last").unlink(), ["file /etc/last: missing"]),
    "a mode": (lambda host: host.place("/opt/own/run").chmod(0o700), ["file /opt/own/run: mode 0700, not 0755"]),
    "a set-user-id bit": (
        lambda host: host.place("/opt/own/run").chmod(0o4755),
        ["file /opt/own/run: mode 4755, not 0755"],
    ),
    "an owner": (
        lambda host: os.chown(host.place("/etc/own/secret.conf"), 0, -1),
        ["file /etc/own/secret.conf: owner root, not core"],
    ),
    "a group": (
        lambda host: os.chown(host.place("/etc/hostname"), -1, 4711),
        ["file /etc/hostname: group 4711, not root"],
    ),
    "a link instead of a file": (
        lambda host: linked(host, "/etc/motd", "/run/motd"),
        ["file /etc/motd: is a link to /run/motd, not a file"],
    ),
    "what is appended": (
        lambda host: host.append("/etc/base.conf", "three\n"),
        ["file /etc/base.conf: content differs (14 bytes, not 8)"],
    ),
    "a folder's mode": (
        lambda host: host.place("/var/lib/i12e").chmod(0o755),
        ["directory /var/lib/i12e: mode 0755, not 0700"],
    ),
    "a folder's owner": (
        lambda host: os.chown(host.place("/srv/own"), 0, 0),
        ["directory /srv/own: owner root, not ops"],
    ),
    "a link": (
        lambda host: linked(host, "/etc/localtime", "/usr/share/zoneinfo/UTC"),
        ["link /etc/localtime: leads to /usr/share/zoneinfo/UTC, not to /usr/share/zoneinfo/Europe/Berlin"],
    ),
    "a link that is gone": (
        lambda host: host.place("/etc/extensions/docker-flatcar.raw").unlink(),
        ["link /etc/extensions/docker-flatcar.raw: missing"],
    ),
    "a unit": (
        lambda host: edit(host, f"{UNITS}/own.service", "/opt/own/run", "/bin/evil"),
        ["unit own.service: content differs (67 bytes, not 70)"],
    ),
    "a unit that is disabled": (
        lambda host: host.run("systemctl", "--root=ROOT", "disable", "own.service"),
        ["unit own.service: is disabled, not enabled"],
    ),
    "a unit that is enabled": (
        lambda host: host.run("systemctl", "--root=ROOT", "enable", "locksmithd.service"),
        ["unit locksmithd.service: is enabled, not disabled"],
    ),
    "a unit that is masked": (lambda host: masked(host, "own.service"), ["unit own.service: is masked"]),
    "the system's unit that is masked": (
        lambda host: masked(host, "fstrim.timer"),
        ["unit fstrim.timer: is masked"],
    ),
    "a unit that is masked no more": (
        lambda host: host.place(f"{UNITS}/update-engine.service").unlink(),
        ["unit update-engine.service: is not masked"],
    ),
    "a unit of the system's that is replaced": (
        lambda host: host.write(f"{UNITS}/locksmithd.service", INSTALL),
        ["unit locksmithd.service: has a file of its own in /etc/systemd/system, the config has none"],
    ),
    "a drop-in": (
        lambda host: host.append(f"{UNITS}/k3s.service.d/10-i12e.conf", "TimeoutStopSec=1s\n"),
        ["unit k3s.service.d/10-i12e.conf: content differs (527 bytes, not 509)"],
    ),
    "a drop-in that is gone": (
        lambda host: host.place(f"{UNITS}/k3s.service.d/20-own.conf").unlink(),
        ["unit k3s.service.d/20-own.conf: missing"],
    ),
    "a drop-in more": (
        lambda host: host.write(f"{UNITS}/own.service.d/override.conf", "[Service]\n"),
        ["unit own.service.d/override.conf: too much"],
    ),
    "a property that is set": (
        lambda host: host.write("/etc/systemd/system.control/own.service.d/50-CPU.conf", "[Service]\n"),
        ["unit /etc/systemd/system.control/own.service.d/50-CPU.conf: too much"],
    ),
    "a user that is gone": (
        lambda host: host.run("userdel", "--prefix", "ROOT", "ops"),
        ["directory /srv/own: owner 2000, not ops", "user ops: missing"],
    ),
    "a user's shell": (
        lambda host: edit(host, "/etc/passwd", "core:/bin/bash", "core:/bin/false"),
        [],  # the config says nothing of it
    ),
    "a user's id": (
        lambda host: edit(host, "/etc/passwd", "ops:x:2000:", "ops:x:0:"),
        ["directory /srv/own: owner 2000, not ops", "user ops: uid 0, not 2000"],
    ),
    "a user's group": (
        lambda host: edit(host, "/etc/passwd", "ops:x:2000:2000:", "ops:x:2000:0:"),
        ["user ops: group root, not operators"],
    ),
    "a user's further group": (
        lambda host: edit(host, "/etc/group", "sudo:x:150:core", "sudo:x:150:core,ops"),
        ["user ops: in the group sudo"],
    ),
    "a group's id": (
        lambda host: edit(host, "/etc/group", "operators:x:2000:", "operators:x:2001:"),
        ["user ops: group 2000, not operators", "group operators: gid 2001, not 2000"],
    ),
    "a key more": (
        lambda host: host.append("/home/core/.ssh/authorized_keys.d/ignition", f"{KEY[:-4]}evil eve@desk\n"),
        ["user core: extra ssh key: eve@desk (SHA256:...)"],
    ),
    "a key more in another file": (
        lambda host: host.write("/home/ops/.ssh/authorized_keys", f"# mine\n\n{KEY[:-4]}evil eve@desk\n", 0o600),
        ["user ops: extra ssh key: eve@desk (SHA256:...)"],
    ),
    "a key without its file": (
        lambda host: host.place("/home/core/.ssh/authorized_keys.d/ignition").unlink(),
        ["user core: ssh key missing: first (SHA256:...)", "user core: ssh key missing: (no comment) (SHA256:...)"],
    ),
    "a key with other options": (
        lambda host: host.append("/home/core/.ssh/authorized_keys.d/ignition", f'command="/bin/sh -i" {KEY} x\n'),
        ["user core: ssh key with other options: x (SHA256:...)"],
    ),
    "a file of keys that others write": (
        lambda host: host.place("/home/core/.ssh/authorized_keys.d/ignition").chmod(0o666),
        ["user core: .ssh/authorized_keys.d/ignition can be written by others"],
    ),
    "a setting of k3s more": (
        lambda host: host.write("/etc/rancher/k3s/config.yaml.d/99-mine.yaml", "debug: true\n"),
        ["file /etc/rancher/k3s/config.yaml.d/99-mine.yaml: too much"],
    ),
    "a manifest more": (
        lambda host: host.write(f"{MANIFESTS}/i12e-old.yaml", "x"),
        [f"file {MANIFESTS}/i12e-old.yaml: too much"],
    ),
    "settings of k3s": (
        lambda host: edit(host, "/etc/rancher/k3s/config.yaml", "node-name:", "node-nome:"),
        ["file /etc/rancher/k3s/config.yaml: content differs"],
    ),
}


def without_sums(line: str) -> str:
    """Given a line that tells of a key, return it with dots for the fingerprint."""
    head, found, _ = line.partition("(SHA256:")
    return f"{head}(SHA256:...)" if found else line


@pytest.mark.parametrize("what", BY_HAND)
def test_what_is_changed_by_hand_is_named_and_nothing_else(own: Host, what: str) -> None:
    change, expected = BY_HAND[what]
    change(own)
    found = [without_sums(line) for line in own.told()]
    if what == "settings of k3s":
        found = [line.partition(" (")[0] for line in found]
    assert found == expected


def test_all_changes_at_once_are_all_named(own: Host) -> None:
    for what in ("a file", "a mode", "a unit", "a link", "a user's id"):
        BY_HAND[what][0](own)
    named = {(one.kind, one.name) for one in own.drift()}
    assert named >= {("file", "/etc/crictl.yaml"), ("file", "/opt/own/run"), ("unit", "own.service"), ("user", "ops")}


def test_the_lines_of_a_file_that_everybody_may_read_are_told(own: Host) -> None:
    own.append("/etc/last", "more\npassword: hunter2\n")
    (difference,) = own.drift()
    assert difference.lines == ("  own = yes", "+ more", "+ password: ***")
    assert drift.text([difference]) == [
        "file       /etc/last  content differs (33 bytes, not 10)",
        "             own = yes",
        "           + more",
        "           + password: ***",
    ]
    assert json.loads(json.dumps(drift.as_json([difference])))[0]["lines"] == list(difference.lines)


def test_a_large_file_is_not_brought(own: Host) -> None:
    own.append("/etc/last", "x" * 70_000)
    (difference,) = own.drift()
    assert (difference.what, difference.lines) == ("content differs (70010 bytes, not 10)", ())


# --- odd names, fetched files, passwords

ODD = (
    "/a b/it's",
    '/a b/"quoted"',
    "/a b/$(touch x)`id`$HOME",
    "/a b/new\nline",
    "/a b/-é→😀",
    "/a b/*",
    "/a b/\\n\ttab",
)


def test_files_of_odd_names_are_compared_as_well(tmp_path: Path) -> None:
    files = [{"path": path, "mode": 0o600, "contents": {"source": f"data:,{n}"}} for n, path in enumerate(ODD)]
    links = [{"path": f"/l{path}", "target": path} for path in ODD]
    unit = {"name": "a\\x2d b.service", "dropins": [{"name": "it's.conf", "contents": "[Unit]\n"}]}
    storage = {"files": files, "links": links}
    host = made({"ignition": {"version": "3.4.0"}, "storage": storage, "systemd": {"units": [unit]}}, tmp_path)
    assert host.told() == []
    for path in ODD:
        host.place(path).write_text("other")
        linked(host, f"/l{path}", "x\n'")
    host.write(f"{UNITS}/a\\x2d b.service.d/x'\n.conf", "")
    found = [(one.kind, one.name) for one in host.drift()]
    assert found == [
        *(("file", path) for path in ODD),
        *(("link", f"/l{path}") for path in ODD),
        ("unit", "a\\x2d b.service.d/x'\n.conf"),
    ]
    assert all(line.isprintable() for line in drift.text(host.drift()))


def test_a_fetched_file_is_compared_by_its_hash_and_without_one_not_at_all(tmp_path: Path) -> None:
    sha512 = "sha512-" + "0" * 128
    config = {
        "storage": {
            "files": [
                {"path": "/a", "contents": {"source": "https://h/a", "verification": {"hash": sha512}}},
                {"path": "/b", "contents": {"source": "https://h/b"}},
                {"path": "/c", "contents": {"source": "https://h/c"}},
            ]
        }
    }
    host = Host(config, tmp_path)
    host.write("/etc/passwd", "root:x:0:0::/root:/bin/sh\n")
    host.write("/etc/group", "root:x:0:\n")
    host.write("/a", "x")
    host.write("/b", "x")
    assert [(one.name, one.what, one.unknown) for one in host.drift()] == [
        ("/a", "content differs (1 bytes, another hash)", False),
        ("/b", "its content cannot be compared: it is fetched, and the config has no hash of what it is to be", True),
        ("/c", "missing", False),
    ]


USER = {"name": "kim", "shell": "/bin/sh", "gecos": "Kim: no".replace(":", ""), "groups": ["docker"], "uid": 3000}
HASH = "$6$abcdefgh$0123456789hunter2"


def test_a_password_is_compared_and_never_brought(tmp_path: Path) -> None:
    config = {
        "ignition": {"version": "3.4.0"},
        "passwd": {"users": [{**USER, "passwordHash": HASH}], "groups": [{"name": "kims", "passwordHash": HASH}]},
    }
    host = made(config, tmp_path)
    assert host.told() == []
    edit(host, "/etc/shadow", HASH, HASH.replace("hunter2", "hunter3"))
    edit(host, "/etc/gshadow", HASH, "!")
    edit(host, "/etc/passwd", "/bin/sh", "/bin/zsh")
    edit(host, "/etc/passwd", "Kim no", "Kim")
    edit(host, "/etc/group", "docker:x:233:core,kim", "docker:x:233:core")
    assert host.told() == [
        "user kim: full name Kim, not Kim no",
        "user kim: shell /bin/zsh, not /bin/sh",
        "user kim: not in the group docker",
        "user kim: another password",
        "group kims: another password",
    ]
    assert "hunter" not in brought(host.look())


def test_a_user_that_should_not_be_is_named(tmp_path: Path) -> None:
    host = made(
        {"ignition": {"version": "3.4.0"}, "passwd": {"users": [{"name": "core", "shouldExist": False}]}}, tmp_path
    )
    assert host.told() == []
    host.append("/etc/passwd", "core:x:500:500::/home/core:/bin/sh\n")
    assert host.told() == ["user core: is there, and the config removes it"]


def test_a_hard_link_is_compared_by_the_file_that_it_is(tmp_path: Path) -> None:
    file = {"path": "/a", "contents": {"source": "data:,x"}}
    storage = {"files": [file], "links": [{"path": "/b", "target": "/a", "hard": True}]}
    host = made({"ignition": {"version": "3.4.0"}, "storage": storage}, tmp_path)
    assert host.told() == []
    host.place("/b").unlink()
    host.write("/b", "x")
    assert host.told() == ["link /b: is not the same file as /a"]


def test_what_is_appended_to_a_file_of_the_system_is_looked_for_at_its_end(tmp_path: Path) -> None:
    config = {"storage": {"files": [{"path": "/etc/profile", "append": [{"source": "data:,umask%20077%0A"}]}]}}
    host = Host(config, tmp_path)
    host.write("/etc/passwd", "")
    host.write("/etc/group", "")
    host.write("/etc/profile", "# of the system\numask 077\n")
    assert host.told() == []
    host.write("/etc/profile", "# of the system\n")
    assert host.told() == ["file /etc/profile: does not end with what the config appends"]


def test_what_is_not_compared_is_said_so(tmp_path: Path) -> None:
    merge = {"config": {"merge": [{"source": "https://h/a"}]}}
    host = Host({"ignition": merge, "storage": {"disks": [{"device": "/dev/a"}]}}, tmp_path)
    host.write("/etc/passwd", "")
    host.write("/etc/group", "")
    assert [(one.name, one.unknown) for one in host.drift()] == [("ignition.config", True), ("storage.disks", True)]


def test_kernel_arguments_are_looked_for_on_the_command_line(tmp_path: Path) -> None:
    arguments = {"shouldExist": ["quiet", "nosmt=force"], "shouldNotExist": ["debug"]}
    host = Host({"kernelArguments": arguments}, tmp_path)
    host.write("/etc/passwd", "")
    host.write("/etc/group", "")
    host.write("/proc/cmdline", "root=/dev/a quiet debug\n")
    assert host.told() == ["kernel nosmt=force: missing", "kernel debug: is there, and the config removes it"]


def test_without_a_root_of_its_own_the_script_asks_the_system(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "a").chmod(0o644)
    config = {
        "storage": {"files": [{"path": f"{tmp_path}/a", "contents": {"source": "data:,x"}, "user": {"name": "root"}}]},
        "passwd": {"users": [{"name": "root", "uid": 0, "homeDir": "/root"}], "groups": [{"name": "root", "gid": 0}]},
    }
    script = drift.script(config)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert [one for one in compare(config, done.stdout) if "ssh" not in one.what] == []


# --- secrets, and answers that are not whole


def brought(output: str) -> str:
    """Given what the script printed, return it with all that is packed in it."""
    found = [output]
    for word in output.split():
        if len(word) % 4 == 0:
            try:
                found.append(base64.b64decode(word, validate=True).decode(errors="replace"))
            except ValueError:
                continue
    return "\n".join(found)


def test_nothing_secret_is_in_the_script_nor_in_what_it_brings_nor_in_the_differences(tmp_path: Path) -> None:
    storage = {
        "files": [
            {"path": "/closed", "mode": 0o600, "contents": {"source": "data:,hunter1"}},
            {"path": "/group", "mode": 0o640, "contents": {"source": "data:,hunter2"}},
            {"path": "/open", "mode": 0o644, "contents": {"source": "data:,a"}},
            {"path": "/opened", "mode": 0o600, "contents": {"source": "data:,hunter3"}},
            {"path": "/shut", "mode": 0o644, "contents": {"source": "data:,a"}},
            {"path": "/fetched", "contents": {"source": "https://u:hunter4@h/?k=hunter5"}},
        ]
    }
    user = {"name": "core", "passwordHash": "$6$a$hunter6", "sshAuthorizedKeys": [f'environment="A=hunter7" {KEY}']}
    config = {"ignition": {"version": "3.4.0"}, "storage": storage, "passwd": {"users": [user]}}
    fetched = storage["files"].pop()
    host = made(config, tmp_path)
    storage["files"].append(fetched)
    host.write("/fetched", "x")
    assert [one.what for one in host.drift() if not one.unknown] == []
    for name, mode in (("closed", 0o600), ("group", 0o640), ("opened", 0o644), ("shut", 0o600)):
        host.write(f"/{name}", f"password: hunter-{name}\n", mode)
    host.write("/open", "token=hunter8\nhttps://u:hunter9@h/\n")
    host.append("/home/core/.ssh/authorized_keys.d/ignition", 'environment="A=hunter10" ssh-rsa AAAAB3 x\nhunter11\n')
    assert "hunter" not in drift.script(config)
    output = host.look()
    # what is in a file that everybody on the host may read is brought, to be compared
    assert "hunter" not in brought(output).replace("token=hunter8\nhttps://u:hunter9@h/\n", "")
    found = compare(config, output)
    assert {one.name for one in found} == {"/closed", "/group", "/open", "/opened", "/shut", "/fetched", "core"}
    assert "hunter" not in json.dumps(drift.as_json(found)) + "\n".join(drift.text(found, width=9999))


def test_secrets_of_ours_are_masked_by_redact(own: Host) -> None:
    own.append("/etc/last", "x abcd\n")
    (difference,) = compare(own.config, own.look(), lambda text: text.replace("abcd", "***"))
    assert difference.lines[-1] == "+ x ***"


def test_an_answer_that_is_cut_is_an_error(own: Host) -> None:
    output = own.look()
    for length in (0, 100, len(output) // 2, len(output) - len("end\n")):
        with pytest.raises(UserError, match="not whole"):
            compare(own.config, output[:length])


def test_the_answer_to_another_config_is_an_error(hosts: Callable[[str], Host]) -> None:
    with pytest.raises(UserError, match="of another config"):
        compare(hosts("example/server-1").config, hosts("example/server-2").look())


def test_what_a_shell_says_before_and_after_does_not_matter(own: Host) -> None:
    assert compare(own.config, f"Welcome\n{own.look()}bye\n") == []


def test_shellcheck_has_nothing_against_the_script(own: Host) -> None:
    shellcheck = shutil.which("shellcheck")
    need(shellcheck, "shellcheck")
    assert shellcheck
    done = subprocess.run(
        [shellcheck, "--shell=sh", "-"], input=drift.script(own.config), capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
