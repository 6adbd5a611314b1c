"""os_deploy against hosts of the lab: bare hosts become a cluster, and nothing on the way splits or loses it.

Each test goes on with the cluster that the one before has left, so they are run in this order and together.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from i12e import machines
from i12e.paths import LAB, LAB_MACHINES, Paths
from lab import Lab, environment
from lab.backing import wait
from lab.clones import Operator, another_clone, clone
from lab.fixtures import running

pytestmark = pytest.mark.lab

SERVERS = ["server-1", "server-2", "server-3"]
HOSTS = [*SERVERS, "agent-1"]
K3S = "/opt/bin/k3s kubectl"
TLS = "/var/lib/rancher/k3s/server/tls/etcd"
ETCDCTL = (
    f"ETCDCTL_API=3 etcdctl --endpoints=https://127.0.0.1:2379 --cacert={TLS}/server-ca.crt --cert={TLS}/client.crt"
    f" --key={TLS}/client.key"
)
ASIDE = "/var/lib/rancher/k3s/server.before-20261127T031904Z"
# A claim gets its volume when a pod wants it.
VOLUME = """
apiVersion: v1
kind: ConfigMap
metadata: {name: kept}
data: {a: b}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: v}
spec: {accessModes: [ReadWriteOnce], storageClassName: local-path, resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: writer}
spec:
  selector: {matchLabels: {app: writer}}
  template:
    metadata: {labels: {app: writer}}
    spec:
      containers: [{name: writer, image: none}]
      volumes: [{name: v, persistentVolumeClaim: {claimName: v}}]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deploying")


@pytest.fixture(scope="module")
def operator(place: Path) -> Operator:
    return clone(place / "one")


@pytest.fixture(scope="module")
def lab(place: Path, operator: Operator) -> Iterator[Lab]:
    with running(operator.root / LAB_MACHINES, HOSTS) as lab:
        environment.write(operator.root, lab, 3, 1)
        yield lab


def boots(lab: Lab) -> dict[str, int]:
    return {host: state["boots"] for host, state in lab.status().items()}


def kubectl(lab: Lab, arguments: str, host: str = "server-2") -> Any:
    return json.loads(lab.read(host, f"{K3S} {arguments} -o json"))


def uid(lab: Lab) -> str:
    return str(kubectl(lab, "get ns kube-system")["metadata"]["uid"])


def voters(lab: Lab, host: str = "server-2") -> list[str]:
    nodes = kubectl(lab, "get nodes", host)["items"]
    told = {node["metadata"]["name"]: node["status"]["conditions"] for node in nodes}
    return [name for name in told if ("EtcdIsVoter", "True") in [(each["type"], each["status"]) for each in told[name]]]


def put(lab: Lab, name: str, host: str) -> bool:
    """Write a key into etcd through a server; return whether it was acknowledged."""
    return lab.shell(host, f"{ETCDCTL} --command-timeout=3s put {name} x", limit=10).status == 0


def test_bare_hosts_become_a_cluster_and_the_second_run_does_nothing(lab: Lab, operator: Operator) -> None:
    plan = operator.doit("plan")
    assert plan.status == 2
    assert plan.out.count("founds a NEW, EMPTY cluster") == 1
    done = operator.deploys()
    assert [line.split()[1] for line in done.out.splitlines() if line.startswith("DEPLOY")] == HOSTS
    assert voters(lab) == SERVERS
    before = boots(lab)
    again = operator.deploys()
    assert [line.split()[0] for line in again.out.splitlines()[:-1]] == ["KEEP"] * 4
    assert operator.doit("plan").status == 0
    assert boots(lab) == before == dict.fromkeys(HOSTS, 2)


def test_a_second_clone_with_an_empty_database_does_nothing_either(lab: Lab, operator: Operator, place: Path) -> None:
    before = boots(lab)
    other = another_clone(operator, place / "two")
    other.deploys()
    assert boots(lab) == before


def test_one_edited_host_is_reset_and_no_other(lab: Lab, operator: Operator) -> None:
    before = boots(lab)
    operator.edit("hosts/lab/agent-1.yaml", "role: agent", "role: agent\nlabels: {disktype: nvme}")
    plan = operator.doit("plan")
    assert (plan.status, "+ disktype=nvme" in plan.out) == (2, True)
    operator.deploys()
    assert boots(lab) == before | {"agent-1": before["agent-1"] + 1}
    assert kubectl(lab, "get node agent-1")["metadata"]["labels"]["disktype"] == "nvme"


def test_servers_roll_one_by_one_and_etcd_loses_nothing_that_it_acknowledged(lab: Lab, operator: Operator) -> None:
    """A writer goes on all the time, by whichever server takes it; and no two servers are down at once."""
    cluster = uid(lab)
    operator.edit("hosts/lab/cluster.yaml", "k3s:\n", 'k3s:\n  config: {kubelet-arg: ["max-pods=150"]}\n')
    acknowledged: list[str] = []
    most_down = 0
    gap = last = 0.0
    process = operator.start("os_deploy", "--yes", "--timeout", "180s")
    last = time.monotonic()
    number = 0
    while process.poll() is None:
        down = [host for host in SERVERS if lab.status()[host]["state"] != "up"]
        most_down = max(most_down, len(down))
        for host in SERVERS:
            number += 1
            try:
                taken = put(lab, f"w{number}", host)
            except Exception:  # noqa: BLE001  # this server is just going down: the next one
                taken = False
            if taken:
                acknowledged.append(f"w{number}")
                gap, last = max(gap, time.monotonic() - last), time.monotonic()
                break
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    kept = lab.read("server-1", f"{ETCDCTL} get --prefix w --keys-only").split()
    assert len(acknowledged) > 10
    assert set(acknowledged) - set(kept) == set()
    assert most_down <= 1
    assert gap < 30
    assert (uid(lab), voters(lab)) == (cluster, SERVERS)


def test_a_change_by_hand_is_named_by_drift(lab: Lab, operator: Operator) -> None:
    assert operator.doit("drift").status == 0
    lab.read("agent-1", "echo x >>/etc/crictl.yaml; chmod 0600 /etc/i12e/k3s.conf; systemctl disable -q k3s-agent")
    lab.read("agent-1", "echo 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEzBbaE5lcDr3hNL8WrgNDV5SGe26Y4+DFTPXDPiQ4l6 eve' "
             ">>/home/core/.ssh/authorized_keys.d/ignition")  # fmt: skip
    done = operator.doit("drift")
    assert done.status == 2
    for what in ("/etc/crictl.yaml", "mode 0600, not 0644", "is disabled, not enabled", "extra ssh key: eve"):
        assert what in done.out
    for host in SERVERS:
        assert f"{host}: as its config says" in done.out


def test_of_two_operators_one_stops_and_nothing_is_deployed_twice(lab: Lab, operator: Operator, place: Path) -> None:
    operator.edit("hosts/lab/cluster.yaml", "max-pods=150", "max-pods=151")
    before = boots(lab)
    other = another_clone(operator, place / "three")
    first = operator.start("os_deploy", "--yes", "--timeout", "180s")
    _until(first.stderr, "is reset")
    second = other.doit("os_deploy", "--yes", "--timeout", "180s")
    assert second.status == 1
    assert "another os_deploy is at work" in second.err
    out, err = first.communicate(timeout=600)
    assert first.returncode == 0, out + err
    assert boots(lab) == {host: count + 1 for host, count in before.items()}


def test_killed_at_a_reset_the_same_command_goes_on_without_a_second_one(lab: Lab, operator: Operator) -> None:
    operator.edit("hosts/lab/cluster.yaml", "max-pods=151", "max-pods=152")
    before = boots(lab)
    process = operator.start("os_deploy", "--yes", "--timeout", "180s")
    _until(process.stderr, "is reset")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    operator.deploys()
    assert boots(lab) == {host: count + 1 for host, count in before.items()}
    assert operator.doit("plan").status == 0


def test_a_second_server_is_reset_while_one_is_down_only_if_that_is_forced(lab: Lab, operator: Operator) -> None:
    lab.kill("server-3")
    before = boots(lab)
    operator.edit("hosts/lab/server-1.yaml", "role: server", "role: server\nlabels: {a: b}")
    wait(lambda: "server-3" not in _ready(lab))
    done = operator.doit("os_deploy:server-1", "--yes", "--timeout", "20s")
    assert (done.status, "etcd would lose its quorum" in done.err) == (1, True)
    assert boots(lab) == before
    forced = operator.doit("os_deploy:server-1", "--yes", "--timeout", "180s", "--force", "server-3 is being repaired")
    assert forced.status == 0, forced.err
    assert "the quorum of etcd is not looked after" in forced.err
    assert boots(lab) == before | {"server-1": before["server-1"] + 1}
    lab.power_on("server-3")
    lab.wait("server-3")
    wait(lambda: "server-3" in _ready(lab))
    assert (voters(lab), operator.doit("plan").status) == (SERVERS, 0)


def test_a_dead_server_that_comes_back_empty_joins_and_founds_nothing(lab: Lab, operator: Operator) -> None:
    cluster = uid(lab)
    lab.kill("server-1")
    wait(lambda: "server-1" not in _ready(lab))
    lab.wipe("server-1")
    lab.trust("server-1")
    refused = operator.doit("os_deploy:server-1", "--yes", "--timeout", "20s")
    assert (refused.status, "it is another machine" in refused.err) == (1, True)
    assert operator.doit("host_trust:server-1", "--yes").status == 0
    operator.deploys("os_deploy:server-1")
    assert (uid(lab), voters(lab)) == (cluster, SERVERS)
    assert machines.load(Paths(operator.root, LAB))["server-1"] == lab.read("server-1", "cat /etc/machine-id")


def test_a_host_that_does_not_get_healthy_is_not_told_as_done_and_goes_back(lab: Lab, operator: Operator) -> None:
    operator.edit("hosts/lab/agent-1.yaml", "nvme", "hdd")
    process = operator.start("os_deploy:agent-1", "--yes", "--timeout", "15s")
    _until(process.stderr, "is reset")  # before that it is drained, which takes a node that lives
    lab.fault("agent-1", "k3s_never_ready")
    out, err = process.communicate(timeout=600)
    assert (process.returncode, "DEPLOY" in out) == (1, False)
    assert "waited 15 s for its health" in err
    lab.fault("agent-1", "k3s_never_ready", on=False)
    back = operator.doit("os_rollback:agent-1", "--yes", "--timeout", "180s")
    assert back.status == 0, back.err
    assert kubectl(lab, "get node agent-1")["metadata"]["labels"]["disktype"] == "nvme"
    operator.deploys()
    assert kubectl(lab, "get node agent-1")["metadata"]["labels"]["disktype"] == "hdd"


def test_the_only_server_of_a_cluster_keeps_its_data_over_a_config_edit(tmp_path: Path) -> None:
    operator = clone(tmp_path / "one")
    with running(operator.root / LAB_MACHINES, ["server-1"]) as lab:
        environment.write(operator.root, lab, 1, 0)
        operator.deploys()
        assert lab.shell("server-1", f"{K3S} apply -f -", VOLUME.encode()).status == 0
        fill = "cd /var/lib/rancher/k3s/storage/pvc-* && echo data >file"
        wait(lambda: lab.shell("server-1", fill).status == 0)
        cluster = kubectl(lab, "get ns kube-system", "server-1")["metadata"]["uid"]
        lab.read("server-1", f"mkdir -p {ASIDE}/db && echo old >{ASIDE}/db/state.db")
        operator.edit("hosts/lab/server-1.yaml", "role: server", "role: server\nlabels: {a: b}")
        planned = operator.doit("plan").out
        assert "keeps    volume pvc-" in planned
        assert f"keeps    what a restore set aside in {ASIDE} (" in planned
        operator.deploys()
        assert kubectl(lab, "get ns kube-system", "server-1")["metadata"]["uid"] == cluster
        assert kubectl(lab, "get configmap kept", "server-1")["data"] == {"a": "b"}
        assert lab.read("server-1", "cat /var/lib/rancher/k3s/storage/pvc-*/file") == "data"
        assert lab.read("server-1", f"cat {ASIDE}/db/state.db") == "old"


def _ready(lab: Lab) -> list[str]:
    nodes = kubectl(lab, "get nodes")["items"]
    return [node["metadata"]["name"] for node in nodes if {"type": "Ready", "status": "True"}.items()
            <= {key: value for each in node["status"]["conditions"] if each["type"] == "Ready"
                for key, value in each.items()}.items()]  # fmt: skip


def _until(stream: IO[str] | None, text: str) -> None:
    """Read until a line has a text."""
    assert stream is not None
    for line in stream:
        if text in line:
            break
    else:
        pytest.fail(f"{text} was never said")
