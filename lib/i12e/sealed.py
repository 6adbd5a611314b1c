"""Sealed files and the rules of .sops.yaml, as they stand there: read, checked, edited; nothing is opened here.

A rule says to which recipients the files are sealed whose path it matches; the first one that matches
counts (sops, config/config.go). i12e knows rules of age recipients; a rule with other keys is left to sops.
"""

from __future__ import annotations

import fnmatch
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i12e import programs, yamlfile
from i12e.errors import Problem, UserError
from i12e.fields import dotted
from i12e.paths import EXAMPLE
from i12e.secrets import demo_recipients
from i12e.workbench import RULES
from i12e.yamlfile import Document, Loc

FOLDER = "secrets"
REKEY = "./doit secrets_rekey"
_PUBLIC = ("*-PUBLIC.*", "demo-hashes.txt")
_SEALED = re.compile(
    r"ENC\[AES256_GCM,data:[A-Za-z0-9+/]+=*,iv:[A-Za-z0-9+/]+=*,tag:[A-Za-z0-9+/]+=*,"
    r"type:(?:str|int|float|bool|bytes|time|comment)\]"
)
_COMMENT = re.compile(r"(?:^|\s)#(?!ENC\[)")
_OTHER_KEYS = ("kms", "gcp_kms", "hckms", "azure_kv", "azure_keyvault", "hc_vault", "hc_vault_transit_uri", "pgp")
_LEAVE_PLAIN = (
    *("unencrypted_suffix", "encrypted_suffix", "unencrypted_regex", "encrypted_regex"),
    *("unencrypted_comment_regex", "encrypted_comment_regex"),
)
_USUAL = "_unencrypted"  # what sops itself writes into every file: keys that end so are left plain
_RECIPIENT = re.compile(r"age1[0-9a-z+._-]+|ssh-[a-z0-9]+ [A-Za-z0-9+/=]+")


@dataclass(frozen=True)
class Rule:
    """A creation rule: which paths it is for, to whom it seals, and where in .sops.yaml that stands."""

    pattern: re.Pattern[str]
    recipients: tuple[str, ...]
    loc: Loc
    """Of the recipients, `()` where i12e cannot edit them: keys of other kinds, groups."""
    line: int

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{RULES}:{self.line}"


class Rules:
    """The rules of a checkout's .sops.yaml."""

    def __init__(self, text: str) -> None:
        """Given the file's text, read it; raise UserError with all its problems."""
        self.text = text
        self._document = yamlfile.load(text.encode(), RULES)
        listed = self._document.data.get("creation_rules") or []
        if not isinstance(listed, list) or not all(isinstance(rule, dict) for rule in listed):
            raise UserError(self._problem(("creation_rules",), "is not a list of rules"))
        self.rules = [self._rule(("creation_rules", number), data) for number, data in enumerate(listed)]

    def of(self, path: str) -> Rule | None:
        """Given a path in the checkout, return the rule that counts for it."""
        return next((rule for rule in self.rules if rule.pattern.search(path)), None)

    def edited(self, rule: Rule, add: Sequence[str], remove: Sequence[str]) -> str:
        """Given a rule and recipients, return the file's text with them added and removed, all else as it was.

        Raise UserError if that cannot be done in place.
        """
        wanted = [name for name in rule.recipients if name not in remove]
        wanted += [name for name in add if name not in wanted]
        text = self._edit(rule, [name for name in wanted if name not in rule.recipients], remove) if rule.loc else ""
        expected = [wanted if one is rule else list(one.recipients) for one in self.rules]
        try:
            found = [list(one.recipients) for one in Rules(text).rules]
        except UserError:
            found = []
        if found != expected:
            remedy = f"write {', '.join(wanted)} there, then {REKEY}"
            raise UserError(Problem(RULES, rule.line, None, "i12e cannot edit the recipients of this rule", remedy))
        return text

    def with_rule(self, pattern: str, recipients: Sequence[str], comment: str) -> str:
        """Given a new rule, return the file's text with it as the last one; raise UserError if it cannot be added."""
        dash = re.search(r"(?m)^(\s*)- ", self.text)
        indent = dash[1] if dash and self.rules else "  "
        names = ",\n".join(f"{indent}    {name}" for name in recipients)
        rule = f"{indent}# {comment}\n{indent}- path_regex: {pattern}\n{indent}  age: >-\n{names}\n"
        before, after = self._around_end()
        text = f"{before.rstrip()}\n{rule}{after}"
        try:
            found = [(one.pattern.pattern, one.recipients) for one in Rules(text).rules]
        except UserError:
            found = []
        if found != [(one.pattern.pattern, one.recipients) for one in self.rules] + [(pattern, tuple(recipients))]:
            raise UserError(Problem(RULES, None, None, "i12e cannot add a rule here", f"add it yourself:\n{rule}"))
        return text

    def problems(self) -> list[Problem]:
        """Return what is wrong with rules for secrets: those that leave values plain."""
        found: list[Problem] = []
        for number, data in enumerate(self._document.data.get("creation_rules") or []):
            for key in _LEAVE_PLAIN:
                if data.get(key) and (key, data[key]) != ("unencrypted_suffix", _USUAL):
                    rule = "leaves values plain in the files that are sealed by this rule"
                    found.append(self._problem(("creation_rules", number, key), f"{key}: {rule}", "delete it", True))
        return found

    def _rule(self, loc: Loc, data: dict[str, Any]) -> Rule:
        line = self._document.place(loc)[0]
        try:
            pattern = re.compile(str(data.get("path_regex") or ""))
        except re.error as error:
            raise UserError(self._problem((*loc, "path_regex"), f"is not a pattern: {error}")) from None
        groups, place = data.get("key_groups"), (*loc, "age")
        if isinstance(groups, list) and len(groups) == 1 and isinstance(groups[0], dict):
            data, place = groups[0], (*loc, "key_groups", 0, "age")
        plain = not any(data.get(key) for key in (*_OTHER_KEYS, "merge")) and (not groups or len(groups) == 1)
        return Rule(pattern, tuple(_listed(data.get("age"))), place if plain else (), line)

    def _edit(self, rule: Rule, add: Sequence[str], remove: Sequence[str]) -> str:
        begin, end = self._document.span(rule.loc)
        line = self.text.rfind("\n", 0, begin) + 1
        begin = begin if self.text[line:begin].strip() else line
        part = self.text[begin:end]
        for name in add:  # first, so that what is there shows how to write it
            part = _added(part, name)
        for name in remove:
            part = _removed(part, name)
        return self.text[:begin] + part + self.text[end:]

    def _around_end(self) -> tuple[str, str]:
        """Return the text up to where the list of rules ends, and what follows."""
        keys = list(self._document.data)
        behind = keys[keys.index("creation_rules") + 1 :] if "creation_rules" in keys else []
        if not behind:
            head = self.text if "creation_rules" in keys else f"{self.text.rstrip()}\ncreation_rules:\n"
            return head.lstrip("\n"), ""
        line = self._document.place((behind[0],), key=True)[0] - 1
        lines = self.text.splitlines(keepends=True)
        return "".join(lines[:line]), "\n" + "".join(lines[line:])

    def _problem(self, loc: Loc, message: str, remedy: str = "", key: bool = False) -> Problem:
        return Problem(RULES, *self._document.place(loc, key), message, remedy)


def load_rules(root: Path) -> Rules:
    """Given a checkout, return its rules, none if it has no .sops.yaml; raise UserError if that cannot be read."""
    path = root / RULES
    return Rules(path.read_text() if path.exists() else "")


def _listed(value: Any) -> list[str]:
    """Given what stands at `age:`, return the recipients: a list, or a text with commas."""
    texts = value if isinstance(value, list) else [value]
    return [name.strip() for text in texts if isinstance(text, str) for name in text.split(",") if name.strip()]


def _added(part: str, name: str) -> str:
    """Given the text of a rule's recipients, return it with one more, written as the last one is."""
    met = list(_RECIPIENT.finditer(part))
    if not met:
        return part
    last = met[-1]
    _, broken, line = part[: last.start()].rpartition("\n")
    if re.fullmatch(r"\s*- *[\"']?", line):  # a list, an entry a line: behind the last one, and behind its comment
        end = (part + "\n").index("\n", last.end())
        return f"{part[:end]}\n{line}{name}{line[-1].strip(' -')}{part[end:]}"
    comma = re.search(r"[\"']?,\s*[\"']?", part)
    alone = f",\n{line}" if broken else ", " if part.startswith("[") else ","
    return part[: last.end()] + (comma[0] if comma else alone) + name + part[last.end() :]


def _removed(part: str, name: str) -> str:
    """Given the text of a rule's recipients, return it without one of them."""
    plain = re.escape(name)
    quoted = rf"([\"']){plain}\1"
    line = rf"(?m)^[ \t]*- *[\"']?{plain}[\"']?[ \t]*(?:#.*)?\n?"
    for pattern in (line, rf",\s*{quoted}", rf"{quoted}\s*,\s*", rf",\s*{plain}", rf"{plain}\s*,\s*"):
        shorter, times = re.subn(pattern, "", part, count=1)
        if times:
            return shorter
    return part


# --- sealed files


def names(root: Path) -> list[str]:
    """Given a checkout, return the paths of all files under secrets/ that could be committed, public ones left out."""
    git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", FOLDER]
    listed: list[str] = []
    if (root / ".git").exists() and programs.which("git"):
        done = subprocess.run(git, cwd=root, capture_output=True, check=False)
        listed = done.stdout.decode(errors="surrogateescape").split("\0") if done.returncode == 0 else []
    else:
        listed = [str(path.relative_to(root)) for path in (root / FOLDER).rglob("*")]
    files = {name for name in listed if name and (root / name).is_file()}
    return sorted(name for name in files if not any(fnmatch.fnmatch(Path(name).name, one) for one in _PUBLIC))


def is_example(path: str) -> bool:
    """Given a path under secrets/, tell whether it is one of the examples', which everybody can open."""
    folder = Path(path).parts[1]
    return folder == EXAMPLE or folder.startswith(f"{EXAMPLE}-")


def examine(path: str, content: bytes) -> Document:
    """Given a sealed file's path and content, return its document; JSON is read as the YAML that it is."""
    if content.lstrip().startswith(b"{"):
        content = content.replace(b"\t", b" ")  # which YAML does not allow as indentation
    return yamlfile.examine(content, path)


def recipients(document: Document) -> list[str]:
    """Given a sealed file, return the age recipients that it is sealed to."""
    entries = _seal(document).get("age") or []
    return [str(entry.get("recipient")) for entry in entries if isinstance(entry, dict)]


def has_other_keys(document: Document) -> bool:
    """Given a sealed file, tell whether it is sealed to keys that are not age's, or to groups of keys."""
    return any(_seal(document).get(key) for key in (*_OTHER_KEYS, "key_groups"))


def _seal(document: Document) -> dict[str, Any]:
    seal = document.data.get("sops")
    return seal if isinstance(seal, dict) else {}


def check(root: Path) -> None:
    """Given a checkout, raise UserError with everything under secrets/ that is not sealed as it should be.

    Nothing is opened and no program but git is run: it works without keys and without a network.
    """
    found = names(root)
    problems: list[Problem] = []
    rules = None
    try:
        rules = load_rules(root)
        problems += rules.problems()
    except UserError as error:
        problems += error.problems
    for path in found:
        problems += problems_of(root, path, rules)
    if problems:
        raise UserError(problems)


def problems_of(root: Path, path: str, rules: Rules | None) -> list[Problem]:
    """Given a checkout, a path under secrets/ and the rules (None: not known), return what is wrong with the file."""
    try:
        content = (root / path).read_bytes()
    except OSError as error:
        return [Problem(path, None, None, f"cannot be read: {error.strerror}")]
    if not content.strip():
        return []
    if b"AGE-SECRET-KEY-" in content:
        line = content[: content.index(b"AGE-SECRET-KEY-")].count(b"\n") + 1
        return [Problem(path, line, None, "holds a PRIVATE key", "move it to where sops looks for keys")]
    if Path(path).suffix not in (".yaml", ".yml", ".json") and not content.lstrip().startswith(b"{"):
        return [_plain_file(path)]
    document = examine(path, content)
    if document.problems and b"ENC[" in content:
        return list(document.problems)
    if document.problems or "sops" not in document.data:
        return [_plain_file(path)]
    return [*plain(document), *_wrong_seal(root, document, rules)]


def _plain_file(path: str) -> Problem:
    remedy = f".venv/bin/sops encrypt --in-place {path}, or name it *-PUBLIC.* if everybody may read it"
    return Problem(path, None, None, "is not encrypted", remedy)


def plain(document: Document) -> list[Problem]:
    """Given a sealed file, return a problem for each value and comment in it that is not encrypted."""
    found: list[Problem] = []
    for key, value in document.data.items():
        if key != "sops":
            found += [_plain_value(document, loc) for loc in _plain_places((key,), value)]
    return found + [_plain_comment(document, *place) for place in _comments(document)]


def _plain_places(loc: Loc, value: Any) -> Iterator[Loc]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _plain_places((*loc, key), inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _plain_places((*loc, number), inner)
    elif value not in (None, "") and not (isinstance(value, str) and _SEALED.fullmatch(value)):
        yield loc


def _plain_value(document: Document, loc: Loc) -> Problem:
    suffix = _seal(document).get("unencrypted_suffix") or _USUAL
    named = next((key for key in loc if isinstance(key, str) and key.endswith(str(suffix))), None)
    if named:
        rule = f"is not encrypted: sops leaves plain what is below a key that ends in {suffix}"
        remedy = f"rename {named}, and change the value if it was committed"
    else:
        rule = "is not encrypted"
        remedy = f"{_edit_task(document.file)} seals it; change the value if it was committed"
    return Problem(document.file, *document.place(loc), f"{dotted(loc)}: {rule}", remedy)


def _plain_comment(document: Document, line: int, column: int) -> Problem:
    remedy = f"delete it, or write it with {_edit_task(document.file)}"
    return Problem(document.file, line, column, "a comment that is not encrypted", remedy)


def _edit_task(path: str) -> str:
    return f"./doit secrets_edit:{Path(path).stem}"


def _comments(document: Document) -> Iterator[tuple[int, int]]:
    if document.text.lstrip().startswith("{"):
        return
    seal = document.place(("sops",), key=True)[0]
    inside = False
    for number, line in enumerate(document.text.splitlines(), start=1):
        inside = number == seal or (inside and line.startswith((" ", "-")) and number > seal)
        met = None if inside else _COMMENT.search(line)
        if met:
            yield number, line.index("#", met.start()) + 1


def _wrong_seal(root: Path, document: Document, rules: Rules | None) -> Iterator[Problem]:
    path, seal = document.file, _seal(document)
    for key in _LEAVE_PLAIN:
        if seal.get(key) and (key, seal[key]) != ("unencrypted_suffix", _USUAL):
            rule = f"sops.{key}: leaves values of this file plain"
            yield Problem(path, *document.place(("sops", key), key=True), rule, "delete it, then edit the file")
    mac = seal.get("mac")
    if not (isinstance(mac, str) and _SEALED.fullmatch(mac)) or not (recipients(document) or has_other_keys(document)):
        yield Problem(path, *document.place(("sops",), key=True), "is damaged: its seal is not whole", "git checkout")
        return
    if rules is not None:
        yield from _against_rule(root, document, rules)


def _against_rule(root: Path, document: Document, rules: Rules) -> Iterator[Problem]:
    path, place = document.file, document.place(("sops", "age"), key=True)
    rule = rules.of(path)
    if rule is None:
        yield Problem(path, None, None, f"no rule of {RULES} seals it", "./doit init makes one, or write one there")
        return
    sealed = recipients(document)
    if not is_example(path):
        for name in demo_recipients(root).intersection(sealed):
            yield Problem(path, *place, f"is sealed to the demo key ({name}), which everybody has", REKEY)
    if not rule.loc or has_other_keys(document):
        return
    for name in sorted(set(sealed) - set(rule.recipients)):
        yield Problem(path, *place, f"is sealed to {name}, which {rule.place} does not name", REKEY)
    for name in sorted(set(rule.recipients) - set(sealed)):
        yield Problem(path, *place, f"is not sealed to {name}, which {rule.place} names", REKEY)
