"""Eight processes on one partition: killed at any moment, sharing syncs, and meeting a medium whose calls fail in the kernel."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from mqsdk_log.engine import files
from mqsdk_log.engine.errors import ReadOnly, SyncFailed

pytestmark = pytest.mark.slow
PROCESSES = 8
KILLS = 200 if "SOAK_SECONDS" in os.environ else 10
SYNC_S = 0.02  # of a disk that is slower than eight processes on two busy cores


def lines(process: subprocess.Popen[str]) -> list[list[str]]:
    """The words of each whole line that it has written; waits for its end."""
    assert process.stdout is not None
    with process:
        return [line.split() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize(("durability", "size"), [("none", 100), ("always", 3000)])
def test_kill_9_of_one_of_eight_writers_again_and_again_loses_nothing_acknowledged(kit: Any, durability: str, size: int) -> None:
    """They share the lock, roll every 40 KB, and repair what the killed one leaves."""
    kit.partition(durability)
    chance = random.Random(size)
    writers: dict[str, subprocess.Popen[str]] = {}
    acknowledged: dict[str, int] = {}
    doomed: set[str] = set()

    def start(name: str, moment: int = 0) -> None:
        writers[name] = kit.start("steady", name, durability, size, 40_000, moment)

    def kill(name: str) -> None:
        writer = writers.pop(name)
        if name not in doomed:
            writer.send_signal(signal.SIGKILL)
        assert writer.wait(60) == -signal.SIGKILL
        told = lines(writer)
        acknowledged[name] = int(told[-1][0]) if told else 0  # the first line was read: 0

    for number in range(PROCESSES):
        start(f"w{number}")
    for writer in writers.values():
        assert first_line(writer) == "0\n"
    for number in range(KILLS):
        kill(chance.choice(sorted(writers)))
        name = f"n{number}"
        if number % 3:  # it kills itself in the middle of an append: a signal from outside seldom comes there
            doomed.add(name)
        start(name, chance.randint(1, 300) if name in doomed else 0)
        assert first_line(writers[name]) == "0\n"
    for name in sorted(writers):
        kill(name)
    partition = kit.partition(durability)
    partition.remove_before(0)  # the next writer publishes what a killed one had written whole
    partition.sync()
    found = kit.read_all(partition)
    assert [record.position for record in found] == list(range(len(found)))
    numbers = defaultdict(list)
    for record in found:
        name, number, _ = record.value.split(b":", 2)
        numbers[name.decode()].append(int(number))
    for name, last in acknowledged.items():
        assert numbers[name] in (list(range(last + 1)), list(range(last + 2))), name  # at most the one that nobody answered for
    assert set(numbers) == set(acknowledged)


# --- group commit -------------------------------------------------------------------------------------------------------------------


def test_eight_processes_share_the_syncs_of_a_slow_disk(kit: Any) -> None:
    kit.partition("always")
    appends = 15
    publishers = [kit.start("share", f"p{number}", appends, SYNC_S) for number in range(PROCESSES)]
    for publisher in publishers:
        assert first_line(publisher) == "ready\n"
    for publisher in publishers:
        publisher.stdin.write("go\n")
        publisher.stdin.flush()
    syncs = sum(int(lines(publisher)[-1][1]) for publisher in publishers)
    assert syncs <= PROCESSES * appends / 2  # each alone would make one for each append
    assert len(kit.values(kit.partition("always"))) == PROCESSES * appends


def test_eight_threads_share_the_syncs_of_a_slow_disk(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = kit.partition("always")
    kit.append(partition, b"first")
    calls = []
    real = files.sync_data

    def slow(fd: int) -> None:
        calls.append(fd)
        time.sleep(SYNC_S)
        real(fd)

    monkeypatch.setattr(files, "sync_data", slow)
    appends = 15
    begin = threading.Barrier(PROCESSES)

    def publish() -> None:
        begin.wait()
        for _ in range(appends):
            kit.append(partition, b"x")

    threads = [threading.Thread(target=publish) for _ in range(PROCESSES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) <= PROCESSES * appends / 2
    assert len(kit.values(partition)) == 1 + PROCESSES * appends


# --- failing calls, by strace ---------------------------------------------------------------------------------------------------------


def under_strace(kit: Any, inject: str, *arguments: object) -> list[list[str]]:
    """What worker.py says when the kernel answers its calls so."""
    program = shutil.which("strace")
    assert program is not None, "these tests need strace; Debian, Ubuntu: apt-get install -y strace"
    call = inject.partition(":")[0]
    script = Path(__file__).with_name("worker.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    command = [
        program,
        "-f",
        "--quiet=all",
        "-o",
        "/dev/null",
        "-e",
        f"trace={call}",
        "-e",
        f"inject={inject}",
        sys.executable,
        str(script),
    ]
    command += map(str, (arguments[0], kit.path, *arguments[1:]))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def outcomes(told: list[list[str]]) -> dict[str, list[int]]:
    found = defaultdict(list)
    for number, how, *_ in told:
        found[how].append(int(number))
    return found


linux = pytest.mark.skipif(sys.platform != "linux", reason="strace is of Linux")


@linux
def test_after_a_failed_fdatasync_nothing_is_acknowledged_until_the_machine_boots(kit: Any) -> None:
    kit.partition("always")
    kit.close()
    told = outcomes(under_strace(kit, "fdatasync:error=EIO:when=4", "stubborn", "always", 12))
    assert len(told["SyncFailed"]) == 1
    first = told["SyncFailed"][0]
    assert told["stored"] == list(range(first))
    assert told["ReadOnly"] == list(range(first + 1, 12))  # although each later call would have gone well
    partition = kit.partition("always")
    with pytest.raises(ReadOnly):
        kit.append(partition, b"another process")
    with pytest.raises(SyncFailed):
        partition.sync()
    kit.reboot()
    partition = kit.partition("always")
    numbers = [int(value.split(b":")[1]) for value in kit.values(partition)]
    assert numbers in (told["stored"], [*told["stored"], first])
    assert kit.append(partition, b"again") == len(numbers)


@linux
@pytest.mark.parametrize("code", ["ENOSPC", "EIO"])
def test_a_write_that_fails_is_refused_and_the_next_one_goes_well(kit: Any, code: str) -> None:
    kit.partition("interval")
    kit.close()
    told = outcomes(under_strace(kit, f"pwritev,pwritev2:error={code}:when=5..7", "stubborn", "interval", 60))
    assert told["DiskFull" if code == "ENOSPC" else "WriteFailed"] == [4, 5, 6]
    assert told["stored"] == [0, 1, 2, 3, *range(7, 60)]
    assert [int(value.split(b":")[1]) for value in kit.values(kit.partition())] == told["stored"]


@linux
def test_a_segment_that_cannot_be_written_is_refused_and_made_later(kit: Any) -> None:
    """`pwrite` writes the headers of segments and the marks."""
    kit.partition("always")
    kit.close()
    told = outcomes(under_strace(kit, "pwrite64:error=ENOSPC:when=3+", "stubborn", "always", 60))
    assert told["stored"] == list(range(len(told["stored"])))
    assert len(told["stored"]) >= 30  # the first segment, whose marks could not be stored either
    assert set(told) == {"stored", "DiskFull"}
    assert [int(value.split(b":")[1]) for value in kit.values(kit.partition("always"))] == told["stored"]
    assert kit.append(kit.partition("always"), bytes(1000)) == len(told["stored"])
