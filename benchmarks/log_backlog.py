"""A pool, not a pipe: publish latency and take rate against the backlog, ours beside stores on SQLite, and what ten million cost.

Every backlog is a store of its own, of the same shape. All backlogs of one kind of store are published to in turn, and taken from in turn,
in one process: what the machine does meanwhile falls on all of them. Opening, recovery and memory are those of the deepest one.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from backlog import drained
from harness import Case, Metric, alternated, quantile, scaled
from log_stores import Huey, LiteQueue, Log, PersistQueue, Sqlite, Store

BACKLOGS = (0, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)
STORES: Mapping[str, type[Store]] = {"log": Log, "sqlite": Sqlite, "litequeue": LiteQueue, "persist_queue": PersistQueue, "huey": Huey}
PUBLISHED, TURNS, TURNS_LOG = 100, 20, 200  # publishes in a row to one backlog, and how often each has its turn; they add to it
TAKEN, TAKES = 1_000, 5
TAKEN_LOG, LEAST_LOG = 200_000, 10_000  # fewer are handled between two looks at the counter
PUBLISH_S, TAKE_S, FILL_S = 12.0, 2.0, 60.0  # bounds: of all publishes, of one take, of one fill that is foreseen
Microseconds = dict[int, list[float]]

# Prints how long opening the log and a publish to every partition take, in ms, and the memory of the process then, in MB. Argument: the
# topic. What is imported on the way is imported before.
OPENER = """
import os, sys, tempfile, time
from mqsdk import App, Outgoing
items = [Outgoing(bytes(120), key=str(number)) for number in range(100)]
def opened(topic):
    began = time.perf_counter()
    with App() as app:
        app.publish_many(topic, items)
        return (time.perf_counter() - began) * 1000
here = os.getcwd()
with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    opened("warm")
    os.chdir(here)
taken = opened(sys.argv[1])
(line,) = [line for line in open("/proc/self/status") if line.startswith("VmRSS")]
print(taken, int(line.split()[1]) / 1000)
"""
# Publishes one by one, to every partition, until it is killed; says when it is in full swing. Arguments: the topic, and how many are
# published by then.
WRITER = """
import sys
from mqsdk import App
with App() as app:
    number = 0
    while True:
        app.publish(sys.argv[1], bytes(120), key=str(number))
        number += 1
        if number == int(sys.argv[2]):
            print(number, flush=True)
"""


def name_of(who: str, what: str, backlog: int) -> str:
    """Of a point of a curve; `@` keeps it out of the table."""
    return f"{who}_{what}@{backlog}"


# --- the curves -----------------------------------------------------------------------------------------------------------------------


def curve(who: str) -> dict[str, float]:
    """Of a peer. A backlog that would take longer than FILL_S to put there is left out, and so are those above it."""
    stores = filled_stores(who)
    rates = takes(stores, scaled(TAKEN, 20))  # first: what is published stays there
    return points(who, publishes(stores, scaled(TURNS)), rates)


def points(who: str, took: Microseconds, rates: Mapping[int, float]) -> dict[str, float]:
    return {name_of(who, "publish", backlog): quantile(values, 0.5) for backlog, values in took.items()} | {
        name_of(who, "take", backlog): value for backlog, value in rates.items()
    }


def filled_stores(who: str) -> dict[int, Store]:
    kind, found, per_message_s = STORES[who], dict[int, Store](), 0.0
    for backlog in BACKLOGS:
        count = scaled(backlog, 0)
        if backlog > kind.deepest or count * per_message_s > FILL_S:
            break
        store = found[backlog] = kind(f"{who}{backlog}")
        began = time.perf_counter()
        store.fill(count)
        if count >= 1_000:
            per_message_s = (time.perf_counter() - began) / count
    return found


def publishes(stores: Mapping[int, Store], turns: int) -> Microseconds:
    """Of each publish, by backlog."""
    found: Microseconds = {backlog: [] for backlog in stores}
    clock, until = time.perf_counter_ns, time.perf_counter() + PUBLISH_S
    for _ in range(turns):
        for backlog, store in stores.items():
            publish, note = store.publish, found[backlog].append
            for _ in range(PUBLISHED):
                before = clock()
                publish()
                note((clock() - before) / 1000)
        if time.perf_counter() > until:
            break
    return found


def takes(stores: Mapping[int, Store], count: int) -> dict[int, float]:
    """Messages a second, by the backlog that is left behind those taken; what there is no time to take adds to it."""
    for store in stores.values():
        if store.keeps:
            store.fill(count)
    works = {str(backlog): partial(_take, store, count) for backlog, store in stores.items()}
    return {int(backlog): rate for backlog, rate in alternated(works, TAKES).items()}


def _take(store: Store, count: int) -> float:
    if not store.keeps:
        store.fill(count)
    return store.take_rate(count, TAKE_S)


# --- ten million ----------------------------------------------------------------------------------------------------------------------


def pool() -> dict[str, float]:
    from mqsdk import App

    stores = filled_stores("log")
    empty, full = min(stores), max(stores)
    with App() as app:
        Log.app = app
        for store in stores.values():
            store.publish()  # opens
        took = publishes(stores, scaled(TURNS_LOG))
    rates = takes(stores, scaled(TAKEN_LOG, LEAST_LOG))
    found = points("log", took, rates)
    found |= {
        f"publish_{what}_{which}": quantile(took[at], share) for which, at in (("empty", empty), ("full", full)) for what, share in SHARES
    }
    found |= {"take_empty": rates[empty], "take_full": rates[full]}
    return found | opening(f"log{empty}", f"log{full}") | recovery(f"log{full}") | memory(f"log{full}")


SHARES = (("p50", 0.5), ("p99", 0.99))


def opening(empty: str, full: str) -> dict[str, float]:
    sizes: list[float] = []
    return alternated({"open_empty": partial(opened_ms, empty, sizes), "open_full": partial(opened_ms, full, sizes)}) | {
        "publisher_rss": statistics.median(sizes)
    }


def opened_ms(topic: str, sizes: list[float]) -> float:
    """In a new process; its memory, in MB, is added to `sizes`."""
    done = subprocess.run([sys.executable, "-c", OPENER, topic], check=True, capture_output=True, text=True)
    took, size = map(float, done.stdout.split())
    sizes.append(size)
    return took


def recovery(topic: str) -> dict[str, float]:
    """A publisher is killed in the middle, nothing of the log is in the page cache; then also as after a reboot."""
    return alternated(
        {"recovery_kill": partial(recovered_ms, topic, False), "recovery_reboot": partial(recovered_ms, topic, True)}, slices=3
    )


def recovered_ms(topic: str, rebooted: bool) -> float:
    """rebooted: the state page is gone, as its content does not count after a reboot."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, topic, str(scaled(20_000, 50))], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    writer.stdout.readline()
    writer.kill()
    writer.wait()
    writer.stdout.close()
    if rebooted:
        Path(".mqsdk/topics", topic, "state").unlink()
    evict(Path(".mqsdk"))
    return opened_ms(topic, [])


def evict(folder: Path) -> None:
    """Have the kernel forget what it holds of the files below; what is not written yet is written before."""
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.fdatasync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def memory(topic: str) -> dict[str, float]:
    """Of a consumer process that handles all that there is."""
    found = drained(topic, scaled(BACKLOGS[-1]), timeout_s=300)
    return {"consumer_rss": found.highest, "drain": found.rate}


# --- cases ----------------------------------------------------------------------------------------------------------------------------


def curve_metrics(who: str) -> tuple[Metric, ...]:
    depths = [backlog for backlog in BACKLOGS if backlog <= STORES[who].deepest]
    return tuple(Metric(name_of(who, what, backlog), unit) for what, unit in (("publish", "us"), ("take", "/s")) for backlog in depths)


def peer_case(who: str) -> Case:
    run: Callable[[], dict[str, float]] = partial(curve, who)
    return Case(f"log-backlog-{who.replace('_', '-')}", run, curve_metrics(who))


CASES = (
    Case(
        "log-backlog",
        pool,
        (
            Metric("publish_p50_empty", "us"),
            Metric("publish_p50_full", "us", at_most=True, musts={"publish_p50_empty": 1.05}),
            Metric("publish_p99_empty", "us"),
            Metric("publish_p99_full", "us", at_most=True, musts={"publish_p99_empty": 1.15}),
            Metric("take_empty", "/s"),
            Metric("take_full", "/s", musts={"take_empty": 1 / 1.1}),
            Metric("open_empty", "ms"),
            Metric("open_full", "ms", 50, at_most=True, over=("open_empty",)),
            Metric("recovery_kill", "ms", 1_000, at_most=True),
            Metric("recovery_reboot", "ms", 1_000, at_most=True),
            Metric("publisher_rss", "MB", 60, at_most=True),
            Metric("consumer_rss", "MB", 60, at_most=True),
            Metric("drain", "/s"),
            *curve_metrics("log"),
        ),
    ),
    *(peer_case(who) for who in STORES if who != "log"),
)
