"""Other recipients for the secret files: some added, some retired, in the rules and in every file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from i12e import files, keys, programs, screen, sealed, workbench
from i12e.build import Build
from i12e.errors import Problem, UsageError, UserError
from i12e.fields import Wrong
from i12e.paths import DEFAULT, Paths
from i12e.secrets import NO_KEY, demo_recipients, sops_environ
from i12e.workbench import RULES
from i12e.yamlfile import Document


@dataclass
class _Plan:
    """What a change of recipients comes to: the rules' new text, and each file's new content."""

    rules: sealed.Rules
    content: dict[str, bytes] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)
    retired: set[str] = field(default_factory=set)


def rekey(build: Build, add: str, retire: str, environ: Mapping[str, str] = os.environ) -> None:
    """Seal every secret file to the recipients of its rule, after adding and retiring some in the rules.

    A file that loses a recipient gets a new data key too. All new files are made and opened before the first is
    put in its place, so whoever runs this keeps access; afterwards every file is looked at again. A run that was
    killed is completed by the next one, with or without the same options. Raise UserError, having changed
    nothing, if a file cannot be opened now or could not be opened then.
    """
    adds, retires = _recipients(build.paths.root, add, retire)
    workbench.tidy(build.paths)
    root, names = build.paths.root, _scope(build.paths, environ)
    if not names:
        raise UserError(Problem(f"{sealed.FOLDER}/", None, None, "no secret file of yours", "./doit init makes one"))
    before = sealed.load_rules(root)
    plan = _Plan(_new_rules(before, names, adds, retires, sealed.names(root)))
    with workbench.workbench(build.paths, plan.rules.text) as folder:
        _gather(build, folder, plan, names, retires)
        _apply(build, plan, names, before)
        _verify(build, plan, names)
    _tell(build, plan, names)


def _recipients(root: Path, add: str, retire: str) -> tuple[list[str], list[str]]:
    """Return the recipients of both options; raise UsageError with everything that is wrong with them."""
    demo, problems = demo_recipients(root), list[Problem]()
    lists: dict[str, list[str]] = {"add": [], "retire": []}
    for option, given in (("add", add), ("retire", retire)):
        for text in filter(None, (part.strip() for part in given.split(","))):
            try:
                gone = option == "retire" and text.startswith("ssh-")  # sops has those too, i12e does not add them
                lists[option].append(text if gone else keys.recipient(text))
            except Wrong as wrong:
                shown = f' "{text}"' if wrong.show else ""
                problems.append(Problem("", None, None, f"--{option}{shown}: {wrong.rule}", wrong.remedy))
    for name in sorted(demo.intersection(lists["add"])):
        problems.append(Problem("", None, None, f"--add {name}: is the demo key, which everybody has"))
    for name in sorted(set(lists["add"]).intersection(lists["retire"])):
        problems.append(Problem("", None, None, f"{name}: is both to be added and to be retired"))
    if problems:
        raise UsageError(problems)
    return lists["add"], lists["retire"]


def _scope(paths: Paths, environ: Mapping[str, str]) -> list[str]:
    """Return the secret files that are meant: those of I12E_ENV, else all but the examples'."""
    if environ.get("I12E_ENV") and paths.is_example:
        raise UserError(Problem(paths.secrets, None, None, "the example's files stay sealed to the demo key"))
    names = [name for name in sealed.names(paths.root) if not sealed.is_example(name)]
    if not environ.get("I12E_ENV"):
        return names
    if paths.env == DEFAULT:
        return [name for name in names if name.count("/") == 1]
    return [name for name in names if name.startswith(f"{paths.secrets}/")]


def _new_rules(
    rules: sealed.Rules, names: Sequence[str], add: Sequence[str], retire: Sequence[str], every: Sequence[str]
) -> sealed.Rules:
    """Return the rules with recipients added and retired in those that the files are sealed by."""
    missing = [
        Problem(name, None, None, f"no rule of {RULES} seals it", "write one there")
        for name in names
        if rules.of(name) is None
    ]
    others = [name for name in every if name not in names]
    touched = {id(rule): rule for rule in map(rules.of, names) if rule}
    problems = missing
    for rule in touched.values():
        shared = next((name for name in others if rules.of(name) is rule), None)
        if (add or retire) and shared:
            remedy = "write a rule of its own above, or leave I12E_ENV out"
            problems.append(Problem(RULES, rule.line, None, f"this rule seals also {shared}", remedy))
        if not rule.loc:
            remedy = "use sops updatekeys for its files"
            problems.append(Problem(RULES, rule.line, None, "has keys that are not age's", remedy))
        elif not set(rule.recipients) - set(retire) and not add:
            problems.append(Problem(RULES, rule.line, None, "would be left without any recipient", "--add one"))
    if problems:
        raise UserError(problems)
    for number in [number for number, rule in enumerate(rules.rules) if id(rule) in touched]:
        rules = sealed.Rules(rules.edited(rules.rules[number], add, retire))
    return rules


def _gather(build: Build, folder: Path, plan: _Plan, names: Sequence[str], retire: Sequence[str]) -> None:
    """Make the new content of every file that is not sealed as its rule says; open it to see that it is the same."""
    root, problems, met = build.paths.root, list[Problem](), set[str]()
    for name in build.request.progress(names, "sealing"):
        try:
            document = sealed.examine(name, (root / name).read_bytes())
            _refuse(root, name, document, plan.rules)
            now, wanted = sealed.recipients(document), _wanted(plan.rules, name)
            met.update(now)
            if set(now) != set(wanted):
                _seal_anew(build.paths, folder, name, rotate=bool(set(now) - set(wanted)))
                plan.content[name] = (folder / name).read_bytes()
                plan.remarks[name] = _difference(now, wanted)
                plan.retired |= set(now) - set(wanted)
        except UserError as error:
            problems += error.problems
    known = {name for rule in sealed.load_rules(root).rules for name in rule.recipients} | met
    for name in [name for name in retire if name not in known]:
        build.note(f"{name}: no rule and no file names it, so it cannot be retired")
    if problems:
        raise UserError(problems)


def _refuse(root: Path, name: str, document: Document, rules: sealed.Rules) -> None:
    problems = [*document.problems]
    if not problems and "sops" not in document.data:
        problems.append(Problem(name, None, None, "is not encrypted", "./doit secrets_check tells more"))
    if sealed.has_other_keys(document):
        remedy = f".venv/bin/sops updatekeys {name}"
        problems.append(Problem(name, None, None, "is sealed to keys that are not age's", remedy))
    if demo_recipients(root).intersection(_wanted(rules, name)):
        rule = "its rule names the demo key, which everybody has"
        problems.append(Problem(name, None, None, rule, f"take it out of {RULES}"))
    if problems:
        raise UserError(problems)


def _seal_anew(paths: Paths, folder: Path, name: str, rotate: bool) -> None:
    """Put a copy of a file into the workbench, sealed to its rule's recipients; raise UserError if it does not open."""
    root, copy = paths.root, folder / name
    before = workbench.opened(paths, name, root / name)
    files.replace(copy, (root / name).read_bytes())
    steps = [["updatekeys", "--yes"], *([["rotate", "--in-place"]] if rotate else [])]
    for step in steps:
        done = programs.run(workbench.sops(), *workbench.flags(folder), *step, str(copy), environ=sops_environ(paths))
        if done.status == NO_KEY:
            raise UserError(_no_access(name))
        if done.status:
            raise UserError(Problem(name, None, None, f"sops {step[0]} failed: {workbench.last_line(done)}"))
    try:
        after = workbench.opened(paths, name, copy)
    except UserError:
        raise UserError(_no_access(name)) from None
    if after != before:
        raise UserError(
            Problem(name, None, None, "sops gave it other values: nothing was changed", "tell i12e's makers")
        )


def _no_access(name: str) -> Problem:
    rule = "would be closed to you: none of your keys here is one of the new recipients"
    return Problem(name, None, None, rule, "keep or add a key of yours, or have somebody else do it")


def _apply(build: Build, plan: _Plan, names: Sequence[str], before: sealed.Rules) -> None:
    """Put the rules and the files in their places, each at once: first the rules, by which a next run goes on."""
    root = build.paths.root
    if plan.rules.text != before.text:
        workbench.put(root / RULES, plan.rules.text.encode())
        build.tell("RULES", RULES)
    for name in names:
        if name in plan.content:
            workbench.put(root / name, plan.content[name])
            build.tell("SEAL", name, plan.remarks[name])


def _verify(build: Build, plan: _Plan, names: Sequence[str]) -> None:
    """Look at every file where it now is: it opens, and its recipients are exactly its rule's."""
    problems: list[Problem] = []
    for name in names:
        path = build.paths.root / name
        now, wanted = sealed.recipients(sealed.examine(name, path.read_bytes())), _wanted(plan.rules, name)
        if sorted(now) != sorted(wanted):
            problems.append(Problem(name, None, None, f"is sealed to {', '.join(now)}, not to {', '.join(wanted)}"))
        try:
            workbench.opened(build.paths, name, path)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)


def _tell(build: Build, plan: _Plan, names: Sequence[str]) -> None:
    build.note(f"{screen.count(len(names), 'secret file')} opened: each is sealed to exactly its rule's recipients")
    if plan.retired:
        gone = ", ".join(sorted(plan.retired))
        build.note(
            f"whoever has the key of {gone} still knows the values as they were, and this repository's history still "
            "opens for them: change the values themselves, tokens and passwords, where they are used"
        )


def _wanted(rules: sealed.Rules, name: str) -> tuple[str, ...]:
    rule = rules.of(name)
    return rule.recipients if rule else ()


def _difference(now: Sequence[str], wanted: Sequence[str]) -> str:
    added = [f"+ {name}" for name in wanted if name not in now]
    return ", ".join([*added, *(f"- {name}" for name in now if name not in wanted)])
