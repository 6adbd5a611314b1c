"""Exact rebuilds: after any edits exactly those hosts and releases are made one of whose inputs changed.

Random worlds of templates are made from a few operations, so what each of them looks at is known from the
world itself, without asking the code under test: `inputs_of` walks the operations as a reader would.
"""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import ROOT, SMALL_CLUSTER, Project

MANY = 400 if os.environ.get("I12E_SWEEP") == "full" else 20
TEMPLATES = ["files/a", "files/b", "files/c", "parts/d", "parts/e"]
LOCALS = ["motd", "issue"]
SECRETS = ["cluster", "extra"]
RELEASES = ["r1", "r2"]
ABSENT = None

Op = tuple[str, ...]


@dataclass
class World:
    """What is on the disk, and what it means: templates as lists of operations, the other files as texts."""

    project: Project
    templates: dict[str, list[Op]] = field(default_factory=dict)  # path below templates/ -> operations
    hosts: dict[str, dict[str, str]] = field(default_factory=dict)
    releases: dict[str, str] = field(default_factory=dict)  # by their names: their versions
    with_vip: bool = True
    nonce: int = 0

    def write_all(self) -> None:
        """Put the whole world on the disk."""
        for path in self.templates:
            self.write_template(path)
        for host in self.hosts:
            self.write_host(host)
        self.write_cluster()
        for name in LOCALS:
            self.project.write(f"hosts/example/files/{name}", name)

    def write_template(self, path: str) -> None:
        """Put one template on the disk."""
        self.project.write(f"templates/{path}", text_of(path, self.templates[path]))

    def write_host(self, host: str) -> None:
        """Put one host's file on the disk."""
        self.project.write(f"hosts/example/{host}.yaml", "".join(f"{k}: {v}\n" for k, v in self.hosts[host].items()))

    def write_cluster(self) -> None:
        """Put the cluster's file on the disk."""
        vip = ", vip: {address: 192.0.2.10, version: v1.0.1, interface: eth0}"
        text = SMALL_CLUSTER if self.with_vip else SMALL_CLUSTER.replace(vip, "")
        of = "chart: x, repository: https://charts.example.com, namespace: x"
        releases = "".join(f"  {name}: {{{of}, version: {version}}}\n" for name, version in self.releases.items())
        helm = f"helm:\n{releases}" if releases else ""
        self.project.write("hosts/example/cluster.yaml", f"# {self.nonce}\n{text}{helm}")

    def products(self) -> list[str]:
        """Return the names of all that is made."""
        return [*self.hosts, *self.releases]

    def found(self, name: str) -> str:
        """Return where a template's name is found: the user's, or ours."""
        return f"local/{name}" if f"local/{name}" in self.templates else name


def text_of(path: str, ops: list[Op]) -> str:
    """Given a template's path and its operations, return its text. All of it stays in comments of the Butane text."""
    head = "variant: flatcar\nversion: 1.1.0\n" if "/butane/" in f"/{path}" else f"# {path}\n"
    if "/helm/" in f"/{path}":
        return "".join(f"a{number}: {line(op)}\n" for number, op in enumerate(ops))
    return head + "".join(f"# {line(op)}\n" for op in ops) + payload(path)


def payload(path: str) -> str:
    """Given an entry template's path, return a file that makes the host's text an output, so that changes show."""
    if "/butane/" not in f"/{path}":
        return ""
    file = "- {path: /etc/all, mode: 0600, contents: {inline: {{ embed('files/all') }}}}"
    return f"\nstorage:\n  files:\n    {file}\n"


def line(op: Op) -> str:
    """Given an operation, return the Jinja that does it."""
    kind, *rest = op
    name = rest[0]
    forms = {
        "text": name,
        "include": f"{{% include '{name}' %}}",
        "first": f"{{% include {list(rest)} %}}",
        "embed": f"{{{{ embed('{name}') }}}}",
        "secret": f"{{{{ secrets.{name}.server_token | quote }}}}",
        "local": f"{{{{ local_file('{name}') }}}}",
        "names": f"{{{{ names('{name}') | yaml }}}}",
        "join": "{{ join_urls() | yaml }}",
        "servers": "{{ servers() | yaml }}",
        "host": "{{ host.labels | yaml }}",
        "ifserver": f"{{% if host.role == 'server' %}}{{% include '{name}' %}}{{% endif %}}",
    }
    return forms[kind]


def inputs_of(world: World, host: str) -> set[str]:
    """Given a world and a host or a release, return every path that a reader of the templates says it depends on."""
    if host in world.releases:
        found = {"cluster", f"release {host}"}
        visit(world, host, f"helm/{host}.yaml.j2", found)
        return found
    found = {f"hosts/example/{host}.yaml", "cluster"}
    role = host.partition("-")[0]
    for name in (f"butane/{role}.bu.j2", "files/all"):
        visit(world, host, name, found)
    return found


def visit(world: World, host: str, name: str, found: set[str]) -> bool:
    """Given a template's name, add what it and all that it loads look at to `found`; return whether it is there."""
    where = world.found(name)
    found.update((f"templates/local/{name}", f"templates/{where}"))
    for op in world.templates.get(where, ()):
        for other in loads(op, host):
            if visit(world, host, other, found) and op[0] == "first":
                break
        found.update(looks(op, world))
    return where in world.templates


def loads(op: Op, host: str) -> tuple[str, ...]:
    """Given an operation, return the templates that it loads, or tries until one is there."""
    kind, *names = op
    wanted = kind in ("include", "embed", "first") or (kind == "ifserver" and host.startswith("server"))
    return tuple(names) if wanted else ()


def looks(op: Op, world: World) -> tuple[str, ...]:
    """Given an operation, return what else it looks at."""
    kind, name = op[0], op[1]
    return {
        "secret": (f"secrets/example/{name}.yaml",),
        "local": (f"hosts/example/files/{name}",),
        "names": (f"templates/{name}/", f"templates/local/{name}/"),
        "servers": ("servers",),
        "join": () if world.with_vip else ("servers",),
    }.get(kind, ())


def state_of(world: World, path: str) -> object:
    """Given a world and an input, return what of it counts: the servers' facts, a folder's names, a file's content."""
    if path == "servers":
        return sorted((host, keys["addresses"]) for host, keys in world.hosts.items() if host.startswith("server"))
    if path == "cluster":
        return (world.with_vip, world.nonce)
    if path.startswith("release "):
        return world.releases.get(path.removeprefix("release "))
    place = world.project.root / path
    if path.endswith("/"):
        return sorted(entry.name for entry in place.iterdir()) if place.is_dir() else ABSENT
    return place.read_bytes() if place.exists() else ABSENT


def snapshot(world: World, host: str) -> dict[str, object]:
    """Given a world and a host, return its inputs with their states."""
    return {path: state_of(world, path) for path in inputs_of(world, host)}


def changed(world: World, before: dict[str, object]) -> bool:
    """Given a host's inputs when it was last rendered, tell whether one of them has changed since."""
    return any(state_of(world, path) != state for path, state in before.items())


def new_world(root: Path, rng: random.Random) -> World:
    """Given a folder and a source of chance, make a world."""
    shutil.copytree(ROOT / "secrets", root / "secrets")
    shutil.copy(root / "secrets/example/cluster.yaml", root / "secrets/example/extra.yaml")
    world = World(Project(root))
    world.hosts = {
        "server-1": {"role": "server", "addresses": "[192.0.2.11]"},
        "agent-1": {"role": "agent", "addresses": "[192.0.2.21]"},
        "agent-2": {"role": "agent", "addresses": "[192.0.2.22]"},
    }
    for index, name in enumerate(TEMPLATES):
        world.templates[name] = random_ops(rng, TEMPLATES[:index])
    world.templates["files/all"] = random_ops(rng, TEMPLATES)
    world.releases = dict.fromkeys(RELEASES, "1.0.0")
    for name in RELEASES:
        world.templates[f"helm/{name}.yaml.j2"] = values_ops(rng)
    for role in ("server", "agent"):
        world.templates[f"butane/{role}.bu.j2"] = random_ops(rng, TEMPLATES)
    world.write_all()
    return world


def random_ops(rng: random.Random, below: list[str]) -> list[Op]:
    """Given chance and the templates that may be included (so that there is no cycle), return a few operations."""
    simple: list[Op] = [
        ("text", f"t{rng.randrange(1000)}"),
        ("secret", rng.choice(SECRETS)),
        ("local", rng.choice(LOCALS)),
        ("names", rng.choice(["files", "parts", "manifests"])),
        ("join", ""),
        ("servers", ""),
        ("host", ""),
    ]
    loads: list[Op] = []
    if below:
        name = rng.choice(below)
        loads = [("include", name), ("embed", name), ("first", "files/missing", name), ("ifserver", name)]
    return [rng.choice(loads if loads and rng.random() < 0.5 else simple) for _ in range(rng.randrange(3))]


def values_ops(rng: random.Random) -> list[Op]:
    """Given chance, return a few operations of those that a template of values knows."""
    simple: list[Op] = [
        ("text", f"t{rng.randrange(1000)}"),
        ("secret", rng.choice(SECRETS)),
        ("local", rng.choice(LOCALS)),
        ("names", rng.choice(["files", "parts", "manifests", "helm"])),
        ("servers", ""),
    ]
    return [rng.choice(simple) for _ in range(rng.randrange(4))]


def edit(world: World, rng: random.Random) -> str:
    """Given a world and chance, edit one thing of it; return what was done."""
    return rng.choice(EDITS)(world, rng)


def edit_template(world: World, rng: random.Random) -> str:
    path = rng.choice(sorted(world.templates))
    name = path.removeprefix("local/")
    below = TEMPLATES[: TEMPLATES.index(name)] if name in TEMPLATES else TEMPLATES
    world.templates[path] = values_ops(rng) if name.startswith("helm/") else random_ops(rng, below)
    world.write_template(path)
    return f"edit {path}"


def edit_release(world: World, rng: random.Random) -> str:
    name = rng.choice(RELEASES)
    if name in world.releases and rng.random() < 0.3:
        del world.releases[name]
    else:
        world.releases[name] = f"1.0.{rng.randrange(3)}"
    world.write_cluster()
    return f"edit {name}"


def override(world: World, rng: random.Random) -> str:
    name = rng.choice([*TEMPLATES, "files/missing", "manifests/x", "helm/r1.yaml.j2"])
    path = f"local/{name}"
    if path in world.templates:
        del world.templates[path]
        (world.project.root / "templates" / path).unlink()
        return f"remove {path}"
    below = TEMPLATES[: TEMPLATES.index(name)] if name in TEMPLATES else []
    world.templates[path] = values_ops(rng) if name.startswith("helm/") else random_ops(rng, below)
    world.write_template(path)
    return f"add {path}"


def edit_host(world: World, rng: random.Random) -> str:
    host = rng.choice(sorted(world.hosts))
    key, value = rng.choice([("labels", f"{{a: x{rng.randrange(9)}}}"), ("mac", '"52:54:00:00:00:1f"')])
    for other in world.hosts.values():
        other.pop("mac", None) if key == "mac" else None
    world.hosts[host][key] = value
    for name in world.hosts:
        world.write_host(name)
    return f"edit {host}: {key}"


def edit_address(world: World, rng: random.Random) -> str:
    host = rng.choice(sorted(world.hosts))
    free = [n for n in range(11, 60) if all(f"192.0.2.{n}]" not in keys["addresses"] for keys in world.hosts.values())]
    world.hosts[host]["addresses"] = f"[192.0.2.{rng.choice(free)}]"
    world.write_host(host)
    return f"move {host}"


def edit_cluster(world: World, rng: random.Random) -> str:
    world.with_vip = rng.random() < 0.5
    world.nonce = rng.randrange(3)
    world.write_cluster()
    return "edit cluster"


def edit_secret(world: World, rng: random.Random) -> str:
    path = world.project.root / f"secrets/example/{rng.choice(SECRETS)}.yaml"
    path.write_text(path.read_text() + "\n")
    return f"edit {path.name}"


def edit_local(world: World, rng: random.Random) -> str:
    name = rng.choice(LOCALS)
    world.project.write(f"hosts/example/files/{name}", f"{name} {rng.randrange(3)}")
    return f"edit {name}"


def add_or_remove_host(world: World, rng: random.Random) -> str:
    host = rng.choice(["agent-3", "server-2", "server-3"])
    if host in world.hosts:
        del world.hosts[host]
        (world.project.root / f"hosts/example/{host}.yaml").unlink()
        return f"remove {host}"
    address = {"agent-3": 73, "server-2": 82, "server-3": 83}[host]
    world.hosts[host] = {"role": host.partition("-")[0], "addresses": f"[192.0.2.{address}]"}
    world.write_host(host)
    return f"add {host}"


def write_same(world: World, rng: random.Random) -> str:
    for path in (world.project.root / "templates").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes())
    return "write the same again"


EDITS = [
    *(edit_template, edit_template, override, override, edit_host, edit_address, edit_cluster),
    *(edit_secret, edit_local, add_or_remove_host, write_same, edit_release),
]


def outputs(project: Project) -> dict[str, bytes]:
    """Given a project, return all that it made, by path."""
    build = project.root / "build/example"
    made = [*build.glob("hosts/*/config.ign"), *build.glob("helm/*")]
    return {path.relative_to(build).as_posix(): path.read_bytes() for path in made}


def clean_build(world: World, place: Path) -> dict[str, bytes]:
    """Given a world, return the outputs of a build of it that never ran before."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(world.project.root, place, ignore=shutil.ignore_patterns("build"))
    twin = Project(place)
    assert twin.doit().status == 0
    return outputs(twin)


@pytest.mark.slow
@settings(max_examples=MANY, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_exactly_those_hosts_and_releases_are_made_one_of_whose_inputs_changed(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    sweep(tmp_path_factory.mktemp("world"), seed, rounds=4)


def sweep(place: Path, seed: int, rounds: int) -> None:
    """Given a folder, a seed and a number, edit and build that often and check each build."""
    rng = random.Random(seed)  # noqa: S311  # a repeatable world, no secret
    world = new_world(place / "checkout", rng)
    last: dict[str, dict[str, object]] = {}
    done_so_far: list[str] = []
    for _ in range(rounds):
        expected = {name for name in world.products() if name not in last or changed(world, last[name])}
        done = world.project.doit()
        assert done.status == 0, (done.err, done_so_far)
        ran = {line.split()[1] for line in done.lines if line.startswith(("RENDER", "VALUES"))}
        assert ran == expected, done_so_far
        last = {name: snapshot(world, name) for name in world.products()}
        assert outputs(world.project) == clean_build(world, place / "twin"), done_so_far
        done_so_far += [edit(world, rng) for _ in range(rng.randrange(1, 4))]
    shutil.rmtree(place)
