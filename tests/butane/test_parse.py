"""YAML: types by place, positions, and what is not YAML."""

from __future__ import annotations

from typing import Any

import pytest

import butane
from butane import parse

HEADER = "variant: flatcar\nversion: 1.1.0\n"


@pytest.fixture(params=["libyaml", "python"], autouse=True)
def _each_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "python":
        monkeypatch.setattr(parse, "_composer", parse._PythonComposer)


def user(field: str) -> dict[str, Any]:
    found: dict[str, Any] = butane.translate(f"{HEADER}passwd: {{users: [{{name: a, {field}}}]}}\n").config
    return {k: v for k, v in found["passwd"]["users"][0].items() if k != "name"}


def problems(text: str) -> list[str]:
    with pytest.raises(butane.BadConfig) as caught:
        butane.translate(text)
    return [str(entry) for entry in caught.value.report]


@pytest.mark.parametrize(
    "written",
    ["0644", "0o644", "0x1a4", "0b110100100", "4_20", "420.0", "420", "+420", "4.2e2", "!!int 420"],
)
def test_an_integer_is_written_in_any_of_yaml_s_ways(written: str) -> None:
    assert user(f"uid: {written}") == {"uid": 420}


def test_a_number_that_cannot_be_octal_is_decimal() -> None:
    assert user("uid: 0888") == {"uid": 888}


@pytest.mark.parametrize(
    "written",
    [
        '"0644"',
        "'1'",
        "x",
        "1.5",
        ".inf",
        ".nan",
        "true",
        "[1]",
        "{}",
        "9223372036854775808",
        "0x",
        "!!str 1",
        "!x 1",
    ],
)
def test_anything_else_is_no_integer(written: str) -> None:
    (problem,) = problems(f"{HEADER}passwd: {{users: [{{name: a, uid: {written}}}]}}\n")
    assert "$.passwd.users.0.uid, line 3 col 33: cannot read" in problem
    assert problem.endswith("as an integer")


@pytest.mark.parametrize("written", ["true", "True", "yes", "Yes", "on", "ON", "y", '"yes"'])
def test_true_is_written_in_any_of_yaml_s_ways(written: str) -> None:
    assert user(f"system: {written}") == {"system": True}


@pytest.mark.parametrize("written", ["false", "FALSE", "no", "off", "N"])
def test_false_is_written_in_any_of_yaml_s_ways(written: str) -> None:
    assert user(f"system: {written}") == {"system": False}


@pytest.mark.parametrize("written", ['"true"', "1", "tru", "[]", "0"])
def test_anything_else_is_no_boolean(written: str) -> None:
    (problem,) = problems(f"{HEADER}passwd: {{users: [{{name: a, system: {written}}}]}}\n")
    assert problem.endswith("as a boolean")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("123", "123"),
        ("yes", "yes"),
        ("0x10", "0x10"),
        ("2021-01-01", "2021-01-01"),
        ('""', ""),
        ("!!binary aGk=", "hi"),
    ],
)
def test_a_string_is_what_was_written(written: str, value: str) -> None:
    assert user(f"gecos: {written}") == {"gecos": value}


@pytest.mark.parametrize("written", ["[a]", "{a: b}", "!!binary '*'", "!!binary /w=="])
def test_anything_else_is_no_string(written: str) -> None:
    (problem,) = problems(f"{HEADER}passwd: {{users: [{{name: a, gecos: {written}}}]}}\n")
    assert problem.endswith("as a string")


def test_inline_contents_can_be_bytes() -> None:
    text = f"{HEADER}storage: {{files: [{{path: /a, contents: {{inline: !!binary /wA=}}}}]}}\n"
    (file,) = butane.translate(text).config["storage"]["files"]
    assert file["contents"]["source"] == "data:,%FF%00"


@pytest.mark.parametrize("written", ["", "~", "null", "Null", "NULL"])
def test_null_is_unset(written: str) -> None:
    assert user(f"gecos: {written}") == {}
    assert user(f"uid: {written}") == {}
    assert user(f"groups: {written}") == {}
    assert butane.translate(f"{HEADER}storage: {written}\n").config == butane.translate(HEADER).config


def test_an_entry_that_is_null_is_an_empty_one() -> None:
    assert user("groups: [null, b]") == {"groups": ["", "b"]}
    assert "path not specified" in problems(f"{HEADER}storage: {{files: [null]}}\n")[0]


def test_json_and_crlf_and_a_byte_order_mark_are_taken() -> None:
    expected = butane.translate(HEADER).json
    assert butane.translate('{"variant": "flatcar", "version": "1.1.0"}').json == expected
    assert butane.translate("\ufeff" + HEADER.replace("\n", "\r\n")).json == expected


def test_aliases_stand_for_what_they_name() -> None:
    text = f"{HEADER}passwd: {{users: [{{name: &n a, gecos: *n, groups: &g [b]}}, {{name: c, groups: *g}}]}}\n"
    assert butane.translate(text).config["passwd"]["users"] == [
        {"gecos": "a", "groups": ["b"], "name": "a"},
        {"groups": ["b"], "name": "c"},
    ]


def test_only_the_first_document_is_read() -> None:
    assert butane.translate(f"{HEADER}---\n[not read\n").config == butane.translate(HEADER).config


def test_a_key_given_twice_is_an_error_wherever_it_stands() -> None:
    assert problems(f"{HEADER}passwd: {{}}\npasswd: {{}}\n") == [
        "error at $.passwd, line 4 col 1: mapping key passwd is already defined at line 3"
    ]
    (problem,) = problems(f"{HEADER}passwd: {{users: [{{name: a, uid: 1, uid: 2}}]}}\n")
    assert "mapping key uid is already defined at line 3" in problem


def test_an_unknown_key_is_an_error_at_the_key() -> None:
    assert problems(f"{HEADER}storage:\n  filez: []\n") == [
        "error at $.storage.filez, line 4 col 3: unused key filez (did you mean files?)"
    ]
    assert problems(f"{HEADER}qqq: 1\n") == ["error at $.qqq, line 3 col 1: unused key qqq"]
    assert problems(f"{HEADER}[a]: 1\n") == ["error at $, line 3 col 1: a key must be a scalar"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: [hunter2", "line "),
        ("a:\n\t- hunter2", "line 2"),
        ("a: hunter2: hunter2", "line 1 col 11"),
        ("a: *hunter2", "line 1 col 4"),
        ("a: 'hunter2", "line 1"),
        ('a: "hunter2\\q"', "line 1 col 1"),
        ("é: é\nb: é\x01", "line 2 col 5"),
        ("é: \ud800", "line 1 col 4"),
        ("%hunter2 hunter2\n%YAML hunter2\n", "line "),
        ("a: !hunter2!hunter2 b", "line 1 col 4"),
    ],
)
def test_what_is_not_yaml_is_one_error_with_its_place_and_no_excerpt(text: str, place: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith(f"error at $, {place}")
    assert ": not valid YAML: " in problem
    assert "hunter2" not in problem


def test_the_original_error_is_not_behind_ours() -> None:
    with pytest.raises(butane.BadConfig) as caught:
        butane.translate("a: [hunter2")
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize("text", ["[" * 3000, "- " * 50000, "{a: " * 3000, "[" * 200 + "]" * 200])
def test_deep_nesting_is_an_error(text: str) -> None:
    assert len(problems(text)) == 1


@pytest.mark.parametrize("text", ["[]", "x", "- variant: flatcar"])
def test_a_config_is_a_mapping(text: str) -> None:
    assert any("as a mapping" in problem for problem in problems(text))


def test_a_config_that_holds_itself_ends() -> None:
    assert "unused key variant" in problems(f"&a\n{HEADER}storage: *a\n")[0]
