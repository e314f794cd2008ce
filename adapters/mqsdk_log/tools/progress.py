"""Progress of groups as the tools look at it: cursor files read as bytes, without the lock and without making a later generation."""

from __future__ import annotations

import json
import mmap
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mqsdk_log.engine import assignment, files, groups, members, slots
from mqsdk_log.engine.errors import UNEXPECTED, LogError, UnsupportedVersion
from mqsdk_log.engine.slots import PAGE, SUPERSEDED_AT, Cursor, CursorDamaged, word_at


class Copies(NamedTuple):
    """Both slots of one partition. damaged: how many of them were filled once and fail their checksum."""

    newest: Cursor | None
    damaged: int


class GroupView(NamedTuple):
    """A group's progress in one topic. broken: why its file says nothing. owners: partition -> host:pid, as the members wrote it down."""

    name: str
    file: Path
    copies: list[Copies]
    broken: str
    owners: dict[int, str]


def of_topic(root: Path, topic: str) -> list[GroupView]:
    """Every group that keeps progress in the topic."""
    return [_group(root, name, topic) for name in groups.of_topic(root, topic)]


def _group(root: Path, name: str, topic: str) -> GroupView:
    path = _newest_generation(root / "groups" / name / "cursors" / topic)
    try:
        copies, broken = _read(path), ""
    except (LogError, OSError) as error:
        copies, broken = [], error.strerror or "" if isinstance(error, OSError) else str(error)
        if isinstance(error, UnsupportedVersion):
            raise
    return GroupView(name, path, copies, broken, _owners(root / "groups" / name, topic))


def _newest_generation(path: Path) -> Path:
    """The file that counts: the highest generation there is that the one before it points to."""
    current = path
    for _ in range(1000):
        try:
            fd = os.open(current, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return current
        try:
            data = files.pread(fd, SUPERSEDED_AT + 8, 0)
        finally:
            files.close(fd)
        number = word_at(data, SUPERSEDED_AT)[0] if len(data) == SUPERSEDED_AT + 8 else 0
        following = path.with_name(f"{path.name}~{number}")
        if not number or not following.exists():
            return current
        current = following
    return current


def _read(path: Path) -> list[Copies]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        data, partitions = _mapped(fd, path)
    finally:
        files.close(fd)
    with data:
        return [_copies(data, PAGE * (1 + number), PAGE * partitions) for number in range(partitions)]


def _mapped(fd: int, path: Path) -> tuple[mmap.mmap, int]:
    size = files.size_of(fd)
    header = files.pread(fd, 16, 0)
    magic, version, partitions = header[:8], int.from_bytes(header[8:12], "little"), int.from_bytes(header[12:16], "little")
    if magic != slots.MAGIC:
        raise CursorDamaged("the progress file does not begin with its mark", path)
    if version != slots.VERSION:
        raise UnsupportedVersion("the version of the progress file", version, slots.VERSION)
    if partitions < 1 or size != PAGE * (1 + 2 * partitions):
        raise CursorDamaged("the progress file's size does not fit its number of partitions", path)
    return mmap.mmap(fd, size, access=mmap.ACCESS_READ), partitions


def _copies(data: mmap.mmap, at: int, apart: int) -> Copies:
    """A slot that its owner is filling at this moment looks damaged: looked at some times, then it is."""
    for _ in range(100):
        found = [slots.decode(data, place) for place in (at, at + apart)]
        damaged = sum(
            one is None and data[place : place + PAGE].count(0) < PAGE for one, place in zip(found, (at, at + apart), strict=True)
        )
        if not damaged:
            break
    return Copies(max((one for one in found if one is not None), key=lambda one: one.seq, default=None), damaged)


def _owners(directory: Path, topic: str) -> dict[int, str]:
    with suppress(OSError, *UNEXPECTED):
        assigned = assignment.load(directory / "assign.json").owners.get(topic, {})
        about = {member: members.describe(directory / "members", member) for member in set(assigned.values())}
        return {number: f"{about[member].host}:{about[member].pid}" for number, member in assigned.items() if about[member].pid}
    return {}


def damage_problem(path: Path) -> str:
    """What is wrong with a damage.json, "" when nothing is."""
    try:
        found = json.loads(files.read_path(path))
        ranges = [pair for given in found.values() for pair in given]
        if not all(number.isdecimal() for number in found) or not all(0 <= low < high for low, high in ranges):
            return "it names no ranges of offsets"
    except FileNotFoundError:
        return ""
    except UNEXPECTED:
        return "it cannot be read"
    return ""
