"""Journals of a fault test: what each process did, in fixed-size records that survive kill -9.

Every producer and handler process appends to a file of its own: O_APPEND, one write per record, no buffer. `mqsdk.testing.checker`
judges all journals of a run together. Times are CLOCK_MONOTONIC, which all processes of one host share. Standard library only.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b
from pathlib import Path
from typing import Self

# kind, outcome, attempt | epoch, pid, partition | sequence | monotonic seconds | id, key, group | CRC-32 of all before it
_RECORD = struct.Struct("<BBHQIiqd48s32s24sI")
_BODY = _RECORD.size - 4
RECORD_BYTES = _RECORD.size  # so that a file's size tells how many records it holds
SUFFIX = ".journal"


class Kind(IntEnum):
    SEND_INVOKE = 1
    SEND_STORED = 2
    SEND_REJECTED = 3
    SEND_UNKNOWN = 4
    START = 5
    END = 6
    SETTLED = 7
    DEAD_LETTER = 8
    FAULT = 9


class Outcome(IntEnum):
    """How an execution ended; for a fault ON and OFF."""

    NONE = 0
    OK = 1
    FAILED = 2
    ON = 3
    OFF = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One record. `pid` is the process it happened in, for a fault the victim (0: none); `id` of a fault is its name."""

    kind: Kind
    id: str
    time: float
    pid: int
    key: str = ""
    group: str = ""
    sequence: int = -1
    attempt: int = 0
    epoch: int = 0
    partition: int = -1
    outcome: Outcome = Outcome.NONE


class Journal:
    """Appends records of this process to one file. Thread-safe: a record is one write, and the kernel orders appends.

    An id or key longer than its field is stored as a digest, the same in every process. Raises OSError when the disk refuses.
    """

    def __init__(self, path: str | Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @classmethod
    def in_folder(cls, folder: str | Path, name: str) -> Self:
        """A journal whose file name tells role and process: `<name>-<pid>.journal`."""
        return cls(Path(folder) / f"{name}-{os.getpid()}{SUFFIX}")

    def send_invoke(self, id: str, key: str, sequence: int) -> None:
        """Before the publish. sequence: rises with each message of this key."""
        self._append(Kind.SEND_INVOKE, id, key=key, sequence=sequence)

    def send_stored(self, id: str) -> None:
        self._append(Kind.SEND_STORED, id)

    def send_rejected(self, id: str) -> None:
        self._append(Kind.SEND_REJECTED, id)

    def send_unknown(self, id: str) -> None:
        self._append(Kind.SEND_UNKNOWN, id)

    def start(
        self,
        id: str,
        *,
        group: str,
        key: str = "",
        attempt: int = 1,
        epoch: int = 0,
        partition: int = -1,
        moment: float | None = None,
    ) -> None:
        """First thing in the handler. moment: monotonic seconds at which the call began, None = now.

        A process may be stopped between the beginning of a call and this record of it; then the two differ by as long as it stood still.
        """
        self._append(Kind.START, id, group=group, key=key, attempt=attempt, epoch=epoch, partition=partition, moment=moment)

    def end(self, id: str, *, group: str, ok: bool, attempt: int = 1, epoch: int = 0) -> None:
        """Last thing in the handler."""
        self._append(Kind.END, id, group=group, attempt=attempt, epoch=epoch, outcome=Outcome.OK if ok else Outcome.FAILED)

    def settled(self, id: str, *, group: str) -> None:
        self._append(Kind.SETTLED, id, group=group)

    def dead_letter(self, id: str, *, group: str) -> None:
        self._append(Kind.DEAD_LETTER, id, group=group)

    def fault(self, name: str, *, on: bool, pid: int = 0) -> None:
        """A fault begins (write it just before) or is over (just after). pid: its victim, which may still act between the two."""
        self._append(Kind.FAULT, name, outcome=Outcome.ON if on else Outcome.OFF, pid=pid)

    def close(self) -> None:
        os.close(self._fd)

    def _append(
        self,
        kind: Kind,
        id: str,
        *,
        key: str = "",
        group: str = "",
        sequence: int = -1,
        attempt: int = 0,
        epoch: int = 0,
        partition: int = -1,
        outcome: Outcome = Outcome.NONE,
        pid: int | None = None,
        moment: float | None = None,
    ) -> None:
        names = (_field(id, 48), _field(key, 32), _field(group, 24))
        numbers = (kind, outcome, attempt, epoch, os.getpid() if pid is None else pid, partition, sequence)
        record = _RECORD.pack(*numbers, time.monotonic() if moment is None else moment, *names, 0)
        os.write(self._fd, record[:_BODY] + zlib.crc32(record[:_BODY]).to_bytes(4, "little"))


def _field(text: str, size: int) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return raw if len(raw) <= size else b"#" + blake2b(raw, digest_size=(size - 1) // 2).hexdigest().encode()


def read_journal(path: str | Path) -> Iterator[Entry]:
    """The records of one journal in the order they were written. A torn last record is left out: its write never ended.

    Raises ValueError for a record that is damaged inside the file: such a journal cannot be judged.
    """
    data = Path(path).read_bytes()
    for offset in range(0, len(data) - _RECORD.size + 1, _RECORD.size):
        kind, outcome, attempt, epoch, pid, partition, sequence, moment, name, key, group, crc = _RECORD.unpack_from(data, offset)
        if zlib.crc32(data[offset : offset + _BODY]) != crc:
            raise ValueError(f"{Path(path).name}: the record at byte {offset} is damaged")
        yield Entry(
            kind=Kind(kind),
            id=_text(name),
            time=moment,
            pid=pid,
            key=_text(key),
            group=_text(group),
            sequence=sequence,
            attempt=attempt,
            epoch=epoch,
            partition=partition,
            outcome=Outcome(outcome),
        )


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode("utf-8", "surrogateescape")


def read_journals(folder: str | Path) -> list[Entry]:
    """All records of all journals in a folder, sorted by time."""
    paths: Iterable[Path] = sorted(Path(folder).glob(f"*{SUFFIX}"))
    return sorted((entry for path in paths for entry in read_journal(path)), key=lambda entry: entry.time)
