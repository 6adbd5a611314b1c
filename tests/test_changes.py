"""What a new config changes: nothing is left out, nothing secret is shown, and a person can read it."""

from __future__ import annotations

import base64
import gzip
from typing import Any
from urllib.parse import quote

from i12e import changes
from i12e.changes import Change, between

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEzBbaE5lcDr3hNL8WrgNDV5SGe26Y4+DFTPXDPiQ4l6 demo"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHt1mF5uGGnCkJpV0yX8Xc7Jx5x7kkf8nVb0c6ykJ2aa ops@desk"


def data(content: str | bytes, form: str = "plain") -> dict[str, Any]:
    """Given a content, return it as a config has it."""
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    if form == "plain":
        return {"source": f"data:,{quote(raw)}", "compression": ""}
    if form == "gzip":
        return {
            "source": f"data:;base64,{base64.b64encode(gzip.compress(raw, mtime=0)).decode()}",
            "compression": "gzip",
        }
    return {"source": f"data:;base64,{base64.b64encode(raw).decode()}"}


def file(path: str, content: str | bytes, mode: int = 0o644, **more: Any) -> dict[str, Any]:
    """Given a path and a content, return the file as a config has it."""
    return {"path": path, "mode": mode, "overwrite": True, "contents": data(content), **more}


def config(*files: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """Given files and sections, return a config."""
    storage = {**sections.pop("storage", {}), **({"files": list(files)} if files else {})}
    return {"ignition": {"version": "3.4.0"}, **({"storage": storage} if storage else {}), **sections}


def units(*found: dict[str, Any]) -> dict[str, Any]:
    """Given units, return a config of them."""
    return config(systemd={"units": list(found)})


def told(old: dict[str, Any] | None, new: dict[str, Any], masked: dict[str, Any] | None = None) -> list[str]:
    """Given two configs, return what a person is told."""
    return changes.text(between(old, new, masked or new, str), width=200)


def of(old: dict[str, Any], new: dict[str, Any], masked: dict[str, Any] | None = None) -> Change:
    """Given two configs, return their only change."""
    found = between(old, new, masked or new, str)
    assert len(found) == 1, found
    return found[0]


# --- what a person reads


def test_a_text_is_told_by_its_lines() -> None:
    assert told(config(file("/etc/motd", "hello\n")), config(file("/etc/motd", "hello world\n"))) == [
        "file       /etc/motd  changed",
        "           - hello",
        "           + hello world",
    ]
