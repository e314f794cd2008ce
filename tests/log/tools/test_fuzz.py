"""Bytes from outside: whatever a file of a log holds, who reads it gets records or an error by name, soon, and with bounded memory.

A case is a seed: a small log, some of its files changed (with checksums made right again in half of the cases, as a hostile writer would),
then everything that reads is let loose on it. `FUZZ_SEED=n` runs one case; with SOAK_SECONDS new cases are made for so long.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mqsdk_log.engine import cursors, files, index
from mqsdk_log.engine import format as fmt
from mqsdk_log.engine.errors import CorruptRange, LogError, OutOfRange
from mqsdk_log.engine.groups import Group
from mqsdk_log.engine.log import Log
from mqsdk_log.engine.reader import LogRecord
from mqsdk_log.engine.shared import Limits
from mqsdk_log.records import LogRecord as SdkRecord
from mqsdk_log.tools import verify
from mqsdk_log.tools.survey import Root

from mqsdk.cli.main import cli

CASES = 120
CASE_S = 10.0  # a case takes some 20 ms; three times what one could take on a machine that does something else
PEAK_BYTES = 96 << 20  # a batch of 8 MiB is held some times over; nothing is allocated by a number that a file claims
NAMED = (LogError, OSError)
INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


HOSTILE_JSON = (
    b"[" * 100_000,
    b'{"version": 1, "partitions": Infinity, "uuid": "' + b"00" * 16 + b'"}',
    b'{"version": 1, "partitions": 1e18, "uuid": 5}',
    b"null",
    b'{"0": [["a", 2]]}',
    b'{"0": 5}',
    b'{"generation": 1e999, "assign": {"orders": []}}',
    b'{"topics": 5, "lease_s": "x"}',
    b"\xff\xfe",
    b"9" * 5000,
)


@pytest.fixture(scope="module")
def seed_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every case starts from."""
    root = tmp_path_factory.mktemp("fuzz") / "root"
    with Log.open(root, limits=Limits(segment_bytes=500, min_free_bytes=0)) as log:
        partition: Any = log.create_topic("orders", 1).partition(0)
        block = fmt.encode_headers([(b"mq-id", b"id"), (b"mq-due", b"7"), (b"name", b"value")])
        for number in range(8):
            partition.append([(b"key", block, b"value %d" % number, 0, 0, 1)] * 3, timestamp_ms=number, producer_id=7, producer_seq=number)
        partition.delays.put([(b"k", block, b"later", 0, 0, 1)] * 3, [5_000_000_000_000] * 3, timestamp_ms=1)
        partition.delays.checkpoint()
    group = Group(root, "billing")
    group.ensure("orders", [0])
    file = group.cursors("orders")
    file.store(0, file.read(0)._replace(watermark=4, sparse=b"sparse"))
    file.close()
    (root / "topics/orders/damage.json").write_text('{"0": [[3, 6]]}')
    (root / "groups/billing/assign.json").write_text('{"generation": 1, "assign": {"orders": {"0": "m"}}}')
    (root / "groups/billing/members/m.json").write_text('{"topics": ["orders"], "lease_s": 10, "host": "h", "pid": 1}')
    return root


# --- changing ------------------------------------------------------------------------------------------------------------------------


def flipped(data: bytearray, source: random.Random) -> None:
    for _ in range(source.randint(1, 6)):
        if data:
            data[source.randrange(len(data))] ^= 1 << source.randrange(8)


def numbered(data: bytearray, source: random.Random) -> None:
    """A number of some width set to one that is often forgotten."""
    width = source.choice((1, 2, 4, 8))
    if len(data) >= width:
        at = source.randrange(len(data) - width + 1)
        data[at : at + width] = (source.choice(INTERESTING) & ((1 << 8 * width) - 1)).to_bytes(width, "little")


def cut(data: bytearray, source: random.Random) -> None:
    del data[source.randrange(len(data) + 1) :]


def doubled(data: bytearray, source: random.Random) -> None:
    at = source.randrange(len(data) + 1)
    data[at:at] = data[source.randrange(len(data) + 1) :][: source.randint(0, 300)]


def noise(data: bytearray, source: random.Random) -> None:
    data[:] = source.randbytes(source.choice((0, 1, 7, 64, 200, len(data))))


def nested(data: bytearray, source: random.Random) -> None:
    """For files that are JSON; noise for others."""
    data[:] = source.choice(HOSTILE_JSON)


CHANGES: tuple[Callable[[bytearray, random.Random], None], ...] = (flipped, numbered, numbered, cut, doubled, noise, nested)


def made_right(data: bytearray) -> None:
    """Checksums of a segment as its present bytes want them, batch after batch as far as there are any."""
    if len(data) < 64:
        return
    struct.pack_into("<I", data, 60, zlib.crc32(data[:60]))
    salt = int.from_bytes(data[12:16], "little")
    at = data.find(b"MQB1", 64)
    while at >= 0 and at + 64 <= len(data):
        length = int.from_bytes(data[at + 8 : at + 12], "little")
        struct.pack_into("<I", data, at + 40, zlib.crc32(data[at + 64 : at + 64 + length]))
        struct.pack_into("<I", data, at + 4, zlib.crc32(data[at + 8 : at + 64], salt))
        at = data.find(b"MQB1", at + 4)


def change(root: Path, source: random.Random) -> list[str]:
    """Change one to three files; their names."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size)
    changed = []
    for path in source.sample(files, min(len(files), source.randint(1, 3))):
        data = bytearray(path.read_bytes())
        source.choice(CHANGES)(data, source)
        if path.suffix == ".log" and source.random() < 0.6:
            made_right(data)
        path.write_bytes(data)
        changed.append(str(path.relative_to(root)))
    return changed


# --- reading -------------------------------------------------------------------------------------------------------------------------


def everything(root: Path) -> None:
    """All that reads files of others. Raises nothing but errors by name, which are expected here."""
    for attempt in (look, work, settled, verified):
        with suppress(*NAMED):
            attempt(root)


def look(root: Path) -> None:
    """The tools, through the door that people use: any other exception would be a defect (70)."""
    for words in (("verify",), ("dump", "orders", "--body"), ("dump", "orders", "--delayed"), ("ls", "orders"), ("ls",)):
        found = CliRunner().invoke(cli, ["log", *words, "--root", str(root), "--json"])
        assert found.exit_code in (0, 1, 4, 5, 6), (words, found.output, found.exception)


def verified(root: Path) -> None:
    """Once more, after whatever a recovery and an append have made of it."""
    opened = Root(root)
    try:
        verify.topic(opened, "orders", lambda _more: None)
    finally:
        opened.close()


def work(root: Path) -> None:
    """Recovery, reading from every place, by offset and by time, what is delayed, and appending."""
    with Log.open(root, limits=Limits(segment_bytes=500, min_free_bytes=0), create=False) as log:
        partition: Any = log.topic("orders").partition(0)
        for record_class in (LogRecord, SdkRecord):
            for record in records(partition, record_class):
                assert isinstance(record.value, bytes)
                if record_class is SdkRecord:
                    assert isinstance(record.id, str | None)
        for time_ms in (-1, 0, 3, 1 << 62):
            partition.locate(time_ms)
        with suppress(*NAMED):
            partition.append([(None, b"", b"more", 0, 0, 1)], timestamp_ms=9)
        partition.delays.waiting()
        partition.move(6_000_000_000_000)


def records(partition: Any, record_class: type[Any]) -> Iterator[Any]:
    reader = partition.reader(partition.start(), record_class)
    steps = 0
    try:
        while True:
            steps += 1
            assert steps < 1000, "it goes round in circles"
            try:
                found = reader.read(100, 1 << 20)
            except CorruptRange as error:
                reader.seek(max(error.stop, error.start + 1))
            except OutOfRange as error:
                if error.first <= reader.position:
                    return
                reader.seek(error.first)
            else:
                if not found:
                    return
                yield from found
    finally:
        reader.close()


def settled(root: Path) -> None:
    """The progress of a group."""
    group = Group(root, "billing")
    group.assignment()
    group.living("orders")
    cursors.highest(root, "orders", 0)
    group.progress("orders")


def run(seed: int, seed_log: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(seed_log, place, ignore=shutil.ignore_patterns("wake"))
    changed = change(place, random.Random(seed))
    began = time.monotonic()
    try:
        everything(place)
    except Exception as error:
        raise AssertionError(f"FUZZ_SEED={seed}: {type(error).__name__} after changing {changed}") from error
    assert time.monotonic() - began < CASE_S, f"FUZZ_SEED={seed}: too long after changing {changed}"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for a live writer need not wait here; what is synced need not reach a disk."""
    monkeypatch.setattr(verify, "PAUSE_S", 0.0)
    monkeypatch.setattr(files, "sync_data", lambda fd: None)
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def test_whatever_the_files_hold_reading_ends_by_name(seed_log: Path, tmp_path: Path) -> None:
    if os.environ.get("FUZZ_SEED"):
        run(int(os.environ["FUZZ_SEED"]), seed_log, tmp_path / "root")
        return
    soak_s = float(os.environ.get("SOAK_SECONDS", "0"))
    deadline = time.monotonic() + soak_s
    first = random.SystemRandom().randrange(1 << 32) if soak_s else 0
    seed = first
    while seed < first + CASES or time.monotonic() < deadline:
        run(seed, seed_log, tmp_path / "root")
        seed += 1
    if soak_s:
        print(f"{seed - first:,} cases from FUZZ_SEED={first}")


def test_an_offset_that_no_reference_can_name_ends_nothing(seed_log: Path, tmp_path: Path) -> None:
    """Of a batch in a band, all checksums right: whoever asked what is delayed got a ValueError."""
    root = tmp_path / "root"
    shutil.copytree(seed_log, root, ignore=shutil.ignore_patterns("wake"))
    (path,) = (root / "topics/orders/delay").glob("*/0/*.log")
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, 64 + 16, 1 << 52)
    made_right(data)
    path.write_bytes(data)
    (path.parent / "checkpoint").unlink()
    (root / "topics/orders/delay/0.due").unlink()
    with Log.open(root, create=False, limits=Limits(min_free_bytes=0)) as log:
        delays: Any = log.topic("orders").partition(0).delays
        assert delays.waiting() == 0


def test_memory_does_not_follow_the_numbers_that_files_claim(seed_log: Path, tmp_path: Path) -> None:
    """Cases that set large numbers, under a count of what is allocated."""
    tracemalloc.start()
    try:
        for seed in range(1000, 1015):
            place = tmp_path / "root"
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(seed_log, place, ignore=shutil.ignore_patterns("wake"))
            source = random.Random(seed)
            for path in sorted(place.rglob("*.log")):
                data = bytearray(path.read_bytes())
                for _ in range(4):
                    numbered(data, source)
                made_right(data)
                path.write_bytes(data)
            tracemalloc.reset_peak()
            everything(place)
            assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES, f"seed {seed}"
    finally:
        tracemalloc.stop()


def test_an_index_with_any_entries_leads_nowhere_but_to_batches(seed_log: Path, tmp_path: Path) -> None:
    source = random.Random(1)
    root = tmp_path / "root"
    shutil.copytree(seed_log, root, ignore=shutil.ignore_patterns("wake"))
    (path, *_) = sorted((root / "topics/orders/0").glob("*.log"))
    directory = files.open_dir(path.parent)
    fd = files.open_read(path.name, directory)
    header = fmt.decode_segment_header(path.read_bytes())
    positions = {at for at in range(64, path.stat().st_size) if path.read_bytes()[at : at + 4] == b"MQB1"} | {path.stat().st_size}
    try:
        for _ in range(200):
            path.with_suffix(".idx").write_bytes(source.randbytes(source.randrange(64)))
            assert index.find(directory, fd, header, source.randrange(6), path.stat().st_size) in positions
    finally:
        files.close(fd)
        files.close(directory)
