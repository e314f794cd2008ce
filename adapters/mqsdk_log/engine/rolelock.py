"""A lock for a role of a group that a stopped process cannot hold for ever.

Files `<name>`, `<name>~1`, ...: the highest generation counts. A holder never needs the lock for as long as a lease; whoever has seen it
busy under the same holder for a lease takes the next generation. A holder that was stopped asks `is_current` before it writes.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from contextlib import suppress
from pathlib import Path

_WORD = struct.Struct("<Q")


class RoleLock:
    """Not thread-safe; each thread has its own. `try_acquire` never waits."""

    def __init__(self, path: Path, lease_s: float) -> None:
        self._path = path
        self._lease_s = lease_s
        self._fd = -1
        self._generation = 0
        self._busy: tuple[int, int, float] | None = None  # generation, holder's word, seen busy since

    def try_acquire(self, now: float) -> bool:
        """Take the lock if it is free, or if one holder has kept it for a whole lease of observation. now: monotonic seconds."""
        try:
            return self._take(self._newest(), now) and self._confirm()
        except BaseException:
            self.release()
            raise

    def _take(self, generation: int, now: float) -> bool:
        if self._try(generation):
            return True
        stands_still = self._stands_still(generation, self._fd, now)
        self.release()
        if stands_still and self._try(generation + 1):
            return True
        self.release()
        return False

    def _try(self, generation: int) -> bool:
        """Open and lock this generation; open it stays in any case."""
        self._fd, self._generation = self._open(generation), generation
        return _flock(self._fd)

    def _confirm(self) -> bool:
        self._busy = None
        if not self.is_current():
            self.release()
            return False
        self._count()
        return True

    def acquire(self, patience_s: float) -> bool:
        """As try_acquire, again and again until `patience_s` is over. For administration, never on a consumer's thread."""
        deadline, pause = time.monotonic() + patience_s, 0.001
        while not self.try_acquire(now := time.monotonic()):
            if now >= deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 2, 0.02)
        return True

    def is_current(self) -> bool:
        """Whether this holder still has the role: no later generation exists and the file was not removed."""
        return self._fd >= 0 and self._newest() == self._generation and os.fstat(self._fd).st_nlink > 0

    def release(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _stands_still(self, generation: int, fd: int, now: float) -> bool:
        word = _word(fd)
        if self._busy is None or self._busy[:2] != (generation, word):
            self._busy = (generation, word, now)
        return now - self._busy[2] >= self._lease_s

    def _count(self) -> None:
        os.pwrite(self._fd, _WORD.pack(_word(self._fd) + 1), 0)
        if self._generation > 0:  # all earlier generations but the first, which gives the file its name, are of no use any more
            with suppress(FileNotFoundError):
                os.unlink(self._numbered(self._generation - 1)) if self._generation > 1 else None

    def _newest(self) -> int:
        prefix = f"{self._path.name}~"
        names = (name[len(prefix) :] for name in os.listdir(self._path.parent) if name.startswith(prefix))
        return max((int(number) for number in names if number.isdecimal()), default=0)

    def _open(self, generation: int) -> int:
        return os.open(self._numbered(generation), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def _numbered(self, generation: int) -> Path:
        return self._path if generation == 0 else self._path.with_name(f"{self._path.name}~{generation}")


def _flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _word(fd: int) -> int:
    raw = os.pread(fd, _WORD.size, 0)
    return int(_WORD.unpack(raw)[0]) if len(raw) == _WORD.size else 0
