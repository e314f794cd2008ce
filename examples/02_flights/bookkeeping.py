"""What the demo writes down while it runs, so that it can be judged afterwards from files that survive kill -9.

journals/   one record for each start and end of a handler (mqsdk.testing.journal)
results/    what the handlers found out
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from mqsdk import Message
from mqsdk.testing.journal import Journal

JOURNALS = Path("journals")
RESULTS = Path("results")


@cache
def journal() -> Journal:
    """This process's journal, opened by the first handler that runs."""
    return Journal.in_folder(JOURNALS, "consumer")


def recorded(message: Message[Any] | list[Message[Any]]) -> Iterator[None]:
    """Middleware: writes down start and end of every handler call; with `batch=` it gets the whole batch."""
    messages = message if isinstance(message, list) else [message]
    book = journal()
    for m in messages:
        book.start(m.id, group=m.group, key=m.key or "", attempt=m.attempt, epoch=m.epoch, partition=m.partition)
    ok = False
    try:
        yield
        ok = True
    finally:
        for m in messages:
            book.end(m.id, group=m.group, ok=ok, attempt=m.attempt, epoch=m.epoch)


@cache
def _opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def append_lines(name: str, lines: list[str]) -> None:
    """Append to this process's result file, all lines in one write."""
    os.write(_opened(RESULTS / f"{name}-{os.getpid()}.txt"), "".join(f"{line}\n" for line in lines).encode())


class Notebook:
    """The last flight of every aircraft of one partition, as one ownership of the partition knows it."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.last: dict[str, int] = {}
        for line in path.read_text().splitlines():
            tail, sequence, *_ = line.split()
            self.last[tail] = int(sequence)

    def write(self, tail: str, sequence: int, *, late: bool, hole: bool) -> None:
        os.write(self._fd, f"{tail} {sequence} {late:d} {hole:d}\n".encode())
        self.last[tail] = sequence


class Notebooks:
    """Notebooks by ownership (partition and epoch): a new epoch means another owner may have written, so the file is read again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[tuple[int, int], Notebook] = {}

    def of(self, partition: int, epoch: int) -> Notebook:
        found = self._open.get((partition, epoch))
        if found is None:
            with self._lock:
                found = self._open.get((partition, epoch)) or Notebook(RESULTS / f"aircraft-{partition}.txt")
                self._open[partition, epoch] = found
        return found
