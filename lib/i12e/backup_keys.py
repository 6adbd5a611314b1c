"""The keys that open backups, on the operator's side; and where backups go where nobody says.

They are apart from the keys of the repo's secrets, in both directions: who may deploy does not read old backups by
that, and what the backups hold is not lost with the repo. A private one is in a file of its own outside of the
checkout, or on paper; cluster.yaml names the public ones, and a backup is taken with those alone.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i12e import age, files, sealed, yamlfile
from i12e import paths as places
from i12e.errors import Problem, UserError
from i12e.fields import EXAMPLE_RECIPIENT
from i12e.keys import Pair
from i12e.paths import LAB, LAB_MACHINES, Paths
from i12e.secrets import Secret, demo_recipients

if TYPE_CHECKING:
    from i12e.settings import Cluster, Store

KEY_FILE = "I12E_BACKUP_KEY_FILE"
LAB_BACKUP_KEY = f"{LAB_MACHINES}/backup-key.txt"
TASK = "./doit backup_keys"
_RECIPIENTS = ("backup", "recipients")
_PRIVATE = re.compile(r"^\s*(AGE-SECRET-KEY-1[0-9A-Z]+)\s*$", re.MULTILINE)
_TEXT = """\
# made by i12e: whoever has this file opens the backups of the cluster {cluster}; without it nobody does
# keep a copy in a safe place: on no host of the cluster, not where the backups are, not in the repository
# public key: {recipient}
{private}
"""


# --- the private keys


def key_file(paths: Paths, cluster: str, environ: Mapping[str, str], platform: str = sys.platform) -> Path:
    """Given an environment, its cluster's name and the process's environment, return the file of the private keys.

    The lab's is the lab's own, whatever is said for other clusters.
    """
    if paths.env == LAB:
        return paths.root / LAB_BACKUP_KEY
    if environ.get(KEY_FILE):
        return Path(environ[KEY_FILE])
    return _users(environ, platform, "XDG_CONFIG_HOME", ".config") / f"i12e/backup-keys/{cluster}.txt"


def _users(environ: Mapping[str, str], platform: str, variable: str, default: str) -> Path:
    """Return the user's folder for files of a kind: as the variable says, or as the platform has it."""
    if environ.get(variable):
        return Path(environ[variable])
    return _home(environ) / ("Library/Application Support" if platform == "darwin" else default)


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME") or Path.home())


def private(paths: Paths, cluster: str, environ: Mapping[str, str]) -> list[Secret]:
    """Given an environment, its cluster's name and the process's environment, return the keys that open its backups.

    Raise UserError if there are none here.
    """
    file = key_file(paths, cluster, environ)
    try:
        found = _keys(file)
    except FileNotFoundError:
        rule = f"is missing: it holds the key that opens the backups of {cluster}"
        remedy = f"bring it from where you keep a copy, or name it: {KEY_FILE}=FILE"
        raise UserError(Problem(str(file), None, None, rule, remedy)) from None
    except OSError as error:
        raise UserError(Problem(str(file), None, None, f"cannot be read: {error.strerror}")) from None
    if not found:
        remedy = "a line that begins with AGE-SECRET-KEY-1; one that a passphrase locks is opened by age -d"
        raise UserError(Problem(str(file), None, None, "holds no private key of age's", remedy))
    return found


def _keys(file: Path) -> list[Secret]:
    lines = _PRIVATE.findall(file.read_text(errors="replace"))
    return [key for key in map(Secret, lines) if age.recipient_of(key)]


def recipients_of(file: Path) -> list[str]:
    """Given a file of private keys, return their public halves, none if there is no such file or no key in it."""
    try:
        return list(dict.fromkeys(map(age.recipient_of, _keys(file))))
    except OSError:
        return []


def save(pair: Pair, file: Path, cluster: str) -> bool:
    """Given a key, put it into a file (0600, folders that are made 0700); return False if a file is there."""
    files.private_folder(file.parent)
    text = _TEXT.format(cluster=cluster, recipient=pair.recipient, private=pair.private.reveal())
    return files.create(file, text.encode())


# --- the public keys


def with_recipient(text: str, recipient: str) -> str | None:
    """Given the text of a cluster's file and a public key, return the text with the key as one more recipient.

    Everything else is as it was, comments too. None if that cannot be done in place.
    """
    document = yamlfile.examine(text.encode(), "")
    if document.problems:
        return None
    edited = _edited(document, recipient)
    found = yamlfile.examine(edited.encode(), "")
    same = not found.problems and found.data == _expected(document.data, recipient)
    return edited if same else None


def _expected(data: dict[str, Any], recipient: str) -> dict[str, Any]:
    backup = data.get("backup") or {}
    old = backup.get("recipients") if isinstance(backup, dict) else None
    listed = old if isinstance(old, list) else [old] if old else []
    return data | {"backup": {**(backup if isinstance(backup, dict) else {}), "recipients": [*listed, recipient]}}


def _edited(document: yamlfile.Document, recipient: str) -> str:
    text = document.text
    begin, end = document.span(_RECIPIENTS)
    there = text[begin:end]
    if there.startswith("["):
        inside = there[1 : there.rindex("]")].strip() if "]" in there else ""
        comma = ", " if inside and not inside.endswith(",") else " " if inside else ""
        close = begin + len(there[: there.rindex("]")].rstrip()) if "]" in there else begin
        return f"{text[:close]}{comma}{recipient}{text[close:]}"
    entries = (document.data.get("backup") or {}).get("recipients") if document.has(_RECIPIENTS) else None
    if isinstance(entries, list):
        line = document.place((*_RECIPIENTS, len(entries) - 1))[0]
        dash = re.match(r"\s*-\s+", _line(text, line))
        return _behind(text, line, f"{dash[0] if dash else '- '}{recipient}")
    if isinstance(entries, str):
        return f"{text[:begin]}[{there.rstrip()}, {recipient}]{text[begin + len(there.rstrip()) :]}"
    return _begun(document, recipient)


def _begun(document: yamlfile.Document, recipient: str) -> str:
    """Return the text with the list's first entry, where there is no list yet."""
    text = document.text
    if document.has(_RECIPIENTS):
        line = document.place(_RECIPIENTS, key=True)[0]
        indent = re.match(r"\s*", _line(text, line))
        return _behind(text, line, f"{indent[0] if indent else ''}  - {recipient}")
    section = document.data.get("backup")
    if not document.has(("backup",)):
        head = f"{text.rstrip()}\n\n" if text.strip() else ""
        return f"{head}# Backups are sealed to these age keys alone.\nbackup:\n  recipients:\n    - {recipient}\n"
    begin, _ = document.span(("backup",))
    if text[begin : begin + 1] == "{":
        comma = ", " if section else ""
        return f"{text[: begin + 1]}recipients: [{recipient}]{comma}{text[begin + 1 :]}"
    line = document.place(("backup",), key=True)[0]
    first = next(iter(section), None) if isinstance(section, dict) else None
    column = document.place(("backup", first), key=True)[1] if first is not None else 3
    indent_ = " " * (column - 1)
    return _behind(text, line, f"{indent_}recipients:\n{indent_}  - {recipient}")


def _line(text: str, number: int) -> str:
    return text.splitlines()[number - 1]


def _behind(text: str, number: int, added: str) -> str:
    """Return a text with further lines behind the one of a number, each ended as that one is."""
    lines = text.splitlines(keepends=True)
    end = "\r\n" if lines[number - 1].endswith("\r\n") else "\n"
    if not lines[number - 1].endswith("\n"):
        lines[number - 1] += end
    return "".join([*lines[:number], *(f"{line}{end}" for line in added.split("\n")), *lines[number:]])


def check(paths: Paths, cluster: Cluster) -> None:
    """Given an environment and its cluster, see that backups can be sealed to its recipients, and to nobody else.

    Raise UserError with each recipient that everybody has, that nobody has, or that opens the repo's secrets too.
    """
    place = _places(paths)
    if not cluster.backup.recipients:
        rule = "backup.recipients: is missing: nobody could open a backup"
        remedy = f"{TASK} makes a key and writes its public half there"
        raise UserError(Problem(paths.cluster_file, *place(0), rule, remedy))
    problems = [
        Problem(paths.cluster_file, *place(number), f'backup.recipients: "{name}" {rule}', remedy)
        for number, name in enumerate(cluster.backup.recipients)
        for rule, remedy in faults(paths, name)
    ]
    if problems:
        raise UserError(problems)


def faults(paths: Paths, recipient: str) -> Iterator[tuple[str, str]]:
    """Given an environment and a public key, yield why no backup may be sealed to it, each with its remedy."""
    own = f"make one of its own: {TASK}"
    if recipient == EXAMPLE_RECIPIENT:
        yield "is the docs' example, nobody can open what is sealed to it", own
    if recipient in demo_recipients(paths.root):
        if not paths.is_example:  # where all is public: its backups too
            yield "is the demo key, which everybody has", own
        return
    where = next((place for place, names in _openers(paths) if recipient in names), None)
    if where:
        yield f"opens the repo's secrets too ({where})", f"a key for backups alone: {own}"


def _openers(paths: Paths) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the recipients of secrets, those that rules name and those that files are sealed to, with their place."""
    for rule in sealed.load_rules(paths.root).rules:
        yield rule.place, rule.recipients
    for name in places.secret_names(paths):
        path = f"{paths.secrets}/{name}.yaml"
        yield path, tuple(sealed.recipients(sealed.examine(path, (paths.root / path).read_bytes())))


def _places(paths: Paths) -> Callable[[int], tuple[int | None, int | None]]:
    """Return what gives the place of a recipient in the cluster's file."""
    try:
        document = yamlfile.examine((paths.root / paths.cluster_file).read_bytes(), paths.cluster_file)
    except OSError:
        return lambda number: (None, None)
    return lambda number: document.place((*_RECIPIENTS, number))


# --- where backups go


def stores(paths: Paths, cluster: Cluster, environ: Mapping[str, str]) -> tuple[Store, ...]:
    """Given an environment, its cluster and the process's environment, return the stores, with ~ replaced in folders.

    Where the cluster's file names none, it is the default one.
    """
    if not cluster.backup.stores:
        return (default_store(paths, environ),)
    return tuple(_at_home(store, environ) for store in cluster.backup.stores)


def _at_home(store: Store, environ: Mapping[str, str]) -> Store:
    if store.folder is None or not store.folder.startswith("~/"):
        return store
    return store.model_copy(update={"folder": str(_home(environ) / store.folder[2:])})


def default_store(paths: Paths, environ: Mapping[str, str], platform: str = sys.platform) -> Store:
    """Given an environment and the process's environment, return the store of who names none: a folder of the user's.

    The lab's is the lab's own, and goes with it.
    """
    from i12e.settings import Store

    user = _users(environ, platform, "XDG_DATA_HOME", ".local/share") / "i12e/backups"
    return Store(name="local", folder=str(paths.root / f"build/{LAB}/backups" if paths.env == LAB else user))
