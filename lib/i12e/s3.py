"""S3, and what speaks like it, as a store.

A put that fits in one part is one request; a longer one is a multipart upload, which shows nothing before it is
completed, and of which nothing but `sweep` sees what a killed process left. Every part goes with its MD5, which the
server compares: object lock asks for it, and every server knows it, unlike the newer checksums. That the whole is
what it was is for the bundle's own SHA-256 to say.

Where a bucket keeps versions, a delete only puts a mark over the object: the bucket's lifecycle has to remove the old
versions, or they are paid for for ever.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import email.utils
import hashlib
import re
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, TypeVar

from i12e import aws
from i12e.patience import Patience
from i12e.stores import (
    BLOCK,
    SMALL,
    Changed,
    Entry,
    Exists,
    Full,
    Keys,
    Listing,
    Locked,
    Missing,
    NotThere,
    Refused,
    StoreError,
    TooBig,
    checked,
    passes,
    small,
    try_out,
)

_T = TypeVar("_T")
MB = 1 << 20
# How big parts are, up to which number. An upload has 10,000 parts at the most, and 5 TB; Cloudflare's R2 wants all
# parts of the same size, so that is kept up to 100 GB.
PARTS = ((6_000, 16 * MB), (8_000, 256 * MB), (10_000, 2560 * MB))
_IN_MEMORY = 16 * MB  # bytes of a part above which it waits in an unnamed temporary file; what is put is sealed
_SENDERS = 2  # parts that are sent at the same time, while one more is filled
# What is locked where the store has lock_days: a cluster's backups; leases, marks and probes never.
_LOCKED = re.compile(r"[^/]+/backups/")
_MODE = "GOVERNANCE"  # whoever has that very right can still delete: a mistake in lock_days costs no years

_MISSING = ("NoSuchKey", "404", "NoSuchVersion")
_REFUSED = (
    "AccessDenied",
    "AllAccessDisabled",
    "AccountProblem",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
    "TokenRefreshRequired",
    "InvalidSecurity",
    "NotSignedUp",
    "UnauthorizedAccess",
    "Unauthorized",
    "401",
    "403",
)
_REGION = ("AuthorizationHeaderMalformed", "PermanentRedirect", "301", "IllegalLocationConstraintException")
_FULL = ("QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "507", "StorageFull")
_PASSING = (
    "ConditionalRequestConflict",
    "OperationAborted",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "RequestTimeout",
    "ServiceUnavailable",
    "InternalError",
    "BadDigest",  # what came was not what was sent
    "IncompleteBody",
    "409",
    "408",
    "429",
)


class S3:
    """A bucket, or what lies below a prefix in it, as a store; see stores.Store.

    `settings` has bucket, region, endpoint, path_style, prefix and lock_days. `credentials` has access_key and
    secret_key, perhaps session_token; without any, boto3 looks where it always does (environment, ~/.aws, the
    machine's role). Raise StoreError if only one is given. `patience` is for the parts of a put; `parts` is PARTS but
    in tests.
    """

    def __init__(
        self,
        name: str,
        settings: Any,
        credentials: Mapping[str, str],
        patience: Patience,
        parts: tuple[tuple[int, int], ...] = PARTS,
    ) -> None:
        self.name = name
        self._bucket = settings.bucket
        self._prefix = f"{settings.prefix.strip('/')}/" if settings.prefix.strip("/") else ""
        self.place = f"s3://{self._bucket}/{self._prefix}".rstrip("/")
        self.shares = False
        self._asks = True  # with conditions; False once it is known that the server does not decide them
        self._region = settings.region
        self._lock_days = settings.lock_days
        self._patience = patience
        self._parts = parts
        self._ahead = 0.0  # seconds by which the store's clock is ahead of ours
        self._client = self._connected(settings, credentials)

    def _connected(self, settings: Any, credentials: Mapping[str, str]) -> Any:
        if bool(credentials.get("access_key")) != bool(credentials.get("secret_key")):
            why = "has an access_key without a secret_key, or the other way round"
            raise Refused(self.name, why, "the secrets of this store have to hold both, or none for boto3's own ways")
        config = {
            # several stores that speak S3 refuse the newer checksums, which boto3 else adds
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            "s3": {"addressing_style": "path" if settings.path_style else "auto"},
        }
        try:  # all retries are Patience's, which asks whether an answer was lost
            client = aws.client("s3", credentials, settings.region, settings.endpoint, **config)
        except ValueError as error:
            raise StoreError(self.name, str(error), "mend s3 in the cluster's file") from None
        client.meta.events.register("after-call.s3", self._note_clock)
        return client

    def _note_clock(self, http_response: Any, **_: Any) -> None:
        with contextlib.suppress(TypeError, ValueError):  # no date, or none that is one
            said = email.utils.parsedate_to_datetime(http_response.headers.get("Date"))
            self._ahead = said.timestamp() - time.time()

    def put(self, key: str, chunks: Iterable[bytes]) -> int:
        """See Store."""
        full = self._full(key)
        if self._patience.call(lambda: self._size(key)) is not None:
            raise Exists(self.name, f"{key} is there already")
        with contextlib.closing(_cut(chunks, self._parts)) as parts:
            first = next(parts, None)
            second = next(parts, None) if first is not None else None
            if first is None or second is None:
                size = self._put_one(key, full, first)
            else:
                size = self._put_many(key, full, _chained(first, second, parts))
        found = self._patience.call(lambda: self._head(key))
        if found is None or found["ContentLength"] != size:
            there = "nothing of it" if found is None else f"{found['ContentLength']} bytes"
            why = f"said that it took the {size} bytes of {key}, and has {there}"
            raise StoreError(self.name, why, "nothing that is put there can be relied on")
        if self._lock(key) and self._until(found) is None:
            self._patience.call(lambda: self._hold(key, full))
        return size

    def _hold(self, key: str, full: str) -> None:
        """Lock what is there: not every server does what it was told when a multipart upload began."""
        until = self._lock(key)["ObjectLockRetainUntilDate"]
        retention = {"Mode": _MODE, "RetainUntilDate": until}
        self._asked(key, "put_object_retention", Key=full, Retention=retention, ChecksumAlgorithm="SHA256")

    def _put_one(self, key: str, full: str, part: _Part | None) -> int:
        body, size, md5 = (part.body, part.size, part.md5) if part else (b"", 0, _md5(b""))
        more = {"IfNoneMatch": "*"} if self._asks else {}
        lost = False

        def send() -> None:
            nonlocal lost
            try:
                self._asked(
                    key, "put_object", Key=full, Body=_from_start(body), ContentMD5=md5, **more, **self._lock(key)
                )
            except Exists:
                if not (lost and self._size(key) == size):
                    raise
            except StoreError as error:
                lost = lost or error.passing
                raise

        try:
            self._patience.call(send)
        finally:
            if part:
                part.close()
        return size

    def _put_many(self, key: str, full: str, parts: Iterator[_Part]) -> int:
        start = self._patience.call(lambda: self._asked(key, "create_multipart_upload", Key=full, **self._lock(key)))
        upload = str(start["UploadId"])
        try:
            tags, size = self._send_all(key, full, upload, parts)
            self._complete(key, full, upload, tags, size)
        except BaseException:  # also the end of this process by ^C: nobody pays for parts that nobody sees
            with contextlib.suppress(StoreError):
                self._asked(key, "abort_multipart_upload", Key=full, UploadId=upload)
            raise
        return size

    def _send_all(self, key: str, full: str, upload: str, parts: Iterator[_Part]) -> tuple[list[dict[str, Any]], int]:
        given_up = threading.Event()

        def send(number: int, part: _Part) -> dict[str, Any]:
            def once() -> Any:
                if given_up.is_set():
                    raise StoreError(self.name, f"the writing of {key} was given up")
                more = {"UploadId": upload, "PartNumber": number, "ContentMD5": part.md5}
                return self._asked(key, "upload_part", Key=full, Body=_from_start(part.body), **more)

            with contextlib.closing(part):
                return {"PartNumber": number, "ETag": self._patience.call(once)["ETag"]}

        tags: list[dict[str, Any]] = []
        size = 0
        waiting: deque[tuple[Future[dict[str, Any]], _Part]] = deque()
        pool = ThreadPoolExecutor(_SENDERS, "s3-part")
        try:
            for number, part in enumerate(parts, start=1):
                size += part.size
                waiting.append((pool.submit(send, number, part), part))
                if len(waiting) > _SENDERS:
                    tags.append(waiting.popleft()[0].result())
            tags += [future.result() for future, _ in waiting]
        finally:
            given_up.set()  # nothing is being sent any more, unless this goes wrong
            pool.shutdown(wait=True, cancel_futures=True)
            for _, part in waiting:
                part.close()
        return tags, size

    def _complete(self, key: str, full: str, upload: str, tags: list[dict[str, Any]], size: int) -> None:
        more = {"IfNoneMatch": "*"} if self._asks else {}
        lost = False

        def complete() -> None:
            nonlocal lost
            try:
                self._asked(
                    key,
                    "complete_multipart_upload",
                    Key=full,
                    UploadId=upload,
                    MultipartUpload={"Parts": tags},
                    **more,
                )
            except StoreError as error:
                # once its answer was lost, there is no such upload any more, or the key is taken: by this one
                if lost and not error.passing and self._size(key) == size:
                    return
                lost = lost or error.passing
                raise

        self._patience.call(complete)

    def read(self, key: str, start: int = 0) -> Iterator[bytes]:
        """See Store."""
        full = self._full(key)
        more = {"Range": f"bytes={start}-"} if start else {}
        try:
            answer = self._asked(key, "get_object", Key=full, **more)
        except _Beyond:
            return
        skip = start if start and "ContentRange" not in answer else 0  # a server that knows no ranges sends all
        with contextlib.closing(answer["Body"]) as body:
            while block := self._call(key, lambda: body.read(BLOCK)):
                if skip >= len(block):
                    skip -= len(block)
                    continue
                yield block[skip:]
                skip = 0

    def get(self, key: str) -> tuple[bytes, str]:
        """See Store."""
        answer = self._asked(key, "get_object", Key=self._full(key))
        with contextlib.closing(answer["Body"]) as body:
            if answer["ContentLength"] > SMALL:
                raise TooBig(self.name, f"{key} has more than {SMALL >> 20} MB")
            return self._call(key, body.read), str(answer["ETag"])

    def list(self, prefix: str) -> Listing:
        """See Store."""
        found: Listing = []
        more: dict[str, Any] = {}
        while True:
            page = self._asked("", "list_objects_v2", Prefix=self._prefix + prefix, **more)
            for each in page.get("Contents", ()):
                key = each["Key"].removeprefix(self._prefix)
                if not key.startswith(prefix) or not each["Key"].startswith(self._prefix):
                    raise StoreError(self.name, "lists what it was not asked for", "a listing has to be right")
                if not any(not part or part.startswith(".") for part in key.split("/")):  # others make such "folders"
                    found.append(Entry(key, each["Size"], each["LastModified"].timestamp()))
            if not page.get("IsTruncated"):
                return sorted(found, key=lambda entry: entry.key)
            token = page.get("NextContinuationToken")
            if not token or token == more.get("ContinuationToken"):
                raise StoreError(self.name, "lists a part, and does not say how to ask for the rest", passing=True)
            more = {"ContinuationToken": token}

    def create(self, key: str, content: bytes) -> str:
        """See Store. Where the store does not compare, it is asked first, which is not atomic."""
        full = self._full(key)
        small(self.name, key, content)
        if not self.shares and self._size(key) is not None:
            raise Exists(self.name, f"{key} is there already")
        condition = {"IfNoneMatch": "*"} if self._asks else {}
        return self._kept(key, full, content, **condition, **self._lock(key))

    def swap(self, key: str, content: bytes, version: str) -> str:
        """See Store. Where the store does not compare, it is asked first, which is not atomic."""
        full = self._full(key)
        small(self.name, key, content)
        if not self.shares or not version.strip('"'):
            found = self._head(key)
            if found is None or found["ETag"] != version:
                raise Changed(self.name, f"{key} is not what it was")
        try:
            condition = {"IfMatch": version} if self._asks else {}
            return self._kept(key, full, content, **condition, **self._lock(key))
        except (Exists, Missing):
            raise Changed(self.name, f"{key} is not what it was") from None

    def _kept(self, key: str, full: str, content: bytes, **condition: Any) -> str:
        answer = self._asked(key, "put_object", Key=full, Body=content, ContentMD5=_md5(content), **condition)
        return str(answer["ETag"])

    def delete(self, key: str) -> None:
        """See Store. In a bucket with versions, this makes a mark, and the object stays below it."""
        full = self._full(key)
        found = self._head(key)
        if found is None:
            return
        until = self._until(found)
        if until is not None:
            day = time.strftime("%Y-%m-%d %H:%M", time.gmtime(until))
            raise Locked(self.name, f"{key} is kept until {day} UTC", "object lock: wait until then")
        self._asked(key, "delete_object", Key=full)

    def locked_until(self, key: str) -> float | None:
        """See Store. Object lock alone is told; a legal hold is for ever."""
        self._full(key)
        found = self._head(key)
        if found is None:
            raise Missing(self.name, f"{key} is not there")
        return self._until(found)

    def _until(self, found: Mapping[str, Any]) -> float | None:
        if found.get("ObjectLockLegalHoldStatus") == "ON":
            return dt.datetime.max.replace(tzinfo=dt.UTC).timestamp()
        until = found.get("ObjectLockRetainUntilDate")
        return until.timestamp() if until and until.timestamp() > time.time() + self._ahead else None

    def sweep(self, age: float) -> Keys:
        """See Store. Whether an upload is still being written cannot be told here: `age` has to leave it the time."""
        oldest = self.now() - age
        swept: Keys = []
        more: dict[str, Any] = {}
        while True:
            page = self._asked("", "list_multipart_uploads", Prefix=self._prefix, **more)
            for each in page.get("Uploads", ()):
                if each["Key"].startswith(self._prefix) and each["Initiated"].timestamp() < oldest:
                    key = each["Key"].removeprefix(self._prefix)
                    with contextlib.suppress(Missing):  # completed or aborted meanwhile
                        self._asked(key, "abort_multipart_upload", Key=each["Key"], UploadId=each["UploadId"])
                        swept.append(key)
            if not page.get("IsTruncated"):
                return sorted(swept)
            more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page.get("NextUploadIdMarker", "")}

    def now(self) -> float:
        """See Store."""
        self._asked("", "list_objects_v2", Prefix=f"{self._prefix}probe/", MaxKeys=1)
        return time.time() + self._ahead

    def probe(self) -> None:
        """See Store. A bucket is never made: whose it is, and where, is for a person to say."""
        tag = base64.b32encode(hashlib.sha256(f"{time.time_ns()} {id(self)}".encode()).digest()[:10]).decode().lower()
        self.shares = self._asks = False
        self.now()
        try_out(self, tag)
        self.shares = self._asks = self._decides(f"{tag}-2")
        if self._lock_days:
            self._check_lock()

    def _decides(self, tag: str) -> bool:
        """Given a text that no one else uses, tell whether the server decides conditions, without our asking first."""
        self.shares = self._asks = True
        try:
            return try_out(self, tag)
        except StoreError as error:
            if error.passing or isinstance(error, Refused | NotThere):
                raise
            return False  # a server that knows no conditions, and says so
        finally:
            self.shares = self._asks = False

    def _check_lock(self) -> None:
        try:
            answer = self._asked("", "get_object_lock_configuration")
            on = answer["ObjectLockConfiguration"].get("ObjectLockEnabled") == "Enabled"
        except Refused:
            return  # it may be on, and the first put tells
        except (StoreError, KeyError):
            on = False
        if not on:
            why = f"lock_days is {self._lock_days}, and the bucket has no object lock"
            raise StoreError(self.name, why, "turn it on for the bucket, or take lock_days away")

    def close(self) -> None:
        """See Store."""
        self._client.close()

    def _full(self, key: str) -> str:
        return self._prefix + checked(self.name, key)

    def _lock(self, key: str) -> dict[str, Any]:
        """Given a key, return how long it is to be kept, for a request that writes it."""
        if not self._lock_days or not _LOCKED.match(key):
            return {}
        until = dt.datetime.fromtimestamp(time.time() + self._ahead, dt.UTC)
        until += dt.timedelta(days=self._lock_days)
        return {"ObjectLockMode": _MODE, "ObjectLockRetainUntilDate": until}

    def _size(self, key: str) -> int | None:
        found = self._head(key)
        return None if found is None else int(found["ContentLength"])

    def _head(self, key: str) -> Mapping[str, Any] | None:
        """Given a key, return what is told of it, or None if there is nothing, or no bucket: a HEAD does not say."""
        try:
            return dict(self._asked(key, "head_object", Key=self._full(key)))
        except Missing:
            return None

    def _asked(self, key: str, operation: str, **parameters: Any) -> Any:
        return self._call(key, lambda: getattr(self._client, operation)(Bucket=self._bucket, **parameters))

    def _call(self, key: str, action: Callable[[], _T]) -> _T:
        """Given a request, return its answer; say what boto3 says as a StoreError."""
        try:
            return aws.asked(action)
        except aws.Answered as error:
            raise self._told(error, key) from None
        except aws.Unanswered as error:
            raise self._failed(error) from None

    def _told(self, error: aws.Answered, key: str) -> StoreError:
        """Given an answer that is an error, return what it means."""
        code, status, what = error.code, error.status, error.what
        if code == "NoSuchBucket":
            return NotThere(self.name, f"there is no bucket {self._bucket}", "make it, or mend s3.bucket")
        if code in _MISSING:
            return Missing(self.name, f"{key or self._bucket} is not there")
        if code in ("PreconditionFailed", "412") or status == 412:
            return Exists(self.name, f"{key} is there already")
        if code == "InvalidRange" or status == 416:
            return _Beyond(self.name, f"{key} is not that long")
        if code == "RequestTimeTooSkewed":
            remedy = "set the clock of this machine (timedatectl), or the server's"
            return StoreError(self.name, f"its clock and ours differ by {abs(self._ahead):.0f} s", remedy)
        if code in _REGION:
            region = error.headers.get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region")
            remedy = f"set s3.region to {region}" if region else "set s3.region to the bucket's"
            why = f"the bucket {self._bucket} is in another region than {self._region or 'us-east-1'}"
            return StoreError(self.name, why, remedy)
        if code == "BadRequest" or (code == "400" and status == 400):
            return StoreError(self.name, f"refuses the request: {what}", "are region, endpoint and keys of one place?")
        if code in _FULL or status == 507:
            return Full(self.name, what, "make room there, or prune older backups")
        if code in _REFUSED or status in (401, 403):
            needs = "the keys need s3:ListBucket, GetObject, PutObject, DeleteObject, AbortMultipartUpload on it"
            return Refused(self.name, f"{self.place}: {what}", needs)
        passing = code in _PASSING or status in (408, 409, 425, 429) or (status >= 500 and status != 501)
        return StoreError(self.name, f"{self.place}: {what}", "" if passing else "look at the server", passing)

    def _failed(self, error: aws.Unanswered) -> StoreError:
        """Given why there was no answer, return what it means."""
        if error.kind == "credentials":
            remedy = "put access_key and secret_key into this store's secrets"
            return Refused(self.name, "no keys are known for it", remedy)
        if error.kind == "certificate" and not passes(error.why):
            remedy = "is the endpoint right, and its certificate one that this machine knows?"
            return StoreError(self.name, error.why, remedy)
        passing = error.kind in ("certificate", "connection")
        return StoreError(self.name, error.why, "" if passing else "mend s3 in the cluster's file", passing)


class _Beyond(StoreError):
    """The object ends before what was asked for."""


class _Part:
    """A part that waits to be sent: its bytes, in memory or in an unnamed file, and their MD5."""

    def __init__(self, limit: int) -> None:
        self.size = 0
        self._hash = hashlib.md5(usedforsecurity=False)
        self._memory = bytearray()
        self._file: IO[bytes] | None = tempfile.TemporaryFile() if limit > _IN_MEMORY else None  # noqa: SIM115

    def add(self, chunk: memoryview) -> None:
        """Given bytes, add them."""
        self.size += len(chunk)
        self._hash.update(chunk)
        if self._file is None:
            self._memory += chunk
        else:
            self._file.write(chunk)

    @property
    def body(self) -> bytearray | IO[bytes]:
        """What boto3 sends."""
        return self._memory if self._file is None else self._file

    @property
    def md5(self) -> str:
        """What the server compares."""
        return base64.b64encode(self._hash.digest()).decode()

    def close(self) -> None:
        """Let go of the bytes."""
        self._memory = bytearray()
        if self._file is not None:
            self._file.close()


def _cut(chunks: Iterable[bytes], sizes: tuple[tuple[int, int], ...]) -> Generator[_Part, None, None]:
    """Given chunks and how big parts are up to which number, yield the parts; none for no bytes."""
    numbers = iter(range(1, sizes[-1][0] + 1))
    part: _Part | None = None
    limit = 0
    try:
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                if part is None:
                    limit = _limit(next(numbers, 0), sizes)
                    part = _Part(limit)
                room = limit - part.size
                part.add(view[:room])
                view = view[room:]
                if part.size == limit:
                    full, part = part, None
                    yield full
        if part is not None:
            last, part = part, None
            yield last
    finally:
        if part is not None:
            part.close()


def _limit(number: int, sizes: tuple[tuple[int, int], ...]) -> int:
    if not number:
        raise ValueError("S3 takes no more than 10,000 parts")
    return next(size for last, size in sizes if number <= last)


def _chained(first: _Part, second: _Part, rest: Iterator[_Part]) -> Iterator[_Part]:
    yield first
    yield second
    yield from rest


def _from_start(body: bytes | bytearray | IO[bytes]) -> bytes | bytearray | IO[bytes]:
    if not isinstance(body, bytes | bytearray):
        body.seek(0)
    return body


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
