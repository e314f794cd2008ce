"""`mqsdk log repair`: exact gaps, copies of what is damaged, and no sealed segment cut; only with the root alone."""

from __future__ import annotations

import errno
import json
import os
import signal
import zlib
from pathlib import Path
from typing import Any

import pytest
from mqsdk_log.engine import files, state
from mqsdk_log.engine import format as fmt
from mqsdk_log.engine.errors import InUse, ReadOnly, SyncFailed
from mqsdk_log.engine.log import Log
from mqsdk_log.engine.shared import Limits
from mqsdk_log.tools import mending, verify


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "PAUSE_S", 0.0)


def damage_of(place: Any) -> dict[str, list[list[int]]]:
    found: dict[str, list[list[int]]] = json.loads((place.path / "topics/orders/damage.json").read_text())
    return found


def done(place: Any, *words: str) -> list[str]:
    found = place.mqsdk("repair", "orders", "--yes", "--json", *words)
    assert found.code == 0, found.out
    return [row["done"] for row in found.document["done"]]


def test_nothing_to_do_is_said_and_asks_nobody(place: Any) -> None:
    place.fill()
    place.close()
    before = {path: path.read_bytes() for path in place.path.rglob("*") if path.is_file()}
    found = place.mqsdk("repair", "orders")
    assert (found.code, "nothing is to be done" in found.out + found.err) == (0, True)
    assert {path: path.read_bytes() for path in before} == before


def test_the_plan_is_a_finding_and_changes_nothing(place: Any, hurt: Any) -> None:
    place.fill()
    place.close()
    hurt.flip(place.segments[0], 64 + 100)
    before = {path: path.read_bytes() for path in place.path.rglob("*") if path.is_file()}
    found = place.mqsdk("repair", "orders", "--dry-run", "--json")
    assert (found.code, len(found.document["plan"])) == (1, 1)
    assert "offsets 0 to 2 (excluded)" in found.document["plan"][0]
    assert place.mqsdk("repair", "orders").code == 5  # nobody agreed
    assert {path: path.read_bytes() for path in before} == before


def test_a_damaged_batch_of_a_sealed_segment_is_an_exact_gap_and_stays_where_it_is(place: Any, hurt: Any) -> None:
    place.fill()
    place.close()
    first = place.segments[0]
    hurt.flip(first, 64 + 126 + 70)  # in the body of its second batch
    bytes_before = first.read_bytes()
    (text,) = done(place)
    assert "offsets 2 to 4 (excluded) as lost" in text
    assert first.read_bytes() == bytes_before
    assert (place.folder / f"quarantine/{0:020d}-190.bad").read_bytes() == bytes_before[190:316]
    assert damage_of(place) == {"0": [[2, 4]]}
    assert place.read() == (place.values[:2] + place.values[4:], [(2, 4)])
    after = place.mqsdk("verify", "--json")
    assert (after.code, [one["kind"] for one in after.document["findings"]]) == (0, ["known"])
    assert place.mqsdk("repair", "orders", "--dry-run").code == 0


@pytest.mark.parametrize("at", [0, 9, 12, 15, 20, 24, 31, 40, 49, 52, 57, 63])
def test_a_segment_whose_header_is_damaged_gets_it_back_from_its_batches(place: Any, hurt: Any, at: int) -> None:
    place.fill()
    place.close()
    second = place.segments[1]
    before = second.read_bytes()
    hurt.flip(second, at, 0x10)
    assert place.read()[1] == [(4, 8)]
    (text,) = done(place)
    assert "made the header of segment 4 anew" in text
    if not 24 <= at < 32 and not 52 <= at < 56 and at < 60:
        assert second.read_bytes() == before  # to the last byte: its own checksum says so
    assert second.read_bytes()[64:] == before[64:]
    assert place.read() == (place.values, [])
    assert place.mqsdk("verify").code == 0


def test_a_header_that_nothing_proves_is_not_invented(place: Any, hurt: Any) -> None:
    """One batch alone, and the salt in the header damaged: a batch whose own header is damaged would pass as well."""
    log = place.open()
    partition = log.create_topic("orders", 1).partition(0)
    partition.append([(None, b"", b"v" * 300, 0, 0, 1)], timestamp_ms=1)
    partition.append([(None, b"", b"w", 0, 0, 1)], timestamp_ms=1)
    place.close()
    hurt.flip(place.segments[0], 13)
    (text,) = done(place)
    assert "recorded offsets 0 to 1 (excluded) as lost" in text
    assert place.read() == ([b"w"], [(0, 1)])


def test_the_salt_that_a_batch_implies_is_the_one_it_was_written_with() -> None:
    for salt in (0, 1, 0xFFFFFFFF, 0x5EED5EED, 0x80000000):
        body = fmt.encode_body([(None, b"", b"value", 0, 0, 1)])
        header = fmt.encode_header(body, 7, salt, (1, 2, 3, 4))
        assert mending.implied_salt(header) == salt
        assert zlib.crc32(header[8:], salt) == int.from_bytes(header[4:8], "little")


def test_a_torn_end_is_kept_and_cut_as_the_next_append_would(place: Any) -> None:
    place.fill()
    place.close()
    last = place.segments[-1]
    with last.open("ab") as file:
        file.write(b"half a batch")
    (text,) = done(place)
    assert "12 bytes cut" in text
    assert [path.read_bytes() for path in (place.folder / "quarantine").iterdir()] == [b"half a batch"]
    assert place.read() == (place.values, [])


def test_a_damaged_mark_and_a_damaged_index_are_made_anew(place: Any, hurt: Any) -> None:
    log = place.open()
    partition = log.create_topic("orders", 1).partition(0)
    for number in range(3):
        partition.append([(None, b"", b"v" * 70_000, 0, 0, 1)], timestamp_ms=number)
    place.close()
    hurt.flip(place.folder / "checkpoint", 1)
    assert any("write the durable mark anew" in step for step in place.mqsdk("repair", "orders", "--dry-run", "--json").document["plan"])
    assert len(done(place)) == 1
    assert place.mqsdk("verify").code == 0


def test_a_partition_whose_sync_failed_is_written_again_and_takes_appends(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = place.fill("always")
    first, real = partition.end(), files.sync_data
    old = place.segments[-1].stat().st_ino

    def failing(fd: int) -> None:
        raise OSError(errno.EIO, "injected")

    monkeypatch.setattr(files, "sync_data", failing)
    with pytest.raises(SyncFailed):
        partition.append([(None, b"", b"unknown", 0, 0, 1)], timestamp_ms=1)
    monkeypatch.setattr(files, "sync_data", real)
    with pytest.raises(ReadOnly):
        partition.append([(None, b"", b"refused", 0, 0, 1)], timestamp_ms=1)
    place.close()
    found = place.mqsdk("verify", "--json")
    assert (found.code, found.document["findings"][0]["kind"]) == (1, "failed")
    synced: list[int] = []

    def noted(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        real(fd)

    monkeypatch.setattr(files, "sync_data", noted)
    (text,) = done(place)
    assert f"offsets {first} to {first + 1} (excluded) to new files" in text
    assert place.segments[-1].stat().st_ino != old
    assert place.segments[-1].stat().st_ino in synced
    partition = place.open("always").topic("orders").partition(0)
    assert partition.append([(None, b"", b"again", 0, 0, 1)], timestamp_ms=1) == first + 1
    assert not partition.slot[state.FLAGS] & state.FAILED
    place.close()
    assert place.read() == ([*place.values, b"unknown", b"again"], [])


def test_what_cannot_be_repaired_is_left_and_said(place: Any, hurt: Any) -> None:
    place.fill()
    place.group()
    place.close()
    for slot in (4096, 4096 * 3):
        hurt.flip(place.path / "groups/billing/cursors/orders", slot + 8)
    hurt.flip(place.segments[0], 64 + 100)
    found = place.mqsdk("repair", "orders", "--yes", "--json")
    assert found.code == 1
    assert len(found.document["done"]) == 1
    assert ["both copies" in one["what"] for one in found.document["left"]] == [True]


def test_of_one_partition_only(place: Any, hurt: Any) -> None:
    place.fill()
    place.close()
    hurt.flip(place.segments[0], 64 + 100)
    assert place.mqsdk("repair", "orders", "-p", "1", "--dry-run").code == 0
    assert place.mqsdk("repair", "orders", "-p", "0", "--dry-run").code == 1
    assert place.mqsdk("repair", "orders", "-p", "2", "--dry-run").code == 6


# --- alone ---------------------------------------------------------------------------------------------------------------------------


def test_it_is_refused_while_a_process_has_the_log_open(place: Any, hurt: Any) -> None:
    place.fill()
    hurt.flip(place.segments[0], 64 + 100)
    assert place.mqsdk("repair", "orders", "--dry-run").code == 1  # looking is allowed
    found = place.mqsdk("repair", "orders", "--yes", "--json")
    assert (found.code, found.document["error"]["type"]) == (5, "StateError")
    assert "is open in" in found.document["error"]["what"]
    place.close()
    assert place.mqsdk("repair", "orders", "--yes").code == 0


def test_who_has_a_root_alone_keeps_others_out_and_is_named(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place.fill()
    place.close()
    alone = Log.open(place.path, alone=True)
    monkeypatch.setattr("mqsdk_log.engine.root._PATIENCE_S", 0.05)
    with pytest.raises(InUse, match="being repaired or upgraded"):
        Log.open(place.path)
    alone.close()
    with Log.open(place.path), pytest.raises(InUse, match="is open"):
        Log.open(place.path, alone=True)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_that_has_it_open_is_named_by_its_pid(place: Any) -> None:
    place.fill()
    place.close()
    ready, told = os.pipe()
    child = os.fork()
    if not child:  # a process of its own that opens the log and waits to be told
        with Log.open(place.path):
            os.write(told, b"!")
            signal.pause()
    try:
        assert os.read(ready, 1) == b"!"
        with pytest.raises(InUse) as refused:
            Log.open(place.path, alone=True)
        assert refused.value.pids == (child,)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(told)
    Log.open(place.path, alone=True).close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_keep_the_log_open_for_its_parent(place: Any) -> None:
    place.fill()
    ready, told = os.pipe()
    child = os.fork()
    if not child:
        os.write(told, b"!")
        signal.pause()
    try:
        assert os.read(ready, 1) == b"!"
        place.close()
        Log.open(place.path, alone=True).close()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(told)


def test_a_refused_root_leaves_no_descriptor_open(place: Any) -> None:
    place.fill()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(InUse):
        Log.open(place.path, alone=True)
    assert len(os.listdir("/proc/self/fd")) == before
    assert Path(place.path / "open.lock").stat().st_mode & 0o777 == 0o600


def test_what_is_delayed_is_repaired_with_its_topic(place: Any, hurt: Any) -> None:
    due = 4_000_000_000_000
    place.fill()
    place.close()
    delays = place.open(limits=Limits(min_free_bytes=0)).topic("orders").partition(0).delays
    for number in range(3):
        delays.put([(None, b"", b"later %d" % number, 0, 0, 1)], [due + number], timestamp_ms=1)
    place.close()
    (path,) = (place.path / "topics/orders/delay").glob("*/0/*.log")
    hurt.flip(path, path.read_bytes().index(b"later 1"))
    (step,) = place.mqsdk("repair", "orders", "--dry-run", "--json").document["plan"]
    assert step.startswith("orders delay 8/0: record offsets 1 to 2")
    (text,) = done(place)
    assert "offsets 1 to 2 (excluded) as lost" in text
    assert place.mqsdk("verify").code == 0
    partition = place.open().topic("orders").partition(0)
    while partition.move(due + 9):
        pass
    place.close()
    assert place.read()[0] == [*place.values, b"later 0", b"later 2"]
