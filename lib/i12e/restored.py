"""Whether a cluster that a backup was restored into has what the backup has, by its own API."""

from __future__ import annotations

from collections.abc import Callable

from i12e import collect, database, proof
from i12e.database import Failed, Host, Unasked
from i12e.verify import Opened


def compare(
    host: Host, found: Opened, volatile: frozenset[str] = proof.VOLATILE, say: Callable[[str], None] = lambda text: None
) -> None:
    """Given a server whose k3s answers, and the backup, see that it serves what was backed up.

    `volatile`: the plurals that do not count. Raise Failed, Unasked where it did not say, or Unreachable.
    """
    live = database.Live(host)
    if live.uid != found.manifest.uid:
        said = f"its kube-system is {live.uid}, and the backup's is {found.manifest.uid}"
        raise Failed(f"it serves another cluster: {said}")
    missing = proof.lost(found.manifest.objects, live.counts(60.0, say), volatile)
    if missing:
        raise Failed(f"it does not have all that was backed up: {'; '.join(missing[:5])}")
    sentinel = collect.Sentinel(**found.index.sentinel)
    done = host.run(kubectl(f"-n {sentinel.namespace} get secret {sentinel.name} -o json"), limit=60)
    if not sentinel.is_in(done.output):
        said = (done.complaint.strip().splitlines() or ["it has another value"])[-1][:200]
        if done.status and "NotFound" not in said and "decrypt" not in said and "unable to transform" not in said:
            raise Unasked(f"the Secret that was made for this backup could not be asked for: {said}")
        raise Failed(f"the Secret that was made for this backup does not open: {said}")


def kubectl(arguments: str) -> str:
    """Given kubectl's arguments, return the script that runs it on a server."""
    return f"PATH=/opt/bin:/usr/local/bin:$PATH; exec k3s kubectl {arguments}"
