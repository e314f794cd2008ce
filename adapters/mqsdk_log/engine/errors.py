"""What the engine raises. No text ever holds a key, a value or a header.

LogError
  BadRoot  InUse  NoSuchTopic  TopicExists  UnsupportedVersion  StaleHandle  ClosedHandle
  LockTimeout  DiskFull  WriteFailed  TooLarge        nothing was written
    ReadOnly                                          of WriteFailed: for good, trying again is of no use
  SyncFailed                                          unknown: written, perhaps not durable
    SyncLater                                         of SyncFailed: the sync was not tried and may be tried again
  CorruptBatch  CorruptRange  OutOfRange              reading
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NoReturn

# What reading a JSON file may raise that holds something else than expected: nested too deep and infinite numbers included.
UNEXPECTED = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


class LogError(Exception):
    """Base of everything that the engine raises on purpose."""


class BadRoot(LogError):
    """The directory cannot be used as a log: owner, mode, symbolic link, file system, or not a log at all."""


class InUse(LogError):
    """Somebody has the root open, and what was asked for needs it alone; or somebody has it alone. pids: of this host, as far as known."""

    def __init__(self, what: str, pids: Sequence[int] = ()) -> None:
        super().__init__(what)
        self.pids = tuple(pids)


class NoSuchTopic(LogError):
    """The topic does not exist, or was deleted since this handle was opened."""


class TopicExists(LogError):
    """A topic whose name differs only in case exists; some file systems could not tell them apart."""


class UnsupportedVersion(LogError):
    """Written by another version of the format, or with a feature that this version does not know."""

    def __init__(self, what: str, found: object, supported: object) -> None:
        super().__init__(f"{what}: found {found}, supported {supported}")
        self.found = found
        self.supported = supported


class StaleHandle(LogError):
    """The process has forked since the handle was opened; open the log again in the child."""


class ClosedHandle(LogError):
    """The log, topic or reader has been closed."""


class LockTimeout(LogError):
    """Another process held the partition lock until the deadline. Nothing was written."""


class DiskFull(LogError):
    """Too little free space, or the medium refused the write for lack of it. Nothing was written."""


class WriteFailed(LogError):
    """The write failed and was taken back, or the partition is read-only after a failed sync. Nothing was written."""


class ReadOnly(WriteFailed):
    """A sync of the partition failed, and nothing is appended to it any more. Nothing was written."""


class TooLarge(LogError):
    """A record or a publish is larger than the format allows. Nothing was written."""


class SyncFailed(LogError):
    """fdatasync failed, or a failed write could not be taken back: it is not known whether the records are stored."""


class SyncLater(SyncFailed):
    """A sync was not tried, because a lock was held or a file could not be opened. Whoever tries again may succeed."""


class CorruptBatch(LogError):
    """Bytes that are no valid batch; the reader turns it into a CorruptRange."""


class CorruptRange(LogError):
    """Records start (included) to stop (excluded) are damaged or lost; reading can go on at `stop`."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__(f"offsets {start} to {stop} (excluded) are damaged or lost; reading can go on at {stop}")
        self.start = start
        self.stop = stop


class OutOfRange(LogError):
    """The offset lies before the first record held."""

    def __init__(self, first: int) -> None:
        super().__init__(f"the records asked for are no longer held; the first offset is {first}")
        self.first = first


def reason(error: Exception) -> str:
    """Why, in a few words for people: no path, no content."""
    return os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)


class Gone:
    """Stands in for the parts of a dead handle: whatever is done with it raises the error. So live handles pay for no check."""

    def __init__(self, error: type[LogError], what: str) -> None:
        object.__setattr__(self, "_raise", (error, what))

    def _fail(self) -> NoReturn:
        error, what = object.__getattribute__(self, "_raise")
        raise error(what)

    def __getattr__(self, name: str) -> Any:
        self._fail()

    def __getitem__(self, index: Any) -> Any:
        self._fail()

    def __setitem__(self, index: Any, value: Any) -> None:
        self._fail()

    def __enter__(self) -> Any:
        self._fail()

    def __exit__(self, *exc: object) -> None:
        return None

    def __bool__(self) -> bool:
        self._fail()
