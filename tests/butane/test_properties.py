"""Random configs: the good ones translate as they are, damaged ones are refused in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from strategies import DAMAGED, SAMPLES, Config, Damaged, Sample, examples, flow

import butane


@given(SAMPLES)
@examples(80)
def test_a_valid_config_translates_whole_and_its_json_is_its_data(sample: Sample) -> None:
    with sample.laid_out() as files:
        made = [butane.translate(yaml.safe_dump(sample.config, allow_unicode=True), files)]
        made.append(butane.translate(flow(sample.config), files))
    for translation in made:
        assert [entry for entry in translation.report if "unused key" in entry.message] == []
        assert json.loads(translation.json) == translation.config == made[0].config
        assert butane.to_json(translation.config) == translation.json


@given(SAMPLES)
@examples(8, full=250)
def test_a_config_merged_with_itself_is_the_same_but_for_what_is_appended(sample: Sample) -> None:
    with sample.laid_out() as files:
        config = butane.translate(flow(sample.config), files).config
    assert butane.merge(config, config) == doubled(config)


def doubled(value: Any) -> Any:
    """Return a part of a config merged with itself."""
    if isinstance(value, list):
        return [doubled(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {name: part * 2 if name in APPENDED else doubled(part) for name, part in value.items()}
    if "httpHeaders" in found:  # one without a value takes the parent's away
        found["httpHeaders"] = [header for header in found["httpHeaders"] if "value" in header]
    return {name: part for name, part in found.items() if part != [] or value[name] == []}


APPENDED = ("append", "mountOptions", "options")


@given(DAMAGED)
@examples(80)
def test_damage_is_harmless_or_refused_with_a_place(damaged: Damaged) -> None:
    with damaged.sample.laid_out() as files:
        for text in damaged.texts:
            report, made = outcome(text, files)
            whole, same = outcome(text, files, thorough=True, hints=True)
            assert all(entry.line and entry.column for entry in (*report, *whole)), text
            assert (made is None) == any(entry.kind == "error" for entry in report), text
            assert same == made, text
            assert not any(entry.kind == "error" for entry in butane.check(made or NOTHING)), text


NOTHING = {"ignition": {"version": "3.4.0"}}


def outcome(text: str, files: Path, **asked: bool) -> tuple[tuple[butane.Entry, ...], Config | None]:
    """Return the report on a text, and its config where it has one."""
    try:
        translation = butane.translate(text, files, **asked)
    except butane.BadConfig as error:
        return error.report, None
    return translation.report, translation.config
