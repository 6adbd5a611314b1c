"""Hints: what to write instead."""

from __future__ import annotations

import pytest
from casefiles import cases

import butane
from butane import hints, localfiles

FLATCAR = "variant: flatcar\nversion: 1.1.0\n"
FCOS = "variant: fcos\nversion: 1.6.0\n"


def told(text: str) -> list[str]:
    try:
        report = butane.translate(text, thorough=True, hints=True).report
    except butane.BadConfig as error:
        report = error.report
    return [entry.hint for entry in report]


def file(field: str, header: str = FLATCAR) -> str:
    return f"{header}storage: {{files: [{{path: /a, {field}}}]}}\n"


def test_every_hint_is_for_a_message_that_there_is() -> None:
    ours = {localfiles.ESCAPES, localfiles.ESCAPES_BY_LINK}
    lines = [line for case in cases() for line in case.said.get("report", [])]
    assert [
        message for message in hints._HINTS if message not in ours and not any(message in line for line in lines)
    ] == []


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (file("mode: 644"), "write 0644"),
        (file("mode: 6_44"), "begin it with 0"),
        (file("mode: 04755"), "set the bits on the host in a unit"),
        (file("mode: 04755", FCOS), "use fcos 1.7.0, or set the bits on the host in a unit"),
        (file("mode: x"), "write a number, without quotes"),
        (file("contents: {source: 'x:a'}"), "use http, https, tftp, s3, data, gs or arn"),
        (
            file("contents: {source: 'arn:a'}", FLATCAR.replace("1.1.0", "1.0.0")),
            "use http, https, tftp, s3, data or gs",
        ),
        (file("contents: {http_headers: [{name: a}]}"), "add source: headers are for http and https"),
        (file("contentz: 1"), "did you mean contents?"),
        (
            f"{FLATCAR.replace('1.1.0', '1.0.0')}systemd: {{units: [{{name: a.service, contents_local: b}}]}}\n",
            "known from flatcar 1.1.0 on",
        ),
        (f"{FLATCAR}boot_device: {{}}\n", "known from fcos 1.3.0 on"),
        (f"{FLATCAR}passwd: {{users: {{}}}}\n", "write a list: each entry on a line of its own, after a dash"),
        (f"{FLATCAR}passwd: {{users: [{{name: a, system: 1}}]}}\n", "write true or false, without quotes"),
        (
            "variant: fcos\nversion: 9.9.9\n",
            "known are fcos 1.0.0, 1.1.0, 1.2.0, 1.3.0, 1.4.0, 1.5.0, 1.6.0, 1.7.0; flatcar 1.0.0, 1.1.0",
        ),
        (f"{FCOS}boot_device: {{luks: {{tang: [{{url: ftp://a, thumbprint: b}}]}}}}\n", "use http or https"),
    ],
)
def test_a_hint_says_what_the_user_s_version_takes(text: str, hint: str) -> None:
    assert hint in told(text)


def test_a_mode_without_its_zero_is_one_mistake() -> None:
    assert told(file("mode: 644")) == ["write 0644", "write 0644"]
