"""docs/backups.md is true: its settings are taken, its policies suffice, its messages are those that i12e says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import bundles
from conftest import ROOT
from i12e import backup_list, backups, settings
from i12e.backups import Mark, Place
from i12e.patience import Patience
from i12e.s3 import S3
from i12e.stores import Refused
from memorystore import Memory
from test_json import same_shape

PAGE = (ROOT / "docs/backups.md").read_text()
POLICIES = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def messages() -> list[str]:
    """Return the pieces of the messages that the last table lists, without what differs from case to case."""
    rows = PAGE[PAGE.index("## When it says") :].splitlines()
    texts = [text for row in rows if row.startswith("| `") for text in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    differs = r"\.\.\.|NAME|/srv/data of agent-1: it is not there|age1|, for 3 min.*| \d+ |\(backup"
    return [piece.strip() for text in texts for piece in re.split(differs, text) if len(piece.strip()) > 7]


@pytest.mark.parametrize("text", re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
def test_the_settings_are_ones_that_i12e_takes(text: str) -> None:
    _, faults = settings.check(settings.Backup, yaml.safe_load(text)["backup"])
    assert not faults


def test_every_message_of_the_table_is_one_of_the_code() -> None:
    code = "".join(path.read_text() for path in (ROOT / "lib/i12e").glob("*.py"))
    found = messages()
    assert len(found) > 20
    assert [each for each in found if each not in code] == []


class Bucket(S3):
    """A bucket whose body moto can read in its own process."""

    def _asked(self, key: str, operation: str, **parameters: Any) -> Any:
        if isinstance(parameters.get("Body"), bytearray):
            parameters["Body"] = bytes(parameters["Body"])
        return super()._asked(key, operation, **parameters)


def bounded(policy: str, act: Callable[[S3], None]) -> None:
    """Given a policy, let somebody act who may do what it says and nothing else; moto minds it."""
    import boto3
    from moto import mock_aws
    from moto.core import set_initial_no_auth_action_count

    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="my-backups")
        iam = boto3.client("iam")
        iam.create_user(UserName="backup")
        iam.put_user_policy(UserName="backup", PolicyName="backup", PolicyDocument=policy)
        key = iam.create_access_key(UserName="backup")["AccessKey"]
        where = SimpleNamespace(
            bucket="my-backups", region="us-east-1", endpoint=None, path_style=False, prefix="i12e", lock_days=None
        )
        credentials = {"access_key": key["AccessKeyId"], "secret_key": key["SecretAccessKey"]}
        store = Bucket("aws", where, credentials, Patience(print, limit=0.0), parts=((10_000, 5 << 20),))
        set_initial_no_auth_action_count(0)(act)(store)


def back_up(store: S3) -> None:
    """Do to a bucket what a backup does."""
    store.probe()
    assert store.shares
    store.swap("home/lease.json", b"2", store.create("home/lease.json", b"1"))
    store.put("home/backups/a/big", [bytes(6 << 20)])
    store.put("home/backups/a/small", [b"s"])
    assert len(b"".join(store.read("home/backups/a/big"))) == 6 << 20
    store.create("home/backups/a/manifest.json", b"m")
    assert store.get("home/backups/a/manifest.json")[0] == b"m"
    assert len(store.list("home/")) == 4


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.mark.slow  # of moto the import alone
def test_the_first_policy_suffices_for_backups_and_prunes_and_for_nothing_else() -> None:
    def act(store: S3) -> None:
        back_up(store)
        assert store.locked_until("home/backups/a/big") is None
        store.delete("home/backups/a/big")
        assert store.sweep(0.0) == []
        with pytest.raises(Refused):
            store._asked("", "put_object", Key="elsewhere", Body=b"")

    bounded(POLICIES[0], act)


@pytest.mark.slow
def test_the_second_policy_suffices_for_backups_and_deletes_none() -> None:
    def act(store: S3) -> None:
        back_up(store)
        with pytest.raises(Refused):
            store.delete("home/backups/a/small")
        assert store.get("home/backups/a/small")[0] == b"s"

    bounded(POLICIES[1], act)


def test_what_a_store_has_is_told_in_json_as_documented(tmp_path: Path) -> None:
    page = (ROOT / "docs/json.md").read_text()
    found = re.search(r"^## Backups.*?^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert found
    world = bundles.world(tmp_path / "checkout", count=20)
    place = Place(Memory(), world.cluster.name)
    made = bundles.make(world, place)
    place.mark(made, backups.VERIFIED, Mark(1.0, "me", True))
    told = [json.loads(json.dumps(backup_list.as_json(backup_list._shelf(place, world.cluster))))]
    assert told[0]["backups"][0]["backup"] == made
    same_shape(json.loads(found[1]), told)
