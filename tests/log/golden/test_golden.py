"""Logs of format 1 that are read for ever: the engine, the tools, and a reader made from docs/native-log.md alone say the same of them.

Whatever comes later must pass this file unchanged.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from mqsdk_log.engine import format as fmt
from mqsdk_log.engine.errors import CorruptRange
from mqsdk_log.engine.groups import Group
from mqsdk_log.engine.log import Log

from mqsdk.cli.main import cli

HERE = Path(__file__).parent
NOW_MS, FAR_MS = 1_700_000_000_000, 4_000_000_000_000
HEADERS = [(b"mq-id", b"id-7"), (b"content-type", b"text/plain"), (b"empty", b"")]
PRODUCER = 0xFEDCBA9876543210


class Seen(NamedTuple):
    """A record, or a gap (position to `stop`)."""

    position: int
    stop: int | None = None
    key: bytes | None = None
    value: bytes = b""
    time_ms: int = 0
    attempt: int = 0
    headers: tuple[tuple[bytes, bytes], ...] = ()
    producer: int = 0
    sequence: int = 0


def batch(number: int) -> list[Seen]:
    """What was written as one batch of three."""
    at, time_ms = 3 * number, NOW_MS + number
    return [
        Seen(at, None, b"key", b"value %d" % number, time_ms, 1, tuple(HEADERS), PRODUCER, at),
        Seen(at + 1, None, None, b"", time_ms + 3, 2, (), PRODUCER, at + 1),
        Seen(at + 2, None, b"", bytes(range(40)), time_ms - 5, 65535, (), PRODUCER, at + 2),
    ]


EXPECTED = {
    ("orders", 0): [*batch(0), Seen(3, 6), *batch(2), *batch(3), *batch(4)],
    ("orders", 1): [*batch(0), Seen(3, None, b"soon", b"moved", NOW_MS, 1), Seen(40, None, None, b"behind a jump", NOW_MS + 9, 1)],
    ("orders.billing.dlq", 0): [Seen(0, None, b"k", b"dead", NOW_MS, 11)],
}


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy, with the empty directories that git does not keep."""
    root = tmp_path / "root"
    shutil.copytree(HERE / "format_1" / "root", root)
    for settings in root.rglob("topic.json"):
        for number in range(json.loads(settings.read_text())["partitions"]):
            (settings.parent / str(number)).mkdir(exist_ok=True)
    return root


def mqsdk(root: Path, *words: str) -> list[dict[str, Any]]:
    found = CliRunner().invoke(cli, ["log", *words, "--root", str(root), "--json"])
    assert found.exit_code in (0, 1), found.output
    return [json.loads(line) for line in found.stdout.splitlines()]


def test_the_files_are_what_they_were_on_the_first_day() -> None:
    lines = [line.partition("  ") for line in (HERE / "format_1" / "SHA256SUMS").read_text().splitlines()]
    sums = {name: value for value, _, name in lines}
    files = {str(path.relative_to(HERE / "format_1")): path for path in (HERE / "format_1" / "root").rglob("*") if path.is_file()}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == sums


# --- the engine ----------------------------------------------------------------------------------------------------------------------


def read(log: Log, topic: str, number: int) -> list[Seen]:
    reader = log.topic(topic).partition(number).reader(0)
    seen: list[Seen] = []
    while True:
        try:
            records = reader.read(100, 1 << 20)
        except CorruptRange as error:
            seen.append(Seen(error.start, error.stop))
            reader.seek(error.stop)
            continue
        if not records:
            return seen
        seen += [
            Seen(
                one.position, None, one.key, one.value, one.timestamp_ms, one.attempt, tuple(fmt.decode_headers(one.block)),
                one.producer_id, one.sequence,
            )
            for one in records
        ]  # fmt: skip


def test_the_engine_reads_it(golden: Path) -> None:
    with Log.open(golden, create=False) as log:
        assert log.topics() == ["orders", "orders.billing.dlq"]
        assert {place: read(log, *place) for place in EXPECTED} == EXPECTED
        assert log.topic("orders").retention_s == 86400.0
        assert log.topic("orders").partition(1).locate(NOW_MS + 9) == 40
    assert [
        (one.watermark, one.epoch, one.seq, one.high, one.sparse, one.clean) for one in Group(golden, "billing").progress("orders")
    ] == [
        (6, 0, 3, 9, b"sparse blob", False),
        (0, 0, 1, 0, b"", True),
    ]


def test_what_waits_in_it_is_moved_when_it_is_due_and_nothing_twice(golden: Path) -> None:
    with Log.open(golden, create=False) as log:
        partition = log.topic("orders").partition(1)
        assert partition.delays is not None
        assert partition.delays.waiting() == 2
        while partition.move(FAR_MS + 1):
            pass
        assert [(one.position, one.value) for one in read(log, "orders", 1)][-3:] == [(40, b"behind a jump"), (41, b"waits"), (42, b"too")]


def test_it_is_written_on(golden: Path) -> None:
    with Log.open(golden, create=False) as log:
        assert log.topic("orders").partition(0).append([(None, b"", b"new", 0, 0, 1)], timestamp_ms=NOW_MS) == 15
        assert log.topic("orders").partition(1).append([(None, b"", b"new", 0, 0, 1)], timestamp_ms=NOW_MS) == 41
        assert read(log, "orders", 0)[:-1] == EXPECTED["orders", 0]
    (found,) = mqsdk(golden, "verify")
    assert (found["problems"], {one["kind"] for one in found["findings"]} - {"note"}) == (0, {"known"})


# --- the tools -----------------------------------------------------------------------------------------------------------------------


def test_the_tools_read_it(golden: Path) -> None:
    for (topic, number), expected in EXPECTED.items():
        lines = mqsdk(golden, "dump", topic, "-p", str(number), "--body")
        assert [(line.get("offset", -1), line.get("body"), line.get("damaged")) for line in lines] == [
            (-1, None, [one.position, one.stop]) if one.stop else (one.position, one.value.decode("utf-8", "backslashreplace"), None)
            for one in expected
        ]
    (found,) = mqsdk(golden, "verify")
    assert (found["records"], found["problems"]) == (20 + 1, 0)
    assert [(one["start"], one["stop"]) for one in found["findings"] if one["kind"] == "known"] == [(3, 6)]
    assert [line["due"] for line in mqsdk(golden, "dump", "orders", "--delayed")] == [
        "2023-11-14T22:13:20.005Z", "2096-10-02T07:06:40.000Z", "2096-10-02T07:06:40.001Z",
    ]  # fmt: skip


# --- who knows nothing but the page --------------------------------------------------------------------------------------------------


def segments(folder: Path) -> Iterator[tuple[int, bytes]]:
    for path in sorted(folder.glob("*.log")):
        data = path.read_bytes()
        assert data[:8] == b"MQSDKLOG"
        major, _minor, salt, base, _created, _uuid, _partition, flags, _reserved, crc = struct.unpack_from("<HHIQQ16sIIII", data, 8)
        assert (major, zlib.crc32(data[:60]), f"{base:020d}.log") == (1, crc, path.name)
        yield salt << 1 | flags & 1, data


def plainly(folder: Path) -> Iterator[Seen]:
    """The records of a partition, by the page alone: no line of mqsdk is used."""
    expected = 0
    for salt_and_jump, data in segments(folder):
        at = 64
        while at < len(data):
            magic, crc, length, count, base, base_ms, _, body_crc, _, width, producer, sequence, _ = struct.unpack_from(
                "<4sIIIQqqIHHQII", data, at
            )
            body = data[at + 64 : at + 64 + length]
            assert (magic, crc) == (b"MQB1", zlib.crc32(data[at + 8 : at + 64], salt_and_jump >> 1))
            assert base == expected or (at == 64 and salt_and_jump & 1)
            expected, at = base + count, at + 64 + length
            if zlib.crc32(body) != body_crc:
                yield Seen(base, base + count)
                continue
            place = count * width
            for index in range(count):
                delta, value, key, block, _, attempt = struct.unpack_from("<iIIIHH", body, index * width)
                sizes = [0 if size == 0xFFFFFFFF else size for size in (key, block, value)]
                starts = [place, place + sizes[0], place + sizes[0] + sizes[1]]
                parts = [body[start : start + size] for start, size in zip(starts, sizes, strict=True)]
                place = starts[2] + sizes[2]
                name = None if key == 0xFFFFFFFF else parts[0]
                number = sequence + index if producer else 0
                yield Seen(base + index, None, name, parts[2], base_ms + delta, attempt, tuple(pairs(parts[1])), producer, number)
            assert place == length


def pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 2
    for _ in range(struct.unpack_from("<H", block)[0] if block else 0):
        name, value = struct.unpack_from("<HI", block, at)
        yield block[at + 6 : at + 6 + name], block[at + 6 + name : at + 6 + name + value]
        at += 6 + name + value


def test_a_reader_written_from_the_page_reads_it(golden: Path) -> None:
    for (topic, number), expected in EXPECTED.items():
        assert list(plainly(golden / "topics" / topic / str(number))) == expected


# --- the log of the codec: what is read, and not written by this version -------------------------------------------------------------


def test_the_log_with_a_compressed_batch_and_an_index_is_read_for_ever(tmp_path: Path) -> None:
    root = tmp_path / "log"
    shutil.copytree(HERE / "format_1_codec", root)
    with Log.open(root, create=False) as log:
        assert log.topics() == ["golden"]
        partition = log.topic("golden").partition(0)
        assert (partition.start(), partition.end()) == (0, 7)
        found = read(log, "golden", 0)
    base = NOW_MS
    assert [(one.position, one.key, one.value, one.time_ms - base, one.attempt, one.producer, one.sequence) for one in found] == [
        (0, None, b"hello", 0, 1, 0, 0),
        (1, b"a", b"one", 5, 1, 77, 40),
        (2, b"", b"", -7, 3, 77, 41),
        (3, b"b", b"three", 6, 1, 77, 42),
        (4, b"z", b"zip" * 50, 10, 1, 0, 0),
        (5, b"z", b"zip" * 50, 10, 1, 0, 0),
        (6, b"k", b"last", 20, 1, 0, 0),
    ]
    assert found[1].headers == ((b"content-type", b"text/plain"), (b"empty", b""))
    name = f"topics/golden/0/{0:020d}.log"
    assert (root / name).read_bytes() == (HERE / "format_1_codec" / name).read_bytes()
    (verdict,) = mqsdk(root, "verify")
    assert (verdict["records"], verdict["problems"]) == (7, 0)
