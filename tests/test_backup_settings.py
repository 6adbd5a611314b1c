"""What cluster.yaml says of backups: every message with its place, what is read of it, and what an editor finds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Project
from i12e import fields, keys
from i12e.fields import EXAMPLE_RECIPIENT, Wrong
from i12e.model import Fleet, load_fleet
from i12e.paths import Paths, host_names
from i12e.settings import ALARMS, STORES, Backup
from test_model import AGENT, CLUSTER, SERVER, cases, load, problems, warnings
from test_schema import ONLY_DOIT, around, of_doit, of_editor

# What stands below `backup:` in a cluster's good file of seven lines, and what is then said of it.
BROKEN = """\
recipients: [age1xyz]
=> 8:16: backup.recipients[0]: "age1xyz" is not an age public key (like age1..., 62 characters)

recipients: [age1f26wxs78ahhzlx7dts2qxy4jagq45vg6k89rc778n6njwmn6cqms3rfleq]
=> 8:16: backup.recipients[0]: is a damaged age public key: its checksum is wrong (copy it again)

recipients: AGE-SECRET-KEY-1QQQ
=> 8:15: backup.recipients[0]: is a PRIVATE key: take it out of the file, and make a new pair if it was committed (write the public one: age1...)

recipients: [ssh-ed25519 AAAA x]
=> 8:16: backup.recipients[0]: is an ssh key, not an age public key (./doit backup_keys makes one)

recipients: [age1yubikey1qw]
=> 8:16: backup.recipients[0]: "age1yubikey1qw" is the key of a plugin, backups know plain age keys only (like age1..., 62 characters)

every: 6
=> 8:10: backup.every: 6 is not text (like 6h)

every: 7h
=> 8:10: backup.every: "7h" neither divides a day nor is whole days (like 6h)

every: 1m
=> 8:10: backup.every: "1m" is less than 5m (a backup may take longer than that)

every: 2w
=> 8:10: backup.every: "2w" is not a span of time (write 14d)

every: 36h
=> 8:10: backup.every: "36h" neither divides a day nor is whole days (like 1d)

every: 40d
=> 8:10: backup.every: "40d" is not at least 1m and at most 31d

every: six
=> 8:10: backup.every: "six" is not a span of time (like 30m, 6h or 1d)

fresh: 0m
=> 8:10: backup.fresh: "0m" is not at least 1m and at most 31d

fresh: 32d
=> 8:10: backup.fresh: "32d" is not at least 1m and at most 31d

freshness: 1h
=> 8:3: backup.freshness: is not a known key (did you mean fresh?)

stores: [{name: a}]
=> 8:12: backup.stores[0]: is of no kind (write one of folder, s3, rclone)

stores: [{name: a, folder: /x, rclone: 'a:b'}]
=> 8:34: backup.stores[0].rclone: cannot be there beside folder (keep one, the other in an entry of its own)

stores: [{name: a, folder: /x}, {name: a, folder: /y}]
=> 8:42: backup.stores[1].name: "a" is there twice

stores: [{name: A b, folder: /x}]
=> 8:19: backup.stores[0].name: "A b" is not a DNS label (a-z, 0-9 and - inside, at most 63 characters)

stores: [{folder: /x}]
=> 8:12: backup.stores[0].name: is missing

stores: [{name: a, folder: x/y}]
=> 8:30: backup.stores[0].folder: "x/y" is not an absolute path (write /x/y)

stores: [{name: a, folder: /}]
=> 8:30: backup.stores[0].folder: "/" is the root of the file system (name a folder of its own)

stores: [{name: a, folder: ~bob/x}]
=> 8:30: backup.stores[0].folder: "~bob/x" is not a path of a folder (~/... is below your own home folder)

stores: [{name: a, folder: ~}]
=> 8:12: backup.stores[0]: is of no kind (write one of folder, s3, rclone)

stores: [{name: a, folder: '~/'}]
=> 8:30: backup.stores[0].folder: "~/" is not a clean path (write ~/backups)

stores: [{name: a, folder: ~/x/../y}]
=> 8:30: backup.stores[0].folder: "~/x/../y" is not a clean path (write ~/y)

stores: [{name: a, dir: /x}]
=> 8:22: backup.stores[0].dir: is not a known key (known: folder, name, rclone, s3)

stores: [{name: a, s3: {}}]
=> 8:26: backup.stores[0].s3.bucket: is missing

stores: [{name: a, s3: {bucket: s3://b/c/}}]
=> 8:35: backup.stores[0].s3.bucket: "s3://b/c/" is a place, not the name of a bucket (write bucket: b and prefix: c)

stores: [{name: a, s3: {bucket: B_}}]
=> 8:35: backup.stores[0].s3.bucket: "B_" is not a bucket's name (a-z, 0-9, . and - inside, 3 to 63 characters)

stores: [{name: a, s3: {bucket: bbb, endpoint: s3.example.com}}]
=> 8:50: backup.stores[0].s3.endpoint: "s3.example.com" is not an http or https URL (like https://s3.example.com)

stores: [{name: a, s3: {bucket: bbb, endpoint: https://u:p@s3.example.com}}]
=> 8:50: backup.stores[0].s3.endpoint: holds a user or password (secrets/ENV/backup.yaml is for that)

stores: [{name: a, s3: {bucket: bbb, endpoint: https://s3.example.com/b}}]
=> 8:50: backup.stores[0].s3.endpoint: "https://s3.example.com/b" has a path (only https://HOST: the bucket goes to bucket:, a folder in it to prefix:)

stores: [{name: a, s3: {bucket: bbb, region: eu central}}]
=> 8:48: backup.stores[0].s3.region: "eu central" is not a region's name (like eu-central-1)

stores: [{name: a, s3: {bucket: bbb, prefix: /a/}}]
=> 8:48: backup.stores[0].s3.prefix: "/a/" is not a clean path without / at its ends (write a)

stores: [{name: a, s3: {bucket: bbb, prefix: a b}}]
=> 8:48: backup.stores[0].s3.prefix: "a b" is not a folder in a bucket (letters, digits and . _ - only, / between them)

stores: [{name: a, s3: {bucket: bbb, lock_days: 0}}]
=> 8:51: backup.stores[0].s3.lock_days: 0 is less than 1

stores: [{name: a, s3: {bucket: bbb, path_style: yes}}]
=> 8:52: backup.stores[0].s3.path_style: "yes" is not true or false (write true)

stores: [{name: a, s3: {bucket: bbb, access_key: x}}]
=> 8:40: backup.stores[0].s3.access_key: is not a known key (it is a secret: secrets/ENV/backup.yaml)

stores: [{name: a, rclone: /mnt/x}]
=> 8:30: backup.stores[0].rclone: "/mnt/x" names no remote of rclone's (folder: is for a path of this machine)

stores: [{name: a, rclone: b2}]
=> 8:30: backup.stores[0].rclone: "b2" names no remote of rclone's (write b2:)

stores: [{name: a, rclone: ':sftp,host=x,pass=y:/'}]
=> 8:30: backup.stores[0].rclone: is a connection string, whose options may be secrets (name a remote: its config goes to secrets/ENV/backup.yaml)

stores: [{name: a, rclone: '-x:y'}]
=> 8:30: backup.stores[0].rclone: "-x:y" is not a remote of rclone's (like b2:bucket/path)

keep: {last: -1}
=> 8:16: backup.keep.last: -1 is less than 0

keep: {last: 0, hourly: 0, daily: 0, weekly: 0, monthly: 0}
=> 8:9: backup.keep: names no backup that would be kept (write last: 1, at least)

keep: {yearly: 1}
=> 8:10: backup.keep.yearly: is not a known key (known: daily, hourly, last, monthly, weekly)

keep: 7
=> 8:9: backup.keep: 7 is not a mapping

paths: [{path: srv}]
=> 8:18: backup.paths[0].path: "srv" is not an absolute path (write /srv)

paths: [{path: /}]
=> 8:18: backup.paths[0].path: "/" is the whole host (name what you need below it)

paths: [{path: /proc/x}]
=> 8:18: backup.paths[0].path: "/proc/x" cannot be backed up: /proc is not on the disk

paths: [{path: /var/lib/rancher/k3s/server/db}]
=> 8:18: backup.paths[0].path: "/var/lib/rancher/k3s/server/db" holds k3s's live database (/var/lib/rancher/k3s/server/db), a copy of which proves nothing (every backup has it in another way; name what you need beside it)

paths: [{path: /var/lib/rancher}]
=> 8:18: backup.paths[0].path: "/var/lib/rancher" holds k3s's live database (/var/lib/rancher/k3s/server/db), a copy of which proves nothing (every backup has it in another way; name what you need beside it)

paths: [{path: /srv, hosts: []}]
=> 8:31: backup.paths[0].hosts: is an empty list (one at least)

paths: [{path: /srv, hosts: [sever-1]}]
=> 8:32: backup.paths[0].hosts[0]: "sever-1" is no host of this cluster (did you mean server-1?)

paths: [{path: /srv, hosts: [x]}]
=> 8:32: backup.paths[0].hosts[0]: "x" is no host of this cluster (there are server-1)

paths: [{path: /srv, before: ''}]
=> 8:32: backup.paths[0].before: is empty, not a command

paths: [{path: /srv}, {path: /srv, hosts: [server-1]}]
=> 8:32: backup.paths[1].path: "/srv" is there twice

paths: [/srv]
=> 8:11: backup.paths[0]: "/srv" is not a mapping

alarms: [{}]
=> 8:12: backup.alarms[0]: is of no kind (write one of command, webhook, pushover, ping)

alarms: [{pushover: false}]
=> 8:12: backup.alarms[0]: is of no kind (write one of command, webhook, pushover, ping)

alarms: [{webhook: https://hooks.example.com/x}]
=> 8:22: backup.alarms[0].webhook: is a URL, which is a secret (secrets/ENV/alarms.yaml is for it, its key there stands here)

alarms: [{webhook: a b}]
=> 8:22: backup.alarms[0].webhook: "a b" is not the name of a key in secrets/ENV/alarms.yaml (like ops)

alarms: [{ping: ops, pushover: true}]
=> 8:13: backup.alarms[0].ping: cannot be there beside pushover (keep one, the other in an entry of its own)

alarms: [{command: []}]
=> 8:22: backup.alarms[0].command: is an empty list (one at least)

alarms: [{command: ['']}]
=> 8:23: backup.alarms[0].command[0]: is empty

alarms: [{pushover: yes}]
=> 8:23: backup.alarms[0].pushover: "yes" is not true or false (write true)

alarms: [{mail: me}]
=> 8:13: backup.alarms[0].mail: is not a known key (known: command, ping, pushover, webhook)
"""  # noqa: E501  # a message is one line
TWICE = f"recipients: [{EXAMPLE_RECIPIENT}, {EXAMPLE_RECIPIENT}]"


def with_backup(text: str, **hosts: str) -> Fleet:
    """Given what stands below `backup:`, return the fleet of a cluster that has it."""
    return load(f"{CLUSTER}backup:\n  {text}\n", **(hosts or {"server_1": SERVER}))


@pytest.mark.parametrize(("text", "expected"), cases(BROKEN))
def test_what_is_wrong_is_told_with_its_place_and_remedy(text: str, expected: list[str]) -> None:
    assert problems(with_backup(text)) == [f"cluster.yaml:{line}" for line in expected]


@pytest.mark.parametrize("text", [text for text, _ in cases(BROKEN)])
def test_what_doit_finds_is_found_by_an_editor_or_listed_in_the_docs(text: str) -> None:
    fleet = with_backup(text)
    found, places = of_editor("cluster", f"{CLUSTER}backup:\n  {text}\n"), of_doit(fleet, "cluster")
    for problem in fleet.problems:
        listed = any(rule.search(problem.message) for rule in ONLY_DOIT)
        assert listed or around(problem.message.partition(": ")[0]) & found, problem
    entries = {place.rpartition(".")[0] for place in places}  # an entry with an unknown key has no kind either
    assert found <= entries.union(*map(around, places))


def test_a_recipient_that_is_there_twice_is_told() -> None:
    assert problems(with_backup(TWICE)) == ["cluster.yaml:8:80: backup.recipients[1]: is there twice"]


def test_a_damaged_recipient_is_told_whatever_sign_of_it_is_wrong() -> None:
    good = keys.make().recipient
    for place in range(4, len(good)):
        for sign in "qpz7":
            text = good[:place] + sign + good[place + 1 :]
            if text != good:
                with pytest.raises(Wrong, match="its checksum is wrong"):
                    fields.recipient(text)
    assert fields.recipient(good) == good


GOOD = [
    *("every: 6h", "every: 1440m", "every: 7d", "fresh: 1d12h30m", "recipients: []", "keep: {last: 0}", "stores: []"),
    "stores: [{name: a, folder: ~/b c/d}, {name: b, s3: {bucket: b-1.x, prefix: a/b_c}}]",
    "stores: [{name: a, s3: {bucket: bbb, endpoint: 'http://127.0.0.1:8333/', path_style: true, lock_days: 30}}]",
    "stores: [{name: a, rclone: 'my remote:'}, {name: b, rclone: 'crypt:a b/c,d', folder: ~}]",
    "paths: [{path: /srv/a b, hosts: server-1, before: systemctl stop a, after: 'a; b'}, {path: /srv/c}]",
    "paths: [{path: /srv, hosts: [server-1], before: a}, {path: /srv, hosts: [agent-1]}]",
    "alarms: [{command: /bin/a}, {webhook: ops_1}, {pushover: true, ping: ~}, {ping: a-b, pushover: false}]",
]


@pytest.mark.parametrize("text", GOOD)
def test_what_is_right_is_taken_by_an_editor_and_by_doit(text: str) -> None:
    assert problems(with_backup(text, server_1=SERVER, agent_1=AGENT)) == []
    assert of_editor("cluster", f"{CLUSTER}backup:\n  {text}\n") == set()


@pytest.mark.parametrize("text", ["", "backup:\n", "backup: {}\n", "backup:\n  # every: 6h\n"])
def test_without_a_word_of_backups_their_defaults_hold_and_nothing_is_warned_of(text: str) -> None:
    fleet = load(CLUSTER + text, server_1=SERVER)
    assert (problems(fleet), warnings(fleet)) == ([], [])
    assert fleet.cluster
    backup = fleet.cluster.backup
    assert backup == Backup()
    assert (backup.slot_seconds, backup.fresh_seconds, backup.stores, backup.recipients) == (None, 3600, (), ())
    assert backup.keep.model_dump() == {"last": 7, "hourly": 24, "daily": 7, "weekly": 5, "monthly": 12}
    assert of_editor("cluster", CLUSTER + text) == set()


def test_a_cluster_without_a_recipient_is_warned_of_and_so_is_the_docs_example() -> None:
    assert [warning.partition(" (")[0] for warning in warnings(with_backup("every: 6h"))] == [
        "cluster.yaml:8:3: backup.recipients: names no one who could open the backups: none can be taken"
    ]
    (said,) = warnings(with_backup(f"recipients: {EXAMPLE_RECIPIENT}"))
    assert "is the docs' example, nobody can open what is sealed to it" in said
    assert warnings(with_backup(f"recipients: {keys.make().recipient}\n  every: 6h")) == []


def test_what_is_said_is_what_is_read() -> None:
    fleet = with_backup(
        "every: 12h\n  fresh: 30m\n  stores: [{name: a, s3: {bucket: bbb}}, {name: b, rclone: 'x:y'}]\n"
        "  paths: [{path: /srv, hosts: server-1}, {path: /opt}]\n  alarms: [{pushover: true}, {command: x}]"
    )
    assert fleet.cluster
    backup = fleet.cluster.backup
    assert (backup.slot_seconds, backup.fresh_seconds) == (43200, 1800)
    assert [store.kind for store in backup.stores] == ["s3", "rclone"]
    assert [alarm.kind for alarm in backup.alarms] == ["pushover", "command"]
    assert [[path.on(host) for host in ("server-1", "agent-1")] for path in backup.paths] == [
        [True, False],
        [True, True],
    ]


@given(st.integers(5, 31 * 1440))
def test_slots_begin_at_the_same_times_of_each_day_or_are_whole_days(minutes: int) -> None:
    text = fields.spoken(minutes * 60)
    assert fields.seconds(text) == minutes * 60
    if minutes % 1440 == 0 or 1440 % minutes == 0:
        assert fields.slot(text) == text
        return
    with pytest.raises(Wrong, match="neither divides a day nor is whole days") as caught:
        fields.slot(text)
    assert fields.slot(caught.value.remedy.removeprefix("like "))


def test_the_examples_section_is_right_when_its_comments_are_taken_away(project: Project) -> None:
    place = project.root / "hosts/example/cluster.yaml"
    before, _, rest = place.read_text().partition("# backup:\n")
    section, _, after = rest.partition("\n\n")
    lines = ["backup:", *(line.removeprefix("# ") for line in section.splitlines())]
    for _ in range(2):
        lines[lines.index("    - age1...")] = f"    - {keys.make().recipient}"
    place.write_text("\n".join([before + lines[0], *lines[1:], "", after]))
    fleet = load_fleet("hosts/example", "example", host_names(Paths(project.root, "example")), read(project))
    assert (fleet.problems, fleet.warnings) == ([], [])
    assert fleet.cluster
    assert fleet.cluster.backup.model_fields_set == {*Backup.model_fields}
    assert {store.kind for store in fleet.cluster.backup.stores} == {*STORES}
    assert {alarm.kind for alarm in fleet.cluster.backup.alarms} == {*ALARMS}
    assert of_editor("cluster", place.read_text()) == set()


def read(project: Project) -> Callable[[str], bytes]:
    """Given a project, return what reads its files."""
    return lambda path: (project.root / path).read_bytes()


def test_hosts_say_nothing_of_backups() -> None:
    said = problems(load(CLUSTER, server_1=f"{SERVER}backup: {{}}\n"))
    assert said == ["server-1.yaml:3:1: backup: is not a known key (cluster.yaml says it for all hosts)"]


def test_a_change_of_the_backups_renders_nothing_again_and_is_read_all_the_same(small: Project) -> None:
    assert len(small.doit().lines) == 2
    before = small.outputs()
    place = small.root / "hosts/example/cluster.yaml"
    text = place.read_text()
    place.write_text(f"{text}backup: {{recipients: {keys.make().recipient}, every: 6h}}\n")
    done = small.doit()
    assert (done.status, done.lines, small.outputs()) == (0, [], before)
    place.write_text(f"backup:\n  every: 7h\n{text}")
    done = small.doit()
    assert done.status == 1
    assert 'cluster.yaml:2:10: backup.every: "7h" neither divides a day' in done.err
