"""Random Butane configs that are valid, in every dialect, with the files that they take their contents from.

What a version has is said here once more, by the minor version of Ignition that it becomes (`since`), so that a
test can tell that nothing of a config was passed over.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial, reduce
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from butane.schema import DIALECTS, Dialect
from sweeps import FULL

Config = dict[str, Any]
Values = st.SearchStrategy[Config]
Draw = Callable[[st.SearchStrategy[Any]], Any]

WORDS = st.text("abcxyz019-_", min_size=1, max_size=6)
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\t"), max_size=80)
LONG = TEXT.map(lambda text: text * 40)
BOOLS = st.booleans()
MODES = st.integers(0, 0o777)
IDS = st.integers(0, 2**31)
PATHS = st.lists(WORDS, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
DEVICES = PATHS.map(lambda path: "/dev" + path)
# What the boot device is made of, and a user's own disks, arrays and file systems may then be merged with
MIRRORS = st.sampled_from(["/dev/mirror/a", "/dev/mirror/b", "/dev/mirror/c"])
ARRAYS = st.sampled_from(["/dev/md/md-boot", "/dev/md/md-root"])
HTTP = PATHS.map(lambda path: "https://example.com" + path)
HASHES = st.sampled_from([{"hash": "sha256-" + "0" * 64}, {"hash": "sha512-" + "f" * 128}])
GUIDS = st.uuids().map(str)
UNIT_TEXT = st.lists(
    st.sampled_from(["[Unit]\nA=b", "# c", "[Install]\nWantedBy=x", "[Service]\nE=a \\\n b", ""]), max_size=4
).map("\n".join)
DATA_URLS = st.sampled_from(["data:,", "data:,a%20b", "data:text/plain;charset=utf-8,x", "data:;base64,aGVsbG8="])


def optional(required: Config, **others: st.SearchStrategy[Any]) -> Values:
    """Given what a mapping has and what it may have, return the mappings; a bare value is always the same."""
    fixed = {name: v if isinstance(v, st.SearchStrategy) else st.just(v) for name, v in required.items()}
    return st.fixed_dictionaries(fixed, optional=others)


def unique(items: st.SearchStrategy[Any], *keys: str, most: int = 3) -> st.SearchStrategy[list[Any]]:
    """Given entries and the names of their keys, return lists of entries that differ in each key that they have."""
    by = tuple(partial(_value, key) for key in keys)
    return st.lists(items, min_size=1, max_size=most, unique_by=by or str)


def _value(key: str, item: Config) -> str:
    return str(item.get(key, item))


def either(*choices: st.SearchStrategy[Any] | None) -> st.SearchStrategy[Any]:
    """Given strategies, of which some are None because a version does not have them, return their values."""
    return st.one_of(*(choice for choice in choices if choice is not None))


def examples(number: int, shrink: bool = True, full: int = 0) -> settings:
    """Given a number, return how a test runs on so many examples, always the same.

    A full sweep takes many others: `full`, or ten times as many.

    Without `shrink` one that fails is told as it is: with a process for each attempt a smaller one takes minutes.
    """
    phases = [Phase.explicit, Phase.reuse, Phase.generate, *([Phase.shrink] if shrink else [])]
    return settings(
        max_examples=(full or number * 10) if FULL else number,
        derandomize=not FULL,
        deadline=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),  # a config of a dozen sections is large, and slow to draw
    )


# --- the files directory

TREE = "tree"
FILES: st.SearchStrategy[dict[str, bytes]] = st.fixed_dictionaries(
    {
        "text": TEXT.map(str.encode),
        "unit": UNIT_TEXT.map(str.encode),
        "keys": unique(WORDS.map("ssh-ed25519 {}".format)).map("\n".join).map(str.encode),
        f"{TREE}/TEXT": st.one_of(TEXT, LONG).map(str.encode),
    },
    optional={
        f"{TREE}/BYTES": st.binary(max_size=200),
        f"{TREE}/FOLDER/RUN": st.just(b"#!/bin/sh\n"),
        f"{TREE}/FOLDER/EMPTY": st.just(b""),
    },
)


@dataclass(frozen=True)
class Sample:
    """A Butane config, and the files directory that it belongs to."""

    config: Config
    files: dict[str, bytes]

    @contextlib.contextmanager
    def laid_out(self) -> Iterator[Path]:
        """Yield the files directory."""
        with tempfile.TemporaryDirectory() as name:
            for path, content in self.files.items():
                place = Path(name, path)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
                place.chmod(0o755 if content.startswith(b"#!") else 0o644)
            Path(name, TREE, "LINK").symlink_to("TEXT")
            yield Path(name)


def flow(config: Config) -> str:
    """Return a config as JSON that is YAML too, which knows no surrogate pairs."""
    text = json.dumps(config, ensure_ascii=False)
    return re.sub(r"[^\x00-\x7e]", lambda match: f"\\U{ord(match[0]):08x}", text)


# --- the sections


@dataclass(frozen=True)
class _Sections:
    """The sections of a config in one dialect."""

    dialect: Dialect
    bare: bool
    """With nothing that cannot be applied to an empty root: no disks, no network, no unknown names."""

    def since(self, minor: int, **fields: st.SearchStrategy[Any]) -> dict[str, st.SearchStrategy[Any]]:
        """Given fields and the version of Ignition that has them first, return them where they are there."""
        return fields if self.dialect.minor >= minor else {}

    def config(self) -> Values:
        """Return whole configs."""
        of_fcos = {} if self.bare or self.dialect.variant != "fcos" else self.boot()
        return optional(
            {"variant": self.dialect.variant, "version": self.dialect.version, "storage": self.storage()},
            ignition=self.ignition(),
            passwd=optional({}, users=self.users(), groups=self.groups()),
            systemd=optional({}, units=unique(self.unit(), "name")),
            **self.since(3, kernel_arguments=unique(WORDS, most=4).map(_arguments)),
            **of_fcos,
        )

    # resources

    def contents(self) -> Values:
        """Return resources that files, keys and units of old versions may have."""
        hashes = {} if self.bare else {"verification": HASHES if self.dialect.minor else HASHES.filter(_is_sha512)}
        compression = {} if self.bare else {"compression": st.sampled_from(["", "gzip"])}
        return either(
            optional({"inline": TEXT}, **hashes, **compression),
            optional({"inline": LONG}),
            optional({"source": DATA_URLS}),
            optional({"local": st.sampled_from(["text", "unit", f"{TREE}/TEXT"])}) if self.dialect.minor else None,
            None if self.bare else self.remote(),
        )

    def remote(self) -> Values:
        """Return resources that come over the network."""
        header = optional({"name": WORDS}, value=st.text("abc", min_size=1))
        since = {"tftp://a/b": 0, "s3://bucket/key?versionId=x": 0, "gs://bucket/key": 2, "arn:aws:s3:::bucket/key": 4}
        sources = [source for source, minor in since.items() if self.dialect.minor >= minor]
        return either(
            optional({"source": HTTP}, **self.since(1, http_headers=unique(header, "name"))),
            optional({"source": st.sampled_from(sources)}),
        )

    def reference(self, inline: st.SearchStrategy[str]) -> Values:
        """Return resources of the ignition section, whose contents in the config are `inline`."""
        if not self.dialect.minor:
            return optional({"source": HTTP}, verification=HASHES.filter(_is_sha512))
        return either(optional({"inline": inline}), None if self.bare else self.remote())

    def ignition(self) -> Values:
        """Return ignition sections."""
        seconds = st.integers(0, 2**16)
        timeouts = optional({}, http_response_headers=seconds, http_total=seconds)
        proxy = optional({}, http_proxy=HTTP, https_proxy=HTTP, no_proxy=unique(WORDS))
        config, security = self.merged(), {}
        if not self.bare:
            authorities = unique(self.reference(st.just("no certificate")), "source", "inline", most=1)
            security = {"security": optional({}, tls=optional({}, certificate_authorities=authorities))}
        return optional({}, timeouts=timeouts, **self.since(1, proxy=proxy), **config, **security)

    def merged(self) -> dict[str, st.SearchStrategy[Any]]:
        """Return the field of the configs that a config merges and is replaced by."""
        # Debian's Ignition knows the versions after 3.3.0 by no name that we could write
        minor = min(self.dialect.minor, 3) if self.bare else self.dialect.minor
        inner = TEXT.map(lambda text: _ignition_config(f"3.{minor}.0", text))
        if self.bare:
            return self.since(1, config=optional({}, merge=unique(self.reference(inner), "inline", most=2)))
        reference = self.reference(inner)
        return {"config": optional({}, merge=unique(reference, "source", "inline", most=1), replace=reference)}

    # users and units

    def users(self) -> st.SearchStrategy[list[Config]]:
        """Return users; in bare ones all that useradd asks for is there."""
        more = {
            "ssh_authorized_keys": unique(TEXT),
            "shell": PATHS,
            "password_hash": WORDS,
            "system": BOOLS,
            "no_log_init": BOOLS,
            **self.since(2, should_exist=BOOLS),
        }
        if self.bare:
            texts, homes = st.text("ab c", max_size=5), WORDS.map("/home/h{}".format)
            groups = st.sampled_from(["wheel", "docker", "sudo"])
            of_groups = {"groups": unique(groups), "primary_group": groups}
            user = self.account("u", st.integers(2000, 60000), "uid", gecos=texts, home_dir=homes, **of_groups, **more)
            return unique(user, "name", "uid", "home_dir")
        more |= {"no_create_home": BOOLS, "no_user_group": BOOLS, "groups": unique(WORDS), "primary_group": WORDS}
        more |= self.since(4, ssh_authorized_keys_local=st.just(["keys"]))
        return unique(self.account("", IDS, "uid", gecos=TEXT, home_dir=PATHS, **more), "name")

    def groups(self) -> st.SearchStrategy[list[Config]]:
        """Return groups; in bare ones none of them is a user's own."""
        more = {"system": BOOLS, "password_hash": WORDS, **self.since(2, should_exist=BOOLS)}
        if self.bare:
            return unique(self.account("g", st.integers(60001, 65000), "gid", **more), "name", "gid")
        return unique(self.account("", IDS, "gid", **more), "name")

    def account(self, head: str, ids: st.SearchStrategy[int], key: str, **others: st.SearchStrategy[Any]) -> Values:
        """Return users or groups; a bare one says its id, since else it gets one that another may ask for."""
        name = WORDS.map(f"{head}{{}}".format)
        if self.bare:
            return optional({"name": name, key: ids}, **others)
        return optional({"name": name}, **{key: ids}, **others)

    def unit(self) -> Values:
        """Return units; of bare ones none that Ignition asks systemd about: no instances, and no odd names."""
        names = WORDS.map("u{}".format) if self.bare else WORDS
        kinds = [".service", ".mount", *([] if self.bare else ["@.service", "@a.service"])]
        dropin = self.with_contents({"name": WORDS.map("{}.conf".format)})
        return self.with_contents(
            {"name": st.tuples(names, st.sampled_from(kinds)).map("".join)},
            enabled=BOOLS,
            mask=BOOLS,
            dropins=unique(dropin, "name"),
        )

    def with_contents(self, required: Config, **others: st.SearchStrategy[Any]) -> Values:
        """Return mappings whose contents may be in a file, where the version knows that."""
        return either(
            optional(required, contents=UNIT_TEXT, **others),
            optional({**required, "contents_local": "unit"}, **others) if self.dialect.minor >= 4 else None,
        )

    # nodes of the file system

    def owners(self) -> dict[str, st.SearchStrategy[Any]]:
        """Return the fields of an owner."""
        names = st.sampled_from(["core", "root"]) if self.bare else WORDS
        owner = either(optional({"id": IDS}), optional({"name": names}), optional({}))
        return {"user": owner, "group": owner}

    def storage(self) -> Values:
        """Return storage sections."""
        node = {"overwrite": BOOLS, **self.owners()}
        file = optional(
            {"path": PATHS, "contents": self.contents()},
            mode=MODES,
            append=st.lists(self.contents(), max_size=2),
            **node,
        )
        link = optional({"path": PATHS, "target": PATHS}, hard=BOOLS, **node)
        nodes = {
            "files": unique(either(file, optional({"path": PATHS}, mode=MODES, **self.owners())), "path"),
            "directories": unique(optional({"path": PATHS}, mode=MODES, **node), "path"),
            "links": unique(link, "path"),
            **self.since(1, trees=self.trees()),
        }
        if self.bare:
            return optional({}, **nodes).map(_apart)
        return optional({}, **nodes, **self.devices()).map(_clear_of_links)

    def trees(self) -> st.SearchStrategy[list[Config]]:
        """Return trees, whole folders of the files directory, of which no two write to one place."""
        owned = self.since(6, file_mode=MODES, dir_mode=MODES, **self.owners())
        places = st.sampled_from(["/T", "/U/V"] if self.bare else ["/T", "/U/V", "/"])
        trees = unique(optional({"local": TREE, "path": places}, **owned), "path")
        return either(
            trees, None if self.bare else st.lists(optional({"local": TREE}, **owned), min_size=1, max_size=1)
        )

    # disks, and what is on them

    def devices(self) -> dict[str, st.SearchStrategy[Any]]:
        """Return the fields of a storage section that are about devices."""
        resize = self.since(2, resize=BOOLS)
        disk = optional({"device": DEVICES}, wipe_table=BOOLS, partitions=_partitions(resize, BOOLS))
        mirror = optional({"device": MIRRORS}, partitions=_partitions(resize, st.just(False)))
        return {
            "disks": unique(either(disk, mirror), "device", most=2),
            "raid": unique(_raid(), "name", most=2),
            "filesystems": unique(self.filesystem(), "device", "path", most=2),
            **self.since(2, luks=unique(self.luks(), "name", most=2)),
        }

    def filesystem(self) -> Values:
        """Return file systems, some with mount units."""
        more = {
            "label": WORDS,
            "uuid": GUIDS,
            "wipe_filesystem": BOOLS,
            "options": st.lists(WORDS, max_size=2),
            **self.since(1, mount_options=st.lists(WORDS, max_size=2)),
        }
        formats = ["ext4", "btrfs", "xfs", "vfat", "swap", *(["none"] if self.dialect.minor >= 3 else [])]
        swap = {"device": DEVICES, "format": "swap", "with_mount_unit": True}
        # what mounts by words alone cannot be the name of a unit of the user's, and later versions ask for it
        mounted = {"format": st.sampled_from(formats[:4]), "path": PATHS.map("/var{}".format), "with_mount_unit": True}
        opened = st.sampled_from(["/dev/mapper/a", "/dev/disk/by-id/dm-name-a"])
        return either(
            optional({"device": DEVICES}),
            optional({"device": either(DEVICES, ARRAYS), "format": st.sampled_from(formats)}, path=PATHS, **more),
            optional({"device": st.one_of(DEVICES, opened), **mounted}, **more) if self.dialect.minor else None,
            optional(swap, **more) if self.dialect.minor >= 3 else None,
        )

    def luks(self) -> Values:
        """Return LUKS devices, with every way to open them."""
        more = {
            "label": WORDS,
            "uuid": GUIDS,
            "options": st.lists(WORDS, max_size=2),
            "wipe_volume": BOOLS,
            **self.since(4, discard=BOOLS, open_options=unique(WORDS)),
        }
        device = {"name": st.one_of(WORDS, st.just("a")), "device": DEVICES}
        if self.dialect.variant != "fcos":
            return optional(device, key_file=self.contents(), **more)
        pin = optional({"pin": st.sampled_from(["tpm2", "tang", "sss"]), "config": WORDS}, needs_network=BOOLS)
        methods = either(self.opening(), st.fixed_dictionaries({"custom": pin}))
        return either(
            optional(device, key_file=self.contents(), clevis=methods, **more),
            optional({**device, "cex": optional({"enabled": True})}, **more) if self.dialect.minor >= 5 else None,
        )

    def opening(self, **more: st.SearchStrategy[Any]) -> Values:
        """Return ways to open a LUKS device that the device of the boot disk can have too."""
        tang = optional(
            {"url": HTTP, "thumbprint": WORDS},
            **self.since(4, advertisement=st.sampled_from(['{"payload": "x"}', "{}"])),
        )
        return optional({}, tang=unique(tang, "url", most=2), threshold=st.integers(1, 3), tpm2=BOOLS, **more)

    def boot(self) -> dict[str, st.SearchStrategy[Any]]:
        """Return the sections that Fedora CoreOS alone has."""
        fields: dict[str, st.SearchStrategy[Any]] = {}
        if self.dialect.fcos >= 3:
            fields["boot_device"] = self.boot_device()
        if self.dialect.fcos >= 5:
            user = optional({"name": WORDS, "password_hash": WORDS})
            fields["grub"] = optional({}, users=unique(user, "name"))
        return fields

    def boot_device(self) -> Values:
        """Return boot devices: mirrored, encrypted, both."""
        layouts = st.sampled_from(["aarch64", "ppc64le", "x86_64"])
        luks = self.opening(**({"discard": BOOLS} if self.dialect.fcos >= 5 else {}))
        mirror = optional({"devices": st.lists(MIRRORS, min_size=2, max_size=3, unique=True)})
        mainframe: Values | None = None
        if self.dialect.fcos >= 6:
            opened = optional({"cex": optional({"enabled": True})}, discard=BOOLS)
            mainframe = either(
                optional({"layout": "s390x-virt"}, luks=either(opened, luks)),
                *(
                    optional({"layout": layout, "luks": _with(opened, device=device)})
                    for layout, device in (("s390x-eckd", "/dev/dasda"), ("s390x-zfcp", "/dev/sda"))
                ),
            )
        return either(optional({"layout": layouts}, luks=luks, mirror=mirror), optional({}, luks=luks), mainframe)


def _with(values: Values, **fields: Any) -> Values:
    return values.map(lambda config: {**config, **fields})


def _arguments(words: list[str]) -> Config:
    return {"should_exist": words[:2], "should_not_exist": words[2:]}


def _is_sha512(verification: Config) -> bool:
    return str(verification["hash"]).startswith("sha512")


def _ignition_config(version: str, text: str) -> str:
    digits = text.encode().hex()
    files = [{"path": f"/M/{len(digits)}", "contents": {"source": f"data:,{digits}"}}, {"path": "/M/last", "mode": 384}]
    return json.dumps({"ignition": {"version": version}, "storage": {"files": files}})


def _raid() -> Values:
    disks = st.lists(DEVICES, min_size=1, max_size=3, unique=True)
    options = st.lists(WORDS, max_size=2)
    striped = st.sampled_from(["linear", "raid0", "0", "stripe"])
    others = st.sampled_from(["raid1", "1", "mirror", "raid4", "raid5", "raid6", "raid10", "10"])
    return either(
        optional({"name": WORDS, "level": striped, "devices": disks}, options=options),
        optional({"name": WORDS, "level": others, "devices": disks}, options=options, spares=st.integers(0, 2)),
        optional({"name": st.sampled_from(["md-boot", "md-root"]), "level": others, "devices": disks}),
    )


@st.composite
def _partitions(draw: Draw, more: dict[str, st.SearchStrategy[Any]], numbered: st.SearchStrategy[bool]) -> list[Config]:
    """Draw the partitions of a disk: numbers and labels that differ, and places that do not overlap."""
    flags = {"wipe_partition_entry": BOOLS, "should_exist": st.just(True)}
    labels = either(WORDS, st.sampled_from(["boot-", "root-"]))
    with_numbers = draw(numbered)
    found: list[Config] = []
    start = 1
    for i in range(1, draw(st.integers(1, 3)) + 1):
        if with_numbers and draw(st.integers(0, 3)) == 0:
            found.append(draw(optional({"number": i, "should_exist": False}, wipe_partition_entry=BOOLS)))
            continue
        name = {"number": i} if with_numbers else {"label": f"{draw(labels)}{i}"}
        partition = draw(optional(name, guid=GUIDS, type_guid=GUIDS, **flags, **more))
        if draw(BOOLS):
            partition |= {"start_mib": start, "size_mib": draw(st.integers(0, 2**14))}
            start += partition["size_mib"] + 1
        found.append(partition)
    return found


# --- keeping nodes apart


def _clear_of_links(storage: Config) -> Config:
    """Drop the nodes that an earlier one is in the way of, for Ignition's validation."""
    links = [node["path"] for node in storage.get("links", ())]
    seen: set[str] = set()
    for name in ("links", "directories", "files"):
        kept = []
        for node in storage.get(name, ()):
            if node["path"] not in seen and not any(node["path"].startswith(f"{path}/") for path in links):
                seen.add(node["path"])
                kept.append(node)
        if name in storage:
            storage[name] = kept
    directories = {node["path"] for node in storage.get("directories", ())}
    for link in storage.get("links", ()):
        if link["target"] in directories:
            link["hard"] = False
    for file in storage.get("files", ()):
        if not file.get("contents"):
            file.pop("overwrite", None)
    return storage


def _apart(storage: Config) -> Config:
    """Drop the nodes that an earlier one is in the way of, for a root that they are written to."""
    storage = _clear_of_links(storage)
    files = {node["path"] for node in storage.get("files", ())}
    for name in ("files", "directories", "links"):
        if name in storage:
            storage[name] = [n for n in storage[name] if not any(n["path"].startswith(f"{path}/") for path in files)]
    for link in storage.get("links", ()):
        link["hard"] = bool(link.get("hard")) and link["target"] in files
    return storage


# --- whole samples


@lru_cache
def _samples(dialect: Dialect, bare: bool) -> st.SearchStrategy[Sample]:
    return st.builds(Sample, _Sections(dialect, bare).config(), FILES)


SAMPLES = st.one_of(*(_samples(dialect, bare=False) for dialect in DIALECTS.values()))
"""Configs of all dialects, with everything in them."""
BARE = st.one_of(*(_samples(dialect, bare=True) for dialect in DIALECTS.values()))
"""Configs of all dialects that can be applied to an empty root, which has a user core and its groups."""


# --- damage


@dataclass(frozen=True)
class Damaged:
    """Texts that were a valid config once, and the config."""

    texts: list[str] = field(repr=False)  # hypothesis refuses to tell so much
    sample: Sample


_SHREDS = ["", "\n", "  ", "\t", ":", "- ", "[", "}", '"', "'", "|", "&a ", "*a", "!!int ", "0", "null", "\x00", "é"]
_SHREDS += ["#", "path", "<<: ", "? ", "---\n", "!!binary ", "%"]
_TEXTS = [
    *["x", "/", "../x", "a//b", "yes", "0644", "data:,%", "https://[", "[Unit", "sha512-0", "local", "tree"],
    "",
    "é" * 40,
    "\x00",
    "[Unit]\nx",
]
_VALUES: list[Any] = [None, True, -1, 0, 2**63, 1.5, [], {}, [None], [[]], {"a": None}, *_TEXTS]

# Drawing a config takes longer than judging it, so each is damaged in many ways.
_PLACE = st.integers(0, 10**4)


@st.composite
def _in_its_text(draw: Draw) -> Damaged:
    sample = draw(SAMPLES)
    text = yaml.safe_dump(sample.config, allow_unicode=True)
    tear = st.tuples(st.sampled_from(_SHREDS), _PLACE, st.integers(0, 3))
    tears = draw(st.lists(st.lists(tear, min_size=1, max_size=3), min_size=10, max_size=20))
    return Damaged([reduce(_torn, some, text) for some in tears], sample)


def _torn(text: str, tear: tuple[str, int, int]) -> str:
    shred, place, length = tear
    start = place % (len(text) + 1)
    return text[:start] + shred + text[start + length :]


@st.composite
def _in_its_nodes(draw: Draw) -> Damaged:
    """Draw a config with a node gone, doubled, wrapped, of another type, or in another's place."""
    sample = draw(SAMPLES)
    value = st.one_of(st.none(), st.sampled_from(_VALUES).map(lambda value: (value,)))
    harms = draw(st.lists(st.tuples(st.sampled_from(_HARMS), _PLACE, _PLACE, value), min_size=20, max_size=40))
    return Damaged([_harmed(sample.config, *harm) for harm in harms], sample)


def _harmed(config: Config, harm: Harm, place: int, other: int, value: tuple[Any] | None) -> str:
    """Do a harm to one place of a config, with a value or what is at another place; return the config's text."""
    config = copy.deepcopy(config)
    places = list(_places(config))
    holder, key = places[place % len(places)]
    if value is None:
        its_holder, its_key = places[other % len(places)]
        value = (its_holder[its_key],)
    harm(holder, key, value[0])
    return yaml.safe_dump(config, allow_unicode=True)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the mapping or list and the key of all that is in a value, but for the head of a config."""
    for key, part in list(value.items() if isinstance(value, dict) else enumerate(value)):
        if key not in ("variant", "version"):  # there is always `storage`
            yield value, key
        if isinstance(part, dict | list):
            yield from _places(part)


def _remove(holder: Any, key: Any, _value: Any) -> None:
    del holder[key]


def _wrap(holder: Any, key: Any, _value: Any) -> None:
    holder[key] = [holder[key]]


def _name(holder: Any, key: Any, _value: Any) -> None:
    holder[key] = {str(key): holder[key]}


def _write_as_text(holder: Any, key: Any, _value: Any) -> None:
    holder[key] = str(holder[key])


def _double(holder: Any, key: Any, _value: Any) -> None:
    if isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    else:
        holder[f"{key}s"] = copy.deepcopy(holder[key])


def _add(holder: Any, key: Any, value: Any) -> None:
    if isinstance(holder, list):
        holder.insert(key, copy.deepcopy(value))
    else:
        holder[str(value)[:9]] = copy.deepcopy(value)


def _replace(holder: Any, key: Any, value: Any) -> None:
    holder[key] = copy.deepcopy(value)


def _alias(holder: Any, key: Any, value: Any) -> None:
    holder[key] = value  # which may be what this is a part of


Harm = Callable[[Any, Any, Any], None]
_HARMS: list[Harm] = [_remove, _replace, _replace, _wrap, _name, _write_as_text, _double, _add, _alias]
DAMAGED = st.one_of(_in_its_text(), _in_its_nodes())
"""Configs of all dialects, damaged in their text or in their nodes."""
