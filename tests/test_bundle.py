"""The format of backups: what was written is read, and nothing else is (docs/backup-format.md)."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i12e import age, bundle
from i12e.bundle import Index, Manifest, Part, Sums
from i12e.damaged import Damaged

ID = "20261126T223000Z-0a1b2c"
SHA = hashlib.sha256(b"x").hexdigest()


def manifest(**more: object) -> Manifest:
    names = (bundle.INDEX, bundle.KEY, bundle.DATABASE, bundle.CLUSTER, bundle.HOSTS)
    parts = tuple(Part(name, 10 + at, SHA, name.partition(".")[0]) for at, name in enumerate(names))
    made = Manifest(
        id=ID, cluster="home", uid="6e0c", at=1_790_000_000, seconds=12.5, by="me@laptop", server="server-1",
        i12e="0.1.0", k3s="v1.35.4+k3s1", datastore="etcd", method="etcd-snapshot", revision=4711, token="b4b83cda3099",
        number=17, slot="2026-11-26T18:00:00Z", recipients=("age1x",), parts=parts,
        objects={"pods": 12, "secrets": 3}, hosts={"server-1": "ab"}, lacks=(),
    )  # fmt: skip
    return dataclasses.replace(made, **more)  # type: ignore[arg-type]


def index(of: Manifest) -> Index:
    sealed = {part.name: part.sha256 for part in of.parts if part.name != bundle.INDEX}
    plain = {name: Sums(5, SHA) for name in sealed if name != bundle.KEY}
    sentinel = {"namespace": "kube-system", "name": "i12e-sentinel-1", "key": "value", "value": "00ff"}
    return Index(of.id, of.cluster, of.uid, of.token, sentinel, plain, sealed, (of.essence,))


def test_a_manifest_is_read_as_it_was_written() -> None:
    made = manifest()
    assert bundle.read_manifest(made.content(), ID) == made
    gone = bundle.Abandoned(ID, "other@host", 1_790_000_001, 18)
    assert bundle.read_manifest(gone.content(), ID) == gone


def test_the_hash_of_a_manifest_is_told_by_a_shell(tmp_path: Path) -> None:
    place = tmp_path / "manifest.json"
    place.write_bytes(manifest().content())
    script = (
        "grep -v '^  \"sha256\": ' manifest.json | sha256sum | cut -d' ' -f1; "
        "grep '^  \"sha256\": ' manifest.json | cut -d'\"' -f4"
    )
    done = subprocess.run(["/bin/sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    told, written = done.stdout.split()
    assert told == written


@pytest.mark.parametrize("text", [manifest().content(), bundle.Abandoned(ID, "x", 1, 2).content()])
def test_no_bit_of_a_manifest_changes_unnoticed(text: bytes) -> None:
    for place in range(len(text)):
        spoilt = bytearray(text)
        spoilt[place] ^= 1 << place % 8
        with pytest.raises(Damaged):
            bundle.read_manifest(bytes(spoilt), ID)


def test_no_byte_of_a_manifest_is_lost_or_added_unnoticed() -> None:
    text = manifest().content()
    for place in range(len(text)):
        for spoilt in (text[:place], text[:place] + text[place + 1 :], text[:place] + b" " + text[place:]):
            with pytest.raises(Damaged):
                bundle.read_manifest(spoilt, ID)


def test_a_manifest_in_the_place_of_another_backup_is_none() -> None:
    with pytest.raises(Damaged, match="another backup"):
        bundle.read_manifest(manifest().content(), "20261126T223000Z-ffffff")


def test_a_manifest_that_lacks_a_part_or_names_one_twice_is_none() -> None:
    parts = manifest().parts
    for wrong in (parts[1:], parts[:-1], (*parts, parts[0]), (*parts, dataclasses.replace(parts[0], name="../x.age"))):
        with pytest.raises(Damaged):
            bundle.read_manifest(manifest(parts=wrong).content(), ID)


@pytest.mark.parametrize(
    "edit",
    [
        {"objects": []},
        {"objects": None},
        {"parts": [5]},
        {"parts": 5},
        {"recipients": "age1x"},
        {"at": 10**400},
        {"at": -1},
        {"number": 1 << 63},
        {"hosts": {"a": {}}},
        {"seconds": float("nan")},
        {"abandoned": True},
    ],
    ids=str,
)
def test_what_a_liar_writes_with_the_right_hash_is_damaged_and_no_bug(edit: dict[str, object]) -> None:
    document = json.loads(manifest().content())
    del document["sha256"]
    with pytest.raises(Damaged):
        bundle.read_manifest(bundle._written({**document, **edit}), ID)
    with pytest.raises(Damaged):
        bundle.read_index(json.dumps({**json.loads(index(manifest()).content()), "plain": [], "sealed": 5}).encode())


@given(st.binary(max_size=300))
def test_what_is_no_manifest_is_damaged_and_no_bug(content: bytes) -> None:
    with pytest.raises(Damaged):
        bundle.read_manifest(content, ID)
    with pytest.raises(Damaged):
        bundle.read_index(content)


def test_an_index_tells_a_manifest_that_is_not_its_own() -> None:
    made = manifest()
    own = index(made)
    assert bundle.read_index(own.content()) == own
    bundle.agree(made, own)
    swapped = list(made.parts)
    swapped[2] = dataclasses.replace(swapped[2], sha256=hashlib.sha256(b"other").hexdigest())
    edits: list[dict[str, object]] = [
        {"uid": "other"}, {"cluster": "other"}, {"token": "other"}, {"parts": tuple(swapped)}, {"number": 18},
        {"at": 1}, {"objects": {"pods": 11, "secrets": 3}}, {"slot": ""}, {"lacks": ("all",)},
        {"parts": made.parts[::-1]},
    ]  # fmt: skip
    for edit in edits:
        with pytest.raises(Damaged):
            bundle.agree(manifest(**edit), own)
    with pytest.raises(Damaged):
        bundle.agree(made, dataclasses.replace(own, plain={}))


def _blocks(content: bytes, sizes: random.Random) -> Iterator[bytes]:
    at = 0
    while at < len(content):
        size = sizes.randrange(1, 700_000)
        yield content[at : at + size]
        at += size


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("content", [b"", b"x", os.urandom(2_500_000), bytes(5_000_000), b"k3s " * 700_000])
def test_a_part_is_opened_to_what_was_sealed(content: bytes, gz: bool) -> None:
    private, recipient = age.make()
    sizes = random.Random(len(content))  # noqa: S311  # how the blocks are cut
    sealed: list[bytes] = []
    plain_sums, sealed_sums = bundle.seal(_blocks(content, sizes), [recipient], gz, sealed.append)
    assert plain_sums == Sums(len(content), hashlib.sha256(content).hexdigest())
    whole = b"".join(sealed)
    assert sealed_sums == Sums(len(whole), hashlib.sha256(whole).hexdigest())
    found: list[bytes] = []
    assert bundle.unseal(_blocks(whole, sizes), [private], gz, found.append) == (plain_sums, sealed_sums)
    assert b"".join(found) == content
    if gz:
        assert gzip.decompress(age.open_small(whole, [private])) == content
    assert max(map(len, found), default=0) <= 1 << 20


def test_what_can_be_compressed_is_and_the_rest_does_not_grow() -> None:
    text, noise = b"the same again and again" * 200_000, os.urandom(4_000_000)
    assert len(b"".join(bundle.squeezed([text]))) < len(text) / 50
    assert len(b"".join(bundle.squeezed([noise]))) < len(noise) * 1.001


def test_a_part_that_is_cut_or_no_gzip_is_damaged() -> None:
    private, recipient = age.make()
    for content in (b"", b"no gzip", gzip.compress(b"x" * 1000)[:-3], gzip.compress(b"x" * 1000) + b"more"):
        with pytest.raises(Damaged):
            bundle.unseal([age.seal_small(content, [recipient])], [private], True, lambda block: None)
