"""k3s-gate on trees of our own, with a curl of our own: no network, no root, no k3s."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

GATE = Path(__file__).parent.parent / "templates/files/k3s-gate.sh"
MACHINE = "8f3c0b0e6a5d4c1f9e2b7a6d5c4b3a29"
URLS = "https://192.0.2.12:6443 https://192.0.2.13:6443"
LIVING = "https://192.0.2.13:6443"

# Refuses options that the real one may not have, and answers for the URLs in the file `alive`.
CURL = """#!/bin/sh
while [ $# -gt 1 ]; do
    case $1 in
    --silent | --fail | --insecure) shift ;;
    --noproxy | --max-time) shift 2 ;;
    *) echo "curl: unknown option $1" >&2 && exit 2 ;;
    esac
done
echo "$1" >>"$I12E_ROOT/asked"
grep -qxF "${1%/cacerts}" "$I12E_ROOT/alive" || exit 7
cat "$I12E_ROOT/answer"
"""

# Kills the gate (its process group) at the I12E_CRASH_AT-th program that it runs.
CRASHER = """#!/bin/sh
echo >>"$I12E_ROOT/ran"
[ "$(wc -l <"$I12E_ROOT/ran")" != "${I12E_CRASH_AT:-0}" ] || kill -9 0
exec "$I12E_REAL/${0##*/}" "$@"
"""


@dataclass
class Host:
    """A host's files, and what its k3s would do."""

    root: Path
    shell: str = "sh"

    def configure(self, **changes: str) -> None:
        settings = {"cluster": "example", "host": "server-1", "role": "server", "datastore": "etcd", "join_urls": URLS}
        lines = [f"{key}='{value}'\n" for key, value in {**settings, **changes}.items()]
        self.write("etc/i12e/k3s.conf", "".join(lines))

    def write(self, path: str, text: str = "") -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def permit(self, **changes: str) -> None:
        said = {"permit": "1", "id": "0a1b2c3d", "action": "found", "cluster": "example", "host": "server-1"}
        lines = [f"{key}={value}\n" for key, value in {**said, "machine-id": MACHINE, **changes}.items()]
        self.write("var/lib/i12e/permit", "".join(lines))

    def alive(self, *urls: str) -> None:
        self.write("alive", "".join(f"{url}\n" for url in urls))

    def start(self, **environ: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.root / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            [self.shell, str(GATE)],
            env={"PATH": path, "I12E_ROOT": str(self.root), **environ},
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
            timeout=30,
        )

    def starts(self) -> dict[str, object]:
        """Start k3s; return what the gate tells it."""
        done = self.start()
        assert done.returncode == 0, done.stderr
        found = self.decision()
        assert found is not None
        return found

    def refuses(self) -> str:
        """Start k3s, which must not start and find nothing to found a cluster by; return what the gate says."""
        done = self.start()
        assert done.returncode == 1, done.stdout
        assert self.decision() is None
        return done.stdout + done.stderr

    def decision(self) -> dict[str, object] | None:
        folder = self.root / "etc/rancher/k3s/config.yaml.d"
        file = folder / "90-i12e.yaml"
        if not file.exists():
            return None
        assert [entry.name for entry in folder.iterdir()] == [file.name]
        assert file.stat().st_mode & 0o777 == 0o600
        found = yaml.safe_load(file.read_text())
        assert isinstance(found, dict)
        return found

    def has_etcd(self) -> None:
        self.write("var/lib/rancher/k3s/server/db/etcd/member/wal/0.wal")

    def has_sqlite(self) -> None:
        self.write("var/lib/rancher/k3s/server/db/state.db")

    def left(self, name: str) -> bool:
        return (self.root / "var/lib/i12e" / name).exists()


@pytest.fixture(params=["sh", "bash"])
def host(tmp_path: Path, request: pytest.FixtureRequest) -> Host:
    found = Host(tmp_path, request.param)
    found.write("etc/machine-id", f"{MACHINE}\n")
    found.write("answer", "-----BEGIN CERTIFICATE-----\n")
    found.write("bin/curl", CURL).chmod(0o755)
    (tmp_path / "var/lib/i12e").mkdir(parents=True)
    found.configure()
    found.alive()
    return found


# --- founding


def test_a_permit_founds_a_cluster_on_etcd(host: Host) -> None:
    host.permit()
    assert host.starts() == {"cluster-init": True}
    assert not host.left("permit")
    assert host.left("permit.used")


def test_a_permit_founds_a_cluster_on_sqlite_without_a_word_to_k3s(host: Host) -> None:
    host.configure(datastore="sqlite", join_urls="")
    host.permit()
    assert host.starts() == {}


def test_after_founding_the_next_start_is_a_member_s(host: Host) -> None:
    host.permit()
    host.starts()
    host.has_etcd()
    assert "cluster-init" not in host.starts()


def test_a_crash_after_the_permit_was_used_up_needs_a_new_one(host: Host) -> None:
    host.configure(join_urls="")
    host.permit()
    host.starts()  # and k3s dies before it makes any data
    assert "doit os_deploy" in host.refuses()
    host.permit(id="another-one")
    assert host.starts() == {"cluster-init": True}


def test_a_used_permit_that_is_laid_again_is_refused(host: Host) -> None:
    host.configure(join_urls="")
    host.permit()
    host.starts()
    host.permit()
    assert "it was used before" in host.refuses()


def test_no_crash_at_any_program_that_the_gate_runs_lets_a_permit_found_twice(tmp_path: Path) -> None:
    names = ("cat", "sed", "tr", "grep", "mv", "rm", "mkdir", "sync", "head")
    real = next(Path(place) for place in ("/usr/bin", "/bin") if all((Path(place) / name).exists() for name in names))
    crashed = 0
    for step in range(1, 60):
        host = Host(tmp_path / str(step))
        host.write("etc/machine-id", f"{MACHINE}\n")
        for name in names:
            host.write(f"bin/{name}", CRASHER).chmod(0o755)
        host.configure(join_urls="")
        host.permit()
        runs = [host.start(I12E_REAL=str(real), I12E_CRASH_AT=str(step))]
        crashed += runs[0].returncode == -signal.SIGKILL
        (host.root / "ran").write_text("")
        runs += [host.start(I12E_REAL=str(real)) for _ in range(3)]
        founded = [run for run in runs if run.returncode == 0]
        assert len(founded) <= 1, step
        assert host.left("permit") is False, step
        if runs[0].returncode == 0:
            break
    assert crashed > 10, "the crashes were none"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"cluster": "prod"}, "it is for the cluster prod, this is example"),
        ({"host": "server-2"}, "it is for the host server-2, this is server-1"),
        ({"machine-id": "0" * 32}, f"it is for the machine {'0' * 32}, this is {MACHINE}"),
        ({"action": "convert"}, "it is for action=convert, and this start needs action=found"),
        ({"permit": "2"}, "it does not say permit=1"),
        ({"id": ""}, "it has no usable id"),
        ({"id": "a b"}, "it has no usable id"),
        ({"host": "server-1\nhost=server-2"}, "it is for the host"),
    ],
)
def test_a_permit_that_does_not_fit_is_refused_and_stays_where_it_is(
    host: Host, changes: dict[str, str], why: str
) -> None:
    host.configure(join_urls="")
    host.permit(**changes)
    assert why in host.refuses()
    assert host.left("permit")
    assert not host.left("permit.used")


def test_a_machine_without_an_id_founds_nothing(host: Host) -> None:
    host.configure(join_urls="")
    host.write("etc/machine-id")
    host.permit(**{"machine-id": ""})
    assert "without /etc/machine-id" in host.refuses()


def test_an_empty_permit_and_a_linked_one_are_refused(host: Host) -> None:
    host.configure(join_urls="")
    permit = host.write("var/lib/i12e/permit")
    assert "refused" in host.refuses()
    permit.unlink()
    host.permit()
    permit.symlink_to(permit.rename(host.root / "elsewhere"))
    assert "no regular file" in host.refuses()


def test_a_permit_that_cannot_be_used_up_founds_nothing(host: Host) -> None:
    host.permit()
    host.write("bin/mv", "#!/bin/sh\nexit 1\n").chmod(0o755)
    assert "could not be used up" in host.refuses()


def test_a_permit_is_void_while_a_server_of_the_cluster_lives(host: Host) -> None:
    host.permit()
    host.alive(LIVING)
    assert host.starts() == {"server": LIVING}
    assert not host.left("permit")


# --- joining


def test_without_data_and_permit_a_server_joins_the_first_server_that_answers(host: Host) -> None:
    host.alive(LIVING)
    assert host.starts() == {"server": LIVING}


def test_what_answers_without_certificates_is_no_k3s(host: Host) -> None:
    host.write("answer", "<html>welcome</html>\n")
    host.alive(*URLS.split())
    assert "none answers" in host.refuses()


def test_when_no_server_answers_the_gate_says_whom_it_waits_for(host: Host) -> None:
    said = host.refuses()
    assert f"none answers of {URLS}" in said
    assert "doit os_deploy" in said


def test_with_nobody_to_join_the_gate_says_what_is_missing(host: Host) -> None:
    host.configure(join_urls="")
    said = host.refuses()
    assert "no data, no good permit" in said
    assert "doit os_deploy" in said


def test_what_an_earlier_start_decided_does_not_outlive_it(host: Host) -> None:
    host.write("etc/rancher/k3s/config.yaml.d/90-i12e.yaml", "cluster-init: true\n")
    host.refuses()


def test_a_refused_permit_does_not_keep_a_server_from_joining(host: Host) -> None:
    host.permit(host="server-2")
    host.alive(LIVING)
    assert host.starts() == {"server": LIVING}


# --- data that is there


def test_a_member_starts_though_no_other_server_answers(host: Host) -> None:
    host.has_etcd()
    assert host.starts() == {"server": URLS.split()[0]}


def test_a_member_is_given_a_server_that_answers(host: Host) -> None:
    host.has_etcd()
    host.alive(LIVING)
    assert host.starts() == {"server": LIVING}


def test_the_only_server_starts_on_its_data(host: Host) -> None:
    host.configure(join_urls="")
    host.has_etcd()
    assert host.starts() == {}


def test_a_leftover_permit_is_removed_from_a_host_that_has_data(host: Host) -> None:
    host.has_etcd()
    host.permit()
    assert "cluster-init" not in host.starts()
    assert not host.left("permit")
    assert not host.left("permit.used")


def test_a_sqlite_server_starts_on_its_data(host: Host) -> None:
    host.configure(datastore="sqlite", join_urls="")
    host.has_sqlite()
    host.permit()
    assert host.starts() == {}
    assert not host.left("permit")


def test_a_removed_member_joins_again_but_never_founds(host: Host) -> None:
    host.has_etcd()
    host.write("var/lib/rancher/k3s/server/db/etcd/tombstone")
    host.permit()
    assert "can only join it again" in host.refuses()
    host.alive(LIVING)
    assert host.starts() == {"server": LIVING}


def test_an_etcd_datastore_is_not_started_as_sqlite(host: Host) -> None:
    host.configure(datastore="sqlite", join_urls="")
    host.has_etcd()
    assert "no way back from etcd" in host.refuses()


# --- converting SQLite to etcd


def test_sqlite_data_under_a_config_that_says_etcd_waits_for_a_permit(host: Host) -> None:
    host.has_sqlite()
    host.permit(action="found")
    assert "takes a permit with action=convert" in host.refuses()


def test_a_permit_to_convert_converts_once(host: Host) -> None:
    host.has_sqlite()
    host.permit(action="convert")
    assert host.starts() == {"cluster-init": True}
    host.refuses()


def test_a_conversion_that_stopped_half_way_is_not_taken_for_a_member(host: Host) -> None:
    host.has_sqlite()
    host.permit(action="convert")
    host.starts()
    host.has_etcd()  # and state.db was not renamed to state.db.migrated
    assert "did not finish" in host.refuses()


def test_a_conversion_that_finished_is_a_member(host: Host) -> None:
    host.configure(join_urls="")
    host.has_sqlite()
    host.permit(action="convert")
    host.starts()
    host.has_etcd()
    database = host.root / "var/lib/rancher/k3s/server/db/state.db"
    database.rename(database.with_suffix(".db.migrated"))
    assert host.starts() == {}


# --- the hold, agents, manifests


def test_a_held_host_starts_nothing_and_keeps_its_permit(host: Host) -> None:
    host.write("var/lib/i12e/hold", "restore of 2026-10-07\n")
    host.permit()
    assert "restore of 2026-10-07" in host.refuses()
    assert host.left("permit")


def test_an_agent_joins_the_first_server_that_answers(host: Host) -> None:
    host.configure(role="agent")
    host.permit()
    host.alive(LIVING)
    assert host.starts() == {"server": LIVING}
    assert host.left("permit")


def test_an_agent_waits_when_no_server_answers(host: Host) -> None:
    host.configure(role="agent")
    assert f"none answers of {URLS}" in host.refuses()


def test_an_agent_that_remembers_servers_lets_k3s_try_them(host: Host) -> None:
    host.configure(role="agent")
    host.write("var/lib/rancher/k3s/agent/etc/k3s-agent-load-balancer.json", "{}")
    assert host.starts() == {}


def test_manifests_that_the_config_has_no_more_are_removed(host: Host) -> None:
    folder = "var/lib/rancher/k3s/server/manifests"
    for name in ("i12e-kube-vip.yaml", "i12e-old.yaml", "coredns.yaml"):
        host.write(f"{folder}/{name}")
    host.write("etc/i12e/manifests", "i12e-kube-vip.yaml\n")
    host.has_etcd()
    host.starts()
    assert sorted(os.listdir(host.root / folder)) == ["coredns.yaml", "i12e-kube-vip.yaml"]


def test_without_a_list_of_manifests_none_is_removed(host: Host) -> None:
    file = host.write("var/lib/rancher/k3s/server/manifests/i12e-kube-vip.yaml")
    host.has_etcd()
    host.starts()
    assert file.exists()


@pytest.mark.parametrize("key", ["cluster", "host"])
def test_a_host_that_does_not_know_whose_it_is_takes_no_permit(host: Host, key: str) -> None:
    host.configure(join_urls="", **{key: ""})
    host.permit(**{key: ""})
    assert "names no cluster or no host" in host.refuses()
    assert host.left("permit")


def test_a_host_that_does_not_know_its_role_starts_nothing(host: Host) -> None:
    host.configure(role="")
    assert "names no role" in host.refuses()
