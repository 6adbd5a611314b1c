"""ssh's way into the lab: python dial.py NETWORK HOST PORT, inside the lab's network namespace (ProxyCommand).

It gives ssh an open connection and ends (ProxyUseFdpass), so that ssh sees a connection as any other. Whatever goes
wrong is said as ssh says it. Nothing is tried in another network: the addresses may be somebody's there.
"""

from __future__ import annotations

import array
import os
import socket
import sys

_LIMIT = 10.0  # seconds


def main(network: str, host: str, port: str) -> int:
    """Given the lab's network namespace, an address and a port, connect; return the exit status."""
    if os.readlink("/proc/self/ns/net") != network:
        print("the lab is not up: ./doit lab_up", file=sys.stderr)
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
    sys.exit(main(*sys.argv[1:4]))
