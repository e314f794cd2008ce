"""Several processes on one partition, and what becomes of it when they are killed, stopped or forked."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import defaultdict
from typing import Any

import pytest
from mqsdk_log.engine import files
from mqsdk_log.engine.errors import LockTimeout, StaleHandle
from mqsdk_log.engine.log import Log

pytestmark = pytest.mark.slow


def check(kit: Any, acknowledged: dict[str, int], slack: int) -> None:
    """Everything acknowledged is there once, offsets are dense, each producer in its order, at most one append of `slack` records more."""
    found = kit.read_all(kit.partition())
    assert [record.position for record in found] == list(range(len(found)))
    numbers = defaultdict(list)
    for record in found:
        name, number, _ = record.value.split(b":", 2)
        assert record.key == name
        numbers[name.decode()].append(int(number))
    for name, mine in numbers.items():
        assert mine == list(range(len(mine))), name
        assert acknowledged.get(name, -1) < len(mine) <= acknowledged.get(name, -1) + 1 + slack
    assert set(acknowledged) <= set(numbers)


def last_acknowledged(process: subprocess.Popen[str]) -> int:
    """Number of the last record in the worker's last whole line. Read through the file object, which may have buffered some already."""
    assert process.stdout is not None
    with process:  # closes its pipes and waits for its end
        lines = [line.split() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    return int(lines[-1][1]) if lines else -1


@pytest.mark.parametrize(
    ("durability", "count", "size", "segment_bytes", "rounds"),
    [
        ("none", 1, 100, 64 << 20, 4),
        ("interval", 100, 100, 1 << 20, 4),
        ("always", 10, 1000, 1 << 20, 2),
        ("none", 3, 400_000, 16 << 20, 3),
        ("interval", 1, 8_000_000, 64 << 20, 6),
    ],
    ids=["lone", "hundred", "always", "megabyte", "8 MiB"],
)
def test_kill_9_at_any_moment_loses_nothing_acknowledged(
    kit: Any, durability: str, count: int, size: int, segment_bytes: int, rounds: int
) -> None:
    kit.partition(durability)
    chance = random.Random(size)
    acknowledged: dict[str, int] = {}
    for round_number in range(rounds):
        workers = {
            name: kit.start("append", name, durability, count, size, 0, segment_bytes) for name in (f"a{round_number}", f"b{round_number}")
        }
        firsts = {}
        for name, worker in workers.items():
            assert worker.stdout is not None
            firsts[name] = int(worker.stdout.readline().split()[1])
        time.sleep(chance.uniform(0, 0.03))  # a real wait: the moment of death is the point
        for worker in workers.values():
            os.kill(worker.pid, signal.SIGKILL)
        for name, worker in workers.items():
            acknowledged[name] = max(firsts[name], last_acknowledged(worker))
    check(kit, acknowledged, count)


def test_two_processes_append_and_roll_at_the_same_time(kit: Any) -> None:
    kit.partition()
    workers = {name: kit.start("append", name, "interval", 7, 90, 400, 20_000) for name in "ab"}
    acknowledged = {name: last_acknowledged(worker) for name, worker in workers.items()}
    assert acknowledged == {"a": 2799, "b": 2799}
    check(kit, {"a": 2799, "b": 2799}, 0)
    assert len(kit.segments()) > 20
    assert kit.append(kit.partition(), b"next") == 5600


def test_a_reader_follows_two_writers_over_many_rolls_without_a_false_alarm(kit: Any) -> None:
    partition = kit.partition()
    reader = partition.reader(0)
    workers = {name: kit.start("append", name, "none", 7, 90, 300, 30_000) for name in "ab"}
    found: list[Any] = []

    def more() -> bool:
        found.extend(reader.read(1000, 1 << 20))
        return len(found) == 4200

    kit.until(more, 60)
    assert [record.position for record in found] == list(range(4200))
    for worker in workers.values():
        assert last_acknowledged(worker) == 2099


def test_a_stopped_lock_holder_delays_others_to_their_deadline_only(kit: Any) -> None:
    partition = kit.partition()
    kit.append(partition, b"one")
    holder = kit.start("hold")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        with pytest.raises(LockTimeout):
            kit.append(partition, b"two", deadline=time.monotonic() + 0.1)
        assert kit.values(partition) == [b"one"]
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate(timeout=30)
    assert kit.append(partition, b"two", deadline=time.monotonic() + 10) == 1  # the kernel freed the lock


def in_child(body: Any) -> str:
    """Fork, run `body` in the child, return what it returned or the name of what it raised."""
    receiver, sender = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            text = str(body())
        except BaseException as error:
            text = type(error).__name__
        os.write(sender, text.encode())
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_is_told_and_the_parent_goes_on(kit: Any) -> None:
    partition = kit.partition("interval")
    log = kit.opened[0]
    topic = log.topic("orders")
    kit.append(partition, b"one")
    reader, waiter = partition.reader(0), topic.waiter()
    expected = StaleHandle.__name__
    assert in_child(lambda: kit.append(partition, b"child")) == expected
    assert in_child(lambda: reader.read(1, 1)) == expected
    assert in_child(partition.end) == expected
    assert in_child(lambda: topic.partition(1)) == expected
    assert in_child(lambda: log.topic("orders")) == expected
    assert in_child(lambda: log.create_topic("x")) == expected
    assert in_child(log.topics) == expected
    assert in_child(lambda: waiter.wait(lambda: False, 0.1, None)) == expected
    assert in_child(log.close) == "None"
    assert in_child(lambda: kit.append(Log.open(kit.path).topic("orders").partition(0), b"child")) == "1"
    assert kit.append(partition, b"two") == 2
    assert kit.values(partition) == [b"one", b"child", b"two"]
    kit.until(lambda: partition._words[9] == 3)  # its syncer lives


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_forked_while_the_lock_is_held_neither_hangs_nor_frees_it(kit: Any) -> None:
    partition = kit.partition()
    kit.append(partition, b"one")
    other = kit.open().topic("orders").partition(0)
    with partition._mutex:
        partition._settle()
        files.flock(partition._lock_fd, files.LOCK_EX)
        assert in_child(lambda: kit.append(partition, b"child")) == StaleHandle.__name__
        with pytest.raises(LockTimeout):  # the child's end has not dropped the parent's lock
            kit.append(other, b"other", deadline=time.monotonic() + 0.05)
        files.flock(partition._lock_fd, files.LOCK_UN)
    assert kit.append(other, b"two") == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_holds_no_copies_of_the_logs_descriptors(kit: Any) -> None:
    partition = kit.partition("interval")
    kit.append(partition, b"one")
    partition.sync()
    partition.reader(0).read(1, 1)
    root = str(kit.path)

    def held() -> list[str]:
        links = []
        for fd in os.listdir("/proc/self/fd"):
            try:
                links.append(os.readlink(f"/proc/self/fd/{fd}"))
            except OSError:
                continue
        return [link for link in links if link.startswith(root) and not link.endswith("/state")]

    assert len(held()) > 4
    assert in_child(held) == "[]"
