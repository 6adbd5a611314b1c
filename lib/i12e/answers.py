"""The answers to init's questions: from options, from a person at a terminal, or what is most probably right."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from i12e import fields
from i12e.errors import Problem, UserError
from i12e.fields import Wrong
from i12e.questions import Question
from i12e.screen import Terminal

Answers = dict[str, str]

_NONE = "none"
_SSH_KEYS = ("id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub")


def from_options(wanted: Sequence[Question], given: Mapping[str, str]) -> tuple[Answers, list[Problem]]:
    """Given questions and what the options say, return the answers in their right form, and what is wrong."""
    answers, problems = Answers(), list[Problem]()
    for question in wanted:
        text = given.get(question.key)
        for part in _parts(question, text) if text else ():
            try:
                _formed(question.form, part)
            except Wrong as wrong:
                problems.append(of_option(question.option, wrong.rule, wrong.remedy))
        with suppress(Wrong):
            answers |= {question.key: formed(question, text)} if text else {}
    return answers, problems


def of_option(option: str, rule: str, remedy: str = "") -> Problem:
    """Given an option and what is wrong with it, return the problem."""
    return Problem("", None, None, f"--{option}: {rule}", remedy)


def formed(question: Question, text: str) -> str:
    """Given a question and an answer, return it in its right form, a list with commas.

    Raise Wrong, whose rule names the value where that may be shown.
    """
    return ",".join(_formed(question.form, part) for part in _parts(question, text))


def _parts(question: Question, text: str) -> list[str]:
    if question.optional and text.strip() in ("", _NONE):
        return []
    return re.split(r"[,\s]+", text.strip(" ,")) if question.many else [text.strip()]


def _formed(name: str, text: str) -> str:
    form = _FORMS.get(name) or getattr(fields, name)
    try:
        return str(form(text))
    except Wrong as wrong:
        shown = f"{json.dumps(text, ensure_ascii=False)} " if wrong.show else ""
        raise Wrong(f"{shown}{wrong.rule}", wrong.remedy) from None


def _os_name(text: str) -> str:
    if text not in ("flatcar", "fcos"):
        raise Wrong("is not one of flatcar, fcos")
    return text


def _ssh_key(text: str) -> str:
    """Return an ssh public key, from a file where the text names one."""
    if not text.startswith(("/", "~", "./", "../")) and not text.endswith(".pub"):
        return fields.ssh_key(text)
    try:
        return fields.ssh_key(Path(text).expanduser().read_text(errors="replace"))
    except OSError as error:
        raise Wrong(f"cannot be read: {error.strerror}") from None


_FORMS: dict[str, Callable[[str], str]] = {"os_name": _os_name, "ssh_key": _ssh_key}


class Defaults:
    """What is most probably right, where nothing else is said."""

    def __init__(self, name: str, k3s: str, environ: Mapping[str, str]) -> None:
        self._fixed = {"name": name, "k3s": k3s, "interface": "eth0", "os": "flatcar"}
        self._ssh = Path(environ.get("HOME") or Path.home()) / ".ssh"

    def of(self, question: Question, answers: Answers) -> str:
        """Given a question and the answers so far, return the default, or nothing."""
        match question.key:
            case "api":
                return f"api.{answers.get('name', 'cluster')}.internal"
            case "network":
                return _network(answers)
            case "ssh_key":
                return self._ssh_key()
        return self._fixed.get(question.key, "")

    def _ssh_key(self) -> str:
        for name in _SSH_KEYS:
            try:
                return fields.ssh_key((self._ssh / name).read_text())
            except (OSError, ValueError):
                continue
        return ""


def _network(answers: Answers) -> str:
    """Return the /24 that all hosts are in, if there is one."""
    addresses = [text for key in ("servers", "agents") for text in answers.get(key, "").split(",") if text]
    if not addresses or ":" in "".join(addresses):
        return ""
    found = ipaddress.ip_network(f"{addresses[0]}/24", strict=False)
    return str(found) if all(ipaddress.ip_address(address) in found for address in addresses) else ""


def fill(wanted: Sequence[Question], answers: Answers, defaults: Defaults) -> list[Problem]:
    """Given questions and answers, put the defaults where an answer is missing; return what cannot be left out."""
    missing: list[Problem] = []
    for question in wanted:
        if question.key not in answers:
            answers[question.key] = defaults.of(question, answers)
            if not answers[question.key] and not question.optional:
                missing.append(of_option(question.option, f"is missing: {question.ask}"))
    return missing


def ask_all(
    terminal: Terminal, wanted: Sequence[Question], given: Answers, before: Answers, defaults: Defaults
) -> Answers:
    """Given questions, the answers that options gave and those of an earlier round, ask for the others; return all."""
    answers = dict(given)
    for question in wanted:
        if question.key not in answers:
            default = before.get(question.key, "") or defaults.of(question, answers)
            answers[question.key] = ask(terminal, question, default)
    return answers


def ask(terminal: Terminal, question: Question, default: str) -> str:
    """Given a question and what Enter stands for, ask until the answer is right; return it in its right form."""
    shown = default or (_NONE if question.optional else "")
    while True:
        answer = reply(terminal, f"{_upper(question.ask)}{f' [{shown}]' if shown else ''}:") or default
        if not answer and not question.optional:
            terminal.say("  an answer is needed")
            continue
        try:
            return formed(question, answer)
        except Wrong as wrong:
            terminal.say(f"  {wrong}{f' ({wrong.remedy})' if wrong.remedy else ''}")


def reply(terminal: Terminal, text: str) -> str:
    """Given a text, show it and return what was typed; raise UserError if the input has ended."""
    try:
        return terminal.ask(text)
    except EOFError:
        raise UserError(Problem("", None, None, "no answer", "run it again, or give options and --yes")) from None


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
