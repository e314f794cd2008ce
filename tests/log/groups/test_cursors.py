"""Progress slots: torn stores, stale epochs, a holder that does not let go of the lock."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqsdk_log.engine import cursors, slots
from mqsdk_log.engine.cursors import BLOB_LIMIT, Cursor, CursorDamaged, CursorFile, NoSuchGroup
from mqsdk_log.engine.errors import UnsupportedVersion

PAGE = slots.PAGE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "groups" / "g" / "cursors" / "orders"
    found.parent.mkdir(parents=True)
    assert cursors.create(found, [Cursor(10 * partition) for partition in range(3)])
    return found


@pytest.fixture
def file(path: Path) -> Iterator[CursorFile]:
    found = CursorFile(path, patience_s=0.05)
    yield found
    found.close()


def own(file: CursorFile, partition: int = 0) -> Cursor:
    taken = file.take(partition, lambda _left: True)
    assert taken is not None
    return taken[1]


def test_a_new_file_says_where_each_partition_begins_and_is_fully_allocated(path: Path, file: CursorFile) -> None:
    assert [file.read(partition).watermark for partition in range(3)] == [0, 10, 20]
    found = path.stat()
    assert found.st_size == PAGE * 7
    assert found.st_blocks * 512 >= found.st_size  # a sparse mapping on a full disk would kill the process


def test_the_first_of_two_creators_wins(path: Path) -> None:
    assert not cursors.create(path, [Cursor(99)])
    assert [name for name in os.listdir(path.parent) if name != "orders"] == []


def test_the_bytes_of_a_slot_are_those_of_the_format(path: Path, file: CursorFile) -> None:
    mine = own(file, 1)
    stored = file.store(1, Cursor(7, mine.epoch, high=9, sparse=b"abc", clean=True))
    assert stored is not None
    raw = path.read_bytes()
    slot = raw[PAGE * 2 : PAGE * 3] if stored.seq % 2 else raw[PAGE * 5 : PAGE * 6]  # seq 1 was in region A
    assert int.from_bytes(slot[0:8], "little") == stored.seq == 3
    assert [int.from_bytes(slot[at : at + 8], "little") for at in (8, 16)] == [7, 1]
    assert int.from_bytes(slot[24:32], "little") == stored.time_ms
    assert slot[32:40] == (3).to_bytes(4, "little") + (1).to_bytes(4, "little")
    assert int.from_bytes(slot[40:48], "little") == 9
    assert slot[48:51] == b"abc"


def test_seq_rises_with_every_store_and_so_shows_life(file: CursorFile) -> None:
    mine = own(file)
    before = file.evidence(0)
    again = file.store(0, mine)
    assert again is not None
    assert again.seq == mine.seq + 1
    assert file.evidence(0) == before + 1


def test_another_process_reads_what_was_stored(path: Path, file: CursorFile) -> None:
    mine = own(file)
    file.store(0, Cursor(5, mine.epoch, high=8, sparse=b"x" * BLOB_LIMIT, clean=True))
    other = CursorFile(path)
    found = other.read(0)
    other.close()
    assert (found.watermark, found.high, found.sparse, found.clean) == (5, 8, b"x" * BLOB_LIMIT, True)


def test_a_blob_that_does_not_fit_is_refused(file: CursorFile) -> None:
    mine = own(file)
    with pytest.raises(ValueError, match="4040"):
        file.store(0, mine._replace(sparse=bytes(BLOB_LIMIT + 1)))
    assert file.read(0) == mine


def test_a_store_under_an_older_epoch_is_refused_and_changes_nothing(path: Path, file: CursorFile) -> None:
    old = own(file)
    taker = CursorFile(path)
    new = own(taker)
    assert new.epoch == old.epoch + 1
    assert file.store(0, Cursor(50, old.epoch)) is None
    assert taker.read(0) == new
    assert taker.store(0, Cursor(1, new.epoch)) is not None
    taker.close()


def test_an_ownership_begins_unclean_and_keeps_what_the_last_owner_left(file: CursorFile) -> None:
    mine = own(file)
    file.store(0, Cursor(4, mine.epoch, high=6, sparse=b"s", clean=True))
    taken = file.take(0, lambda _left: True)
    assert taken is not None
    left, now = taken
    assert (left.watermark, left.sparse, left.clean) == (4, b"s", True)
    assert (now.watermark, now.sparse, now.high, now.clean, now.epoch) == (4, b"s", 6, False, left.epoch + 1)


def test_a_taker_gives_way_to_an_owner_that_has_shown_life(file: CursorFile) -> None:
    mine = own(file)
    seen = file.evidence(0)
    file.store(0, mine)
    assert file.take(0, lambda _left: pytest.fail("asked for the lease"), unchanged=seen) is None
    assert file.store(0, mine) is not None


@pytest.mark.parametrize("at", [0, 8, 20, 33, 41, 48, 60, 4092])
def test_a_torn_store_costs_that_store_only(path: Path, file: CursorFile, at: int) -> None:
    mine = own(file)
    earlier = file.store(0, Cursor(1, mine.epoch, sparse=b"first" * 9))
    later = file.store(0, Cursor(2, mine.epoch, sparse=b"later" * 9))
    assert earlier is not None
    assert later is not None
    flip(path, slot_of(path, later) + at)
    other = CursorFile(path)
    assert other.read(0) == earlier
    assert other.store(0, Cursor(3, mine.epoch)) is not None
    assert other.read(0).watermark == 3
    other.close()


def test_two_damaged_slots_are_named_not_guessed(path: Path, file: CursorFile) -> None:
    mine = own(file)
    file.store(0, mine)
    for region in (1, 4):
        flip(path, PAGE * region + 9)
    other = CursorFile(path)
    with pytest.raises(CursorDamaged, match="partition 0"):
        other.read(0)
    assert other.read(1).watermark == 10
    other.close()


def test_a_crash_between_the_slots_leaves_the_older_one(path: Path, file: CursorFile) -> None:
    mine = own(file)
    kept = file.store(0, Cursor(1, mine.epoch))
    before = path.read_bytes()
    lost = file.store(0, Cursor(2, mine.epoch, sparse=b"y" * 3000))
    assert kept is not None
    assert lost is not None
    at = slot_of(path, lost)
    after = path.read_bytes()
    for written in (1, 8, 47, 48, 2000, 4092, 4094):  # the page reached the disk up to here
        path.write_bytes(before[:at] + after[at : at + written] + before[at + written :])
        other = CursorFile(path)
        assert other.read(0) == kept
        other.close()


def test_a_missing_file_another_version_and_a_cut_file_are_told_apart(path: Path, tmp_path: Path) -> None:
    with pytest.raises(NoSuchGroup):
        CursorFile(path.with_name("other"))
    whole = path.read_bytes()
    path.write_bytes(whole[:8] + (2).to_bytes(4, "little") + whole[12:])
    with pytest.raises(UnsupportedVersion):
        CursorFile(path)
    for damaged in (whole[:-1], whole[:10], b"X" + whole[1:], b""):
        path.write_bytes(damaged)
        with pytest.raises(CursorDamaged):
            CursorFile(path)


def test_a_holder_that_does_not_let_go_is_left_behind(path: Path, file: CursorFile) -> None:
    """A process stopped while it holds the lock: the others go on in the next generation, and it follows when it thaws."""
    mine = own(file)
    stopped = CursorFile(path)
    fcntl.flock(stopped._fd, fcntl.LOCK_EX)
    stored = file.store(0, Cursor(4, mine.epoch, sparse=b"s"))
    assert stored is not None
    assert file.path.name == "orders~1"
    assert stopped.read(0) == stored
    third = CursorFile(path)
    assert third.read(0) == stored
    assert third.read(2).watermark == 20
    for one in (stopped, third):
        one.close()


def test_a_store_that_was_under_way_while_its_generation_was_left_is_repeated_in_the_next(
    path: Path, file: CursorFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be answered as stored and be gone."""
    mine = own(file)
    other = CursorFile(path, patience_s=0.01)
    fill = slots.fill

    def slow(*arguments: object) -> None:
        monkeypatch.setattr(slots, "fill", fill)
        fill(*arguments)  # type: ignore[arg-type]
        assert other.move(1, 33).watermark == 33  # finds the lock held, and moves on

    monkeypatch.setattr(slots, "fill", slow)
    assert file.store(0, Cursor(8, mine.epoch)) is not None
    assert file.path.name == "orders~1"
    found = CursorFile(path)
    assert [found.read(0).watermark, found.read(1).watermark] == [8, 33]
    found.close()
    other.close()


def test_the_highest_settled_position_of_any_group_is_the_floor_of_recovery(path: Path, tmp_path: Path, file: CursorFile) -> None:
    other = tmp_path / "groups" / "h" / "cursors" / "orders"
    other.parent.mkdir(parents=True)
    cursors.create(other, [Cursor(100, high=106)])
    file.store(1, Cursor(50, own(file, 1).epoch, high=60))
    assert [cursors.highest(tmp_path, "orders", partition) for partition in range(4)] == [106, 60, 20, 0]
    assert cursors.highest(tmp_path, "other", 0) == 0


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2**63), st.binary(max_size=200)), max_size=30))
def test_the_last_store_of_each_partition_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, stores: list[tuple[int, int, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("cursors") / "t"
    cursors.create(path, [Cursor(0) for _ in range(3)])
    file, model = CursorFile(path), {0: (0, b""), 1: (0, b""), 2: (0, b"")}
    for partition, watermark, blob in stores:
        assert file.store(partition, Cursor(watermark, sparse=blob)) is not None
        model[partition] = (watermark, blob)
    other = CursorFile(path)
    found = {partition: other.read(partition) for partition in model}
    assert {partition: (cursor.watermark, cursor.sparse) for partition, cursor in found.items()} == model
    file.close()
    other.close()


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    with path.open("r+b") as file:
        file.write(raw)


def slot_of(path: Path, cursor: Cursor) -> int:
    """Where partition 0's slot with this seq lies."""
    raw = path.read_bytes()
    return next(at for at in (PAGE, PAGE * 4) if int.from_bytes(raw[at : at + 8], "little") == cursor.seq)
