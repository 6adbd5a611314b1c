"""The lab's k3s on a real etcd and a real SQLite file: several hosts of loopback addresses, without the lab.

What is tested is what i12e rests on: that the stand-in behaves as k3s does where that bites.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shutil
import socket
import sqlite3
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import need

pytestmark = [pytest.mark.lab, pytest.mark.slow]

K3S = Path(__file__).with_name("k3s.py")
PYTHON = "/usr/bin/python3"  # Debian's, which has what the stand-in imports
TOKEN = "server-token-of-the-test"
AGENT_TOKEN = "agent-token-of-the-test"
POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lone"}, "spec": {"containers": [{"name": "c"}]}}


class Machine:
    """A host: a folder that is its root, and an address of the loopback network."""

    def __init__(self, folder: Path, name: str, address: str) -> None:
        self.name, self.address, self.root = name, address, folder / name
        self.log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.etc = self.root / "etc/rancher"
        self.data = self.root / "var/lib/rancher/k3s"
        self.db = self.data / "server/db"
        self.url = f"https://{address}:6443"
        (self.etc / "k3s/config.yaml.d").mkdir(parents=True)
        (self.root / "lab").mkdir()
        self.configure(**{"token": TOKEN, "agent-token": AGENT_TOKEN})

    def configure(self, **settings: Any) -> None:
        """Write its config.yaml."""
        config = {"node-name": self.name, "node-ip": self.address, **settings}
        (self.etc / "k3s/config.yaml").write_text(yaml.safe_dump(config))

    def decide(self, **settings: Any) -> None:
        """Write what k3s-gate writes."""
        (self.etc / "k3s/config.yaml.d/90-i12e.yaml").write_text(yaml.safe_dump(settings))

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "I12E_ROOT": str(self.root)}

    def start(self, role: str = "server", *arguments: str, **environment: str) -> None:
        """Start k3s."""
        assert not self.alive
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [PYTHON, str(K3S), role, *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment | environment,
            )  # fmt: skip

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def said(self) -> str:
        return self.log.read_text()

    def says(self, text: str, limit: float = 120) -> None:
        """Wait until it says something."""
        until(lambda: text in self.said, f"{self.name} says {text!r}", limit, lambda: self.said)

    def ends(self, limit: float = 120) -> int:
        """Wait until k3s has ended; return its status."""
        assert self.process
        return self.process.wait(limit)

    def kill(self) -> None:
        """As a pulled plug."""
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """As systemd stops it."""
        assert self.process
        self.process.terminate()
        return self.process.wait(60)

    def k3s(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [PYTHON, str(K3S), *arguments]
        return subprocess.run(
            command, input=stdin, env=self.environment, capture_output=True, text=True, check=False, timeout=120
        )

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl, which has to succeed; return what it prints."""
        done = self.k3s("kubectl", *arguments, stdin=stdin)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}\n{self.said[-2000:]}"
        return done.stdout

    def apply(self, *items: Any) -> str:
        return self.kubectl("apply", "-f", "-", stdin=json.dumps({"kind": "List", "items": list(items)}))

    def get(self, *words: str) -> Any:
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def nodes(self) -> dict[str, Any]:
        """The nodes by name, none while no API answers."""
        done = self.k3s("kubectl", "get", "nodes", "-o", "json")
        return {item["metadata"]["name"]: item for item in json.loads(done.stdout)["items"]} if done.stdout else {}

    def sees(self, name: str, kind: str = "Ready", status: str = "True", limit: float = 120) -> None:
        """Wait until this server sees a node in a condition."""
        until(lambda: condition(self.nodes().get(name), kind) == status, f"{name} {kind}={status}", limit)

    def up(self, role: str = "server", /, **settings: Any) -> None:
        """Start with what the gate decided, and wait until it is ready."""
        self.decide(**settings)
        self.start(role)
        self.says("up and running")

    def members(self) -> dict[str, bool]:
        """etcd's own list of members: name -> whether it is a learner."""
        tls = self.data / "server/tls/etcd"
        command = ["etcdctl", f"--endpoints=https://{self.address}:2379", f"--cacert={tls}/server-ca.crt",
                   f"--cert={tls}/client.crt", f"--key={tls}/client.key", "member", "list", "-w", "json"]  # fmt: skip
        done = subprocess.run(command, env={"ETCDCTL_API": "3", "PATH": os.environ["PATH"]}, capture_output=True,
                              text=True, check=True, timeout=60)  # fmt: skip
        return {m.get("name", ""): m.get("isLearner", False) for m in json.loads(done.stdout)["members"]}

    def fault(self, name: str, content: str = "") -> Path:
        """Switch a fault on."""
        path = self.root / "lab" / name
        path.write_text(content)
        return path


def until(holds: Callable[[], bool], what: str, limit: float = 180, more: Callable[[], str] = str) -> None:
    """Wait for a condition."""
    end = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < end, f"not within {limit} s: {what}\n{more()}"
        time.sleep(0.1)


def condition(node: Any, kind: str) -> str:
    conditions = node["status"].get("conditions", []) if node else []
    return next((c["status"] for c in conditions if c["type"] == kind), "")


@pytest.fixture(autouse=True, scope="module")
def _needs() -> None:
    need(shutil.which("etcd") and shutil.which("etcdctl"), "etcd (Debian: apt-get install etcd-server etcd-client)")
    imports = subprocess.run([PYTHON, "-c", "import cryptography, nacl, yaml"], capture_output=True, check=False)
    need(imports.returncode == 0, "Debian's python3-cryptography, python3-nacl and python3-yaml")


Make = Callable[[str], Machine]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Make]:
    """Makes hosts by name: server-N has .1N, agent-N .2N of a network that no other run has."""
    net = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250) + 1}"
    made: dict[str, Machine] = {}

    def make(name: str) -> Machine:
        if name not in made:
            role, _, number = name.partition("-")
            made[name] = Machine(tmp_path, name, f"{net}.{10 * (1 + (role == 'agent')) + int(number)}")
        return made[name]

    yield make
    for each in made.values():
        if each.alive:
            each.kill()


@pytest.fixture
def one(machine: Make) -> Machine:
    """A cluster of one server on etcd."""
    server = machine("server-1")
    server.up(**{"cluster-init": True})
    server.sees("server-1")
    return server


@pytest.fixture
def single(machine: Make) -> Machine:
    """A server on SQLite, which starts sooner."""
    server = machine("server-1")
    server.up()
    server.sees("server-1")
    return server


@pytest.fixture
def three(machine: Make) -> list[Machine]:
    """A cluster of three servers."""
    servers = [machine(f"server-{number}") for number in (1, 2, 3)]
    servers[0].up(**{"cluster-init": True})
    for server in servers[1:]:
        server_joins(server, servers[0])
    for server in servers:
        servers[0].sees(server.name, "EtcdIsVoter")
        servers[0].sees(server.name)
    return servers


def server_joins(server: Machine, by: Machine) -> None:
    """Let a server join; etcd takes none while it misses a member, or has had the last one for less than 5 s."""
    server.decide(server=by.url)
    server.start()
    server.says("up and running", 60)


def agent_joins(agent: Machine, by: Machine) -> None:
    agent.configure(token=AGENT_TOKEN)
    agent.up("agent", server=by.url)
    by.sees(agent.name)


# what it says it is


def test_it_says_that_it_is_a_stand_in(one: Machine) -> None:
    assert one.k3s("--version").stdout.splitlines()[0] == (
        "k3s version v1.35.4+k3s1 (a stand-in of the i12e lab, not k3s)"
    )
    assert "stand-in" in one.said.splitlines()[0]


# A: servers


def test_a_server_that_founds_lays_its_files_as_k3s_does(one: Machine) -> None:
    server = one.data / "server"
    ca = (server / "tls/server-ca.crt").read_bytes()
    mark = f"K10{hashlib.sha256(ca).hexdigest()}"
    assert (server / "token").read_text() == f"{mark}::server:{TOKEN}\n"
    assert (server / "node-token").is_symlink()
    assert (server / "node-token").read_text() == (server / "token").read_text()
    assert (server / "agent-token").read_text() == f"{mark}::node:{AGENT_TOKEN}\n"
    for path in ("tls/serving-kube-apiserver.crt", "tls/etcd/server-ca.crt", "tls/client-ca.key", "cred/passwd",
                 "manifests/coredns.yaml", "db/etcd/member/wal", "db/etcd/name", "db/etcd/config"):  # fmt: skip
        assert (server / path).exists(), path
    assert not (server / "db/state.db").exists()
    assert oct((one.etc / "k3s/k3s.yaml").stat().st_mode)[-3:] == "600"
    assert oct((server / "token").stat().st_mode)[-3:] == "600"
    assert (one.etc / "node/password").exists()


def test_what_the_gate_asks_is_answered_to_everyone(one: Machine) -> None:
    open_to_all = ssl.create_default_context()
    open_to_all.check_hostname, open_to_all.verify_mode = False, ssl.CERT_NONE

    def ask(path: str) -> str:
        with urllib.request.urlopen(one.url + path, context=open_to_all, timeout=5) as answer:  # noqa: S310  # https
            return str(answer.read().decode())

    assert ask("/cacerts") == (one.data / "server/tls/server-ca.crt").read_text()
    assert ask("/ping") == "pong"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ask("/readyz")
    with urllib.request.urlopen(f"http://{one.address}:2381/health", timeout=5) as health:
        assert json.loads(health.read()) == {"health": "true"}
    with socket.create_connection((one.address, 6443), 5):
        pass  # a probe without TLS
    assert one.kubectl("get", "--raw", "/readyz") == "ok"


def test_the_bootstrap_row_opens_by_the_documented_recipe(one: Machine, tmp_path: Path) -> None:
    tls = one.data / "server/tls/etcd"
    key = f"/bootstrap/{hashlib.sha256(TOKEN.encode()).hexdigest()[:12]}"
    command = ["etcdctl", f"--endpoints=https://{one.address}:2379", f"--cacert={tls}/server-ca.crt",
               f"--cert={tls}/client.crt", f"--key={tls}/client.key", "get", key, "--print-value-only"]  # fmt: skip
    row = subprocess.run(
        command, env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True, check=True
    ).stdout.strip()
    recipe = (
        "import base64,hashlib,sys\nfrom cryptography.hazmat.primitives.ciphers.aead import AESGCM\n"
        "salt,_,text=sys.stdin.buffer.read().partition(b':')\nraw=base64.b64decode(text)\n"
        "k=hashlib.pbkdf2_hmac('sha1',sys.argv[1].encode(),salt,4096,32)\n"
        "sys.stdout.buffer.write(AESGCM(k).decrypt(raw[:12],raw[12:],None))"
    )
    plain = subprocess.run([PYTHON, "-c", recipe, TOKEN], input=row, capture_output=True, check=True).stdout
    found = json.loads(plain)
    ca = (one.data / "server/tls/server-ca.crt").read_bytes()
    assert base64.b64decode(found["ServerCA"]["Content"]) == ca
    assert "Timestamp" in found["ETCDPeerCAKey"]
    wrong = subprocess.run([PYTHON, "-c", recipe, "wrong"], input=row, capture_output=True, check=False)
    assert b"InvalidTag" in wrong.stderr


def test_a_killed_server_leaves_no_etcd_and_starts_again_with_its_data(one: Machine) -> None:
    uid = one.get("ns", "kube-system")["metadata"]["uid"]
    one.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    one.kill()
    until(lambda: not answers(one), "etcd is gone")
    one.up()
    assert one.get("ns", "kube-system")["metadata"]["uid"] == uid
    assert one.get("cm", "kept")["data"] == {"a": "b"}
    assert one.stop() == 0
    assert not answers(one)


def answers(server: Machine) -> bool:
    try:
        socket.create_connection((server.address, 2379), 1).close()
    except OSError:
        return False
    return True


def test_servers_join_as_learners_and_become_voters(three: list[Machine]) -> None:
    members = three[0].members()
    assert sorted(name.rpartition("-")[0] for name in members) == ["server-1", "server-2", "server-3"]
    assert not any(members.values())
    for server in three:
        nodes = server.nodes()
        assert len(nodes) == 3
        name = nodes[server.name]["metadata"]["annotations"]["etcd.k3s.cattle.io/node-name"]
        assert name == (server.db / "etcd/name").read_text()
        labels = nodes[server.name]["metadata"]["labels"]
        assert labels["node-role.kubernetes.io/control-plane"] == labels["node-role.kubernetes.io/etcd"] == "true"
        ca = (server.data / "server/tls/server-ca.crt").read_text()
        assert ca == (three[0].data / "server/tls/server-ca.crt").read_text()
    three[1].kubectl("create", "configmap", "seen", "--from-literal=a=b")
    assert three[2].get("cm", "seen")["data"] == {"a": "b"}


def test_without_a_quorum_no_api_answers_and_with_one_it_does_again(three: list[Machine]) -> None:
    three[1].kill()
    assert three[0].kubectl("get", "--raw", "/readyz") == "ok"
    three[0].sees("server-2", status="Unknown")
    three[2].kill()
    until(lambda: three[0].k3s("kubectl", "get", "--raw", "/readyz").returncode == 1, "not ready")
    done = three[0].k3s("kubectl", "get", "nodes")
    assert done.returncode == 1
    assert "Error from server" in done.stderr
    three[2].decide(server=three[0].url)
    three[2].start()
    three[2].says("up and running")
    until(lambda: three[0].k3s("kubectl", "get", "--raw", "/readyz").returncode == 0, "ready")


def test_a_cluster_that_lost_its_power_comes_back(three: list[Machine]) -> None:
    three[0].kubectl("create", "configmap", "kept", "--from-literal=a=b")
    for server in three:
        server.kill()
    for server in three:
        server.decide(server=next(each.url for each in three if each is not server))
        server.start()
    for server in three:
        server.says("up and running")
    assert three[1].get("cm", "kept")["data"] == {"a": "b"}


def test_a_deleted_node_loses_its_member_and_joins_anew(three: list[Machine]) -> None:
    dead = three[1]
    old = (dead.db / "etcd/name").read_text()
    dead.kill()
    three[0].kubectl("delete", "node", "server-2")
    assert old not in three[0].members()
    assert "server-2.node-password.k3s" not in three[0].kubectl("get", "secrets", "-A")
    dead.start()  # its data say that it is a member
    assert dead.ends() == 1
    assert "this node has been removed from the cluster please restart k3s to rejoin the cluster" in dead.said
    assert (dead.db / "etcd/tombstone").exists()
    server_joins(dead, three[2])
    assert "tombstone file has been detected, removing data dir to rejoin the cluster" in dead.said
    assert list(dead.db.glob("etcd-old-*"))
    three[0].sees("server-2", "EtcdIsVoter")
    assert old not in three[0].members()
    assert len(three[0].members()) == 3


def test_a_living_server_whose_node_is_deleted_ends(three: list[Machine]) -> None:
    three[0].kubectl("delete", "node", "server-3", "--wait=false")
    assert three[2].ends() == 1
    assert (three[2].db / "etcd/tombstone").exists()
    three[2].decide()
    three[2].start()
    three[2].says("Managed etcd cluster initializing")  # k3s#13623: without server: it founds a cluster


def test_an_empty_server_under_an_old_name_is_refused_until_its_node_is_deleted(three: list[Machine]) -> None:
    dead = three[1]
    dead.kill()
    shutil.rmtree(dead.data)
    dead.decide(server=three[0].url)
    dead.start()
    assert dead.ends() == 1
    assert "duplicate node name found, please use a unique name for this node" in dead.said
    three[0].kubectl("delete", "node", "server-2")
    server_joins(dead, three[0])
    three[0].sees("server-2", "EtcdIsVoter")


def test_a_server_with_another_address_is_no_member(one: Machine) -> None:
    one.stop()
    one.address = one.address.removesuffix("11") + "19"
    one.configure(token=TOKEN)
    one.decide()
    one.start()
    one.says("this server is not a member of the etcd cluster. Found [server-1-")
    assert f"expect: {(one.db / 'etcd/name').read_text()}=https://{one.address}:2380" in one.said
    assert "up and running" not in one.said


@pytest.mark.parametrize("datastore", ["etcd", "sqlite"])
def test_another_token_is_refused_by_the_datastore(machine: Make, datastore: str) -> None:
    server = machine("server-1")
    server.up(**({"cluster-init": True} if datastore == "etcd" else {}))
    server.stop()
    server.configure(token="another")
    server.decide()
    server.start()
    assert server.ends() == 1
    assert "bootstrap data already found and encrypted with different token" in server.said


def test_a_server_with_a_wrong_token_does_not_join(one: Machine, machine: Make) -> None:
    other = machine("server-2")
    other.configure(token="wrong")
    other.decide(server=one.url)
    other.start()
    assert other.ends() == 1
    assert "401 Unauthorized" in other.said
    ca_hash = hashlib.sha256(b"another cluster's").hexdigest()
    other.configure(token=f"K10{ca_hash}::server:{TOKEN}")
    other.start()
    assert other.ends() == 1
    assert "token CA hash does not match the Cluster CA certificate hash" in other.said
    assert len(one.members()) == 1


def test_settings_that_differ_between_servers_are_refused(one: Machine, machine: Make) -> None:
    other = machine("server-2")
    other.configure(**{"token": TOKEN, "agent-token": AGENT_TOKEN, "cluster-cidr": "10.99.0.0/16"})
    other.decide(server=one.url)
    other.start()
    assert other.ends() == 1
    assert "critical configuration value mismatch between servers: cluster-cidr" in other.said


def test_files_that_are_newer_than_the_datastore_are_fatal_and_lost_ones_come_back(one: Machine) -> None:
    one.stop()
    path = one.data / "server/tls/service.key"
    right = path.read_text()
    path.write_text("another\n")
    os.utime(path, (time.time() + 60, time.time() + 60))
    one.decide()
    one.start()
    assert one.ends() == 1
    assert "service.key newer than datastore and could cause a cluster outage." in one.said
    shutil.rmtree(one.data / "server/tls")
    one.up()
    assert path.read_text() == right


def test_the_last_config_file_wins_and_a_plus_adds(machine: Make) -> None:
    server = machine("server-1")
    (server.etc / "k3s/config.yaml.d/10-first.yaml").write_text(
        "node-label: [a=1, b=2]\nnode-name: other\nquatsch: 1\n"
    )
    (server.etc / "k3s/config.yaml.d/20-second.yaml").write_text("node-label+: [c=3]\nnode-name: server-1\n")
    server.up()
    server.sees("server-1")
    labels = server.nodes()["server-1"]["metadata"]["labels"]
    assert [labels[key] for key in "abc"] == ["1", "2", "3"]
    assert "Unknown flag --quatsch found in" in server.said


def test_labels_are_set_at_each_start_and_taints_only_at_the_first(machine: Make) -> None:
    server = machine("server-1")
    server.configure(**{"token": TOKEN, "node-label": ["old=1"], "node-taint": ["a=b:NoSchedule"]})
    server.up()
    server.sees("server-1")
    server.stop()
    server.configure(**{"token": TOKEN, "node-label": ["new=2"], "node-taint": ["c=d:NoSchedule"]})
    server.up()
    until(lambda: "new" in server.nodes()["server-1"]["metadata"]["labels"], "the label is there")
    node = server.nodes()["server-1"]
    assert node["metadata"]["labels"]["old"] == "1"
    assert [taint["key"] for taint in node["spec"]["taints"]] == ["a"]


def test_manifests_are_applied_at_the_start_and_on_change_and_stay_when_their_file_goes(machine: Make) -> None:
    server = machine("server-1")
    server.configure(token=TOKEN, disable=["coredns"])
    place = server.data / "server/manifests/mine.yaml"
    place.parent.mkdir(parents=True)
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: mine, namespace: kube-system}\ndata: {a: '%s'}\n"
    place.write_text(text % 1)
    server.up()
    until(lambda: "mine" in server.kubectl("get", "cm", "-n", "kube-system"), "it is applied")
    place.write_text(text % 22)
    until(lambda: bool(server.get("cm", "mine", "-n", "kube-system")["data"] == {"a": "22"}), "it is applied again")
    place.unlink()
    assert server.get("addons", "mine", "-n", "kube-system")["spec"]["source"] == str(place)
    assert "coredns" not in server.kubectl("get", "deploy", "-A")
    assert "local-path-provisioner" in server.kubectl("get", "deploy", "-A")


def test_systemd_is_told_when_a_server_is_ready_and_not_before(machine: Make, tmp_path: Path) -> None:
    server = machine("server-1")
    fault = server.fault("k3s_never_ready")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "n"))
        channel.settimeout(2)
        server.start(NOTIFY_SOCKET=str(tmp_path / "n"))
        until(lambda: server.k3s("kubectl", "get", "--raw", "/readyz").returncode == 1, "it serves")
        with pytest.raises(TimeoutError):
            channel.recv(100)
        assert condition(server.nodes().get("server-1"), "Ready") != "True"
        fault.unlink()
        channel.settimeout(20)
        assert channel.recv(100) == b"READY=1"
    server.sees("server-1")


def test_a_ready_node_gets_unready_when_the_fault_comes_on(one: Machine) -> None:
    one.fault("k3s_never_ready")
    one.sees("server-1", status="Unknown")
    assert one.k3s("kubectl", "get", "--raw", "/readyz").returncode == 1


# SQLite


def test_a_single_server_runs_on_sqlite_in_kines_schema(machine: Make) -> None:
    server = machine("server-1")
    server.up()
    server.sees("server-1")
    server.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    server.kill()
    with sqlite3.connect(server.db / "state.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        names = {name for (name,) in db.execute("SELECT DISTINCT name FROM kine")}
    assert "/registry/configmaps/default/kept" in names
    assert f"/bootstrap/{hashlib.sha256(TOKEN.encode()).hexdigest()[:12]}" in names
    assert "/registry/minions/server-1" in names
    shutil.rmtree(server.data / "server/tls")
    shutil.rmtree(server.data / "server/cred")
    server.up()
    assert server.get("cm", "kept")["data"] == {"a": "b"}
    assert not (server.db / "etcd").exists()
    assert "etcd" not in server.kubectl("get", "nodes", "--show-labels")


def test_a_server_cannot_join_one_on_sqlite(machine: Make) -> None:
    machine("server-1").up()
    other = machine("server-2")
    other.decide(server=machine("server-1").url)
    other.start()
    assert other.ends() == 1
    assert "/db/info: 400 Bad Request" in other.said


# B: agents


def test_an_agent_joins_beats_and_is_missed_when_it_is_gone(three: list[Machine], machine: Make) -> None:
    agent = machine("agent-1")
    agent_joins(agent, three[0])
    known = json.loads((agent.data / "agent/etc/k3s-agent-load-balancer.json").read_text())
    assert known["ServerURL"] == three[0].url
    until(lambda: len(known_servers(agent)) == 3, "it knows all servers")
    three[0].kill()  # another server takes its heartbeats
    three[1].sees("server-1", status="Unknown")
    assert condition(three[1].nodes()["agent-1"], "Ready") == "True"
    agent.stop()
    agent.up("agent", server=three[0].url)  # which is dead: it remembers the others
    three[1].sees("agent-1")
    agent.kill()
    three[1].sees("agent-1", status="Unknown", limit=120)
    assert "NotReady" in three[1].kubectl("get", "node", "agent-1")


def known_servers(agent: Machine) -> list[str]:
    return list(json.loads((agent.data / "agent/etc/k3s-agent-load-balancer.json").read_text())["ServerAddresses"])


def test_an_agent_forgets_its_servers_when_it_is_seeded_by_another_url(three: list[Machine], machine: Make) -> None:
    agent = machine("agent-1")
    agent_joins(agent, three[1])
    until(lambda: len(known_servers(agent)) == 3, "it knows all servers")
    agent.stop()
    three[0].kill()
    agent.decide(server=three[0].url)
    agent.start("agent")
    agent.says("failed to validate connection to cluster at")
    assert known_servers(agent) == [] or "up and running" not in agent.said


def test_an_agent_may_use_the_servers_token_and_no_other(one: Machine, machine: Make) -> None:
    agent = machine("agent-1")
    agent.configure(token="wrong")
    agent.decide(server=one.url)
    agent.start("agent")
    agent.says("/v1-k3s/config: 401 Unauthorized")
    assert agent.alive
    agent.kill()
    agent.configure(token=TOKEN)
    agent.start("agent")
    one.sees("agent-1")


def test_a_node_without_its_password_is_refused_until_its_node_is_deleted(one: Machine, machine: Make) -> None:
    agent = machine("agent-1")
    agent_joins(agent, one)
    agent.kill()
    (agent.etc / "node/password").unlink()
    agent.start("agent")
    agent.says("Node password rejected, duplicate hostname or contents of")
    assert (
        "may not match server node-passwd entry, try enabling a unique node name with the --with-node-id" in agent.said
    )
    assert agent.alive
    one.kubectl("delete", "node", "agent-1")
    agent.says("up and running")
    one.sees("agent-1")


def test_an_agent_waits_for_its_server(machine: Make) -> None:
    agent, server = machine("agent-1"), machine("server-1")
    agent.configure(token=AGENT_TOKEN)
    agent.decide(server=server.url)
    agent.start("agent")
    agent.says("connect: connection refused")
    server.up(**{"cluster-init": True})
    server.sees("agent-1")
    done = agent.k3s("kubectl", "get", "nodes")
    assert done.returncode == 1
    assert "The connection to the server localhost:8080 was refused" in done.stderr
    assert agent.stop() == 0


# C: kubectl


def test_kubectl_makes_shows_changes_and_deletes(one: Machine) -> None:
    item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1", "y": "2"}}
    assert one.apply(item) == "configmap/a created\n"
    assert one.apply(item) == "configmap/a unchanged\n"
    item["data"] = {"x": "3"}
    assert one.apply(item) == "configmap/a configured\n"
    assert one.get("cm", "a")["data"] == {"x": "3"}
    assert one.kubectl("get", "cm", "-o", "name") == "configmap/a\n"
    one.kubectl("create", "ns", "b")
    one.apply({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w", "namespace": "b"}})
    made = one.k3s("kubectl", "create", "-f", "-", stdin=json.dumps(item))
    assert made.returncode == 1
    assert made.stderr == 'Error from server (AlreadyExists): configmaps "a" already exists\n'
    assert one.kubectl("delete", "cm", "a") == 'configmap "a" deleted\n'
    gone = one.k3s("kubectl", "get", "cm", "a")
    assert (gone.returncode, gone.stderr) == (1, 'Error from server (NotFound): configmaps "a" not found\n')
    assert one.k3s("kubectl", "get", "quatsch").stderr == 'error: the server doesn\'t have a resource type "quatsch"\n'
    assert one.k3s("kubectl", "get", "cm").stderr == "No resources found in default namespace.\n"
    assert "Server Version: v1.35.4+k3s1" in one.kubectl("version")


def test_kubectl_says_when_no_server_is_there(one: Machine) -> None:
    one.stop()
    done = one.k3s("kubectl", "get", "nodes")
    assert done.returncode == 1
    assert done.stderr == (
        f"The connection to the server {one.address}:6443 was refused - did you specify the right host or port?\n"
    )


def workload(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "none"}]}}
    return {
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": labels}, "template": template, **spec},
    }  # fmt: skip


def test_drain_evicts_and_minds_budgets_daemonsets_and_lone_pods(one: Machine, machine: Make) -> None:
    agent_joins(machine("agent-1"), one)
    one.kubectl("cordon", "server-1")
    one.apply(workload("Deployment", "web", replicas=2), workload("DaemonSet", "log"), POD)

    def running(name: str) -> list[str]:
        pods = one.get("pods")["items"]
        return sorted(
            pod["spec"].get("nodeName", "")
            for pod in pods
            if pod["metadata"]["name"].startswith(name) and pod["status"]["phase"] == "Running"
        )

    until(lambda: running("web") == ["agent-1", "agent-1"] and running("lone") == ["agent-1"], "they run")
    until(lambda: running("log") == ["agent-1", "server-1"], "a pod on each node")
    one.kubectl("uncordon", "server-1")
    options = ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=3s"]
    bare = one.k3s("kubectl", "drain", "agent-1")
    assert bare.returncode == 1
    assert "cannot delete DaemonSet-managed Pods (use --ignore-daemonsets to ignore): default/log" in bare.stderr
    lone = one.k3s("kubectl", "drain", "agent-1", *options)
    assert lone.returncode == 1
    assert "Pods that declare no controller (use --force to override): default/lone" in lone.stderr
    budget = {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}},
    }  # fmt: skip
    one.apply(budget)
    held = one.k3s("kubectl", "drain", "agent-1", "--force", *options)
    assert held.returncode == 1
    assert "Cannot evict pod as it would violate the pod's disruption budget." in held.stderr
    assert "global timeout reached: 3s" in held.stderr
    one.kubectl("delete", "pdb", "web")
    done = one.kubectl("drain", "agent-1", "--force", *options)
    assert "node/agent-1 already cordoned" in done
    assert done.endswith("node/agent-1 drained\n")
    assert running("lone") == []
    until(lambda: running("web") == ["server-1", "server-1"], "they run elsewhere")
    assert "Ready,SchedulingDisabled" in one.kubectl("get", "node", "agent-1")
    assert one.kubectl("uncordon", "agent-1") == "node/agent-1 uncordoned\n"
    assert one.kubectl("uncordon", "agent-1") == "node/agent-1 already uncordoned\n"


def test_a_dead_node_is_not_drained_and_its_pods_go_with_it(one: Machine, machine: Make) -> None:
    agent = machine("agent-1")
    agent_joins(agent, one)
    one.kubectl("cordon", "server-1")
    one.apply(workload("Deployment", "web", replicas=1))
    until(lambda: "Running" in one.kubectl("get", "pods", "-o", "wide"), "it runs")
    agent.kill()
    done = one.k3s("kubectl", "drain", "agent-1", "--ignore-daemonsets", "--timeout=2s")
    assert done.returncode == 1
    assert "to terminate: global timeout reached: 2s" in done.stderr
    one.kubectl("delete", "node", "agent-1")
    until(lambda: "agent-1" not in one.kubectl("get", "pods", "-o", "wide"), "its pods are forgotten")


def test_a_claim_of_local_path_gets_a_folder_on_the_node_of_its_pod(one: Machine, machine: Make) -> None:
    agent = machine("agent-1")
    agent_joins(agent, one)
    claim = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }  # fmt: skip
    one.apply(claim)
    pod = json.loads(json.dumps(POD))
    pod["spec"] |= {
        "nodeSelector": {"kubernetes.io/hostname": "agent-1"},
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}],
    }
    one.apply(pod)
    until(lambda: list(agent.data.glob("storage/pvc-*_default_data")) != [], "the folder is there")
    (volume,) = one.get("pv")["items"]
    assert volume["spec"]["hostPath"]["path"] == (
        f"/var/lib/rancher/k3s/storage/{volume['metadata']['name']}_default_data"
    )
    assert one.get("pvc", "data")["spec"]["volumeName"] == volume["metadata"]["name"]
    one.kubectl("delete", "pod", "lone")
    one.kubectl("delete", "pvc", "data")
    until(lambda: list(agent.data.glob("storage/pvc-*")) == [], "the folder goes with its claim")


def test_a_volume_keeps_its_place_is_held_by_finalizers_and_leaves_its_claim_lost(single: Machine) -> None:
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["server-1"]}]}
    claim = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"storageClassName": "by-hand", "volumeName": "v"},
    }  # fmt: skip
    single.apply(claim)
    uid = single.get("pvc", "data")["metadata"]["uid"]
    volume = {
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": "v", "finalizers": ["kubernetes.io/pv-protection"]},
        "spec": {
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}, "storageClassName": "by-hand",
            "claimRef": {"namespace": "default", "name": "data", "uid": uid},
        },
        "status": {"phase": "Released"},
    }  # fmt: skip

    def phases() -> list[str]:
        return [item["status"]["phase"] for item in single.get("pv")["items"] + single.get("pvc")["items"]]

    until(lambda: phases() == ["Lost"], "its volume is not there")
    single.apply(volume)
    until(lambda: phases() == ["Bound", "Bound"], "they have each other")
    patch: Any = {"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": []}}}}
    refused = single.k3s("kubectl", "patch", "pv", "v", "--type=merge", "-p", json.dumps(patch))
    assert refused.returncode == 1
    assert "spec.nodeAffinity: Invalid value: field is immutable" in refused.stderr
    single.kubectl("delete", "pv", "v", "--wait=false")
    assert single.get("pv", "v")["metadata"]["deletionTimestamp"]
    single.kubectl("patch", "pv", "v", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    until(lambda: phases() == ["Lost"], "it is gone")


def test_secrets_are_made_applied_and_shown_by_kubectl(single: Machine) -> None:
    made = ["create", "secret", "generic", "s", "-n", "kube-system", "--from-literal=a=1", "--from-literal", "b=x=y"]
    assert single.kubectl(*made) == "secret/s created\n"
    secret = single.get("secret", "s", "-n", "kube-system")
    assert (secret["type"], secret["data"]) == ("Opaque", {"a": "MQ==", "b": "eD15"})
    item = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "t", "namespace": "kube-system"}}
    item["data"] = {"value": base64.b64encode(b"\0\xff").decode()}
    for said in ("created", "unchanged"):
        assert single.apply(item) == f"secret/t {said}\n"
    item["data"] = {"value": "bmV3"}
    assert single.apply(item) == "secret/t configured\n"
    assert single.get("secret", "t", "-n", "kube-system")["data"] == {"value": "bmV3"}
    assert single.k3s("kubectl", "get", "secret", "t").stderr.endswith('secrets "t" not found\n')


AESCBC = (
    "from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes\n"
    "d=Cipher(algorithms.AES(key),modes.CBC(body[:16])).decryptor()\n"
    "plain=d.update(body[16:])+d.finalize()\nplain=plain[:-plain[-1]]\n"
)
SECRETBOX = "from nacl.bindings import crypto_secretbox_open as o\nplain=o(body[24:],body[:24],key)\n"


@pytest.mark.parametrize(
    ("provider", "recipe"), [("aescbc", AESCBC), ("secretbox", SECRETBOX)], ids=["aescbc", "secretbox"]
)
def test_secrets_are_encrypted_in_the_datastore_as_kubernetes_does_it(
    machine: Make, provider: str, recipe: str
) -> None:
    server = machine("server-1")
    server.configure(**{"token": TOKEN, "secrets-encryption": True, "secrets-encryption-provider": provider})
    server.up()
    server.kubectl("create", "secret", "generic", "s", "--from-literal=a=hidden-value")
    assert base64.b64decode(server.get("secret", "s")["data"]["a"]) == b"hidden-value"
    server.stop()
    content = b"".join(path.read_bytes() for path in server.db.glob("state.db*"))
    assert base64.b64encode(b"hidden-value") not in content
    with sqlite3.connect(server.db / "state.db") as db:
        ((value,),) = db.execute("SELECT value FROM kine WHERE name = '/registry/secrets/default/s'").fetchall()
    config = json.loads((server.data / "server/cred/encryption-config.json").read_text())
    (key,) = config["resources"][0]["providers"][0][provider]["keys"]
    mark = f"k8s:enc:{provider}:v1:{key['name']}:".encode()
    assert value.startswith(mark)
    program = f"import base64,sys\nkey=base64.b64decode({key['secret']!r})\nbody=sys.stdin.buffer.read()\n{recipe}"
    program += "sys.stdout.buffer.write(plain)"
    opened = subprocess.run([PYTHON, "-c", program], input=value[len(mark) :], capture_output=True, check=True)
    assert json.loads(opened.stdout)["data"] == {"a": base64.b64encode(b"hidden-value").decode()}
    with sqlite3.connect(server.db / "state.db") as db:
        spoilt = value[:-1] + bytes([value[-1] ^ 1])
        db.execute("UPDATE kine SET value = ? WHERE name = '/registry/secrets/default/s'", (spoilt,))
    server.up()
    if provider == "secretbox":  # which notices
        assert server.k3s("kubectl", "get", "secret", "s").returncode == 1


# the API's discovery, lists and keys


def raw(server: Machine, path: str) -> Any:
    """What kubectl get --raw shows, sooner."""
    tls = server.data / "server/tls"
    context = ssl.create_default_context(cafile=str(tls / "server-ca.crt"))
    context.load_cert_chain(tls / "client-admin.crt", tls / "client-admin.key")
    with urllib.request.urlopen(server.url + path, context=context, timeout=10) as answer:  # noqa: S310  # https
        return json.loads(answer.read())


def test_discovery_names_all_that_can_be_listed_with_custom_resources(single: Machine) -> None:
    assert raw(single, "/api")["versions"] == ["v1"]
    core = json.loads(single.kubectl("get", "--raw", "/api/v1"))
    assert (core["kind"], core["groupVersion"]) == ("APIResourceList", "v1")
    by_name = {item["name"]: item for item in core["resources"]}
    assert by_name["secrets"] | {"verbs": ""} == {
        "name": "secrets", "singularName": "secret", "namespaced": True, "kind": "Secret", "verbs": "",
    }  # fmt: skip
    assert {"get", "list", "create", "watch"} <= set(by_name["secrets"]["verbs"])
    assert by_name["nodes"]["namespaced"] is False
    assert [name for name, item in by_name.items() if "list" not in item["verbs"]] == [
        "bindings", "namespaces/finalize", "namespaces/status", "nodes/status", "pods/eviction", "pods/log",
        "pods/status",
    ]  # fmt: skip
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "services.serving.example.com"},
        "spec": {"group": "serving.example.com", "scope": "Namespaced",
                 "names": {"plural": "services", "kind": "Service", "singular": "service"},
                 "versions": [{"name": "v1", "served": True, "storage": True},
                              {"name": "v1beta1", "served": True}, {"name": "v1alpha1", "served": False}]},
    }  # fmt: skip
    single.apply(crd)
    groups = {item["name"]: item for item in raw(single, "/apis")["groups"]}
    assert raw(single, "/apis")["kind"] == "APIGroupList"
    assert {"apps", "batch", "rbac.authorization.k8s.io", "apiextensions.k8s.io", "k3s.cattle.io", "helm.cattle.io",
            "serving.example.com"} <= set(groups)  # fmt: skip
    assert groups["apps"]["preferredVersion"] == {"groupVersion": "apps/v1", "version": "v1"}
    assert [each["version"] for each in groups["serving.example.com"]["versions"]] == ["v1", "v1beta1"]
    names = {item["name"]: item["namespaced"] for item in raw(single, "/apis/k3s.cattle.io/v1")["resources"]}
    assert names == {"addons": True, "etcdsnapshotfiles": False}
    assert raw(single, "/apis/serving.example.com")["kind"] == "APIGroup"
    for path in ("/apis/nothing.example.com", "/apis/apps/v2", "/api/v2"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            raw(single, path)
    for group in groups.values():  # all that is named can be listed
        place = group["preferredVersion"]["groupVersion"]
        for item in raw(single, f"/apis/{place}")["resources"]:
            assert raw(single, f"/apis/{place}/{item['name']}")["kind"].endswith("List")


def test_what_is_stored_has_kubernetes_keys(single: Machine) -> None:
    def item(version: str, kind: str, **more: Any) -> dict[str, Any]:
        return {"apiVersion": version, "kind": kind, "metadata": {"name": "n"}, **more}

    crd = item("apiextensions.k8s.io/v1", "CustomResourceDefinition")
    crd["metadata"] = {"name": "nodes.example.com"}
    names = {"plural": "nodes", "kind": "Node", "singular": "node"}
    crd["spec"] = {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [{"name": "v1"}]}
    single.apply(
        item("v1", "Service"), item("v1", "Endpoints"), item("v1", "Event"), item("networking.k8s.io/v1", "Ingress"),
        item("storage.k8s.io/v1", "StorageClass"), item("apiregistration.k8s.io/v1", "APIService"), crd,
        item("k3s.cattle.io/v1", "Addon"), item("helm.cattle.io/v1", "HelmChart"), item("example.com/v1", "Node"),
    )  # fmt: skip
    with sqlite3.connect(single.db / "state.db") as db:
        keys = {name for (name,) in db.execute("SELECT DISTINCT name FROM kine")}
    assert {
        "/registry/minions/server-1", "/registry/services/specs/default/n", "/registry/services/endpoints/default/n",
        "/registry/events/default/n", "/registry/ingress/default/n", "/registry/storageclasses/n",
        "/registry/apiregistration.k8s.io/apiservices/n", "/registry/k3s.cattle.io/addons/default/n",
        "/registry/apiextensions.k8s.io/customresourcedefinitions/nodes.example.com",
        "/registry/apiextensions.k8s.io/customresourcedefinitions/addons.k3s.cattle.io",
        "/registry/helm.cattle.io/helmcharts/default/n", "/registry/example.com/nodes/default/n",
    } <= keys  # fmt: skip
    assert [item["metadata"]["name"] for item in raw(single, "/apis/events.k8s.io/v1/events")["items"]] == ["n"]
    assert len(raw(single, "/apis/metrics.k8s.io/v1beta1/nodes")["items"]) == 1  # made, and stored nowhere
    assert not [key for key in keys if key.startswith(("/registry/metrics", "/registry/nodes", "/registry/componen"))]


@pytest.mark.parametrize("datastore", ["sqlite", "etcd"])
def test_a_list_in_pieces_is_that_of_one_moment(machine: Make, datastore: str) -> None:
    server = machine("server-1")
    server.up(**({"cluster-init": True} if datastore == "etcd" else {}))
    filled(server, 7)
    path = "/api/v1/namespaces/default/configmaps"
    whole = raw(server, path)
    assert "continue" not in whole["metadata"]
    assert "remainingItemCount" not in whole["metadata"]
    first = raw(server, f"{path}?limit=3")
    revision = int(first["metadata"]["resourceVersion"])
    assert revision >= int(whole["metadata"]["resourceVersion"]) > 0
    assert first["metadata"]["remainingItemCount"] == 4
    server.kubectl("delete", "configmap", "c5")
    server.kubectl("create", "configmap", "c4a", "--from-literal=a=b")
    second = raw(server, f"{path}?limit=3&continue={first['metadata']['continue']}")
    assert (second["metadata"]["remainingItemCount"], int(second["metadata"]["resourceVersion"])) == (1, revision)
    third = raw(server, f"{path}?limit=3&continue={second['metadata']['continue']}")
    assert set(third["metadata"]) == {"resourceVersion"}
    names = [item["metadata"]["name"] for part in (first, second, third) for item in part["items"]]
    assert names == [f"c{n}" for n in range(7)] == [item["metadata"]["name"] for item in whole["items"]]
    assert int(raw(server, f"{path}?limit=3")["metadata"]["resourceVersion"]) > revision
    chosen = raw(server, f"{path}?limit=2&fieldSelector=metadata.name%21%3Dc1")
    assert [item["metadata"]["name"] for item in chosen["items"]] == ["c0", "c2"]
    assert set(chosen["metadata"]) == {"resourceVersion", "continue"}
    assert "continue key is not valid" in server.k3s("kubectl", "get", "--raw", f"{path}?continue=quatsch").stderr


def test_an_api_that_is_slow_takes_as_long_as_the_fault_says(single: Machine) -> None:
    single.fault("api_slow", "1.5")
    begin = time.monotonic()
    single.get("ns", "default")
    assert time.monotonic() - begin > 1.5


# D: snapshots, cluster-reset, tokens, conversion


def filled(server: Machine, count: int = 30) -> str:
    """Fill a cluster; return kube-system's UID."""
    items = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{n}"}, "data": {"n": str(n)}}
             for n in range(count)]  # fmt: skip
    server.apply(*items)
    return str(server.get("ns", "kube-system")["metadata"]["uid"])


def save(server: Machine, *arguments: str) -> Path:
    """Take a snapshot; return where it lies."""
    done = server.k3s("etcd-snapshot", "save", *arguments)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "saved." in line]
    return server.db / "snapshots" / line.partition("Snapshot ")[2].partition(" saved.")[0]


def reset(server: Machine, *arguments: str) -> str:
    """Run k3s server --cluster-reset; return what it says, it has to end with status 0."""
    server.decide()
    server.start("server", "--cluster-reset", *arguments)
    assert server.ends(60) == 0, server.said
    assert "Managed etcd cluster membership has been reset, restart without --cluster-reset flag now" in server.said
    return server.said


def test_a_snapshot_is_saved_listed_pruned_and_deleted(one: Machine) -> None:
    first = save(one, "--name", "mine")
    assert first.name.startswith("mine-server-1-")
    status = subprocess.run(["etcdctl", "snapshot", "status", "-w", "json", first], capture_output=True, check=True,
                            env={**os.environ, "ETCDCTL_API": "3"})  # fmt: skip
    assert json.loads(status.stdout)["totalKey"] > 10
    listed = json.loads(one.k3s("etcd-snapshot", "ls", "-o", "json").stdout)["items"]
    assert [(item["spec"]["location"], item["status"]["size"]) for item in listed] == [
        (f"file://{first}", first.stat().st_size)
    ]
    (found,) = one.get("etcdsnapshotfiles")["items"]
    token_hash = hashlib.sha256(TOKEN.encode()).hexdigest()[:12]
    assert found["metadata"]["annotations"]["etcd.k3s.cattle.io/snapshot-token-hash"] == token_hash
    until(lambda: not (first.parent / f"mine-server-1-{int(time.time())}").exists(), "a second has passed")
    second = save(one, "--name=mine")
    assert "deleted." in one.k3s("etcd-snapshot", "prune", "--name", "mine", "--snapshot-retention", "1").stderr
    assert [first.exists(), second.exists()] == [False, True]
    assert f"Snapshot {second.name} deleted." in one.k3s("etcd-snapshot", "delete", second.name).stderr
    assert one.get("etcdsnapshotfiles")["items"] == []
    table = one.k3s("etcd-snapshot", "ls").stdout.split()
    assert table == ["Name", "Location", "Size", "Created"]


@pytest.mark.parametrize("how", ["", "empty", "half", "part", "rotten"])
def test_a_save_that_lies_ends_well_and_leaves_nothing_good(one: Machine, how: str) -> None:
    one.fault("snapshot_lies", how)
    path = save(one)
    if how in ("", "part"):
        assert not path.exists()
        assert bool(list(path.parent.glob("*.part"))) == (how == "part")
    else:
        target = one.root / "restored"
        done = subprocess.run(["etcdctl", "snapshot", "restore", str(path), f"--data-dir={target}"],
                              capture_output=True, check=False, env={**os.environ, "ETCDCTL_API": "3"})  # fmt: skip
        assert done.returncode != 0
    assert one.get("etcdsnapshotfiles")["items"] == []


def test_what_has_no_etcd_or_no_server_takes_no_snapshot(machine: Make) -> None:
    server = machine("server-1")
    server.up()
    done = server.k3s("etcd-snapshot", "save")
    assert done.returncode == 1
    assert "etcd datastore disabled" in done.stderr
    server.stop()
    done = server.k3s("etcd-snapshot", "save")
    assert done.returncode == 1
    assert "connect: connection refused" in done.stderr


def test_a_snapshot_is_restored_in_place_and_the_others_join_again(three: list[Machine]) -> None:
    uid = filled(three[0])
    path = save(three[0])
    three[0].kubectl("delete", "cm", "c1")
    three[0].kubectl("create", "cm", "late", "--from-literal=a=b")
    for server in three:
        server.stop()
    reset(three[0], f"--cluster-reset-restore-path={path}")
    assert (three[0].db / "reset-flag").exists()
    assert list(three[0].db.glob("etcd-old-*"))
    three[0].up()
    assert not (three[0].db / "reset-flag").exists()
    assert len(three[0].members()) == 1
    assert three[0].get("ns", "kube-system")["metadata"]["uid"] == uid
    names = three[0].kubectl("get", "cm", "-o", "name").split()
    assert "configmap/c1" in names
    assert "configmap/late" not in names
    three[0].sees("server-2", "EtcdIsVoter", "False")
    for server in three[1:]:
        shutil.rmtree(server.db)
        server_joins(server, three[0])
        three[0].sees(server.name, "EtcdIsVoter")
    assert len(three[0].members()) == 3


def test_a_snapshot_is_restored_on_another_host_with_its_token_alone(one: Machine, machine: Make) -> None:
    uid = filled(one)
    path = save(one)
    one.kill()
    other = machine("server-5")
    other.configure()
    other.start("server", "--cluster-reset", f"--cluster-reset-restore-path={path}")
    assert other.ends() == 1
    assert "server/token does not exist, please pass --token to complete the restoration" in other.said
    other.start("server", "--cluster-reset", f"--cluster-reset-restore-path={path}", "--token=wrong")
    assert other.ends() == 1
    assert "bootstrap data already found and encrypted with different token" in other.said
    other.configure(token=TOKEN)
    reset(other, f"--cluster-reset-restore-path={path}")
    other.up()
    other.sees("server-5")
    assert other.get("ns", "kube-system")["metadata"]["uid"] == uid
    assert (other.data / "server/tls/server-ca.crt").read_text() == (one.data / "server/tls/server-ca.crt").read_text()
    other.sees("server-1", status="Unknown")
    other.kubectl("delete", "node", "server-1")
    assert list(other.nodes()) == ["server-5"]


def test_a_host_that_was_restored_gets_past_its_old_node_password(one: Machine) -> None:
    path = save(one)
    one.stop()
    (one.etc / "node/password").unlink()
    reset(one, f"--cluster-reset-restore-path={path}")
    one.up()
    one.sees("server-1")
    assert "Node password rejected" not in one.said


def test_a_plain_reset_makes_a_cluster_of_one_and_is_not_done_twice(three: list[Machine]) -> None:
    uid = filled(three[0])
    for server in three:
        server.kill()
    reset(three[0])
    three[0].start("server", "--cluster-reset")
    assert three[0].ends() == 1
    assert "Managed etcd cluster membership was previously reset, please remove the cluster-reset flag" in three[0].said
    three[0].up()
    assert three[0].get("ns", "kube-system")["metadata"]["uid"] == uid
    assert len(three[0].members()) == 1


def test_a_reset_mends_the_membership_of_a_server_with_a_new_address(one: Machine) -> None:
    uid = filled(one)
    one.stop()
    one.address = one.address.removesuffix("11") + "19"
    one.configure(token=TOKEN)
    reset(one)
    one.up()
    one.sees("server-1")
    assert one.get("ns", "kube-system")["metadata"]["uid"] == uid


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "etcd: snapshot path does not exist"),
        ("part", "snapshot missing hash but --skip-hash-check=false"),
        ("folder", "etcd: snapshot path must be a file, not a directory"),
    ],
)
def test_what_is_no_snapshot_is_not_restored(one: Machine, content: str | None, said: str) -> None:
    path = one.root / "snapshot.part"
    whole = save(one)
    if content == "folder":
        path.mkdir()
    elif content:
        path.write_bytes(whole.read_bytes()[:-32])
    one.stop()
    one.decide()
    one.start("server", "--cluster-reset", f"--cluster-reset-restore-path={path}")
    assert one.ends() == 1
    assert said in one.said


def test_a_compressed_snapshot_is_restored_by_its_name_and_not_by_its_path(one: Machine) -> None:
    filled(one)
    one.configure(**{"token": TOKEN, "etcd-snapshot-compress": True})
    path = save(one)
    assert path.suffix == ".zip"
    one.stop()
    one.decide()
    one.start("server", "--cluster-reset", f"--cluster-reset-restore-path={path}")
    assert one.ends() == 1
    assert f"open {path.parent}{path}: no such file or directory" in one.said  # k3s#14526
    reset(one, f"--cluster-reset-restore-path={path.name}")
    one.up()
    assert one.get("cm", "c3")["data"] == {"n": "3"}
    plain = save(one, "--etcd-snapshot-compress=false", "--name", "plain")  # the command line is above config.yaml
    assert plain.suffix == ""
    status = subprocess.run(["etcdctl", "snapshot", "status", plain], check=False, capture_output=True,
                            env={**os.environ, "ETCDCTL_API": "3"})  # fmt: skip
    assert status.returncode == 0
    both = ["etcd-snapshot", "delete", plain.name, "no-such"]
    said = one.k3s(*both).stderr
    assert f"Snapshot {plain.name} deleted." in said
    assert "Snapshot no-such not found." in said
    assert not plain.exists()


def test_flags_that_do_not_go_together_are_refused(one: Machine) -> None:
    one.stop()
    one.decide(server=one.url)
    one.start("server", "--cluster-reset")
    assert one.ends() == 1
    assert "cannot perform cluster-reset while server URL is set - remove server from configuration" in one.said
    one.start("server", "--cluster-reset-restore-path=/x")
    assert one.ends() == 1
    assert "invalid flag use; --cluster-reset required with --cluster-reset-restore-path" in one.said
    one.start("server", "--quatsch")
    assert one.ends() == 1
    assert "flag provided but not defined: -quatsch" in one.said


def test_sqlite_becomes_etcd_with_all_its_objects(machine: Make) -> None:
    server = machine("server-1")
    server.up()
    server.sees("server-1")
    uid = filled(server)
    server.stop()
    server.up(**{"cluster-init": True})
    server.sees("server-1", "EtcdIsVoter")
    assert server.get("ns", "kube-system")["metadata"]["uid"] == uid
    assert server.get("cm", "c7")["data"] == {"n": "7"}
    assert (server.db / "state.db.migrated").exists()
    assert not (server.db / "state.db").exists()


def test_a_conversion_that_fails_is_skipped_the_next_time(machine: Make) -> None:
    server = machine("server-1")
    server.up()
    filled(server)
    server.stop()
    fault = server.fault("migration_fails")
    server.decide(**{"cluster-init": True})
    server.start()
    assert server.ends() == 1
    assert "failed to migrate content from sqlite to etcd" in server.said
    fault.unlink()
    server.up(**{"cluster-init": True})
    assert "Migrating content" not in server.said
    assert (server.db / "state.db").exists()
    assert not (server.db / "state.db.migrated").exists()
    names = server.kubectl("get", "cm", "-o", "name").split()
    assert len(names) < 30
    server.stop()
    shutil.rmtree(server.db / "etcd")
    server.up(**{"cluster-init": True})
    assert len(server.kubectl("get", "cm", "-o", "name").split()) == 30


def test_a_copy_of_a_live_database_without_its_wal_lacks_rows_and_a_backup_of_it_has_them(single: Machine) -> None:
    filled(single, 3)
    shutil.copy(single.db / "state.db", single.root / "copy.db")
    name = "/registry/configmaps/default/c2"
    with sqlite3.connect(single.db / "state.db") as db, sqlite3.connect(single.root / "backup.db") as backup:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        db.backup(backup)
        assert backup.execute("SELECT COUNT(*) FROM kine WHERE name = ?", (name,)).fetchone() == (1,)
    with sqlite3.connect(single.root / "copy.db") as copy:
        tables = copy.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'kine'").fetchone()
        assert tables == (0,) or not copy.execute("SELECT 1 FROM kine WHERE name = ?", (name,)).fetchone()
    single.stop()
    assert (single.db / "state.db-wal").stat().st_size > 0  # as systemd stops it: all three files are the database
    single.up()
    assert single.get("cm", "c2")["data"] == {"n": "2"}


def test_a_stale_etcd_beside_a_sqlite_database_is_taken_for_the_cluster(machine: Make) -> None:
    server = machine("server-1")
    server.up()
    filled(server)
    server.stop()
    server.db.rename(server.db.with_name("sqlite"))
    server.up(**{"cluster-init": True})
    server.stop()
    shutil.copytree(server.db.with_name("sqlite"), server.db, dirs_exist_ok=True)
    server.up(**{"cluster-init": True})
    assert "Migrating content" not in server.said
    assert (server.db / "state.db").exists()
    assert server.kubectl("get", "cm", "-o", "name").split() == []


def test_a_token_file_of_another_cluster_opens_nothing_where_the_config_has_no_token(single: Machine) -> None:
    single.stop()
    single.configure()
    token = single.data / "server/token"
    token.write_text(token.read_text().replace(TOKEN, "another"))
    single.decide()
    single.start()
    assert single.ends() == 1
    assert "encrypted with different token" in single.said


def test_a_server_with_another_node_password_is_refused_by_the_database_that_it_serves(single: Machine) -> None:
    single.stop()
    (single.etc / "node/password").write_text("another\n")
    single.up()
    single.says("server is not ready: Node password rejected")
    single.sees("server-1", status="Unknown")


def test_a_stale_wal_beside_a_restored_database_is_sqlites_own_trap(machine: Make) -> None:
    server = machine("server-1")
    server.up()
    server.kubectl("create", "cm", "first", "--from-literal=a=b")
    with sqlite3.connect(server.db / "state.db") as db, sqlite3.connect(server.root / "copy.db") as copy:
        db.backup(copy)
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    server.kubectl("create", "cm", "second", "--from-literal=a=b")
    server.kill()
    assert (server.db / "state.db-wal").stat().st_size > 0
    shutil.copy(server.root / "copy.db", server.db / "state.db")
    shutil.copytree(server.db, server.root / "trap")
    with sqlite3.connect(server.root / "trap/state.db") as db:  # what the copy has not, out of the log
        assert db.execute("SELECT 1 FROM kine WHERE name LIKE '%/default/second'").fetchone()
    (server.db / "state.db-wal").unlink()
    (server.db / "state.db-shm").unlink()
    server.up()
    assert server.kubectl("get", "cm", "-o", "name").split() == ["configmap/first"]


def test_a_token_is_rotated_and_the_old_one_opens_nothing_any_more(one: Machine) -> None:
    done = one.k3s("token", "rotate", "--token", "wrong", "--new-token", "the-new-one")
    assert done.returncode == 1
    done = one.k3s("token", "rotate", "--token", TOKEN, "--new-token", "the-new-one")
    assert done.returncode == 0
    assert "Token rotated, restart k3s nodes with new token" in done.stderr
    one.stop()
    one.decide()
    one.start()
    assert one.ends() == 1
    assert "encrypted with different token" in one.said
    one.configure(token="the-new-one")
    one.up()
    assert one.k3s("token", "generate").stdout.strip() != one.k3s("token", "generate").stdout.strip()


def test_a_slow_start_takes_as_long_as_the_fault_says(machine: Make) -> None:
    server = machine("server-1")
    server.fault("slow_start", "3")
    begin = time.monotonic()
    server.up()
    assert time.monotonic() - begin > 3
