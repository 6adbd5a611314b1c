"""What a new config changes: nothing is left out, nothing secret is shown, and a person can read it."""

from __future__ import annotations

import base64
import copy
import gzip
import json
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i12e import changes, render
from i12e.changes import Change, between
from sweeps import sampled

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEzBbaE5lcDr3hNL8WrgNDV5SGe26Y4+DFTPXDPiQ4l6 demo"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHt1mF5uGGnCkJpV0yX8Xc7Jx5x7kkf8nVb0c6ykJ2aa ops@desk"


def data(content: str | bytes, form: str = "plain") -> dict[str, Any]:
    """Given a content, return it as a config has it."""
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    if form == "plain":
        return {"source": f"data:,{quote(raw)}", "compression": ""}
    if form == "gzip":
        return {
            "source": f"data:;base64,{base64.b64encode(gzip.compress(raw, mtime=0)).decode()}",
            "compression": "gzip",
        }
    return {"source": f"data:;base64,{base64.b64encode(raw).decode()}"}


def file(path: str, content: str | bytes, mode: int = 0o644, **more: Any) -> dict[str, Any]:
    """Given a path and a content, return the file as a config has it."""
    return {"path": path, "mode": mode, "overwrite": True, "contents": data(content), **more}


def config(*files: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """Given files and sections, return a config."""
    storage = {**sections.pop("storage", {}), **({"files": list(files)} if files else {})}
    return {"ignition": {"version": "3.4.0"}, **({"storage": storage} if storage else {}), **sections}


def units(*found: dict[str, Any]) -> dict[str, Any]:
    """Given units, return a config of them."""
    return config(systemd={"units": list(found)})


def told(old: dict[str, Any] | None, new: dict[str, Any], masked: dict[str, Any] | None = None) -> list[str]:
    """Given two configs, return what a person is told."""
    return changes.text(between(old, new, masked or new, str), width=200)


def of(old: dict[str, Any], new: dict[str, Any], masked: dict[str, Any] | None = None) -> Change:
    """Given two configs, return their only change."""
    found = between(old, new, masked or new, str)
    assert len(found) == 1, found
    return found[0]


# --- what a person reads


def test_a_text_is_told_by_its_lines() -> None:
    assert told(config(file("/etc/motd", "hello\n")), config(file("/etc/motd", "hello world\n"))) == [
        "file       /etc/motd  changed",
        "           - hello",
        "           + hello world",
    ]


def test_what_is_alike_around_a_change_is_told_by_one_line_and_what_is_far_away_by_dots() -> None:
    old = "".join(f"line {number}\n" for number in range(20))
    new = old.replace("line 3\n", "three\n").replace("line 15\n", "")
    assert of(config(file("/a", old)), config(file("/a", new))).lines == (
        *("  line 2", "- line 3", "+ three", "  line 4"),
        "  ...",
        *("  line 14", "- line 15", "  line 16"),
    )


def test_a_long_content_is_cut_and_it_is_said_how_much_is_missing() -> None:
    new = config(file("/a", "".join(f"{number}\n" for number in range(57))))
    found = changes.text(between(config(), new, new, str), most=20)
    assert len(found) == 22
    assert found[-1].strip() == "... 37 more lines"
    assert len(between(config(), new, new, str)[0].lines) == 57


def test_no_line_is_longer_than_the_width() -> None:
    old, new = config(file("/a", "x" * 300)), config(file("/a", "y" * 300))
    found = changes.text(between(old, new, new, str), width=40)
    assert max(map(len, found)) == 40
    assert found[-1].endswith("y…")


def test_what_a_terminal_would_obey_is_spelt_out() -> None:
    new = config(file("/etc/\x1b[2J\nx", "\x1b]0;title\x07\r\n"))
    found = changes.text(between(config(), new, new, str))
    assert all(line.isprintable() for line in found)
    assert found == ["file       /etc/\\x1b[2J\\nx  added", "           + \\x1b]0;title\\x07\\r"]


def test_a_mode_an_owner_and_a_group_are_told_in_one_line() -> None:
    old = config(file("/a", "x", 0o644, user={"name": "core"}))
    new = config(file("/a", "x", 0o600, group={"id": 233}))
    assert told(old, new) == ["file       /a  changed: mode 0644 -> 0600, owner core -> root, group root -> 233"]


def test_a_new_file_is_told_with_what_is_not_usual_of_it() -> None:
    assert told(config(), config(file("/opt/run", "#!/bin/sh\n", 0o755, user={"name": "core"}))) == [
        "file       /opt/run  added, mode 0755, owner core",
        "           + #!/bin/sh",
    ]


def test_a_missing_newline_at_the_end_is_told() -> None:
    assert of(config(file("/a", "x\n")), config(file("/a", "x"))).lines == ("  (no newline at its end)",)
    assert of(config(file("/a", "x")), config(file("/a", "x\n"))).lines == ("  (a newline at its end)",)


def test_a_content_that_is_no_text_is_told_by_its_size() -> None:
    assert told(config(file("/a", b"\xff\0")), config(file("/a", b"\xff\0\1"))) == [
        "file       /a  changed: 2 -> 3 bytes"
    ]


def test_a_content_packed_in_another_way_is_no_change() -> None:
    one, other = (config({"path": "/a", "contents": data("x" * 99, form)}) for form in ("gzip", "base64"))
    assert between(one, other, other, str) == []


def test_a_fetched_file_is_told_by_its_source_and_its_hash() -> None:
    def fetched(version: str, sum_: str) -> dict[str, Any]:
        source = f"https://example.com/{version}/k3s"
        return config({"path": "/k3s", "contents": {"source": source, "verification": {"hash": f"sha256-{sum_ * 64}"}}})

    assert told(fetched("1", "a"), fetched("2", "b")) == [
        (
            "file       /k3s  changed: source https://example.com/1/k3s -> https://example.com/2/k3s, "
            "hash sha256-aaaaaaaaaaaa… -> sha256-bbbbbbbbbbbb…"
        )
    ]


def test_what_is_appended_is_told() -> None:
    old = config({"path": "/a", "append": [data("one\n")]})
    new = config({"path": "/a", "append": [data("one\n"), data("two\n")]})
    assert told(old, new) == ["file       /a  changed", "             append 2 added:", "           + two"]
    assert told(new, old) == ["file       /a  changed: append 2: removed"]


def test_directories_and_links_are_told() -> None:
    old = config(
        storage={"directories": [{"path": "/d", "mode": 0o700}], "links": [{"path": "/l", "target": "/a"}]},
    )
    new = config(
        storage={
            "directories": [{"path": "/d", "mode": 0o755}, {"path": "/e", "mode": 0o750}],
            "links": [{"path": "/l", "target": "/b"}, {"path": "/h", "target": "/a", "hard": True}],
        }
    )
    assert told(old, new) == [
        "directory  /d  changed: mode 0700 -> 0755",
        "directory  /e  added, mode 0750",
        "link       /l  changed: target /a -> /b",
        "link       /h  added, -> /a, hard true",
    ]


def test_units_are_told_by_what_is_done_with_them_their_text_and_their_drop_ins() -> None:
    old = units(
        {"name": "a.service", "enabled": True, "contents": "[Service]\nExecStart=/a\n"},
        {"name": "b.service", "dropins": [{"name": "10.conf", "contents": "[Unit]\n"}]},
        {"name": "c.service", "enabled": True},
    )
    new = units(
        {"name": "a.service", "enabled": False, "contents": "[Service]\nExecStart=/b\n"},
        {
            "name": "b.service",
            "dropins": [{"name": "10.conf", "contents": "[Unit]\nAfter=a\n"}, {"name": "20.conf", "contents": ""}],
        },
        {"name": "fstrim.timer", "enabled": True},
        {"name": "d.service", "mask": True},
    )
    assert told(old, new) == [
        "unit       a.service            changed: enabled -> disabled",
        "             [Service]",
        "           - ExecStart=/a",
        "           + ExecStart=/b",
        "unit       b.service.d/10.conf  changed",
        "             [Unit]",
        "           + After=a",
        "unit       b.service.d/20.conf  added",
        "unit       fstrim.timer         added, enabled",
        "unit       d.service            added, masked",
        "unit       c.service            removed",
    ]


def test_ssh_keys_are_told_by_their_comment_and_fingerprint() -> None:
    old = config(passwd={"users": [{"name": "core", "sshAuthorizedKeys": [KEY]}]})
    new = config(passwd={"users": [{"name": "core", "sshAuthorizedKeys": [OTHER_KEY], "shell": "/bin/sh"}]})
    assert told(old, new) == [
        "user       core  changed: shell unset -> /bin/sh",
        "           - ssh key demo (SHA256:SGyJsLTFhpco…)",
        "           + ssh key ops@desk (SHA256:4INmA+i+PYJe…)",
    ]


def test_groups_kernel_arguments_and_disks_are_told() -> None:
    old = config(
        kernelArguments={"shouldExist": ["quiet"]}, storage={"disks": [{"device": "/dev/a", "wipeTable": True}]}
    )
    new = config(
        passwd={"groups": [{"name": "ops", "gid": 2000}]},
        kernelArguments={"shouldExist": ["nosmt"], "shouldNotExist": ["quiet"]},
        storage={"disks": [{"device": "/dev/a", "wipeTable": False}]},
    )
    assert told(old, new) == [
        "group      ops            added, gid 2000",
        "kernel     arguments      changed",
        "           - quiet",
        "           + nosmt",
        "           + never quiet",
        "other      storage.disks  changed",
        "           ~ [0].wipeTable: true -> false",
    ]


def k3s(text: str, **more: Any) -> dict[str, Any]:
    """Given the text of k3s's settings, return a config of it."""
    return config(file(changes.K3S_CONFIG, text, 0o600, **more))


def test_settings_of_k3s_are_told_key_by_key_and_lists_item_by_item() -> None:
    old = k3s("node-name: a\nnode-label: [a=b, zone=1]\nretention-of-nothing: 5\ndisable: [traefik]\n")
    new = k3s(
        "node-name: b\nnode-label:\n  - a=b\n  - zone=1\n  - disktype=nvme\ndisable: [servicelb]\nselinux: true\n"
    )
    assert told(old, new) == [
        "setting    k3s node-name             a -> b",
        "setting    k3s node-label            + disktype=nvme",
        "setting    k3s disable               changed",
        "           - traefik",
        "           + servicelb",
        "setting    k3s selinux               + true",
        "setting    k3s retention-of-nothing  - ***",
    ]


def test_of_a_key_of_k3s_that_nobody_knows_only_what_it_is_now_is_shown() -> None:
    assert told(k3s("new-in-k3s: abc\n"), k3s("new-in-k3s: def\n")) == ["setting    k3s new-in-k3s  *** -> def"]


def test_a_comment_or_another_layout_of_k3s_settings_is_told_as_such() -> None:
    assert told(k3s("# one\nselinux: true\n"), k3s("# two\nselinux: true\n")) == [
        "file       /etc/rancher/k3s/config.yaml  changed: comments or layout"
    ]


def test_k3s_settings_that_cannot_be_read_are_told_as_a_file() -> None:
    change = of(k3s("a: [\n"), k3s("a: 1\n"))
    assert (change.kind, change.lines) == ("file", ("- a: ***", "+ a: 1"))


def test_the_variables_that_the_gate_reads_are_told_key_by_key() -> None:
    old = config(file(changes.K3S_CONF, "# so\nrole='server'\njoin_urls='https://1:6443 https://2:6443'\n"))
    new = config(file(changes.K3S_CONF, "# so\nrole='agent'\njoin_urls='https://1:6443 https://3:6443'\n"))
    assert told(old, new) == [
        "setting    host role       server -> agent",
        "setting    host join_urls  changed",
        "           - https://2:6443",
        "           + https://3:6443",
    ]


def test_the_order_of_things_is_told_where_it_is_all_that_changed() -> None:
    one, other = file("/a", "a"), file("/b", "b")
    assert told(config(one, other), config(other, one)) == ["other      storage.files  changed: order of its entries"]


def test_without_an_old_config_all_is_added_and_no_content_is_told() -> None:
    found = between(None, config(file("/a", "x\n")), config(file("/a", "x\n")), str)
    assert [change for change in found if change.lines and change.kind == "file"] == []
    assert {change.what for change in found} == {"added"}


def test_what_a_host_knows_of_itself_is_no_change() -> None:
    one, other = (config(file(render.HOST_JSON, json.dumps({"digest": digest}))) for digest in "ab")
    assert between(one, other, other, str) == []


def test_changes_as_json_hold_everything() -> None:
    found = changes.as_json(
        between(config(file("/a", "x\n", 0o600)), config(file("/a", "y\n")), config(file("/a", "y\n")), str)
    )
    assert json.loads(json.dumps(found)) == [
        {
            "kind": "file",
            "name": "/a",
            "what": "changed",
            "secret": False,
            "notes": ["mode 0600 -> 0644"],
            "lines": ["- ***", "+ y"],
        }
    ]


# --- nothing is left out

words = st.sampled_from(["", "a", "b c", "x: 1", "é\n"])
paths = st.sampled_from(["/a", "/b/c", changes.K3S_CONFIG, changes.K3S_CONF])
modes = st.sampled_from([0, 0o600, 0o644, 0o755, 0o4755])
bools = st.booleans()
ids: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.fixed_dictionaries({"id": st.integers(0, 2)}), st.fixed_dictionaries({"name": words}), st.just({})
)
texts = st.sampled_from(
    [
        *("", "\n", "a", "a\n", "a\nb\n", "token: x\n", "node-label: [a]\n", "node-label: [b, a]\n"),
        *("# c\nselinux: true\n", "selinux: 'true'\n", "a='1'\n", "a='1'\nb=2\n", "a: [\n", "x\0y"),
    ]
)
embedded = st.builds(data, texts, st.sampled_from(["plain", "gzip", "base64"]))
sums = st.fixed_dictionaries({}, optional={"hash": st.sampled_from(["sha256-1", "sha512-2", None])})
fetched = st.fixed_dictionaries(
    {"source": st.sampled_from(["https://a/x", "https://u:p@a/x?k=v#f", "s3://b/x", None])},
    optional={
        "verification": sums,
        "compression": st.sampled_from(["gzip", "", None]),
        "httpHeaders": st.lists(st.fixed_dictionaries({"name": words, "value": words}), max_size=2),
    },
)
resources = st.one_of(embedded, fetched, st.builds(lambda one, sum_: {**one, "verification": sum_}, embedded, sums))


def things(key: str, names: st.SearchStrategy[str], **more: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Given the key of their names, and what else they may have, return lists of things."""
    return st.lists(st.fixed_dictionaries({key: names}, optional=more), max_size=3)


common = {"mode": modes, "user": ids, "group": ids, "overwrite": bools}
dropins = things("name", words, contents=texts)
sections = {
    "passwd": st.fixed_dictionaries(
        {},
        optional={
            "users": things(
                "name",
                words,
                sshAuthorizedKeys=st.lists(st.sampled_from([KEY, OTHER_KEY, "no key"]), max_size=3),
                passwordHash=words,
                groups=st.lists(words, max_size=2),
                uid=st.integers(0, 2),
                shell=words,
                shouldExist=bools,
            ),
            "groups": things("name", words, gid=st.integers(0, 2), passwordHash=words),
        },
    ),
    "storage": st.fixed_dictionaries(
        {},
        optional={
            "files": things("path", paths, contents=resources, append=st.lists(resources, max_size=2), **common),
            "directories": things("path", paths, **common),
            "links": things("path", paths, target=words, hard=bools, **common),
            "disks": things("device", words, wipeTable=bools, partitions=things("label", words, sizeMiB=st.integers())),
            "luks": things("name", words, keyFile=resources, clevis=st.fixed_dictionaries({"tpm2": bools})),
        },
    ),
    "systemd": st.fixed_dictionaries(
        {}, optional={"units": things("name", words, enabled=bools, mask=bools, contents=texts, dropins=dropins)}
    ),
    "kernelArguments": st.fixed_dictionaries(
        {}, optional={"shouldExist": st.lists(words), "shouldNotExist": st.lists(words)}
    ),
}
merged = st.fixed_dictionaries(
    {}, optional={"config": st.fixed_dictionaries({"merge": st.lists(resources, max_size=2)})}
)
ignitions = st.builds(lambda more: {"version": "3.4.0", **more}, merged)
configs = st.fixed_dictionaries({"ignition": ignitions}, optional=sections)


def packed_again(value: Any) -> Any:
    """Given a config, return it with all contents packed in another way."""
    if isinstance(value, list):
        return [packed_again(item) for item in value]
    if not isinstance(value, dict):
        return value
    source = value.get("source")
    if isinstance(source, str) and source.startswith("data:"):
        rest = {key: item for key, item in value.items() if key not in ("source", "compression")}
        content = render.content(source, value.get("compression") or "")
        return {**rest, **data(content, "base64" if value.get("compression") else "gzip")}
    return {key: packed_again(item) for key, item in value.items()}


def changed_somewhere(value: Any, chance: random.Random) -> None:
    """Given a part of a config, change one thing in it."""
    inner = list(value.items() if isinstance(value, dict) else enumerate(value))
    deeper = [item for _, item in inner if isinstance(item, dict | list) and item]
    if deeper and chance.random() < 0.8:
        changed_somewhere(chance.choice(deeper), chance)
    elif inner:
        key, item = chance.choice(inner)
        if chance.random() < 0.3:
            del value[key]
        elif isinstance(item, bool):
            value[key] = chance.choice([None, not item, int(item)])
        elif isinstance(item, int):
            value[key] = chance.choice([None, item + 1, bool(item), str(item)])
        elif isinstance(item, str):
            value[key] = item if item.startswith("data:") else chance.choice([None, f"{item}x", ""])
        elif isinstance(value, list):
            value.insert(0, chance.choice([value[-1], {}, "x", None]))
        else:
            value[f"{key}New"] = chance.choice([value[key], None, 1])


@settings(deadline=None, max_examples=sampled(300))
@given(configs, configs, st.sampled_from(["other", "packed", "changed"]), st.randoms(use_true_random=False))
def test_there_is_no_change_if_and_only_if_the_digest_is_the_same(
    one: dict[str, Any], other: dict[str, Any], how: str, chance: random.Random
) -> None:
    if how != "other":
        other = packed_again(one) if how == "packed" else copy.deepcopy(one)
    if how == "changed":
        changed_somewhere(other, chance)
    found = between(one, other, other, str)
    assert (found == []) == (render.digest(one) == render.digest(other)), found
    assert changes.text(found) == [] or found
    json.dumps(changes.as_json(found))
    between(None, other, {}, str)


# --- nothing secret is shown


def planted(secret: Callable[[str], str], **modes_: int) -> dict[str, Any]:
    """Given what gives a secret by its place, return a config that has one in every place."""
    lines = "\n".join(f"    {secret('block')}{number}" for number in range(3))
    secrets = {
        "/etc/a.yaml": f"user: me\npassword: {secret('yaml')}\nplain: {secret('plain')}\n",
        "/etc/a.json": f'{{"auths": {{"x": "{secret("json")}"}}}}\n',
        "/etc/a.line": f"{secret('line')}\n",
        "/etc/a.ini": f"[a]\nkey={secret('ini')}\n{secret('alone')}==\n{secret('colon')}:\n",
        "/etc/a.pem": f"-----BEGIN PRIVATE KEY-----\n{secret('pem')}\n-----END PRIVATE KEY-----\n",
        "/var/lib/rancher/k3s/server/manifests/i12e-a.yaml": (
            f"kind: Secret\nstringData:\n  a: {secret('manifest')}\n  b: |\n{lines}\n  c: [{secret('flow')}]\n"
        ),
        changes.K3S_CONFIG: (
            f"token: {secret('token')}\nagent-token: '{secret('agent')}'\nnode-name: a\n"
            f"datastore-endpoint: mysql://u:{secret('mysql')}@tcp(h:1)/k\netcd-s3-secret-key: {secret('s3')}\n"
            f"etcd-s3-proxy: http://u:{secret('proxy')}@h\nvpn-auth: name=x,joinKey={secret('vpn')}\n"
            f"kubelet-arg: [a=b, bootstrap-token={secret('kubelet')}]\nnew-in-k3s: {secret('new')}\n"
            f"nested: {{a: {secret('nested')}}}\n"
        ),
    }
    public = {
        "/etc/p.conf": f"url = https://u:{secret('url')}@h/p?sig={secret('query')}#{secret('fragment')}\n"
        f"password = {secret('conf')}\nAPI_KEY='{secret('api')}'\nrun --token {secret('flag')} --x\n",
        "/etc/p.pem": f"-----BEGIN EC PRIVATE KEY-----\n{secret('public pem')}\n-----END EC PRIVATE KEY-----\n",
        "/etc/p.yaml": f"secret:\n  - {secret('below')}\npassphrase: >-\n  {secret('folded')}\n  x\nother: 1\n",
        changes.K3S_CONF: f"role='server'\nscript_url='https://u:{secret('script')}@h/?a={secret('arg')}'\n",
    }
    resource = {
        "source": f"https://u:{secret('user')}@h/x?X-Sig={secret('signed')}&{secret('bare')}#{secret('hash')}",
        "httpHeaders": [{"name": "Authorization", "value": f"Bearer {secret('header')}"}],
    }
    unit = (
        f'[Service]\nEnvironment=A={secret("env")} "B=x {secret("quoted")}"\nEnvironment=C=1 \\\n'
        f"  D={secret('continued')}\nExecStart=/a --password={secret('exec')} --api-key {secret('exec 2')}\n"
        f"ExecStartPost=/usr/bin/curl -H 'Authorization: Bearer {secret('curl')}' https://u:{secret('unit url')}@h/\n"
    )
    return config(
        *(file(path, text, modes_.get("private", 0o600)) for path, text in secrets.items()),
        file("/etc/group.conf", f"{secret('group file')}\n", 0o640),
        *(file(path, text) for path, text in public.items()),
        {"path": "/fetched", "mode": 0o600, "contents": resource},
        {"path": "/appended", "mode": 0o600, "append": [data(f"x: {secret('append')}\n")]},
        {"path": "/binary", "mode": 0o600, "contents": data(f"\0{secret('binary')}", "gzip")},
        storage={
            "luks": [
                {
                    "name": "root",
                    "keyFile": data(secret("luks")),
                    "clevis": {"custom": {"pin": "sss", "config": secret("clevis")}},
                }
            ],
            "disks": [{"device": "/dev/a", "somethingNew": secret("disk")}],
        },
        systemd={
            "units": [
                {"name": "a.service", "contents": unit},
                {"name": "b.service", "dropins": [{"name": "c.conf", "contents": unit}]},
            ]
        },
        passwd={
            "users": [
                {
                    "name": "core",
                    "passwordHash": f"$6$salt${secret('hash of a user')}",
                    "sshAuthorizedKeys": [f'environment="T={secret("key option")}" {KEY}', secret("no key")],
                }
            ],
            "groups": [{"name": "ops", "passwordHash": secret("hash of a group")}],
        },
        kernelArguments={"shouldExist": [f"x.token={secret('kernel')}", "quiet"]},
    ) | {
        "ignition": {
            "version": "3.4.0",
            "config": {"merge": [resource, data(f'{{"secret": "{secret("merge")}"}}')]},
            "proxy": {"httpProxy": f"http://u:{secret('http proxy')}@h"},
            "security": {"tls": {"certificateAuthorities": [{"source": f"https://h/?k={secret('ca')}"}]}},
        }
    }


def value_of(age: str) -> Callable[[str], str]:
    """Given old or new, return what gives the secrets of that age: none has what another one has."""
    return lambda place: f"hunter{age}{place.replace(' ', '')}"


OLD, NEW, MASKED = planted(value_of("Old")), planted(value_of("New")), planted(lambda place: f"<secret a.{place[:3]}>")
OPEN_OLD, OPEN_NEW = planted(value_of("Old"), private=0o644), planted(value_of("New"), private=0o644)


def everything(found: list[Change]) -> str:
    """Given changes, return all that anybody is shown of them."""
    return "\n".join([*changes.text(found, width=10_000, most=10_000), json.dumps(changes.as_json(found))])


@pytest.mark.parametrize(
    ("old", "new", "masked"),
    [
        (OLD, NEW, MASKED),
        (None, NEW, MASKED),
        (config(), NEW, MASKED),
        (OLD, config(), config()),
        (OPEN_OLD, NEW, MASKED),
        (OLD, OPEN_NEW, planted(lambda place: f"<secret a.{place[:3]}>", private=0o644)),
    ],
    ids=["rotated", "first", "added", "removed", "closed", "opened"],
)
def test_no_secret_is_shown_wherever_it_is(old: Any, new: dict[str, Any], masked: dict[str, Any]) -> None:
    if old is OPEN_OLD:  # what everybody can read is no secret, but by its name
        assert "hunterNew" not in everything(between(old, new, masked, str))
    else:
        assert "hunter" not in everything(between(old, new, masked, str))


def test_no_secret_is_shown_where_the_masks_do_not_fit() -> None:
    assert "hunter" not in everything(between(OLD, NEW, config(), str))


FORMS = (
    "{}: x",
    "{} x",
    '{}"x',
    "{}'x",
    "{}/x+==",
    "{}@x",
    "{}#x",
    "{}=x",
    "{0}?x&{0}",
    "{0},x,{0}",
    "'{} x'",
    '"{} x"',
    "- {}",
)
TWO_LINES = ("{0}\n{0}", "{0}:\n  {0}", "{0} \\\n{0}", "|\n  {0}")


@pytest.mark.parametrize("form", FORMS + TWO_LINES)
def test_no_secret_is_shown_however_it_is_written(form: str) -> None:
    def planted_in(age: str) -> dict[str, Any]:
        found = planted(lambda place: form.format(f"{value_of(age)(place)}"))
        if form in TWO_LINES:  # which nobody can tell in the midst of an open text
            files = found["storage"]["files"]
            found["storage"]["files"] = [
                file for file in files if not file["path"].startswith(("/etc/p.", changes.K3S_CONF))
            ]
            del found["systemd"]
        return found

    old, new = planted_in("Old"), planted_in("New")
    for one, other, masked in ((old, new, MASKED), (config(), new, MASKED), (old, config(), config()), (new, old, {})):
        assert "hunter" not in everything(between(one, other, masked, str))


def test_what_is_no_secret_of_an_old_text_is_shown() -> None:
    text = """\
# see https://docs.k3s.io/advanced
[Unit]
RequiresMountsFor=/var/lib/i12e /var/lib/rancher/k3s
ConditionPathExists=!/var/lib/i12e/hold
DefaultTimeoutStopSec=30s
case $newline$list in
sha256-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
https://github.com/k3s-io/k3s/releases/download/v1.35.4%2Bk3s1/k3s
net.ipv4.conf.all.forwarding = 1
"""
    lines = of(config(file("/a", text)), config(file("/a", "x\n"))).lines
    assert lines == (*(f"- {line}" for line in text.splitlines()), "+ x")


def test_secrets_of_ours_in_an_open_text_are_masked_by_redact() -> None:
    old, new = config(file("/a", "x abcd\n")), config(file("/a", "y abcd\n"))
    found = between(old, new, new, lambda text: text.replace("abcd", "***"))
    assert found[0].lines == ("- x ***", "+ y ***")


def test_a_value_that_changed_under_its_mask_is_told_to_have_changed() -> None:
    old, new = (config(file("/a", f"user: me\npassword: {word}\n", 0o600)) for word in ("one", "two"))
    masked = config(file("/a", "user: me\npassword: <secret a.b>\n", 0o600))
    assert told(old, new, masked) == [
        "file       /a  changed (secret)",
        "             user: me",
        "           ~ password: <secret a.b> (secret)",
    ]


def test_a_token_of_k3s_that_changed_is_told_to_have_changed_and_one_that_did_not_is_not_told() -> None:
    assert told(k3s("token: one\n"), k3s("token: two\n"), k3s("token: <secret a.b>\n")) == [
        "setting    k3s token  changed (secret)"
    ]
    assert told(k3s("token: one\n"), k3s("token: one\n"), k3s("token: <secret a.b>\n")) == []


def test_a_password_that_changed_is_told_without_its_hash() -> None:
    old, new = (config(passwd={"users": [{"name": "core", "passwordHash": f"$6$x${word}"}]}) for word in ("a", "b"))
    assert told(old, new) == ["user       core  changed (secret): password (secret)"]
