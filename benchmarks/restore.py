"""Restore beside the least that it must do: `python -m benchmarks.restore --sizes 100 1000` (Linux, root, for a lab).

A server of the lab on a real etcd is filled with so many MB and backed up, then restored in place by `./doit restore`.
The floor, in the same run and on the same host: as many bytes are copied there by ssh as they are, and k3s is started
once. k3s is the lab's stand-in, etcd is real: docs/simulated.md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Failed
from i12e.paths import LAB_MACHINES

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/performance.md"
MARKS = "<!-- restore -->", "<!-- end of restore -->"
_VALUE = 400_000  # bytes of an object: etcd takes at most 1.5 MB at once
_HOST = "server-1"
_READY = (
    "export PATH=/opt/bin:$PATH; systemctl stop k3s; systemctl start k3s; "
    'until [ "$(k3s kubectl get --raw /readyz 2>/dev/null)" = ok ]; do sleep 0.2; done'
)


_FILL = r"""
tls=/var/lib/rancher/k3s/server/tls/etcd
export ETCDCTL_API=3
for n in $(seq $count); do
    { printf '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"big-%s","namespace":"default",' $n
      printf '"uid":"00000000-0000-4000-8000-%012d","creationTimestamp":"2026-11-27T00:00:00Z"},"data":{"value":"' $n
      head -c $size /dev/urandom | base64 -w0; printf '"}}'; } |
        etcdctl --endpoints=https://127.0.0.1:2379 --cacert=$tls/server-ca.crt --cert=$tls/client.crt \
            --key=$tls/client.key put /registry/configmaps/default/big-$n >/dev/null || exit 1
done
"""


@dataclass(frozen=True)
class Measured:
    """What a restore took, its steps, and what the floor took, in seconds."""

    megabytes: float
    """Of the database."""
    whole: float
    steps: dict[str, float]
    copy: float
    start: float

    @property
    def ratio(self) -> float:
        """How many times as long as the floor it takes."""
        return self.whole / (self.copy + self.start)


def measure(size: int) -> Measured:
    """Given the MB of the database, measure; raise Failed if a program fails, ImportError without the tests' tools."""
    with _tests(), tempfile.TemporaryDirectory(prefix="bench-restore-", dir=_folder()) as place:
        backing, clones, environment, fixtures, restores = (
            importlib.import_module(f"lab.{name}")
            for name in ("backing", "clones", "environment", "fixtures", "restores")
        )
        operator = clones.clone(Path(place) / "one")
        os.environ["I12E_LAB_DISK"] = f"{1 + 6 * size // 1000}g"
        with fixtures.running(operator.root / LAB_MACHINES, [_HOST]) as lab:
            environment.write(operator.root, lab, 1, 0)
            operator.deploys()
            scene = restores.Scene(operator, lab, [_HOST])
            _fill(scene, size)
            done = operator.doit("backup")
            if done.status:
                raise Failed(f"backup: {done.err.strip()[-300:]}")
            backup = backing.made(done)[0]
            began = time.monotonic()
            done = operator.doit("restore", "--yes", "--backup", backup, "--json")
            whole = time.monotonic() - began
            if done.status:
                raise Failed(f"restore: {done.err.strip()[-300:]}")
            (told,) = (each for each in json.loads(done.out)["results"] if each["verb"] == "RESTORE")
            steps = {name: float(seconds) for name, seconds in told["steps"].items()}
            return Measured(told["bytes"] / 1e6, whole, steps, *_floor(lab, told["bytes"]))


def _fill(scene: Any, size: int) -> None:
    """Put so many MB of ConfigMaps into etcd, past the API, which would take an hour for a GB in the lab."""
    done = scene.lab.shell(
        _HOST, f"count={max(1, size * 1_000_000 // _VALUE)}; size={_VALUE * 3 // 4}{_FILL}", limit=900
    )
    if done.status:
        raise Failed(f"filling etcd: {done.complaint.strip()[-300:]}")


def _floor(lab: Any, size: int) -> tuple[float, float]:
    """Copy so many bytes to the host by ssh, and start k3s there once; return what both took."""
    with tempfile.TemporaryFile(dir=_folder()) as file:
        for _ in range(size // 1_000_000):
            file.write(os.urandom(1_000_000))
        file.write(os.urandom(size % 1_000_000))
        file.seek(0)
        command = ["ssh", "-F", str(lab.ssh_config), _HOST, "sudo sh -c 'cat >/var/lib/floor && sync /var/lib/floor'"]
        began = time.monotonic()
        done = subprocess.run(command, stdin=file, capture_output=True, text=True, check=False)
        copy = time.monotonic() - began
    if done.returncode:
        raise Failed(f"the copy: {done.stderr.strip()[-300:]}")
    began = time.monotonic()
    started = lab.shell(_HOST, f"rm -f /var/lib/floor; {_READY}", limit=300)
    if started.status:
        raise Failed(f"the start of k3s: {started.complaint.strip()[-300:]}")
    return copy, time.monotonic() - began


@contextlib.contextmanager
def _tests() -> Iterator[None]:
    sys.path.append(str(ROOT / "tests"))
    try:
        yield
    finally:
        sys.path.remove(str(ROOT / "tests"))


def _folder() -> Path:
    folder = ROOT / "build"
    folder.mkdir(exist_ok=True)
    return folder


def markdown(found: list[Measured]) -> str:
    """Given what was measured, return the tables."""
    lines = ["| database | restore | copy | k3s start | restore over floor |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {each.megabytes:,.0f} MB | {each.whole:.1f} s | {each.copy:.1f} s | {each.start:.1f} s | {each.ratio:.2f} |"
        for each in found
    ]
    names = list(dict.fromkeys(name for each in found for name in each.steps))
    lines += ["", f"| database | {' | '.join(names)} | rest |", f"| --- | {' | '.join('---' for _ in names)} | --- |"]
    for each in found:
        shares = [each.steps.get(name, 0.0) for name in names]
        rest = max(0.0, each.whole - sum(shares))
        cells = " | ".join(f"{100 * share / each.whole:.0f} %" for share in [*shares, rest])
        lines.append(f"| {each.megabytes:,.0f} MB | {cells} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, print, record if asked to; return the exit status."""
    from benchmarks import table

    parser = argparse.ArgumentParser("python -m benchmarks.restore", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000], help="MB of the database")
    parser.add_argument("--record", action="store_true", help="into docs/performance.md, too")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    try:
        found = [measure(size) for size in options.sizes]
    except (Failed, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    said = (
        f"{dt.datetime.now(tz=dt.UTC).date()}, one round; {os.cpu_count()} cores, "
        f"load {load:.1f} at the start and {os.getloadavg()[0]:.1f} at the end."
    )
    text = f"{said}\n\n{markdown(found)}"
    print(text)
    if options.record:
        table.record(PAGE, text, *MARKS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
