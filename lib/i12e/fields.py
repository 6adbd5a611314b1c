"""The forms of single values: addresses, names, keys, versions, times.

Each function takes what the file says and returns it in its canonical form, or raises Wrong with
the rule that it breaks. What depends on more than one value is in `rules`.
"""

from __future__ import annotations

import base64
import binascii
import functools
import ipaddress
import posixpath
import re
import struct
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from i12e.errors import did_you_mean

RESERVED = frozenset({"example", "lab", "helm", "local", "default", "files", "butane", "cluster"})
"""Names that no environment and no host may have: they are names of ours (design.md; decisions/0004)."""

DEMO_KEY_COMMENT = "demo-key-of-the-i12e-example-replace-me"
"""How the ssh key of the example and of the docs ends, which nobody can log in with."""

EXAMPLE_RECIPIENT = "age1f26wxs78ahhzlx7dts2qxy4jagq45vg6k89rc778n6njwmn6cqms3rflee"
"""The age public key of the docs, whose private half was thrown away: nobody can open what is sealed to it."""

# For what all hosts of a cluster have alike, and what would be checked again for each of them.
_same_for_all_hosts = functools.lru_cache(maxsize=256)

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

FINAL = 10_000
"""What stands for the number of a release candidate where it is none: it sorts behind all of them."""

# The charts that k3s deploys as HelmChart itself (k3s manifests/traefik.yaml)
PACKAGED = ("traefik", "traefik-crd")

# k3s pkg/cli/cmds/const_linux.go: DisableItems
COMPONENTS = ("coredns", "servicelb", "traefik", "local-storage", "metrics-server", "runtimes")

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?\Z")
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}\Z")
_INTERFACE = re.compile(r"[^\s/:]{1,15}\Z")
_K3S = re.compile(r"v(\d{1,4})\.(\d{1,4})\.(\d{1,4})(?:-rc(\d{1,4}))?\+k3s(\d{1,4})\Z", re.ASCII)
_LOOSE = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?(-rc\d+)?(?:[-+]k3s(\d+))?\Z", re.ASCII)
_SEMVER = re.compile(r"v?\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?\Z", re.ASCII)
_OCI = re.compile(r"oci://[a-z0-9.-]+(?::\d{1,5})?(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)+\Z")
_CHART = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*\Z")
_VERSION = re.compile(r"v\d+\.\d+\.\d+\Z", re.ASCII)
_SYSEXT = re.compile(r"[a-z0-9](?:[-_a-z0-9]{0,62})\Z")
_SYSEXT_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,62}\Z")
_QUALIFIED = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?\Z")
_LENGTH = re.compile(r"(?:(\d{1,4})h)?(?:(\d{1,4})m)?\Z", re.ASCII)
_SPAN = re.compile(r"(?:(\d{1,4})d)?(?:(\d{1,4})h)?(?:(\d{1,4})m)?\Z", re.ASCII)
_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d\Z", re.ASCII)
_USER = re.compile(r"[a-z_][-a-z0-9_]{0,31}\Z")
_UNIT = re.compile(r"[A-Za-z0-9:_.\\-]+(?:@[A-Za-z0-9:_.\\-]*)?\.([a-z]+)\Z")
_UNIT_KINDS = (
    *("service", "socket", "device", "mount", "automount", "swap"),
    *("target", "path", "timer", "slice", "scope"),
)
_URL = re.compile(
    r"[hH][tT]{2}[pP][sS]?://(?:\[[0-9a-fA-F:.]+\]|[^\s/?#@:\[\]]+)(?::\d{1,5})?(?:/[^\s?#]*)?\Z", re.ASCII
)
_RECIPIENT = re.compile(r"age1[qpzry9x8gf2tvdw0s3jn54khce6mua7l]{58}\Z")
_FOLDER = re.compile(r"~?(?:/[^/\x00-\x1f\x7f]+)+\Z")
_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9.-]{1,61}[a-z0-9])\Z")
_REGION = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62})\Z")
_PREFIX = re.compile(r"(?:[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*)?\Z")
# rclone: docs, "Valid remote names"
_REMOTE = re.compile(r"[A-Za-z0-9_.+@](?:[A-Za-z0-9_.+@ -]*[A-Za-z0-9_.+@-])?:[^\x00-\x1f\x7f]*\Z")
_HOSTED_ZONE = re.compile(r"Z[A-Z0-9]{1,31}\Z")
_CLOUD_ZONE = re.compile(r"[0-9a-f]{32}\Z")
_KEY_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}\Z")
_SSH_TYPES = (
    *("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384"),
    *("ecdsa-sha2-nistp521", "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"),
)

# kubernetes: staging/src/k8s.io/kubelet/pkg/apis/well_known_labels.go
_KUBELET_LABELS = frozenset(
    {
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
    }
)
_KUBELET_NAMESPACES = ("kubelet.kubernetes.io", "node.kubernetes.io")

# paths that a reset must not keep, and why
_NEVER_KEPT = {
    "/usr": "is read-only and comes with the OS",
    "/boot": "belongs to the boot loader",
    "/oem": "is a partition of its own, a reset leaves it alone",
    "/dev": "is not on the disk",
    "/proc": "is not on the disk",
    "/sys": "is not on the disk",
    "/run": "is not on the disk",
    "/tmp": "is emptied at each boot",  # noqa: S108  # only named
    "/etc/i12e": "says which config a host runs, a kept one would lie",
    "/etc/rancher/k3s": "comes from the config, a kept one would be the old one",
}
DATABASE = "/var/lib/rancher/k3s/server/db"
"""Where k3s has its datastore: etcd's files, or SQLite's."""
_NOT_ON_DISK = ("/dev", "/proc", "/sys", "/run")
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9._/@:-]")
_TOO_MUCH = ("/", "/etc", "/etc/systemd", "/etc/systemd/system", "/var", "/var/lib")

Loc = tuple[str | int, ...]


class Wrong(ValueError):
    """A value that breaks a rule; `show` is False where the value itself must not be told."""

    def __init__(self, rule: str, remedy: str = "", show: bool = True) -> None:
        super().__init__(rule)
        self.rule, self.remedy, self.show = rule, remedy, show


@dataclass(frozen=True)
class Fault:
    """What is wrong at a path of one file's data; `needs`: further paths that it was told from."""

    loc: Loc
    rule: str
    remedy: str = ""
    value: str = ""
    key: bool = False
    warning: bool = False
    needs: tuple[Loc, ...] = ()

    def message(self) -> str:
        """Return the key path, the value where it is shown, and the rule."""
        said = f"{self.value} {self.rule}" if self.value else self.rule
        return f"{dotted(self.loc)}: {said}" if self.loc else said


def dotted(loc: Loc) -> str:
    """Return a path as people write it: files[0].path, labels."example.com/disk"."""
    text = ""
    for step in loc:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            name = step if re.fullmatch(r"[\w-]+", step) else f'"{step[:60]}"'
            text += f".{name}" if text else name
    return text


def label(text: str) -> str:
    """Return a DNS label: a host's or a cluster's name."""
    if _LABEL.match(text):
        return text
    if _LABEL.match(text.lower().replace("_", "-")):
        raise Wrong("is not a DNS label", f"write {text.lower().replace('_', '-')}")
    raise Wrong("is not a DNS label (a-z, 0-9 and - inside, at most 63 characters)")


def dns_name(text: str) -> str:
    """Return a DNS name in small letters without the last dot."""
    if is_address(text):
        raise Wrong("is an address, not a name", "a name here, addresses in api.vip and api.sans")
    if len(text) <= 253 and all(_LABEL.match(part) for part in text.split(".")):
        return text
    tidy = text.lower().rstrip(".")
    if tidy != text and all(_LABEL.match(part) for part in tidy.split(".")):
        raise Wrong("is not a DNS name in small letters", f"write {tidy}")
    if "://" in text:
        raise Wrong("is a URL, not a DNS name", "only the name, without https:// and port")
    raise Wrong("is not a DNS name")


def san(text: str) -> str:
    """Return a further name of the API: an address, a DNS name or a wildcard of one."""
    if is_address(text):
        return address(text)
    return "*." + dns_name(text[2:]) if text.startswith("*.") else dns_name(text)


def machine(text: str) -> str:
    """Return where a machine is reached: an address or a DNS name."""
    return address(text) if is_address(text) else dns_name(text)


def is_address(text: str) -> bool:
    """Return whether a text is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def address(text: str) -> str:
    """Return an IP address that a host can have, in its shortest spelling."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        if "/" in text:
            raise Wrong("is not an IP address", "leave the / and what follows out") from None
        raise Wrong("is not an IP address") from None
    unreachable = found.is_unspecified or found.is_multicast or found.is_loopback or found.is_link_local
    if unreachable or (found.version == 4 and found.is_reserved) or "%" in text:
        raise Wrong("is no address that other hosts can reach")
    return str(found)


def network(text: str) -> str:
    """Return an IP network in its shortest spelling."""
    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise Wrong("is not an IP network", "like 192.0.2.0/24") from None
    if "%" in text:  # an interface of the machine that reads this: ::%eth0/64
        raise Wrong("is not an IP network", "like 2001:db8::/64")
    if "/" not in text:
        raise Wrong("has no length", f"like {found.network_address}/24" if found.version == 4 else "")
    if str(found.network_address) != str(ipaddress.ip_address(text.split("/")[0])):
        raise Wrong("is a host's address, not a network", f"write {found}")
    return str(found)


def mac(text: str) -> str:
    """Return the mac address of a network card, in small letters with colons."""
    found = text.lower().replace("-", ":")
    if not _MAC.match(found):
        raise Wrong("is not a mac address", "like 52:54:00:12:34:56")
    if int(found[:2], 16) & 1 or found == "00:00:00:00:00:00":
        raise Wrong("is not the mac address of one card")
    return found


def interface(text: str) -> str:
    """Return the name of a network interface."""
    if not _INTERFACE.match(text) or text in (".", ".."):
        raise Wrong("is not an interface's name (at most 15 characters, no space, / or :)")
    return text


def k3s_version(text: str) -> str:
    """Return a pinned k3s release."""
    if _K3S.match(text):
        return text
    loose = _LOOSE.match(text)
    if not loose:
        raise Wrong("is not a k3s release", "like v1.35.4+k3s1")
    major, minor, patch, candidate, build = loose.groups()
    if patch is None:
        raise Wrong("is not pinned to one release", f"like v{major}.{minor}.4+k3s1")
    remedy = f"write v{major}.{minor}.{patch}{candidate or ''}+k3s{build or 1}"
    raise Wrong("is not the full name of a k3s release", remedy)


@_same_for_all_hosts
def version_of(release: str) -> tuple[int, int, int, int, int]:
    """Given the name of a k3s release, return major, minor, patch, release candidate (FINAL: none) and build."""
    found = _K3S.match(release)
    if found is None:
        raise ValueError(release)
    major, minor, patch, candidate, build = found.groups()
    return int(major), int(minor), int(patch), FINAL if candidate is None else int(candidate), int(build)


def release_tag(text: str) -> str:
    """Return a version of the form vX.Y.Z."""
    if _VERSION.match(text):
        return text
    remedy = f"write v{text}" if _VERSION.match("v" + text) else "like v1.0.1"
    raise Wrong("is not a version of the form vX.Y.Z", remedy)


def sysext(text: str) -> str:
    """Return the name of a system extension."""
    if not _SYSEXT.match(text):
        raise Wrong("is not a system extension's name", "as extensions.flatcar.org has it, like wasmtime")
    return text


def sysext_version(text: str) -> str:
    """Return the version of a system extension, as its maker writes it."""
    if not _SYSEXT_VERSION.match(text):
        raise Wrong("is not a system extension's version", "what stands between its name and the processor's")
    return text


def component(text: str) -> str:
    """Return the name of a component that k3s packages."""
    if text not in COMPONENTS:
        remedy = did_you_mean(text, COMPONENTS)
        raise Wrong(f"is not one of {', '.join(COMPONENTS)}", remedy)
    return text


def label_key(text: str) -> str:
    """Return the key of a node label that a kubelet may give to its own node."""
    _qualified(text)
    namespace = text.rpartition("/")[0]
    ours = any(_below(namespace, domain) for domain in ("kubernetes.io", "k8s.io"))
    free = any(_below(namespace, domain) for domain in _KUBELET_NAMESPACES)
    if ours and not free and text not in _KUBELET_LABELS:
        rule = "is a label that a node may not give to itself, its kubelet would not start"
        raise Wrong(rule, "choose another prefix, or label the node with kubectl later", show=False)
    return text


def _below(name: str, domain: str) -> bool:
    return name == domain or name.endswith("." + domain)


def _qualified(text: str) -> None:
    """Check a Kubernetes key: an optional DNS name, a slash, a name of at most 63 characters."""
    prefix, slash, name = text.rpartition("/")
    good = len(prefix) <= 253 and all(_LABEL.match(part) for part in prefix.split("."))
    if slash and not good:
        raise Wrong("is not a Kubernetes key: before the / stands a DNS name in small letters")
    if not _QUALIFIED.match(name):
        raise Wrong("is not a Kubernetes key (letters, digits, - _ . inside, at most 63 characters)")


def label_value(text: str) -> str:
    """Return the value of a node label."""
    if text and not _QUALIFIED.match(text):
        raise Wrong("is not a label's value (letters, digits, - _ . inside, at most 63 characters)")
    return text


def taint(text: str) -> str:
    """Return a node taint: key=value:Effect or key:Effect."""
    effects = ("NoSchedule", "PreferNoSchedule", "NoExecute")
    rest, colon, effect = text.rpartition(":")
    if not colon:
        raise Wrong("has no effect", f"write {text}:NoSchedule")
    if effect not in effects:
        raise Wrong(f"has none of the effects {', '.join(effects)}", did_you_mean(effect, effects))
    key, _, value = rest.partition("=")
    try:
        _qualified(key)
        label_value(value)
    except Wrong as wrong:
        part = "key" if "key" in wrong.rule else "value"
        raise Wrong(f"is not a taint, its {part} breaks Kubernetes' rules") from None
    return text


@_same_for_all_hosts
def ssh_key(text: str) -> str:
    """Return an ssh public key, as one line of authorized_keys."""
    if "PRIVATE KEY" in text:
        rule = "is a PRIVATE key: take it out of the file, and make a new pair if it was committed"
        raise Wrong(rule, "write the .pub file's line", show=False)
    words = text.split()
    kind = next((n for n, word in enumerate(words) if word in _SSH_TYPES), None)
    if "\n" in text.strip() or kind is None:
        first = words[0] if words else ""
        raise Wrong(
            "is not an ssh public key",
            did_you_mean(first, _SSH_TYPES) or "like ssh-ed25519 AAAA... name",
            show=False,
        )
    if kind + 1 >= len(words) or not _ssh_blob(words[kind], words[kind + 1]):
        raise Wrong(f"is a damaged {words[kind]} key", "copy the .pub file's line again", show=False)
    return " ".join(words)


def _ssh_blob(kind: str, word: str) -> bool:
    """Return whether a key's base64 is whole and names the type that stands before it."""
    try:
        blob = base64.b64decode(word, validate=True)
    except (binascii.Error, ValueError):
        return False
    parts: list[bytes] = []
    while len(blob) >= 4:
        (size,) = struct.unpack(">I", blob[:4])
        if size > len(blob) - 4:
            return False
        parts.append(blob[4 : 4 + size])
        blob = blob[4 + size :]
    whole = not blob and len(parts) >= 2 and parts[0] == kind.encode()
    return whole and (kind != "ssh-ed25519" or (len(parts) == 2 and len(parts[1]) == 32))


_MONTHS = (
    *("jan", "feb", "mar", "apr", "may", "jun"),
    *("jul", "aug", "sep", "oct", "nov", "dec"),
)
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

# robfig/cron v3, ParseStandard, which k3s calls: 7 is no day, steps and names are fine
_CRON: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 6, _WEEKDAYS),
)
_CRON_WORDS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_EVERY = re.compile(r"@every (?:\d+(?:\.\d+)?(?:h|m|s))+\Z", re.ASCII)


def cron(text: str) -> str:
    """Return a schedule in cron's five fields, or a word like @daily or `@every 6h`."""
    if text.startswith("@"):
        if text in _CRON_WORDS or _EVERY.match(text):
            return text
        raise Wrong("is not a schedule", did_you_mean(text, _CRON_WORDS) or 'like "@every 6h"')
    words = re.sub(r"\A(?:CRON_)?TZ=\S+\s+", "", text).split()
    if len(words) != len(_CRON):
        rule = "has not the five fields minute, hour, day of the month, month, day of the week"
        raise Wrong(rule, 'like "0 */6 * * *"')
    for word, (name, low, high, names) in zip(words, _CRON, strict=True):
        for part in word.split(","):
            if not _cron_part(part.lower(), low, high, names):
                raise Wrong(f"has a wrong {name}: {part} ({low} to {high})")
    return text


def _cron_part(part: str, low: int, high: int, names: tuple[str, ...]) -> bool:
    """Return whether one entry of a cron field lies within its range."""
    span, slash, step = part.partition("/")
    if slash and not (step.isascii() and step.isdigit() and int(step[:9]) > 0):
        return False
    if span in ("*", "?"):
        return True
    ends = [_cron_number(end, low, names) for end in span.split("-")]
    if len(ends) > 2 or any(end is None or not low <= end <= high for end in ends):
        return False
    return len(ends) == 1 or (ends[0] or 0) <= (ends[1] or 0)


def _cron_number(text: str, low: int, names: tuple[str, ...]) -> int | None:
    if text in names:
        return names.index(text) + low
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else None


def clock(text: str) -> str:
    """Return a time of day, HH:MM."""
    if _CLOCK.match(text):
        return text
    raise Wrong("is not a time of day", f"write 0{text}" if _CLOCK.match("0" + text) else "like 02:00")


def length(text: str) -> str:
    """Return a length of time of less than a day (locksmith takes no more), like 1h30m."""
    found = _LENGTH.match(text)
    if not text or not found:
        raise Wrong("is not a length of time", "like 30m, 1h or 1h30m")
    if not 0 < minutes(text) < 24 * 60:
        raise Wrong("is not at least 1m and less than 24h")
    return text


def minutes(text: str) -> int:
    """Given a length of time like 1h30m, return its minutes."""
    found = _LENGTH.match(text)
    hours, rest = found.groups() if found else (None, None)
    return int(hours or 0) * 60 + int(rest or 0)


DAY = 24 * 60 * 60
_LONGEST = 31  # days


def seconds(text: str) -> int:
    """Given a span of time like 1d12h or 30m, return its seconds."""
    found = _SPAN.match(text)
    days, hours, rest = found.groups() if found else (None, None, None)
    return int(days or 0) * DAY + int(hours or 0) * 3600 + int(rest or 0) * 60


def span(text: str) -> str:
    """Return a span of time of one minute to 31 days, like 30m, 6h, 1d or 1d12h."""
    if not text or not _SPAN.match(text):
        weeks = re.fullmatch(r"(\d{1,2})w", text, re.ASCII)
        raise Wrong("is not a span of time", f"write {int(weeks[1]) * 7}d" if weeks else "like 30m, 6h or 1d")
    if not 60 <= seconds(text) <= _LONGEST * DAY:
        raise Wrong(f"is not at least 1m and at most {_LONGEST}d")
    return text


def slot(text: str) -> str:
    """Return the length of a schedule's slots: one that divides a day, 5 minutes at least, or whole days.

    So slots begin at the same times of each day, and every machine knows by its clock alone which one it is in.
    """
    length_ = seconds(span(text))
    if length_ < 300:
        raise Wrong("is less than 5m", "a backup may take longer than that")
    if length_ % DAY if length_ > DAY else DAY % length_:
        fitting = [minutes_ for minutes_ in range(5, 1441) if 1440 % minutes_ == 0]
        nearest = min([*(n * 60 for n in fitting), *(n * DAY for n in range(1, 32))], key=lambda n: abs(n - length_))
        raise Wrong("neither divides a day nor is whole days", f"like {spoken(nearest)}")
    return text


def spoken(length_: int) -> str:
    """Given whole minutes in seconds, return them as a span of time."""
    parts = ((length_ // DAY, "d"), (length_ % DAY // 3600, "h"), (length_ % 3600 // 60, "m"))
    return "".join(f"{count}{unit_}" for count, unit_ in parts if count) or "0m"


def path(text: str) -> str:
    """Return an absolute path without detours."""
    if not text.startswith("/"):
        raise Wrong("is not an absolute path", f"write /{text}" if text[:1] not in (".", "~", "") else "")
    tidy = posixpath.normpath(text).replace("//", "/")
    if any(ord(char) < 32 or char == "\x7f" for char in text):
        raise Wrong("holds a control character", show=False)
    if tidy != text:
        raise Wrong("is not a clean path", f"write {tidy}")
    return text


@_same_for_all_hosts
def keep(text: str) -> str:
    """Return a path that a reset may keep."""
    path(text)
    # flatcar-reset takes paths for patterns (egrep's) in single quotes: another sign would keep something else,
    # or nothing. A dot also stands for itself.
    if odd := _NOT_PLAIN.search(text):
        rule = f"holds a {odd[0]}" if odd[0] != " " else "holds a space"
        raise Wrong(f"{rule}, which flatcar-reset cannot keep", "letters, digits and . _ / @ : - only")
    if text in _TOO_MUCH:
        raise Wrong("is too much to keep: the old config would stay", "name what you need below it")
    for never, why in _NEVER_KEPT.items():
        if text == never or text.startswith(never + "/"):
            raise Wrong(f"cannot be kept: {never} {why}")
        if never.startswith(text + "/"):
            raise Wrong(f"cannot be kept: {never} in it {why}", "name what you need below it")
    return text


def file_path(text: str) -> str:
    """Return a path that a host's own file may have."""
    path(text)
    top = "/" + text.split("/")[1]
    if text == "/":
        raise Wrong("is a directory")
    if top in ("/dev", "/proc", "/sys", "/run"):
        raise Wrong(f"cannot be written: {top} is not on the disk")
    if top == "/usr" and not text.startswith("/usr/local/"):
        raise Wrong("cannot be written: /usr is read-only", "programs go to /opt/bin")
    if text.startswith("/etc/i12e/"):
        raise Wrong("is a file of i12e's own")
    return text


def local(text: str) -> str:
    """Return the path of a file in the environment's directory: relative, going nowhere else."""
    if text.startswith("/") or ".." in text.split("/") or not text or "\0" in text:
        raise Wrong("is not a path inside the environment's own directory")
    if posixpath.normpath(text) != text or text == ".":
        raise Wrong("is not a clean path", f"write {posixpath.normpath(text)}")
    return text


def mode(value: Any) -> int:
    """Return file permissions; an int that was written in decimal is a fault."""
    if type(value) is int and value > 0:  # what was written as 0644 is an Octal, no plain int
        octal = str(value) if re.fullmatch(r"[0-7]{3,4}", str(value)) else f"{value:o}"
        raise Wrong("is decimal, file modes are octal", f"write 0{octal}")
    if isinstance(value, str) and re.fullmatch(r"0?[0-7]{3,4}", value):
        raise Wrong("is text", f"without quotes: 0{value.lstrip('0') or '000'}")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 0o7777:
        raise Wrong("is not a file mode", "like 0644")
    return int(value)


def user(text: str) -> str:
    """Return the name of a user or a group."""
    if not _USER.match(text):
        raise Wrong("is not a user's or group's name")
    return text


def unit(text: str) -> str:
    """Return the name of a systemd unit."""
    found = _UNIT.match(text)
    if found and found.group(1) in _UNIT_KINDS and len(text) < 256:
        return text
    if "." not in text and _UNIT.match(text + ".service"):
        raise Wrong("has no suffix", f"write {text}.service")
    suffix = text.rpartition(".")[2]
    raise Wrong("is not a systemd unit's name", did_you_mean(suffix, _UNIT_KINDS) or "like x.service")


def dropin(text: str) -> str:
    """Return the file name of a drop-in of a systemd unit."""
    if not text.endswith(".conf") or "/" in text or text == ".conf":
        raise Wrong("is not a drop-in's name", "like 10-memory.conf")
    return text


def release(text: str) -> str:
    """Return the name of a Helm release."""
    label(text)
    if len(text) > 53:  # helm: pkg/chart/common/util, maxReleaseNameLen
        raise Wrong("is longer than the 53 characters that Helm takes")
    return text


def chart(text: str) -> str:
    """Return a chart: its name in a repository, an OCI reference, or a path below the checkout that begins with ./."""
    if text.startswith("./"):
        if ".." in text.split("/") or posixpath.normpath(text) != text[2:]:
            raise Wrong("is not a clean path below the checkout", "like ./charts/app")
        return text
    if text.startswith("oci://"):
        if not _OCI.match(text):
            raise Wrong("is not an OCI reference without a tag", "like oci://ghcr.io/example/charts/app, and version:")
        return text
    if "://" in text:
        raise Wrong("is a URL", "the repository's goes to repository:, the chart's name here")
    if not _CHART.match(text):
        remedy = f"a path of the checkout begins with ./: write ./{text}" if "/" in text else ""
        raise Wrong("is not a chart's name", remedy)
    return text


def chart_version(text: str) -> str:
    """Return one version of a chart, no range of them."""
    if not _SEMVER.match(text):
        raise Wrong("is not one version of a chart", "like 1.2.3")
    return text


def url(text: str) -> str:
    """Return the base URL of a mirror or of a repository, without a slash at the end."""
    try:
        parts = urlsplit(text)
        port_ok = parts.port is None or parts.port > 0
    except ValueError:
        raise Wrong("is not a URL", "like https://mirror.example.com") from None
    if parts.username is not None or parts.password is not None:
        raise Wrong("holds a user or password, which every host would show", show=False)
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_ok:
        raise Wrong("is not an http or https URL", "like https://mirror.example.com")
    if "?" in text or "#" in text or any(char.isspace() for char in text):
        raise Wrong("is not a base URL: nothing may follow the path")
    if not _URL.match(text):  # urlsplit takes what no program that downloads would: [::1]80
        raise Wrong("is not an http or https URL", "like https://mirror.example.com")
    return text.rstrip("/")


def recipient(text: str) -> str:
    """Return the public half of an age key (X25519), as `age-keygen` shows it."""
    if "SECRET-KEY" in text.upper():
        rule = "is a PRIVATE key: take it out of the file, and make a new pair if it was committed"
        raise Wrong(rule, "write the public one: age1...", show=False)
    if text.startswith("ssh-"):
        raise Wrong("is an ssh key, not an age public key", "./doit backup_keys makes one", show=False)
    if not _RECIPIENT.match(text):
        other = re.match(r"age1[a-z0-9+._-]+1", text)
        rule = "is the key of a plugin, backups know plain age keys only" if other else "is not an age public key"
        raise Wrong(rule, "like age1..., 62 characters")
    if not _bech32("age", text[4:]):
        raise Wrong("is a damaged age public key: its checksum is wrong", "copy it again")
    return text


_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def _bech32(kind: str, data: str) -> bool:
    """Return whether a text of bech32's signs has the checksum that goes with its kind (BIP 173)."""
    values = [ord(sign) >> 5 for sign in kind] + [0] + [ord(sign) & 31 for sign in kind]
    values += [_BECH32.index(sign) for sign in data]
    found = 1
    for value in values:
        top = found >> 25
        found = (found & 0x1FFFFFF) << 5 ^ value
        for place, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            found ^= generator if top >> place & 1 else 0
    return found == 1


def folder(text: str) -> str:
    """Return a folder on the operator's machine: an absolute path, or one below the home folder (~/...)."""
    tail = text.removeprefix("~")
    if text.startswith("~") and not tail.startswith("/"):
        raise Wrong("is not a path of a folder", "~/... is below your own home folder")
    if not text.startswith("~"):
        path(text)
    elif tail == "/" or posixpath.normpath(tail) != tail:
        raise Wrong("is not a clean path", f"write ~{posixpath.normpath(tail).rstrip('/') or '/backups'}")
    if text == "/":
        raise Wrong("is the root of the file system", "name a folder of its own")
    if not _FOLDER.match(text):
        raise Wrong("holds a control character", show=False)
    return text


def bucket(text: str) -> str:
    """Return the name of an S3 bucket."""
    if text.startswith("s3://") or "/" in text:
        rest = text.removeprefix("s3://").partition("/")
        remedy = f"write bucket: {rest[0]}" + (f" and prefix: {rest[2].rstrip('/')}" if rest[2] else "")
        raise Wrong("is a place, not the name of a bucket", remedy)
    if not _BUCKET.match(text) or ".." in text:
        raise Wrong("is not a bucket's name (a-z, 0-9, . and - inside, 3 to 63 characters)")
    return text


def region(text: str) -> str:
    """Return the name of a region of S3's."""
    if not _REGION.match(text):
        raise Wrong("is not a region's name", "like eu-central-1")
    return text


def endpoint(text: str) -> str:
    """Return the URL of an S3 service: scheme, host and perhaps port, nothing more."""
    try:
        found = url(text)
    except Wrong as wrong:
        if not wrong.show:
            raise Wrong("holds a user or password", "secrets/ENV/backup.yaml is for that", show=False) from None
        raise Wrong("is not an http or https URL", "like https://s3.example.com") from None
    if urlsplit(found).path:
        raise Wrong("has a path", "only https://HOST: the bucket goes to bucket:, a folder in it to prefix:")
    return found


def prefix(text: str) -> str:
    """Return a folder in a bucket, without / at its ends; nothing for the bucket itself."""
    tidy = posixpath.normpath(text.strip("/")) if text.strip("/") else ""
    if tidy != text:
        raise Wrong("is not a clean path without / at its ends", f"write {tidy or chr(34) * 2}")
    if not _PREFIX.match(text) or ".." in text.split("/"):
        raise Wrong("is not a folder in a bucket", "letters, digits and . _ - only, / between them")
    return text


def remote(text: str) -> str:
    """Return a place of rclone's, REMOTE:PATH, of a remote that its config has."""
    if text.startswith(":") or "," in text.partition(":")[0]:
        rule = "is a connection string, whose options may be secrets"
        raise Wrong(rule, "name a remote: its config goes to secrets/ENV/backup.yaml", show=False)
    if ":" not in text:
        remedy = "folder: is for a path of this machine" if text.startswith(("/", "~", ".")) else f"write {text}:"
        raise Wrong("names no remote of rclone's", remedy)
    if not _REMOTE.match(text):
        raise Wrong("is not a remote of rclone's", "like b2:bucket/path")
    return text


def backed_up(text: str) -> str:
    """Return a path on a host that a backup may take: of files on its disk, and of no live database."""
    path(text)
    if text == "/":
        raise Wrong("is the whole host", "name what you need below it")
    for never in _NOT_ON_DISK:
        if text == never or text.startswith(never + "/"):
            raise Wrong(f"cannot be backed up: {never} is not on the disk")
    if f"{text}/".startswith(f"{DATABASE}/") or DATABASE.startswith(f"{text}/"):
        rule = f"holds k3s's live database ({DATABASE}), a copy of which proves nothing"
        raise Wrong(rule, "every backup has it in another way; name what you need beside it")
    return text


def hosted_zone(text: str) -> str:
    """Return the id of a hosted zone of Route53's."""
    if text.startswith("/hostedzone/"):
        raise Wrong("is a path", f"write {text.removeprefix('/hostedzone/')}")
    if not _HOSTED_ZONE.match(text):
        remedy = "the zone's name goes to dns.zone" if "." in text else "like Z0123456789ABCDEFGHIJ"
        raise Wrong("is not the id of a hosted zone", remedy)
    return text


def cloud_zone(text: str) -> str:
    """Return the id of a zone of Cloudflare's."""
    if re.fullmatch(r"[A-Za-z0-9_-]{37,}", text):
        raise Wrong("may be a token, which is a secret", "secrets/ENV/dns.yaml is for it", show=False)
    if not _CLOUD_ZONE.match(text):
        remedy = "the zone's name goes to dns.zone" if "." in text else "32 signs of 0-9 and a-f"
        raise Wrong("is not the id of a zone of Cloudflare's", remedy)
    return text


def key_name(text: str) -> str:
    """Return the name of a key in a file of secrets."""
    if "://" in text:
        remedy = "secrets/ENV/alarms.yaml is for it, its key there stands here"
        raise Wrong("is a URL, which is a secret", remedy, show=False)
    if not _KEY_NAME.match(text):
        raise Wrong("is not the name of a key in secrets/ENV/alarms.yaml", "like ops")
    return text


def argument(text: str) -> str:
    """Return a program, or an argument of one."""
    if not text or any(ord(char) < 32 or char == "\x7f" for char in text):
        raise Wrong("is empty" if not text else "holds a control character", show=bool(text))
    return text


def script(text: str) -> str:
    """Return a command of the shell's, of a line or more."""
    if not text.strip() or "\0" in text:
        raise Wrong("is empty, not a command" if not text.strip() else "holds a NUL", show=False)
    return text
