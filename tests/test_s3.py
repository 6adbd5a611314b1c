"""The store on S3, against a real object store, a simulated S3, and servers that break in ways of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from i12e import s3
from i12e.stores import Patience
from store_suite import S3, Place, Processes, Suite
from weed import Server, moto, seaweed


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


def place_on(server: Server, bucket: str, prefix: str) -> Place:
    """Given a server, return a place in a bucket of it."""
    server.bucket(bucket)
    wanted = {"bucket": bucket, "endpoint": server.url, "path_style": True, "prefix": prefix}
    store = s3.S3("offsite", S3(**wanted), server.credentials, Patience(print))  # type: ignore[arg-type]
    store.probe()
    return Place(store, {"name": "offsite", "s3": wanted}, server.credentials)


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
