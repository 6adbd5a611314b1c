"""Who a cluster says it is: nothing that it does not say counts as the first epoch."""

from __future__ import annotations

import json
from typing import Any

import pytest

from i12e import epoch
from i12e.epoch import Identity
from i12e.errors import UserError
from i12e.programs import Done
from i12e.remote import Remote, Target

UID = "5e2d7a60-8a0c-4c4e-9d7a-3c1f5b1f0a11"


class Server(Remote):
    """A server whose kubectl says what it is told to."""

    def __init__(self, done: Done) -> None:
        self.target = Target("server-1", "core@192.0.2.1")
        self.done = done
        self.given: list[tuple[str, bytes]] = []

    def run(self, script: str, stdin: bytes = b"", limit: float = 60.0, root: bool = True) -> Done:
        """See Remote."""
        self.given.append((script, stdin))
        return self.done

    def close(self) -> None:
        """There is nothing to close."""


def said(uid: Any = UID, map_: str = "") -> str:
    """Return what ASK prints for a UID and a ConfigMap."""
    return json.dumps({"metadata": {"uid": uid}}) + f"\n\n@i12e\n{map_}"


def config_map(text: Any) -> str:
    """Return the ConfigMap that has an epoch."""
    return json.dumps({"data": {"epoch": text}})


def test_a_cluster_without_an_epoch_is_in_its_first_and_one_with_it_in_that() -> None:
    assert epoch.read(Server(Done(0, said(), ""))) == Identity(UID, 1, written=False)
    assert epoch.read(Server(Done(0, said(map_=config_map("7")), ""))) == Identity(UID, 7, written=True)


@pytest.mark.parametrize(
    "done",
    [
        Done(1, "", "connection refused"),
        Done(1, said(), "connection refused"),  # the UID came, and the ConfigMap did not: that is not the first epoch
        Done(0, said(map_="{}"), ""),
        *(Done(0, said(map_=config_map(text)), "") for text in ("", "two", "0", "-1", "1" + "0" * 15, None)),
        *(Done(0, said(uid), "") for uid in ("", "a b", "../..", None)),
        Done(0, "", ""),
    ],
)
def test_what_does_not_say_who_it_is_is_nobody(done: Done) -> None:
    with pytest.raises(UserError, match="server-1: who the cluster is cannot be told"):
        epoch.read(Server(done))


def test_an_epoch_is_written_as_it_is_read_and_the_first_of_two_stays() -> None:
    server = Server(Done(0, "", ""))
    epoch.write(server, 2)
    epoch.write(Server(Done(1, "", 'configmaps "i12e-epoch" AlreadyExists')), 1, new=True)
    script, text = server.given[0]
    assert "kubectl apply -f -" in script
    assert epoch.parse("server-1", Done(0, said(map_=text.decode()), "")).epoch == 2
    with pytest.raises(UserError, match="the epoch cannot be written down: forbidden"):
        epoch.write(Server(Done(1, "", "forbidden")), 2)
