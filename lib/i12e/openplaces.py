"""From what the model says of a cluster's stores to its folders in them, open."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from i12e import backup_keys, credentials, screen
from i12e.backups import Place
from i12e.build import Build
from i12e.errors import Problem, UsageError
from i12e.openstore import open_store
from i12e.settings import Cluster
from i12e.stores import StoreError


def open_places(
    build: Build, cluster: Cluster, only: str = "", probe: bool = True, patience: float = 300.0, option: str = "--store"
) -> tuple[list[Place], list[Problem]]:
    """Given a cluster and the name of one of its stores (all), return its folders in them, and what is wrong.

    `probe`: every store that is returned has been written to, read and listed just now; `patience`: seconds for which
    what fails is tried again; `option`: by which the name was given. Raise UserError for a name that no store has.
    """
    found = backup_keys.stores(build.paths, cluster, os.environ)
    if only and only not in [store.name for store in found]:
        names = ", ".join(store.name for store in found)
        raise UsageError(Problem("", None, None, f"{option} {only}: there is no such store", f"there are {names}"))
    if probe and not cluster.backup.stores:  # the user's own folder, on no disk that could be missing
        for each in found:
            with suppress(OSError):  # the store says it better
                Path(each.folder or "").parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    opening = credentials.of_stores(found, build.group("backup"), f"{build.paths.secrets}/backup.yaml")
    places, problems = [], []
    for settings in found:
        if only in ("", settings.name):
            try:
                store = open_store(settings, opening.get(settings.name, {}), screen.say, patience)
                if probe:
                    store.probe()
            except StoreError as error:
                problems.append(error.problem())
            else:
                places.append(Place(store, cluster.name))
    return places, problems
