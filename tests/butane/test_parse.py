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
    assert "$.passwd.users.0.uid, line 3 col 33: cannot unmarshal" in problem
    assert problem.endswith("into int")


@pytest.mark.parametrize("written", ["true", "True", "yes", "Yes", "on", "ON", "y", '"yes"'])
def test_true_is_written_in_any_of_yaml_s_ways(written: str) -> None:
    assert user(f"system: {written}") == {"system": True}


@pytest.mark.parametrize("written", ["false", "FALSE", "no", "off", "N"])
def test_false_is_written_in_any_of_yaml_s_ways(written: str) -> None:
    assert user(f"system: {written}") == {"system": False}


@pytest.mark.parametrize("written", ['"true"', "1", "tru", "[]", "0"])
def test_anything_else_is_no_boolean(written: str) -> None:
    (problem,) = problems(f"{HEADER}passwd: {{users: [{{name: a, system: {written}}}]}}\n")
    assert problem.endswith("into bool")


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


def test_a_fraction_is_cut_off() -> None:
    assert user("uid: 1.9") == {"uid": 1}
    assert user("uid: -1.9") == {"uid": -1}
    assert user("uid: -.inf") == {"uid": -(2**63)}


@pytest.mark.parametrize("written", ["[a]", "{a: b}"])
def test_anything_else_is_no_string(written: str) -> None:
    (problem,) = problems(f"{HEADER}passwd: {{users: [{{name: a, gecos: {written}}}]}}\n")
    assert problem.endswith("into string")


def test_binary_that_is_no_base64_ends_it_all() -> None:
    (problem,) = problems(f"{HEADER}passwd: {{users: [{{name: a, gecos: !!binary '*', uid: x}}]}}\n")
    assert problem == "error at line 3 col 35: !!binary value contains invalid base64 data"


def test_bytes_that_are_no_text_are_printed_as_go_prints_them() -> None:
    text = f"{HEADER}passwd: {{users: [{{name: a, gecos: !!binary /wD/}}]}}\n"
    assert b'"gecos":"\\ufffd\\u0000\\ufffd"' in butane.translate(text).json


def test_inline_contents_can_be_bytes() -> None:
    text = f"{HEADER}storage: {{files: [{{path: /a, contents: {{inline: !!binary /wA=}}}}]}}\n"
    (file,) = butane.translate(text).config["storage"]["files"]
    assert file["contents"]["source"] == "data:,%FF%00"


@pytest.mark.parametrize("written", ["", "~", "null", "Null", "NULL"])
def test_null_is_unset(written: str) -> None:
    assert user(f"gecos: {written}") == {}
    assert user(f"uid: {written}") == {}
    assert user(f"groups: {written}") == {}
    translation = butane.translate(f"{HEADER}storage: {written}\n")
    assert translation.config == butane.translate(HEADER).config
    assert (
        str(translation.report[0]).startswith(
            "warning at $.storage, line 3 col 10: context tree does not match content tree at $.storage."
        )
        or written == ""
    )


def test_an_entry_that_is_null_is_left_out() -> None:
    assert user("groups: [null, b]") == {"groups": ["b"]}
    assert butane.translate(f"{HEADER}storage: {{files: [null]}}\n").config == butane.translate(HEADER).config


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
        'error at $.passwd, line 4 col 1: mapping key "passwd" already defined at line 3'
    ]
    (problem,) = problems(f"{HEADER}passwd: {{users: [{{name: a, uid: 1, uid: 2}}]}}\n")
    assert problem == 'error at $.passwd.users.0.uid, line 3 col 36: mapping key "uid" already defined at line 3'


def warnings(text: str) -> list[str]:
    return [str(entry) for entry in butane.translate(text).report]


def test_an_unknown_key_is_a_warning_at_the_key() -> None:
    assert warnings(f"{HEADER}storage:\n  filez: []\n") == [
        "warning at $.storage.filez, line 4 col 3: unused key filez"
    ]
    assert warnings(f"{HEADER}qqq: 1\n") == ["warning at $.qqq, line 3 col 1: unused key qqq"]
    assert problems(f"{HEADER}[a]: 1\n") == ["error at line 3 col 1: cannot unmarshal !!seq into string"]


def test_a_merge_brings_what_is_not_there_and_is_a_key_that_nothing_takes() -> None:
    text = (
        f"{HEADER}passwd:\n  users:\n    - &u {{name: a, uid: 1, gecos: x}}\n"
        "    - {<<: *u, name: b}\n    - {name: c, <<: [{uid: 2}, *u]}\n    - {<<: {<<: *u, uid: 3}, name: d}\n"
    )
    translation = butane.translate(text)
    assert translation.config["passwd"]["users"] == [
        {"gecos": "x", "name": "a", "uid": 1},
        {"gecos": "x", "name": "b", "uid": 1},
        {"gecos": "x", "name": "c", "uid": 2},
        {"gecos": "x", "name": "d", "uid": 3},
    ]
    assert [str(entry) for entry in translation.report] == [
        "warning at $.passwd.users.1.<<, line 6 col 8: unused key <<",
        "warning at $.passwd.users.2.<<, line 7 col 17: unused key <<",
        "warning at $.passwd.users.3.<<, line 8 col 8: unused key <<",
    ]
    assert problems(f"{HEADER}passwd: {{<<: x}}\n") == [
        "error at line 3 col 14: map merge requires map or sequence of maps as the value"
    ]


def test_an_alias_is_told_by_its_own_place() -> None:
    text = f"{HEADER}x: &s {{filez: 1}}\nstorage: *s\n"
    (unused, lost) = warnings(text)
    assert unused == "warning at $.x, line 3 col 1: unused key x"
    assert lost.startswith("warning at $.storage, line 4 col 10: context tree does not match")


def test_aliases_that_unfold_without_end_are_an_error() -> None:
    bomb = "\n".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10) if i else 'a'}]" for i in range(9))
    lists = ", ".join("{name: a, groups: &g [a, b]}" if i == 0 else f"{{name: a{i}, groups: *g}}" for i in range(50))
    assert len(butane.translate(f"{HEADER}{bomb}\npasswd: {{users: [{lists}]}}\n").config["passwd"]["users"]) == 50


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
    assert problem.startswith(f"error at {place}")
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
    assert any("cannot unmarshal" in problem for problem in problems(text))


def test_a_config_that_holds_itself_ends() -> None:
    for text in (f"&a\n{HEADER}storage: {{files: [*a]}}\n", f"{HEADER}storage: &a {{files: [*a]}}\n"):
        assert problems(text)[-1].endswith("path not specified")
    (problem,) = problems(f"{HEADER}storage: &a {{<<: *a}}\n")
    assert problem == "error at line 3 col 18: anchor value contains itself"


def test_a_key_that_is_null_is_one_that_nothing_takes() -> None:
    assert warnings(f"{HEADER}null: 1\n") == ["warning at $.null, line 3 col 1: unused key null"]


def test_a_key_given_twice_counts_before_the_mapping_s_being_in_the_wrong_place() -> None:
    (problem,) = problems(f"{HEADER}storage:\n  files:\n    path:\n    path:\n")
    assert problem.endswith('mapping key "path" already defined at line 5')


def test_an_anchor_may_be_there_twice() -> None:
    text = f"{HEADER}passwd: {{users: [{{name: &x a, gecos: *x}}, {{name: &x b, gecos: *x}}]}}\n"
    assert [user["gecos"] for user in butane.translate(text).config["passwd"]["users"]] == ["a", "b"]
    assert butane.translate(f"{HEADER}passwd: {{users: [{{name: &x a}}, {{name: &x b}}]}}\n").report == ()


@pytest.mark.parametrize("escape", ["\\ud800", "\\udc80", "\\U00110000", "\\UFFFFFFFF"])
def test_an_escape_for_what_is_no_character_is_an_error(escape: str) -> None:
    for field in ("gecos", "foo"):
        (problem,) = problems(f'{HEADER}passwd: {{users: [{{name: a, {field}: "{escape}"}}]}}\n')
        assert problem.endswith("not valid YAML: found invalid Unicode character escape code")
    assert user("gecos: '\\ud800'") == {"gecos": "\\ud800"}


def unfolding(times: int, before: str = " ") -> str:
    file = f"&file {{path: /a, append: [&part {{source: http://x}}{f',{before}*part' * times}]}}"
    return f"{HEADER}storage: {{files: [{file}{f',{before}*file' * times}]}}\n"


def test_aliases_may_unfold_to_as_much_as_in_the_original() -> None:
    assert not any("aliasing" in problem for problem in problems(unfolding(54)))
    (problem,) = problems(unfolding(55))
    assert problem.endswith("document contains excessive aliasing")
    assert problems(unfolding(2000))[0].endswith("document contains excessive aliasing")


@pytest.mark.parametrize("line_end", ["\n", "\x85", "\u2028"])
def test_an_alias_is_seen_behind_any_end_of_a_line(line_end: str) -> None:
    (problem,) = problems(unfolding(55, line_end + " "))
    assert problem.endswith("document contains excessive aliasing")
