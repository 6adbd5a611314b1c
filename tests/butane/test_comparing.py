"""What counts as the same outcome as the original's, and what does not."""

from __future__ import annotations

import base64
import gzip
from typing import Any

import pytest
from comparing import Outcome, disagreements

from butane import Entry

REFUSED = "Error translating config: source config is invalid"
PATH = Entry("error", "$.a", 3, 1, "path not absolute")
LINE = "error at $.a, line 3 col 1: path not absolute"


def resource(data: bytes, compression: str = "gzip") -> dict[str, Any]:
    return {"source": "data:;base64," + base64.b64encode(data).decode(), "compression": compression}


def test_the_same_config_and_report_agree_in_any_order() -> None:
    warning = Entry("warning", "$.b", 4, 1, "unused key b")
    ours = Outcome({"a": 1, "b": 2}, (warning, PATH))
    assert disagreements(ours, {"b": 2, "a": 1}, [LINE, "warning at $.b, line 4 col 1: unused key b"]) == []


@pytest.mark.parametrize(
    "entry",
    [
        Entry("warning", "$.a", 3, 1, "path not absolute"),
        Entry("error", "$.b", 3, 1, "path not absolute"),
        Entry("error", "$.a", 4, 1, "path not absolute"),
        Entry("error", "$.a", 3, 2, "path not absolute"),
        Entry("error", "$.a", 3, 1, "path is not absolute"),
    ],
)
def test_kind_path_line_column_and_message_count(entry: Entry) -> None:
    assert disagreements(Outcome(None, (entry,)), None, [LINE, REFUSED]) == [
        f"missing: {LINE}",
        f"not expected: {entry}",
    ]


def test_an_entry_too_many_and_one_too_few_count() -> None:
    assert disagreements(Outcome({}, (PATH,)), {}, []) == [f"not expected: {LINE}"]
    assert disagreements(Outcome({}, ()), {}, [LINE]) == [f"missing: {LINE}"]


def test_who_takes_and_who_refuses_counts() -> None:
    assert disagreements(Outcome({}, ()), None, [REFUSED]) == ["ours takes what the original refuses"]
    assert disagreements(Outcome(None, (PATH,)), {}, [LINE]) == ["config: None"]


@pytest.mark.parametrize(
    "message",
    [
        "open files/a: no such file or directory",
        "json: cannot unmarshal number into Go struct field A.b of type string",
    ],
)
def test_the_words_of_go_and_of_the_operating_system_do_not_count_but_their_place_does(message: str) -> None:
    theirs = [f"error at $.a, line 3 col 1: {message}", REFUSED]
    assert disagreements(Outcome(None, (PATH,)), None, theirs) == []
    assert disagreements(Outcome(None, ()), None, theirs) == ["missing: error at $.a, line 3 col 1"]


def test_where_the_original_has_no_report_the_lines_that_it_names_count() -> None:
    theirs = ["Error translating config: yaml: unmarshal errors:", "  line 3: cannot unmarshal !!str `a` into int"]
    assert disagreements(Outcome(None, (PATH,)), None, theirs) == []
    assert disagreements(Outcome(None, ()), None, theirs) == ["no entry at line 3"]
    one = ["Error translating config: Error unmarshaling yaml: yaml: unmarshal errors:", "  line 4: cannot unmarshal"]
    assert disagreements(Outcome(None, (PATH,)), None, one) == ["no entry at line 4"]


def test_where_the_original_s_reader_of_yaml_stopped_does_not_count() -> None:
    stopped = ["Error translating config: Error unmarshaling yaml: yaml: line 4: did not find expected key"]
    assert disagreements(Outcome(None, (PATH,)), None, stopped) == []
    assert disagreements(Outcome({}, ()), None, stopped) == ["ours takes what the original refuses"]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ('found garbage after section name : "x"', "found garbage after section name"),
        ("expected base64, got x", "expected base64"),
    ],
)
def test_what_the_original_quotes_does_not_count(theirs: str, ours: str) -> None:
    entry = Entry("error", "$.a", 3, 1, ours)
    assert disagreements(Outcome(None, (entry,)), None, [f"error at $.a, line 3 col 1: {theirs}", REFUSED]) == []


def test_gzip_counts_by_what_is_in_it() -> None:
    fast, small = (gzip.compress(b"hello" * 100, level) for level in (1, 9))
    assert fast != small
    assert disagreements(Outcome(resource(fast), ()), resource(small), []) == []
    assert disagreements(Outcome(resource(fast), ()), resource(gzip.compress(b"hello")), []) != []
    assert disagreements(Outcome(resource(fast, ""), ()), resource(small, ""), []) != []
    assert disagreements(Outcome(resource(b"no gzip"), ()), resource(b"no gzip"), []) == []
