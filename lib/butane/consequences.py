"""What `thorough` does not tell: what only follows from a value that could not be read."""

from __future__ import annotations

from collections.abc import Iterator

from butane.report import Fault, Path

# Rules that are told at one place and ask for the value at another: how many parts of the place are to be left out,
# and what is to be put on then
_ASKS: dict[str, tuple[tuple[int, Path], ...]] = {
    "overwrite must be false if source is unspecified": tuple(
        (1, ("contents", name)) for name in ("inline", "local", "source")
    ),
    "source must be specified if verification is specified": tuple(
        (2, (name,)) for name in ("inline", "local", "source")
    ),
    "unable to parse url": ((1, ("source",)),),
    "filesystem must specify format if label is specified": ((1, ("format",)),),
    "device matches disk with wipeTable enabled": ((1, ("wipe_filesystem",)),),
    "incorrect partition number": ((1, ("number",)), (3, ("wipe_table",))),
    "partitions cannot be reused by label": ((3, ("device",)), (3, ("wipe_table",))),
    "root partition cannot expand": ((2, ()),),
    "boot_device.layout should be specified": ((1, ("layout",)),),
    "when using cex the targeted architecture": ((2, ("layout",)),),
    "device is required for layouts": ((1, ("luks", "device")),),
    "no method specified for luks": tuple((1, (name,)) for name in ("cex", "tang", "tpm2")),
}


class Consequences:
    """What follows from values that could not be read."""

    def __init__(self, broken: set[Path]) -> None:
        """Take the paths of the values."""
        self.broken = broken
        self.above = {path[:length] for path in broken for length in range(len(path))}

    def has(self, fault: Fault) -> bool:
        """Given what was found, tell whether it may be there only because of a value that could not be read."""
        return bool(self.broken) and any(map(self._is_touched, (fault.path, *_asked(fault))))

    def _is_touched(self, path: Path) -> bool:
        return path in self.above or any(path[:length] in self.broken for length in range(len(path) + 1))


def _asked(fault: Fault) -> Iterator[Path]:
    for beginning, places in _ASKS.items():
        if fault.message.startswith(beginning):
            yield from ((*fault.path[:-up], *names) for up, names in places)
