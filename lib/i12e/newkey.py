"""./doit backup_keys: a key that opens backups, in a file of the operator's or on paper, and its place in cluster.yaml.

A key is saved before it is named: a run that was killed between is completed by the next one, and no backup is ever
sealed to a key that nobody has.
"""

from __future__ import annotations

import os
from pathlib import Path

from i12e import answers, backup_keys, files, keys, screen, workbench, yamlfile
from i12e.build import Build
from i12e.errors import Problem, UsageError, UserError
from i12e.paths import LAB, Paths, shown
from i12e.screen import Terminal
from i12e.secrets import Secret

_TYPED = 6  # characters of a key on paper that are asked back


def make(build: Build, paper: bool) -> None:
    """Given the build and --paper, make a key if there is none here, and write its public half into cluster.yaml.

    With `paper` it is a new one, shown once on the terminal and kept nowhere. Raise UserError if the file cannot be
    edited in place, with what to add by hand.
    """
    paths = build.paths
    if paths.is_example:
        rule = "is i12e's own example: whoever has i12e would know its key"
        raise UserError(Problem(paths.cluster_file, None, None, rule, "./doit init makes a cluster of your own"))
    cluster = build.checked_hosts()[0].cluster
    if paper:
        _name(build, [_paper_key(build)])
        return
    file = backup_keys.key_file(paths, cluster, os.environ)
    refuse_inside(paths, file)
    workbench.tidy(paths)
    files.sweep(file.parent, file.name)
    pair = keys.make()
    if backup_keys.save(pair, file, cluster):
        build.tell("WRITE", shown(file), f"the key that opens backups, its public half is {pair.recipient}")
        build.note(keep(file))
        names = [pair.recipient]
    else:
        backup_keys.private(paths, cluster, os.environ)  # raises what is wrong with it
        names = backup_keys.recipients_of(file)
        build.tell("KEEP", shown(file), ", ".join(names), result="kept")
        warn_of_readers(build, file)
    _name(build, names)


def refuse_inside(paths: Paths, file: Path) -> None:
    """Given an environment and the file of the keys, raise UsageError if that is inside of the checkout."""
    if paths.env != LAB and paths.root.resolve() in (Path.cwd() / file).resolve().parents:
        rule = f"{backup_keys.KEY_FILE} names a file of this checkout, which could be committed"
        raise UsageError(Problem(str(file), None, None, rule, "name one elsewhere"))


def keep(file: Path) -> str:
    """Given the file of a new key, return what its owner has to know."""
    return (
        f"keep a copy of {shown(file)} in a safe place, on no host of the cluster and not beside the backups: without "
        f"it nobody opens them; {backup_keys.TASK} --paper makes a second key, for you to write down"
    )


def warn_of_readers(build: Build, file: Path) -> None:
    """Given the file of a key, have it told if others may read it."""
    if file.stat().st_mode & 0o077:
        build.note(f"warning: others may read {shown(file)} (chmod 600 {shown(file)})")


def _paper_key(build: Build) -> str:
    """Show a new key to a person; return its public half. Raise UserError if it could not be named afterwards."""
    stand_in = keys.make().recipient
    _with(build.paths, [stand_in])
    with build.request.pause(), screen.terminal() as terminal:
        if terminal is None:
            rule = "a new key is shown on a terminal only, and here is none"
            raise UsageError(answers.of_option("paper", rule))
        return on_paper(terminal, f"type it into a file and point {backup_keys.KEY_FILE} at that")


def on_paper(terminal: Terminal, use: str) -> str:
    """Given a terminal and how the key is used one day, show a new key once, until its end was typed back.

    Return its public half.
    """
    pair = keys.make()
    _until_typed_back(terminal, pair.private, "It is shown once and kept nowhere else", use)
    return pair.recipient


def shown_again(terminal: Terminal, private: Secret, use: str) -> None:
    """Given a terminal, a key that is in a file here and how it is used one day, show it until its end was typed."""
    _until_typed_back(terminal, private, "It is shown on this page alone", use)


def _until_typed_back(terminal: Terminal, key: Secret, where: str, use: str) -> None:
    private = key.reveal()
    with terminal.page():
        terminal.say(f"Write this key down and put the paper in a safe place. {where}:\n")
        terminal.say(f"    {private}\n")
        terminal.say(f"To use it one day, {use}.\n")
        while answers.reply(terminal, f"Its last {_TYPED} characters, from your paper:").upper() != private[-_TYPED:]:
            terminal.say(
                "  the key does not end like that: compare your paper with it, or leave by Ctrl-C, and nothing is made"
            )


def _name(build: Build, names: list[str]) -> None:
    """Given public keys, write those into cluster.yaml that it lacks."""
    paths = build.paths
    text, missing = _with(paths, names)
    for name in names:
        for rule, remedy in backup_keys.faults(paths, name):
            raise UserError(Problem(paths.cluster_file, None, None, f"{name} {rule}", remedy))
    if not missing:
        build.tell("KEEP", paths.cluster_file, "it names the key", result="kept")
        return
    workbench.put(paths.root / paths.cluster_file, text.encode())
    build.tell("WRITE", paths.cluster_file, f"backup.recipients: {', '.join(missing)}")
    build.note(f"git add {paths.cluster_file}, and commit")


def _with(paths: Paths, names: list[str]) -> tuple[str, list[str]]:
    """Return the text of cluster.yaml with all of some public keys, and those that it lacked; raise UserError."""
    place = paths.root / paths.cluster_file
    text = place.read_bytes().decode()
    section = yamlfile.examine(text.encode(), paths.cluster_file).data.get("backup") or {}
    there = section.get("recipients") or []
    missing = [name for name in names if name not in there]
    for name in missing:
        edited = backup_keys.with_recipient(text, name)
        if edited is None:
            rule = "i12e cannot add a recipient to what stands here"
            remedy = f"add it yourself: backup: {{recipients: [{', '.join(names)}]}}"
            line = yamlfile.examine(text.encode(), paths.cluster_file).place(("backup",), key=True)
            raise UserError(Problem(paths.cluster_file, *line, rule, remedy))
        text = edited
    return text, missing
