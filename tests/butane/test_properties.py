"""Random configs: the good ones translate and are accepted, damaged ones are refused in order."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real_ignition import verdict

import butane

Config = dict[str, Any]

WORDS = st.text("abcxyz019-_", min_size=1, max_size=6)
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\t"), max_size=80)
BOOLS = st.booleans()
MODES = st.integers(0, 0o777)
IDS = st.integers(0, 2**31)
PATHS = st.lists(WORDS, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))


def optional(required: Config, **others: st.SearchStrategy[Any]) -> st.SearchStrategy[Config]:
    return st.fixed_dictionaries(required, optional=others)


def unique(items: st.SearchStrategy[Any], key: str | None = None) -> st.SearchStrategy[list[Any]]:
    return st.lists(items, max_size=4, unique_by=lambda item: item[key] if key else item)


OWNERS: st.SearchStrategy[Config] = st.one_of(
    st.fixed_dictionaries({"id": IDS}), st.fixed_dictionaries({"name": WORDS}), st.just({})
)
HASHES = st.sampled_from([{"hash": "sha256-" + "0" * 64}, {"hash": "sha512-" + "f" * 128}])
HEADERS = unique(optional({"name": WORDS}, value=st.text("abc", min_size=1)), "name")
CONTENTS = st.one_of(
    optional({"inline": TEXT}, compression=st.sampled_from(["", "gzip"]), verification=HASHES),
    optional({"inline": TEXT.map(lambda text: text * 40)}),
    optional({"source": PATHS.map(lambda path: "https://example.com" + path)}, http_headers=HEADERS),
)
FILES = optional(
    {"path": PATHS, "contents": CONTENTS},
    mode=MODES,
    overwrite=BOOLS,
    user=OWNERS,
    group=OWNERS,
    append=st.lists(CONTENTS, max_size=2),
)
DIRECTORIES = optional({"path": PATHS}, mode=MODES, overwrite=BOOLS, user=OWNERS, group=OWNERS)
LINKS = optional({"path": PATHS, "target": PATHS}, hard=BOOLS, overwrite=BOOLS, user=OWNERS, group=OWNERS)
UNIT_TEXT = st.lists(
    st.sampled_from(["[Unit]\nA=b", "# c", "[Install]\nWantedBy=x", "[Service]\nE=a \\\n b", ""]),
    max_size=4,
).map("\n".join)
DROPINS = unique(optional({"name": WORDS.map(lambda w: w + ".conf")}, contents=UNIT_TEXT), "name")
UNITS = optional(
    {"name": st.tuples(WORDS, st.sampled_from([".service", "@.service", ".mount"])).map("".join)},
    enabled=BOOLS,
    mask=BOOLS,
    contents=UNIT_TEXT,
    dropins=DROPINS,
)
USERS = optional(
    {"name": WORDS},
    ssh_authorized_keys=unique(TEXT),
    groups=unique(WORDS),
    uid=IDS,
    gecos=TEXT,
    home_dir=PATHS,
    shell=PATHS,
    password_hash=WORDS,
    primary_group=WORDS,
    system=BOOLS,
    no_create_home=BOOLS,
    no_user_group=BOOLS,
    should_exist=BOOLS,
)
GROUPS = optional({"name": WORDS}, gid=IDS, system=BOOLS, password_hash=WORDS)


def flow(config: Config) -> str:
    """Return a config as JSON that is YAML too, which knows no surrogate pairs."""
    text = json.dumps(config, ensure_ascii=False)
    return re.sub(r"[^\x00-\x7e]", lambda match: f"\\U{ord(match[0]):08x}", text)


def apart(storage: Config) -> Config:
    """Drop the nodes that are in the way of an earlier one."""
    links = [node["path"] for node in storage.get("links", ())]
    seen: set[str] = set()
    for name in ("links", "directories", "files"):
        kept = []
        for node in storage.get(name, ()):
            if node["path"] in seen or any(node["path"].startswith(p + "/") for p in links):
                continue
            seen.add(node["path"])
            kept.append(node)
        storage[name] = kept
    directories = {node["path"] for node in storage["directories"]}
    for link in storage["links"]:
        if link["target"] in directories:
            link["hard"] = False
    return storage


CONFIGS = optional(
    {"variant": st.just("flatcar"), "version": st.sampled_from(["1.0.0", "1.1.0"])},
    passwd=optional({}, users=unique(USERS, "name"), groups=unique(GROUPS, "name")),
    storage=optional(
        {},
        files=unique(FILES, "path"),
        directories=unique(DIRECTORIES, "path"),
        links=unique(LINKS, "path"),
    ).map(apart),
    systemd=optional({}, units=unique(UNITS, "name")),
    kernel_arguments=unique(WORDS).map(lambda words: {"should_exist": words[:2], "should_not_exist": words[2:]}),
)


@given(CONFIGS)
@settings(max_examples=60, deadline=None)
def test_a_valid_config_translates_and_its_json_is_its_data(config: Config) -> None:
    for text in (yaml.safe_dump(config, allow_unicode=True), flow(config)):
        translation = butane.translate(text)
        assert json.loads(translation.json) == translation.config
        assert butane.to_json(translation.config) == translation.json
        assert butane.merge(translation.config, translation.config) == doubled(translation.config)


def doubled(config: Config) -> Config:
    """Return a config merged with itself: all the same, but what is appended is appended twice."""
    again: Config = json.loads(json.dumps(config))
    for file in again.get("storage", {}).get("files", ()):
        if "append" in file:
            file["append"] *= 2
        headers = file.get("contents", {}).get("httpHeaders", [])
        kept = [header for header in headers if "value" in header]
        if kept:
            file["contents"]["httpHeaders"] = kept
        elif headers:
            del file["contents"]["httpHeaders"]
    return again


@given(CONFIGS, CONFIGS)
@settings(max_examples=30, deadline=None)
def test_the_real_ignition_accepts_what_we_make_and_merge(ignition_validate: str, one: Config, other: Config) -> None:
    parent, child = (butane.translate(flow(config)) for config in (one, other))
    assert verdict(ignition_validate, parent.json) == ""
    merged = butane.merge(parent.config, child.config)
    ours = [entry for entry in butane.check(merged) if entry.kind == "error"]
    theirs = verdict(ignition_validate, butane.to_json(merged))
    assert bool(theirs) == bool(ours), theirs


DAMAGE = st.lists(
    st.sampled_from(
        [
            "",
            "\n",
            "  ",
            "\t",
            ":",
            "- ",
            "[",
            "}",
            '"',
            "'",
            "|",
            "&a ",
            "*a",
            "!!int ",
            "0",
            "null",
            "\x00",
            "é",
            "#",
            "path",
            "<<: ",
        ]
    ),
    min_size=1,
    max_size=4,
)


@given(CONFIGS, DAMAGE, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damage_is_harmless_or_refused_with_a_place(config: Config, damage: list[str], chance: random.Random) -> None:
    text = yaml.safe_dump(config, allow_unicode=True)
    for piece in damage:
        start = chance.randint(0, len(text))
        text = text[:start] + piece + text[start + chance.randint(0, 3) :]
    report, made = outcome(text)
    assert all(entry.line and entry.column for entry in report)
    assert (made is None) == any(entry.kind == "error" for entry in report)
    assert not any(entry.kind == "error" for entry in butane.check(made or NOTHING))


NOTHING = {"ignition": {"version": "3.4.0"}}


def outcome(text: str) -> tuple[tuple[butane.Entry, ...], Config | None]:
    """Return the report on a text, and its config where it has one."""
    try:
        translation = butane.translate(text)
    except butane.BadConfig as error:
        return error.report, None
    return translation.report, translation.config
