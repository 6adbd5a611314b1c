"""The way back: what comes of an Ignition config is readable, and translates to the same config again."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from casefiles import Case, cases
from comparing import comparable, outcome
from hypothesis import given
from strategies import SAMPLES, Sample, examples, flow
from test_cases import laid_out

import butane
from butane.printing import dump
from butane.schema import DIALECTS

HEADER = "variant: flatcar\nversion: 1.1.0\n"
SCRIPT = "#!/bin/sh\n# a script that is long enough to be worth packing, again and again and again\n" * 9


def back(config: dict[str, Any], variant: str) -> Any:
    """Return what a config comes to by way of Butane."""
    return as_printed(butane.translate(butane.explain(config, variant)).config)


def test_it_reads_as_a_person_would_write_it() -> None:
    config = butane.translate(
        HEADER
        + "storage:\n  files:\n    - path: /opt/x\n      mode: 0755\n"
        + f"      contents: {{inline: {SCRIPT!r}}}\n".replace("'", '"')
        + "    - {path: /etc/motd, mode: 0600, contents: {inline: hello}}\n"
        + 'systemd: {units: [{name: a.service, contents: "[Unit]\\nDescription=é\\n"}]}\n'
    ).config
    assert config["storage"]["files"][0]["contents"]["compression"] == "gzip"
    body = "".join(f"          {line}\n" for line in SCRIPT.splitlines())
    assert butane.explain(config, "flatcar") == (
        "variant: flatcar\n"
        "version: 1.1.0\n"
        "storage:\n"
        "  files:\n"
        "    - path: /opt/x\n"
        "      contents:\n"
        "        inline: |\n"
        f"{body}"
        "      mode: 0755\n"
        "    - path: /etc/motd\n"
        "      contents:\n"
        "        inline: hello\n"
        "      mode: 0600\n"
        "systemd:\n"
        "  units:\n"
        "    - contents: |\n"
        "        [Unit]\n"
        "        Description=é\n"
        "      name: a.service\n"
    )


GOOD = [(case, dialect) for case in cases() for dialect in case.dialects]


@pytest.mark.slow
def test_every_config_of_our_cases_comes_back_as_it_was() -> None:
    seen = 0
    for case, dialect in GOOD:
        with laid_out(case) as files_dir:
            config = outcome(case.text(dialect), files_dir).config
        if config is not None:
            seen += 1
            assert back(config, variant_of(case, dialect)) == as_printed(config), (case.topic, case.name, dialect)
    assert seen > 500


def variant_of(case: Case, dialect: str) -> str:
    return "flatcar" if "flatcar" in (dialect or case.text(dialect)) else "fcos"


def as_printed(config: dict[str, Any]) -> Any:
    """Return a config as it is printed, where bytes that are no text are U+FFFD."""
    return comparable(json.loads(dump(config)))


@given(SAMPLES)
@examples(80)
def test_random_configs_come_back_as_they_were(sample: Sample) -> None:
    with sample.laid_out() as files:
        made = butane.translate(flow(sample.config), files).config
    assert back(made, sample.config["variant"]) == as_printed(made)


def test_bytes_come_back_as_they_were() -> None:
    text = HEADER + "storage: {files: [{path: /a, contents: {inline: !!binary /wD+AA==}}]}\n"
    made = butane.translate(text).config
    assert "!!binary" in butane.explain(made, "flatcar")
    assert back(made, "flatcar") == as_printed(made)


@pytest.mark.parametrize(
    "contents",
    [
        "{source: 'data:text/plain,a%20b'}",
        "{source: 'data:;base64,aGVsbG8='}",
        "{source: 'data:,hello', compression: ''}",
        "{source: 'https://example.com/x', compression: gzip}",
        "{inline: x, compression: gzip}",
        "{compression: ''}",
    ],
)
def test_what_butane_would_encode_in_another_way_is_passed_on(contents: str) -> None:
    made = butane.translate(f"{HEADER}storage: {{files: [{{path: /a, contents: {contents}}}]}}\n").config
    assert back(made, "flatcar") == as_printed(made)


def test_without_exactness_all_contents_are_shown() -> None:
    packed = base64.b64encode(gzip.compress(b"hello\n")).decode()
    files = [
        {"path": "/a", "contents": {"source": "data:text/plain,a%20b"}},
        {"path": "/b", "contents": {"source": f"data:;base64,{packed}", "compression": "gzip"}},
        {"path": "/c", "contents": {"source": "https://example.com/c"}},
    ]
    config = {"ignition": {"version": "3.4.0"}, "storage": {"files": files}}
    text = butane.explain(config, exact=False)
    assert "inline: a b" in text
    assert "inline: |\n          hello\n" in text
    assert "source: https://example.com/c" in text
    assert "source: data:" in butane.explain(config)


def test_a_config_to_merge_that_came_of_a_file_is_not_judged_anew(tmp_path: Path) -> None:
    (tmp_path / "x.ign").write_text('{"ignition": {"version": "3.4.0"}, "storage": {"files": [{"path": "x"}]}}')
    text = "variant: fcos\nversion: 1.5.0\nignition: {config: {merge: [{local: x.ign}]}}\n"
    made = butane.translate(text, tmp_path).config
    assert back(made, "fcos") == as_printed(made)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_version_has_a_way_back(dialect: tuple[str, str]) -> None:
    variant, version = dialect
    made = butane.translate(f"variant: {variant}\nversion: {version}\n").config
    assert back(made, variant) == made


def test_what_is_not_known_is_refused_and_not_dropped() -> None:
    with pytest.raises(ValueError, match=r"\$\.storage\.filez"):
        butane.explain({"ignition": {"version": "3.4.0"}, "storage": {"filez": []}})
    with pytest.raises(ValueError, match=r"flatcar has no version for Ignition 3\.0\.0"):
        butane.explain({"ignition": {"version": "3.0.0"}}, "flatcar")


def test_content_that_unpacks_to_more_than_anybody_reads_stays_packed() -> None:
    packed = base64.b64encode(gzip.compress(bytes(65 * 1024 * 1024), 9)).decode()
    contents = {"compression": "gzip", "source": f"data:;base64,{packed}"}
    file = {"path": "/a", "contents": contents}
    config = {"ignition": {"version": "3.4.0"}, "storage": {"files": [file]}}
    assert butane.translate(butane.explain(config, exact=False)).config == config
