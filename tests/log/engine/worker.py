"""What other processes do in the tests of the engine: `worker.py PROGRAM ROOT ARGUMENTS...`; speaks in lines on stdout."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from typing import Any

from mqsdk_log.engine import files
from mqsdk_log.engine.errors import DiskFull, LogError
from mqsdk_log.engine.log import Log
from mqsdk_log.engine.shared import Limits


def say(*words: object) -> None:
    print(*words, flush=True)


def records(name: str, first: int, count: int, size: int) -> list[Any]:
    """Values are `name:number:` and padding, so that a reader can check who wrote what in which order."""
    return [(name.encode(), b"", f"{name}:{number}:".encode().ljust(size, b"."), 0, 0, 1) for number in range(first, first + count)]


def append(root: str, name: str, durability: Any, count: str, size: str, appends: str, segment_bytes: str) -> None:
    """Append runs of `count` records; after each append acknowledge the number of the last record. 0 appends: until killed."""
    log = Log.open(root, durability=durability, limits=Limits(segment_bytes=int(segment_bytes), min_free_bytes=0))
    partition = log.topic("orders").partition(0)
    number, done = 0, 0
    while not int(appends) or done < int(appends):
        base = partition.append(records(name, number, int(count), int(size)), timestamp_ms=int(time.time() * 1000))
        number, done = number + int(count), done + 1
        say(base, number - 1)
    log.close()


def steady(root: str, name: str, durability: Any, size: str, segment_bytes: str, moment: str) -> None:
    """Append one record after the other until killed; tell the number of each. moment: after the first, kill itself before that call."""
    log = Log.open(root, durability=durability, limits=Limits(segment_bytes=int(segment_bytes), min_free_bytes=0))
    partition = log.topic("orders").partition(0)
    number = 0
    while True:
        partition.append(records(name, number, 1, int(size)), timestamp_ms=int(time.time() * 1000))
        say(number)
        if number == 0 and int(moment):
            die_before(int(moment))
        number += 1
        if number % 200 == 0:
            time.sleep(0.01)  # so that the others, and who reads it all, get somewhere


def die_before(moment: int) -> None:
    """SIGKILL, as from outside, before the n-th call from now of those between which something may be half done."""
    calls = 0

    def counted(real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    for name in ("flock", "pwritev", "pwrite", "ftruncate", "rename", "replace", "sync_data", "sync_dir", "open_new"):
        setattr(files, name, counted(getattr(files, name)))


def share(root: str, name: str, appends: str, sync_s: str) -> None:
    """Append with `always` on a disk whose sync takes `sync_s`; tell how many syncs this process made. Begins when stdin says so."""
    real, calls = files.sync_data, 0

    def slow(fd: int) -> None:
        nonlocal calls
        calls += 1
        time.sleep(float(sync_s))
        real(fd)

    log = Log.open(root, durability="always", limits=Limits(min_free_bytes=0))
    partition = log.topic("orders").partition(0)
    partition.ensure_valid()
    files.sync_data = slow
    say("ready")
    sys.stdin.readline()
    for number in range(int(appends)):
        partition.append(records(name, number, 1, 100), timestamp_ms=1)
    say("syncs", calls)
    log.close()


def stubborn(root: str, durability: Any, appends: str) -> None:
    """Append so many records, whatever becomes of them; each line says which and how: stored, or the error."""
    log = Log.open(root, durability=durability, limits=Limits(segment_bytes=20_000, min_free_bytes=0))
    partition = log.topic("orders").partition(0)
    for number in range(int(appends)):
        try:
            partition.append(records("s", number, 1, 500), timestamp_ms=1)
            say(number, "stored")
        except LogError as error:
            say(number, type(error).__name__)
        except OSError as error:
            say(number, "OSError", error.errno)


def delay(root: str, name: str, durability: Any) -> None:
    """Delay records by up to 50 ms, move what is due, and name those that are stored, until killed."""
    partition: Any = (
        Log.open(root, durability=durability, limits=Limits(segment_bytes=20_000, min_free_bytes=0)).topic("orders").partition(0)
    )
    number = 0
    while True:
        now_ms = time.time_ns() // 1_000_000
        value = f"{name}:{number}"
        partition.delays.put([(None, b"", value.encode(), 0, 0, 1)], [now_ms + number * 7 % 50], timestamp_ms=now_ms)
        say(value)
        number += 1
        if number % 20 == 0:
            partition.move(now_ms)
        if number % 300 == 0:
            partition.delays.checkpoint()


def hold(root: str) -> None:
    """Take the lock of partition 0 and keep it until stdin ends."""
    import fcntl

    with open(f"{root}/topics/orders/0/lock", "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        say("held")
        sys.stdin.readline()


def full(root: str, limit: str) -> None:
    """Append under RLIMIT_FSIZE until it is refused, then again with the limit lifted."""
    log = Log.open(root, durability="none", limits=Limits(min_free_bytes=0))
    partition = log.topic("orders").partition(0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    stored = 0
    try:
        while True:
            partition.append([(None, b"", b"x" * 1000, 0, 0, 1)], timestamp_ms=1)
            stored += 1
    except DiskFull:
        say("full", stored)
    partition.append([(None, b"", b"s", 0, 0, 1)], timestamp_ms=1)  # a smaller one still fits
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    say("later", partition.append([(None, b"", b"y" * 1000, 0, 0, 1)], timestamp_ms=1))
    log.close()


def sleeper(root: str, count: str) -> None:
    """Read partition 0 with a waiter, one line per record: its number and the time it was seen."""
    log = Log.open(root, durability="none")
    topic = log.topic("orders")
    partition, waiter = topic.partition(0), topic.waiter()
    reader = partition.reader(partition.end())
    say("ready")
    left = int(count)
    while left:
        found = reader.read(1000, 1 << 20)
        if not found:
            waiter.wait(lambda: partition.end() > reader.position, 10.0, None)
        for record in found:
            say(record.position, time.monotonic())
            left -= 1
    log.close()


def main() -> None:
    programs = {
        "append": append, "delay": delay, "full": full, "hold": hold, "share": share, "sleeper": sleeper, "steady": steady,
        "stubborn": stubborn,
    }  # fmt: skip
    try:
        programs[sys.argv[1]](*sys.argv[2:])  # type: ignore[operator]
    except LogError as error:
        say("error", type(error).__name__)


if __name__ == "__main__":
    main()
