"""What somebody may write who wants us to take long, or to fall over."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable

import pytest

import butane

HEADER = "variant: flatcar\nversion: 1.1.0\n"
FCOS = "variant: fcos\nversion: 1.7.0\n"
MOUNT = "filesystems: [{path: /var/a, device: /dev/a, format: ext4, with_mount_unit: true}]"


def partitions(count: int, first: str, others: str) -> str:
    listed = (f"{{number: {i + 1}, {others.format(10 * i + 1)}}}" for i in range(1, count))
    return f"storage: {{disks: [{{device: /dev/a, partitions: [{{number: 1, {first}}}, {', '.join(listed)}]}}]}}\n"


def link(number: int) -> str:
    return f"{{path: /{'a' * (number % 50)}{number}, target: b}}"


BIG: dict[str, Callable[[int], str]] = {
    "keys that nothing takes": lambda n: HEADER + "".join(f"x{i}: 1\n" for i in range(n)),
    "keys that nothing takes, and files": lambda n: (
        HEADER + "".join(f"x{i}: 1\n" for i in range(n)) + f"storage: {{files: [{'{path: a}, ' * n}]}}\n"
    ),
    "one key": lambda n: HEADER + "x: 1\n" * n,
    "partitions": lambda n: HEADER + partitions(n, "start_mib: 1, size_mib: 5", "start_mib: {}, size_mib: 5"),
    "roots": lambda n: FCOS + partitions(n, "label: root", "label: root"),
    "bad units beside one of ours": lambda n: (
        f"{HEADER}storage: {{{MOUNT}}}\nsystemd: {{units: [{', '.join(f'{{name: a{i}}}' for i in range(n))}]}}\n"
    ),
    "links": lambda n: f"{HEADER}storage: {{links: [{', '.join(map(link, range(n)))}]}}\n",
    "parts of a path": lambda n: (
        f"{HEADER}storage: {{links: [{{path: /l, target: a}}], files: [{{path: {'/a' * n * 20}}}]}}\n"
    ),
}


def seconds(text: str) -> float:
    """Return what a text takes, without what Python's collector has to do with the thousands of tests around it."""
    gc.freeze()
    try:
        start = time.process_time()
        with contextlib.suppress(butane.BadConfig):
            butane.translate(text, thorough=True, hints=True)
        return time.process_time() - start
    finally:
        gc.unfreeze()


@pytest.mark.slow
@pytest.mark.parametrize("kind", BIG)
def test_eight_times_as_much_takes_about_eight_times_as_long(kind: str) -> None:
    few, many = BIG[kind](800), BIG[kind](6400)
    seconds(few)
    assert min(seconds(many) for _ in range(2)) < 24 * max(0.01, min(seconds(few) for _ in range(3)))


def test_a_key_that_stands_there_time_and_again_is_told_beside_the_first_ten() -> None:
    with pytest.raises(butane.BadConfig) as caught:
        butane.translate(HEADER + "x: 1\n" * 30)
    assert len(caught.value.report) == sum(min(i, 10) for i in range(30))
    assert caught.value.report[-1].message == 'mapping key "x" already defined at line 12'


@pytest.mark.parametrize("numbers", ["9" * 5000 + ".0.0", "1.1." + "9" * 5000])
def test_a_version_of_thousands_of_digits_is_none(numbers: str) -> None:
    with pytest.raises(butane.BadConfig, match="must be a valid semver"):
        butane.translate(f"variant: flatcar\nversion: {numbers}\n")
    inner = f'{HEADER}ignition: {{config: {{replace: {{inline: \'{{"ignition":{{"version":"{numbers}"}}}}\'}}}}}}\n'
    with pytest.raises(butane.BadConfig, match="couldn't parse"):
        butane.translate(inner)
    (entry, *_) = butane.check({"ignition": {"version": numbers}})
    assert "couldn't parse" in entry.message
