"""Handlers that wait a millisecond: eight threads, a hundred tasks."""

from __future__ import annotations

import asyncio
import time

from handlers import filled
from harness import Case, Counter, Metric, rate

THREADS, TASKS = 16_000, 60_000


def threads() -> dict[str, float]:
    from mqsdk import App

    filled(THREADS)
    app, counter = App(), Counter()

    @app.consumer("bench", group="sleepers", concurrency=8)
    def handle(payload: bytes) -> None:
        time.sleep(0.001)
        counter.tick()

    with app:
        app.start()
        return {"sleep_1ms_8_threads": rate(lambda: counter.value, THREADS)}


def tasks() -> dict[str, float]:
    from mqsdk import App

    filled(TASKS)
    app, counter = App(), Counter()

    @app.consumer("bench", group="sleepers", concurrency=100)
    async def handle(payload: bytes) -> None:
        await asyncio.sleep(0.001)
        counter.tick()

    with app:
        app.start()
        return {"sleep_1ms_100_tasks": rate(lambda: counter.value, TASKS)}


CASES = (
    Case("threads", threads, (Metric("sleep_1ms_8_threads", "/s", 0.75 * 8_000),)),
    Case("tasks", tasks, (Metric("sleep_1ms_100_tasks", "/s", 20_000),)),
)
