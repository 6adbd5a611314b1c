"""Run by initrd.reset in a process of its own: python clearing.py INITRD <PATHS, which end in NUL.

In the initrd, whose root is not the host's: that decides where an absolute link leads to.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def clear(paths: list[bytes]) -> None:
    """Given paths of the host, deepest first, remove them as Flatcar's initrd-setup-root does.

    Its `[ -d ]` follows links: a link to a folder is given to rmdir, which fails, so the link stays and with it the
    folders that it is in. No error ends it.
    """
    for path in paths:
        entry = b"/sysroot" + path
        with suppress(OSError):
            (os.rmdir if os.path.isdir(entry) else os.unlink)(entry)


if __name__ == "__main__":
    given = sys.stdin.buffer.read().split(b"\0")
    os.chroot(sys.argv[1])
    os.chdir("/")
    clear([path for path in given if path not in (b"", b"/", b"/usr")])
