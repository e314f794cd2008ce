"""What the benchmark modules share: how a case is declared, the payload, and waiting for a counter."""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

PAYLOAD = (b'{"order":"7f3a9c","customer":"c-10442","items":[{"sku":"A-1","n":2},{"sku":"B-7","n":1}],"cents":12950,"note":"' + b"x" * 120)[
    :120
]

SCALE = "BENCH_SCALE"  # what the counts of the log's benchmarks are multiplied by; see `scaled`


@dataclass(frozen=True)
class Metric:
    """One figure of a case. `target`: at least (or at most) so much; None: for comparison only. `over`: what it is divided by.

    musts: what it is divided by, and the ratio that it must reach (or not pass).
    """

    name: str
    unit: str
    target: float | None = None
    at_most: bool = False
    over: tuple[str, ...] = ()
    musts: Mapping[str, float] = field(default_factory=dict)

    def met(self, value: float) -> bool | None:
        if self.target is None:
            return None
        return value <= self.target if self.at_most else value >= self.target


@dataclass(frozen=True)
class Case:
    """One measurement, run in a fresh process in an empty folder. `run` returns a value for each metric.

    broker: redis, rabbitmq or kafka: one that runs while cases need it, see `brokers`.
    """

    name: str
    run: Callable[[], dict[str, float]]
    metrics: tuple[Metric, ...]
    broker: str = ""


class Counter:
    """Counts calls from many threads at the price of one `next` (30 ns), so that a no-op handler stays one."""

    def __init__(self) -> None:
        self._numbers: Iterator[int] = itertools.count()
        self.tick = self._numbers.__next__

    @property
    def value(self) -> int:
        reduced: Any = self._numbers.__reduce__()
        return int(reduced[1][0])


def rate(value: Callable[[], int], total: int, timeout_s: float = 120.0, every_s: float = 0.002) -> float:
    """Steps a second of a counter that runs up to `total`, from its first step seen to its last."""
    deadline = time.monotonic() + timeout_s
    while value() == 0:
        _pause(every_s, deadline)
    first, began = value(), time.perf_counter()
    while value() < total:
        _pause(every_s, deadline)
    return (total - first) / (time.perf_counter() - began)


def _pause(every_s: float, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError("the benchmark did not end in time")
    time.sleep(every_s)


def scaled(count: int, least: int = 1) -> int:
    """`count`, or less where only a look at whether all of it runs is wanted (`run.py --scale`)."""
    return max(least, round(count * float(os.environ.get(SCALE, "1"))))


def alternated(works: Mapping[str, Callable[[], float]], slices: int = 5) -> dict[str, float]:
    """The median of what each returns; they take turns, so that a slow second of the machine falls on all of them."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(scaled(slices)):
        for name, work in works.items():
            found[name].append(work())
    return {name: statistics.median(values) for name, values in found.items()}


def quantile(values: Iterable[float], share: float) -> float:
    """The value that `share` (0 to 1) of them do not pass."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def timed(work: Callable[[], object], count: int) -> float:
    """`count` things done by one call of `work`, a second."""
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


async def rate_async(value: Callable[[], int], total: int, timeout_s: float = 120.0, every_s: float = 0.002) -> float:
    """As `rate`, for handlers of this thread's event loop."""
    deadline = time.monotonic() + timeout_s
    while value() == 0:
        await _pause_async(every_s, deadline)
    first, began = value(), time.perf_counter()
    while value() < total:
        await _pause_async(every_s, deadline)
    return (total - first) / (time.perf_counter() - began)


async def _pause_async(every_s: float, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError("the benchmark did not end in time")
    await asyncio.sleep(every_s)
