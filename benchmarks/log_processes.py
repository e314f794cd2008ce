"""Two processes on one log beside one: each reads, or appends to, a partition of its own. They need a free core each."""

from __future__ import annotations

import multiprocessing
import time
from functools import partial
from multiprocessing.synchronize import Barrier
from typing import Any

from harness import Case, Metric, alternated, scaled
from log_engine import PART, appends, opened, read


def processes() -> dict[str, float]:
    """One and two processes that read or append, each a partition of its own; the rate of two is that of both together."""
    with opened("none", partitions=2) as log:
        for number in range(2):
            appends(log.topic(PART).partition(number), 100, 100, scaled(4_000))
        works = {f"{work}_{count}": partial(_together, work, count) for work in ("readers", "producers") for count in (1, 2)}
        return alternated(works, slices=3)


def _together(work: str, count: int) -> float:
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(count), context.SimpleQueue()
    started = [context.Process(target=_alone, args=(work, number, barrier, answers)) for number in range(count)]
    for process in started:
        process.start()
    found = [answers.get() for _ in started]
    for process in started:
        process.join()
    return float(sum(done for done, _, _ in found) / (max(end for _, _, end in found) - min(begin for _, begin, _ in found)))


def _alone(work: str, number: int, barrier: Barrier, answers: Any) -> None:
    from mqsdk_log.engine.log import Log

    with Log.open("log", durability="none") as log:
        partition = log.topic(PART).partition(number)
        if work == "producers":
            appends(partition, 100, 1, 100)  # warm
        barrier.wait(60)
        began = time.monotonic()
        done = scaled(40_000)
        if work == "readers":
            done = partition.end()
            read(partition)
        else:
            appends(partition, 100, 1, done)
        answers.put((done, began, time.monotonic()))


CASES = (
    Case(
        "log-processes",
        processes,
        (
            Metric("readers_1", "/s"),
            Metric("readers_2", "/s", musts={"readers_1": 1.7}),
            Metric("producers_1", "/s"),
            Metric("producers_2", "/s", musts={"producers_1": 1.7}),
        ),
    ),
)
