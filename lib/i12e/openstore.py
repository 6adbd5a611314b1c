"""From what the model says of a store to the store, open, with patience."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from i12e.patience import Patience
from i12e.secrets import Secret
from i12e.stores import Patient, Store


def open_store(
    settings: Any,
    credentials: Mapping[str, Secret | str],
    say: Callable[[str], None],
    limit: float = 300.0,
) -> Store:
    """Given a store of the model, its credentials and what tells of waiting, return the store; nothing is asked yet.

    `limit` is how long what fails for a while is tried again, in seconds. Raise StoreError if the credentials or the
    settings do not fit.
    """
    patience = Patience(say, limit)
    known = {name: value.reveal() if isinstance(value, Secret) else value for name, value in credentials.items()}
    return Patient(_opened(settings, known, patience), patience)


def _opened(settings: Any, credentials: Mapping[str, str], patience: Patience) -> Store:
    if settings.folder:
        from i12e.folders import Folder

        return Folder(settings.name, settings.folder)
    if settings.s3:
        from i12e.s3 import S3

        return S3(settings.name, settings.s3, credentials, patience)
    from i12e.rclone import Rclone

    return Rclone(settings.name, settings.rclone, credentials.get("rclone_conf"))
