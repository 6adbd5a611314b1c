"""YAML files: the data without YAML 1.1's traps, and the place of everything."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from i12e import yamlfile
from i12e.errors import UserError
from i12e.yamlfile import Octal, examine, load
from sweeps import sampled

TEXT = b"""\
# a comment
role: server
k3s:
  version: v1
  disable: [a, b]

files:
  - path: /etc/motd
    mode: 0644
  - path: "/etc/a"
empty:
"""


def told(text: bytes | str) -> list[str]:
    """Return what is said of a file, without its name."""
    data = text if isinstance(text, bytes) else text.encode()
    return [str(problem).removeprefix("f.yaml:") for problem in examine(data, "f.yaml").problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("52:54:00:12:34:56", "52:54:00:12:34:56"),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("Off", "Off"),
        ("True", "True"),
        ("true", True),
        ("false", False),
        ("", None),
        ("~", None),
        ("null", None),
        ("0", 0),
        ("-7", -7),
        ("644", 644),
        ("0644", 0o644),
        ("0o644", 0o644),
        ("089", 89.0),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("1e999", "1e999"),
        (".inf", ".inf"),
        ("192.0.2.1", "192.0.2.1"),
        ("v1.2.3", "v1.2.3"),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("!!int 5", 5),
        ("[a, {b: c}]", ["a", {"b": "c"}]),
        ("&a b", "b"),
        ("9" * 400, "9" * 400),
    ],
)
def test_a_scalar_is_what_yaml_1_2_says_but_for_octals_and_bools(text: str, value: Any) -> None:
    found = load(f"key: {text}\n".encode(), "f.yaml").data["key"]
    assert found == value
    assert isinstance(found, type(value))


def test_an_octal_knows_that_it_was_written_so() -> None:
    data = load(b"a: 0644\nb: 420\n", "f.yaml").data
    assert isinstance(data["a"], Octal)
    assert not isinstance(data["b"], Octal)


def test_keys_are_text_as_written() -> None:
    data = load(b"1: a\ntrue: b\non: c\n1.50: d\n~: e\n", "f.yaml").data
    assert list(data) == ["1", "true", "on", "1.50", "~"]


def test_aliases_stand_for_their_anchors() -> None:
    data = load(b"a: &x {b: [1]}\nc: *x\n", "f.yaml").data
    assert data["c"] == {"b": [1]}


@pytest.mark.parametrize("text", [b"", b"# only this\n", b"---\n", b"\xef\xbb\xbf"])
def test_a_file_that_says_nothing_is_an_empty_mapping(text: bytes) -> None:
    document = load(text, "f.yaml")
    assert document.data == {}
    assert document.place(("a",)) == (1, 1)


@pytest.mark.parametrize(
    ("loc", "value", "key"),
    [
        ((), (1, 1), (1, 1)),
        (("role",), (2, 7), (2, 1)),
        (("k3s",), (4, 3), (3, 1)),
        (("k3s", "version"), (4, 12), (4, 3)),
        (("k3s", "disable", 1), (5, 16), (5, 16)),
        (("files",), (8, 3), (7, 1)),
        (("files", 0), (8, 5), (8, 5)),
        (("files", 1, "path"), (10, 11), (10, 5)),
        (("empty",), (11, 1), (11, 1)),
        (("k3s", "missing"), (4, 3), (4, 3)),
        (("k3s", "missing", "deeper", 0), (4, 3), (4, 3)),
        (("files", 7, "path"), (8, 3), (8, 3)),
        (("nothing",), (1, 1), (1, 1)),
    ],
)
def test_every_path_has_a_place(loc: yamlfile.Loc, value: tuple[int, int], key: tuple[int, int]) -> None:
    document = load(TEXT, "f.yaml")
    assert document.place(loc) == value
    assert document.place(loc, key=True) == key


def test_a_column_counts_characters_not_bytes() -> None:
    assert load("{ä: ö, b: c}".encode(), "f.yaml").place(("b",)) == (1, 11)


def test_a_scalar_is_given_as_it_is_spelt() -> None:
    document = load(TEXT, "f.yaml")
    assert document.source(("files", 0, "mode")) == "0644"
    assert document.source(("files", 1, "path")) == "/etc/a"
    assert document.source(("files",)) is None
    assert document.source(("nothing",)) is None


def test_places_cost_nothing_before_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    document = load(TEXT, "f.yaml")
    composed: list[str] = []
    compose = yamlfile._compose

    def counting(text: str) -> Any:
        composed.append(text)
        return compose(text)

    monkeypatch.setattr(yamlfile, "_compose", counting)
    assert document.data["role"] == "server"
    assert composed == []
    document.place(("role",))
    document.place(("k3s",))
    assert len(composed) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "a: 1\na: 2\nb: {c: 1, c: 2}\n",
            [
                "2:1: a: is there twice (keep one of them)",
                "3:11: c: is there twice (keep one of them)",
            ],
        ),
        ("a:\n\tb: 1\n", ["2:1: YAML: a tab cannot indent (use spaces)"]),
        ("a: b\nc: 'd\n", ["2:4: YAML: a quote is never closed"]),
        ("a: b\nc: [d\n", ["2:6: YAML: a `,` or `]` was expected here"]),
        ("a: {b: c\n", ["1:9: YAML: a `,` or `}` was expected here"]),
        ("a: @b\n", ["1:4: YAML: a value cannot start with `@` (put it in quotes)"]),
        ("a: `b`\n", ["1:4: YAML: a value cannot start with ``` (put it in quotes)"]),
        ("a: *b\n", ["1:4: YAML: an alias (`*name`) of an anchor that does not exist"]),
        (
            "a: 1\n---\nb: 2\n",
            ["2:1: YAML: a second document begins here (one file holds one document)"],
        ),
        ("a: &a [*a]\n", ["1:4: an anchor that holds itself"]),
        ("- a\n", ["1:1: is not a mapping (write `key: value` lines)"]),
        ("text\n", ["1:1: is not a mapping (write `key: value` lines)"]),
        ("a: \x00b\n", ["1:4: the character U+0000 is not allowed in YAML (delete it)"]),
        ("a: b\nä: \x07\n", ["2:4: the character U+0007 is not allowed in YAML (delete it)"]),
        (b"a: b\nc: \xff\n", ["2:4: is not UTF-8 text from here on (save it as UTF-8)"]),
        ("? {a: b}\n: c\n", ["1:3: a key must be text, not a list or a mapping"]),
        ("a: !!set {b}\n", ["1:4: the tag !!set does not fit here (leave the tag out)"]),
        ("a: !!int b\n", ["1:4: the tag !!int does not fit here (leave the tag out)"]),
        (
            "a: 1\n<<: {b: 2}\n",
            [("2:1: merge keys (`<<`) are not supported (write the keys out, cluster.yaml holds what hosts share)")],
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: bytes | str, expected: list[str]) -> None:
    assert told(text) == expected


def test_load_raises_all_that_is_wrong() -> None:
    with pytest.raises(UserError) as caught:
        load(b"a: 1\na: 2\nb: !x 3\n", "f.yaml")
    assert [problem.line for problem in caught.value.problems] == [2, 3]


@pytest.mark.parametrize("text", ["[" * 100_000, "a: " + "[" * 70 + "]" * 70, "- " * 100_000, "{a: " * 9999])
def test_nesting_that_would_overflow_a_stack_is_refused(text: str) -> None:
    assert len(told(text)) == 1


def test_aliases_that_explode_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    assert "aliases make this too big" in told("\n".join(lines))[0]


def test_the_pure_parser_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pure(yaml.BaseLoader):
        resolve = yamlfile._Loader.resolve

    document = load(TEXT, "f.yaml")
    monkeypatch.setattr(yamlfile, "_Loader", Pure)
    pure = load(TEXT, "f.yaml")
    assert pure.data == document.data
    assert pure.place(("files", 1, "path")) == document.place(("files", 1, "path"))
    assert told("a:\n\tb: 1\n") == ["2:1: YAML: a tab cannot indent (use spaces)"]


@settings(max_examples=sampled(300), deadline=None)
@given(st.binary(max_size=60) | st.text("ab:- \n\t[]{}'\"&*!#|>?%@,0~\x00\ufeff\u2028é", max_size=60))
def test_any_bytes_give_a_mapping_or_problems_inside_the_file(text: bytes | str) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    document = examine(data, "f.yaml")
    assert isinstance(document.data, dict)
    lines = data.decode("utf-8", "replace").splitlines()
    for problem in document.problems:
        assert problem.line is not None
        assert 1 <= problem.line <= max(len(lines), 1)


def test_a_mapping_laid_over_another_replaces_by_name_and_keeps_every_spelling() -> None:
    text = "a: 0123\nlist:\n- {n: x, v: yes}\n- n: y\n  v: 1\nempty: ~\nspace: \u00a0\n"
    over = "list: [{n: y, v: 2}, {n: z}]\nempty: [1]\na: other\nnew: {k: v}\n"
    assert yamlfile.overlaid(text, over, "n") == (
        "a: 0123\nlist:\n  - n: x\n    v: yes\n  - n: y\n    v: 2\n  - n: z\n"
        "empty:\n  - 1\nspace: \u00a0\nnew:\n  k: v\n"
    )
    assert yamlfile.overlaid("a: 'null'\n", "a: b\n", "n") == 'a: "null"\n'
    assert yamlfile.overlaid("", "a: b\n", "n") == "a: b\n"
