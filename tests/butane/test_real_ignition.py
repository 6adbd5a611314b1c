"""The real Ignition on all that we make: it takes every config, and makes of it the root that the config says.

Debian's Ignition is older than our newest versions of Butane, so a config of a later spec is judged by the rules of
3.4.0 as they were before its release. What is not judged for that is listed here (`YOUNGER`), and so is every config
that is refused or cannot be applied; a test fails where a list has too little, and where it has too much.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce
from pathlib import Path
from typing import Any

import pytest
import test_conformance
from hypothesis import given
from strategies import BARE, DAMAGED, SAMPLES, Config, Damaged, Sample, examples, flow
from test_cases import DIALECTS, RUNS, laid_out

import butane
import ignition
from applied import differences
from conftest import need

pytestmark = pytest.mark.ignition

# The keys that Debian's Ignition does not know (the first three came with the release of 3.4.0, the last with 3.5.0):
# what is beneath them is not judged, so a config that has one does not count as judged.
YOUNGER = {"advertisement", "discard", "openOptions", "cex"}
# What it has against a config and the Ignition of its spec has not: a part of its words, and the cases.
REFUSED = {
    "unsupported clevis pin": {"luks: from fcos 1.7.0 on a pin may have any name"},  # 3.6.0 knows no list of pins
}
# What our judgement has against a config and Debian's Ignition does not ask yet.
NOT_ASKED = {
    "cannot use cex with clevis",
    "cannot use key file with cex",
    "path conflicts with systemd unit or dropin",
}
_INSTANCES = (
    "units: an instance of a template with an install section is fine, and so is one that is not enabled or has "
    "no template"
)
# What Butane and ignition-validate take and Ignition cannot apply: a part of its words, and the cases.
NOT_APPLIED = {
    # what the user calls gzip is not looked at before
    "gzip: invalid header": {
        "data-urls: the user's compression is kept, and nothing is compressed again",
        "trees: the compression of an explicit file stays, and its contents are not compressed again",
    },
    "unexpected EOF": {
        "data-urls: what the user calls gzip is not looked at",
        "data-urls: fcos 1.0.0 has the percent form alone, and gives no compression",
        "ignition-section: a config to merge may be compressed by the user",
    },
    "verification failed": {"verification: an inline text may have a hash"},
    # a config to merge is looked at where it is of the same version alone, and from a file it never is
    "source is required": {"ignition-section: a config to merge without a source is null in fcos 1.0.0"},
    "path not absolute": {"ignition-section: an inline config of another version is not looked at, with a warning"},
    # of a config in the config Debian's Ignition does not know 3.4.0 by any name that we could write there
    "unsupported config version": {
        "ignition-section: an inline config of the same version is embedded",
        "ignition-section: unused keys of an inline config are told too",
        "ignition-section: a local config is not looked at",
        "ignition-section: an inline config whose pre-release and build are empty is of the version before them",
    },
    "link target is required": {
        "paths-and-modes: a link without a target has an empty one before Ignition 3.3.0",
        *(f"base_v0_{n}__00{case}" for n, case in ((1, "05"), (2, "13"), (3, "13"))),
    },
    "unable to decode PEM block": {
        f"base_v0_{n}__00{case}" for n, case in ((2, 32), (3, 34), (4, 36), (5, 36), (6, 36), (7, 38))
    },
    # users, groups and owners that there are not, and names and ids that no system has
    "no such user": {f"base_v0_{n}__00{case}" for n, case in ((2, 21), (3, 23), (4, 25), (5, 25), (6, 25), (7, 25))},
    "useradd: group '.*' does not exist": {
        "passwd: a user has all its fields",
        "yaml-typing: a null text in a list of texts is left out",
        "yaml-typing: a tag that says nothing before nothing is null",
        "yaml-typing: texts of a list may be written as numbers",
    },
    "useradd: invalid (user name|comment|home directory|user ID)": {
        "output: angle brackets, ampersands and line separators are escaped",
        "output: quotes, backslashes and control characters are escaped, other characters are not",
        "output: backspace and form feed are escaped",
        "passwd: neither names nor homes nor keys are looked at",
        "yaml-typing: the largest integer of 64 bits is an integer",
        "yaml-typing: a negative integer is an integer",
    },
    "UID 0 is not unique|GID '0' already exists": {
        "output: fields come in the order of Ignition's, sections without anything are left out",
        "passwd: a group has all its fields",
    },
    # what is in the way, or is not there
    "error creating /proc/self/cwd: ": {
        "paths-and-modes: a path is absolute and simplified",
        "trees: an owned tree at the root makes an entry of the root itself",
        "base_v0_7__0033",
    },
    "link /proc/self/cwd/b .*: no such file": {
        "paths-and-modes: the owner of a hard link is ignored, with a warning for each field",
        "pipeline: warnings alone do not stop",
    },
    # before it enables the instance of a template, Ignition asks systemd for its version
    "dial unix /run/systemd/private": {
        "units: an enabled instance of a template without an install section is warned of",
        _INSTANCES,
        "units: only services have templates that are looked at",
    },
}

Made = dict[bytes, str]
"""Configs as they are printed, each with the name of the first case that comes to it."""


def of_cases() -> Iterator[tuple[str, bytes]]:
    """Yield the configs of our own cases, by name."""
    for case, dialect in RUNS:
        with laid_out(case) as files:
            config = printed(case.text(dialect), files)
        if config is not None:
            yield f"{case.topic}: {case.name}", config


def of_conformance(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the configs of Butane's own cases where they are at hand, by name."""
    if not test_conformance.CASES.exists():
        return
    for case in test_conformance.cases():
        files = folder / str(case["id"])
        files.mkdir()
        test_conformance.lay_out(case, files)
        config = printed(case["butane"], files if case["files_dir"] else None)
        if config is not None:
            yield str(case["id"]).rpartition("__")[0], config


def printed(text: str, files: Path | str | None) -> bytes | None:
    """Given a Butane config and its files directory, return what it comes to, None where it is refused."""
    try:
        return butane.translate(text, files).json
    except butane.BadConfig:
        return None


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What all cases come to."""
    found: Made = {}
    for name, config in (*of_cases(), *of_conformance(tmp_path_factory.mktemp("files"))):
        found.setdefault(config, name)
    return found


def listed(table: dict[str, set[str]], made: Made) -> dict[str, str]:
    """Given a table of words and cases, return the words by case, of the cases that are here."""
    return {name: words for words, names in table.items() for name in names & set(made.values())}


# --- ignition-validate


def test_the_real_ignition_takes_every_config_that_the_cases_come_to(made: Made, ignition_validate: str) -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        verdicts = pool.map(partial(ignition.judged, ignition_validate), made)
        judged = dict(zip(made, verdicts, strict=True))
    known = listed(REFUSED, made)
    refused = {made[config]: said for config, (bad, said) in judged.items() if bad}
    assert set(refused) == set(known), refused
    assert [said for name, said in refused.items() if known[name] not in said] == []
    unused = {key for _, said in judged.values() for key in unused_keys(said)}
    assert unused == YOUNGER
    wholly = Counter(spec_of(config) for config, (bad, said) in judged.items() if not bad and not unused_keys(said))
    assert set(wholly) == set(DIALECTS.values())
    assert wholly.total() > len(made) - 50, "too much of what there is is not judged"


def unused_keys(said: str) -> set[str]:
    """Given what ignition-validate says, return the keys that it does not know, and so has not judged."""
    return set(re.findall(r"Unused key (\w+)", said))


def spec_of(config: bytes) -> str:
    """Given a config, return its spec."""
    return str(json.loads(config)["ignition"]["version"])


def younger(config: bytes, refusal: str) -> bool:
    """Given a config and what Debian's Ignition has against it, return whether all of that is older than its spec."""
    errors = [line for line in refusal.splitlines() if line.startswith("error")]
    return spec_of(config) == "3.6.0" and all(any(words in line for words in REFUSED) for line in errors)


@given(SAMPLES, SAMPLES)
@examples(30)
def test_the_real_ignition_takes_random_configs_and_judges_their_merge_as_we_do(
    ignition_validate: str, one: Sample, other: Sample
) -> None:
    parent, child = translated(one), translated(other)
    assert ignition.refusal(ignition_validate, parent.json) == ""
    merged = butane.merge(parent.config, child.config)
    ours = [entry for entry in butane.check(merged) if entry.kind == "error" and entry.message not in NOT_ASKED]
    theirs = ignition.refusal(ignition_validate, butane.to_json(merged))
    assert bool(theirs) == bool(ours), (theirs, ours)


def translated(sample: Sample) -> butane.Translation:
    """Given a sample, return what it comes to."""
    with sample.laid_out() as files:
        return butane.translate(flow(sample.config), files)


@given(DAMAGED)
@examples(100, shrink=False)
def test_damage_never_gives_a_config_that_the_real_ignition_refuses(ignition_validate: str, damaged: Damaged) -> None:
    with damaged.sample.laid_out() as files:
        made = {config: text for text in damaged.texts if (config := printed(text, files))}
    for config, text in made.items():
        refusal = ignition.refusal(ignition_validate, config)
        assert not refusal or younger(config, refusal), (text, refusal)


# --- the engine


def test_a_config_without_disks_and_network_makes_the_root_that_it_says(made: Made) -> None:
    lacking = ignition.missing()
    need(not lacking, lacking)
    offline = [config for config in made if is_offline(json.loads(config))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(zip(offline, pool.map(applied, offline), strict=True))
    known = listed(NOT_APPLIED, made)
    refused = {made[config]: str(result) for config, result in results if isinstance(result, ignition.Refused)}
    assert set(refused) == set(known), {name: refused[name] for name in set(refused) - set(known)}
    assert {name: said for name, said in refused.items() if not re.search(known[name], said)} == {}
    wrong = {made[config]: result for config, result in results if isinstance(result, list) and result}
    assert wrong == {}
    done = sum(isinstance(result, list) for _, result in results)
    assert done > len(made) / 3, "too much of what there is is not applied"


@given(BARE)
@examples(15, shrink=False)
def test_a_random_config_makes_the_root_that_it_says(sample: Sample) -> None:
    lacking = ignition.missing()
    need(not lacking, lacking)
    result = applied(translated(sample).json)
    assert result == []


def is_offline(config: Config) -> bool:
    """Given a config, return whether it needs neither disks nor a network."""
    devices = {"disks", "filesystems", "luks", "raid"} & set(config.get("storage", {}))
    return not devices and all(source.lower().startswith("data:") for source in sources(config))


def sources(value: Any) -> Iterator[str]:
    """Yield the sources that are given anywhere in a config."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        if key == "source" and part:
            yield part
        yield from sources(part)


def applied(config: bytes) -> list[str] | ignition.Refused:
    """Given a config, apply it; return in what the root is not as it says, or that it was refused."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            tree = ignition.apply(config, Path(folder), "flatcar")
        except ignition.Refused as error:
            return error
        return differences(whole(json.loads(config)), tree)


def whole(config: Config) -> Config:
    """Given a config, return it with the configs that it merges."""
    merged = config["ignition"].get("config", {}).get("merge", ())
    return reduce(butane.merge, (json.loads(ignition.content(resource)) for resource in merged), config)
