"""Each fault at each step of os_deploy: PYTHONPATH=tests python -m lab.sweep [--seed N] [--sample K] [--record].

A combination is a host of a cluster (three servers and an agent), a step of os_deploy and a fault that is switched on
at that step. os_deploy has to end by itself and to tell the truth; no other host may be touched, and etcd goes on. Then
the fault is switched off, what has no power is switched on, and the same command has to bring the host to its config.
`--record` writes docs/faults.md after each combination.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from i12e.paths import LAB_MACHINES
from lab import clones, environment
from lab.api import Lab, Trouble

SERVERS = ("server-1", "server-2", "server-3")
AGENT = "agent-1"
STEPS = {
    "before": "before it is started",
    "checks": "it checks what the config fetches",
    "drain": "the host is being drained",
    "upload": "the config is being written to the host",
    "reset": "the reset has been told to begin",
    "reboot": "the host is down for its reboot",
    "proof": "the host is up again and is to be proven",
}
KILLED = "killed"
_PAGE = clones.ROOT / "docs/faults.md"
FAULTS = {
    "unreachable": "its network cable is out",
    "slow": "each packet takes 0.3 s",
    "no_boot": "it does not come up any more",
    "wrong_host_key": "its sshd has another host key",
    "disk_full": "its disk is full",
    "ignition_fails": "Ignition fails at its next first boot",
    "no_artifacts": "nothing can be fetched by it",
    "k3s_never_ready": "its k3s never gets ready",
    "ssh_drops": "all ssh connections to it break",
    KILLED: "os_deploy itself is killed (SIGKILL)",
}
# What would never show: the fault is of a boot that is over, or there is nothing yet that could break.
_POINTLESS = {("no_boot", "proof"), ("ignition_fails", "proof"), ("ssh_drops", "before"), (KILLED, "before"),
              ("ssh_drops", "reboot"), ("disk_full", "reboot"), ("wrong_host_key", "reboot")}  # fmt: skip
_SAID = {"checks": "checks what", "drain": "is drained", "reset": "is reset"}
_GAP = 25.0  # seconds for which no write to etcd may be taken; an election takes a few on a busy machine
_FLAP = 20.0  # seconds in which a node has to be ready that was told as ready
_ENDS = 240.0  # seconds in which os_deploy has to end by itself
_TLS = "/var/lib/rancher/k3s/server/tls/etcd"
_PUT = (
    f"ETCDCTL_API=3 etcdctl --command-timeout=4s --endpoints=https://127.0.0.1:2379 --cacert={_TLS}/server-ca.crt"
    f" --cert={_TLS}/client.crt --key={_TLS}/client.key"
)
_LEFT = r"""
digest() { sed -n 's/.*"digest": *"\([0-9a-f]*\)".*/\1/p' "$1" 2>/dev/null; }
echo "runs=$(digest /etc/i12e/host.json)"
echo "proven=$(digest /var/lib/i12e/proven.json)"
[ ! -e /selective-os-reset ] || echo staged=yes
[ ! -e /var/lib/i12e/deploy.json ] || echo intent=yes
"""


@dataclass(frozen=True)
class Combination:
    """A fault at a step on a host."""

    fault: str
    step: str
    host: str

    @property
    def kind(self) -> str:
        """Which kind of host it is."""
        return self.host.partition("-")[0]

    def __str__(self) -> str:
        return f"{self.fault} at {self.step} of {self.host}"


@dataclass
class Outcome:
    """What became of a combination; `wrong` is what must not be."""

    tried: Combination
    told: str = ""
    left: str = ""
    then: str = ""
    gap: float = 0.0
    took: float = 0.0
    wrong: list[str] = field(default_factory=list)
    broken: bool = False
    """Whether the cluster is not as it was, so that nothing more can be tried with it."""


def combinations() -> list[Combination]:
    """Return all of them; the servers take turns."""
    found: list[Combination] = []
    for fault in FAULTS:
        for step in STEPS:
            if (fault, step) not in _POINTLESS:
                found.append(Combination(fault, step, AGENT))
                found.append(Combination(fault, step, SERVERS[len(found) // 2 % len(SERVERS)]))
    return found


class Cluster:
    """A cluster of the lab to try combinations with."""

    def __init__(self, root: Path) -> None:
        """Given a folder that is not there, make a clone there, a lab and its cluster."""
        self.operator = clones.clone(root)
        self.lab = Lab.start(root / LAB_MACHINES, [*SERVERS, AGENT])
        environment.write(root, self.lab, len(SERVERS), 1)
        done = self.operator.doit("os_deploy", "--yes", "--timeout", "180s")
        if done.status:
            raise Trouble(f"no cluster to begin with: {done.out}{done.err}")
        self._number = 0

    def stop(self) -> None:
        """End it."""
        self.lab.stop()

    def attempt(self, tried: Combination) -> Outcome:
        """Given a combination, return what becomes of it."""
        began = time.monotonic()
        outcome = Outcome(tried)
        try:
            self._attempt(tried, outcome)
        except (Trouble, AssertionError, OSError, subprocess.TimeoutExpired) as error:
            outcome.wrong.append(f"{type(error).__name__}: {error}")
            outcome.broken = True
        outcome.took = time.monotonic() - began
        return outcome

    def _attempt(self, tried: Combination, outcome: Outcome) -> None:
        lab, host = self.lab, tried.host
        label = self._edit(host)
        old = self._left(host).get("runs", "")
        watch = _Watch(lab, host, label)
        boots = lab.status()[host]["boots"]
        with watch:
            run = _Run(self.operator, lab, tried, boots)
            out, err, status = run.finish()
        outcome.gap = watch.gap
        outcome.wrong += watch.wrong
        if not run.reached:
            outcome.wrong.append(f"the step was never reached: {_last(out, err)}")
        outcome.told = "killed" if tried.fault == KILLED and run.reached else _told(host, status, out, err)
        done = bool(re.search(rf"^DEPLOY +{host}\b", out, re.MULTILINE))
        if status == 0 and not done:
            outcome.wrong.append("exit status 0, and nothing was deployed")
        left = self._left(host)
        outcome.left = self._as_text(host, left, old)
        lacks = self._lacks(host, label) if done else ""
        if lacks:
            outcome.wrong.append(f"it was told as done, and it is not: {lacks}")
        if left.get("proven") and left["proven"] != old and not done and tried.fault not in (KILLED, "ssh_drops"):
            outcome.wrong.append("it was proven, and that was not told")
        self._mend(tried)
        before = lab.status()
        runs = self._left(host).get("runs", "")
        again = self.operator.doit(f"os_deploy:{host}", "--yes", "--timeout", "60s", "--drain-timeout", "20s")
        outcome.then = _told(host, again.status, again.out, again.err)
        after = lab.status()
        lacks = _last(again.out, again.err) if again.status else self._lacks(host, label)
        if lacks:
            outcome.wrong.append(f"the same command did not bring it there: {lacks}")
            outcome.broken = True
            return
        resets = after[host]["boots"] - before[host]["boots"]
        outcome.then += f", {resets} reboot" if resets else ", no reboot"
        if runs == self._left(host).get("runs", "") and resets:
            outcome.wrong.append("its config was there, and it was reset a second time")
        moved = [name for name in after if name != host and after[name]["boots"] != before[name]["boots"]]
        if moved:
            outcome.wrong.append(f"other hosts rebooted: {', '.join(moved)}")
        plan = self.operator.doit("plan")
        if plan.status:
            outcome.wrong.append(f"plan is not content afterwards: {plan.out[:300]}")
        outcome.wrong += watch.lost(next(name for name in SERVERS if name != host))

    def _edit(self, host: str) -> str:
        self._number += 1
        label = f"n{self._number}"
        place = self.operator.root / f"hosts/lab/{host}.yaml"
        text = re.sub(r"(?m)^labels:.*\n?", "", place.read_text()).rstrip("\n")
        place.write_text(f"{text}\nlabels: {{sweep: {label}}}\n")
        return label

    def _left(self, host: str) -> dict[str, str]:
        """Return what is on the host now; nothing if it is not up."""
        with suppress(Trouble):
            done = self.lab.shell(host, _LEFT, limit=20)
            return dict(line.partition("=")[::2] for line in done.output.splitlines())
        return {}

    def _as_text(self, host: str, left: dict[str, str], old: str) -> str:
        state = self.lab.status()[host]
        if not left:
            return f"{state['state']}: {state['why']}".strip(": ")
        runs = left.get("runs", "")
        words = ["old config" if runs == old else "new config" if runs else "no config"]
        if runs and runs != old:
            words.append("proven" if left.get("proven") == runs else "not proven")
        words += [what for key, what in (("staged", "a reset is staged"), ("intent", "marked as begun")) if key in left]
        if self._node(host).get("spec", {}).get("unschedulable"):
            words.append("cordoned")
        return ", ".join(words)

    def _node(self, host: str) -> dict[str, Any]:
        """Return a host's node as another server knows it."""
        for server in SERVERS:
            if server != host:
                done = self.lab.shell(server, f"timeout 15 /opt/bin/k3s kubectl get node {host} -o json", limit=20)
                if done.status == 0:
                    found: dict[str, Any] = json.loads(done.output)
                    return found
        return {}

    def _lacks(self, host: str, label: str) -> str:
        """Return what a host lacks that runs the config with a label, is proven, and has a ready node that takes pods.

        A node that is ready may miss a heartbeat, above all where the network is slow: that it is, is waited for.
        """
        until = time.monotonic() + _FLAP
        while True:
            said = self._lacks_now(host, label)
            if not said.startswith("Ready") or time.monotonic() > until:
                return said
            time.sleep(0.5)

    def _lacks_now(self, host: str, label: str) -> str:
        node, left = self._node(host), self._left(host)
        if not node:
            return "no other server tells of its node"
        if not left.get("runs") or left["proven"] != left["runs"]:
            return "it is not proven"
        told = [key for key in ("staged", "intent") if key in left]
        if told:
            return f"it has left {', '.join(told)}"
        if node["metadata"]["labels"].get("sweep") != label:
            return f"its node has another label: {node['metadata']['labels']}"
        if node.get("spec", {}).get("unschedulable"):
            return "it is cordoned"
        ready = {each["type"]: each["status"] for each in node["status"]["conditions"]}.get("Ready")
        return "" if ready == "True" else f"Ready is {ready}"

    def _mend(self, tried: Combination) -> None:
        """Switch the fault off, and what has no power or hangs, on."""
        lab, host = self.lab, tried.host
        if tried.fault != KILLED:
            lab.fault(host, tried.fault, on=False)
        state = lab.status()[host]
        if state["state"] not in ("up", "booting"):
            lab.kill(host)
            lab.power_on(host)
        lab.wait(host)


class _Run:
    """A run of os_deploy, into which the fault comes at its step."""

    def __init__(self, operator: clones.Operator, lab: Lab, tried: Combination, boots: int) -> None:
        self.lab = lab
        self.tried = tried
        self.boots = boots
        self.reached = False
        self._err: list[str] = []
        self._out: list[str] = []
        if tried.step == "before":
            self._strike()
        elif (tried.step, tried.fault) == ("upload", "ssh_drops"):
            self._strike(pattern=r"next\.ign\.new")  # the lab itself sees when that runs
        limits = ("--timeout", "12s", "--drain-timeout", "10s")
        self.process = operator.start(f"os_deploy:{tried.host}", "--yes", *limits)
        readers = ((self.process.stderr, self._err), (self.process.stdout, self._out))
        self._threads = [threading.Thread(target=self._read, args=each, daemon=True) for each in readers]
        for thread in self._threads:
            thread.start()

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        with stream:
            for line in stream:
                lines.append(line)
                said = _SAID.get(self.tried.step)
                if said and not self.reached and f"{self.tried.host}: {said}" in line:
                    self._strike()

    def _strike(self, **how: Any) -> None:
        self.reached = True
        if self.tried.fault == KILLED:
            self.process.send_signal(signal.SIGKILL)
        elif self.tried.step == "before" or how:  # it is not started yet
            self.lab.fault(self.tried.host, self.tried.fault, **how)
        else:  # a disk takes a second to fill: os_deploy waits at its step for that
            self.process.send_signal(signal.SIGSTOP)
            try:
                self.lab.fault(self.tried.host, self.tried.fault)
            finally:
                self.process.send_signal(signal.SIGCONT)

    def finish(self) -> tuple[str, str, int]:
        """Return what it printed and its exit status; raise Trouble if it does not end."""
        deadline = time.monotonic() + _ENDS
        while self.process.poll() is None:
            if not self.reached and self._is_there():
                self._strike()
            if time.monotonic() > deadline:
                self.process.kill()
                raise Trouble(f"os_deploy does not end by itself: {''.join(self._err)[-500:]}")
            time.sleep(0.05)
        for thread in self._threads:
            thread.join(10)
        return "".join(self._out), "".join(self._err), int(self.process.returncode)

    def _is_there(self) -> bool:
        """Tell whether a step has come that os_deploy says nothing of."""
        step, host = self.tried.step, self.tried.host
        if step == "upload":
            return "is drained" in "".join(self._err) and self._uploads()
        if step not in ("reboot", "proof") or "is reset" not in "".join(self._err):
            return False
        state = self.lab.status()[host]
        if step == "reboot":
            return bool(state["state"] == "booting")
        return bool(
            state["boots"] > self.boots and state["state"] == "up" and self.lab.ask("ready", host=host)["ready"]
        )

    def _uploads(self) -> bool:
        with suppress(Trouble):
            return self.lab.shell(self.tried.host, "ls /var/lib/i12e/next.ign*", limit=10).status == 0
        return False


class _Watch:
    """Looks at all hosts but one while a block runs, and writes to etcd all the time."""

    def __init__(self, lab: Lab, host: str, label: str) -> None:
        self.lab = lab
        self.others = [name for name in (*SERVERS, AGENT) if name != host]
        self.label = label
        self.wrong: list[str] = []
        self.gap = 0.0
        self._acknowledged: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._look, self._write)]

    def __enter__(self) -> None:
        self._before = self.lab.status()
        for thread in self._threads:
            thread.start()

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _look(self) -> None:
        seen: set[str] = set()
        while not self._over.wait(0.25):
            for name, state in self.lab.status().items():
                touched = state["boots"] != self._before[name]["boots"] or state["state"] != "up"
                if name in self.others and touched:
                    seen.add(f"{name} was touched too: {state['state']}, boots {state['boots']}")
        self.wrong += sorted(seen)

    def _write(self) -> None:
        last = time.monotonic()
        number = 0
        servers = [name for name in self.others if name in SERVERS]
        while not self._over.wait(1):
            number += 1
            key = f"{self.label}-{number}"
            with suppress(Trouble):
                if self.lab.shell(servers[number % len(servers)], f"{_PUT} put {key} x", limit=10).status == 0:
                    self._acknowledged.append(key)
                    self.gap, last = max(self.gap, time.monotonic() - last), time.monotonic()
        self.gap = max(self.gap, time.monotonic() - last)
        if self.gap > _GAP:
            self.wrong.append(f"etcd took no write for {self.gap:.0f} s")

    def lost(self, server: str) -> Iterator[str]:
        """Yield what was acknowledged and is not there."""
        kept = set(self.lab.read(server, f"{_PUT} get --prefix {self.label}- --keys-only").split())
        gone = [key for key in self._acknowledged if key not in kept]
        if gone:
            yield f"etcd lost what it had acknowledged: {', '.join(gone)}"


def _told(host: str, status: int, out: str, err: str) -> str:
    """Return how a run ended, in one line."""
    done = re.search(rf"^DEPLOY +{host} +(.*)$", out, re.MULTILINE)
    if status == 0:
        if not done:
            return "nothing to do"
        return re.sub(r" in \d+ s.*", "", done[1]).strip("() ")
    return f"exit status {status}: {_last(out, err)}"


def _last(out: str, err: str) -> str:
    """Return the error that a run ended with."""
    lines = [line.strip() for line in (out + err).splitlines() if re.search(r"error|^\s*\S+: (it |waited|ssh)", line)]
    said = (lines or (out + err).strip().splitlines() or [""])[-1]
    said = re.sub(r"[^ ]*/(build|hosts)/", r"\1/", said)  # where this clone is
    return re.sub(r"SHA256:\S+|[0-9a-f]{12,}", "…", said)[:200]


def sweep(
    tried: Sequence[Combination], place: Path, labs: int, told: Callable[[Outcome], None], minutes: float = 0
) -> None:
    """Given combinations and a folder, try all of them in that many labs side by side.

    `told` is given each outcome as it comes. A cluster that is not as it was is made anew. `minutes`: begin none later.
    """
    waiting = iter(list(tried))
    mutex = threading.Lock()
    until = time.monotonic() + minutes * 60 if minutes else float("inf")

    def following() -> Combination | None:
        with mutex:
            return next(waiting, None) if time.monotonic() < until else None

    def tell(outcome: Outcome) -> None:
        with mutex:
            told(outcome)

    with ThreadPoolExecutor(labs) as pool:
        works = [pool.submit(_work, place / str(number), following, tell) for number in range(min(labs, len(tried)))]
    for work in works:
        work.result()


def _work(place: Path, following: Callable[[], Combination | None], tell: Callable[[Outcome], None]) -> None:
    """Try one combination after the other in a cluster, which is made anew where one has broken it."""
    made = 0
    cluster: Cluster | None = None
    folders: list[Path] = []
    try:
        while each := following():
            if cluster is None:
                made += 1
                folders.append(place / str(made))
                cluster = Cluster(folders[-1])
            outcome = cluster.attempt(each)
            tell(outcome)
            if outcome.broken:
                cluster.stop()
                cluster = None
    finally:
        for folder in folders:
            Lab(folder / LAB_MACHINES).stop()


def sample(seed: int, size: int) -> list[Combination]:
    """Given a seed and how many, return some combinations: the same for the same seed, no fault twice if it can be."""
    every = combinations()
    random.Random(seed).shuffle(every)  # noqa: S311  # no secret
    chosen: list[Combination] = []
    while every and len(chosen) < size:
        faults: set[str] = set()
        for each in list(every):
            if each.fault not in faults and len(chosen) < size:
                faults.add(each.fault)
                chosen.append(each)
                every.remove(each)
    return chosen


_ROW = re.compile(r"^\| (\w+) \| (\w+) \| ([a-z]+-\d) \|.*\| ([^|]*) \|$", re.MULTILINE)


def record(outcomes: Sequence[Outcome], before: str = "") -> str:
    """Given outcomes and the page as it was, return the page docs/faults.md: a row is of the last run that had it."""
    every = combinations()
    rows = {Combination(*found.groups()[:3]): found[0] for found in _ROW.finditer(before)}
    rows |= {each.tried: row(each) for each in outcomes}
    kept = {each: rows[each] for each in every if each in rows}
    wrong = [text for text in kept.values() if not text.endswith("| none |")]
    lines = [
        "# Each fault at each step",
        "",
        "What `os_deploy` does when something breaks, tried with a cluster of three servers and an agent of the lab.",
        "Written by `PYTHONPATH=tests .venv/bin/python -m lab.sweep --record`; the tests try a sample of it.",
        f"**{len(kept)} of {len(every)} combinations are in this record; in {len(wrong)} something was wrong.**",
        "",
        "In each, one label of one host is edited, and `os_deploy:HOST --yes --timeout 12s --drain-timeout 10s` is",
        "run. The fault comes at a step of it and stays until it has ended. Demanded of each: it ends by itself; no",
        "other host reboots or goes down; etcd takes writes on the other servers all the time (the longest time",
        "without one is told) and has all that it acknowledged; what is told as done is proven, ready and not",
        "cordoned; the exit status is 0 for nothing else. Then the fault is switched off, what has no power gets it,",
        "and the same command (60 s) has to bring the host there, with no second reset where its config was there",
        "already, and `plan` has nothing to do. What of that was not so is in the last column.",
        "",
        "The steps:",
        "",
        *(f"- **{step}**: {what}" for step, what in STEPS.items()),
        "",
        "The faults:",
        "",
        *(f"- **{fault}**: {what}" for fault, what in FAULTS.items()),
        "",
        "| fault | step | host | what happened | what was left | then, without the fault | etcd waited | wrong |",
        "|---|---|---|---|---|---|---|---|",
        *kept.values(),
    ]
    return "".join(f"{line}\n" for line in lines)


def row(each: Outcome) -> str:
    """Given an outcome, return its row of the table."""
    tried = each.tried
    cells = (tried.fault, tried.step, tried.host, each.told, each.left, each.then, f"{each.gap:.0f} s")
    texts = (*cells, "; ".join(each.wrong) or "none")
    return "| " + " | ".join(re.sub(r"\s+", " ", text.replace("|", "/")).strip() for text in texts) + " |"


def main(arguments: list[str]) -> int:
    """Given the arguments, sweep; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="lab.sweep", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="which sample it is (default: 0)")
    parser.add_argument("--sample", type=int, help="how many combinations (default: all)")
    parser.add_argument("--only", default="", help="a regular expression of combinations: 'slow at reset of agent'")
    parser.add_argument("--labs", type=int, default=2, help="how many clusters side by side (default: 2)")
    parser.add_argument("--minutes", type=float, default=0, help="begin no combination after that time")
    parser.add_argument("--record", action="store_true", help="write docs/faults.md")
    given = parser.parse_args(arguments)
    tried = sample(given.seed, given.sample or len(combinations()))
    tried = [each for each in tried if re.search(given.only, str(each))]
    outcomes: list[Outcome] = []

    def told(outcome: Outcome) -> None:
        outcomes.append(outcome)
        print(f"{len(outcomes):3}/{len(tried)} {outcome.took:4.0f} s {row(outcome)}", flush=True)
        if given.record:
            _PAGE.write_text(record([outcome], _PAGE.read_text() if _PAGE.exists() else ""))

    with tempfile.TemporaryDirectory(prefix="i12e-sweep-") as place:
        sweep(tried, Path(place), given.labs, told, given.minutes)
    return int(any(each.wrong for each in outcomes) or len(outcomes) < len(tried))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
