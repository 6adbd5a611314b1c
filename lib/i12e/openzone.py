"""From what the model says of DNS to the zone, open, with patience."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from i12e.patience import Patience
from i12e.secrets import Secret
from i12e.zones import Patient, Zone


def open_zone(
    settings: Any, credentials: Mapping[str, Secret | str], say: Callable[[str], None], limit: float = 60.0
) -> Zone:
    """Given `dns` of the model, its credentials and what tells of waiting, return the zone; nothing is asked yet.

    `limit` is how long what fails for a while is tried again, in seconds. Raise ZoneError if the credentials do not
    fit.
    """
    known = {name: value.reveal() if isinstance(value, Secret) else value for name, value in credentials.items()}
    return Patient(_opened(settings, known), Patience(say, limit, longest=10.0))


def _opened(settings: Any, credentials: Mapping[str, str]) -> Zone:
    if settings.provider == "route53":
        from i12e.route53 import Route53

        return Route53(settings.zone, settings.route53, credentials)
    if settings.provider == "cloudflare":
        from i12e.cloudflare import Cloudflare

        return Cloudflare(settings.zone, settings.cloudflare, credentials)
    if settings.provider == "rfc2136":
        from i12e.rfc2136 import Rfc2136

        return Rfc2136(settings.zone, settings.rfc2136, credentials)
    from i12e.byhand import Hand

    return Hand(settings.zone)
