"""ssh's way into the lab: python dial.py PROCESS NETWORK HOST PORT (ProxyCommand).

It gives ssh an open connection and ends (ProxyUseFdpass), so that ssh sees a connection as any other. Whatever goes
wrong is said as ssh says it. Nothing is tried in another network: the addresses may be somebody's there.
"""

from __future__ import annotations

import array
import ctypes
import os
import socket
import sys

_LIMIT = 10.0  # seconds


_NETWORK = 0x40000000  # CLONE_NEWNET


def enter(process: str, network: str) -> bool:
    """Given a process and the network namespace that it had, go there; return whether that was possible.

    The process may have ended, and another one may have its number.
    """
    try:
        with open(f"/proc/{process}/ns/net") as handle:
            if os.readlink(f"/proc/self/fd/{handle.fileno()}") != network:
                return False
            return (
                ctypes.CDLL(None).setns(handle.fileno(), _NETWORK) == 0 and os.readlink("/proc/self/ns/net") == network
            )
    except OSError:
        return False


def main(process: str, network: str, host: str, port: str) -> int:
    """Given the supervisor, its network namespace, an address and a port, connect; return the exit status."""
    if not enter(process, network):
        print("the lab is not up (./doit lab_up), or you are not root", file=sys.stderr)
        return 1
    try:
        connection = socket.create_connection((host, int(port)), timeout=_LIMIT)
    except TimeoutError:
        print(f"ssh: connect to host {host} port {port}: Connection timed out", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"ssh: connect to host {host} port {port}: {error.strerror}", file=sys.stderr)
        return 1
    connection.setblocking(True)
    with socket.socket(fileno=os.dup(1)) as ssh:
        handle = array.array("i", [connection.fileno()])
        ssh.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, handle)])
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
