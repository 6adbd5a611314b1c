"""What fails for a while is tried again: the one place for how long, how often, and what is said meanwhile."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from i12e.errors import Outside
from i12e.lock import duration

_T = TypeVar("_T")


@dataclass(frozen=True)
class Patience:
    """How long, and how, what fails for a while is tried again."""

    say: Callable[[str], None]
    """Gets what is waited for, for how long already, and the last thing that was said."""
    limit: float = 300.0
    """Seconds, from the first failure on."""
    first: float = 0.5
    """Seconds of the first pause; each is twice as long as the one before,"""
    longest: float = 20.0
    """up to so many seconds."""
    chance: float = 0.5
    """The part of a pause by which chance may shorten it: many that failed together are not to come back together."""
    news: float = 0.0
    """Seconds in which the same is not said again."""
    doing: str = "trying again"
    clock: Callable[[], float] = lambda: time.monotonic()
    sleep: Callable[[float], None] = lambda seconds: time.sleep(seconds)

    def wait(self) -> Wait:
        """Return what counts the failures of one thing."""
        return Wait(self)

    def call(self, action: Callable[[], _T], again: Callable[[Outside], bool] = lambda error: error.passing) -> _T:
        """Given an action that may be done twice, return what it returns.

        `again` tells what of it is tried again. Raise what is not, and what still fails when the time is over.
        """
        wait = self.wait()
        while True:
            try:
                return action()
            except Outside as error:
                if not again(error):
                    raise
                wait.longer(error)


class Wait:
    """The failures of one thing."""

    def __init__(self, patience: Patience) -> None:
        self.failures = 0
        self._patience = patience
        self._pause = patience.first
        self._began = self._told = 0.0
        self._last = ""

    def after(self, error: Outside) -> None:
        """Given why a try failed, wait until the next one; raise the error if there is to be none."""
        if not error.passing:
            raise error
        self.longer(error)

    def longer(self, error: Outside) -> None:
        """Given why a try failed that is worth another one, wait for it; raise the error if the time is over."""
        patience, now = self._patience, self._patience.clock()
        if not self.failures:
            self._began = now
        left = self._began + patience.limit - now
        if left <= 0 or error.wait > left:
            raise error
        self.failures += 1
        if error.why != self._last or now - self._told >= patience.news:
            passed = f"{duration(now - self._began)} of {duration(patience.limit)}"
            patience.say(f"{error.who}: {patience.doing}, {passed}: {error.why}")
            self._told, self._last = now, error.why
        pause = self._pause * random.uniform(1.0 - patience.chance, 1.0)  # noqa: S311  # not for a secret
        patience.sleep(error.wait or min(pause, left))
        self._pause = min(2 * self._pause, patience.longest)
