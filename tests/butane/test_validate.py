"""Each rule of Butane and Ignition, where it holds and where it does not."""

from __future__ import annotations

import importlib

import pytest

import butane
from ignition import refusal

HEADER = "variant: flatcar\nversion: 1.1.0\n"
SHA256, SHA512 = "sha256-" + "a" * 64, "sha512-" + "a" * 128


def report(body: str) -> list[str]:
    """Return what is said of a config, without places."""
    try:
        entries = butane.translate(HEADER + body, thorough=True).report
    except butane.BadConfig as error:
        entries = error.report
    return [f"{entry.kind} {entry.path} {entry.message}" for entry in entries]


def files(*items: str) -> str:
    return "storage: {files: [" + ", ".join(f"{{{item}}}" for item in items) + "]}"


def contents(resource: str) -> str:
    return files(f"path: /a, contents: {{{resource}}}")


def units(*items: str) -> str:
    return "systemd: {units: [" + ", ".join(f"{{{item}}}" for item in items) + "]}"


GOOD = {
    "path": files("path: /a/b"),
    "root": "storage: {directories: [{path: /}]}",
    "mode": files("path: /a, mode: 0644", "path: /b, mode: 0", "path: /c, mode: 0o777"),
    "odd mode": files("path: /a, mode: 0143"),
    "owner": files("path: /a, user: {id: 1}, group: {name: a}"),
    "empty name": files('path: /a, user: {id: 1, name: ""}'),
    "overwrite": files("path: /a, overwrite: true, contents: {inline: a}"),
    "no overwrite": files("path: /a, overwrite: false"),
    "hashes": contents(f"inline: a, verification: {{hash: {SHA256}}}"),
    "long hash": contents(f"inline: a, verification: {{hash: {SHA512}}}"),
    "gzip": contents("inline: a, compression: gzip"),
    "plain": contents('source: "data:,a", compression: ""'),
    "source": contents("source: https://a/b"),
    "headers": contents("source: https://a/b, http_headers: [{name: a, value: b}, {name: c}]"),
    "append": files("path: /a, append: [{inline: a}, {inline: a}]"),
    "link": "storage: {links: [{path: /a, target: ../b}]}",
    "neighbour of a link": "storage: {links: [{path: /a, target: b}], files: [{path: /ab}]}",
    "hard link": "storage: {links: [{path: /a, target: /b, hard: true}], files: [{path: /b}]}",
    "unit": units('name: a.service, enabled: true, contents: "[Install]\\nWantedBy=b\\n"'),
    "unit types": units("name: a.mount", "name: a.timer", "name: b@c.socket", "name: a.scope"),
    "unit of the system": units("name: a.service, enabled: true", "name: b.service, mask: true"),
    "drop-in": units('name: a.service, dropins: [{name: a.conf, contents: "[Unit]\\nA=b\\n"}]'),
    "instance": units("name: a@b.service, enabled: true", 'name: a@.service, contents: "[Install]\\nWantedBy=b"'),
    "same words in two places": "passwd: {users: [{name: a, groups: [x]}], groups: [{name: a}]}",
    "kernel arguments": "kernel_arguments: {should_exist: [a], should_not_exist: [b]}",
}


@pytest.mark.parametrize("body", GOOD.values(), ids=GOOD)
def test_nothing_is_said_of_a_good_config(body: str) -> None:
    assert report(body) == []


FILE = "$.storage.files.0"
OVER = "overwrite must be false if source is unspecified"
SPECIAL = "setuid/setgid/sticky bits are not supported or functional in spec versions older than 3.6.0"
DECIMAL = "unreasonable mode would be reasonable if specified in octal; remember to add a leading zero"
ONE = "only one of the following can be set: inline, local, source"
UNIT = "$.systemd.units.0"
BAD = {
    "no path": (files("mode: 0644"), [f"error {FILE}.path path not specified"]),
    "relative": (files("path: a"), [f"error {FILE}.path path not absolute"]),
    "dots": (files("path: /a/../b"), [f"error {FILE}.path path is not fully simplified"]),
    "slash": (files("path: /a/"), [f"error {FILE}.path path is not fully simplified"]),
    "slashes": (files("path: //a"), [f"error {FILE}.path path is not fully simplified"]),
    "directory": (
        "storage: {directories: [{path: a, mode: -1}]}",
        [
            "error $.storage.directories.0.path path not absolute",
            "error $.storage.directories.0.mode illegal file mode",
            f"warning $.storage.directories.0.mode {SPECIAL}",
        ],
    ),
    "big mode": (files("path: /a, mode: 010000"), [f"error {FILE}.mode illegal file mode"]),
    "special bits": (files("path: /a, mode: 04755"), [f"warning {FILE}.mode {SPECIAL}"]),
    "decimal mode": (files("path: /a, mode: 400"), [f"warning {FILE}.mode {DECIMAL}"]),
    "decimal directory mode": (
        "storage: {directories: [{path: /a, mode: 500}]}",
        [f"warning $.storage.directories.0.mode {DECIMAL}"],
    ),
    "two owners": (
        files("path: /a, user: {id: 1, name: a}, group: {id: 1, name: a}"),
        [
            f"error {FILE}.user cannot set both id and name",
            f"error {FILE}.group cannot set both id and name",
        ],
    ),
    "overwrite nothing": (files("path: /a, overwrite: true"), [f"error {FILE}.overwrite {OVER}"]),
    "two sources": (
        contents("inline: a, source: 'data:,b'"),
        [f"error {FILE}.contents.source {ONE}"],
    ),
    "two sources to append": (
        files("path: /a, append: [{source: 'data:,b', inline: a}]"),
        [f"error {FILE}.append.0.source {ONE}"],
    ),
    "url": (contents("source: ftp://a"), [f"error {FILE}.contents.source invalid url scheme"]),
    "url to append": (
        files("path: /a, append: [{source: ':'}]"),
        [f"error {FILE}.append.0.source unable to parse url"],
    ),
    "compression": (
        contents("inline: a, compression: xz"),
        [f"error {FILE}.contents.compression invalid compression method"],
    ),
    "hash form": (
        contents("inline: a, verification: {hash: abc}"),
        [f"error {FILE}.contents.verification.hash malformed hash specifier"],
    ),
    "hash function": (
        contents("inline: a, verification: {hash: md5-abc}"),
        [f"error {FILE}.contents.verification.hash unrecognized hash function"],
    ),
    "hash length": (
        contents("inline: a, verification: {hash: sha256-abc}"),
        [f"error {FILE}.contents.verification.hash incorrect size for hash sum"],
    ),
    "hash of nothing": (
        contents(f"verification: {{hash: {SHA256}}}"),
        [f"error {FILE}.contents.verification.hash source must be specified if verification is specified"],
    ),
    "headers of data": (
        contents("inline: a, http_headers: [{name: a, value: b}]"),
        [f"error {FILE}.contents.http_headers cannot use HTTP headers with this source scheme"],
    ),
    "empty header": (
        contents("source: http://a, http_headers: [{value: ''}]"),
        [
            f"error {FILE}.contents.http_headers.0.name HTTP header name can't be empty",
            f"error {FILE}.contents.http_headers.0.value unable to parse HTTP header",
        ],
    ),
    "header twice": (
        contents("source: http://a, http_headers: [{name: a, value: b}, {name: a, value: c}]"),
        [f"error {FILE}.contents.http_headers.1 duplicate entry defined"],
    ),
    "path twice": (
        files("path: /a", "path: /a"),
        ["error $.storage.files.1 duplicate entry defined"],
    ),
    "path of a file and a directory": (
        "storage: {directories: [{path: /a}], files: [{path: /a}]}",
        ["error $.storage.files.0 duplicate entry defined"],
    ),
    "path of a file and a link": (
        "storage: {files: [{path: /a}], links: [{path: /a, target: b}]}",
        ["error $.storage.links.0 duplicate entry defined"],
    ),
    "below a link": (
        (
            "storage: {links: [{path: /a, target: b}, {path: /a/l, target: b}], "
            "files: [{path: /a/b/c}], directories: [{path: /a/d}]}"
        ),
        [
            "error $.storage.links.1 link path includes link in config",
            "error $.storage.files.0 file path includes link in config",
            "error $.storage.directories.0 directory path includes link in config",
        ],
    ),
    "no target": (
        "storage: {links: [{path: /a}, {path: /b, target: ''}]}",
        [
            "error $.storage.links.0.target link target is required",
            "error $.storage.links.1.target link target is required",
        ],
    ),
    "hard link to a directory": (
        "storage: {links: [{path: /a, target: /d, hard: true}], directories: [{path: /d}]}",
        ["error $.storage.links.0 hard link target is a directory"],
    ),
    "owner of a hard link": (
        "storage: {links: [{path: /a, target: /b, hard: true, user: {id: 1}}]}",
        ["warning $.storage.links.0.user.id user/group ignored for hard link"],
    ),
    "unit name": (units("name: a"), [f"error {UNIT}.name invalid systemd unit extension"]),
    "no unit name": (units("mask: true"), [f"error {UNIT}.name invalid systemd unit extension"]),
    "unit twice": (
        units("name: a.service", "name: a.service"),
        ["error $.systemd.units.1 duplicate entry defined"],
    ),
    "unit contents": (
        units('name: a.service, contents: "[Unit]\\nA\\n"'),
        [f"error {UNIT}.contents invalid unit content: unexpected newline encountered while parsing option name"],
    ),
    "unit that cannot be enabled": (
        units('name: a.service, enabled: true, contents: "[Unit]\\nA=b"'),
        [f'warning {UNIT}.contents unit "a.service" is enabled, but has no install section so enable does nothing'],
    ),
    "instance of a template that cannot be enabled": (
        units("name: a@b.service, enabled: true", 'name: a@.service, contents: "[Unit]\\nA=b"'),
        [f'warning {UNIT}.contents template unit "a@.service" for "a@b.service" doesn\'t have Install section'],
    ),
    "drop-in name": (
        units("name: a.service, dropins: [{name: a.service}]"),
        [f"error {UNIT}.dropins.0.name invalid systemd drop-in extension"],
    ),
    "drop-in twice": (
        units("name: a.service, dropins: [{name: a.conf}, {name: a.conf}]"),
        [f"error {UNIT}.dropins.1 duplicate entry defined"],
    ),
    "drop-in contents": (
        units('name: a.service, dropins: [{name: a.conf, contents: "[x"}]'),
        [f"error {UNIT}.dropins.0.contents invalid unit content: unable to find end of section"],
    ),
    "file over a unit": (
        (
            "systemd: {units: [{name: a.service, contents: '[Unit]'}]}\n"
            "storage: {files: [{path: /etc/systemd/system/a.service}]}"
        ),
        [f"error {FILE}.path path conflicts with systemd unit or dropin"],
    ),
    "link over a drop-in": (
        (
            "systemd: {units: [{name: a.service, dropins: [{name: b.conf, contents: '[Unit]'}]}]}\n"
            "storage: {links: [{path: /etc/systemd/system/a.service.d/b.conf, target: x}]}"
        ),
        ["error $.storage.links.0.path path conflicts with systemd unit or dropin"],
    ),
    "user twice": (
        "passwd: {users: [{name: a}, {name: a}]}",
        ["error $.passwd.users.1 duplicate entry defined"],
    ),
    "group twice": (
        "passwd: {groups: [{name: a}, {name: a}]}",
        ["error $.passwd.groups.1 duplicate entry defined"],
    ),
    "key twice": (
        "passwd: {users: [{name: a, ssh_authorized_keys: [k, k], groups: [g, g]}]}",
        [
            "error $.passwd.users.0.ssh_authorized_keys.1 duplicate entry defined",
            "error $.passwd.users.0.groups.1 duplicate entry defined",
        ],
    ),
    "kernel argument twice": (
        "kernel_arguments: {should_exist: [a], should_not_exist: [a]}",
        ["error $.kernel_arguments.should_not_exist.0 duplicate entry defined"],
    ),
}


@pytest.mark.parametrize(("body", "expected"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_said_in_butane_s_words(body: str, expected: list[str]) -> None:
    assert sorted(report(body)) == sorted(expected)


def test_what_follows_from_a_broken_value_is_not_said_beside_it() -> None:
    assert report(files("path: [x]", "path: [y]")) == [
        "error $.storage.files.0.path cannot unmarshal !!seq into string",
        "error $.storage.files.1.path cannot unmarshal !!seq into string",
    ]


# Butane's alone, and a rule that is younger than the program
NOT_ASKED = {"two sources", "two sources to append", "file over a unit", "link over a drop-in"}
ASKED = GOOD | {name: body for name, (body, _) in BAD.items() if name not in NOT_ASKED}


@pytest.mark.parametrize("body", ASKED.values(), ids=ASKED)
def test_the_real_ignition_judges_alike(body: str, ignition_validate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the config although it is bad, and let the program judge it."""
    ours = any(line.startswith("error") for line in report(body))
    module = importlib.import_module("butane.translate")  # the function hides it
    for rules in ("duplicates", "ignition_faults"):
        monkeypatch.setattr(module, rules, lambda *_: iter(()))
    theirs = refusal(ignition_validate, butane.translate(HEADER + body).json)
    assert bool(theirs) == ours, theirs


def test_a_config_of_an_unknown_spec_is_not_judged_good() -> None:
    (entry,) = butane.check({"ignition": {"version": "2.0.0"}})
    assert entry.message == "unsupported config version"
