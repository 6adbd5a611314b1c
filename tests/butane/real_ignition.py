"""The verdict of the real ignition-validate."""

from __future__ import annotations

import subprocess


def verdict(program: str, config: bytes) -> str:
    """Given the program's path and a config, return what it has against it: "" where it takes it."""
    # version 2.14 knows 3.4.0 by the name that it had before its release
    header = config.replace(b'"version":"3.4.0"', b'"version":"3.4.0-experimental"', 1)
    done = subprocess.run([program, "-"], input=header, capture_output=True, check=False)
    return (done.stdout + done.stderr).decode() if done.returncode else ""
