"""The syntax of units, as Ignition reads it."""

from __future__ import annotations

import pytest

from butane.units import BadUnit, option_sections


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        ("", set()),
        ("[Unit]\n", set()),
        ("[Unit]\nDescription=a\n[Install]\nWantedBy=b\n", {"Unit", "Install"}),
        ("no section yet\n[Unit]\nA=b", {"Unit"}),
        ("# comment \\\n[Unit]\nA=b\n[Service]\nC=d", {"Service"}),
        ("[Unit]\n; comment\n\n  A = b\n", {"Unit"}),
        ("[Service]\nExecStart=a \\\n  b \\\n\nUser=c\n", {"Service"}),
        ("[Service]\nExecStart=a \\", {"Service"}),
        ("[Unit]\r\nA=b\r\n", {"Unit"}),
        ("[Unit]\nA=" + "x" * 2000 + "\n", {"Unit"}),
    ],
)
def test_the_sections_that_hold_an_option_are_found(text: str, sections: set[str]) -> None:
    assert option_sections(text) == sections


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[Unit", "unable to find end of section"),
        ("[Unit] x\n", "found garbage after section name"),
        ("[Unit]\nDescription\n", "unexpected newline encountered while parsing option name"),
        ("[Unit]\nDescription", "EOF"),
        ("[Unit]\nA=" + "x" * 3000 + "\n", "line too long (max 2048 bytes)"),
        ("[Unit]\n#" + "é" * 1024 + "\n", "line too long (max 2048 bytes)"),
        ("[Unit]\n\x1c\n", "unexpected newline encountered while parsing option name"),
    ],
)
def test_what_ignition_cannot_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadUnit) as caught:
        option_sections(text)
    assert str(caught.value) == message
