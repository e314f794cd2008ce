"""Too many open files, for real: at every number of descriptors that are left, whatever is done ends by name and loses nothing."""

from __future__ import annotations

import errno
import gc
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from mqsdk_log.engine.errors import LogError
from mqsdk_log.engine.log import Log
from mqsdk_log.engine.shared import Limits

SMALL = Limits(segment_bytes=300, min_free_bytes=0)
MOST = 35  # to open all that is opened here takes fewer


@contextmanager
def left(few: int) -> Iterator[None]:
    """Only so many descriptors can be opened in the block. Those below the highest one that are free are taken first."""
    fillers: list[int] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    try:
        while (fd := os.open(os.devnull, os.O_RDONLY)) < highest:
            fillers.append(fd)
        os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(fd, highest + 1) + few, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fillers:
            os.close(fd)


def descriptors() -> list[str]:
    """What is open, by name; a mapping is closed with the last word of it that is held, so that is collected first."""
    gc.collect()
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return sorted(found)


def refused(action: Callable[[], Any]) -> bool:
    """Whether it failed for want of descriptors, by name."""
    try:
        action()
    except LogError:
        return True
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        return True
    return False


@pytest.mark.parametrize("durability", ["none", "interval", "always"])
def test_opening_and_appending_with_any_number_of_descriptors_left(tmp_path: Path, durability: Any) -> None:
    stored: list[bytes] = []
    tries = count()

    def work() -> None:
        with Log.open(tmp_path / "log", durability=durability, limits=SMALL) as log:
            partition = log.create_topic("orders", 2).partition(0)
            for _ in range(4):  # rolls in between
                value = b"value %03d" % next(tries)  # one whose outcome is unknown may be stored
                partition.append([(None, b"", value, 0, 0, 1)] * 3, timestamp_ms=1)
                stored.append(value)

    before, failures = descriptors(), 0
    for number in range(MOST):
        with left(number):
            failures += refused(work)
        assert descriptors() == before, f"with {number} left"
    assert 5 < failures < MOST - 5  # few are too few, and in the end all of it works
    with Log.open(tmp_path / "log", durability=durability, limits=SMALL) as log:
        reader = log.topic("orders").partition(0).reader(0)
        found = []
        while batch := reader.read(1000, 1 << 20):
            found += [record.value for record in batch]
    assert [value for value in found[::3] if value in stored] == stored
    assert len(found) % 3 == 0


@pytest.mark.parametrize("durability", ["interval", "always"])
def test_an_open_log_goes_on_when_descriptors_are_free_again(kit: Any, durability: str) -> None:
    """Appends that need no descriptor are stored meanwhile; what needs one is refused, told, and works later."""
    partition = kit.partition(durability, SMALL)
    stored = [b"first"]
    kit.append(partition, b"first")
    for few in range(12):
        with left(few):
            for number in range(4):
                value = b"%d of %d" % (number, few)
                if not refused(lambda value=value: kit.append(partition, value)):  # type: ignore[misc]
                    stored.append(value)
    kit.append(partition, b"last")
    values = kit.values(partition)
    assert [value for value in values if value in stored] == stored
    assert values[-1] == b"last"
    assert not partition.is_read_only
    kit.close()
    assert kit.values(kit.open().topic("orders").partition(0)) == values


def test_a_reader_and_a_look_at_all_topics_recover_too(kit: Any) -> None:
    partition = kit.partition("none", SMALL)
    for number in range(20):
        kit.append(partition, b"value %d" % number)
    whole = kit.values(partition)
    partition.sync()  # what is synced in the background has opened its segments for that, and keeps them for the next time
    before = descriptors()
    for few in range(6):
        with left(few):
            refused(lambda: kit.values(partition))
            refused(lambda: partition.locate(1))
            refused(lambda: partition.size_bytes())
            refused(lambda: kit.opened[0].topics())
        assert descriptors() == before
    assert kit.values(partition) == whole
