"""Clients of Amazon's services, and of what speaks like them: the one home of boto3.

What a service answers and what keeps an answer from coming are two exceptions of ours, without any secret; what they
mean is for the one who asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

_T = TypeVar("_T")
_CONNECT, _ANSWER = 10, 60  # seconds


class Answered(Exception):
    """The service answered with an error: `code`, `said` (its message), `status` (HTTP's), `headers`, and all of it."""

    def __init__(self, response: Mapping[str, Any]) -> None:
        error, meta = response.get("Error", {}), response.get("ResponseMetadata", {})
        self.response = response
        self.code = str(error.get("Code", ""))
        self.said = str(error.get("Message", "")).strip().rstrip(".")
        self.status = int(meta.get("HTTPStatusCode", 0))
        self.headers: Mapping[str, str] = meta.get("HTTPHeaders", {})
        super().__init__(self.what)

    @property
    def what(self) -> str:
        """Both in a line."""
        return (
            f"{self.code}: {self.said}"
            if self.said and self.said != self.code
            else self.code or f"status {self.status}"
        )


class Unanswered(Exception):
    """There is no answer that can be believed; says why.

    `kind`: no credentials, a certificate that is not good, an answer that nobody can read or that did not come
    (connection), or a request that cannot be made (other).
    """

    def __init__(self, why: str, kind: Literal["credentials", "certificate", "connection", "other"]) -> None:
        self.why = why
        self.kind = kind
        super().__init__(why)


def client(
    service: str, credentials: Mapping[str, str], region: str | None, endpoint: str | None, **config: Any
) -> Any:
    """Given a service, perhaps credentials, a region and an endpoint, and further settings of botocore's, return a
    client.

    Without credentials (access_key, secret_key, session_token), boto3 looks where it always does: the environment,
    ~/.aws, the machine's role. Nothing is tried twice: who asks knows whether that is right. Raise ValueError.
    """
    import boto3  # slow to import
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    keys = [credentials.get(each) or None for each in ("access_key", "secret_key", "session_token")]
    settings = Config(
        retries={"total_max_attempts": 1},
        connect_timeout=_CONNECT,
        read_timeout=_ANSWER,
        user_agent_extra="i12e",
        **config,
    )
    try:
        session = boto3.session.Session(*keys, region_name=region)
        its = session.region_name or "us-east-1"  # what services without regions take
        return session.client(service, region_name=its, endpoint_url=endpoint, config=settings)
    except BotoCoreError as error:
        raise ValueError(str(error)) from None


def asked(action: Callable[[], _T]) -> _T:
    """Given a request to a client, return its answer; raise Answered or Unanswered."""
    from botocore import exceptions
    from urllib3.exceptions import HTTPError

    try:
        return action()
    except exceptions.ClientError as error:
        raise Answered(error.response) from None
    except (exceptions.BotoCoreError, HTTPError, OSError) as error:
        raise Unanswered(" ".join(str(error).split())[:300], _kind(error)) from None


def _kind(error: Exception) -> Literal["credentials", "certificate", "connection", "other"]:
    from botocore import exceptions

    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return "credentials"
    if isinstance(error, exceptions.SSLError):
        return "certificate"
    broken = (
        exceptions.HTTPClientError,  # no connection, none to the end, no answer in time
        exceptions.IncompleteReadError,
        exceptions.ResponseStreamingError,
        exceptions.ConnectionError,
    )
    if isinstance(error, broken) or not isinstance(error, exceptions.BotoCoreError):
        return "connection"
    # cut off, or a proxy's own page
    return "connection" if type(error).__name__ == "ResponseParserError" else "other"
