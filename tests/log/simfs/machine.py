"""A machine for tests that tell a story of their own: the engine runs on it, its process can be killed and its power cut."""

from __future__ import annotations

import random
from contextlib import ExitStack
from typing import Any, Self

from mqsdk_log.engine.log import Log
from mqsdk_log.engine.shared import Durability, Limits

from tests.log.simfs.clock import Clock
from tests.log.simfs.disk import Disk, Image, Snapshot
from tests.log.simfs.explore import folder
from tests.log.simfs.story import open_log
from tests.log.simfs.system import System

SMALL = Limits(segment_bytes=700, min_free_bytes=0)


class Machine:
    """`with Machine() as machine:`; the engine's files are on `machine.system` then."""

    system: System

    def __init__(self, image: Image | None = None) -> None:
        """image: what it begins with, in its first boot if that has not ended."""
        self._image = image
        self.chance = random.Random(1)
        self.clock = Clock()
        self._boots = 0
        self._stack = ExitStack()
        self._logs: list[Log] = []

    def __enter__(self) -> Self:
        self._boot(self._image)
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        self._stack.close()

    def open(self, durability: Durability, limits: Limits = SMALL) -> Log:
        """As a process does."""
        log = open_log(self.system, durability, limits)
        self._logs.append(log)
        return log

    def partition(self, durability: Durability, limits: Limits = SMALL) -> Any:
        return self.open(durability, limits).create_topic("orders", 1).partition(0)

    def kill(self) -> None:
        """The end of all processes; what they wrote is in the page cache."""
        for log in self._logs:
            log._forget()
        self._logs = []

    def snapshot(self) -> Snapshot:
        self.system.poll(all_maps=True)
        return self.system.disk.frozen()

    def lose_power(self, data: str = "nothing", names: str = "nothing", until: int = 0, torn_progress: int = 0) -> None:
        """What was not synced is gone, or is there as told: see `Snapshot.left`."""
        image = self.snapshot().left(data, names, until, self.chance, torn_progress=torn_progress)
        self.kill()
        self._stack.close()
        self._boot(image)

    def _boot(self, image: Image | None) -> None:
        self._boots += 1 if image is None or image.alive is not None else 2
        self.system = System(self._stack.enter_context(folder()), Disk(), self.chance, f"boot {self._boots}")
        if image is not None:
            self.system.load(image)
        self._stack.enter_context(self.system.installed())
        self._stack.enter_context(self.clock.installed())


def append(partition: Any, *values: bytes, **options: Any) -> int:
    base: int = partition.append([(None, b"", value, 0, 0, 1) for value in values], timestamp_ms=1_700_000_000_000, **options)
    return base


def values(partition: Any) -> list[bytes]:
    """What a reader is given, from the start on; CorruptRange passes through."""
    reader = partition.reader(partition.start())
    found: list[bytes] = []
    while batch := reader.read(100, 1 << 20):
        found += [record.value for record in batch]
    reader.close()
    return found
