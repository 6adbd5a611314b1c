"""Editing a secret file in the user's own editor, by the real sops."""

from __future__ import annotations

import re
from pathlib import Path

from i12e import files, programs, screen, sealed, workbench
from i12e.build import Build
from i12e.errors import Problem, UsageError, UserError
from i12e.paths import Paths, secret_names
from i12e.secrets import NO_KEY, complaint, sops_environ
from i12e.workbench import RULES

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_UNCHANGED = 200  # sops: the editor left the file as it was
_NO_EDITOR = 201
_STARTER = "# Secrets, a line each; a template reads the first one as secrets.%s.key\nkey: value\n"


def edit(build: Build, given: str | None, name: str) -> None:
    """Given the name of a secret file, by the task's or by --name, let the user edit it; a new one may be made.

    Tells whether something changed. Raise UserError if it cannot be opened, or was changed by somebody meanwhile.
    """
    paths = build.paths
    path = f"{paths.secrets}/{_chosen(paths, given, name)}.yaml"
    rules = sealed.load_rules(paths.root)
    if rules.of(path) is None:
        remedy = "./doit init makes one, or write one there"
        raise UserError(Problem(path, None, None, f"no rule of {RULES} seals it", remedy))
    before = _content(paths.root / path)
    with workbench.workbench(paths, rules.text) as folder, screen.terminal() as terminal:
        if terminal is None:
            raise UserError(Problem("", None, None, "your editor needs a terminal, and here is none"))
        copy = folder / path
        files.replace(copy, workbench.seal(folder, path, _STARTER % copy.stem) if before is None else before)
        offered = copy.read_bytes()
        with build.request.pause():
            status = _run(paths, folder, copy, terminal)
        if status == _UNCHANGED or copy.read_bytes() == offered:
            build.tell("EDIT", path, "nothing changed" if before is not None else "not made", result="kept")
            return
        _take_over(build, path, copy, before)
    build.tell("EDIT", path, "changed" if before is not None else "new")


def _chosen(paths: Paths, given: str | None, name: str) -> str:
    known = secret_names(paths)
    if given and name and given != name:
        raise UsageError(Problem("", None, None, f"--name {name}: the task names {given}", "one of the two"))
    if given or name:
        chosen = given or name.removesuffix(".yaml")
        if not _NAME.fullmatch(chosen):
            rule = f'--name "{name}": is no name of a secret file (letters, digits, - and _)'
            raise UsageError(Problem("", None, None, rule))
        return chosen
    if len(known) == 1:
        return known[0]
    there = f"there are {', '.join(known)}" if known else "there is none yet"
    raise UsageError(Problem("", None, None, "which secret file?", f"--name NAME; {there}"))


def _run(paths: Paths, folder: Path, copy: Path, terminal: screen.Terminal) -> int:
    environ = sops_environ(paths) | {"TMPDIR": str(folder)}  # where sops puts what the editor opens
    status = programs.on_terminal(
        workbench.sops(), *workbench.flags(folder), "edit", str(copy), environ=environ, terminal=terminal.handle
    )
    if status in (0, _UNCHANGED):
        return status
    file = str(copy.relative_to(folder))
    if status == _NO_EDITOR:
        remedy = "name one by EDITOR, and have it end with status 0"
        raise UserError(Problem(file, None, None, "was not changed: the editor could not be run, or failed", remedy))
    if status == NO_KEY:
        raise UserError(complaint(file, programs.Done(status, "", ""), copy.read_bytes()))
    raise UserError(Problem(file, None, None, f"was not changed: sops ended with status {status}, see above"))


def _take_over(build: Build, path: str, copy: Path, before: bytes | None) -> None:
    """Put an edited copy into its file's place, if that is still what the user was shown, and nothing in it is plain.

    Otherwise the copy is kept beside the outputs: nobody types it all again.
    """
    root = build.paths.root
    problems = sealed.plain(sealed.examine(path, copy.read_bytes()))
    if _content(root / path) != before:
        problems = [Problem(path, None, None, "was changed by somebody else while you edited it")]
    if not problems:
        workbench.put(root / path, copy.read_bytes())
        return
    kept = f"{build.paths.build}/{copy.stem}-edited.yaml"
    files.replace(root / kept, copy.read_bytes())
    remedy = f".venv/bin/sops decrypt {kept} shows it"
    raise UserError([*problems, Problem(path, None, None, f"is as it was, your edit is kept in {kept}", remedy)])


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
