"""Makes .venv from a lock file, with hashes; run by the launcher with any Python, so standard library only.

The stamp .venv/LOCKFILE is a copy of the lock and is written last: whatever stops an installation, the
next start sees that it is not whole and makes it again.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RUNTIME = "requirements.lock"
BASE = "base-python"  # the real path of the Python that .venv was made with
DEVELOPMENT = "requirements-dev.lock"  # holds the runtime's packages too


class SetupError(Exception):
    """The environment could not be made; says what to do."""


def install(root: Path, lock: str) -> bool:
    """Given the checkout and a lock file's name, make .venv hold what it names; return whether that was needed.

    Raise SetupError if it cannot be done.
    """
    with _alone(root):
        if is_current(root, lock):
            return False
        _say(f"setting up Python's packages from {lock} (once; takes about half a minute)")
        _make(root)
        for stamp in (DEVELOPMENT, RUNTIME):
            (root / ".venv" / stamp).unlink(missing_ok=True)
        _fill(root, lock)
        _point_at(root)
        _name_python(root)
        for stamp in {lock, RUNTIME}:
            _stamp(root, stamp)
        return True


def is_current(root: Path, lock: str) -> bool:
    """Given the checkout and a lock file's name, tell whether .venv was made from that very file."""
    try:
        stamp = (root / ".venv" / lock).read_bytes()
        return stamp == (root / lock).read_bytes() and _has_its_python(root / ".venv")
    except FileNotFoundError:
        return False


def _has_its_python(venv: Path) -> bool:
    """Given the environment's folder, tell whether its Python is still the one that it was made with."""
    try:
        return (venv / "bin/python").samefile((venv / BASE).read_text().strip())
    except FileNotFoundError:
        return False


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Keep a second first start waiting until the first one is done."""
    with (root / ".venv.lock").open("w") as handle:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            _say("waiting for another setup in this checkout")
            fcntl.lockf(handle, fcntl.LOCK_EX)
        yield


def _make(root: Path) -> None:
    venv = root / ".venv"
    if _is_whole(venv):
        return
    shutil.rmtree(venv, ignore_errors=True)
    if _uv():
        _run(root, "uv", "venv", "--quiet", "--python", sys.executable, ".venv")
    elif importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip"):
        _run(root, sys.executable, "-m", "venv", ".venv")
    else:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise SetupError(
            f"Python {version} has no venv (Debian, Ubuntu: apt-get install python{version}-venv; or install uv)"
        )


def _is_whole(venv: Path) -> bool:
    """Given the environment's folder, tell whether packages can be put into it; uv's has no pip, and uv may be gone."""
    made = any((venv / stamp).exists() for stamp in (RUNTIME, DEVELOPMENT)) and _has_its_python(venv)
    return made and (_uv() or any(venv.glob("lib/python3*/site-packages/pip")))


def _fill(root: Path, lock: str) -> None:
    if _uv():
        _run(
            root,
            "uv",
            "pip",
            "sync",
            "--quiet",
            "--require-hashes",
            "--python",
            ".venv/bin/python",
            lock,
        )
    else:
        quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
        _run(
            root,
            ".venv/bin/python",
            "-m",
            "pip",
            "install",
            *quiet,
            "--require-hashes",
            "--no-deps",
            "-r",
            lock,
        )


def _point_at(root: Path) -> None:
    """Make our packages importable, by a path relative to site-packages: the checkout may be moved."""
    for packages in (root / ".venv/lib").glob("python3*/site-packages"):
        (packages / "i12e.pth").write_text(os.path.relpath(root / "lib", packages) + "\n")


def _name_python(root: Path) -> None:
    venv = root / ".venv"
    (venv / BASE).write_text(f"{(venv / 'bin/python').resolve()}\n")


def _stamp(root: Path, lock: str) -> None:
    new = root / ".venv" / f"{lock}.new"
    shutil.copyfile(root / lock, new)
    new.replace(root / ".venv" / lock)


def _uv() -> bool:
    return shutil.which("uv") is not None


def _run(root: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise SetupError(f"{' '.join(command[:4])} ... failed:\n{said}\nmend that and run the same command again")


def _say(text: str) -> None:
    print(f"i12e: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        install(Path.cwd(), *sys.argv[1:])
    except SetupError as error:
        _say(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        _say("interrupted; the next start goes on")
        sys.exit(130)
