"""A config of every supported key, exactly as Butane translates it; and the API around it."""

from __future__ import annotations

import concurrent.futures
import json

import pytest

import butane
from ignition import refusal

HEADER = "variant: flatcar\nversion: 1.1.0\n"
NEWEST = "variant: fcos\nversion: 1.7.0\n"
DIGEST = "sha256-" + "0" * 64

EVERYTHING = f"""\
variant: fcos
version: 1.5.0
kernel_arguments:
  should_exist: [quiet]
  should_not_exist: [debug]
passwd:
  users:
    - name: core
      ssh_authorized_keys: [ssh-ed25519 AAAA a, ssh-ed25519 AAAA b]
      password_hash: $y$x
      uid: 1000
      groups: [wheel, docker]
      home_dir: /home/core
      shell: /bin/bash
      primary_group: core
      system: false
      gecos: The Core
      no_create_home: false
      no_user_group: true
      should_exist: true
  groups:
    - {{name: admins, gid: 2000, system: false, password_hash: x}}
storage:
  files:
    - path: /etc/motd
      mode: 0644
      overwrite: true
      user: {{id: 0}}
      group: {{name: root}}
      contents:
        inline: hello
        verification: {{hash: {DIGEST}}}
    - path: /opt/k3s
      contents:
        source: https://example.com/k3s
        compression: gzip
        http_headers: [{{name: X-Token, value: t}}]
      append:
        - inline: more
  directories:
    - {{path: /srv/data, mode: 0755, overwrite: false, user: {{name: core}}, group: {{id: 3}}}}
  links:
    - {{path: /etc/l, target: /etc/motd, hard: false, overwrite: true, user: {{id: 1}}, group: {{id: 2}}}}
systemd:
  units:
    - name: a.service
      enabled: true
      mask: false
      contents: "[Install]\\nWantedBy=multi-user.target\\n"
      dropins: [{{name: 10-x.conf, contents: "[Service]\\nUser=core\\n"}}]
"""


def test_every_supported_key_comes_out_in_the_order_of_ignition_s_structs() -> None:
    expected = (
        b'{"ignition":{"version":"3.4.0"},'
        b'"kernelArguments":{"shouldExist":["quiet"],"shouldNotExist":["debug"]},'
        b'"passwd":{"groups":[{"gid":2000,"name":"admins","passwordHash":"x","system":false}],'
        b'"users":[{"gecos":"The Core","groups":["wheel","docker"],"homeDir":"/home/core",'
        b'"name":"core","noCreateHome":false,"noUserGroup":true,"passwordHash":"$y$x",'
        b'"primaryGroup":"core","sshAuthorizedKeys":["ssh-ed25519 AAAA a","ssh-ed25519 AAAA b"],'
        b'"shell":"/bin/bash","shouldExist":true,"system":false,"uid":1000}]},'
        b'"storage":{"directories":[{"group":{"id":3},"overwrite":false,"path":"/srv/data",'
        b'"user":{"name":"core"},"mode":493}],'
        b'"files":[{"group":{"name":"root"},"overwrite":true,"path":"/etc/motd","user":{"id":0},'
        b'"contents":{"compression":"","source":"data:,hello","verification":{"hash":"'
        + DIGEST.encode()
        + b'"}},"mode":420},{"path":"/opt/k3s","append":[{"compression":"","source":"data:,more"}],'
        b'"contents":{"compression":"gzip","httpHeaders":[{"name":"X-Token","value":"t"}],'
        b'"source":"https://example.com/k3s"}}],'
        b'"links":[{"group":{"id":2},"overwrite":true,"path":"/etc/l","user":{"id":1},'
        b'"hard":false,"target":"/etc/motd"}]},'
        b'"systemd":{"units":[{"contents":"[Install]\\nWantedBy=multi-user.target\\n",'
        b'"dropins":[{"contents":"[Service]\\nUser=core\\n","name":"10-x.conf"}],'
        b'"enabled":true,"mask":false,"name":"a.service"}]}}\n'
    )
    translation = butane.translate(EVERYTHING)
    assert translation.json == expected
    assert json.loads(translation.json) == translation.config
    assert translation.report == ()
    assert translation.files == ()


@pytest.mark.parametrize(
    ("dialect", "spec"),
    [
        ("variant: flatcar\nversion: 1.0.0\n", "3.3.0"),
        ("variant: flatcar\nversion: 1.1.0\n", "3.4.0"),
        ("variant: fcos\nversion: 1.4.0\n", "3.3.0"),
        ("variant: fcos\nversion: 1.5.0\n", "3.4.0"),
    ],
)
def test_a_dialect_becomes_its_spec(dialect: str, spec: str) -> None:
    assert butane.translate(dialect).config == {"ignition": {"version": spec}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "error at $.variant, line 1 col 1: error parsing variant; must be specified"),
        (
            "version: 1.1.0\n",
            "error at $.variant, line 1 col 1: error parsing variant; must be specified",
        ),
        (
            "variant: flatcar\n",
            "error at $.version, line 1 col 1: error parsing version; must be a valid semver",
        ),
        (
            "variant: flatcar\nversion: 1.1\n",
            "error at $.version, line 2 col 10: error parsing version; must be a valid semver",
        ),
        (
            "variant: flatcar\nversion: v1.1.0\n",
            "error at $.version, line 2 col 10: error parsing version; must be a valid semver",
        ),
        (
            "variant: fcos\nversion: 1.8.0\n",
            "error at $.version, line 2 col 10: No translator exists for variant fcos with version 1.8.0",
        ),
        (
            "variant: flatcar\nversion: 1.1.0+foo\n",
            "error at $.version, line 2 col 10: No translator exists for variant flatcar with version 1.1.0+foo",
        ),
    ],
)
def test_any_other_dialect_is_an_error(text: str, message: str) -> None:
    with pytest.raises(butane.BadConfig) as caught:
        butane.translate(text)
    assert [str(entry) for entry in caught.value.report] == [message]


WRONG = HEADER + (
    "storage:\n"
    "  links: [{path: /l}]\n"
    "  files:\n"
    "    - {path: relative, mode: x}\n"
    "    - {path: /l/below, contentz: 1, contents: {source: ftp://x}}\n"
    "passwd: []\n"
    "systemd: {units: [{name: a.b}]}\n"
)


def test_as_butane_it_stops_at_the_first_step_that_finds_an_error() -> None:
    with pytest.raises(butane.BadConfig) as caught:
        butane.translate(WRONG)
    assert [str(entry) for entry in caught.value.report] == [
        "error at $.storage.files.0.mode, line 6 col 30: cannot unmarshal !!str into int",
        "error at $.passwd, line 8 col 9: cannot unmarshal !!seq into v0_5.Passwd",
    ]
    assert caught.value.unread
    assert caught.value.error == (
        "yaml: unmarshal errors:\n  line 6: cannot unmarshal !!str into int"
        "\n  line 8: cannot unmarshal !!seq into v0_5.Passwd"
    )


def test_thorough_finds_everything_at_once_and_says_nothing_of_what_follows_from_something_else() -> None:
    with pytest.raises(butane.BadConfig) as caught:
        butane.translate(WRONG, thorough=True)
    assert [str(entry) for entry in caught.value.report] == [
        "error at $.storage.files.0.mode, line 6 col 30: cannot unmarshal !!str into int",
        "error at $.passwd, line 8 col 9: cannot unmarshal !!seq into v0_5.Passwd",
        "warning at $.storage.files.1.contentz, line 7 col 24: unused key contentz",
        "error at $.storage.files.1, line 7 col 7: file path includes link in config",
        "error at $.storage.links.0.target, line 4 col 11: link target is required",
        "error at $.storage.files.0.path, line 6 col 14: path not absolute",
        "error at $.storage.files.1.contents.source, line 7 col 56: invalid url scheme",
        "error at $.systemd.units.0.name, line 9 col 26: invalid systemd unit extension",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        f"{HEADER}storage: {{}}\nstorage: {{files: [{{path: relative}}]}}\n",
        "variant: [flatcar]\nversion: 1.1.0\n",
        "variant: {a: 1, a: 2}\nversion: 1.1.0\n",
        "variant: fcos\nversion: 1.9.0\nboot_device: {layout: x86_64}\ngrub: {users: [{name: a}]}\n",
        f"{HEADER}storage: {{files: [null, {{path: [x]}}]}}\n",
        f"{HEADER}storage: {{files: [{{path: /a, contents: {{inline: [x]}}, overwrite: true}}]}}\n",
        f"{HEADER}storage: {{files: [{{path: /a, contents: [x], overwrite: true}}]}}\n",
        f"{HEADER}storage: {{files: [{{path: /a, contents: {{source: [x], http_headers: [{{name: a}}]}}}}]}}\n",
        f"{HEADER}storage: {{filesystems: [{{device: /dev/a, format: [x], label: a}}]}}\n",
        f"{HEADER}storage: {{links: [{{path: /a, path: /b}}, null]}}\n",
        f"{HEADER}passwd: {{users: [{{name: a, ssh_authorized_keys: [[x], null, [y]]}}]}}\n",
        f"{NEWEST}boot_device: {{layout: [x], mirror: {{devices: [/dev/a, /dev/b]}}}}\n",
        f"{NEWEST}boot_device: {{layout: s390x-eckd, luks: {{device: [x], tpm2: true}}}}\n",
        f"{NEWEST}storage: {{disks: [{{device: /dev/a, wipe_table: x, partitions: [{{label: root}}]}}]}}\n",
    ],
)
def test_thorough_blames_nothing_that_only_follows_from_a_value_that_cannot_be_read(text: str) -> None:
    told = [
        [(entry.line, entry.column) for entry in refused(text, thorough=thorough) if entry.kind == "error"]
        for thorough in (False, True)
    ]
    assert told[0] == told[1]
    assert not [entry for entry in refused(text, thorough=True) if "unused" in entry.message]


def refused(text: str, thorough: bool) -> tuple[butane.Entry, ...]:
    with pytest.raises(butane.BadConfig) as caught:
        butane.translate(text, thorough=thorough)
    return caught.value.report


def test_thorough_tells_what_is_wrong_behind_an_entry_that_cannot_be_read_at_its_own_place() -> None:
    text = f"{HEADER}storage: {{files: [{{path: /a, path: /b}}, {{path: relative}}]}}\n"
    assert [str(entry) for entry in refused(text, thorough=True) if entry.kind == "error"] == [
        'error at $.storage.files.0.path, line 3 col 30: mapping key "path" already defined at line 3',
        "error at $.storage.files.1.path, line 3 col 48: path not absolute",
    ]


def test_strict_makes_warnings_count() -> None:
    text = HEADER + "storage: {files: [{path: /a, mode: 644}]}\n"
    warnings = [str(entry) for entry in butane.translate(text).report]
    assert warnings == [
        (
            "warning at $.storage.files.0.mode, line 3 col 36: unreasonable mode would be reasonable "
            "if specified in octal; remember to add a leading zero"
        ),
        (
            "warning at $.storage.files.0.mode, line 3 col 36: setuid/setgid/sticky bits are not "
            "supported or functional in spec versions older than 3.6.0"
        ),
    ]
    with pytest.raises(butane.BadConfig):
        butane.translate(text, strict=True)
    assert butane.translate(HEADER, strict=True).report == ()


def test_empty_parts_are_left_out_and_explicit_zeros_kept() -> None:
    text = HEADER + (
        "passwd: {users: []}\n"
        "storage:\n"
        "  files:\n"
        '    - {path: /a, mode: 0, overwrite: false, user: {}, append: [], contents: {inline: ""}}\n'
        "    - {path: /b, contents: {verification: {}}}\n"
    )
    assert butane.translate(text).json == (
        b'{"ignition":{"version":"3.4.0"},"storage":{"files":[{"overwrite":false,"path":"/a",'
        b'"contents":{"compression":"","source":"data:,"},"mode":0},{"path":"/b"}]}}\n'
    )


def test_json_is_escaped_as_go_escapes_it() -> None:
    text = HEADER + 'passwd: {users: [{name: a, gecos: "<&>\\u2028\\u2029é\\t\\"\\b\\f\\x01"}]}\n'
    expected = '"gecos":"\\u003c\\u0026\\u003e\\u2028\\u2029é\\t\\"\\u0008\\u000c\\u0001"'
    assert expected.encode() in butane.translate(text).json


def test_compression_that_the_user_names_is_passed_on_and_nothing_compressed_again() -> None:
    text = HEADER + (f"storage: {{files: [{{path: /a, contents: {{inline: {'a' * 400}, compression: gzip}}}}]}}")
    contents = butane.translate(text).config["storage"]["files"][0]["contents"]
    assert contents == {"compression": "gzip", "source": "data:," + "a" * 400}


def test_a_message_never_holds_a_value() -> None:
    text = HEADER + (
        "passwd: {users: [{name: {hunter2: 1}, uid: hunter3, password_hash: [hunter4]}]}\n"
        "storage:\n"
        "  files:\n"
        "    - {path: hunter5, mode: hunter6, contents: {inline: [hunter7]}}\n"
        '    - {path: /a, contents: {source: "hunter8:x", verification: {hash: hunter9}}}\n'
        'systemd: {units: [{name: a.service, contents: "[Unit] hunter10"}]}\n'
    )
    with pytest.raises(butane.BadConfig) as caught:
        butane.translate(text, thorough=True)
    assert len(caught.value.report) >= 9
    assert "hunter" not in str(caught.value)


def test_many_threads_get_what_one_gets() -> None:
    texts = [EVERYTHING.replace("hello", "hello " * n) for n in range(1, 40)]
    alone = [butane.translate(text).json for text in texts]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda text: butane.translate(text).json, texts))
    assert together == alone


def test_the_real_ignition_accepts_every_supported_key(
    ignition_validate: str,
) -> None:
    assert refusal(ignition_validate, butane.translate(EVERYTHING).json) == ""
