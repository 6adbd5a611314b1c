"""The store on S3, against a real object store, a simulated S3, and a proxy that breaks what it hands on."""

from __future__ import annotations

import base64
import datetime as dt
import email.utils
import hashlib
import re
import secrets
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from faulty import Answer, Forward, Proxy, Request, failing, faulty, losing
from i12e import openstore, s3
from i12e.patience import Patience
from i12e.s3 import MB
from i12e.stores import (
    BLOCK,
    Exists,
    Full,
    Locked,
    Missing,
    NotThere,
    Patient,
    Refused,
    Store,
    StoreError,
)
from store_suite import S3, Given, Place, Processes, Suite, content, whole
from weed import SECRET, Server, moto, seaweed

pytestmark = pytest.mark.slow  # servers have to start, and megabytes go through them


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """SeaweedFS, one for all."""
    with seaweed(tmp_path_factory.mktemp("weed")) as server:
        yield server


@pytest.fixture(scope="module")
def simulated() -> Iterator[Server]:
    """moto, one for all."""
    with moto() as server:
        yield server


class _Seeded(Place):
    """A place whose many objects come from the server's own client, several at a time."""

    server: Server

    def seed(self, names: list[str]) -> None:
        """Given names, put an object of each name."""
        client = self.server.client()
        assert self.settings
        bucket, prefix = self.settings["s3"]["bucket"], self.settings["s3"]["prefix"]
        before = f"{prefix}/" if prefix else ""

        def one(name: str) -> None:
            client.put_object(Bucket=bucket, Key=before + self.key(name), Body=name.encode())

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, names))
        client.close()


def place_on(server: Server, bucket: str, prefix: str) -> Place:
    """Given a server, return a place in a bucket of it."""
    server.bucket(bucket)
    wanted = {"bucket": bucket, "endpoint": server.url, "path_style": True, "prefix": prefix}
    store = s3.S3("offsite", S3(**wanted), server.credentials, Patience(print))  # type: ignore[arg-type]
    store.probe()
    place = _Seeded(store, {"name": "offsite", "s3": wanted}, server.credentials)
    place.server = server
    return place


class TestSeaweed(Suite, Processes):
    """SeaweedFS, a real object store."""

    @pytest.fixture
    def place(self, weed: Server) -> Place:
        return place_on(weed, "backups", "some/where")


class TestMoto(Suite, Processes):
    """moto, a simulated S3."""

    @pytest.fixture
    def place(self, simulated: Server) -> Place:
        return place_on(simulated, "backups", "")


@pytest.fixture
def proxy(simulated: Server) -> Iterator[Proxy]:
    """A proxy in front of the simulated S3."""
    with faulty(simulated.url) as proxy:
        yield proxy


@pytest.fixture
def bucket(simulated: Server) -> str:
    """A bucket of the test's own."""
    name = f"bucket-{secrets.token_hex(4)}"
    simulated.bucket(name)
    return name


def opened(url: str, bucket: str, limit: float = 60.0, **more: Any) -> s3.S3:
    """Given where a server is, return the store itself, without the patience around it, but with one that is fast."""
    settings = S3(bucket, endpoint=url, path_style=True, **more)
    keys = {"access_key": "test", "secret_key": SECRET}
    return s3.S3("offsite", settings, keys, quick(limit))


def quick(limit: float = 60.0) -> Patience:
    """Return patience whose pauses are short."""
    return Patience(print, limit, first=0.001, longest=0.01)


def uploads(server: Server, bucket: str) -> list[str]:
    """Return the keys of what was begun and not completed."""
    client = server.client()
    found = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    client.close()
    return [each["Key"] for each in found]


def blocks(count: int) -> Iterator[bytes]:
    """Yield so many blocks of BLOCK bytes."""
    for number in range(count):
        yield content(BLOCK, number)


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_server_that_fails_for_a_while_is_tried_again(proxy: Proxy, bucket: str, status: int) -> None:
    store: Store = Patient(opened(proxy.url, bucket), quick())
    proxy.rule = failing(3, status)
    version = store.create("a", b"one")
    proxy.rule = failing(3, status)
    store.swap("a", b"two", version)
    proxy.rule = failing(5, status)
    assert store.put("big", blocks(33)) == 33 * BLOCK
    proxy.rule = failing(3, status)
    assert [entry.key for entry in store.list("")] == ["a", "big"]
    proxy.rule = failing(3, status)
    assert store.get("a")[0] == b"two"
    proxy.rule = failing(3, status)
    assert hashlib.sha256(whole(store, "big")).digest() == hashlib.sha256(b"".join(blocks(33))).digest()
    proxy.rule = failing(3, status)
    store.delete("a")


def test_patience_with_a_part_ends_and_the_upload_is_aborted(proxy: Proxy, bucket: str, simulated: Server) -> None:
    proxy.rule = failing(10_000, 503, lambda request: "partNumber=2" in request.path)
    with pytest.raises(StoreError) as told:
        opened(proxy.url, bucket, limit=0.3).put("a", blocks(40))
    assert told.value.passing
    assert uploads(simulated, bucket) == []
    assert opened(proxy.url, bucket).list("") == []


def test_a_server_that_says_that_it_took_it_and_keeps_nothing_is_noticed(proxy: Proxy, bucket: str) -> None:
    def keeps_nothing(request: Request, forward: Forward) -> Answer:
        if request.method == "PUT" and "uploadId" not in request.path:
            tag = base64.b16encode(hashlib.md5(request.body, usedforsecurity=False).digest()).decode().lower()
            return Answer(200, {"ETag": f'"{tag}"'})
        if request.method == "POST" and "uploadId" in request.path:
            return Answer(200, {}, b'<CompleteMultipartUploadResult><ETag>"x-2"</ETag></CompleteMultipartUploadResult>')
        return forward(request)

    proxy.rule = keeps_nothing
    store = opened(proxy.url, bucket)
    for chunks in ([b"x"], list(blocks(17))):
        with pytest.raises(StoreError, match=r"said that it took the .* bytes of a, and has nothing of it"):
            store.put("a", iter(chunks))
    with pytest.raises(StoreError, match="does not have what it said it took"):
        store.probe()


def test_a_server_that_keeps_a_part_of_it_is_noticed(proxy: Proxy, bucket: str) -> None:
    def halves(request: Request, forward: Forward) -> Answer:
        if request.method == "PUT":
            request.body = request.body[: len(request.body) // 2]
            request.headers = {
                name: value
                for name, value in request.headers.items()
                if name.lower() not in ("content-md5", "content-length")
            }
        return forward(request)

    proxy.rule = halves
    with pytest.raises(StoreError, match="took the 10 bytes of a, and has 5 bytes"):
        opened(proxy.url, bucket).put("a", [b"0123456789"])


def test_a_reading_that_is_cut_off_goes_on_where_it_was(proxy: Proxy, bucket: str) -> None:
    data = content(4 * BLOCK)
    store = opened(proxy.url, bucket)
    store.put("a", [data])
    cuts = [BLOCK + 17, 5, 0, 2 * BLOCK]

    def cutting(request: Request, forward: Forward) -> Answer:
        answer = forward(request)
        if request.method == "GET" and cuts:
            answer.cut = cuts.pop(0)
        return answer

    proxy.rule = cutting
    with pytest.raises(StoreError) as told:
        whole(store, "a")
    assert told.value.passing
    assert whole(Patient(store, quick()), "a") == data
    assert cuts == []
    assert any("Range" in line or "bytes=" in line for line in proxy.asked)


def test_a_server_that_knows_no_ranges_is_read_from_where_it_was_told(proxy: Proxy, bucket: str) -> None:
    def whole_always(request: Request, forward: Forward) -> Answer:
        request.headers.pop("Range", None)
        return forward(request)

    data = content(2 * BLOCK + 5)
    store = opened(proxy.url, bucket)
    store.put("a", [data])
    proxy.rule = whole_always
    assert whole(store, "a", BLOCK + 3) == data[BLOCK + 3 :]


def in_pages(of: int, then: Callable[[int], Answer | None] = lambda page: None) -> Callable[[Request, Forward], Answer]:
    """Return a rule under which a listing has pages of so many objects; `then` may answer instead, by page."""
    pages = iter(range(1, 1000))

    def rule(request: Request, forward: Forward) -> Answer:
        if "list-type=2" not in request.path:
            return forward(request)
        request.path += f"&max-keys={of}"
        return then(next(pages)) or forward(request)

    return rule


def test_a_listing_of_many_pages_is_whole_or_an_error(proxy: Proxy, bucket: str) -> None:
    store = opened(proxy.url, bucket)
    names = [f"backups/{number:02d}" for number in range(11)]
    for name in names:
        store.put(name, [b"x"])
    proxy.rule = in_pages(3)
    assert [entry.key for entry in store.list("backups/")] == names
    proxy.rule = in_pages(3, lambda page: Answer(500) if page == 3 else None)
    with pytest.raises(StoreError) as told:
        store.list("")
    assert told.value.passing
    proxy.rule = in_pages(3, lambda page: Answer(200, {}, b"<ListBucketResult><IsTrunc", cut=20) if page == 2 else None)
    with pytest.raises(StoreError):
        store.list("")
    endless = b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"
    proxy.rule = in_pages(3, lambda page: Answer(200, {}, endless) if page == 2 else None)
    with pytest.raises(StoreError, match="lists a part"):
        store.list("")


def test_a_server_that_lists_what_it_was_not_asked_for_is_noticed(proxy: Proxy, bucket: str) -> None:
    store = opened(proxy.url, bucket, prefix="ours")
    other = b"<Contents><Key>theirs/a</Key><Size>1</Size><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
    proxy.rule = lambda request, forward: Answer(200, {}, b"<ListBucketResult>%s</ListBucketResult>" % other)
    with pytest.raises(StoreError, match="not asked for"):
        store.list("")


def is_part(request: Request) -> bool:
    """Tell whether this is a part of an upload."""
    return request.method == "PUT" and "uploadId=" in request.path


def is_completion(request: Request) -> bool:
    """Tell whether this completes an upload."""
    return request.method == "POST" and "uploadId=" in request.path


def is_put(request: Request) -> bool:
    """Tell whether this writes an object at once."""
    return request.method == "PUT"


@pytest.mark.parametrize("wanted", [is_part, is_completion], ids=["part", "completion"])
def test_an_upload_of_which_an_answer_is_lost_is_completed(
    proxy: Proxy, bucket: str, simulated: Server, wanted: Callable[[Request], bool]
) -> None:
    store = opened(proxy.url, bucket)
    store.probe()
    proxy.rule = losing(1, wanted)
    assert store.put("a", blocks(33)) == 33 * BLOCK
    proxy.rule = lambda request, forward: forward(request)
    assert whole(store, "a") == b"".join(blocks(33))
    assert uploads(simulated, bucket) == []


def test_a_put_create_or_swap_of_which_the_answer_is_lost_is_told_as_ours(proxy: Proxy, bucket: str) -> None:
    inner = opened(proxy.url, bucket)
    inner.probe()
    assert inner.shares
    store = Patient(inner, quick())
    proxy.rule = losing(1, is_put)
    assert store.put("small", iter([b"x"])) == 1
    proxy.rule = losing(1, is_put)
    version = store.create("a", b"ours")
    assert store.get("a") == (b"ours", version)
    proxy.rule = losing(1, is_put)
    version = store.swap("a", b"ours again", version)
    assert store.get("a") == (b"ours again", version)
    with pytest.raises(Exists):
        store.create("a", b"ours again")


def test_a_conflict_that_the_server_has_not_decided_is_tried_again(proxy: Proxy, bucket: str) -> None:
    conflict = b"<Error><Code>ConditionalRequestConflict</Code><Message>try again</Message></Error>"
    left = [Answer(409, {}, conflict), Answer(409, {}, conflict)]
    proxy.rule = lambda request, forward: left.pop() if left and is_put(request) else forward(request)
    store = Patient(opened(proxy.url, bucket), quick())
    version = store.create("a", b"x")
    assert store.get("a") == (b"x", version)
    assert left == []


@pytest.mark.parametrize("how", ["ignores", "refuses"])
def test_a_server_that_does_not_decide_conditions_does_not_share_but_works(proxy: Proxy, bucket: str, how: str) -> None:
    def unconditional(request: Request, forward: Forward) -> Answer:
        given = [name for name in request.headers if name.lower() in ("if-match", "if-none-match")]
        if given and how == "refuses":
            return Answer(501, {}, b"<Error><Code>NotImplemented</Code><Message>no</Message></Error>")
        for name in given:
            del request.headers[name]
        return forward(request)

    proxy.rule = unconditional
    store = opened(proxy.url, bucket)
    store.probe()
    assert not store.shares
    version = store.create("a", b"x")
    with pytest.raises(Exists):
        store.create("a", b"y")
    store.swap("a", b"y", version)
    assert store.get("a")[0] == b"y"
    assert store.put("big", blocks(17)) == 17 * BLOCK


@pytest.mark.parametrize(
    ("status", "code", "headers", "kind", "says"),
    [
        (404, "NoSuchBucket", {}, NotThere, "there is no bucket bucket-.*make it, or mend s3.bucket"),
        (403, "AccessDenied", {}, Refused, "AccessDenied.*the keys need s3:ListBucket"),
        (403, "InvalidAccessKeyId", {}, Refused, "InvalidAccessKeyId"),
        (403, "SignatureDoesNotMatch", {}, Refused, "SignatureDoesNotMatch"),
        (403, "RequestTimeTooSkewed", {}, StoreError, "its clock and ours differ by .* s .*timedatectl"),
        (
            301,
            "PermanentRedirect",
            {"x-amz-bucket-region": "eu-x-1"},
            StoreError,
            "another region.*s3.region to eu-x-1",
        ),
        (400, "AuthorizationHeaderMalformed", {}, StoreError, "another region.*set s3.region"),
        (507, "InsufficientStorage", {}, Full, "make room"),
        (403, "QuotaExceeded", {}, Full, "make room"),
        (501, "NotImplemented", {}, StoreError, "NotImplemented"),
    ],
)
def test_what_a_person_has_to_mend_is_said_and_not_tried_again(
    proxy: Proxy, bucket: str, status: int, code: str, headers: dict[str, str], kind: type[StoreError], says: str
) -> None:
    body = f"<Error><Code>{code}</Code><Message>{code} it is.</Message></Error>".encode()
    proxy.rule = lambda request, forward: Answer(status, headers, body)
    actions: list[Callable[[Store], object]] = [
        lambda store: store.list(""),
        lambda store: store.get("a"),
        lambda store: store.now(),
    ]
    for action in actions:
        with pytest.raises(kind, match=says) as told:
            action(Patient(opened(proxy.url, bucket), quick()))
        assert type(told.value) is kind
        assert not told.value.passing
        assert not told.value.why.endswith(".")
        assert SECRET not in repr(told.value)


def test_nobody_who_listens_is_an_error_that_passes(bucket: str) -> None:
    with faulty("http://127.0.0.1:1") as gone:
        url = gone.url
    with pytest.raises(StoreError) as told:
        opened(url, bucket).list("")
    assert told.value.passing


def test_the_clock_is_the_servers(proxy: Proxy, bucket: str) -> None:
    def ahead(request: Request, forward: Forward) -> Answer:
        answer = forward(request)
        answer.headers["Date"] = email.utils.format_datetime(
            dt.datetime.now(dt.UTC) + dt.timedelta(hours=5), usegmt=True
        )
        return answer

    proxy.rule = ahead
    assert abs(opened(proxy.url, bucket).now() - time.time() - 5 * 3600) < 10


def test_an_upload_that_was_killed_is_swept_when_it_is_old(bucket: str, simulated: Server, proxy: Proxy) -> None:
    def dated(request: Request, forward: Forward) -> Answer:
        answer = forward(request)
        begun = dt.datetime.now(dt.UTC) - dt.timedelta(hours=2)
        now = f"<Initiated>{begun:%Y-%m-%dT%H:%M:%SZ}</Initiated>".encode()  # moto says 2010 whenever it was
        answer.body = re.sub(rb"<Initiated>.*?</Initiated>", now, answer.body)
        return answer

    proxy.rule = dated
    client = simulated.client()
    for key in ("ours/backups/a", "theirs/b"):
        client.create_multipart_upload(Bucket=bucket, Key=key)
    client.close()
    store = opened(proxy.url, bucket, prefix="ours")
    assert store.sweep(3 * 3600) == []
    assert store.sweep(3600) == ["backups/a"]
    assert uploads(simulated, bucket) == ["theirs/b"]


def test_a_source_that_breaks_leaves_no_upload(bucket: str, simulated: Server) -> None:
    def source() -> Iterator[bytes]:
        yield from blocks(40)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(simulated.url, bucket).put("a", source())
    assert uploads(simulated, bucket) == []


def test_backups_are_locked_and_nothing_else(simulated: Server) -> None:
    bucket = f"locked-{secrets.token_hex(4)}"
    simulated.bucket(bucket, ObjectLockEnabledForBucket=True)
    store = opened(simulated.url, bucket, lock_days=30)
    store.probe()
    store.put("home/backups/1/part", [b"x"])
    store.put("home/backups/1/big", blocks(17))
    store.create("home/backups/1/manifest", b"x")
    store.create("home/lease", b"x")
    for key in ("home/backups/1/part", "home/backups/1/big", "home/backups/1/manifest"):
        until = store.locked_until(key)
        assert until is not None
        assert abs(until - time.time() - 30 * 86400) < 120
        with pytest.raises(Locked, match=r"is kept until 20..-..-.. ..:.. UTC"):
            store.delete(key)
        assert whole(store, key)[:1]
    assert store.locked_until("home/lease") is None
    store.delete("home/lease")
    with pytest.raises(Missing):
        store.get("home/lease")


def test_a_lock_that_the_bucket_does_not_have_is_told_by_the_probe(bucket: str, simulated: Server) -> None:
    with pytest.raises(StoreError, match="lock_days is 30, and the bucket has no object lock"):
        opened(simulated.url, bucket, lock_days=30).probe()


def test_one_key_without_the_other_is_refused() -> None:
    for keys in ({"access_key": "x"}, {"secret_key": "x"}):
        with pytest.raises(Refused, match="or none for boto3's own ways"):
            s3.S3("offsite", S3("bucket"), keys, quick())


def test_no_keys_at_all_are_told(bucket: str, simulated: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    store = s3.S3("offsite", S3(bucket, endpoint=simulated.url, path_style=True), {}, quick())
    with pytest.raises(Refused, match="no keys are known for it"):
        store.list("")


def test_ten_thousand_parts_are_enough_for_the_biggest_object() -> None:
    total, before = 0, 0
    for last, size in s3.PARTS:
        total += (last - before) * size
        before = last
    assert before == 10_000
    assert total >= 5 << 40
    assert max(size for _, size in s3.PARTS) <= 5 << 30
    assert min(size for _, size in s3.PARTS) >= 5 << 20


def test_parts_that_grow_wait_in_files_and_make_one_content(simulated: Server, bucket: str) -> None:
    settings = S3(bucket, endpoint=simulated.url, path_style=True)
    sizes = ((1, 5 * MB), (2, 6 * MB), (10, 17 * MB))
    store = s3.S3("offsite", settings, {"access_key": "test", "secret_key": SECRET}, quick(), sizes)
    store.put("a", blocks(40))
    assert whole(store, "a") == b"".join(blocks(40))


def test_a_long_stream_takes_little_memory(monkeypatch: pytest.MonkeyPatch, bucket: str, simulated: Server) -> None:
    store = opened(simulated.url, bucket)
    sent: list[int] = []

    def asked(key: str, operation: str, **given: Any) -> Any:
        if operation == "upload_part":
            sent.append(len(given["Body"]))
        if operation == "head_object":
            if not sent:
                raise Missing("offsite", key)
            return {"ContentLength": sum(sent)}
        return {"UploadId": "x", "ETag": "x"}

    monkeypatch.setattr(store, "_asked", asked)
    block = content(BLOCK)
    tracemalloc.start()
    try:
        assert store.put("a", (block for _ in range(300))) == 300 * BLOCK
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(sent) == 300 * BLOCK
    assert peak < 100 * MB


def test_the_model_opens_a_bucket(bucket: str, simulated: Server, tmp_path: Path) -> None:
    given = Given("offsite", s3=S3(bucket, endpoint=simulated.url, path_style=True, prefix="/a/b/"))
    store = openstore.open_store(given, simulated.credentials, print)
    store.probe()
    assert (store.place, store.shares) == (f"s3://{bucket}/a/b", True)
    store.put("x", [b"y"])
    assert store.get("x")[0] == b"y"
