"""The lab from a shell: PYTHONPATH=tests python -m lab, or ./doit lab_up, lab_down and lab_status."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from i12e.errors import UserError
from i12e.paths import natural
from lab import environment, needs, places
from lab.api import Lab, Trouble

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str]) -> int:
    """Given the arguments, do what they ask for; return the exit status."""
    given = _parser().parse_args(arguments)
    try:
        if os.geteuid() != 0:
            raise Trouble(f"a lab needs {needs.ROOT}")
        return int(_DO[given.do](given) or 0)
    except (Trouble, UserError) as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab", description=__doc__.partition(":")[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout whose environment lab it is")
    what = parser.add_subparsers(dest="do", required=True)
    up = what.add_parser("up", help="boot bare hosts, and write the environment lab")
    up.add_argument("--servers", type=int, help="how many, 3 if hosts/lab does not say")
    up.add_argument("--agents", type=int, help="how many, 2 if hosts/lab does not say")
    down = what.add_parser("down", help="end all hosts and their network")
    down.add_argument("--purge", action="store_true", help="and remove hosts/lab, secrets/lab and build/lab")
    what.add_parser("status", help="what the hosts do")
    for name, help_ in _ONE_HOST.items():
        what.add_parser(name, help=help_).add_argument("host")
    fault = what.add_parser("fault", help=f"let something go wrong: {', '.join(places.FAULTS)}")
    fault.add_argument("host")
    fault.add_argument("kind", choices=places.FAULTS)
    fault.add_argument("--off", action="store_true")
    fault.add_argument("--delay", type=float, help="seconds that a packet takes (slow)")
    fault.add_argument("--pattern", help="a regular expression of a command line (ssh_drops)")
    fault.add_argument("--after", type=float, help="seconds (ssh_drops)")
    scratch = what.add_parser("scratch", help="boot one host with k3s on it, and end it with the input (for a drill)")
    scratch.add_argument("folder", type=Path)
    scratch.add_argument("version")
    shell = what.add_parser("shell", help="run a script as root on a host, past the network")
    shell.add_argument("host")
    shell.add_argument("script")
    return parser


_ONE_HOST = {
    "on": "switch a host on",
    "off": "shut a host down",
    "kill": "take a host's power away",
    "reboot": "reboot a host",
    "wipe": "give a host an empty disk and boot it, bare",
    "trust": "let ssh know the keys that a host has now",
}


def _lab(given: argparse.Namespace) -> Lab:
    found = Lab.find(environment.machines(given.root))
    if found is None:
        raise Trouble("the lab is not up: ./doit lab_up")
    return found


def _up(given: argparse.Namespace) -> None:
    began = time.monotonic()
    folder = environment.machines(given.root)
    there = Lab.find(folder)
    before = there.hosts() if there else []
    servers = environment.SERVERS if given.servers is None else given.servers
    agents = environment.AGENTS if given.agents is None else given.agents
    asked = environment.names(servers, agents)
    wanted = environment.hosts(given.root) or asked
    if (given.servers, given.agents) != (None, None) and set(wanted) != set(asked):
        print(f"note: hosts/lab is there and has {', '.join(wanted)}; for others, edit it, or lab_down --purge first")
    lab = Lab.start(folder, wanted, print)
    new = [host for host in wanted if host not in before]
    environment.forget(given.root, new)
    for line in environment.write(given.root, lab, servers, agents):
        print(line)
    took = f"{time.monotonic() - began:.1f} s"
    if new:
        print(f"BOOT     {', '.join(new)}  (bare: a user core with the lab's ssh key, and nothing else; {took})")
    else:
        print(f"KEEP     {', '.join(before)}  (the lab was up)")
    print(
        "\nlog in:  ssh -F hosts/lab/ssh_config server-1\n"
        "next:    I12E_ENV=lab ./doit plan, then I12E_ENV=lab ./doit os_deploy\n"
        "break:   PYTHONPATH=tests .venv/bin/python -m lab fault --help\n"
        "end:     ./doit lab_down"
    )


def _down(given: argparse.Namespace) -> None:
    folder = environment.machines(given.root)
    was_up = Lab.find(folder) is not None
    Lab(folder).stop()
    print("END      the lab's hosts and their network" if was_up else "KEEP     the lab was not up")
    if given.purge:
        for name in environment.remove(given.root):
            print(f"REMOVE   {name}/")
    elif environment.hosts(given.root):
        print("KEEP     hosts/lab, secrets/lab  (for the next ./doit lab_up; --purge removes them)")


def _status(given: argparse.Namespace) -> int:
    lab = Lab.find(environment.machines(given.root))
    if lab is None:
        print("the lab is not up: ./doit lab_up")
        return 0
    for host, state in sorted(lab.status().items(), key=lambda item: natural(item[0])):
        boots = f"{state['boots']} boot{'' if state['boots'] == 1 else 's'}"
        faults = ", ".join(_told(kind, how) for kind, how in state["faults"].items())
        told = "; ".join(filter(None, (boots, state["why"], f"faults: {faults}" if faults else "")))
        print(f"{host:10} {state['address']:12} {state['state']:10} {told}")
    return 0


def _told(kind: str, how: dict[str, Any]) -> str:
    return " ".join([kind, *(f"{key}={value}" for key, value in how.items())])


def _one_host(given: argparse.Namespace) -> None:
    lab = _lab(given)
    actions = {
        "on": lab.power_on,
        "off": lab.power_off,
        "kill": lab.kill,
        "reboot": lab.reboot,
        "wipe": lab.wipe,
        "trust": lab.trust,
    }
    actions[given.do](given.host)
    if given.do == "on":
        lab.wait(given.host)
    if given.do == "wipe":
        print(f"{given.host} has other ssh keys now, which ssh refuses: python -m lab trust {given.host}")


def _fault(given: argparse.Namespace) -> None:
    how = {key: getattr(given, key) for key in ("delay", "pattern", "after") if getattr(given, key) is not None}
    _lab(given).fault(given.host, given.kind, not given.off, **how)


def _scratch(given: argparse.Namespace) -> None:
    host = "agent-1"
    if lacking := needs.missing():
        raise Trouble(lacking)
    Lab(given.folder).stop()  # of a drill that was killed with its lab
    try:
        lab = Lab.start(given.folder, [host])
        put = "mkdir -p /opt/bin && cat >/opt/bin/k3s && chmod 755 /opt/bin/k3s"
        done = lab.shell(host, put, environment.stand_in_as(given.version))
        if done.status:
            raise Trouble(f"{host} takes no k3s: {done.complaint.strip()}")
        outs = [(places.GATEWAY, 80)]
        told = {"host": f"core@{places.address(host)}", "ssh_config": str(lab.ssh_config), "outs": outs}
        print(json.dumps(told), flush=True)
        sys.stdin.read()
    finally:
        Lab(given.folder).stop()


def _shell(given: argparse.Namespace) -> int:
    done = _lab(given).shell(given.host, given.script)
    print(done.output, end="")
    print(done.complaint, end="", file=sys.stderr)
    return done.status


_DO = {
    "up": _up,
    "down": _down,
    "status": _status,
    "fault": _fault,
    "scratch": _scratch,
    "shell": _shell,
    **dict.fromkeys(_ONE_HOST, _one_host),
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
