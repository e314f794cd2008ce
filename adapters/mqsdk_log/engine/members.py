"""Who takes part in a group: one lock file per member, locked for life, with a heartbeat word inside and a FIFO beside it.

The kernel frees the lock when the process dies: that is the only verdict of death. The FIFO tells it at once, because its reading end
reports a hang-up when the last writer is gone (0.44 ms, against a probe every half second). The heartbeat word shows a stopped process.
Pid and host are information for people, never a decision.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import struct
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from . import files
from .errors import UNEXPECTED

_WORD = struct.Struct("<Q")
_SUFFIXES = (".lock", ".json", ".alive")


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """What a member wrote down about itself when it joined."""

    id: str
    topics: tuple[str, ...] = ()
    lease_s: float = 10.0
    host: str = ""
    pid: int | None = None


class Membership:
    """This consumer's own place in a group."""

    def __init__(self, directory: Path, topics: Sequence[str], lease_s: float, label: str = "") -> None:
        """Joins: from now on others see this member. label: begins the id, so that people recognise the process."""
        self.id = f"{label}-{uuid.uuid4().hex[:12]}" if label else uuid.uuid4().hex[:16]
        self._directory = directory
        self._beats = 1
        self._fifo = -1
        self._fd = -1
        try:
            self._announce(tuple(topics), lease_s)
        except BaseException:
            remove(directory, self.id)
            with suppress(FileNotFoundError):
                os.unlink(self._temporary)
            self.abandon()
            raise

    def _announce(self, topics: tuple[str, ...], lease_s: float) -> None:
        fifo = self._directory / f"{self.id}.alive"
        os.mkfifo(fifo, 0o600)
        self._fifo = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        about = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time(), "topics": topics, "lease_s": lease_s}
        (self._directory / f"{self.id}.json").write_text(json.dumps(about))
        # Locked before it gets its name: a prober must never find it free and bury a member that is only being born.
        self._fd = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.pwrite(self._fd, _WORD.pack(self._beats), 0)
        os.rename(self._temporary, self._directory / f"{self.id}.lock")

    @property
    def _temporary(self) -> Path:
        return self._directory / f"~{self.id}.tmp"

    def beat(self) -> bool:
        """Show life. False: the others gave this member up and removed it; it has to join anew under another id."""
        self._beats += 1
        os.pwrite(self._fd, _WORD.pack(self._beats), 0)
        return os.fstat(self._fd).st_nlink > 0

    def leave(self) -> None:
        """Idempotent. The others notice at once, by the hang-up."""
        if self._fd >= 0 and os.fstat(self._fd).st_nlink > 0:
            remove(self._directory, self.id)
        self.abandon()

    def abandon(self) -> None:
        """Close without leaving: what a forked child does with its parent's membership."""
        for fd in (self._fd, self._fifo):
            if fd >= 0:
                os.close(fd)
        self._fd = self._fifo = -1


def living(directory: Path) -> list[MemberInfo]:
    """All members whose process lives, by id; files of dead ones are removed."""
    return [describe(directory, member) for member in ids(directory) if not bury(directory, member)]


def ids(directory: Path) -> list[str]:
    """Ids of all members that have not left, dead ones included, sorted."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted(name.removesuffix(".lock") for name in names if name.endswith(".lock"))


def bury(directory: Path, member: str) -> bool:
    """Remove the member's files if its process is dead. True when it is gone."""
    path = directory / f"{member}.lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        # Shared, so that two who probe at the same time do not take each other for the owner.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink > 0:
            remove(directory, member)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def remove(directory: Path, member: str) -> None:
    """Take the member out of the group, whatever state it is in. A stopped one learns it by its next `beat`."""
    for suffix in _SUFFIXES:
        with suppress(FileNotFoundError):
            os.unlink(directory / f"{member}{suffix}")


def heartbeat(directory: Path, member: str) -> int:
    """The member's heartbeat word; 0 when it has left."""
    try:
        fd = os.open(directory / f"{member}.lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return 0
    try:
        raw = os.pread(fd, _WORD.size, 0)
    finally:
        os.close(fd)
    return int(_WORD.unpack(raw)[0]) if len(raw) == _WORD.size else 0


def watch(directory: Path, member: str) -> int | None:
    """A file descriptor on which poll() reports a hang-up when the member's process dies; None when it is gone already."""
    try:
        return os.open(directory / f"{member}.alive", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None


def describe(directory: Path, member: str) -> MemberInfo:
    """What the member wrote about itself; only its id when that is not readable."""
    try:
        about = json.loads(files.read_path(directory / f"{member}.json"))
        topics = tuple(str(topic) for topic in about["topics"])
        return MemberInfo(member, topics, float(about["lease_s"]), str(about["host"]), int(about["pid"]))
    except (OSError, *UNEXPECTED) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # says nothing of the member, and one without topics would lose its partitions
        return MemberInfo(member)
