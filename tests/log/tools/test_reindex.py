"""`mqsdk log reindex` and `upgrade`: indexes made anew beside a live log, and shown to lead where they should."""

from __future__ import annotations

import threading
from array import array
from pathlib import Path
from typing import Any

import pytest
from mqsdk_log.engine import files, index
from mqsdk_log.engine.shared import Limits
from mqsdk_log.tools import reindex, verify
from mqsdk_log.tools.survey import Root

ROOM = Limits(segment_bytes=300_000, min_free_bytes=0)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "PAUSE_S", 0.0)


def filled(place: Any) -> Any:
    partition = place.open(limits=ROOM).create_topic("orders", 1).partition(0)
    for number in range(40):
        partition.append([(None, b"", b"v" * 20_000, 0, 0, 1)], timestamp_ms=1000 + number)
    return partition


def rows(place: Any) -> list[dict[str, Any]]:
    found = place.mqsdk("reindex", "--yes", "--json")
    assert found.code == 0, found.out
    return found.document["partitions"]  # type: ignore[no-any-return]


def indexes(place: Any) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(place.folder.glob("*.idx"))}


def test_what_one_writer_has_written_is_made_again_byte_for_byte(place: Any) -> None:
    filled(place)
    before = indexes(place)
    assert len(before) == 3
    (row,) = rows(place)
    assert (row["before"], row["proof"], row["segments"]) == ("equal", "equal", 3)
    assert indexes(place) == before


@pytest.mark.parametrize("harm", ["missing", "empty", "garbage", "flipped", "half"])
def test_a_lost_or_damaged_index_is_made_anew(place: Any, hurt: Any, harm: str) -> None:
    filled(place)
    before = indexes(place)
    place.close()
    for name in before:
        path = place.folder / name
        if harm == "missing":
            path.unlink()
        elif harm == "flipped":
            hurt.flip(path, 4)
        else:
            path.write_bytes({"empty": b"", "garbage": bytes(range(40)), "half": before[name][:-3]}[harm])
    if harm not in ("missing", "empty"):
        assert place.mqsdk("verify").code == 1
    (row,) = rows(place)
    assert (row["before"] != "equal", row["proof"]) == (True, "equal")
    assert indexes(place) == before
    assert place.mqsdk("verify").code == 0


def test_a_plan_asks_and_a_dry_run_changes_nothing(place: Any) -> None:
    filled(place)
    for path in place.folder.glob("*.idx"):
        path.unlink()
    assert place.mqsdk("reindex", "--dry-run").code == 0
    assert place.mqsdk("reindex").code == 5
    assert indexes(place) == {}


def test_beside_a_writer_nothing_is_lost_and_the_index_stays_one(place: Any) -> None:
    partition = filled(place)
    over = threading.Event()
    written = [40]

    def write() -> None:
        while not over.is_set():
            partition.append([(None, b"", b"v" * 9_000, 0, 0, 1)], timestamp_ms=2000)
            written[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            assert {row["proof"] for row in rows(place)} == {"equal"}
    finally:
        over.set()
        writer.join()
    assert place.mqsdk("verify", "--json").document["findings"] == []
    assert partition.end() == written[0]
    reader = partition.reader(written[0] - 1)
    assert [record.position for record in reader.read(10, 1 << 20)] == [written[0] - 1]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda entries: array("Q", [entries[0] + (1 << 32), *entries[1:]]), "names another offset"),
        (lambda entries: array("Q", [entries[0] + 8, *entries[1:]]), "names no batch"),
    ],
)
def test_the_proof_sees_an_index_that_lies(place: Any, change: Any, what: str) -> None:
    filled(place)
    place.close()
    root = Root(place.path)
    with root.topic("orders") as topic, topic.partition(0) as view, view.open(0) as fd:
        entries = index.load(view.directory, 0)
        salt = view.header(fd).salt
        assert reindex.proven(view, 0, fd, salt, entries) == ""
        assert what in reindex.proven(view, 0, fd, salt, change(entries))
    root.close()


def test_the_heap_of_what_is_delayed_is_made_anew_and_equal(place: Any, hurt: Any) -> None:
    partition = filled(place)
    due = 4_000_000_000_000
    for number in range(20):
        partition.delays.put([(None, b"", b"later", 0, 0, 1)], [due + number * 7 % 5], timestamp_ms=1)
    found = [row for row in rows(place) if row["topic"] == "orders"]
    assert [(row["delayed"], row["delayed_before"]) for row in found] == [(20, "equal")]
    heap: Path = place.path / "topics/orders/delay/0.due"
    hurt.flip(heap, 32768 + 24 * 3 + 2)  # a due time in it
    found = [row for row in rows(place) if row["topic"] == "orders"]
    assert [(row["delayed"], row["delayed_before"]) for row in found] == [(20, "differed")]
    found = [row for row in rows(place) if row["topic"] == "orders"]
    assert [(row["delayed"], row["delayed_before"]) for row in found] == [(20, "equal")]


def test_upgrade_has_nothing_to_do_on_format_1(place: Any) -> None:
    filled(place)
    marker = (place.path / "MQSDK").read_bytes()
    found = place.mqsdk("upgrade", "--json")
    assert (found.code, found.document["changed"], found.document["format"]) == (0, False, "1")
    assert "format 1 is the newest" in place.mqsdk("upgrade").out
    assert (place.path / "MQSDK").read_bytes() == marker


@pytest.mark.parametrize("command", [("upgrade",), ("ls",), ("dump", "orders"), ("verify",), ("repair", "orders"), ("reindex",)])
def test_a_newer_format_is_refused_by_name_by_every_tool(place: Any, command: tuple[str, ...]) -> None:
    filled(place)
    place.close()
    (place.path / "MQSDK").write_text("format=2\n")
    found = place.mqsdk(*command, "--json")
    assert (found.code, found.document["error"]["type"]) == (5, "UnsupportedFormat")
    assert "found 2, supported 1" in found.document["error"]["what"]


def test_a_segment_without_an_index_of_a_damaged_one_is_covered_behind_the_damage(place: Any, hurt: Any) -> None:
    """A rebuild stopped at the first damaged header: every seek behind it hopped over the whole rest of the segment."""
    filled(place)
    place.close()
    first = place.segments[0]
    hurt.flip(first, 64 + 20_084 * 2 + 3)  # the magic of its third batch
    directory = files.open_dir(place.folder)
    fd = files.open_read(first.name, directory)
    try:
        made = index.rebuild(directory, 0, fd, int.from_bytes(first.read_bytes()[12:16], "little"), first.stat().st_size)
    finally:
        files.close(fd)
        files.close(directory)
    assert [entry >> 32 for entry in made] == [4, 8, 12]


def test_what_is_appended_meanwhile_and_afterwards_is_in_the_index(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest segment's index is finished under the lock, in the file that appenders have open."""
    partition = place.open(limits=Limits(min_free_bytes=0)).create_topic("orders", 1).partition(0)
    real, calls = index.entries_of, list[int]()

    def append() -> None:
        for _ in range(8):
            partition.append([(None, b"", b"v" * 40_000, 0, 0, 1)], timestamp_ms=1)

    def entries_of(*arguments: Any) -> array[int]:
        found: array[int] = real(*arguments)
        if not calls:
            append()
        calls.append(len(found))
        return found

    append()
    monkeypatch.setattr(index, "entries_of", entries_of)
    rows(place)
    append()
    path = place.segments[0]
    directory = files.open_dir(place.folder)
    fd = files.open_read(path.name, directory)
    try:
        salt = int.from_bytes(path.read_bytes()[12:16], "little")
        assert index.load(directory, 0) == real(0, fd, salt, 64, path.stat().st_size)
    finally:
        files.close(fd)
        files.close(directory)
    assert len(calls) == 2
