"""Looking at the file and arranging it. Thread-safe: nothing is kept between two calls."""

import time
from datetime import datetime
from math import inf

from mqsdk import spi
from mqsdk_sqlite.store import ALIVE, OURS, READ, Store, record_of

# The first record published at or after a time, else the end.
SINCE = "coalesce((SELECT min(position) FROM records r WHERE r.topic = p.topic AND r.partition = p.partition AND time_ms >= ?), end)"
PROGRESS = f"""SELECT partition, watermark, end, end - max(watermark, start), NULL, start, epoch
    FROM cursors JOIN bounds USING (topic, partition) WHERE {OURS} ORDER BY partition"""


class SqliteAdmin(spi.Admin):
    def __init__(self, store: Store) -> None:
        self._store, self._rows = store, store.rows

    def ensure_topic(self, topic: str, partitions: int | None) -> int:
        with self._store.transaction() as db:
            (count,) = db.execute("SELECT count(*) FROM partitions WHERE topic = ?", (topic,)).fetchone()
            if not count:
                count = partitions = partitions or 8
                db.executemany("INSERT INTO partitions (topic, partition) VALUES (?, ?)", [(topic, number) for number in range(count)])
        if partitions not in (None, count):
            raise spi.UnsafeBackend(f"`{topic}` has {count} partitions, not {partitions}", finding="partitions", where=self._store.where)
        return int(count)

    def partitions(self, topic: str) -> int | None:
        return self._rows("SELECT count(*) FROM partitions WHERE topic = ?", topic)[0][0] or None

    def ensure_group(self, topic: str, group: str, start: spi.Start = None) -> None:
        if self.partitions(topic) is None:
            raise spi.BackendError(f"there is no topic `{topic}`", where=self._store.where, fix="create it first, see `mqsdk topics`")
        since_ms = start.timestamp() * 1000 if isinstance(start, datetime) else inf if start == "latest" else -inf
        begin = f"SELECT topic, ?, partition, {SINCE} FROM partitions p WHERE topic = ?"
        self._rows(f"INSERT OR IGNORE INTO cursors (topic, grp, partition, watermark) {begin}", group, since_ms, topic)

    def topics(self) -> list[spi.TopicInfo]:
        rows = self._rows("SELECT topic, count(*), sum(end - start) FROM bounds GROUP BY topic ORDER BY topic")
        return [spi.TopicInfo(topic, count, tuple(info.group for info in self.groups(topic)), held) for topic, count, held in rows]

    def groups(self, topic: str) -> list[spi.GroupInfo]:
        names = self._rows("SELECT DISTINCT grp FROM cursors WHERE topic = ? ORDER BY grp", topic)
        alive = self._rows(f"SELECT grp, id FROM members WHERE topic = ? AND {ALIVE}", topic, time.monotonic())
        return [spi.GroupInfo(topic, name, tuple(spi.Member(member) for grp, member in alive if grp == name)) for (name,) in names]

    def progress(self, topic: str, group: str) -> list[spi.PartitionProgress]:
        return [spi.PartitionProgress(*row) for row in self._rows(PROGRESS, topic, group)]

    def read(self, topic: str, partition: int, position: int, limit: int) -> list[spi.Record]:
        return [record_of(row) for row in self._rows(READ, topic, partition, position, limit)]

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        ((start, end),) = self._rows("SELECT start, end FROM bounds WHERE topic = ? AND partition = ?", topic, partition)
        return start, end

    def locate(self, topic: str, partition: int, time_ms: int) -> int:
        return int(self._rows(f"SELECT {SINCE} FROM partitions p WHERE topic = ? AND partition = ?", time_ms, topic, partition)[0][0])

    def delete_topic(self, topic: str) -> None:
        self._delete(("records", "cursors", "partitions"), "topic = ?", topic)

    def delete_group(self, topic: str, group: str) -> None:
        self._delete(("cursors",), OURS, topic, group)

    def _delete(self, tables: tuple[str, ...], where: str, *values: str) -> None:
        with self._store.transaction() as db:
            if found := db.execute(f"SELECT grp FROM members WHERE {where} AND {ALIVE}", (*values, time.monotonic())).fetchone():
                raise spi.StateError(f"group `{found[0]}` has members in topic `{values[0]}`", where=self._store.where, state="active")
            for table in tables:
                db.execute(f"DELETE FROM {table} WHERE {where}", values)
