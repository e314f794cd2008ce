"""What layer 2 promises of itself: order over many keys, progress out of order, the shape of a published test, worker processes.

Ordered and unordered run over the same backlog of 10,000 keys. The shape is that of Confluent's test of its Parallel Consumer: 10,000
messages of one partition, 0 to 5 ms of work each, 100 at once, over 20, 100 and 1,000 keys; its figures are the bounds.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from harness import PAYLOAD, Case, Counter, Metric, rate

KEYED, MANY_KEYS = 100_000, 10_000
POSITIONS = 1_000_000
SHAPE, LONGEST_S, AT_ONCE = 10_000, 0.005, 100
SHAPES = {20: 2.24, 100: 2.1, 1_000: 2.06}  # keys -> seconds
CALLS, BURNS, BURN = 40_000, 1_000, 50_000
CONFIG = 'version: 1\napp: bench\ntopics: {"*": {partitions: 1}}\n'
WORK = f"""
def noop(payload: bytes) -> None: ...

def burn(payload: bytes) -> None:
    total = 0
    for number in range({BURN}):
        total += number
"""


def filled(count: int, keys: int) -> None:
    from mqsdk import App

    Path("mqsdk.yaml").write_text(CONFIG)
    Path("mqsdk.yaml").chmod(0o600)
    numbers, items = itertools.count(), [PAYLOAD] * 1000
    with App() as app:
        for _ in range(count // 1000):
            app.publish_many("bench", items, key=lambda _: f"k{next(numbers) % keys}")


def keyed(ordered: bool) -> float:
    from mqsdk import App

    filled(KEYED, MANY_KEYS)
    app, counter = App(), Counter()
    tick = counter.tick

    @app.consumer("bench", group="g", ordered=ordered)
    def noop(payload: bytes) -> None:
        tick()

    with app:
        app.start()
        return rate(lambda: counter.value, KEYED)


def watermark() -> dict[str, float]:
    from mqsdk.core.watermark import Watermark

    positions = list(range(POSITIONS))
    random.Random(1).shuffle(positions)
    mark = Watermark(0)
    began = time.perf_counter()
    for position in positions:
        mark.add(position, position + 1)
    took_s = time.perf_counter() - began
    assert mark.low == POSITIONS
    return {"watermark_random": 1e6 * took_s / POSITIONS}


def shape(keys: int) -> float:
    """Seconds from the first start to the last end."""
    from mqsdk import App

    filled(SHAPE, keys)
    app, counter, dice = App(), Counter(), random.Random(1)
    times: list[float] = []

    @app.consumer("bench", group="g", ordered=True, concurrency=AT_ONCE)
    async def work(payload: bytes) -> None:
        if not times:
            times.append(time.perf_counter())
        await asyncio.sleep(dice.uniform(0, LONGEST_S))
        counter.tick()

    with app:
        app.start()
        rate(lambda: counter.value, SHAPE)
        return time.perf_counter() - times[0]


def processes(handler: str, count: int, concurrency: int) -> float:
    from mqsdk import App

    filled(count, 100)
    Path("work.py").write_text(WORK)
    sys.path.insert(0, str(Path.cwd()))
    app = App()
    app.consumer("bench", group="g", isolation="process", concurrency=concurrency)(getattr(importlib.import_module("work"), handler))
    with app:
        app.start()
        return rate(lambda: app.consumers()[0].handled, count, every_s=0.01)


def case(name: str, run: Callable[[], float], metric: Metric) -> Case:
    return Case(name, lambda: {metric.name: run()}, (metric,))


CASES = (
    case("keyed", lambda: keyed(False), Metric("handler_keyed", "/s")),
    case("keyed-ordered", lambda: keyed(True), Metric("handler_keyed_ordered", "/s", musts={"handler_keyed": 0.7})),
    Case("watermark", watermark, (Metric("watermark_random", "us", 1.0, at_most=True),)),
    *(
        case(f"shape-{keys}", lambda keys=keys: shape(keys), Metric(f"shape_{keys}_keys", "s", most_s, at_most=True))  # type: ignore[misc]
        for keys, most_s in SHAPES.items()
    ),
    case("processes", lambda: processes("noop", CALLS, 2), Metric("processes_2", "/s", 10_000)),
    case("burn-1", lambda: processes("burn", BURNS, 1), Metric("burn_1_process", "/s")),
    case("burn-2", lambda: processes("burn", BURNS, 2), Metric("burn_2_processes", "/s", musts={"burn_1_process": 1.6})),
)
