"""What one ownership of a consumer needs to deliver, and the pipe that wakes a consumer."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from mqsdk.spi import Partition
from mqsdk_log.engine.errors import ClosedHandle, LogError, NoSuchTopic, StaleHandle
from mqsdk_log.engine.partition import PartitionLog
from mqsdk_log.engine.reader import Reader
from mqsdk_log.engine.setbacks import Setbacks
from mqsdk_log.records import LogRecord

FAILURES = (LogError, OSError)


@dataclass(slots=True)
class Owned:
    """One ownership: where it reads next and how much may still be delivered (nothing before the first credit)."""

    partition: Partition
    epoch: int
    log: PartitionLog
    reader: Reader[LogRecord]
    records: int = 0
    bytes: int = 0
    recalled: bool = False
    setbacks: Setbacks | None = None  # once it could not be read

    @property
    def is_open(self) -> bool:
        """Something may be delivered."""
        return self.records > 0 and self.bytes > 0 and not self.recalled and not self._rests()

    @property
    def has_more(self) -> bool:
        """Something that may be delivered is there, or a look at it fails, which the next read will tell."""
        if not self.is_open:
            return False
        try:
            return self.reader.position < self.log.end()
        except FAILURES:
            return True

    def rest(self) -> bool:
        """It could not be read: leave it alone for a while. True when that is to be told."""
        self.setbacks = self.setbacks or Setbacks()
        return self.setbacks.add(self.partition, time.monotonic())

    def _rests(self) -> bool:
        return self.setbacks is not None and self.setbacks.holds(self.partition, time.monotonic())


def is_alone(error: Exception) -> bool:
    """Whether an error concerns one partition only, so that the others go on: not the end of the log, of the topic or of this handle."""
    return not isinstance(error, ClosedHandle | StaleHandle | NoSuchTopic)


def poke(fd: int) -> None:
    try:
        os.write(fd, b"\0")
    except BlockingIOError:
        return  # full: the sleeper has enough to wake up for


def drain(fd: int) -> None:
    try:
        while len(os.read(fd, 4096)) == 4096:
            continue
    except BlockingIOError:
        return
