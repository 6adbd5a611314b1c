"""Requests that go to one address and nowhere else, and why one failed, in words that do not hold the address."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from typing import Any


class Stays(urllib.request.HTTPRedirectHandler):
    """Goes nowhere else: what is led elsewhere is a GET without the message, and a secret would go there, too."""

    def redirect_request(self, *args: Any, **named: Any) -> None:
        """Given where a server leads, do not go there."""
        return


def trouble(error: Exception, server: str = "the server") -> tuple[str, bool]:
    """Given why there was no answer, and what the server is called, return it in words of ours or of the system's.

    And whether trying again may help. What a library says may hold the address, which may be a secret.
    """
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = cause.verify_message.partition(",")[0]  # behind it may be the name
        return f"{server}'s certificate is not good: {why}", False
    if isinstance(cause, TimeoutError):
        return f"{server} says nothing", True
    said = getattr(cause, "strerror", None) or type(cause).__name__
    if isinstance(cause, OSError | http.client.HTTPException) and str(cause).startswith("Tunnel connection failed"):
        said = str(cause)[:100]  # what a proxy said
    return f"the connection failed: {said}", True
