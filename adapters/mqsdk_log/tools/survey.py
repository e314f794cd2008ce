"""A root as the tools look at it: from the files alone, beside live processes, without a lock, and without making or changing anything.

What is looked at may change at the same time. A snapshot is taken in the order that makes what it says true: first what was written later
(an index), then the tail that covers it.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mqsdk_log.engine import checkpoint, damage, files, index, segment, state
from mqsdk_log.engine import format as fmt
from mqsdk_log.engine import root as roots
from mqsdk_log.engine import topic as topics
from mqsdk_log.engine.errors import BadRoot, CorruptBatch, NoSuchTopic, UnsupportedVersion
from mqsdk_log.engine.format import SEGMENT_HEADER_SIZE, Fields, SegmentHeader


class Tail(NamedTuple):
    """A partition's slot of the state page, where it counts."""

    end: int
    next_offset: int
    segment: int
    log_start: int
    synced: int
    visible: int
    failed: bool
    due_ms: int


class Found(NamedTuple):
    """A batch at a position of its segment; its body is checked by whoever needs it."""

    position: int
    fields: Fields


class Root:
    """An open root. One thread; closed by its owner."""

    def __init__(self, path: Path, durability: str = "") -> None:
        """BadRoot for what is no log or may not be used, UnsupportedVersion for another format.

        durability: what the processes use that append; "": not known, so that of the topic's creation. On any file system, for looking
        needs no locks.
        """
        self.path = path
        self._durability = durability
        self.directory = roots.open_directory(path, create=False)
        try:
            roots.check(path, self.directory, any_filesystem=True)
            try:
                text = files.read_all(roots.MARKER, self.directory).decode("utf-8", "replace")
            except FileNotFoundError:
                raise BadRoot(f"{path} is not a log: there is no file {roots.MARKER} in it") from None
            self.format = roots.format_of(text)
            if self.format != roots.FORMAT:
                raise UnsupportedVersion(f"format of the log at {path}", self.format, roots.FORMAT)
        except BaseException:
            files.close(self.directory)
            raise

    def topics(self) -> list[str]:
        """Names of all topics, sorted."""
        with self._topics() as directory:
            return sorted(name for name in files.names(directory) if not name.startswith("."))

    @contextmanager
    def topic(self, name: str) -> Iterator[TopicView]:
        """One topic while the block runs. NoSuchTopic, BadRoot for a damaged topic.json, UnsupportedVersion."""
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            raise NoSuchTopic(f"there is no topic {name}")
        with self._topics() as directory:
            try:
                view = TopicView.open(name, name, directory, self.path / roots.TOPICS / name, self._durability)
            except FileNotFoundError:
                raise NoSuchTopic(f"there is no topic {name}") from None
        try:
            yield view
        finally:
            view.close()

    @contextmanager
    def _topics(self) -> Iterator[int]:
        directory = files.open_dir(roots.TOPICS, self.directory)
        try:
            yield directory
        finally:
            files.close(directory)

    def close(self) -> None:
        files.close(self.directory)


@dataclass
class TopicView:
    """A topic, or one of its bands. durability: what recovery goes by."""

    name: str
    path: Path
    directory: int
    uuid: bytes
    partitions: int
    durability: str
    retention_s: float | None

    @classmethod
    def open(cls, name: str, folder: str, at: int, path: Path, durability: str = "") -> TopicView:
        directory = files.open_dir(folder, at)
        try:
            uuid, partitions = topics.read_settings(directory, name)
            durability = durability or str(json.loads(files.read_all(topics.SETTINGS, directory)).get("durability", ""))
            return cls(name, path, directory, uuid, partitions, durability, topics.read_retention(directory))
        except BaseException:
            files.close(directory)
            raise

    def close(self) -> None:
        files.close(self.directory)

    def lost(self) -> dict[int, list[tuple[int, int]]]:
        """Ranges that damage.json knows to be lost, by partition."""
        found = damage.load(self.directory)
        return {int(number): [(low, high) for low, high in ranges] for number, ranges in found.items() if number.isdecimal()}

    @contextmanager
    def partition(self, number: int) -> Iterator[PartitionView]:
        """FileNotFoundError when its directory is gone."""
        directory = files.open_dir(str(number), self.directory)
        try:
            yield PartitionView(self, number, directory)
        finally:
            files.close(directory)

    @contextmanager
    def bands(self) -> Iterator[list[tuple[int, TopicView]]]:
        """(number, band) of what is delayed in this topic."""
        found: list[tuple[int, TopicView]] = []
        try:
            with suppress(FileNotFoundError):
                directory = files.open_dir("delay", self.directory)
                try:
                    for name in sorted(name for name in files.names(directory) if name.isdecimal()):
                        band = TopicView.open(f"{self.name} delay {name}", name, directory, self.path / "delay" / name, self.durability)
                        found.append((int(name), band))
                finally:
                    files.close(directory)
            yield found
        finally:
            for _, band in found:
                band.close()


@dataclass
class PartitionView:
    """One partition while its directory is open."""

    topic: TopicView
    number: int
    directory: int

    def tail(self) -> Tail | None:
        """What the state page says; None where that does not count: after a reboot, in a copy."""
        try:
            fd = files.open_read(state.NAME, self.topic.directory)
        except FileNotFoundError:
            return None
        try:
            size = state.size_for(self.topic.partitions)
            if files.size_of(fd) < size:
                return None
            tag = state.tag_of(fd)
            with mmap.mmap(fd, size, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view, view.cast("Q") as words:
                return self._read(words, tag)
        finally:
            files.close(fd)

    def _read(self, words: state.Words, tag: int) -> Tail | None:
        start = state.PAGE // 8 + self.number * state.SLOT_WORDS
        with words[start : start + state.SLOT_WORDS] as slot:
            if slot[state.TAG] != tag:
                return None
            end, next_offset, base = state.read_tail(slot)
            return Tail(
                end, next_offset, base, slot[state.LOG_START], slot[state.SYNCED], slot[state.VISIBLE],
                bool(slot[state.FLAGS] & state.FAILED), slot[state.DUE],
            )  # fmt: skip

    def bases(self, tail: Tail | None) -> list[int]:
        """Base offsets of its segments, ascending, without what retention is about to remove and what a roll has only begun."""
        found = segment.bases(self.directory)
        return found if tail is None else [base for base in found if tail.log_start <= base <= tail.segment]

    def mark(self) -> checkpoint.Mark | None:
        return checkpoint.load(self.directory)

    @contextmanager
    def open(self, base: int) -> Iterator[int]:
        """Descriptor of a segment. FileNotFoundError when retention was faster."""
        fd = files.open_read(segment.file_name(base), self.directory)
        try:
            yield fd
        finally:
            files.close(fd)

    def size(self, base: int) -> int:
        """Bytes of a segment's file, 0 when it is gone."""
        return self.size_of(segment.file_name(base))

    def size_of(self, name: str) -> int:
        """Bytes of a file of the partition, 0 when it is gone."""
        with suppress(FileNotFoundError):
            return os.stat(name, dir_fd=self.directory, follow_symlinks=False).st_size
        return 0

    def limit(self, base: int, fd: int, tail: Tail | None) -> int:
        """Where what is published of a segment ends."""
        size = files.size_of(fd)
        return min(size, tail.end) if tail is not None and base == tail.segment else size

    def header(self, fd: int) -> SegmentHeader:
        """CorruptBatch; UnsupportedVersion."""
        return segment.read_header(fd)

    def batches(self, fd: int, header: SegmentHeader, offset: int, limit: int) -> Iterator[Found]:
        """Batches of a segment from the one that holds `offset`, damage passed over; headers checked, bodies not."""
        position = self._before(fd, header, offset)
        for at, fields in segment.surviving(fd, header.salt, position, limit):
            if fields[fmt.BASE_OFFSET] + fields[fmt.COUNT] > offset:
                yield Found(at, fields)

    def _before(self, fd: int, header: SegmentHeader, offset: int) -> int:
        entries = index.load(self.directory, header.base_offset)
        found = index.verified(fd, header.salt, header.base_offset, entries, max(offset, header.base_offset))
        return SEGMENT_HEADER_SIZE if found is None else found

    def time_of(self, offset: int, tail: Tail | None) -> int | None:
        """Time of the batch that holds an offset, ms; None when there is none to be read."""
        base = segment.holding(self.bases(tail), offset)
        if base is not None:
            with suppress(FileNotFoundError, CorruptBatch, UnsupportedVersion), self.open(base) as fd:
                found = next(self.batches(fd, self.header(fd), offset, self.limit(base, fd, tail)), None)
                return None if found is None else int(found.fields[fmt.BASE_TIMESTAMP])
        return None

    def end(self, tail: Tail | None, bases: list[int]) -> int:
        """Next offset. Without a slot that counts: behind the last batch that can be read."""
        if tail is not None:
            return tail.next_offset
        if not bases:
            return 0
        last = bases[-1]
        with suppress(FileNotFoundError, CorruptBatch, UnsupportedVersion), self.open(last) as fd:
            for found in self.batches(fd, self.header(fd), last, files.size_of(fd)):
                last = found.fields[fmt.BASE_OFFSET] + found.fields[fmt.COUNT]
        return last
