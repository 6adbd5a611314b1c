"""`recovery_kit`: what must be kept where so that the cluster comes back when the operator's machine is gone too.

It reads what is here and in the stores, judges it, and says how one comes back on a new machine. Secrets are named by
their files and their public halves. Whether a copy of a key lies in a safe place nobody can see from here, so that is
what it says to do; whether there is a second key, a second store, a pushed repository, it sees.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from i12e import answers, backup_keys, backup_list, keys, kit, newkey, programs, screen, sealed
from i12e import paths as places
from i12e.backup_list import Shelf
from i12e.build import Build
from i12e.errors import Problem, UsageError, UserError
from i12e.kit import Copies, Key, Known, Repository
from i12e.paths import LAB, Paths
from i12e.secrets import LAB_KEY, sops_environ
from i12e.settings import Cluster, Store

_HERE = re.compile(r"https?://(localhost|127\.[0-9.]+|\[::1\])([:/]|$)")
_USER = re.compile(r"^(https?://)[^/@]*@")
_PASSWORD = re.compile(r"^(\w+://[^/@:]*):[^/@]*@")


def run(build: Build, paper: bool) -> None:
    """Given the build and --paper, tell the kit; with `paper`, show the backups' private key once, on a terminal.

    Raise UserError if something is missing or at risk.
    """
    known = gather(build, build.cluster())
    if paper:
        _on_paper(build, known)
    points = list(kit.judged(known))
    text = "".join(f"{line}\n" for line in kit.lines(known, points))
    build.tell("KIT", known.cluster, "", "told", kit.as_json(known, points), text)
    bad = sum(not point.ok for point in points)
    if bad:
        said = f"{bad} of {len(points)} points are missing or at risk"
        raise UserError(Problem("", None, None, said, "the checklist says what to do; print the kit again then"))


def _on_paper(build: Build, known: Known) -> None:
    private = backup_keys.private(build.paths, known.cluster, os.environ)
    with build.request.pause(), screen.terminal() as terminal:
        if terminal is None:
            raise UsageError(answers.of_option("paper", "a key is shown on a terminal only, and here is none"))
        for key in private:
            newkey.shown_again(terminal, key, f"type it into a file and point {backup_keys.KEY_FILE} at that")


# --- what is there


def gather(build: Build, cluster: Cluster) -> Known:
    """Given the build and its cluster, return all that the kit is made of; changes nothing, shows no secret."""
    paths = build.paths
    stores, unread = _stores(build, cluster)
    file = backup_keys.key_file(paths, cluster.name, os.environ)
    ours = backup_keys.recipients_of(file)
    recipients = tuple(cluster.backup.recipients)
    backup_key = Key(str(file), recipients, tuple(each for each in recipients if each in ours))
    return Known(
        cluster.name,
        paths.env,
        backup_key,
        tuple(_faults(paths, cluster, file)) if file.exists() else (),
        _secrets_key(paths),
        tuple(_comment(key) for key in cluster.ssh_keys),
        _repository(paths),
        stores,
        unread,
    )


def _faults(paths: Paths, cluster: Cluster, file: Path) -> Iterator[str]:
    place = (Path.cwd() / file).resolve()
    if paths.env != LAB and paths.root.resolve() in place.parents:
        yield "it is inside of the checkout, and could be committed"
    for store in backup_keys.stores(paths, cluster, os.environ):
        if store.folder and Path(store.folder).resolve() in place.parents:
            yield f"it lies beside the backups, in the store {store.name}"
    if file.stat().st_mode & 0o077:
        yield "others may read it"


def _secrets_key(paths: Paths) -> Key:
    """Return the key of the secrets; a recipient counts that opens all files."""
    everybody: list[str] | None = None
    others = True
    for name in places.secret_names(paths):
        path = f"{paths.secrets}/{name}.yaml"
        document = sealed.examine(path, (paths.root / path).read_bytes())
        found = sealed.recipients(document)
        others = others and sealed.has_other_keys(document)
        everybody = found if everybody is None else [each for each in everybody if each in found]
    environ = sops_environ(paths)
    ours = keys.found(environ)
    file = paths.root / LAB_KEY if paths.env == LAB else keys.key_file(os.environ)
    recipients = tuple(everybody or ())
    return Key(str(file), recipients, tuple(each for each in recipients if each in ours), others and bool(everybody))


def _comment(key: str) -> str:
    kind, _, rest = key.strip().partition(" ")
    return rest.partition(" ")[2].strip() or f"{kind} ...{rest.strip()[-12:]}"


def _repository(paths: Paths) -> Repository:
    git = programs.which("git")
    if git is None:
        return Repository()

    def asked(*arguments: str) -> str | None:
        done = programs.run(git, "-C", str(paths.root), *arguments)
        return done.output if done.status == 0 else None

    top = asked("rev-parse", "--show-toplevel")
    if top is None or Path(top.strip()).resolve() != paths.root.resolve():
        return Repository()
    urls = (asked("config", "--get-regexp", r"^remote\..*\.url$") or "").splitlines()
    parts = [part for part in (paths.hosts, paths.secrets, "templates", ".sops.yaml") if (paths.root / part).exists()]
    changed = (asked("status", "--porcelain", "--", *parts) or "").splitlines()
    return Repository(
        tuple(dict.fromkeys(_without_credentials(line.partition(" ")[2]) for line in urls)),
        (asked("rev-parse", "--short", "HEAD") or "").strip(),
        tuple(line[3:] for line in changed),
        asked("ls-files", "--error-unmatch", paths.cluster_file) is None,
        bool((asked("branch", "--remotes", "--contains", "HEAD") or "").strip()),
    )


def _without_credentials(url: str) -> str:
    return _PASSWORD.sub(r"\1@", _USER.sub(r"\1", url))


def _stores(build: Build, cluster: Cluster) -> tuple[tuple[Copies, ...], tuple[str, ...]]:
    settings = {store.name: store for store in backup_keys.stores(build.paths, cluster, os.environ)}
    try:
        group = build.group("backup")
        shelves = backup_list.look(build, cluster)
    except UserError as error:  # its secrets do not open, say
        return (), tuple(str(problem) for problem in error.problems)
    return tuple(
        _copies(build.paths, settings[shelf.name], shelf, group.get(shelf.name)) for shelf in shelves
    ), ()  # fmt: skip


def _copies(paths: Paths, store: Store, shelf: Shelf, secret: Any) -> Copies:
    named = f"{paths.secrets}/backup.yaml: {store.name}: {', '.join(secret)}" if secret else ""
    if store.kind == "folder":
        credentials, portable = "none, it is a folder", True
    elif store.kind == "s3":
        credentials, portable = named or "AWS's own settings of this machine (environment, ~/.aws, role)", bool(named)
    else:
        credentials, portable = named or "the rclone.conf of this machine", bool(named)
    return Copies(shelf, store.kind, credentials, portable, _is_here(paths, store))


def _is_here(paths: Paths, store: Store) -> bool:
    if store.s3 is not None:
        return bool(_HERE.match(store.s3.endpoint or ""))
    if store.rclone is not None:
        return store.rclone.startswith(":local")
    place = Path(store.folder or "")
    while not place.exists():
        place = place.parent
    return place.stat().st_dev in {paths.root.stat().st_dev, Path.home().stat().st_dev}
