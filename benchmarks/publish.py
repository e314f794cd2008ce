"""Publishing 120-byte payloads from one thread, one by one and by the hundred, against a loop of plain write() calls."""

from __future__ import annotations

import os

from harness import PAYLOAD, Case, Metric, timed

ONE_BY_ONE, MANY, HUNDRED = 60_000, 500_000, 100


def one_by_one() -> dict[str, float]:
    from mqsdk import App

    with App() as app:
        app.publish("bench", PAYLOAD)  # opens

        def work() -> None:
            for _ in range(ONE_BY_ONE):
                app.publish("bench", PAYLOAD)

        return {"publish": timed(work, ONE_BY_ONE)}


def many() -> dict[str, float]:
    from mqsdk import App

    items = [PAYLOAD] * HUNDRED
    with App() as app:
        app.publish("bench", PAYLOAD)

        def work() -> None:
            for _ in range(MANY // HUNDRED):
                app.publish_many("bench", items)

        return {"publish_many": timed(work, MANY)}


def raw() -> dict[str, float]:
    file = os.open("raw", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def single() -> None:
        for _ in range(ONE_BY_ONE):
            os.write(file, PAYLOAD)

    def hundred() -> None:
        for _ in range(MANY // HUNDRED):
            os.write(file, b"".join([PAYLOAD] * HUNDRED))

    return {"raw_write": timed(single, ONE_BY_ONE), "raw_write_100": timed(hundred, MANY)}


CASES = (
    Case("publish", one_by_one, (Metric("publish", "/s", 60_000, over=("raw_write", "huey_publish", "persist_queue_put")),)),
    Case("publish-many", many, (Metric("publish_many", "/s", 500_000, over=("raw_write_100",)),)),
    Case("raw-write", raw, (Metric("raw_write", "/s"), Metric("raw_write_100", "/s"))),
)
