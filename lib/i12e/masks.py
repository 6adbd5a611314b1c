"""What may be shown of a text whose secrets are not known: an old config's, or what is on a host.

Nobody here can look such secrets up: they were rotated, or somebody wrote them there by hand. So a text that
everybody may read is shown without what looks like one, and of any other text no more than its keys.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Sequence

from i12e.secrets import MASK

_NAMES = "token|secret|passw|passphrase|pwd|api-?_?key|credential|auth(?!or(?!i))|bearer|psk|cookie|webhook|signature"
_SECRET = re.compile(rf"(?i)(?:{_NAMES})|(?:^|[._-])keys?$|(?<=[a-z])Key$|private|(?:^|[._-])pass$")
# A key and what follows it: `key: value`, `"key": value`, `KEY=value`, `- key: value`, `export KEY=value`.
_PAIR = re.compile(
    r"""(?P<head>\s*(?:-\s+)*(?:export\s+)?(?P<quote>["']?)(?P<key>[\w./-]+)(?P=quote)\s*[:=])(?P<rest>.*)\Z"""
)
_VALUE = r"""(?:"[^"]*"|'[^']*'|[^\s"']+)"""
# In a text whose secrets nobody knows nobody knows either where one ends: all that follows is masked.
_FLAG = rf"(?i)(--?[\w-]*(?:{_NAMES}|key)[\w-]*)(?:=|\s+)"
_INNER = rf"(?i)(\b[\w.-]*(?:{_NAMES}|[_-]key)[\w.-]*[\"']?\s*[:=]\s*)"
_KNOWN = [(re.compile(_FLAG + _VALUE), rf"\1={MASK}"), (re.compile(_INNER + _VALUE), rf"\1{MASK}")]
_UNKNOWN = [(re.compile(_FLAG + r"\S.*"), rf"\1={MASK}"), (re.compile(_INNER + r"\S.*"), rf"\1{MASK}")]
_ENVIRONMENT = re.compile(r"(\s*(?:Environment|SetCredential(?:Encrypted)?)\s*=)(.*)\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_URL = re.compile(r"""\b[A-Za-z][A-Za-z0-9+.-]*://[^\s"'<>]+""")
_URL_REST = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s?#]*[?#].*")
_USER = re.compile(r"://.*@")
# What is a secret by its form: crypt hashes, k3s's tokens, age's and other keys, JSON web tokens.
_FORMS = re.compile(
    r"\$(?:[0-9][a-z]?|g?y|apr1|sha1|argon2\w*|scrypt|pbkdf2[\w-]*)\$\S+|K10[0-9a-f]{10,}\S*|AGE-SECRET-KEY-\S+|\beyJ[\w-]{8,}[\w.-]*"
    r"|\b(?:gh[pousr]_|github_pat_|glpat-|xox[a-z]-|sk-|AKIA)[\w-]{8,}"
    r"|(?i:\b(?:bearer|basic)\s+)[\w.~+/=-]{6,}"
)
_WORD = re.compile(r"[A-Za-z0-9+/_-]{20,}={0,2}")
_HEX = re.compile(r"[0-9a-fA-F-]{32,}\Z")
_PUBLIC_HASH = re.compile(r"sha(?:256|512)[-:=]\Z")
_USUAL = frozenset(
    (
        *("apiVersion", "kind", "metadata", "name", "namespace", "labels", "annotations", "spec", "data", "stringData"),
        *("type", "image", "host", "port", "server", "servers", "url", "endpoint", "user", "username", "values"),
    )
)
_PLAIN_KEY = re.compile(r"[A-Za-z][A-Za-z_./-]{0,39}\Z")


def secret_name(key: str) -> bool:
    """Given the name of a setting, tell whether its value is one not to be shown."""
    return bool(_SECRET.search(key))


def url(text: str) -> str:
    """Given a URL, return it without user, password, query and fragment."""
    scheme, _, rest = text.partition("://")
    if "@" in rest:  # also one where none may be: a password that nobody escaped
        rest = f"{MASK}@{rest.rpartition('@')[2]}"
    head, hash_, _ = rest.partition("#")
    rest, mark, _ = head.partition("?")
    return f"{scheme}://{rest}{mark and '?' + MASK}{hash_ and '#' + MASK}"


def known(text: str) -> str:
    """Given a line of a text in which our secrets are masked already, return it without what looks like another one."""
    text = _URL.sub(lambda found: url(found[0]), text)
    if "<secret " in text or MASK in text:
        return text
    return _without_forms(_without_pairs(text, _KNOWN))


def unknown(text: str) -> str:
    """Given a line of a text that everybody may read, with secrets that nobody knows, return what may be shown."""
    variables = _ENVIRONMENT.match(text)
    if variables:
        return variables[1] + _variables(variables[2])
    if "\n" in text:
        return MASK
    text = _URL_REST.sub(lambda found: url(found[0]), _USER.sub(rf"://{MASK}@", text))
    return _WORD.sub(_random, _without_forms(_without_pairs(text, _UNKNOWN)))


def _variables(text: str) -> str:
    try:
        words = shlex.split(text.removesuffix("\\"))
    except ValueError:
        return MASK
    named = [re.split("[=:]", word, maxsplit=1) for word in words]
    if any(len(parts) == 1 or not _VARIABLE.match(parts[0]) for parts in named):
        return MASK if words else ""
    return " ".join(f"{parts[0]}={MASK}" for parts in named)


def known_lines(lines: Sequence[str]) -> list[str]:
    """Given the lines of a text in which our secrets are masked already, return what may be shown of each."""
    return _lines(lines, known)


def unknown_lines(lines: Sequence[str]) -> list[str]:
    """Given the lines of a text that everybody may read, return what may be shown of each."""
    return _lines(lines, unknown)


def _lines(lines: Sequence[str], shown: Callable[[str], str]) -> list[str]:
    """Show each line; what goes on below one that is masked is masked too: keys, blocks of YAML, continued lines."""
    found: list[str] = []
    within_key, continued, block = False, False, -1
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if within_key or continued:
            found.append(MASK)
            within_key = within_key and "-----END" not in line
            continued = continued and line.endswith("\\")
            continue
        if block >= 0 and line.strip() and (indent > block or (indent == block and line.lstrip().startswith("- "))):
            found.append(MASK)
            continue
        block = indent if line.strip() and _opens_block(line) else block if not line.strip() else -1
        within_key = "-----BEGIN" in line and "PRIVATE" in line and "-----END" not in line
        text = MASK if within_key else shown(line)
        continued = line.endswith("\\") and text != line
        found.append(text)
    return found


def _opens_block(line: str) -> bool:
    pair = _PAIR.match(line)
    return bool(pair and secret_name(pair["key"]) and re.fullmatch(r"\s*(?:[|>][-+0-9]*)?\s*", pair["rest"]))


def private(text: str, words: Collection[str]) -> str:
    """Given a line of a text that not everybody may read, return its key alone.

    A key is shown that is one of `words`, those that are shown anyway, or whose name is that of a secret: of any
    other word nobody can tell whether it is a key or the beginning of a secret.
    """
    pair = _PAIR.match(text)
    if not pair:
        return MASK if text.strip() else ""
    key, rest = pair["key"], pair["rest"].strip()
    if key not in words and key not in _USUAL and not (_PLAIN_KEY.match(key) and secret_name(key) and rest.strip("=")):
        return MASK
    return pair["head"] + (f" {MASK}" if pair["head"].endswith(":") else MASK) if rest else pair["head"]


def key(text: str) -> str:
    """Given a line, return the key that it sets, "" if it sets none."""
    pair = _PAIR.match(text)
    return pair["key"] if pair else ""


def printable(text: str) -> str:
    """Given a text, return it with all that a terminal would obey spelt out."""
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode() if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def _without_pairs(text: str, patterns: Sequence[tuple[re.Pattern[str], str]]) -> str:
    pair = _PAIR.match(text)
    if pair and pair["rest"].strip() and secret_name(pair["key"]):
        return f"{pair['head']}{' ' if pair['head'].endswith(':') else ''}{MASK}"
    for pattern, instead in patterns:
        text = pattern.sub(instead, text)
    return text


def _without_forms(text: str) -> str:
    return _FORMS.sub(MASK, text)


def _random(found: re.Match[str]) -> str:
    word = found[0]
    if _PUBLIC_HASH.search(found.string[: found.start()]) or _PUBLIC_HASH.match(word[:7]):
        return word
    if "/" in word and word.startswith("/"):
        return "/".join(MASK if _looks_random(part) else part for part in word.split("/"))
    return MASK if _looks_random(word) else word


def _looks_random(word: str) -> bool:
    digits, lower, upper = (any(test(char) for char in word) for test in (str.isdigit, str.islower, str.isupper))
    return len(word) >= 20 and (bool(_HEX.match(word)) or (digits and lower and upper))
