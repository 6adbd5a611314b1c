"""What secret files say of stores and of DNS: the keys that each kind takes, and nothing that would be passed over.

A misspelt name of a store or of a key would have it opened with other credentials than those that were meant.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from i12e.errors import Problem, UserError, did_you_mean
from i12e.secrets import Secret

if TYPE_CHECKING:
    from i12e.settings import Dns, Store

KEYS = {
    "folder": (),
    "s3": ("access_key", "secret_key", "session_token"),
    "rclone": ("rclone_conf",),
}
"""By the kind of a store, what may stand below its name."""
_TOGETHER = ("access_key", "secret_key")
OF_DNS = {
    "route53": ("access_key", "secret_key", "session_token"),
    "rfc2136": ("secret",),
    "cloudflare": ("token",),
}
"""By the provider, what may stand below it in secrets/ENV/dns.yaml."""


def of_stores(stores: Collection[Store], group: Mapping[str, Any], path: str) -> dict[str, dict[str, Secret]]:
    """Given the stores, the secrets of secrets/ENV/backup.yaml and that path, return the credentials by store.

    A store without any is not in it. Raise UserError with everything that no store would take, or that lacks.
    """
    problems = [Problem(path, None, None, message, remedy) for message, remedy in _faults(stores, group)]
    if problems:
        raise UserError(problems)
    return {store.name: dict(group[store.name]) for store in stores if group.get(store.name)}


def of_dns(dns: Dns, group: Mapping[str, Any], path: str) -> dict[str, Secret]:
    """Given what the model says of DNS, the secrets of secrets/ENV/dns.yaml and that path, return the provider's.

    The other providers' may be there, too. Raise UserError with everything that no provider would take, or that lacks.
    """
    problems = [Problem(path, None, None, message, remedy) for message, remedy in _of_providers(dns.provider, group)]
    if problems:
        raise UserError(problems)
    return dict(group.get(dns.provider) or {})


def _of_providers(chosen: str, group: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for provider, values in group.items():
        if provider not in OF_DNS:
            remedy = did_you_mean(provider, OF_DNS) or f"there are {', '.join(OF_DNS)}"
            yield f"{provider}: is no provider of DNS that takes credentials", remedy
        elif values is not None:
            yield from _values(provider, OF_DNS[provider], values)
    if chosen in OF_DNS and chosen != "route53" and not group.get(chosen):  # AWS has settings of its own
        (key,) = OF_DNS[chosen]
        yield f"{chosen}.{key}: is missing", f"write {chosen}: {{{key}: ...}}"


def _faults(stores: Collection[Store], group: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    kinds = {store.name: store.kind for store in stores}
    for name, values in group.items():
        if name not in kinds:
            remedy = did_you_mean(name, kinds) or f"there are {', '.join(kinds)}"
            yield f"{name}: is no store of this cluster", remedy
        elif values is not None:
            yield from _of_one(name, kinds[name], values)


def _of_one(name: str, kind: str, values: Any) -> Iterator[tuple[str, str]]:
    known = KEYS[kind]
    if not known:
        yield f"{name}: is a folder, which takes no credentials", "delete it"
        return
    yield from _values(name, known, values)


def _values(name: str, known: Sequence[str], values: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(values, Mapping):
        yield f"{name}: is not a mapping", f"write {name}: {{{', '.join(f'{key}: ...' for key in known[:2])}}}"
        return
    for key, value in values.items():
        if key not in known:
            yield f"{name}.{key}: is not a known key", did_you_mean(key, known) or f"known: {', '.join(known)}"
        elif not isinstance(value, Secret) or not value.reveal().strip():
            yield f"{name}.{key}: is empty, or no text", "give it a value, or delete the key"
    lacking = [key for key in _TOGETHER if key in known and values and key not in values]
    for key in lacking:
        yield (
            f"{name}.{key}: is missing",
            "access_key and secret_key go together; without both, AWS's own settings hold",
        )
