"""The lab's machine room: one process that starts hosts, reboots them, and does to them what can go wrong.

It runs in a network, a mount and a pid namespace of its own: whatever ends it, the kernel ends all hosts, their
network and their disks with it. It is asked over a unix socket, a JSON document a line: {"do": NAME, ...} is answered
by {"ok": true, ...} or {"ok": false, "why": TEXT}.

    python -m lab.supervisor FOLDER BASE       (api.Lab.start alone runs it)
"""

from __future__ import annotations

import base64
import functools
import http.server
import json
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lab import cgroups, image, places
from lab.disk import run
from lab.host import Absent, Host


class Room:
    """The machine room of one lab."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder = folder
        self.base = base
        self.lab = places.lab_id(folder)
        self.place = places.run_folder(self.lab) / "hosts"
        self.layer = self.place / ".layer"
        self.hosts: dict[str, Host] = {}
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Make the room: mounts, the bridge, the server of artifacts."""
        run("mount", "--make-rprivate", "/")
        self.place.mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "tmpfs", "-o", "mode=755", "lab", self.place)
        nspawn = Path("/run/systemd/nspawn")  # which else complains when it ends
        nspawn.mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "tmpfs", "lab", nspawn)
        image.layer(self.layer, self.base)
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", places.BRIDGE, "type", "bridge")
        run("ip", "addr", "add", f"{places.GATEWAY}/24", "dev", places.BRIDGE)
        run("ip", "link", "set", places.BRIDGE, "up")
        (self.folder / "artifacts").mkdir(exist_ok=True)
        server = http.server.ThreadingHTTPServer((places.GATEWAY, 80), functools.partial(_Artifacts, self))
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Given a request, do it; return the answer."""
        what = asked.pop("do")
        whole: dict[str, Callable[..., dict[str, Any]]] = {"status": self._status, "add": self._add, "stop": self._stop}
        if what in whole:
            return whole[what](**asked)
        name = asked.pop("host")
        if name not in self.hosts:
            raise Absent(f"{name}: there is no such host in this lab ({', '.join(self.hosts) or 'there is none'})")
        host = self.hosts[name]
        if what == "shell":
            status, output, complaint = host.shell(asked["script"], base64.b64decode(asked["stdin"]), asked["limit"])
            return {"status": status, "output": _plain(output), "complaint": _plain(complaint)}
        if what == "ready":
            return {"ready": host.ready(), "state": host.state, "why": host.why, "boots": host.boots}
        actions: dict[str, Callable[..., Any]] = {
            "power_on": host.power_on,
            "power_off": host.power_off,
            "reboot": host.reboot,
            "pull_plug": host.pull_plug,
            "new_disk": host.new_disk,
            "fault": host.fault,
            "cut_ssh": host.cut_ssh,
        }
        actions[what](**asked)
        return {}

    def _status(self) -> dict[str, Any]:
        network = os.readlink("/proc/self/ns/net")
        return {"hosts": {name: host.told() for name, host in self.hosts.items()}, "network": network}

    def _add(self, host: str) -> dict[str, Any]:
        with self._lock:
            if host in self.hosts:
                return {}
            new = self.hosts[host] = Host(self, host)
        new.new_disk()
        new.power_on()
        return {}

    def _stop(self) -> dict[str, Any]:
        for host in self.hosts.values():
            with suppress(TimeoutError):
                cgroups.kill(self.lab, host.name)
        os._exit(0)


class _Artifacts(http.server.SimpleHTTPRequestHandler):
    """Serves FOLDER/artifacts; not to a host with the fault no_artifacts."""

    def __init__(self, room: Room, *arguments: Any) -> None:
        self._room = room
        super().__init__(*arguments, directory=str(room.folder / "artifacts"))

    def do_GET(self) -> None:  # the base class's name
        client = self.client_address[0]
        for host in list(self._room.hosts.values()):
            if places.address(host.name) == client and "no_artifacts" in host.faults:
                self.send_error(404, "by the fault no_artifacts")
                return
        super().do_GET()

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # the base class's name
        with (self._room.folder / "artifacts.log").open("a") as log:
            log.write(f"{self.client_address[0]} {format % arguments}\n")


def _plain(output: bytes) -> str:
    return base64.b64encode(output).decode()


def _talk(room: Room, connection: socket.socket) -> None:
    with connection, connection.makefile("rwb") as stream, suppress(OSError):
        for line in stream:
            try:
                answer = {"ok": True, **room.answer(json.loads(line))}
            except (Absent, ValueError, TimeoutError) as error:
                answer = {"ok": False, "why": str(error)}
            except Exception as error:  # noqa: BLE001  # the asker is told, whatever it is
                traceback.print_exc()
                answer = {"ok": False, "why": f"{type(error).__name__}: {error}"}
            stream.write(json.dumps(answer).encode() + b"\n")
            stream.flush()


def main(folder: Path, base: Path) -> None:
    """Given the lab's folder and the shared root, run the machine room until it is stopped."""
    room = Room(folder, base)
    room.prepare()
    listener = socket.socket(socket.AF_UNIX)
    place = places.control(room.lab)
    place.unlink(missing_ok=True)
    listener.bind(str(place))
    listener.listen(64)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_talk, args=(room, connection), daemon=True).start()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
