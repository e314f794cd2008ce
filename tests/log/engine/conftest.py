"""What the tests of the engine share: a log in a temporary directory, records, and ways to break files on purpose."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mqsdk_log.engine import state
from mqsdk_log.engine.log import Log
from mqsdk_log.engine.partition import PartitionLog
from mqsdk_log.engine.shared import Limits

NOW_MS = 1_700_000_000_000
ROOM = Limits(min_free_bytes=0)


class Kit:
    """Helpers by name, because test modules cannot import one another."""

    now_ms = NOW_MS

    def __init__(self, path: Path) -> None:
        self.path = path
        self.opened: list[Log] = []
        self.reports: list[str] = []

    def open(self, durability: Any = "none", limits: Limits = ROOM, **options: Any) -> Log:
        log = Log.open(self.path, durability=durability, limits=limits, **options)
        log.report = self.reports.append
        self.opened.append(log)
        return log

    def partition(self, durability: Any = "none", limits: Limits = ROOM, topic: str = "orders") -> PartitionLog:
        """Partition 0 of a topic with two, in a freshly opened log."""
        return self.open(durability, limits).create_topic(topic, 2).partition(0)

    @staticmethod
    def records(*values: bytes, key: bytes | None = None) -> list[Any]:
        return [(key, b"", value, 0, 0, 1) for value in values]

    def append(self, partition: PartitionLog, *values: bytes, at_ms: int = NOW_MS, **options: Any) -> int:
        return partition.append(self.records(*values), timestamp_ms=at_ms, **options)

    @staticmethod
    def read_all(partition: PartitionLog, offset: int = 0) -> list[Any]:
        reader = partition.reader(offset)
        found: list[Any] = []
        while batch := reader.read(1000, 1 << 20):
            found += batch
        reader.close()
        return found

    def values(self, partition: PartitionLog, offset: int = 0) -> list[bytes]:
        return [record.value for record in self.read_all(partition, offset)]

    def directory(self, topic: str = "orders", number: int = 0) -> Path:
        return self.path / "topics" / topic / str(number)

    def segments(self, topic: str = "orders", number: int = 0) -> list[Path]:
        return sorted(self.directory(topic, number).glob("*.log"))

    def reboot(self, topic: str = "orders") -> None:
        """Close everything and make every slot of the state page invalid, as a new boot of the machine does."""
        self.close()
        path = self.path / "topics" / topic / "state"
        data = bytearray(path.read_bytes())
        for start in range(state.PAGE, len(data), state.SLOT_WORDS * 8):
            data[start + state.TAG * 8 : start + state.TAG * 8 + 8] = bytes(8)
        path.write_bytes(data)  # the same inode

    def close(self) -> None:
        for log in self.opened:
            log.close()
        self.opened = []

    @staticmethod
    def until(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
        """The first true value of `condition`; fails after `seconds`."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, "the condition did not come true in time"
            os.sched_yield()
        return found

    def start(self, program: str, *arguments: object) -> subprocess.Popen[str]:
        """A process of its own that runs tests/log/engine/worker.py."""
        script = Path(__file__).with_name("worker.py")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
        command = [sys.executable, str(script), program, str(self.path), *map(str, arguments)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    found = Kit(tmp_path / "log")
    yield found
    found.close()
