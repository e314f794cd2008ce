"""The engine broken on purpose, each time by one mistake that such engines have made, to show that the simulated crashes see it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from mqsdk_log.engine import active, checkpoint, cursors, delays, files, partition, recovery, segment, state
from mqsdk_log.engine import format as fmt
from mqsdk_log.engine.commit import GroupCommit
from mqsdk_log.engine.errors import SyncFailed
from mqsdk_log.engine.segment import Extent

from tests.log.simfs.fault import Fault
from tests.log.simfs.story import Setting


class Mutant(NamedTuple):
    """make: breaks the engine. bend: of the seeds' settings, for mistakes that need a certain one to be seen."""

    make: Callable[[pytest.MonkeyPatch], None]
    bend: Callable[[Setting], Setting] = lambda setting: setting

    @property
    def name(self) -> str:
        return self.make.__name__


def _nothing(*_: Any, **__: Any) -> None:
    return None


# --- what is given its name ---------------------------------------------------------------------------------------------------------


def _replace(name: str, data: bytes, at: int, *, sync_file: bool, sync_dir: bool) -> None:
    temporary = files.temporary_name(name)
    fd = files.open_new(temporary, at)
    try:
        files.write_all(fd, data, 0)
        if sync_file:
            files.sync_file(fd)
    finally:
        files.close(fd)
    files.rename(temporary, name, at)
    if sync_dir:
        files.sync_dir(at)


def no_sync_before_the_rename(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(files, "replace", lambda name, data, at, durable=True: _replace(name, data, at, sync_file=False, sync_dir=durable))


def no_sync_of_the_directory_after_the_rename(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(files, "replace", lambda name, data, at, durable=True: _replace(name, data, at, sync_file=durable, sync_dir=False))
    patch.setattr(GroupCommit, "_sync_names", _nothing)


def names_of_groups_are_never_synced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(files, "sync_path", _nothing)


def names_of_segments_are_left_to_their_maker(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(GroupCommit, "_sync_names", _nothing)


# --- syncing ------------------------------------------------------------------------------------------------------------------------


def nothing_is_synced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(GroupCommit, "_sync_segments", _nothing)


def durable_is_ignored(patch: pytest.MonkeyPatch) -> None:
    original = partition.PartitionLog.follow_up

    def follow_up(self: Any, after: int, size: int, deadline: float | None, durable: bool) -> None:
        original(self, after, size, deadline, False)

    patch.setattr(partition.PartitionLog, "follow_up", follow_up)


def the_newest_segment_only_is_synced(patch: pytest.MonkeyPatch) -> None:
    original = GroupCommit._open_segments
    patch.setattr(GroupCommit, "_open_segments", lambda self, synced, last: original(self, synced, last)[-1:])


def the_mark_is_stored_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    original = GroupCommit._sync_segments

    def sync_segments(self: Any, synced: int, last: int) -> None:
        end, next_offset, base = state.read_tail(self._words)
        checkpoint.store(self._directory, checkpoint.Mark(next_offset, base, end))
        original(self, synced, last)

    patch.setattr(GroupCommit, "_sync_segments", sync_segments)


def a_failed_sync_is_tried_again(patch: pytest.MonkeyPatch) -> None:
    original = GroupCommit._sync_segments

    def sync_segments(self: Any, synced: int, last: int) -> None:
        try:
            original(self, synced, last)
        except SyncFailed:
            self._words[state.FLAGS] &= ~state.FAILED & 0xFF
            original(self, synced, last)

    patch.setattr(GroupCommit, "_sync_segments", sync_segments)


def _a_sync_fails(setting: Setting) -> Setting:
    return setting._replace(fault=Fault(("fdatasync",), after=5, number=errno.EIO))


# --- writing ------------------------------------------------------------------------------------------------------------------------


def the_tail_is_published_before_the_bytes(patch: pytest.MonkeyPatch) -> None:
    original = partition.PartitionLog._write_bodies

    def write_bodies(self: Any, bodies: list[fmt.Body], stamp: tuple[int, int, int], end: int, base: int) -> int:
        size = sum(len(body.data) + fmt.HEADER_SIZE for body in bodies)
        state.commit_tail(self._words, end + size, base + sum(body.records for body in bodies), self._segment)
        return original(self, bodies, stamp, end, base)

    patch.setattr(partition.PartitionLog, "_write_bodies", write_bodies)


def what_failed_is_not_taken_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(active.ActiveSegment, "_sync_cut", _nothing)
    patch.setattr(files, "ftruncate", _nothing)


def what_is_taken_back_is_not_synced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(active.ActiveSegment, "_sync_cut", _nothing)


def _writes_fail(setting: Setting) -> Setting:
    return setting._replace(fault=Fault(("pwritev",), after=4, times=1000, number=errno.ENOSPC, short=True))


# --- recovery -----------------------------------------------------------------------------------------------------------------------


def a_bad_checksum_at_the_tail_is_accepted(patch: pytest.MonkeyPatch) -> None:
    def scan(fd: int, salt: int, start: Extent, size: int) -> Extent:
        position, expected, newest = start
        for at, fields in segment.headers(fd, salt, position, size):
            if fields[fmt.BASE_OFFSET] != expected:
                break
            position = at + fmt.HEADER_SIZE + fields[fmt.BODY_LENGTH]
            expected += fields[fmt.COUNT]
            newest = max(newest, fields[fmt.MAX_TIMESTAMP])
        return Extent(position, expected, newest)

    patch.setattr(segment, "scan", scan)


def offsets_that_a_group_has_settled_are_given_out_again(patch: pytest.MonkeyPatch) -> None:
    original = recovery._from_mark
    patch.setattr(recovery, "_from_mark", lambda site: original(replace(site, floor=lambda: 0)))


def the_removal_of_a_segment_whose_roll_failed_is_not_synced(patch: pytest.MonkeyPatch) -> None:
    original = recovery._drop_orphans

    def drop(site: recovery.Site, base: int) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(files, "sync_dir", _nothing)
            original(site, base)

    patch.setattr(recovery, "_drop_orphans", drop)


def _rolls_fail(setting: Setting) -> Setting:
    limits = setting.limits.__class__(segment_bytes=700, min_free_bytes=0)
    fault = Fault(("fsync",), after=3, number=errno.EIO, where="/orders/0/")
    return setting._replace(limits=limits, sizes=(10, 100), durability="always", delays=False, fault=fault, early=False)


def a_short_read_is_believed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(files, "pread", lambda fd, size, position: files._pread(fd, size, position))


# --- groups and delay ---------------------------------------------------------------------------------------------------------------


def progress_is_never_synced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cursors.CursorFile, "sync", _nothing)


def what_was_moved_is_noted_before_it_is_synced(patch: pytest.MonkeyPatch) -> None:
    original = delays.Delays.checkpoint

    def note(self: Any, deadline: float | None = None) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(partition.PartitionLog, "sync", _nothing)
            original(self, deadline)

    patch.setattr(delays.Delays, "checkpoint", note)


def _with_delays(setting: Setting) -> Setting:
    return setting._replace(delays=True, retention=False, fault=None)


def what_the_partition_shows_is_moved_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(delays.Delays, "_shown", lambda self, moved: set())


MUTANTS: Sequence[Mutant] = (
    Mutant(no_sync_before_the_rename),
    Mutant(no_sync_of_the_directory_after_the_rename),
    Mutant(names_of_groups_are_never_synced),
    Mutant(names_of_segments_are_left_to_their_maker),
    Mutant(nothing_is_synced),
    Mutant(durable_is_ignored),
    Mutant(the_newest_segment_only_is_synced),
    Mutant(the_mark_is_stored_before_the_sync),
    Mutant(a_failed_sync_is_tried_again, _a_sync_fails),
    Mutant(the_tail_is_published_before_the_bytes),
    Mutant(what_failed_is_not_taken_back, _writes_fail),
    Mutant(what_is_taken_back_is_not_synced, _writes_fail),
    Mutant(a_bad_checksum_at_the_tail_is_accepted),
    Mutant(offsets_that_a_group_has_settled_are_given_out_again),
    Mutant(the_removal_of_a_segment_whose_roll_failed_is_not_synced, _rolls_fail),
    Mutant(a_short_read_is_believed),
    Mutant(progress_is_never_synced),
    Mutant(what_was_moved_is_noted_before_it_is_synced, _with_delays),
    Mutant(what_the_partition_shows_is_moved_again, _with_delays),
)
