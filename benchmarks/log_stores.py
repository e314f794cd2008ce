"""Stores on a local disk that hold a backlog: ours, and four that keep messages in SQLite. Each fills, publishes one and takes one.

`fill` puts a backlog there by the statements with which the store itself publishes, in one transaction, because a million commits would
take up to an hour. Durability: a table of one's own and litequeue run with synchronous NORMAL, huey without fsync, its fastest setting and
the nearest to our `interval`; persist-queue has no setting and syncs with each commit.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from itertools import count as count_up
from itertools import repeat
from typing import Any

from handlers import filled, handled
from harness import PAYLOAD
from log_engine import Table


class Store(ABC):
    """One store in the working folder, under a name of its own; one thread.

    deepest: the largest backlog that it is measured with. keeps: what was taken can be taken again.
    """

    deepest = 1_000_000
    keeps = False

    @abstractmethod
    def __init__(self, name: str) -> None: ...

    @abstractmethod
    def fill(self, count: int) -> None: ...

    @abstractmethod
    def publish(self) -> None: ...

    @abstractmethod
    def take_rate(self, count: int, limit_s: float) -> float:
        """Messages a second, the oldest ones, each acknowledged; of `count` or of what there is time for."""


class Peer(Store):
    @abstractmethod
    def take(self) -> None: ...

    def take_rate(self, count: int, limit_s: float) -> float:
        done, began = 0, time.perf_counter()
        while done < count and time.perf_counter() - began < limit_s:
            self.take()
            done += 1
        return done / (time.perf_counter() - began)


class Sqlite(Peer):
    """The table that a team would write itself; the oldest row is selected and deleted in one transaction."""

    def __init__(self, name: str) -> None:
        self._table = Table(f"{name}.db")

    def fill(self, count: int) -> None:
        self._table.put([PAYLOAD] * count)

    def publish(self) -> None:
        self._table.put([PAYLOAD])

    def take(self) -> None:
        connection = self._table.connection
        connection.execute("BEGIN IMMEDIATE")
        found = connection.execute("SELECT id, body FROM messages ORDER BY id LIMIT 1").fetchone()
        connection.execute("DELETE FROM messages WHERE id = ?", (found[0],))
        connection.execute("COMMIT")


class PersistQueue(Peer):
    """persist-queue's SQLite queue with acknowledgement."""

    def __init__(self, name: str) -> None:
        from persistqueue import SQLiteAckQueue

        self._queue: Any = SQLiteAckQueue(name)

    def fill(self, count: int) -> None:
        queue = self._queue
        body = queue._serializer.dumps(PAYLOAD)
        with queue._putter as connection:
            connection.executemany(queue._sql_insert, repeat((body, time.time()), count))
        queue.total += count

    def publish(self) -> None:
        self._queue.put(PAYLOAD)

    def take(self) -> None:
        self._queue.ack(self._queue.get(block=False))


class LiteQueue(Peer):
    """litequeue: a status column with an index."""

    def __init__(self, name: str) -> None:
        from litequeue import LiteQueue as Queue

        self._queue: Any = Queue(f"{name}.db")
        self._text = PAYLOAD.decode()

    def fill(self, count: int) -> None:
        with self._queue.transaction():
            for _ in range(count):
                self._queue.put(self._text)

    def publish(self) -> None:
        self._queue.put(self._text)

    def take(self) -> None:
        self._queue.done(self._queue.pop().message_id)


class Huey(Peer):
    """huey's SQLite storage, by its task queue: a task is dequeued and executed."""

    def __init__(self, name: str) -> None:
        from huey import SqliteHuey

        self._queue: Any = SqliteHuey(name, filename=f"{name}.db", fsync=False, results=False)
        self._task: Any = self._queue.task()(_noop)

    def fill(self, count: int) -> None:
        storage = self._queue.storage
        row = (storage.name, self._queue.serialize_task(self._task.s(PAYLOAD)), 0)
        with storage.db(commit=True) as cursor:
            cursor.executemany("insert into task (queue, data, priority) values (?, ?, ?)", repeat(row, count))

    def publish(self) -> None:
        self._task(PAYLOAD)

    def take(self) -> None:
        self._queue.execute(self._queue.dequeue())


def _noop(payload: bytes) -> None:
    """The task."""


class Log(Store):
    """A topic of the embedded log by the whole SDK, its settings left alone. app: set before `publish`."""

    deepest = 10_000_000
    keeps = True
    app: Any = None

    def __init__(self, name: str) -> None:
        self.topic = name
        self._groups = (f"taker-{number}" for number in count_up())

    def fill(self, count: int) -> None:
        filled(count, self.topic)

    def publish(self) -> None:
        self.app.publish(self.topic, PAYLOAD)

    def take_rate(self, count: int, limit_s: float) -> float:
        """By a no-op handler of a new group each time, which begins with the oldest message and sees the whole backlog."""
        return handled(self.topic, next(self._groups), count)
