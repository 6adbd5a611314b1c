"""One machine of the lab: its disk, its power, what is wrong with it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import cgroups, initrd, places
from lab.cable import Cable
from lab.disk import Disk

if TYPE_CHECKING:
    from lab.supervisor import Room

_REBOOT = 133  # how nspawn ends when the guest reboots
_PATH = "/opt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NOTHING = f"http://{places.GATEWAY}/there-is-nothing-here.ign"
_FAILING = {"ignition": {"version": "3.3.0", "config": {"merge": [{"source": _NOTHING}]}}}
_POWER_OFF, _RESTART = signal.SIGRTMIN + 4, signal.SIGRTMIN + 5  # systemd(1)
_NETWORK = 0x40000000  # CLONE_NEWNET
_LAST_KEY = "etc/ssh/ssh_host_ecdsa_key.pub"
_TIMED_OUT = 124  # of timeout(1)
# The shell that comes in from outside ends at once, so that the guest's systemd gets its child: a process without a
# parent there holds up a shutdown for as long as systemd-shutdown waits, which is not told when it ends.
_ADOPTED = r"""
exec {input}<&0
{
    eval 'timeout -k 2 "$2" /bin/sh -c "$1" <&'"$input $input<&- $3>&-"
    echo $? >&"$3"
} &
"""
_DISTURBED = ("unreachable", "slow")


class Absent(Exception):
    """The host is not up."""


class Host:
    """A machine that boots, reboots when it wants to, and is switched on and off; one thread for each time of power."""

    def __init__(self, room: Room, name: str) -> None:
        self.room = room
        self.name = name
        self.cable = Cable(name)
        self.disk = Disk(room.place / name, room.base, room.layer)
        self.state = "off"
        self.why = ""
        self.boots = 0
        self.faults: dict[str, dict[str, Any]] = {}
        self.ssh_drops = 0
        self._power = threading.Event()
        self._life: threading.Thread | None = None
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._procs = cgroups.make(room.lab, name)
        self._lock = threading.RLock()
        self._keys = room.place / f"{name}.keys"

    # --- power and disk

    def new_disk(self) -> None:
        """Give it an empty disk with a bare system on it, for a first boot; it has no power then."""
        with self._lock:
            self.pull_plug()
            self.disk.destroy()
            shutil.rmtree(self._keys, ignore_errors=True)
            self.disk.make()
            shutil.copy(self.room.folder / "base.ign", self.disk.oem / "config.ign")
            (self.disk.boot / "flatcar/first_boot").touch()
            for kind in ("disk_full", "wrong_host_key"):  # they went with the disk
                self.faults.pop(kind, None)
            self._tell_faults()

    def power_on(self) -> None:
        """Switch it on, if it is off."""
        with self._lock:
            if self._life is not None and self._life.is_alive():
                return
            self.state, self.why = "booting", ""
            self._power.set()
            self._life = threading.Thread(target=self._live, name=self.name, daemon=True)
            self._life.start()

    def pull_plug(self) -> None:
        """Take the power away at once."""
        with self._lock:
            self._power.clear()
            self.cable.kill()
            deadline = time.monotonic() + 60
            while self._life is not None and self._life.is_alive():
                cgroups.kill(self.room.lab, self.name)
                self._life.join(0.05)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self.name} does not stop")
            self.state, self.why = "off", "it has no power"

    def reboot(self) -> None:
        """Let it reboot; raise Absent if it is not up."""
        self.signal(_RESTART)

    def power_off(self) -> None:
        """Shut it down; take the power away where it does not end within 30 seconds."""
        with contextlib.suppress(Absent):
            self.signal(_POWER_OFF)
        life = self._life
        if life is not None:
            life.join(30)
        self.pull_plug()

    def _live(self) -> None:
        try:
            while self._power.is_set() and self._boots():
                self.state = "booting"
        except initrd.IgnitionFailed as error:
            self.state, self.why = "emergency", f"Ignition failed: {error}"
        except Exception as error:
            self.state, self.why = "broken", f"the lab itself failed: {type(error).__name__}: {error}"
            raise
        else:
            if self.state in ("booting", "up"):
                self.state, self.why = "off", "it was shut down"
        finally:
            self.disk.unmount()

    def _boots(self) -> bool:
        """Boot, run until it ends; return whether it wants to boot again."""
        if "no_boot" in self.faults:
            self.state, self.why = "no_boot", "it was told not to come up (fault no_boot)"
            return False
        self.disk.mount()
        initrd.reset(self.disk)
        if initrd.is_first_boot(self.disk):
            failing = json.dumps(_FAILING).encode() if "ignition_fails" in self.faults else None
            initrd.ignite(self.disk, self.cable, self.room.place / f"{self.name}.ignition", failing)
        if "wrong_host_key" in self.faults:
            self._change_keys()
        if not self._power.is_set():
            return False
        status = self._run()
        cgroups.kill(self.room.lab, self.name)
        self.cable.unplug()
        self.disk.unmount()
        return status == _REBOOT

    def _run(self) -> int:
        machine = initrd.machine_id(self.disk)
        given = initrd.kernel_arguments(self.disk)
        arguments = [f"{key}={value}" for key, value in given.items() if key.startswith("systemd.")]
        network = f"ip={places.address(self.name)}::{places.GATEWAY}:255.255.255.0::host0:off"
        command = [
            *("systemd-nspawn", "--quiet", "--boot", "-D", str(self.disk.root), "-M", self.name),
            *("--register=no", "--keep-unit", "--console=pipe", "--resolv-conf=off", "--timezone=off"),
            *("--link-journal=no", "--hostname=localhost", f"--network-bridge={places.BRIDGE}", f"--uuid={machine}"),
            *("--", network, *arguments),
        ]
        enter = 'while [ "$1" != -- ]; do echo $$ >"$1" || :; shift; done; shift; exec "$@"'
        environ = dict(os.environ)
        if not cgroups.unified():
            environ["SYSTEMD_NSPAWN_UNIFIED_HIERARCHY"] = "0"
        with (self.room.folder / f"{self.name}.console").open("ab") as console:
            console.write(f"\n--- boot {self.boots + 1}\n".encode())
            console.flush()
            process = subprocess.Popen(
                ["sh", "-c", enter, "sh", *map(str, self._procs), "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=environ,
            )
        self._nspawn = process
        threading.Thread(target=self._accompany, args=(process,), daemon=True).start()
        status = process.wait()
        self._nspawn, self._leader = None, 0
        return status

    def _accompany(self, process: subprocess.Popen[bytes]) -> None:
        """Plug the cable in when its interface is there, and find the guest's first process."""
        running = threading.Event()
        running.set()
        threading.Thread(target=_clear_at_end, args=(process, running), daemon=True).start()
        if not self.cable.wait(running):
            return
        while running.is_set():
            leader = _first_of_guest(process.pid)
            if leader:
                self.cable.name_card(leader)
                self._leader = leader
                self.boots += 1
                self.state = "up"
                return
            time.sleep(0.01)

    # --- what can go wrong

    def fault(self, kind: str, on: bool, **how: Any) -> None:
        """Given a kind of fault, switch it on or off; `how` is delay, pattern or after."""
        with self._lock:
            if on:
                self.faults[kind] = how
            else:
                self.faults.pop(kind, None)
            self._tell_faults()
            if kind in _DISTURBED:
                self.cable.pulled = "unreachable" in self.faults
                self.cable.delay = float(self.faults.get("slow", {}).get("delay", 0.3)) if "slow" in self.faults else 0
                self.cable.plug()
            elif kind == "disk_full":
                (self.disk.fill if on else self.disk.empty)()
            elif kind == "wrong_host_key" and self.disk.mounted:
                (self._change_keys if on else self._give_keys_back)()
            elif kind == "ssh_drops" and on:
                threading.Thread(target=self._drop_ssh, args=(how,), daemon=True).start()

    def _tell_faults(self) -> None:
        for file in self.disk.told.iterdir():
            if file.name not in self.faults:
                file.unlink()
        for kind in self.faults:
            (self.disk.told / kind).touch()

    def _change_keys(self) -> None:
        """Give sshd other host keys, once, and put the host's own aside."""
        if self._keys.exists():
            return
        folder = self.disk.root / "etc/ssh"
        self._keys.mkdir(mode=0o700)
        for key in folder.glob("ssh_host_*"):
            shutil.copy2(key, self._keys)
            key.unlink()
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(folder / "ssh_host_ed25519_key")]
        subprocess.run(make, check=True)

    def _give_keys_back(self) -> None:
        if not self._keys.exists():
            return
        folder = self.disk.root / "etc/ssh"
        for key in folder.glob("ssh_host_*"):
            key.unlink()
        for key in self._keys.iterdir():
            shutil.copy2(key, folder)
        shutil.rmtree(self._keys)

    def _drop_ssh(self, how: dict[str, Any]) -> None:
        """Break all ssh connections at a time or when a command runs, once; then the fault is off."""
        pattern = re.compile(str(how["pattern"]).encode()) if how.get("pattern") else None
        until = time.monotonic() + float(how.get("after", 0))
        while self.faults.get("ssh_drops") is how:
            if pattern is None and time.monotonic() >= until:
                break
            if pattern is not None and self._runs(pattern):
                time.sleep(float(how.get("after", 0)))
                break
            time.sleep(0.005)
        else:
            return
        self.cut_ssh()
        self.ssh_drops += 1
        if self.faults.get("ssh_drops") is how:
            self.fault("ssh_drops", False)

    def _runs(self, pattern: re.Pattern[bytes]) -> bool:
        for process in cgroups.processes(self.room.lab, self.name):
            line = _command_line(process)
            if line and pattern.search(line):
                return True
        return False

    def cut_ssh(self) -> int:
        """Kill what serves ssh connections on the host, but no command that they have started; return how many."""
        found = [one for one in cgroups.processes(self.room.lab, self.name) if _command_line(one).startswith(b"sshd: ")]
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, 9)
        return len(found)

    # --- looking in

    def shell(self, script: str, stdin: bytes, limit: float) -> tuple[int, bytes, bytes]:
        """Given a script, run it as root on the host, past the network; return its status and what it wrote.

        Raise Absent if the host is not up, TimeoutError after `limit` seconds.
        """
        enter = ["nsenter", "--target", str(self._guest()), "--mount", "--uts", "--ipc", "--net", "--pid", "--root"]
        clean = ["--wd", "env", "-i", f"PATH={_PATH}", "HOME=/root", "LANG=C.UTF-8"]
        reading, writing = os.pipe()
        with open(reading, "rb") as status:
            try:
                done = subprocess.run(
                    [*enter, *clean, "/bin/bash", "-c", _ADOPTED, "bash", script, str(limit), str(writing)],
                    input=stdin,
                    capture_output=True,
                    pass_fds=[writing],
                    check=False,
                )
            finally:
                os.close(writing)
            told = int(status.read() or 255)  # nothing: the host went down meanwhile
        if told == _TIMED_OUT:
            raise TimeoutError(f"{self.name}: it did not end within {limit:g} s")
        return told, done.stdout, done.stderr

    def signal(self, number: int) -> None:
        """Given a signal's number, send it to the guest's systemd; raise Absent if the host is not up."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._guest(), number)

    def _guest(self) -> int:
        leader = self._leader
        if not leader:
            raise Absent(f"{self.name} is {self.state}{f': {self.why}' if self.why else ''}")
        return leader

    def ready(self) -> bool:
        """Tell whether the host lets people in: sshd greets, and nobody is told that the system is still booting.

        Nothing is run on the host for it, which would hold up a host that is going down.
        """
        leader = self._leader
        root = Path(f"/proc/{leader}/root")
        # The key that sshd-keygen makes last: sshd greets with the first one alone, and has another one soon after.
        if not leader or not (root / "run/systemd/system").exists() or not (root / _LAST_KEY).exists():
            return False
        greeting: list[bytes] = []
        asking = threading.Thread(target=_greeting, args=(leader, self._own_address(), greeting), daemon=True)
        asking.start()
        asking.join()
        return bool(greeting) and not (root / "run/nologin").exists()

    def _own_address(self) -> str:
        return "127.0.0.1" if self.cable.pulled else self.cable.address

    def told(self) -> dict[str, Any]:
        """Return what is known of it."""
        return {
            "address": places.address(self.name),
            "state": self.state,
            "why": self.why if self.state not in ("up", "booting") else "",
            "boots": self.boots,
            "faults": self.faults,
            "ssh_drops": self.ssh_drops,
        }


def _greeting(process: int, address: str, found: list[bytes]) -> None:
    """Add to `found` what an sshd says first at an address in a process's network; in a thread of its own."""
    try:
        with open(f"/proc/{process}/ns/net") as network:
            if ctypes.CDLL(None).setns(network.fileno(), _NETWORK):
                return
        with socket.create_connection((address, 22), timeout=5) as connection:
            greeting = connection.recv(8)
    except OSError:
        return
    if greeting.startswith(b"SSH-"):
        found.append(greeting)


def _clear_at_end(process: subprocess.Popen[bytes], running: threading.Event) -> None:
    process.wait()
    running.clear()


def _first_of_guest(nspawn: int) -> int:
    """Given systemd-nspawn's process, return the guest's process 1 as it is seen here, 0 if it is not there yet."""
    for child in _children(nspawn):
        try:
            status = Path(f"/proc/{child}/status").read_text()
            program = os.readlink(f"/proc/{child}/exe")
        except OSError:
            continue
        ids = re.search(r"^NSpid:\s+(.*)$", status, re.MULTILINE)
        if ids and len(ids[1].split()) > 1 and ids[1].split()[-1] == "1" and program.endswith("/systemd"):
            return child
    return 0


def _children(process: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def _command_line(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return b""
