"""A real sshd for tests: on the loopback, with keys, config and known hosts of its own, and a link that can be cut."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from conftest import need
from i12e.remote import Target

PATIENCE = 50.0  # seconds until a test gives up, less than scripts sleep; what is waited for comes as soon as it can


def until(true: Callable[[], object], what: str) -> None:
    """Given a condition and what it is, wait until it holds."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        time.sleep(0.01)


class Sshd:
    """An sshd for each connection, as inetd starts them: connections are counted, cut and frozen from here."""

    def __init__(self, folder: Path, options: str = "", path: str = os.defpath) -> None:
        program = shutil.which("sshd") or "/usr/sbin/sshd"
        need(os.access(program, os.X_OK) and shutil.which("ssh"), "sshd and ssh (Debian: openssh-server)")
        self._program = program
        self.folder = folder
        folder.mkdir()
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # Debian's sshd wants it where it runs as root
        for name in ("host_key", "user_key"):
            self.make_key(name)
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
        settings = {
            "HostKey": folder / "host_key",
            "AuthorizedKeysFile": folder / "authorized_keys",
            "PidFile": "none",
            "UsePAM": "no",
            "StrictModes": "no",
            "LogLevel": "VERBOSE",
            "KexAlgorithms": "curve25519-sha256",  # the default of 2022 reckons for a quarter of a second
            "SetEnv": f"HOME={folder} PATH={path}",  # not what this machine's user has in .bashrc
        }
        lines = [f"{key} {value}" for key, value in settings.items()]
        (folder / "sshd_config").write_text("\n".join([options, *lines, ""]))
        self.connections: list[tuple[socket.socket, subprocess.Popen[bytes]]] = []
        self.mute = False
        """Whether connections are accepted and nothing is said."""
        self._open()
        self.know()
        self.configure()

    @property
    def user(self) -> str:
        """Who the tests run as, and log in as."""
        return pwd.getpwuid(os.getuid()).pw_name

    def target(self, *options: str, user: str = "") -> Target:
        """Given further options and a user, return how ssh is called."""
        config = ("-F", str(self.folder / "ssh_config"), "-p", str(self.port))
        return Target("server-1", f"{user or self.user}@127.0.0.1", (*config, *options))

    def configure(self, extra: str = "") -> None:
        """Given further lines for this host, write the ssh config that stands for the user's."""
        settings: Mapping[str, object] = {
            "UserKnownHostsFile": self.folder / "known_hosts",
            "GlobalKnownHostsFile": "/dev/null",
            "IdentityFile": self.folder / "user_key",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
        }
        lines = [f"  {key} {value}\n" for key, value in settings.items()]
        (self.folder / "ssh_config").write_text(f"{extra}\nHost *\n{''.join(lines)}")

    def make_key(self, name: str) -> None:
        """Given a key's name, make a new one of that name."""
        for file in (self.folder / name, self.folder / f"{name}.pub"):
            file.unlink(missing_ok=True)
        key = str(self.folder / name)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", key], check=True)

    def know(self, name: str = "host_key") -> None:
        """Given a host key's name, make it the only known one."""
        kind, blob, *_ = (self.folder / f"{name}.pub").read_text().split()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {kind} {blob}\n")

    def fingerprint(self) -> str:
        """Return the host key's fingerprint as ssh-keygen tells it."""
        said = subprocess.run(
            ["ssh-keygen", "-lf", self.folder / "host_key.pub"], capture_output=True, text=True, check=True
        )
        return said.stdout.split()[1]

    def cut(self) -> None:
        """Cut all connections."""
        for link, _ in self.connections:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def signal(self, number: signal.Signals) -> None:
        """Given a signal, send it to the sshds of all connections."""
        for _, process in self.connections:
            for pid in (process.pid, *_below(process.pid, "sshd")):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def close(self) -> None:
        """Take no further connections: what connects is refused."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def open_again(self) -> None:
        """Take connections again, on the same port."""
        self._open(self.port)

    def end(self) -> None:
        """End everything."""
        with contextlib.suppress(OSError):
            self.close()
        self.signal(signal.SIGCONT)
        self.cut()
        for link, process in self.connections:
            link.close()
            process.terminate()
            process.wait(PATIENCE)

    def _open(self, port: int = 0) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, args=(self._listener,), daemon=True)
        self._thread.start()

    def _serve(self, listener: socket.socket) -> None:
        command = [self._program, "-i", "-f", str(self.folder / "sshd_config"), "-E", str(self.folder / "log")]
        while True:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            real = ["sleep", "1000"] if self.mute else command
            ends = link.fileno()
            process = subprocess.Popen(real, stdin=ends, stdout=ends, stderr=subprocess.DEVNULL)
            self.connections.append((link, process))
            threading.Thread(target=_hang_up, args=(link, process), daemon=True).start()


def _hang_up(link: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """When its sshd has ended, however that was, end the connection."""
    process.wait()
    with contextlib.suppress(OSError):
        link.shutdown(socket.SHUT_RDWR)


def _below(pid: int, name: str) -> Iterator[int]:
    """Yield the processes of this name that a process started, and theirs."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            head, _, rest = stat.read_text().rpartition(")")
            if int(rest.split()[1]) == pid and name in head:
                yield int(stat.parent.name)
                yield from _below(int(stat.parent.name), name)


def processes(text: str) -> list[str]:
    """Given a text, return the command lines of the processes that have it in theirs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().decode(errors="replace").replace("\0", " ")
            if text in line:
                found.append(line)
    return found


def lives(pid: int) -> bool:
    """Given a process's number, tell whether it runs; one that nobody reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
