"""The engine of the log against its limits: appends beside `write` in C, SQLite in WAL mode and Redis, reading beside `pread` and crc32.

One process, one partition of a log of its own in each case, slices of what is compared in turn. What has to be reached is said with each
metric; the figures are those of the engine without the SDK, which `log_sdk` holds against them.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import brokers
from harness import Case, Metric, alternated, quantile, scaled, timed
from raw_writes import Writes

if TYPE_CHECKING:
    from mqsdk_log.engine.log import Log
    from mqsdk_log.engine.partition import PartitionLog

SLICE_BYTES = 60 << 20  # more would measure the disk
APPENDS = {1: 20_000, 10: 8_000, 100: 2_000, 1000: 300}  # of a slice
# Of the rate of `write` in C, by bytes of a message and messages of an append.
WRITE_SHARE = {
    100: {1: 0.09, 10: 0.12, 100: 0.16, 1000: 0.11},
    1024: {1: 0.14, 10: 0.28, 100: 0.29, 1000: 0.27},
    16384: {1: 0.22, 10: 0.31, 100: 0.37},
}
READ_SHARE = {100: 0.07, 1024: 0.28, 16384: 0.35}  # of the rate of pread and crc32
READ = {100: 400_000, 1024: 100_000, 16384: 8_000}
PART = "bench"
Durability = Literal["none", "interval", "always"]


def noop(value: bytes) -> None:
    """What a consumer does with a message here."""


@contextmanager
def opened(durability: Durability, partitions: int = 1, path: str = "log") -> Iterator[Log]:
    """A log in this folder that goes with the block."""
    from mqsdk_log.engine.log import Log

    with Log.open(path, durability=durability) as log:
        log.create_topic(PART, partitions)
        yield log
    shutil.rmtree(path)


def appends(partition: PartitionLog, size: int, batch: int, count: int, each: Callable[[float], object] | None = None) -> float:
    """Messages a second of `count` appends. each: told the seconds of every one."""
    records = [(None, b"", bytes(size), 0, 0, 1)] * batch
    clock, stamp = time.perf_counter, time.time_ns
    began = before = clock()
    for _ in range(count):
        partition.append(records, timestamp_ms=stamp() // 1_000_000)
        if each is not None:
            now = clock()
            each(now - before)
            before = now
    return count * batch / (clock() - began)


def appends_of(size: int, batch: int) -> int:
    return scaled(max(1, min(APPENDS[batch], SLICE_BYTES // (size * batch))))


# --- publishing -----------------------------------------------------------------------------------------------------------------------


def publish(size: int) -> dict[str, float]:
    found: dict[str, float] = {}
    writes = Writes()
    for batch in WRITE_SHARE[size]:
        count = appends_of(size, batch)
        with opened("none") as log:
            raw = partial(_raw_rate, writes, size, batch, count)
            ours = partial(appends, log.topic(PART).partition(0), size, batch, count)
            found |= alternated({f"log_{size}x{batch}": ours, f"write_{size}x{batch}": raw})
    return found


def _raw_rate(writes: Writes, size: int, batch: int, count: int, sync: bool = False) -> float:
    return count * batch / writes.seconds(size * batch, count, sync)


def publish_case(size: int) -> Case:
    metrics = []
    for batch, share in WRITE_SHARE[size].items():
        raw = f"write_{size}x{batch}"
        metrics += [Metric(f"log_{size}x{batch}", "/s", musts={raw: share}), Metric(raw, "/s")]
    return Case(f"log-publish-{size}", partial(publish, size), tuple(metrics))


class Table:
    """What a team would write itself: one table in SQLite, WAL, synchronous NORMAL, a commit for each publish."""

    def __init__(self, path: str) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = NORMAL")
        self.connection.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, body BLOB NOT NULL)")

    def put(self, bodies: list[bytes]) -> None:
        if len(bodies) == 1:
            self.connection.execute("INSERT INTO messages (body) VALUES (?)", (bodies[0],))
            return
        self.connection.execute("BEGIN")
        self.connection.executemany("INSERT INTO messages (body) VALUES (?)", ((body,) for body in bodies))
        self.connection.execute("COMMIT")

    def after(self, last: int, count: int) -> list[tuple[int, bytes]]:
        query = "SELECT id, body FROM messages WHERE id > ? ORDER BY id LIMIT ?"
        return self.connection.execute(query, (last, count)).fetchall()


def against_sqlite() -> dict[str, float]:
    found: dict[str, float] = {}
    for size in (100, 1024):
        for batch in (1, 100):
            count = scaled(4_000 if batch == 1 else 400)
            table = Table(f"{size}-{batch}.db")
            bodies = [bytes(size)] * batch
            work = partial(_repeat, partial(table.put, bodies), count, batch)
            with opened("none") as log:
                ours = partial(appends, log.topic(PART).partition(0), size, batch, count)
                found |= alternated({f"log_beside_sqlite_{size}x{batch}": ours, f"sqlite_{size}x{batch}": work})
            table.connection.close()
    return found


def _repeat(work: Callable[[], object], count: int, batch: int) -> float:
    def all_of_it() -> None:
        for _ in range(count):
            work()

    return timed(all_of_it, count * batch)


def sqlite_metrics() -> Iterator[Metric]:
    for size in (100, 1024):
        for batch, times in ((1, 3.0), (100, 5.0)):
            peer = f"sqlite_{size}x{batch}"
            yield Metric(f"log_beside_sqlite_{size}x{batch}", "/s", musts={peer: times})
            yield Metric(peer, "/s")


def against_redis() -> dict[str, float]:
    """XADD one by one and by pipelines of a hundred; XREAD of a thousand. AOF everysec."""
    import redis

    found: dict[str, float] = {}
    with redis.Redis.from_url(f"redis://{brokers.address()}") as client, opened("none") as log:
        partition = log.topic(PART).partition(0)
        for batch, count in ((1, scaled(3_000)), (100, scaled(200))):
            theirs = partial(_repeat, partial(_add, client, batch), count, batch)
            found |= alternated({f"log_beside_redis_x{batch}": partial(appends, partition, 100, batch, count), f"xadd_x{batch}": theirs})
        found |= alternated({"log_read_beside_redis": partial(read, partition), "xread_1000": partial(_read_stream, client)})
    return found


def _add(client: Any, batch: int) -> None:
    if batch == 1:
        client.xadd("bench", {"p": bytes(100)})
        return
    with client.pipeline(transaction=False) as pipeline:
        for _ in range(batch):
            pipeline.xadd("bench", {"p": bytes(100)})
        pipeline.execute()


def _read_stream(client: Any) -> float:
    count, last, began = 0, b"0", time.perf_counter()
    while answer := client.xread({"bench": last}, count=1000):
        ((_, entries),) = answer.items() if isinstance(answer, dict) else answer
        for _, fields in entries:
            noop(fields[b"p"])
        count, last = count + len(entries), entries[-1][0]
    return count / (time.perf_counter() - began)


# --- durability -----------------------------------------------------------------------------------------------------------------------


def durability() -> dict[str, float]:
    found: dict[str, float] = {}
    lone = appends_of(100, 1)
    with opened("none", path="a") as first, opened("interval", path="b") as second:
        works = {
            "log_none": partial(appends, first.topic(PART).partition(0), 100, 1, lone),
            "log_interval": partial(appends, second.topic(PART).partition(0), 100, 1, lone),
        }
        found |= alternated(works)
    syncs, writes = scaled(1_000, 40), Writes()
    with opened("always") as log:
        partition = log.topic(PART).partition(0)
        waits: list[float] = []
        works = {
            "write_fdatasync": partial(_raw_rate, writes, 100, 1, syncs, True),
            "log_always": partial(appends, partition, 100, 1, syncs),
            "log_always_16_threads": partial(_threads, partition, max(1, syncs // 8), waits),
        }
        found |= alternated(works)
    return found | {"always_16_p99": quantile(waits, 0.99) * 1000, "always_16_p50": quantile(waits, 0.5) * 1000}


def _threads(partition: PartitionLog, count: int, waits: list[float]) -> float:
    """Sixteen of them, `count` appends each."""
    threads = [threading.Thread(target=appends, args=(partition, 100, 1, count, waits.append)) for _ in range(16)]

    def work() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return timed(work, 16 * count)


# --- reading --------------------------------------------------------------------------------------------------------------------------


def read(partition: PartitionLog) -> float:
    """All of it, from the beginning, each value to a function that does nothing: messages a second."""
    reader = partition.reader(partition.start())
    count, began = 0, time.perf_counter()
    while found := reader.read(1000, 1 << 24):
        for record in found:
            noop(record.value)
        count += len(found)
    seconds = time.perf_counter() - began
    reader.close()
    return count / seconds


def consume(size: int) -> dict[str, float]:
    count = scaled(READ[size], 100)
    with opened("none") as log:
        partition = log.topic(PART).partition(0)
        appends(partition, size, 100, count // 100)
        works = {f"log_read_{size}": partial(read, partition), f"pread_{size}": partial(_pread, "log", count)}
        if size == 100:
            table = Table("read.db")
            table.put([bytes(size)] * count)
            works["select_1000"] = partial(_select, table)
        return alternated(works, slices=3)


def _pread(path: str, count: int) -> float:
    """Every byte of the segments, checksummed: what reading costs at the least."""
    names = [os.path.join(top, name) for top, _, names in os.walk(path) for name in names if name.endswith(".log")]

    def work() -> None:
        for name in names:
            fd, position = os.open(name, os.O_RDONLY), 0
            while data := os.pread(fd, 1 << 16, position):
                zlib.crc32(data)
                position += len(data)
            os.close(fd)

    return timed(work, count)


def _select(table: Table) -> float:
    count, last, began = 0, 0, time.perf_counter()
    while found := table.after(last, 1000):
        for _, body in found:
            noop(body)
        count, last = count + len(found), found[-1][0]
    return count / (time.perf_counter() - began)


def consume_case(size: int) -> Case:
    raw = f"pread_{size}"
    musts: Mapping[str, float] = {raw: READ_SHARE[size]} | ({"select_1000": 1.2} if size == 100 else {})
    further = (Metric("select_1000", "/s"),) if size == 100 else ()
    return Case(f"log-read-{size}", partial(consume, size), (Metric(f"log_read_{size}", "/s", musts=musts), Metric(raw, "/s"), *further))


CASES = (
    *map(publish_case, WRITE_SHARE),
    Case("log-sqlite", against_sqlite, tuple(sqlite_metrics())),
    Case(
        "log-redis",
        against_redis,
        (
            Metric("log_beside_redis_x1", "/s", musts={"xadd_x1": 6}),
            Metric("xadd_x1", "/s"),
            Metric("log_beside_redis_x100", "/s", musts={"xadd_x100": 10}),
            Metric("xadd_x100", "/s"),
            Metric("log_read_beside_redis", "/s", musts={"xread_1000": 2}),
            Metric("xread_1000", "/s"),
        ),
        broker="redis",
    ),
    Case(
        "log-durability",
        durability,
        (
            Metric("log_none", "/s"),
            Metric("log_interval", "/s", musts={"log_none": 0.9}),
            Metric("write_fdatasync", "/s"),
            Metric("log_always", "/s", musts={"write_fdatasync": 0.7}),
            Metric("log_always_16_threads", "/s", musts={"log_always": 2.5}),
            Metric("always_16_p50", "ms"),
            Metric("always_16_p99", "ms", at_most=True, musts={"always_16_p50": 3}),
        ),
    ),
    *map(consume_case, READ_SHARE),
)
