"""Where delayed records are stored until they are due: bands, each a log like any other for one range of delays, made when first used.

A record is in the band whose range its delay was in when it was published, so that all of a segment is due soon after its last record
and whole segments can be removed: at most four times as long after they were written as the shortest delay in them.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from . import files, index, segment, state
from . import format as fmt
from .dueheap import CLASSES
from .errors import CorruptBatch
from .format import HEADER_SIZE, SEGMENT_HEADER_SIZE

if TYPE_CHECKING:
    from .topic import Topic

DIRECTORY = "delay"
_PATIENCE_S = 5.0  # held while a file is mapped
_SHORTEST_MS = 900_000  # the first band: up to 15 min, then four times as long each; the last one: 171 days and more


def band_for(delay_ms: int) -> int:
    """Number of the band for a delay."""
    number, bound = 0, _SHORTEST_MS
    while delay_ms > bound and number < CLASSES - 1:
        number, bound = number + 1, 4 * bound
    return number


class Bands:
    """The bands of one topic in one process. Any thread."""

    def __init__(self, topic_directory: int, create: Callable[[int, str], None], open_topic: Callable[[int, str], Topic]) -> None:
        """create: makes the band of that name in a directory; open_topic: opens it."""
        self._topic_directory = topic_directory
        self._create = create
        self._open = open_topic
        self._mutex: Any = threading.Lock()
        self._directory = -1
        self._topics: dict[int, Topic] = {}

    def directory(self, *, create: bool = False) -> int:
        """Descriptor of their directory; -1 when nothing of this topic was ever delayed, unless `create`."""
        with self._mutex:
            if self._directory < 0:
                if create:
                    files.make_dir(DIRECTORY, self._topic_directory)
                with suppress(FileNotFoundError):
                    self._directory = files.open_dir(DIRECTORY, self._topic_directory)
            return self._directory

    def existing(self) -> list[int]:
        directory = self.directory()
        return [] if directory < 0 else sorted(int(name) for name in files.names(directory) if name.isdecimal() and int(name) < CLASSES)

    def topic(self, number: int, *, create: bool = False) -> Topic:
        """FileNotFoundError when there is none, unless `create`."""
        found = self._topics.get(number)
        if found is None:
            directory = self.directory(create=create)
            with self._mutex:
                if number not in self._topics:
                    if create:
                        self._make(directory, str(number))
                    self._topics[number] = self._open_locked(directory, str(number))
                found = self._topics[number]
        return found

    def _open_locked(self, directory: int, name: str) -> Topic:
        """Opening makes the state page anew after a reboot: one process at a time."""
        fd = files.open_dir(".", directory)
        try:
            with files.locked(fd, deadline=time.monotonic() + _PATIENCE_S, what="the bands of a topic"):
                return self._open(directory, name)
        finally:
            files.close(fd)

    def _make(self, directory: int, name: str) -> None:
        if name in files.names(directory):
            return
        files.sync_dir(self._topic_directory)  # the folder of the bands: whoever made it may have died before it was on the medium
        try:
            self._create(directory, name)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another process was first
                raise

    def opened(self) -> list[Topic]:
        return list(self._topics.values())

    def end(self, gone: Any) -> None:
        """Close the directory; its topics are closed by the caller."""
        files.close_all((self._directory,))
        self._directory = -1
        self._topics = {}
        self._mutex = gone


def is_jump(directory: int, offset: int) -> bool:
    """Whether recovery left out the offsets before this one on purpose."""
    with suppress(FileNotFoundError, CorruptBatch):
        fd = files.open_read(segment.file_name(offset), directory)
        try:
            return bool(segment.read_header(fd).flags & fmt.JUMP)
        finally:
            files.close(fd)
    return False


def words(directory: int, slot: state.Words, start: int, stop: int) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """(base offset, position, `decode_words`) of every batch that holds records from `start` to `stop` (excluded) and carries words.

    What is damaged is passed over.
    """
    _, _, active = state.read_tail(slot)
    found = segment.bases(directory)
    first = segment.holding(found, start)
    for base in [one for one in found if (first is None or one >= first) and one < stop]:
        with suppress(FileNotFoundError, CorruptBatch):
            fd = files.open_read(segment.file_name(base), directory)
            try:
                yield from _words_in(directory, fd, slot if base == active else None, start, stop)
            finally:
                files.close(fd)


def _words_in(directory: int, fd: int, slot: state.Words | None, start: int, stop: int) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    header = segment.read_header(fd)
    size = files.size_of(fd) if slot is None else state.read_tail(slot)[0]
    position = SEGMENT_HEADER_SIZE
    if start > header.base_offset:
        position = index.find(directory, fd, header, start, size)
    for at, fields in segment.surviving(fd, header.salt, position, size):
        if fields[fmt.BASE_OFFSET] >= stop:
            return
        if fields[fmt.WIDTH] >= fmt.WORD_META_SIZE and fields[fmt.BASE_OFFSET] + fields[fmt.COUNT] > start:
            with suppress(CorruptBatch):
                body = fmt.open_body(files.pread(fd, fields[fmt.BODY_LENGTH], at + HEADER_SIZE), fields)
                yield fields[fmt.BASE_OFFSET], at, fmt.decode_words(body, fields)
