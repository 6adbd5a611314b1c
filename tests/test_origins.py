"""Where the pieces of a rendered text came from: what Jinja can do to a text, and the template's line all the same."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i12e.files import Files
from i12e.origins import Origin, Trace
from i12e.paths import Paths
from i12e.secrets import Vault
from i12e.templates import Templates
from sweeps import sampled

ENTRY = "templates/entry"
WORD = re.compile(r"w\d+_")


def templates(root: Path, sources: dict[str, str]) -> Templates:
    """Given a folder and the templates by path, return what renders them."""
    for path, text in sources.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text.encode())
    files = Files(root)
    return Templates(files, Vault(Paths(root, "example"), files))


def traced(root: Path, sources: dict[str, str]) -> tuple[str, Trace]:
    """Given templates, return what the entry gives and where that came from."""
    known = templates(root, sources)
    text = known.expand("entry", {})
    trace = known.trace("entry", {}, text)
    assert trace is not None
    return text, trace


def found(text: str, trace: Trace, word: str) -> Origin:
    """Given a word that is once in a text, return where it came from."""
    before, _, after = text.partition(word)
    assert word not in after
    return trace.at(before.count("\n") + 1, len(before) - before.rfind("\n"))


def place(text: str, trace: Trace, word: str) -> str:
    """Given a word that is once in a text, return where it came from as file:line:column, without templates/."""
    origin = found(text, trace, word)
    column = f":{origin.column}" if origin.column else ""
    return f"{origin.file.removeprefix('templates/')}:{origin.line}{column}"


ONE: dict[str, tuple[str, dict[str, str]]] = {
    "a literal": ("a\nb: HERE\n", {"HERE": "entry:2:4"}),
    "an expression after a literal": ("a\nb: {{ 'HERE' }} MORE\n", {"HERE": "entry:2:4", "MORE": "entry:2"}),
    "an expression at the start of a line": ("a\n\n{{ 'HERE' }}\nMORE", {"HERE": "entry:3:1", "MORE": "entry:4:1"}),
    "an expression of more lines": (
        "a {{\n 'ONE' ~\n ' TWO' }} THREE\n{{ 'FOUR\nFIVE'\n}}",
        {"ONE": "entry:2", "TWO": "entry:2", "THREE": "entry:3", "FOUR": "entry:4:1", "FIVE": "entry:4:1"},
    ),
    "an expression whose filter is on another line": ("a {{ 'HERE'\n | lower | upper }}", {"HERE": "entry:1:3"}),
    "a loop": (
        "{% for x in ['ONE', 'TWO'] %}\n- {{ x }}\n{% endfor %}\nEND",
        {"ONE": "entry:2:3", "TWO": "entry:2:3", "END": "entry:4:1"},
    ),
    "a choice": (
        "{% if false %}\na\n{% else %}\n b: HERE\n{% endif %}\nEND",
        {"HERE": "entry:4:5", "END": "entry:6:1"},
    ),
    "a set block": (
        "{% set x %}\n  ONE\n  {{ 'TWO' }}\n{% endset %}\na:\n{{ x }} END",
        {"ONE": "entry:2:3", "TWO": "entry:3:3", "END": "entry:6"},
    ),
    "a macro": (
        "{% macro m(x) %}\n{{ x }}:\n  HERE\n{% endmacro %}\n{{ m('ONE') }}",
        {"ONE": "entry:2:1", "HERE": "entry:3:3"},
    ),
    "a call block": (
        "{% macro m() %}\nONE\n{{ caller() }}{% endmacro %}\n\n{% call m() %}\nHERE\n{% endcall %}\nEND",
        {"ONE": "entry:2:1", "HERE": "entry:6:1", "END": "entry:8:1"},
    ),
    "a block that is indented": (
        "{% filter indent(2, true) %}\nONE\n\nTWO: {{ 'HERE' }}\n{% endfilter %}\nEND",
        {"ONE": "entry:2", "TWO": "entry:4", "HERE": "entry:4", "END": "entry:6:1"},
    ),
    "a line of two lines that is indented": (
        "{% filter indent(9, true) %}\nONE{% if true %}\nTWO\n{% endif %}\n{% endfilter %}",
        {"ONE": "entry:2", "TWO": "entry:3"},
    ),
    "a text that is indented": (
        "{% set x %}\nONE\nTWO\n{% endset %}\na:\n  {{ x | indent(2) }}\nEND",
        {"ONE": "entry:2", "TWO": "entry:3", "END": "entry:7:1"},
    ),
    "a block through another filter": (
        "a\n{% filter upper %}\nb: here\n{% endfilter %}\nEND",
        {"HERE": "entry:2", "END": "entry:5:1"},
    ),
    "a text through another filter": (
        "{% set x %}\nb\nHERE\n{% endset %}\na:\n  {{ x | quote }}\n",
        {"HERE": "entry:6"},
    ),
    "raw": ("a\n{% raw %}\n{{ HERE }}\n  MORE{% endraw %}\n", {"HERE": "entry:3:4", "MORE": "entry:4:3"}),
    "a comment": ("{# a\n b #}\n c: HERE {# d\n e #} MORE\n", {"HERE": "entry:3:5", "MORE": "entry:4"}),
    "trimmed whitespace": (
        "a\n\n  {%- if true -%}\n\n\n ONE\n{%- endif %}\nTWO\n\n {{- ' THREE' -}} \n FOUR\n",
        {"ONE": "entry:6", "TWO": "entry:8", "THREE": "entry:10", "FOUR": "entry:11"},
    ),
    "lines with other ends": (
        "a\r\nb: ONE\rTWO\r\n{{ 'HERE' }}",
        {"ONE": "entry:2:4", "TWO": "entry:3:1", "HERE": "entry:4:1"},
    ),
    "the end": ("a\nLAST\n", {"LAST": "entry:2:1"}),
}


@pytest.mark.parametrize(("source", "expected"), ONE.values(), ids=ONE)
def test_what_a_template_gives_is_found_at_its_line(source: str, expected: dict[str, str], tmp_path: Path) -> None:
    text, trace = traced(tmp_path, {ENTRY: source})
    assert {word: place(text, trace, word) for word in expected} == expected


PART = {"templates/files/part": "x\n  PART\n"}
BASE = {"templates/base": "a: BEFORE\n{% block b %}\nOLD\n{% endblock %}\nAFTER\n"}
MACROS = {"templates/macros": "{% macro f(x) %}\n{{ x }}\nHERE{% endmacro %}"}
MORE: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "an include": (
        {ENTRY: "a\n{% include 'files/part' %}\nEND", **PART},
        {"PART": "files/part:2:3", "END": "entry:3:1"},
    ),
    "an include that is indented": (
        {ENTRY: "a\n{% filter indent(4) %}\n{% include 'files/part' %}\n{% endfilter %}\nEND", **PART},
        {"PART": "files/part:2", "END": "entry:5:1"},
    ),
    "the user's own": (
        {ENTRY: "a\n{% include 'files/part' %}", **PART, "templates/local/files/part": "1\n2\nPART"},
        {"PART": "local/files/part:3:1"},
    ),
    "a block of an extended template": (
        {ENTRY: "{# c #}\n{% extends 'base' %}\n{% block b %}\n- HERE\n{% endblock %}\n", **BASE},
        {"BEFORE": "base:1:4", "HERE": "entry:4:3", "AFTER": "base:5:1"},
    ),
    "a block that has the extended one in it": (
        {ENTRY: "{% extends 'base' %}\n{% block b %}\n{{ super() }}\n- HERE\n{% endblock %}\n", **BASE},
        {"OLD": "base:3:1", "HERE": "entry:4:3", "AFTER": "base:5:1"},
    ),
    "a macro of another template": (
        {ENTRY: "{% import 'macros' as m %}\n{{ m.f('ONE') }}", **MACROS},
        {"ONE": "macros:2:1", "HERE": "macros:3:1"},
    ),
}


@pytest.mark.parametrize(("sources", "expected"), MORE.values(), ids=MORE)
def test_what_another_template_gives_is_found_at_its_line_there(
    sources: dict[str, str], expected: dict[str, str], tmp_path: Path
) -> None:
    text, trace = traced(tmp_path, sources)
    assert {word: place(text, trace, word) for word in expected} == expected


def test_what_indents_a_line_belongs_to_it(tmp_path: Path) -> None:
    _, trace = traced(tmp_path, {ENTRY: "a:\n{% filter indent(2, true) %}\nb\nc: {{ 1 }}\n{% endfilter %}\nd"})
    assert [trace.at(line, 1).line for line in (1, 2, 3, 4)] == [1, 3, 4, 6]
    assert [trace.at(line, 3).line for line in (2, 3)] == [3, 4]


def test_lines_that_indenting_has_made_more_of_are_found_where_they_are_indented(tmp_path: Path) -> None:
    source = "a:\n{% filter indent(2) %}\n# b\x85# c\nHERE\n{% endfilter %}"
    text, trace = traced(tmp_path, {ENTRY: source})
    assert found(text, trace, "HERE").line == 2


def test_what_is_embedded_is_found_where_it_is_embedded_and_the_other_template_is_named(tmp_path: Path) -> None:
    own = {"templates/local/files/part": "{{ embed('files/other') }}", "templates/files/other": "HERE\nMORE"}
    text, trace = traced(tmp_path, {ENTRY: "a\n\nb: {{ embed('files/part') }}\nEND", **PART, **own})
    at_its_start = trace.at(3, 4)
    assert at_its_start == Origin("templates/entry", 3, 4, embedded="templates/local/files/part")
    assert found(text, trace, "MORE") == Origin("templates/entry", 3, None, "templates/local/files/part")
    assert found(text, trace, "END") == Origin("templates/entry", 4, 1)


def test_what_is_embedded_by_way_of_a_variable_is_found_where_it_is_output(tmp_path: Path) -> None:
    source = "{% set part = embed('files/part') %}\na\nb: {{ part }}\n"
    text, trace = traced(tmp_path, {ENTRY: source, **PART})
    assert found(text, trace, "PART") == Origin("templates/entry", 3, None, "templates/files/part")


def test_a_place_beyond_the_end_is_that_of_the_last_piece(tmp_path: Path) -> None:
    _, trace = traced(tmp_path, {ENTRY: "a\nb\n"})
    assert [trace.at(3, 1).line, trace.at(9, 9).line] == [2, 2]


@pytest.mark.parametrize("source", ["", "{{ '' }}", "{# c #}", "{% set x = 1 %}"])
def test_an_empty_text_came_from_the_start_of_its_template(source: str, tmp_path: Path) -> None:
    _, trace = traced(tmp_path, {ENTRY: source})
    assert trace.at(1, 1) == Origin("templates/entry", 1, 1)


@pytest.mark.parametrize("line_end", ["\x85", "\u2028", "\u2029"])
def test_lines_are_counted_as_yaml_counts_them(line_end: str, tmp_path: Path) -> None:
    _, trace = traced(tmp_path, {ENTRY: f"# a{line_end}b\nc\n"})
    assert [trace.at(line, 1).line for line in (1, 2, 3)] == [1, 1, 2]


# --- what it is not to change


@pytest.mark.parametrize(
    "source",
    [
        "{% set x %}a{% endset %}{{ x.__class__.__name__ }}",
        "{% set x %}a{% endset %}{{ 1 // (x.__class__.__name__ == 'str') }}",
        "{% set x %}a{% endset %}{{ 'a' if x.__class__.__name__ == 'str' else nothing }}",
    ],
    ids=["another text", "an exception", "a fault"],
)
def test_of_a_template_that_does_otherwise_when_it_is_looked_at_nothing_is_told(source: str, tmp_path: Path) -> None:
    known = templates(tmp_path, {ENTRY: source})
    text = known.expand("entry", {})
    assert known.trace("entry", {}, text) is None
    assert known.expand("entry", {}) == text


def test_tracing_has_no_inputs_of_its_own(tmp_path: Path) -> None:
    source = "{% include 'files/part' %}{% include 'no' ignore missing %}{{ embed('files/part') }}{{ names('files') }}"
    known = templates(tmp_path, {ENTRY: source, **PART})
    with known._files.recording() as inputs:
        text = known.expand("entry", {})
        before = set(inputs)
        assert known.trace("entry", {}, text) is not None
    assert "templates/files/part" in before == inputs


# --- any template

LEAVES = (
    *("@\n", "  @: @\n", "@", "\n", "\n\n", " ", "@\r\n", "{{ 'ä😀' }}@\n"),
    *("{{ '@' }}\n", "a: {{ '@' }} @\n", "{{ '@' ~\n '' }}", "{{\n'@'}}", "{{ '\\n' }}", "@ {{- '@' -}} \n\n @\n"),
    *("{# c\n #}\n", "{# c #} @\n", "\n {#- c -#}\n@\n"),
    *("{% raw %}{{ @\n @{% endraw %}\n", "{%- raw -%}\n @ {%- endraw -%}\n"),
    *("  {%- if true -%}\n\n@\n{%- endif %}\n", "{%+ if true %} @{% endif +%}\n"),
    *("{% set x %}\n@\n @{% endset %}{{ x }}\n", "{% include 'part' %}", "{% include 'part' %}\n@\n"),
)
AROUND = (
    *("{% for i in [1, 2] %}\n[]{% endfor %}\n", "{% if true %}[]{% endif %}"),
    "\n  {%- if true -%}\n[]\n {%- endif -%}\n",
    *("{% filter indent(3) %}[]{% endfilter %}", "{% filter indent(1, true, true) %}\n[]{% endfilter %}\n"),
    *("{% set y %}[]{% endset %}{{ y | indent(2, true) }}", "{% set y %}\n[]{% endset %}@ {{ y }}"),
    "{% macro m() %}\n[]{% endmacro %}{{ m() }}\n",
    "{% macro m() %}{{ caller() }}@{% endmacro %}{% call m() %}[]{% endcall %}",
)


def nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    around = st.builds(lambda outer, text: str(outer).replace("[]", text), st.sampled_from(AROUND), inner)
    return around | st.lists(inner, min_size=2, max_size=4).map("".join)


def numbered(sources: dict[str, str]) -> dict[str, str]:
    """Given templates with @ where words shall be, return them with a word for each that is nowhere else."""
    numbers = count()
    return {path: re.sub("@", lambda _: f"w{next(numbers)}_", text) for path, text in sources.items()}


def lines_of_words(sources: dict[str, str]) -> dict[str, tuple[str, int]]:
    """Given templates, return the file and the line of each word."""
    lines = {path: re.split(r"\r\n|\r|\n", text) for path, text in sources.items()}
    return {
        word: (path, number)
        for path, all_lines in lines.items()
        for number, line in enumerate(all_lines, 1)
        for word in WORD.findall(line)
    }


@given(st.recursive(st.sampled_from(LEAVES), nested, max_leaves=12))
@settings(max_examples=sampled(300), deadline=None)
def test_every_word_of_any_template_is_found_at_its_line(
    tmp_path_factory: pytest.TempPathFactory, template: str
) -> None:
    sources = numbered({ENTRY: template + "@", "templates/part": "@\n{{ '@' }} @\n"})
    text, trace = traced(tmp_path_factory.getbasetemp() / "any", sources)
    expected = lines_of_words(sources)
    for number, line in enumerate(text.split("\n"), 1):
        for word in WORD.finditer(line):
            origin = trace.at(number, word.start() + 1)
            assert (origin.file, origin.line) == expected[word[0]]
            if origin.column:
                source = re.split(r"\r\n|\r|\n", sources[origin.file])[origin.line - 1]
                assert source[: origin.column - 1] == line[: word.start()]
