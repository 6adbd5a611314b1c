"""A lab as tests and commands use it: started, asked, broken, stopped."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import cgroups, image, needs, places

TESTS = Path(__file__).resolve().parent.parent
_BOOT = 240.0  # seconds until a host has to let one in; it takes three, and twenty on a busy machine
Say = Callable[[str], None]


class Trouble(Exception):
    """The lab cannot do what it was asked for."""


@dataclass(frozen=True)
class Done:
    """How a script ended on a host, and what it wrote to standard output and standard error."""

    status: int
    output: str
    complaint: str = ""


def _silent(text: str) -> None:
    pass


class Lab:
    """One lab. Its folder holds its ssh key, its known_hosts and ssh_config, its logs and its artifacts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.id = places.lab_id(self.folder)
        self.ssh_config = self.folder / "ssh_config"
        self.known_hosts = self.folder / "known_hosts"
        self.key = self.folder / "id_ed25519"
        self.artifacts = self.folder / "artifacts"

    # --- whole labs

    @classmethod
    def start(cls, folder: Path, hosts: Iterable[str], say: Say = _silent) -> Lab:
        """Given a folder and hosts, boot those that are not there yet, bare; return when all let one in by ssh.

        A lab that is up already stays as it is. Raise Trouble if this machine lacks something, or a host does not come.
        """
        lacking = needs.missing()
        if lacking:
            raise Trouble(f"a lab needs {lacking}")
        lab = cls(folder)
        lab.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            base = image.root(say)
        except image.Failed as error:
            raise Trouble(f"the hosts' common root could not be made: {error}") from None
        with lab._alone():
            if not lab.is_up():
                lab._make_folder()
                lab._start_supervisor(base)
            lab._boot(hosts)
        return lab

    @classmethod
    def find(cls, folder: Path) -> Lab | None:
        """Given a lab's folder, return the lab if it is up."""
        lab = cls(folder)
        return lab if lab.is_up() else None

    def is_up(self) -> bool:
        """Tell whether it runs."""
        try:
            self.ask("status")
        except (OSError, Trouble):
            return False
        return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        run = places.run_folder(self.id)
        run.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (run / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make_folder(self) -> None:
        if not self.key.exists():
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "i12e-lab", "-f", str(self.key)]
            subprocess.run(make, check=True)
        base = {
            "ignition": {"version": "3.3.0"},
            "passwd": {"users": [{"name": "core", "sshAuthorizedKeys": [self.public_key]}]},
        }
        (self.folder / "base.ign").write_text(json.dumps(base))
        self.artifacts.mkdir(exist_ok=True)
        self.known_hosts.write_text("")

    @property
    def public_key(self) -> str:
        """The public half of the key that lets one in as core."""
        return self.key.with_suffix(".pub").read_text().strip()

    def _start_supervisor(self, base: Path) -> None:
        self._sweep()
        inside = [sys.executable, "-m", "lab.supervisor", str(self.folder), str(base)]
        # A shell is process 1 in there: it reaps what loses its parent, and ends when the supervisor does.
        room = ["unshare", "--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
        command = ["setsid", "--fork", *room, "sh", "-c", '"$@" & wait $!', "sh", *inside]
        log = self.folder / "supervisor.log"
        with log.open("wb") as out:
            environ = {**os.environ, "PYTHONPATH": str(TESTS), "PYTHONDONTWRITEBYTECODE": "1"}
            subprocess.run(command, cwd="/", env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=True)
        deadline = time.monotonic() + 120
        while not self.is_up():
            said = log.read_text(errors="replace").strip()
            if said or time.monotonic() > deadline:
                raise Trouble(f"the lab's supervisor did not start; {log} says: {said[-2000:]}")
            time.sleep(0.02)

    def _boot(self, hosts: Iterable[str]) -> None:
        there = self.status()
        new = [host for host in dict.fromkeys(hosts) if host not in there]
        for host in new:
            try:
                places.address(host)
            except ValueError as error:
                raise Trouble(str(error)) from None
        with ThreadPoolExecutor(max(len(new), 1)) as pool:
            list(pool.map(self._add, new))
        self.write_ssh_config()
        for host in new:
            self.trust(host)

    def _add(self, host: str) -> None:
        self.ask("add", host=host)
        self.wait(host)

    def add(self, host: str) -> None:
        """Given the name of a further host, boot it, bare."""
        with self._alone():
            self._boot([host])

    def stop(self) -> None:
        """End the lab: of it nothing stays but its folder."""
        supervisor = self._supervisor()
        if supervisor:
            handle = os.pidfd_open(supervisor)
            try:
                with suppress(OSError, Trouble):
                    self.ask("stop")
                _wait_for_end(handle)
            finally:
                os.close(handle)
        self._sweep()
        shutil.rmtree(places.run_folder(self.id), ignore_errors=True)
        with suppress(OSError):
            places.RUN.rmdir()

    def _sweep(self) -> None:
        """Remove what a lab that is no more has left: cgroups without processes."""
        deadline = time.monotonic() + 60
        while left := cgroups.remove(self.id):
            if time.monotonic() > deadline:
                raise Trouble(f"cgroups of the lab do not go away: {left[0]}")
            time.sleep(0.02)
        places.control(self.id).unlink(missing_ok=True)

    # --- asked

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Given a request and its arguments, return the supervisor's answer.

        Raise Trouble if it refuses, OSError if the lab is not up.
        """
        with self._connection() as connection:
            connection.sendall(json.dumps({"do": what, **arguments}).encode() + b"\n")
            with connection.makefile("rb") as stream:
                line = stream.readline()
        if not line:
            raise Trouble("the lab's supervisor has gone away")
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise Trouble(answer["why"])
        return answer

    @contextmanager
    def _connection(self) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(600)
            connection.connect(str(places.control(self.id)))
            yield connection

    def _supervisor(self) -> int:
        """Return the supervisor's process as seen from here, 0 if the lab is not up."""
        try:
            with self._connection() as connection:
                told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return 0
        return int(struct.unpack("3i", told)[0])

    @property
    def pid(self) -> int:
        """The supervisor's process; raise Trouble if the lab is not up."""
        found = self._supervisor()
        if not found:
            raise Trouble("the lab is not up")
        return found

    @property
    def enter(self) -> tuple[str, ...]:
        """What runs a command of this machine in the lab's network: it may be killed as any other process."""
        return ("nsenter", "--target", str(self.pid), "--net")

    def status(self) -> dict[str, dict[str, Any]]:
        """Return what is known of each host: address, state, why, boots, faults, ssh_drops (how often)."""
        found: dict[str, dict[str, Any]] = self.ask("status")["hosts"]
        return found

    def hosts(self) -> list[str]:
        """Return the names of the hosts."""
        return list(self.status())

    @staticmethod
    def address(host: str) -> str:
        """Given a host, return its address in the lab's network."""
        return places.address(host)

    def shell(self, host: str, script: str, stdin: bytes = b"", limit: float = 60.0) -> Done:
        """Given a host and a script, run it there as root, past the network; raise Trouble if the host is not up."""
        sent = base64.b64encode(stdin).decode()
        answer = self.ask("shell", host=host, script=script, stdin=sent, limit=limit)
        texts = (base64.b64decode(answer[key]).decode(errors="replace") for key in ("output", "complaint"))
        return Done(answer["status"], *texts)

    def read(self, host: str, script: str) -> str:
        """Given a host and a script, return what it prints, without blanks around; raise Trouble if it fails."""
        done = self.shell(host, script)
        if done.status:
            raise Trouble(f"{host}: {script}: exit status {done.status}: {done.complaint or done.output}")
        return done.output.strip()

    def wait(self, host: str, boots: int = 1, limit: float = _BOOT) -> None:
        """Given a host, wait until it lets people in after that many boots.

        Raise Trouble with what it does instead if that takes too long, or if it has no power or does not boot.
        """
        deadline = time.monotonic() + limit
        while True:
            found = self.ask("ready", host=host)
            if found["ready"] and found["boots"] >= boots:
                return
            if found["state"] not in ("booting", "up"):
                raise Trouble(f"{host} is {found['state']}: {found['why']}")
            if time.monotonic() > deadline:
                raise Trouble(f"{host} lets nobody in after {limit:.0f} s; see {self.folder / f'{host}.console'}")
            time.sleep(0.05)

    # --- ssh

    def write_ssh_config(self) -> None:
        """Write ssh_config: the way into the lab's network, and the hosts' names."""
        network = self.ask("status")["network"]
        dial = [sys.executable, "-I", "-S", str(TESTS / "lab/dial.py"), str(self.pid), network]
        names = "".join(f"Host {host}\n  HostName {places.address(host)}\n" for host in self.status())
        self.ssh_config.write_text(
            "# Made by ./doit lab_up: ssh's way into the lab's own network, as long as this lab is up.\n"
            f"{names}"
            "Host *\n"
            "  User core\n"
            f'  IdentityFile "{self.key}"\n'
            "  IdentitiesOnly yes\n"
            f'  UserKnownHostsFile "{self.known_hosts}"\n'
            "  GlobalKnownHostsFile none\n"
            "  UpdateHostKeys no\n"
            "  ProxyUseFdpass yes\n"
            f"  ProxyCommand {shlex.join(dial)} %h %p\n"
        )

    def trust(self, host: str) -> None:
        """Given a host that is up, write the keys that its sshd has now into known_hosts, in place of others."""
        address = places.address(host)
        keys = self.read(host, "cat /etc/ssh/ssh_host_*_key.pub").splitlines()
        others = [line for line in self.known_hosts.read_text().splitlines() if line.split()[:1] != [address]]
        lines = [*others, *(f"{address} {' '.join(key.split()[:2])}" for key in keys)]
        self.known_hosts.write_text("".join(f"{line}\n" for line in lines))

    def ssh(self, host: str, script: str, stdin: bytes = b"", limit: float = 60.0) -> Done:
        """Given a host and a script, run it there over ssh as core; return how ssh ended."""
        command = ["ssh", "-F", str(self.ssh_config), "-o", "BatchMode=yes", places.address(host), script]
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=limit, check=False)
        return Done(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    # --- done to hosts

    def power_on(self, host: str) -> None:
        """Given a host, switch it on; `wait` waits for it."""
        self.ask("power_on", host=host)

    def power_off(self, host: str) -> None:
        """Given a host, shut it down; it is off when this returns."""
        self.ask("power_off", host=host)

    def kill(self, host: str) -> None:
        """Given a host, take the power away at once."""
        self.ask("pull_plug", host=host)

    def reboot(self, host: str) -> None:
        """Given a host, reboot it and wait until it lets people in again."""
        boots = self.status()[host]["boots"]
        self.ask("reboot", host=host)
        self.wait(host, boots + 1)

    def wipe(self, host: str) -> None:
        """Given a host, give it an empty disk, boot it and wait until it lets people in.

        It is bare then, with another machine id and other ssh keys, which known_hosts does not know: `trust` tells it.
        """
        boots = self.status()[host]["boots"]
        self.ask("new_disk", host=host)
        self.power_on(host)
        self.wait(host, boots + 1)

    def fault(self, host: str, kind: str, on: bool = True, **how: Any) -> None:
        """Given a host and a kind of fault (places.FAULTS), switch that on or off.

        `how`: delay (seconds, of slow); pattern (a regular expression of a command line) and after (seconds) of
        ssh_drops, which breaks the connections once, `after` seconds from when the command runs, or from now.
        """
        if kind not in places.FAULTS:
            raise Trouble(f"{kind}: there is no such fault (there are {', '.join(places.FAULTS)})")
        self.ask("fault", host=host, kind=kind, on=on, **how)

    def cut_ssh(self, host: str) -> None:
        """Given a host, break all of its ssh connections now."""
        self.ask("cut_ssh", host=host)


def _wait_for_end(handle: int) -> None:
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    if not poller.poll(60_000):
        raise Trouble("the lab's supervisor does not end")
