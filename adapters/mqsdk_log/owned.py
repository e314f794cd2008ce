"""What one ownership of a consumer needs to deliver, and the pipe that wakes a consumer."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mqsdk.spi import Partition
from mqsdk_log.engine.partition import PartitionLog
from mqsdk_log.engine.reader import Reader
from mqsdk_log.records import LogRecord


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

    @property
    def is_open(self) -> bool:
        """Something may be delivered."""
        return self.records > 0 and self.bytes > 0 and not self.recalled

    @property
    def has_more(self) -> bool:
        """Something that may be delivered is there."""
        return self.is_open and self.reader.position < self.log.end()


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
