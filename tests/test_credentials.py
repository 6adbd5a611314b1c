"""The credentials of stores: what was written is what is used, or it is told; no value is ever shown."""

from __future__ import annotations

from typing import Any

import pytest

from i12e.credentials import KEYS, of_stores
from i12e.errors import UserError
from i12e.secrets import Group
from i12e.settings import S3, STORES, Store

PATH = "secrets/backup.yaml"
ALL = (
    Store(name="nas", folder="/mnt/nas"),
    Store(name="aws", s3=S3(bucket="my-backups")),
    Store(name="cloud", rclone="b2:x"),
)


def read(values: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Given what the secret file says, return the credentials, revealed."""
    found = of_stores(ALL, Group("backup", values), PATH)
    return {name: {key: value.reveal() for key, value in of_one.items()} for name, of_one in found.items()}


def test_each_kind_of_store_is_known() -> None:
    assert {*KEYS} == {*STORES}


def test_what_is_there_is_given_to_its_store() -> None:
    values = {"aws": {"access_key": "AKIA", "secret_key": "s"}, "cloud": {"rclone_conf": "[b2]\ntype = b2\n"}}
    assert read(values) == values
    assert read({}) == read({"aws": None}) == read({"aws": {}}) == {}
    more = {"aws": {"access_key": "AKIA", "secret_key": 5, "session_token": "t"}}
    assert read(more) == {"aws": {"access_key": "AKIA", "secret_key": "5", "session_token": "t"}}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"awss": {"access_key": "planted"}}, "awss: is no store of this cluster (did you mean aws?)"),
        ({"x": "planted"}, "x: is no store of this cluster (there are nas, aws, cloud)"),
        ({"nas": {"password": "planted"}}, "nas: is a folder, which takes no credentials (delete it)"),
        ({"aws": "planted"}, "aws: is not a mapping (write aws: {access_key: ..., secret_key: ...})"),
        (
            {"aws": {"access_kye": "planted", "access_key": "a", "secret_key": "b"}},
            "aws.access_kye: is not a known key (did you mean access_key?)",
        ),
        (
            {"aws": {"access_key": "planted"}},
            "aws.secret_key: is missing (access_key and secret_key go together; without both, AWS's own settings hold)",
        ),
        (
            {"cloud": {"rclone_conf": " "}},
            "cloud.rclone_conf: is empty, or no text (give it a value, or delete the key)",
        ),
        (
            {"cloud": {"rclone_conf": {"type": "planted"}}},
            "cloud.rclone_conf: is empty, or no text (give it a value, or delete the key)",
        ),
        ({"cloud": {"secret_key": "planted"}}, "cloud.secret_key: is not a known key (known: rclone_conf)"),
    ],
)
def test_what_no_store_would_take_is_told_without_its_value(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        read(values)
    assert str(caught.value) == f"{PATH}: {said}"
    assert "planted" not in str(caught.value)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        read({"aws": {"key": "a"}, "x": None})
    assert len(caught.value.problems) == 4
