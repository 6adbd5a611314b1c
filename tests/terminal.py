"""A terminal for tests: a program on a pty of its own, what it shows, and a person who types."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PATIENCE = 60.0  # seconds until a test gives up; what is waited for comes as soon as it can


class Typed:
    """A program that runs on a terminal of its own."""

    def __init__(self, command: Sequence[str], cwd: Path, environ: Mapping[str, str]) -> None:
        self.seen = ""
        self._read = 0
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:  # pragma: no cover  # another process
            os.chdir(cwd)
            os.execvpe(command[0], list(command), {**environ, "TERM": "xterm"})  # noqa: S606  # what the test starts

    def expect(self, text: str) -> str:
        """Given a text, wait until it is shown; return what was shown since the last one."""
        while text not in self.seen[self._read :]:
            assert self._more(), f"the program ended before it showed {text!r}:\n{self.seen}"
        end = self.seen.index(text, self._read) + len(text)
        shown, self._read = self.seen[self._read : end], end
        return shown

    def type(self, text: str) -> None:
        """Given a line, type it."""
        os.write(self._terminal, f"{text}\n".encode())

    def press(self, key: bytes) -> None:
        """Given what a key sends, press it."""
        os.write(self._terminal, key)

    def signal(self, number: signal.Signals) -> None:
        """Given a signal, send it to the program."""
        os.kill(self._pid, number)

    def kill(self) -> None:
        """Kill the program at once, and let go of its terminal."""
        self.signal(signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._terminal)

    def end(self) -> int:
        """Wait until the program ends; return its exit status."""
        while self._more():
            pass
        os.close(self._terminal)
        _, status = os.waitpid(self._pid, 0)
        return os.waitstatus_to_exitcode(status)

    @property
    def text(self) -> str:
        """What was shown so far, without the codes that move the cursor."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.seen).replace("\r\n", "\n")

    def _more(self) -> bool:
        deadline = time.monotonic() + PATIENCE
        ready, _, _ = select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"nothing more was shown for {PATIENCE} s:\n{self.seen}"
        try:
            read = os.read(self._terminal, 65536)
        except OSError:  # Linux: the program let go of its terminal
            return False
        self.seen += read.decode(errors="replace")
        return bool(read)
