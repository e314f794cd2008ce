"""The right to consume a partition: a kernel lock on its lease file. The assignment is a wish, this lock is the fact.

Files `<topic>-<p>.<n>.lease`; the one with the highest number counts. The lock dies with its process, so a dead owner needs no timeout.
An owner that is merely stopped keeps its lock for ever: whoever has seen its progress slot stand still for a lease makes the next file
(its number is the new epoch) and owns that one. Numbers change under the lock of the cursor file only, so there is one owner per epoch.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"(?P<topic>.+)-(?P<partition>\d+)\.(?P<number>\d+)\.lease", re.ASCII)
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_TERM = struct.Struct("<d")


@dataclass(slots=True)
class Lease:
    """A held lease. `close` gives it back."""

    path: Path
    number: int
    fd: int

    def close(self) -> None:
        """Idempotent. Closing, not unlocking: a forked child shares the lock and must not drop its parent's."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Leases:
    """The leases of one group in one topic. term_s: how long this process may show no life before it loses what it holds."""

    def __init__(self, directory: Path, topic: str, term_s: float) -> None:
        self._directory = directory
        self._topic = topic
        self._term_s = term_s

    def try_hold(self, partition: int) -> Lease | None:
        """The partition's lease if nobody holds it; never waits. Confirm it with `is_current` under the cursor file's lock."""
        number = self._number(partition)
        return self._hold(self._path(partition, number), number)

    def term_s(self, partition: int) -> float:
        """The term that the holder wrote down; our own where it has not."""
        try:
            raw = self._path(partition, self._number(partition)).read_bytes()
        except FileNotFoundError:
            return self._term_s
        return float(_TERM.unpack(raw)[0]) if len(raw) == _TERM.size else self._term_s

    def is_current(self, lease: Lease, partition: int) -> bool:
        """Whether this is still the file that counts: nobody replaced it between its opening and its lock."""
        return lease.number == self._number(partition) and os.fstat(lease.fd).st_nlink > 0

    def replace(self, partition: int, epoch: int) -> Lease | None:
        """Make and hold the lease file of a new epoch, over the head of a stopped owner. Under the cursor file's lock."""
        old = self._number(partition)
        lease = self._hold(self._path(partition, epoch), epoch)
        if lease is not None and old != epoch:
            with suppress(FileNotFoundError):
                os.unlink(self._path(partition, old))
        return lease

    def remove(self) -> None:
        """Remove all lease files; the group is being deleted and has no members."""
        for name in os.listdir(self._directory):
            match = _NAME.fullmatch(name)
            if match is not None and match["topic"] == self._topic:
                with suppress(FileNotFoundError):
                    os.unlink(self._directory / name)

    def _hold(self, path: Path, number: int) -> Lease | None:
        fd = os.open(path, _OPEN, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(fd, _TERM.pack(self._term_s), 0)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:  # a lease that nobody knows of would keep the partition from everybody
            os.close(fd)
            raise
        return Lease(path, number, fd)

    def _number(self, partition: int) -> int:
        wanted = f"{self._topic}-{partition}."
        matches = (_NAME.fullmatch(name) for name in os.listdir(self._directory) if name.startswith(wanted))
        mine = (m for m in matches if m is not None and m["topic"] == self._topic and int(m["partition"]) == partition)
        return max((int(match["number"]) for match in mine), default=0)

    def _path(self, partition: int, number: int) -> Path:
        return self._directory / f"{self._topic}-{partition}.{number}.lease"
