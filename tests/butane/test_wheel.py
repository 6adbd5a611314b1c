"""lib/butane stands on its own: copied out, built and installed with nothing but PyYAML, it works."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

import butane
from conftest import need

PACKAGE = Path(butane.__file__).parent
CONFIG = "variant: fcos\nversion: 1.5.0\nstorage: {files: [{path: /a, contents: {local: a}}]}\n"

pytestmark = pytest.mark.slow


def run(directory: Path, *command: str | Path, given: str = "") -> str:
    done = subprocess.run(command, cwd=directory, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_copied_out_it_is_a_wheel_that_needs_pyyaml_alone(tmp_path: Path) -> None:
    need(find_spec("setuptools"), "setuptools (it is in requirements-dev.lock)")
    need(find_spec("ensurepip"), "Python's venv with pip (Debian: apt-get install python3-venv)")
    copy = tmp_path / "source"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    build = "import sys, setuptools.build_meta as backend; print(backend.build_wheel(sys.argv[1]))"
    wheel = tmp_path / run(copy, sys.executable, "-c", build, tmp_path).splitlines()[-1]
    assert wheel.name.startswith("butane_py-")

    run(tmp_path, sys.executable, "-m", "venv", "venv")
    python = tmp_path / "venv/bin/python"
    run(tmp_path, python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel)
    site = Path(run(tmp_path, python, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))").strip())
    give_pyyaml(site)
    run(tmp_path, python, "-m", "pip", "check")

    (tmp_path / "files").mkdir()
    (tmp_path / "files/a").write_text("hello")
    out = run(tmp_path, python, "-I", "-m", "butane", "--strict", "--files-dir", "files", given=CONFIG)
    assert out == butane.translate(CONFIG, tmp_path / "files").json.decode()
    assert run(tmp_path, tmp_path / "venv/bin/butane-py", "-V").startswith("Butane v")
    typed = "import butane, pathlib; print((pathlib.Path(butane.__file__).parent / 'py.typed').exists())"
    assert run(tmp_path, python, "-c", typed) == "True\n"


def give_pyyaml(site: Path) -> None:
    """Copy the PyYAML of these tests, which needs no network."""
    found = metadata.distribution("pyyaml")
    for top in {file.parts[0] for file in found.files or ()} - {".."}:
        source = Path(str(found.locate_file(top)))
        (shutil.copytree if source.is_dir() else shutil.copy)(source, site / top)
