"""`drill --on` with hosts of the lab: the real etcd restores on a host that reaches nobody; who is kept out sees it.

The cluster has two hosts, a third one is bare. Its backups lie on a real sftp server, its name in a real knot; each of
them logs what is asked of it.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from i12e import drilling
from i12e.paths import LAB_MACHINES
from lab import Lab, environment, fileservers, places
from lab.api import Trouble
from lab.backing import Listener, listening, listing, seal, wait
from lab.clones import Ended, Operator, clone
from lab.fixtures import running
from lab.restores import Scene
from nameserver import ALGORITHM, KEY, SECRET, Knot

pytestmark = pytest.mark.lab

SERVER, AGENT, SCRATCH = "server-1", "agent-1", "agent-2"
ZONE = "lab.example"
FAULTS = "/run/i12e-lab-faults"
OVERRIDE = f"/run/systemd/system/{drilling.UNIT}.service.d"
ETCDCTL = """
tls=/var/lib/rancher/k3s/server/tls/etcd; export ETCDCTL_API=3
set -- --endpoints=https://127.0.0.1:2379 --cacert=$tls/server-ca.crt --cert=$tls/client.crt --key=$tls/client.key
"""
K3S_IS = """
mv /opt/bin/k3s /opt/bin/k3s.real; cat >/opt/bin/k3s; chmod 755 /opt/bin/k3s
"""
K3S_IS_AS_IT_WAS = "mv /opt/bin/k3s.real /opt/bin/k3s"
TAKES_NO_SNAPSHOT = b"""#!/bin/sh
case "$*" in *cluster-reset*) echo "snapshot missing hash" >&2; exit 1 ;; esac
exec /opt/bin/k3s.real "$@"
"""
STARTS_NEVER = b"""#!/bin/sh
case "$1" in server) echo "no such cipher" >&2; exit 1 ;; esac
exec /opt/bin/k3s.real "$@"
"""
WANTS_OUT = f"""#!/bin/sh
if [ "$1" = server ]; then
    {{
        curl -sk -m 3 https://{places.address(SERVER)}:6443/cacerts >&2 && echo api
        curl -s -m 3 http://{places.GATEWAY}/ >&2 && echo gateway
        ls -L /proc/1/root >&2 && echo root
        nsenter -t 1 -n true && echo network
        nsenter -t 1 -m true && echo mounts
        systemctl is-system-running >&2 && echo systemd
        touch /opt/x && echo wrote
        mount -o remount,rw / && echo remounted
        echo tried
    }} 2>/dev/null >>{drilling.FOLDER}/tried
fi
exec /opt/bin/k3s.real "$@"
""".encode()
CHILD = f"pid=$(systemctl show -p MainPID --value {drilling.UNIT}); read -r child _ </proc/$pid/task/$pid/children;"


@dataclass
class Drills(Scene):
    """The cluster, and who listens."""

    knot: Knot | None = None
    nas: fileservers.Sftp | None = None
    heard: Listener | None = None

    def drills(self, *options: str, operator: Operator | None = None) -> tuple[Ended, dict[str, Any]]:
        """Drill what is on the disk, which is the faster store; return how that ended, and what it told."""
        done = (operator or self.operator).doit("drill", "--json", "--from", "disk", *options)
        results = json.loads(done.out)["results"]
        return done, next((each for each in results if each.get("backup")), {})

    def is_clean(self, host: str) -> bool:
        """Tell whether nothing of a drill is on a host."""
        said = f"ls -d {drilling.FOLDER} 2>/dev/null; systemctl is-active {drilling.UNIT} | grep -v inactive; true"
        return not self.lab.read(host, said)

    def revision(self) -> int:
        """Return the newest revision of the cluster's etcd."""
        said = self.lab.read(SERVER, f'{ETCDCTL} etcdctl "$@" endpoint status -w json')
        return int(json.loads(said)[0]["Status"]["header"]["revision"])

    def written_since(self, revision: int) -> set[str]:
        """Return the keys that were written after a revision, by etcd's own history; heartbeats do not count."""
        watch = f'timeout -s KILL 3 etcdctl "$@" watch --prefix / --rev {revision + 1} </dev/null'
        said = self.lab.shell(SERVER, f"{ETCDCTL} {watch}", limit=60).output
        keys = {line for line in said.splitlines() if line.startswith("/")}
        assert keys  # at least a heartbeat
        return {key for key in keys if not key.startswith("/registry/leases/")}

    def slow(self, host: str, seconds: int) -> None:
        """Have k3s on a host take so many seconds to start; 0 for none."""
        script = f"echo {seconds} >{FAULTS}/slow_start" if seconds else f"rm -f {FAULTS}/slow_start"
        self.lab.read(host, f"mkdir -p {FAULTS}; {script}")

    def inside(self, host: str, script: str) -> str:
        """Run a script in the drill's unit, past all that i12e does; return what it says."""
        pid = f"$(systemctl show -p MainPID --value {drilling.UNIT})"
        return self.lab.shell(host, f"nsenter -t {pid} -m -n sh -c '{script}' 2>&1", limit=60).output.strip()

    def is_fenced(self, host: str) -> bool:
        """Tell whether a drill there has begun to restore."""
        with suppress(Trouble, OSError):
            return "fenced" in self.lab.shell(host, f"cat {drilling.FOLDER}/progress", limit=20).output
        return False

    def marked(self, store: str = "disk") -> dict[str, Any]:
        """Return what backup_list says of the newest backup of a store."""
        return listing(self.operator, "--store", store)[store][0]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drills]:
    folder = tmp_path_factory.mktemp("drill")
    first = clone(folder / "one")
    (folder / "sftp").mkdir()
    (folder / "knot").mkdir()
    with (
        running(first.root / LAB_MACHINES, [SERVER, AGENT, SCRATCH]) as lab,
        listening() as heard,
        fileservers.sftp(folder / "sftp", lab.enter) as nas,
    ):
        knot = Knot(folder / "knot", 53, zone=ZONE, enter=lab.enter)
        knot.start(change=lambda text: text.replace("any: warning", "any: info"))
        operator = Operator(first.root, lab.enter)
        environment.write(operator.root, lab, 1, 1)
        scene = Drills(operator, lab, [SERVER, AGENT], knot=knot, nas=nas, heard=heard)
        server = {"server": "localhost", "port": knot.port, "key_name": KEY, "algorithm": ALGORITHM}
        dns = {"provider": "rfc2136", "zone": ZONE, "ttl": 5, "join": "addresses", "rfc2136": server}
        stores = [{"name": "disk", "folder": f"{folder}/disk"}, {"name": "nas", "rclone": f"nas:{nas.folder}"}]
        (folder / "disk").mkdir()
        alarm = {"command": ["/bin/sh", "-c", f"echo $I12E_ALARM >>{folder}/alarm"]}
        scene.settings(
            "\nbackup:\n",
            f"\ndns: {json.dumps(dns)}\nbackup:\n  stores: {json.dumps(stores)}\n  alarms: {json.dumps([alarm])}\n",
        )
        seal(operator, "dns", f"rfc2136: {{secret: {SECRET}}}\n")
        seal(operator, "backup", json.dumps({"nas": {"rclone_conf": nas.conf}}))
        try:
            operator.deploys()
            scene.fill(2000)
            scene.back_up()
            yield scene
        finally:
            knot.stop()


def alarms(scene: Drills) -> list[str]:
    """Return the alarms since the last call."""
    file = scene.operator.root.parent / "alarm"
    said = file.read_text().split() if file.exists() else []
    file.unlink(missing_ok=True)
    return said


def log_of(knot: Knot | None) -> str:
    assert knot
    return (Path(knot.folder) / "log").read_text(errors="replace")


def test_a_drill_reaches_nobody_and_nobody_sees_a_write_but_its_mark(scene: Drills) -> None:
    assert scene.nas
    assert scene.knot
    # What is read below would show a write: it shows those of the deployment and of the backup.
    assert "DDNS" in log_of(scene.knot)
    assert any("/backups/" in name for name in scene.nas.writes())
    serial, told, revision = scene.knot.serial(), len(log_of(scene.knot)), scene.revision()
    before = scene.found()
    scene.slow(AGENT, 8)
    assert scene.lab.shell(AGENT, K3S_IS, WANTS_OUT).status == 0
    process = scene.operator.start("drill", "--json", "--from", "nas", "--on", AGENT)
    wait(lambda: scene.is_fenced(AGENT), 90)
    ask = f"curl -sk -m 3 https://{places.address(SERVER)}:6443/cacerts | grep -c BEGIN; curl -sk -m 3 http://{places.GATEWAY}/"
    assert scene.lab.shell(AGENT, ask, limit=60).output.strip().startswith("1")
    assert scene.inside(AGENT, f"{ask}; echo tried") == "0\ntried"
    assert scene.inside(AGENT, "ip -o -4 address show scope global | wc -l; ip -o route | cut -c1-18") == (
        "1\ndefault dev drill0\n192.0.2.0/24 dev d"
    )
    assert "Read-only" in scene.inside(AGENT, "touch /opt/x")
    # A k3s that wants out itself finds no way.
    wait(lambda: "tried" in scene.lab.read(AGENT, f"cat {drilling.FOLDER}/tried"), 60)
    assert set(scene.lab.read(AGENT, f"cat {drilling.FOLDER}/tried").split()) == {"tried"}
    out, err = process.communicate(timeout=200)
    scene.slow(AGENT, 0)
    scene.lab.read(AGENT, K3S_IS_AS_IT_WAS)
    assert process.returncode == 0, out + err
    (told_of,) = json.loads(out)["results"]
    steps = {each["step"]: each["what"] for each in told_of["steps"]}
    assert list(steps) == ["read", "check", "send", "fence", "restore", "start", "compare", "end"]
    assert "from in there none is reached of what agent-1 reaches" in steps["fence"]
    assert (told_of["ok"], told_of["objects"] > 2000) == (True, True)
    assert "shares its memory" in err + out
    # The store's log has one write, beside the backup; knot's has none, and neither has etcd's history.
    written = [name.replace("%2F", "/") for name in scene.nas.writes()]
    assert any(name.endswith(f"/marks/{told_of['backup']}/drilled.json") for name in written)
    assert all("/marks" in name or name.endswith("/.i12e-part") for name in written), written
    assert scene.knot.serial() == serial
    assert "DDNS" not in log_of(scene.knot)[told:]
    assert scene.written_since(revision) == set()
    assert scene.found() == before
    assert scene.is_clean(AGENT)
    mark = scene.marked("nas")["drilled"]
    assert (mark["ok"], mark["how"]) == (True, "on agent-1, k3s v1.35.4+k3s1")
    status = scene.operator.doit("status")
    assert "drilled" in status.out, status.out
    assert alarms(scene) == []


def test_a_host_that_never_had_k3s_fetches_it_by_the_lock_file_and_keeps_nothing(scene: Drills) -> None:
    text = f"role: agent\naddresses: [{places.address(SCRATCH)}]\n"
    file = scene.operator.root / f"hosts/lab/{SCRATCH}.yaml"
    file.write_text(text)
    try:
        done, told = scene.drills("--on", SCRATCH)
    finally:
        file.unlink()
    assert done.status == 0, done.out + done.err
    assert told["how"] == f"on {SCRATCH}, k3s v1.35.4+k3s1"
    assert scene.is_clean(SCRATCH)
    assert not scene.lab.read(
        SCRATCH, "ls -d /var/lib/rancher /etc/rancher /var/lib/i12e /opt/bin/k3s 2>/dev/null; true"
    )


def test_a_server_and_one_without_isolation_are_refused_and_the_backup_stays_good(scene: Drills) -> None:
    done, told = scene.drills("--on", SERVER)
    assert (done.status, told) == (1, {})
    assert "a drill goes onto no server" in done.out
    assert alarms(scene) != []
    scene.lab.read(AGENT, f"mkdir -p {OVERRIDE}; printf '[Service]\\nPrivateNetwork=no\\n' >{OVERRIDE}/x.conf; "
                          "systemctl daemon-reload")  # fmt: skip
    done, told = scene.drills("--on", AGENT)
    scene.lab.read(AGENT, f"rm -r {OVERRIDE}; systemctl daemon-reload")
    assert (done.status, told) == (1, {})
    assert "this systemd gives the drill no net of its own" in done.out
    assert "drill0" not in scene.lab.read(AGENT, "ip -o link")
    assert scene.marked()["state"] == "good"
    assert scene.is_clean(AGENT)


def test_what_k3s_does_not_take_is_an_alarm_and_no_good_backup_until_a_drill_is_good(scene: Drills) -> None:
    alarms(scene)
    assert scene.lab.shell(AGENT, K3S_IS, TAKES_NO_SNAPSHOT).status == 0
    done, told = scene.drills("--on", AGENT)
    scene.lab.read(AGENT, K3S_IS_AS_IT_WAS)
    assert (done.status, told["result"]) == (1, "failed"), done.out + done.err
    assert "snapshot missing hash" in told["why"]
    assert alarms(scene) != []
    assert scene.marked()["state"] == "damaged"
    done, told = scene.drills("--on", AGENT, "--backup", scene.marked()["backup"])
    assert (done.status, told["ok"]) == (0, True), done.out + done.err
    assert scene.marked()["state"] == "good"


def test_a_k3s_that_starts_on_nothing_neither_says_nothing_of_the_backup(scene: Drills) -> None:
    assert scene.lab.shell(AGENT, K3S_IS, STARTS_NEVER).status == 0
    done, told = scene.drills("--on", AGENT)
    scene.lab.read(AGENT, K3S_IS_AS_IT_WAS)
    assert (done.status, told) == (1, {})
    assert "it does not start there on nothing either" in done.out
    assert scene.marked()["state"] == "good"


def test_a_k3s_that_is_killed_from_outside_says_nothing_of_the_backup(scene: Drills) -> None:
    scene.slow(AGENT, 10)
    process = scene.operator.start("drill", "--from", "disk", "--on", AGENT)
    wait(lambda: scene.is_fenced(AGENT), 90)
    wait(lambda: "server" in scene.lab.read(AGENT, f"{CHILD} tr '\\0' ' ' </proc/$child/cmdline"), 60)
    scene.lab.read(AGENT, f"{CHILD} kill -9 $child")
    out, err = process.communicate(timeout=120)
    scene.slow(AGENT, 0)
    assert (process.returncode, "(status 137)" in err, "not drilled" in err) == (1, True, True), out + err
    assert scene.marked()["state"] == "good"


def test_a_drill_that_is_killed_leaves_nothing_on_its_host(scene: Drills) -> None:
    scene.slow(AGENT, 10)
    process = scene.operator.start("drill", "--from", "disk", "--on", AGENT)
    wait(lambda: scene.is_fenced(AGENT), 90)
    second, _ = scene.drills("--on", AGENT)
    assert (second.status, "it is a drill too" in second.out) == (1, True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait(lambda: scene.is_clean(AGENT), 60)
    # Nor after a power failure.
    process = scene.operator.start("drill", "--from", "disk", "--on", AGENT)
    wait(lambda: scene.is_fenced(AGENT), 90)
    scene.lab.kill(AGENT)
    scene.lab.power_on(AGENT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, "not drilled" in err) == (1, True), out + err
    wait(lambda: scene.lab.ssh(AGENT, "true").status == 0, 90)
    assert scene.is_clean(AGENT)
    assert not scene.lab.read(AGENT, "ls /etc/tmpfiles.d/i12e-drill.conf 2>/dev/null; true")
    scene.slow(AGENT, 0)
    done, _ = scene.drills("--on", AGENT)
    assert done.status == 0, done.out + done.err


def test_a_lab_is_made_for_a_drill_and_is_gone_afterwards(scene: Drills) -> None:
    (scene.operator.root / "tests").symlink_to(ROOT / "tests")
    done, told = scene.drills("--on", "lab", operator=Operator(scene.operator.root))
    assert done.status == 0, done.out + done.err
    assert told["how"] == "lab, a stand-in for k3s v1.35.4+k3s1"
    assert "is a stand-in" in done.out
    assert Lab.find(scene.operator.root / "build/lab/drill/lab") is None


@pytest.mark.sweep  # a minute
def test_a_backup_of_sqlite_is_drilled_as_what_it_is_to_become(tmp_path: Path) -> None:
    operator = clone(tmp_path / "one")
    with running(operator.root / LAB_MACHINES, [SERVER, AGENT]) as lab:
        environment.write(operator.root, lab, 1, 1)
        scene = Drills(operator, lab, [SERVER, AGENT])
        scene.settings("\nbackup:\n", f"\nbackup:\n  stores: [{{name: disk, folder: {tmp_path}/disk}}]\n")
        (tmp_path / "disk").mkdir()
        scene.settings("datastore: etcd", "datastore: sqlite")
        operator.deploys()
        scene.fill(1000)
        scene.back_up()
        for datastore, takes in (("sqlite", "it is ready"), ("etcd", "and converted to etcd")):
            done, told = scene.drills("--on", AGENT)
            assert (done.status, told["datastore"]) == (0, "sqlite"), done.out + done.err
            assert takes in next(each["what"] for each in told["steps"] if each["step"] == "start"), datastore
            assert scene.is_clean(AGENT)
            if datastore == "sqlite":
                scene.settings("datastore: sqlite", "datastore: etcd")
        # A conversion that fails is no backup that restores.
        lab.read(AGENT, f"mkdir -p {FAULTS}; touch {FAULTS}/migration_fails")
        done, told = scene.drills("--on", AGENT)
        assert (done.status, told["ok"]) == (1, False), done.out + done.err
        assert "does not start on what was restored" in told["why"]
