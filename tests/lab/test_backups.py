"""`backup` and its siblings against hosts of the lab: what counts is proven, and what lies is told.

Each test goes on with the cluster that the one before has left, so they are run in this order and together.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import json
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from i12e import backup_keys, backups, bundle, programs
from i12e.backups import Place
from i12e.folders import Folder
from i12e.paths import LAB_MACHINES
from lab import Lab, backing, environment
from lab.backing import DATABASES, SNAPSHOTS, Listener, good, listing, made, seal, until, wait
from lab.clones import Ended, Operator, another_clone, clone
from lab.fixtures import running
from weed import seaweed

pytestmark = pytest.mark.lab

SERVERS = ["server-1", "server-2", "server-3"]
HOSTS = [*SERVERS, "agent-1"]
K3S = "/opt/bin/k3s kubectl"
TOKEN = "/var/lib/rancher/k3s/server/token"
PLANTED = "planted-in-a-Secret-0123456789abcdef"
PASSWORD = "a-pass-phrase-of-rclone's-0123456789"
OBJECTS = "\n---\n".join(
    [
        f"{{apiVersion: v1, kind: Secret, metadata: {{name: planted}}, stringData: {{a: {PLANTED}}}}}",
        *(
            f"{{apiVersion: v1, kind: ConfigMap, metadata: {{name: c{n}, labels: {{lost: x}}}}, data: {{a: b}}}}"
            for n in range(40)
        ),
    ]
)
KILLS = 8
STORES = ["disk", "bucket", "plain", "crypt"]


@dataclass
class Scene:
    """A cluster, its operator, and what stays secret of both."""

    operator: Operator
    lab: Lab
    place: Path
    heard: Listener
    base: str = ""
    four: dict[str, Any] = field(default_factory=dict)
    began: float = 0.0
    secrets: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def doit(self, *arguments: str) -> Ended:
        """Run ./doit; remember what it said."""
        done = self.operator.doit(*arguments)
        self.said.append(done.out + done.err)
        return done

    def backs_up(self, *arguments: str) -> str:
        """Take a backup, which has to go well; return its id."""
        done = self.doit("backup", *arguments)
        assert done.status == 0, done.out + done.err
        return made(done)[0]

    def cluster_file(self, text: str, **secrets: str) -> None:
        """Put settings below `backup` in cluster.yaml, in place of those before; the same for sealed secret files."""
        path = self.operator.root / "hosts/lab/cluster.yaml"
        self.base = self.base or path.read_text()
        path.write_text(re.sub(r"(?m)^  recipients: .*\n", lambda found: found[0] + text, self.base))
        for name in ("backup", "alarms"):
            file = self.operator.root / f"secrets/lab/{name}.yaml"
            file.unlink(missing_ok=True)
            if name in secrets:
                seal(self.operator, name, secrets[name])

    def stray(self) -> list[str]:
        """Return the files of ours that lie on servers beside a datastore."""
        return [left for host in self.lab.hosts() if host.startswith("server") for left in self.stray_of(host)]

    def stray_of(self, host: str) -> list[str]:
        """Return those of one server."""
        find = f"find {SNAPSHOTS} -name 'i12e-*'; find {DATABASES} -maxdepth 1 -name 'i12e-*.db*'"
        return [f"{host}: {name}" for name in self.lab.shell(host, find).output.split()]

    def sentinels(self) -> list[str]:
        """Return the sentinels that are in the cluster."""
        found = self.lab.read("server-1", f"{K3S} -n kube-system get secret -l i12e/sentinel=true -o name")
        return found.split()

    def read(self, backup: str, part: str, store: str = "disk") -> bytes:
        """Return a part of a backup, opened with the lab's key; what is compressed is not any more."""
        place = Place(Folder(store, self.place / store), "lab")
        key = backup_keys._keys(self.operator.root / backup_keys.LAB_BACKUP_KEY)
        found = io.BytesIO()
        bundle.unseal(
            place.store.read(place.part(backup, part)), key, ".gz." in part, lambda b: (found.write(b), None)[1]
        )
        return found.getvalue()

    def manifest(self, backup: str, store: str = "disk") -> bundle.Manifest:
        """Return the manifest of a backup in a folder."""
        found = backups.read_manifest(Place(Folder(store, self.place / store), "lab"), backup)
        assert isinstance(found, bundle.Manifest)
        return found


def newest(scene: Scene) -> str:
    """Return the id of the newest good backup in the folder, "" if there is none."""
    found = backups.newest(backups.survey(Place(Folder("disk", scene.place / "disk"), "lab")))
    return found.id if found else ""


def left_in(scene: Scene) -> set[str]:
    """Return what lies in the folder beside good backups, the lease and what tells people of both."""
    place = Place(Folder("disk", scene.place / "disk"), "lab")
    known = {key for each in backups.survey(place) if each.is_good for key in each.keys}
    there = {entry.key for entry in place.store.list("") if not entry.key.startswith("lab/marks/")}
    return there - known - {place.lease, "lab/README.txt"}


def kubectl(lab: Lab, arguments: str, stdin: str = "", host: str = "server-1") -> str:
    done = lab.shell(host, f"{K3S} {arguments}", stdin.encode())
    assert done.status == 0, done.complaint
    return done.output


@contextlib.contextmanager
def lying(lab: Lab, *lies: str) -> Iterator[None]:
    """Until the block ends, let the k3s of the first servers say that it saved a snapshot, and leave something else."""
    faults = "/run/i12e-lab-faults"
    told = dict(zip(SERVERS, lies, strict=False))
    try:
        for host, how in told.items():
            lab.read(host, f"mkdir -p {faults}; printf %s '{how}' >{faults}/snapshot_lies")
        yield
    finally:
        for host in told:
            lab.read(host, f"rm -f {faults}/snapshot_lies")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("backups")


@pytest.fixture(scope="module")
def scene(place: Path) -> Iterator[Scene]:
    """Three servers with etcd and an agent, with objects to back up; cluster.yaml as lab_up writes it."""
    operator = clone(place / "one")
    with running(operator.root / LAB_MACHINES, HOSTS) as lab, backing.listening() as heard:
        environment.write(operator.root, lab, 3, 1)
        operator.deploys()
        scene = Scene(operator, lab, place, heard, began=time.time())
        for name in ("disk", "two"):
            (place / name).mkdir()
        tokens = backing.opened(operator, "cluster")
        scene.secrets = {name: tokens[name] for name in ("server_token", "agent_token")} | {"planted": PLANTED}
        kubectl(lab, "apply -f -", OBJECTS)
        yield scene


@pytest.fixture(autouse=True)
def own_tmp(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """Nothing of other processes is where the operator puts what is for a while."""
    folder = place / "t"
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)


# --- a backup, and what is told of it


def test_the_lab_backs_up_without_a_line_of_settings(scene: Scene) -> None:
    done = scene.doit("backup")
    assert done.status == 0, done.err
    (backup,) = made(done)
    assert "read back and proven" in done.out
    assert good(scene.operator) == {"local": backup}
    table = scene.doit("backup_list").out
    assert re.search(rf"(?m)^{backup} +\d+ s +\S+ kB +local +server-1 \(etcd\) +v1\.35\.4\+k3s1 +\d+ +- +-$", table)
    verified = scene.doit("backup_verify")
    assert (verified.status, "opened, checked and restorable" in verified.out) == (0, True), verified.err
    assert re.search(r"verified \d+ s ago, never drilled", scene.doit("status").out)
    assert scene.stray() + scene.sentinels() == []


TWO = """\
  stores:
    - {{name: disk, folder: {place}/two}}
    - {{name: bucket, s3: {{bucket: backups, endpoint: "{url}", path_style: true, region: us-east-1, prefix: below}}}}
"""
FOUR = """\
    - {{name: plain, rclone: "plain:{place}/plain"}}
    - {{name: crypt, rclone: "crypt:"}}
"""
ALARMS_YAML = """\
  alarms:
    - command: [/bin/sh, -c, "cat >>{place}/alarm; echo $I12E_ALARM >>{place}/alarm"]
    - webhook: hook
    - ping: watch
"""


@pytest.fixture(scope="module")
def bucket(scene: Scene) -> Iterator[Scene]:
    """What it takes to have four stores: a folder, a bucket of SeaweedFS, and two remotes of rclone's."""
    folder = scene.place / "weed"
    folder.mkdir(exist_ok=True)
    with seaweed(folder) as server:
        server.bucket("backups")
        obscured = programs.run(programs.rclone(), "obscure", "-", stdin=PASSWORD)
        assert obscured.status == 0, obscured.complaint
        conf = {
            "plain": "[plain]\ntype = local\n",
            "crypt": f"[under]\ntype = local\n[crypt]\ntype = crypt\nremote = under:{scene.place}/crypt\n"
                     f"password = {obscured.output.strip()}\n",
        }  # fmt: skip
        remotes = {name: {"rclone_conf": text} for name, text in conf.items()}
        scene.secrets |= {"password": PASSWORD, "obscured": obscured.output.strip(), "s3": server.secret}
        scene.four = {"place": scene.place, "url": server.url, "s3": {"bucket": server.credentials}, "rclone": remotes}
        yield scene


@pytest.fixture
def four(bucket: Scene) -> Scene:
    """The cluster's file names four stores and three alarms."""
    return told_of(
        bucket, (TWO + FOUR).format(**bucket.four), backup=json.dumps(bucket.four["s3"] | bucket.four["rclone"])
    )


@pytest.fixture
def two(bucket: Scene) -> Scene:
    """The cluster's file names a folder and a bucket, and three alarms."""
    return told_of(bucket, TWO.format(**bucket.four), backup=json.dumps(bucket.four["s3"]))


@pytest.fixture
def one(scene: Scene) -> Scene:
    """The cluster's file names one store, a folder, and three alarms."""
    return told_of(scene, f"  stores: [{{name: disk, folder: {scene.place}/disk}}]\n")


def told_of(scene: Scene, settings: str, **secrets: str) -> Scene:
    """Let the cluster's file have settings, and everybody be told of failures."""
    hooks = json.dumps({"hook": f"{scene.heard.url}/hook", "watch": f"{scene.heard.url}/watch"})
    scene.cluster_file(settings + ALARMS_YAML.format(place=scene.place), alarms=hooks, **secrets)
    alarms(scene)
    return scene


def alarms(scene: Scene) -> list[str]:
    """Return which alarms went off since the last look: command:KIND, webhook:KIND, ping:PATH."""
    heard = []
    file = scene.place / "alarm"
    if file.exists():
        heard += [f"command:{line}" for line in file.read_text().splitlines() if line in ("failed", "stale")]
        file.unlink()
    for method, path, body in scene.heard.heard():
        heard.append(f"webhook:{json.loads(body)['alarm']}" if path == "/hook" else f"{method} {path}")
    return sorted(heard)


def test_one_backup_goes_to_a_folder_s3_and_two_remotes_each_verified_for_itself(four: Scene) -> None:
    with backing.watched(four.secrets) as seen:
        done = four.doit("backup")
    assert done.status == 0, done.err
    ids = made(done)
    assert (len(ids), len(set(ids))) == (4, 1)
    assert good(four.operator) == dict.fromkeys(STORES, ids[0])
    assert alarms(four) == ["GET /watch", "GET /watch/start"]
    verified = four.doit("backup_verify", "--all")
    assert (verified.status, verified.out.count("opened, checked and restorable")) == (0, 4), verified.err
    table = four.doit("backup_list").out
    assert re.search(rf"(?m)^{ids[0]} .* disk, bucket, plain, crypt +server-1 \(etcd\) .* \d+ s ago +-$", table)
    assert "cannot share a schedule" not in done.err  # of nobody asked for a schedule
    assert seen == []


# --- k3s lies


FAILED = ["GET /watch/start", "POST /watch/fail", "command:failed", "webhook:failed"]


@pytest.mark.parametrize(
    ("lies", "said"),
    [
        (("", "empty"), ("k3s said that it saved a snapshot, and there is none", "is empty")),
        (("half", "part"), ("the snapshot", "k3s did not complete its snapshot")),
    ],
)
def test_a_server_that_says_it_saved_is_not_believed_and_another_one_gives_the_backup(
    one: Scene, lies: tuple[str, str], said: tuple[str, str]
) -> None:
    with lying(one.lab, *lies):
        done = one.doit("backup")
    assert (done.status, len(made(done))) == (1, 1), done.err
    for host, why in zip(SERVERS, said, strict=False):
        assert re.search(rf"(?m)^{host}: .*{why}", done.err), done.err
    manifest = one.manifest(made(done)[0])
    assert (manifest.server, manifest.lacks) == ("server-3", ())
    assert newest(one) == made(done)[0]
    assert alarms(one) == FAILED
    assert one.stray() + one.sentinels() == []


def test_where_all_servers_lie_there_is_no_backup_and_the_newest_good_one_stays(one: Scene) -> None:
    before = newest(one)
    with lying(one.lab, "rotten", "", "half"):
        done = one.doit("backup")
    assert (done.status, made(done)) == (1, [])
    assert [name for name in SERVERS if re.search(rf"(?m)^{name}: (?!takes|proves)", done.err)] == SERVERS
    assert (newest(one), left_in(one), one.stray()) == (before, set(), [])
    assert alarms(one) == FAILED


def test_a_token_that_is_not_the_clusters_is_refused(one: Scene) -> None:
    """k3s itself does not look at the file while it runs; with that token nobody could restore."""
    before = newest(one)
    saved = {host: one.lab.read(host, f"cat {TOKEN}") for host in SERVERS}
    try:
        for host in SERVERS:
            one.lab.read(host, f"sed -i 's/::server:.*/::server:{'0' * 64}/' {TOKEN}")
        done = one.doit("backup")
    finally:
        for host, token in saved.items():
            one.lab.shell(host, f"umask 077; cat >{TOKEN}", f"{token}\n".encode())
    assert (done.status, made(done)) == (1, [])
    assert done.err.count("is not the one that the snapshot is sealed by") == 3
    assert (newest(one), left_in(one)) == (before, set())


# In place of k3s: objects are gone while the snapshot is taken, and back when the cluster is asked again.
WRAPPER = """\
#!/bin/sh
[ "$1 $2" = "etcd-snapshot save" ] || exec /opt/bin/k3s.real "$@"
/opt/bin/k3s.real kubectl delete configmap -l lost=x >&2
/opt/bin/k3s.real "$@"
status=$?
/opt/bin/k3s.real kubectl apply -f /run/objects.yaml >&2
exit $status
"""


def test_a_snapshot_with_other_counts_than_the_cluster_is_noticed(one: Scene) -> None:
    before = newest(one)
    for host in SERVERS:
        assert one.lab.shell(host, "cat >/run/objects.yaml", OBJECTS.encode()).status == 0
        one.lab.read(host, "mv /opt/bin/k3s /opt/bin/k3s.real")
        assert one.lab.shell(host, "cat >/opt/bin/k3s; chmod 755 /opt/bin/k3s", WRAPPER.encode()).status == 0
    try:
        done = one.doit("backup")
    finally:
        for host in SERVERS:
            one.lab.read(host, "mv /opt/bin/k3s.real /opt/bin/k3s")
    assert (done.status, made(done)) == (1, [])
    assert done.err.count("the snapshot does not agree with the cluster: configmaps: the snapshot has ") == 3
    assert (newest(one), left_in(one)) == (before, set())


# --- files


PATHS = """\
  stores: [{{name: disk, folder: {place}/disk}}]
  paths:
    - path: /srv/app
      hosts: [server-2]
      before: touch /srv/app/quiet
      after: rm /srv/app/quiet; echo x >/srv/after
    - {{path: /srv/volumes, hosts: [agent-1]}}
    - {{path: /srv/nowhere}}
"""


def members(content: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {entry.name: entry for entry in tar}


@pytest.fixture
def files(one: Scene) -> Scene:
    """A server and an agent have files to back up, one of them with commands around."""
    one.lab.read("server-2", "mkdir -p /srv/app && echo data >/srv/app/file && rm -f /srv/after")
    one.lab.read("agent-1", "mkdir -p /srv/volumes/v && cd /srv/volumes/v && echo data >file && chown 1234:2345 file "
                 "&& chmod 2640 file && ln -sf file link && ln -f file hard && "
                 "python3 -c 'import os; os.setxattr(\"file\", \"user.note\", b\"kept\")'")  # fmt: skip
    return told_of(one, PATHS.format(place=one.place))


def test_files_of_a_server_and_of_an_agent_are_in_it_and_the_manifest_says_how_they_were_read(files: Scene) -> None:
    backup = files.backs_up()
    manifest = files.manifest(backup)
    told = {part.name: (part.host, part.path, part.consistency) for part in manifest.parts if part.what == "path"}
    assert sorted(told.values()) == [
        ("agent-1", "/srv/volumes", bundle.CRASH),
        ("server-2", "/srv/app", bundle.QUIESCED),
    ]
    app, volumes = (files.read(backup, name) for name in sorted(told, key=lambda name: told[name][1]))
    assert {"srv/app/file", "srv/app/quiet"} <= members(app).keys()  # so `before` had run when it was read
    file = members(volumes)["srv/volumes/v/file"]
    hard = members(volumes)["srv/volumes/v/hard"]
    either = file if file.isreg() else hard
    assert (either.uid, either.gid, either.mode, either.size) == (1234, 2345, 0o2640, 5)
    assert either.pax_headers["SCHILY.xattr.user.note"] == "kept"
    assert {file.islnk(), hard.islnk()} == {True, False}
    assert members(volumes)["srv/volumes/v/link"].linkname == "file"
    assert files.lab.read("server-2", "cat /srv/after; ls /srv/app") == "x\nfile"
    assert files.doit("backup_verify").status == 0


def test_the_hosts_part_has_the_tokens_configs_and_passwords_of_all_hosts(one: Scene) -> None:
    names = members(one.read(one.backs_up(), bundle.HOSTS)).keys()
    assert {f"{host}/{TOKEN.strip('/')}" for host in SERVERS} <= names
    assert {f"{host}/etc/rancher/node/password" for host in HOSTS} <= names
    assert {f"{host}/etc/rancher/k3s/config.yaml" for host in SERVERS} <= names or {
        f"{host}/etc/i12e/host.json" for host in HOSTS
    } <= names


def test_a_command_before_that_fails_loses_the_path_and_not_the_backup(files: Scene) -> None:
    files.operator.edit("hosts/lab/cluster.yaml", "touch /srv/app/quiet", "echo it is locked >&2; exit 3")
    done = files.doit("backup")
    assert (done.status, len(made(done))) == (1, 1)
    why = "the backup lacks /srv/app of server-2: the command before it failed: it is locked"
    assert why in done.err
    assert files.manifest(made(done)[0]).lacks == (why.partition("lacks ")[2],)
    assert files.lab.read("server-2", "cat /srv/after") == "x"  # what `before` may have begun is ended
    assert "webhook:failed" in alarms(files)
    assert why.partition("the backup ")[2] in files.doit("backup_list").out


def test_a_command_after_that_fails_is_told_and_the_path_is_there(files: Scene) -> None:
    files.operator.edit(
        "hosts/lab/cluster.yaml", "rm /srv/app/quiet;", "rm /srv/app/quiet; echo it does not start >&2; exit 4;"
    )
    done = files.doit("backup")
    assert (done.status, len(made(done))) == (1, 1)
    assert "server-2: the command after /srv/app failed: it does not start" in done.err
    manifest = files.manifest(made(done)[0])
    assert (manifest.lacks, [part.path for part in manifest.parts if part.host == "server-2"]) == ((), ["/srv/app"])


def test_a_path_that_is_missing_on_a_host_that_is_named_is_told(files: Scene) -> None:
    files.operator.edit("hosts/lab/cluster.yaml", "{path: /srv/nowhere}", "{path: /srv/nowhere, hosts: [agent-1]}")
    done = files.doit("backup")
    assert (done.status, len(made(done))) == (1, 1)
    assert "the backup lacks /srv/nowhere of agent-1: it is not there" in done.err


def test_a_silent_agent_is_told_and_the_backup_counts_without_it(files: Scene) -> None:
    files.lab.fault("agent-1", "unreachable")
    try:
        done = files.doit("backup")
    finally:
        files.lab.fault("agent-1", "unreachable", on=False)
    assert (done.status, len(made(done))) == (1, 1), done.err
    backup = made(done)[0]
    lacks = files.manifest(backup).lacks
    told = {text.partition(" of agent-1: ")[0] for text in lacks}
    assert told == {"the files", "/srv/volumes", "/srv/nowhere"}
    assert done.err.count("the backup lacks ") == 3
    assert newest(files) == backup


# --- it breaks off


def values(scene: Scene) -> dict[str, str]:
    """Return all that is secret: with the values of the sentinels that are in the cluster now."""
    found = json.loads(kubectl(scene.lab, "-n kube-system get secret -l i12e/sentinel=true -o json"))["items"]
    sentinels = {item["metadata"]["name"]: base64.b64decode(item["data"]["value"]).decode() for item in found}
    for store in ("disk", "two"):
        for each in backups.survey(Place(Folder(store, scene.place / store), "lab")):
            if each.is_good:
                sentinels[each.id] = bundle.read_index(scene.read(each.id, bundle.INDEX, store)).sentinel["value"]
    return scene.secrets | sentinels


def plain(scene: Scene) -> list[str]:
    """Return where something secret lies in clear on this machine, but for the configs that hosts are to get."""
    root = scene.operator.root
    places = [
        root,
        scene.place / "t",
        *(scene.place / name for name in ("disk", "two", "plain", "crypt", "weed", "alarm")),
    ]
    own = scene.place / "weed/s3.json"  # the server's own configuration
    return backing.leaks(
        values(scene), places, scene.began, lambda path: path == own or root / "build/lab/hosts" in path.parents
    )


def test_killed_at_any_moment_the_newest_good_backup_stays_and_nothing_lies_around(two: Scene) -> None:
    """A kill -9 at moments all over a backup, each followed by what the stores say then, and by one that succeeds."""
    two.backs_up()
    began = time.monotonic()
    two.backs_up()
    whole = time.monotonic() - began
    chance = random.Random(6)  # noqa: S311  # a sample that is the same each time
    moments = [(n + chance.random()) / KILLS * whole for n in range(KILLS)]
    chance.shuffle(moments)
    before = good(two.operator)
    for moment in moments:
        process = two.operator.start("backup")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=moment)
        process.kill()
        out, err = process.communicate()
        two.said.append(out + err)
        after = good(two.operator)
        assert all(after[name] >= before[name] for name in ("disk", "bucket"))  # an id begins with its time
        before = after
        assert plain(two) == []
    for left in two.stray():
        host, _, path = left.partition(": ")
        (name,) = re.findall(r"i12e-(\d{8}T\d{6}Z-[0-9a-f]{6})", path)
        two.lab.read(
            host, f"systemctl is-active i12e-backup-{name}.timer && systemctl start i12e-backup-{name}.service"
        )
    assert two.stray() == []
    last = two.backs_up()
    assert good(two.operator) == {"disk": last, "bucket": last}
    assert two.doit("backup_verify").status == 0
    around = {re.sub(r"-\w+$", "", path.name) for path in (two.place / "t").iterdir()}
    assert around <= {"i12e-ssh"}  # sockets of connections that are no more: they go after a minute
    # Sentinels go with a backup when they are an hour old: until then somebody may be at work who needs them.
    kubectl(two.lab, "-n kube-system delete secret -l i12e/sentinel=true --ignore-not-found")


@pytest.mark.parametrize(
    ("number", "status", "when"),
    [
        (signal.SIGTERM, 143, "takes a snapshot"),
        (signal.SIGINT, 130, "seals and stores cluster"),
        (signal.SIGTERM, 143, "reads back"),
    ],
)
def test_one_that_is_told_to_end_cleans_up_at_once_and_tells(one: Scene, number: int, status: int, when: str) -> None:
    before = newest(one)
    process = one.operator.start("backup")
    said = until(process, when)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == status, said + err
    assert "Traceback" not in err
    assert (newest(one), left_in(one), one.sentinels()) == (before, set(), [])
    assert alarms(one) == FAILED
    one.backs_up()  # nobody holds the lease
    assert one.stray() == []


def test_what_a_killed_one_left_on_a_server_goes_with_the_next(one: Scene) -> None:
    one.lab.read("server-1", f"mkdir -p {SNAPSHOTS}; touch -d '-11 min' {SNAPSHOTS}/i12e-x-server-1-1 {SNAPSHOTS}/mine")
    one.backs_up()
    assert one.lab.read("server-1", f"ls {SNAPSHOTS}") == "mine"


# --- no room


def test_a_full_disk_of_a_server_is_told_and_another_one_gives_the_backup(one: Scene) -> None:
    one.lab.read("server-1", f"mount -t tmpfs -o size=64k,mode=700 full {SNAPSHOTS}")
    try:
        done = one.doit("backup")
        assert one.stray() == []
    finally:
        one.lab.read("server-1", f"umount {SNAPSHOTS}")
    assert (done.status, len(made(done))) == (1, 1), done.err
    assert "no space left on device" in done.err
    assert one.manifest(made(done)[0]).server == "server-2"


@contextlib.contextmanager
def tmpfs(path: Path, size: str) -> Iterator[Path]:
    """Have a file system of a size until the block ends."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "small", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)
        path.rmdir()


def test_a_full_store_is_told_and_keeps_what_it_has(one: Scene) -> None:
    with tmpfs(one.place / "small", "48k") as small:
        told_of(one, f"  stores: [{{name: small, folder: {small}/store}}, {{name: disk, folder: {one.place}/disk}}]\n")
        done = one.doit("backup")
        assert (done.status, len(made(done))) == (1, 1), done.err
        assert re.search(r"(?m)^small: .*No space left on device", done.err), done.err
        assert [path.name for path in (small / "store/lab").rglob("*.age")] == []
        assert listing(one.operator, "--store", "small") == {"small": []}


def test_a_full_disk_of_the_operator_is_told_and_nothing_counts(one: Scene) -> None:
    before = newest(one)
    with tmpfs(one.place / "narrow", "32m") as small:
        other = another_clone(one.operator, small / "clone")
        assert other.doit().status == 0
        free = shutil.disk_usage(small).free
        (small / "fill").write_bytes(b"x" * (free - 150_000))
        done = other.doit("backup")
    assert (done.status, made(done)) == (1, [])
    assert "No space left on device" in done.err
    assert "Traceback" not in done.err
    assert (newest(one), left_in(one), one.stray(), one.sentinels()) == (before, set(), [], [])
    assert "webhook:failed" in alarms(one)


# --- os_deploy's gate


def boots(scene: Scene) -> dict[str, int]:
    return {host: state["boots"] for host, state in scene.lab.status().items()}


def relabelled(scene: Scene) -> None:
    """Change agent-1's config, so that it is to be reset."""
    path = scene.operator.root / "hosts/lab/agent-1.yaml"
    text = re.sub(r"(?m)^labels: .*\n", "", path.read_text())
    path.write_text(f"{text}labels: {{round: r{time.monotonic_ns()}}}\n")


def test_a_host_is_reset_with_the_fresh_backup_that_there_is(one: Scene) -> None:
    backup = one.backs_up()
    relabelled(one)
    done = one.doit("os_deploy:agent-1", "--yes", "--timeout", "90s")
    assert (done.status, f"the backup to go back to is {backup}" in done.err) == (0, True), done.err
    assert newest(one) == backup


def test_a_host_is_reset_after_a_backup_if_the_newest_one_is_old(one: Scene) -> None:
    place = Place(Folder("disk", one.place / "disk"), "lab")
    for each in backups.survey(place):
        if each.is_good and each.manifest is not None:
            older = dataclasses.replace(each.manifest, at=each.manifest.at - 4000)
            (one.place / "disk" / place.part(each.id, bundle.MANIFEST)).write_bytes(older.content())
    before = newest(one)
    relabelled(one)
    done = one.doit("os_deploy:agent-1", "--yes", "--timeout", "90s")
    after = newest(one)
    assert (done.status, before != after, f"the backup to go back to is {after}" in done.err) == (0, True, True), (
        done.err
    )


def test_no_host_is_reset_while_no_backup_can_be_taken_unless_a_reason_is_given(one: Scene) -> None:
    relabelled(one)
    before = boots(one)
    told_of(one, f"  stores: [{{name: disk, folder: {one.place}/not/mounted}}]\n")
    failing = one.doit("os_deploy:agent-1", "--yes", "--timeout", "90s")
    assert failing.status == 1
    assert f"there is no folder {one.place}/not in which mounted could be made" in failing.err
    assert "no fresh backup, so nothing was reset (mend that, or say why" in failing.err
    assert "webhook:failed" in alarms(one)
    path = one.operator.root / "hosts/lab/cluster.yaml"
    with_keys = path.read_text()
    path.write_text(re.sub(r"(?m)^  recipients: .*\n", "", with_keys))
    nobody = one.doit("os_deploy:agent-1", "--yes", "--timeout", "90s")
    path.write_text(with_keys)
    assert (nobody.status, "./doit backup_keys makes a key" in nobody.err) == (1, True), nobody.err
    assert boots(one) == before
    reason = "it holds nothing yet"
    done = one.doit("os_deploy:agent-1", "--yes", "--timeout", "90s", "--no-backup", reason)
    assert done.status == 0, done.err
    assert f"--no-backup: {reason}: agent-1 will be reset without a fresh one" in done.err
    assert boots(one) == before | {"agent-1": before["agent-1"] + 1}


def test_nothing_secret_was_said_or_lies_in_clear_after_all_that(scene: Scene) -> None:
    found = values(scene)
    assert len(found) > 10
    assert backing.in_text(found, "".join(scene.said)) == []
    assert plain(scene) == []


# --- SQLite


@pytest.fixture(scope="module")
def single(place: Path) -> Iterator[Scene]:
    """One server with SQLite."""
    operator = clone(place / "single")
    with running(operator.root / LAB_MACHINES, ["server-1"]) as lab, backing.listening() as heard:
        environment.write(operator.root, lab, 1, 0)
        path = operator.root / "hosts/lab/cluster.yaml"
        path.write_text(path.read_text().replace("datastore: etcd", "datastore: sqlite"))
        operator.deploys()
        kubectl(lab, "apply -f -", OBJECTS)
        scene = Scene(operator, lab, place / "sqlite", heard, began=time.time())
        scene.place.mkdir(exist_ok=True)
        scene.cluster_file(f"  stores: [{{name: disk, folder: {scene.place}/disk}}]\n")
        yield scene


def rows(scene: Scene, backup: str) -> set[str]:
    """Return the names of the rows of a backup's database, as SQLite itself reads it."""
    file = scene.place / "read.db"
    file.write_bytes(scene.read(backup, bundle.DATABASE))
    with contextlib.closing(sqlite3.connect(file)) as database:
        found = {name for (name,) in database.execute("select name from kine where deleted = 0")}
    file.unlink()
    return found


def test_sqlite_is_backed_up_while_it_runs(single: Scene) -> None:
    mark = f"{DATABASES}/i12e-cluster"
    single.lab.read("server-1", f"touch -d '-1 hour' {mark} {DATABASES}/i12e-old.db")
    kubectl(single.lab, "create configmap of-late --from-literal=a=b")
    backup = single.backs_up()
    assert (single.manifest(backup).datastore, single.manifest(backup).method) == ("sqlite", "sqlite-online")
    assert {"/registry/configmaps/default/c0", "/registry/configmaps/default/of-late"} <= rows(single, backup)
    assert single.lab.read("server-1", f"ls -d {DATABASES}/i12e-*") == mark
    assert single.doit("backup_verify").status == 0


# How often the row is in the database without its log.
LOOK = """
import shutil, sqlite3
shutil.copy("/var/lib/rancher/k3s/server/db/state.db", "/tmp/alone.db")
database = sqlite3.connect("file:/tmp/alone.db?immutable=1", uri=True)
there = database.execute("select count(*) from sqlite_master where name = 'kine'").fetchone()[0]
print(database.execute("select count(*) from kine where name like '%/NAME'").fetchone()[0] if there else 0)
"""


@pytest.fixture
def bare(single: Scene) -> Iterator[Scene]:
    """As on Flatcar, root has neither sqlite3 nor python3; k3s takes some seconds to stop."""
    single.lab.read("server-1", "mkdir -p /opt/few && ln -sf /usr/bin/* /usr/sbin/* /opt/few && "
                    "rm -f /opt/few/python3* /opt/few/sqlite3* && "
                    "echo 'Defaults secure_path=/opt/few' >/etc/sudoers.d/few && "
                    "mkdir -p /run/systemd/system/k3s.service.d && "
                    "printf '[Service]\nExecStopPost=/bin/sleep 3\n' >/run/systemd/system/k3s.service.d/slow.conf && "
                    "systemctl daemon-reload")  # fmt: skip
    yield single
    single.lab.read("server-1", "rm -r /opt/few /etc/sudoers.d/few /run/systemd/system/k3s.service.d && "
                    "systemctl daemon-reload")  # fmt: skip


def answers(scene: Scene) -> bool:
    """Whether k3s is up again."""
    return scene.lab.shell("server-1", f"{K3S} get ns kube-system").status == 0


def test_where_nothing_can_copy_sqlite_k3s_is_stopped_for_it_and_nothing_of_the_wal_is_lost(bare: Scene) -> None:
    pid = bare.lab.read("server-1", "systemctl show -p MainPID --value k3s")
    name = f"in-the-wal-{time.time_ns()}"
    kubectl(bare.lab, f"create configmap {name} --from-literal=a=b")
    assert bare.lab.shell("server-1", "python3 -", LOOK.replace("NAME", name).encode()).output == "0\n"
    backup = bare.backs_up()
    assert bare.manifest(backup).method == "sqlite-stopped"
    assert f"/registry/configmaps/default/{name}" in rows(bare, backup)
    assert bare.lab.read("server-1", "systemctl is-active k3s") == "active"
    assert bare.lab.read("server-1", "systemctl show -p MainPID --value k3s") != pid
    assert bare.lab.shell("server-1", f"systemctl list-timers --all | grep {backup}").output == ""
    assert bare.doit("backup_verify").status == 0


def test_k3s_starts_again_when_the_operator_is_killed_while_it_is_stopped(bare: Scene) -> None:
    process = bare.operator.start("backup")
    wait(lambda: bare.lab.shell("server-1", "systemctl is-active k3s").output.strip() == "deactivating")
    process.kill()
    process.communicate()
    wait(lambda: answers(bare))
    wait(lambda: bare.stray_of("server-1") == [])


def test_k3s_starts_again_by_a_timer_when_the_script_on_the_host_is_killed_too(bare: Scene) -> None:
    process = bare.operator.start("backup")
    wait(lambda: bare.lab.shell("server-1", "systemctl is-active k3s").output.strip() == "deactivating")
    process.kill()
    process.communicate()
    bare.lab.read("server-1", "pkill -9 -f 'i12e-backup-[s]tart'")
    wait(lambda: bare.lab.shell("server-1", "systemctl is-active k3s").output.strip() == "inactive")
    timer = bare.lab.read("server-1", "systemctl list-units --no-legend --plain 'i12e-backup-start-*.timer'").split()[0]
    assert "OnActiveUSec=2min" in bare.lab.read("server-1", f"systemctl show -p TimersMonotonic {timer}")
    bare.lab.read("server-1", f"systemctl start {timer.replace('.timer', '.service')}")  # what it does when it is time
    wait(lambda: answers(bare))
