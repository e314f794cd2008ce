"""The same job by two libraries that keep messages on local disk: huey on SQLite, persist-queue with acknowledgement.

huey runs without fsync, its fastest setting and the nearest to our `durability: interval`; its default, a sync per commit, is far slower.
"""

from __future__ import annotations

from harness import PAYLOAD, Case, Counter, Metric, rate, timed

HUEY, PERSIST = 8_000, 3_000


def huey() -> dict[str, float]:
    from huey import SqliteHuey

    queue = SqliteHuey("bench", filename="huey.db", fsync=False)
    counter = Counter()

    @queue.task()  # type: ignore[untyped-decorator]
    def noop(payload: bytes) -> None:
        counter.tick()

    def work() -> None:
        for _ in range(HUEY):
            noop(PAYLOAD)

    published = timed(work, HUEY)
    consumer = queue.create_consumer(workers=1, periodic=False, initial_delay=0.001)
    consumer.start()
    handled = rate(lambda: counter.value, HUEY)
    consumer.stop(graceful=True)
    return {"huey_publish": published, "huey_handle": handled}


def persist_queue() -> dict[str, float]:
    from persistqueue import SQLiteAckQueue

    queue = SQLiteAckQueue("persist", auto_commit=True)

    def put() -> None:
        for _ in range(PERSIST):
            queue.put(PAYLOAD)

    def get() -> None:
        for _ in range(PERSIST):
            queue.ack(queue.get())

    return {"persist_queue_put": timed(put, PERSIST), "persist_queue_get_ack": timed(get, PERSIST)}


CASES = (
    Case("huey", huey, (Metric("huey_publish", "/s"), Metric("huey_handle", "/s"))),
    Case("persist-queue", persist_queue, (Metric("persist_queue_put", "/s"), Metric("persist_queue_get_ack", "/s"))),
)
