"""k3s-install, k3s-selinux, unpack-programs, k3s-killall.sh and e on trees of our own, with programs of our own.

No network, no root, no k3s.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

import ignition
from conftest import need

FILES = Path(__file__).parent.parent / "templates/files"
SCRIPTS = sorted(FILES.glob("*.sh"))
VERSION = "v1.35.4+k3s1"
SCRIPT_URL = "https://raw.example/install.sh"

# Stands for k3s's install script: takes its settings from the same variables, and notes them.
INSTALL_SH = """#!/bin/sh
set -e
env | grep -E '^(INSTALL_K3S|GITHUB_URL|TMPDIR|K3S_)' | sort >"$I12E_ROOT/settings"
case $INSTALL_K3S_EXEC in server) unit=k3s ;; *) unit=k3s-$INSTALL_K3S_EXEC ;; esac
tmp=$(mktemp -d -t k3s-install.XXXXXXXXXX)
printf '#!/bin/sh\\necho "k3s version %s (deadbeef)"\\n' "$(cat "$I12E_ROOT/serves")" >"$tmp/k3s.bin"
[ ! -e "$I12E_ROOT/breaks" ] || exit 1
chmod 755 "$tmp/k3s.bin"
mv -f "$tmp/k3s.bin" "$INSTALL_K3S_BIN_DIR/k3s"
echo "# INSTALL_K3S_VERSION" >"$INSTALL_K3S_SYSTEMD_DIR/$unit.service"
"""

# Takes the options that the scripts give it, and the answer from the file `served`.
CURL = """#!/bin/sh
while [ $# -gt 1 ]; do
    case $1 in
    --fail | --silent | --show-error | --location) shift ;;
    --connect-timeout | --max-time | --cacert | --cert | --key) shift 2 ;;
    --output) out=$2 && shift 2 ;;
    *) echo "curl: unknown option $1" >&2 && exit 2 ;;
    esac
done
echo "curl $1" >>"$I12E_ROOT/calls"
[ ! -e "$I12E_ROOT/cut" ] || { head -c 100 "$I12E_ROOT/served" >"$out"; exit 18; }
[ -e "$I12E_ROOT/served" ] || { echo "curl: (6) Could not resolve host" >&2; exit 6; }
if [ "${out:-}" ]; then cp "$I12E_ROOT/served" "$out"; else cat "$I12E_ROOT/served"; fi
"""
NOTED = '#!/bin/sh\necho "${0##*/} $*" >>"$I12E_ROOT/calls"\n'
RPM = NOTED + '[ -e "$I12E_ROOT/policy" ]\n'


@dataclass
class Host:
    """A host's files and programs."""

    root: Path

    def configure(self, **changes: str) -> None:
        settings = {"cluster": "example", "host": "server-1", "role": "server", "k3s_version": VERSION}
        settings |= {"bin": "/opt/bin", "selinux": "no", "script_url": SCRIPT_URL}
        settings |= {"releases_url": "https://releases.example"}
        self.write("etc/i12e/k3s.conf", "".join(f"{key}='{value}'\n" for key, value in {**settings, **changes}.items()))
        self.write("serves", changes.get("k3s_version", VERSION))

    def write(self, path: str, text: str = "") -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def read(self, path: str) -> str:
        return (self.root / path).read_text()

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a script; the calls that it makes of other programs are noted anew."""
        self.write("calls")
        return subprocess.run(
            ["sh", str(FILES / script), *arguments],
            env={"PATH": f"{self.root / 'programs'}:{os.environ['PATH']}", "I12E_ROOT": str(self.root)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def installs(self) -> list[str]:
        """Run k3s-install, which must succeed; return the calls that it made."""
        done = self.run("k3s-install.sh")
        assert done.returncode == 0, done.stderr
        return self.read("calls").splitlines()

    def fails(self) -> str:
        """Run k3s-install, which must fail, start nothing and leave nothing behind; return what it says."""
        done = self.run("k3s-install.sh")
        assert done.returncode == 1, done.stdout
        assert "systemctl" not in self.read("calls")
        assert not (self.root / "opt/i12e/k3s-installed").exists()
        assert list(self.root.glob("**/.k3s-install.*")) == []
        return done.stderr


@pytest.fixture
def host(tmp_path: Path) -> Host:
    found = Host(tmp_path)
    for name, text in {"curl": CURL, "systemctl": NOTED, "restorecon": NOTED, "rpm": RPM, "rpm-ostree": NOTED}.items():
        found.write(f"programs/{name}", text).chmod(0o755)
    found.write("served", INSTALL_SH)
    found.write("proc/sys/kernel/random/boot_id", "boot-1\n")
    found.configure()
    return found


STARTED = [
    "systemctl daemon-reload",
    "systemctl enable --quiet k3s.service",
    "systemctl restart --no-block k3s.service",
]


def test_it_installs_the_pinned_version_and_starts_k3s(host: Host) -> None:
    assert host.installs() == [f"curl {SCRIPT_URL}", *STARTED]
    settings = dict(line.split("=", 1) for line in host.read("settings").splitlines())
    work = settings.pop("TMPDIR")
    assert work.startswith(f"{host.root}/opt/bin/.k3s-install.")
    assert settings == {
        "GITHUB_URL": "https://releases.example",
        "INSTALL_K3S_VERSION": VERSION,
        "INSTALL_K3S_EXEC": "server",
        "INSTALL_K3S_BIN_DIR": f"{host.root}/opt/bin",
        "INSTALL_K3S_SYSTEMD_DIR": f"{host.root}/etc/systemd/system",
        "INSTALL_K3S_SKIP_SELINUX_RPM": "true",
        "INSTALL_K3S_SKIP_ENABLE": "true",
        "INSTALL_K3S_SKIP_START": "true",
    }
    assert os.listdir(host.root / "opt/bin") == ["k3s"]


def test_an_agent_gets_the_unit_of_an_agent(host: Host) -> None:
    host.configure(role="agent")
    assert host.installs()[-1] == "systemctl restart --no-block k3s-agent.service"


def test_a_reboot_installs_nothing_and_needs_no_network(host: Host) -> None:
    host.installs()
    (host.root / "served").unlink()
    assert host.installs() == []


def test_another_version_is_installed(host: Host) -> None:
    host.installs()
    host.configure(k3s_version="v1.35.5+k3s1")
    assert host.installs() == [f"curl {SCRIPT_URL}", *STARTED]
    assert "v1.35.5+k3s1" in host.read("opt/bin/k3s")


@pytest.mark.parametrize("lost", ["opt/bin/k3s", "etc/systemd/system/k3s.service", "opt/i12e/k3s-installed"])
def test_what_got_lost_is_installed_again(host: Host, lost: str) -> None:
    host.installs()
    (host.root / lost).unlink()
    assert host.installs()[0] == f"curl {SCRIPT_URL}"


def test_a_binary_that_is_another_one_is_installed_again(host: Host) -> None:
    host.installs()
    host.write("opt/bin/k3s", "#!/bin/sh\necho 'k3s version v1.0.0 (0)'\n")
    assert host.installs()[0] == f"curl {SCRIPT_URL}"


def test_a_first_try_without_network_fails_and_a_second_one_installs(host: Host) -> None:
    (host.root / "served").unlink()
    assert f"cannot fetch {SCRIPT_URL}" in host.fails()
    host.write("served", INSTALL_SH)
    assert host.installs()[1:] == STARTED


def test_a_download_that_breaks_off_is_never_run(host: Host) -> None:
    host.write("cut")
    assert "cannot fetch" in host.fails()
    assert not (host.root / "settings").exists()


@pytest.mark.parametrize(
    "served",
    ["<html>log in</html>\n", "#!/bin/sh\necho other\n", INSTALL_SH + "if true; then # INSTALL_K3S_VERSION\n"],
)
def test_what_is_not_the_install_script_is_never_run(host: Host, served: str) -> None:
    host.write("served", served)
    assert "is not k3s's install script" in host.fails()
    assert not (host.root / "settings").exists()


def test_an_install_script_that_fails_is_tried_again(host: Host) -> None:
    host.write("breaks")
    assert "install script failed" in host.fails()
    (host.root / "breaks").unlink()
    assert host.installs()[1:] == STARTED


def test_a_binary_of_another_version_is_not_taken(host: Host) -> None:
    host.write("serves", "v1.35.3+k3s1")
    assert f"is v1.35.3+k3s1, not {VERSION}" in host.fails()


def test_what_a_killed_try_left_is_cleaned_up(host: Host) -> None:
    host.write("opt/bin/.k3s-install.abc123/install.sh")
    host.installs()
    assert os.listdir(host.root / "opt/bin") == ["k3s"]


def test_with_selinux_nothing_is_installed_before_the_policy_is_there(host: Host) -> None:
    host.configure(selinux="yes", bin="/usr/local/bin")
    assert "waits for the SELinux policy" in host.fails()
    host.write("policy")
    calls = host.installs()
    assert any(call.startswith(f"restorecon -i {host.root}/usr/local/bin/k3s ") for call in calls)
    assert calls[-3:] == STARTED


def test_systemd_tries_again_for_ever_with_a_pause() -> None:
    settings = ignition.unit((FILES.parent / "units/k3s-install.service.j2").read_text())
    assert ("Unit", "StartLimitIntervalSec", "0") in settings
    assert ("Service", "Restart", "on-failure") in settings
    assert ("Service", "RestartSec", "15") in settings


# --- k3s-selinux


def test_the_policy_is_layered_and_the_host_rebooted_once(host: Host) -> None:
    assert host.run("k3s-selinux.sh").returncode == 0
    calls = host.read("calls").splitlines()[1:]
    assert calls == [
        "rpm-ostree install --assumeyes --allow-inactive --idempotent k3s-selinux",
        "systemctl --no-block reboot",
    ]
    host.write("policy")
    host.write("proc/sys/kernel/random/boot_id", "boot-2\n")
    assert host.run("k3s-selinux.sh").returncode == 0
    assert host.read("calls") == "rpm -q --quiet k3s-selinux\n"


def test_a_policy_that_is_not_there_after_the_reboot_does_not_reboot_again(host: Host) -> None:
    host.run("k3s-selinux.sh")
    host.write("proc/sys/kernel/random/boot_id", "boot-2\n")
    done = host.run("k3s-selinux.sh")
    assert done.returncode == 1
    assert "rpm-ostree status" in done.stderr
    assert "reboot" not in host.read("calls")


def test_where_ignition_wrote_k3s_it_does_not_start_before_the_policy_is_there(host: Host) -> None:
    done = host.run("k3s-selinux.sh", "--label")
    assert done.returncode == 1
    assert "k3s does not start before its SELinux policy is there" in done.stderr
    assert host.read("calls") == "rpm -q --quiet k3s-selinux\n"


@pytest.mark.parametrize("role", ["server", "agent"])
def test_with_the_policy_k3ss_files_get_their_labels_at_each_start(host: Host, role: str) -> None:
    host.configure(role=role, bin="/usr/local/bin")
    host.write("policy")
    assert host.run("k3s-selinux.sh", "--label").returncode == 0
    labelled = [word for line in host.read("calls").splitlines() for word in line.split() if word.startswith("/")]
    paths = {path.removeprefix(str(host.root)) for path in labelled}
    assert {"/usr/local/bin/k3s", "/etc/systemd/system/k3s.service", "/var/lib/rancher/k3s"} <= paths
    assert ("/var/lib/rancher/k3s/server/manifests" in paths) == (role == "server")


def test_k3s_selinux_does_nothing_with_an_argument_that_it_does_not_know(host: Host) -> None:
    assert host.run("k3s-selinux.sh", "--lable").returncode == 3
    assert host.read("calls") == ""


# --- unpack-programs


def archive(host: Host, name: str, program: str, text: str) -> None:
    """Put an archive with one program onto a host."""
    host.write(f"made/{program}", f"#!/bin/sh\necho {text}\n").chmod(0o755)
    (host.root / "opt/i12e/artifacts").mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["tar", "-czf", host.root / "opt/i12e/artifacts" / name, program], cwd=host.root / "made", check=True
    )


def test_programs_are_unpacked_once_and_again_when_the_list_changes_or_one_got_lost(host: Host) -> None:
    for version in ("one", "two"):
        archive(host, f"{version}.tar.gz", "age/age", version)
        host.write("etc/i12e/programs", f"{version}.tar.gz age/age\n")
        assert host.run("unpack-programs.sh").stdout == f"unpack-programs: {host.root}/opt/bin/age\n"
        assert version in host.read("opt/bin/age")
    assert host.run("unpack-programs.sh").stdout == "unpack-programs: they are there\n"
    (host.root / "opt/bin/age").unlink()
    assert host.run("unpack-programs.sh").stdout == f"unpack-programs: {host.root}/opt/bin/age\n"
    assert os.listdir(host.root / "opt/bin") == ["age"]


def test_an_archive_without_the_program_leaves_nothing_and_is_tried_again(host: Host) -> None:
    archive(host, "age.tar.gz", "age/other", "other")
    host.write("etc/i12e/programs", "age.tar.gz age/age\n")
    for _ in range(2):
        done = host.run("unpack-programs.sh")
        assert done.returncode == 1
        assert f"cannot take age/age out of {host.root}/opt/i12e/artifacts/age.tar.gz" in done.stderr
        assert os.listdir(host.root / "opt/bin") == []


# --- k3s-killall.sh

MOUNTS = """\
proc /proc proc rw 0 0
tmpfs /run/k3s/containerd/pod/shm tmpfs rw 0 0
tmpfs /var/lib/kubelet/pods/1/volumes tmpfs rw 0 0
tmpfs /var/lib/kubelet/pods/1/volumes/inside tmpfs rw 0 0
/dev/sda9 /var/lib/rancher/k3s ext4 rw 0 0
nsfs /run/netns/cni-1 nsfs rw 0 0
"""


def running(host: Host) -> None:
    """Make a host on which k3s and pods run, with programs that note what is asked of them."""
    for name in ("umount", "ip"):
        host.write(f"programs/{name}", NOTED).chmod(0o755)
    host.write("programs/sleep", "#!/bin/sh\nexit 0\n").chmod(0o755)
    host.write("proc/self/mounts", MOUNTS)
    for group in ("system.slice/k3s.service", "system.slice/sshd.service", "kubepods.slice"):
        host.write(f"sys/fs/cgroup/{group}/cgroup.kill")
        host.write(f"sys/fs/cgroup/{group}/cgroup.events", "populated 0\nfrozen 0\n")
    host.write("run/netns/cni-1")
    for link in ("cni0", "eth0", "flannel-wg"):
        host.write(f"sys/class/net/{link}")


def test_killall_stops_k3s_and_all_pods_and_touches_nothing_else(host: Host) -> None:
    running(host)
    done = host.run("k3s-killall.sh")
    assert done.returncode == 0, done.stderr
    assert host.read("calls").splitlines() == [
        "systemctl stop k3s.service",
        "umount /var/lib/kubelet/pods/1/volumes/inside",
        "umount /var/lib/kubelet/pods/1/volumes",
        "umount /run/netns/cni-1",
        "umount /run/k3s/containerd/pod/shm",
        "ip netns delete cni-1",
        "ip link delete cni0",
        "ip link delete flannel-wg",
    ]
    assert host.read("sys/fs/cgroup/system.slice/k3s.service/cgroup.kill") == "1\n"
    assert host.read("sys/fs/cgroup/kubepods.slice/cgroup.kill") == "1\n"
    assert host.read("sys/fs/cgroup/system.slice/sshd.service/cgroup.kill") == ""


def test_killall_tells_what_is_still_alive_and_unmounts_nothing_below_it(host: Host) -> None:
    running(host)
    host.write("sys/fs/cgroup/kubepods.slice/cgroup.events", "populated 1\nfrozen 0\n")
    done = host.run("k3s-killall.sh")
    assert done.returncode == 1
    assert f"still alive: {host.root}/sys/fs/cgroup/kubepods.slice" in done.stderr
    assert host.read("calls") == "systemctl stop k3s.service\n"


# --- e


def test_e_gives_etcdctl_k3s_s_certificates(host: Host) -> None:
    tls = host.write("var/lib/rancher/k3s/server/tls/etcd/client.key").parent
    host.write("programs/etcdctl", '#!/bin/sh\nenv | grep ^ETCDCTL | sort\necho "$@"\n').chmod(0o755)
    done = host.run("e.sh", "member", "list")
    assert done.stdout.splitlines() == [
        f"ETCDCTL_CACERT={tls}/server-ca.crt",
        f"ETCDCTL_CERT={tls}/client.crt",
        "ETCDCTL_ENDPOINTS=https://127.0.0.1:2379",
        f"ETCDCTL_KEY={tls}/client.key",
        "member list",
    ]


def test_e_without_etcdctl_says_which_one_to_get(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = host.root / "tools"  # all that it needs, and not the etcdctl that this machine may have
    tools.mkdir()
    for name in ("sh", "cat", "id", "sed", "head", "grep"):
        (tools / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(tools))
    host.write("var/lib/rancher/k3s/server/tls/etcd/client.key")
    host.write("served", '{"etcdserver":"3.6.7"}')
    done = host.run("e.sh", "member", "list")
    assert done.returncode == 1
    assert '{"etcdserver":"3.6.7"}' in done.stderr
    assert "etcd-io/etcd/releases" in done.stderr


def test_e_on_a_host_without_etcd_says_so(host: Host) -> None:
    assert "runs on SQLite" in host.run("e.sh").stderr


# --- all of them


def test_shellcheck_finds_nothing() -> None:
    need(shutil.which("shellcheck"), "shellcheck (Debian: apt-get install shellcheck)")
    done = subprocess.run(["shellcheck", "--shell=sh", *SCRIPTS], capture_output=True, text=True, check=False)
    assert done.stdout == ""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_jinja_leaves_a_script_as_it_is(script: Path) -> None:
    text = script.read_text()
    assert [mark for mark in ("{{", "{%", "{#") if mark in text] == []
