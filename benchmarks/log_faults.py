"""The log from a process's death to the next message, from publish to handler, and the whole SDK held against its engine."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import get_args

import handlers
import publish
from footprint import first_line
from harness import PAYLOAD, Case, Metric, quantile, scaled
from latency import waits
from log_backlog import evict
from log_engine import PART, Durability, Table, appends, opened, read

RATE, SECONDS = 1_000, 4
TAKEOVERS = 12
LONE, BATCHES = 500_000, 2_048  # unsynced: so many messages of their own, so many batches of 1 MiB
CONFIGURATION = """
version: 1
clusters:
  local: {{backend: log, path: ./.mqsdk, durability: {durability}}}
routes:
  - {{topics: ["*"], cluster: local}}
"""

# --- publish to handler ---------------------------------------------------------------------------------------------------------------

# Inserts COUNT stamps at RATE a second. Arguments: RATE, COUNT.
INSERTER = """
import sqlite3, sys, time
rate, count = map(int, sys.argv[1:])
connection = sqlite3.connect("queue.db", isolation_level=None, timeout=10)
connection.execute("PRAGMA synchronous = NORMAL")
due = time.monotonic()
for _ in range(count):
    due += 1 / rate
    time.sleep(max(0.0, due - time.monotonic()))
    connection.execute("INSERT INTO messages (body) VALUES (?)", (str(time.monotonic_ns()).encode(),))
"""


def latency(durability: Durability) -> dict[str, float]:
    Path("mqsdk.yaml").write_text(CONFIGURATION.format(durability=durability))
    found = waits(RATE, scaled(RATE * SECONDS, 50))
    return {f"{durability}_{name}": quantile(found, share) for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999))}


def polled() -> dict[str, float]:
    """A table in SQLite that is looked at every millisecond."""
    table, found, last = Table("queue.db"), list[float](), 0
    count = scaled(RATE * SECONDS, 50)
    publisher = subprocess.Popen([sys.executable, "-c", INSERTER, str(RATE), str(count)])
    while len(found) < count and (publisher.poll() is None or table.after(last, 1)):
        for number, body in table.after(last, 1000):
            found.append((time.monotonic_ns() - int(body)) / 1e6)
            last = number
        time.sleep(0.001)
    publisher.wait(30)
    return {"sqlite_poll_p50": quantile(found, 0.5), "sqlite_poll_p99": quantile(found, 0.99)}


def fdatasyncs() -> dict[str, float]:
    """Of one write and one fdatasync, a hundred times a second, as the disk is when it is not pressed."""
    found = []
    with open("synced", "ab", buffering=0) as file:
        for _ in range(scaled(300, 20)):
            began = time.perf_counter()
            file.write(PAYLOAD)
            os.fdatasync(file.fileno())
            found.append((time.perf_counter() - began) * 1000)
            time.sleep(0.01)
    return {"fdatasync_p99": quantile(found, 0.99)}


def latency_metrics(durability: Durability) -> tuple[Metric, ...]:
    bounds = (0.1, 0.5, 5.0) if durability != "always" else (None, 3.0, None)
    musts = {"sqlite_poll_p50": 0.2} if durability != "always" else {}
    names = ("p50", "p99", "p999")
    return tuple(
        Metric(f"{durability}_{name}", "ms", bound, at_most=True, musts=musts if name == "p50" else {})
        for name, bound in zip(names, bounds, strict=True)
    )


# --- takeover -------------------------------------------------------------------------------------------------------------------------

# Takes a message, says which, and never ends it.
VICTIM = """
import time
from mqsdk import App
app = App()
@app.consumer("bench", group="heirs")
def hold(payload: str) -> None:
    print(payload, flush=True)
    time.sleep(600)
app.run()
"""


def takeover() -> dict[str, float]:
    """kill -9 of a consumer that has taken a message, to the moment at which the message is handled in another process."""
    from mqsdk import App

    app, handled, arrived = App(), dict[str, float](), threading.Condition()

    @app.consumer("bench", group="heirs")
    def note(payload: str) -> None:
        with arrived:
            handled[payload] = time.monotonic()
            arrived.notify_all()

    Path("victim.py").write_text(VICTIM)
    numbers, found = iter(range(1 << 30)), list[float]()
    with app:
        app.publish("bench", str(next(numbers)))
        app.start()
        for _ in range(scaled(TAKEOVERS, 2)):
            victim = subprocess.Popen([sys.executable, "victim.py"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            told = threading.Event()
            publisher = threading.Thread(target=_publish_until, args=(told, lambda: app.publish("bench", str(next(numbers)))))
            publisher.start()
            held = int(first_line(victim))
            told.set()
            publisher.join()
            killed = time.monotonic()
            victim.kill()
            with arrived:
                if not arrived.wait_for(partial(handled.__contains__, str(held)), timeout=60):
                    raise TimeoutError("nobody took the message of the dead consumer over")
            found.append((handled[str(held)] - killed) * 1000)
            victim.wait()
            assert victim.stdout is not None
            victim.stdout.close()
    return {"takeover_p50": quantile(found, 0.5), "takeover_p95": quantile(found, 0.95)}


# --- recovery -------------------------------------------------------------------------------------------------------------------------


def recovery() -> dict[str, float]:
    """From opening a log to its end being known: after a kill, and as after a reboot before which nothing was ever synced."""
    found: dict[str, float] = {}
    for name, size, batch, count in (("lone", 100, 1, scaled(LONE)), ("batches", 1024, 900, scaled(BATCHES))):
        process = multiprocessing.get_context("spawn").Process(target=_written, args=(size, batch, count))
        process.start()
        process.join()
        found[f"kill_{name}"] = _opened_ms()
        _reboot()
        found[f"reboot_{name}"] = _opened_ms()
        _reboot()
        evict(Path("log"))
        found[f"reboot_{name}_cold"] = _opened_ms()
        shutil.rmtree("log")
    return found


def _written(size: int, batch: int, count: int) -> None:
    """In a process that dies without a close, durability `none`: nothing of it is noted as durable."""
    from mqsdk_log.engine.log import Log

    log = Log.open("log", durability="none")
    appends(log.create_topic(PART, 1).partition(0), size, batch, count)
    os._exit(0)


def _reboot() -> None:
    """The content of the state page does not count after a reboot; and the durable mark says that nothing is on the medium."""
    from mqsdk_log.engine import checkpoint
    from mqsdk_log.engine.format import SEGMENT_HEADER_SIZE

    topic = Path("log/topics", PART)
    (topic / "state").unlink()
    directory = os.open(topic / "0", os.O_RDONLY)
    checkpoint.reset(directory, checkpoint.Mark(0, 0, SEGMENT_HEADER_SIZE))
    os.close(directory)


def _opened_ms() -> float:
    from mqsdk_log.engine.log import Log

    began = time.perf_counter()
    log = Log.open("log", durability="none")
    log.topic(PART).partition(0).end()
    took = (time.perf_counter() - began) * 1000
    log.close()
    return took


# --- the whole SDK --------------------------------------------------------------------------------------------------------------------


def whole() -> dict[str, float]:
    """Publishing and handling by the SDK beside the engine's own figures for the same payload, and a table in SQLite."""
    size, table = len(PAYLOAD), Table("queue.db")
    with opened("interval") as log:
        partition = log.topic(PART).partition(0)
        found = {
            "engine_lone": appends(partition, size, 1, scaled(60_000)),
            "engine_hundreds": appends(partition, size, 100, scaled(5_000)),
            "engine_read": read(partition),
        }
    began, count = time.perf_counter(), scaled(10_000)
    for _ in range(count):
        table.put([PAYLOAD])
    found["sqlite_lone"] = count / (time.perf_counter() - began)
    parts = (
        (publish.one_by_one, "publish"),
        (publish.many, "publish_many"),
        (handlers.single, "handler"),
        (handlers.batched, "handler_batch"),
    )
    for run, name in parts:
        Path(name).mkdir()
        os.chdir(name)
        found[f"sdk_{name}"] = run()[name]
        os.chdir("..")
    return found


def _publish_until(told: threading.Event, publish_one: Callable[[], object]) -> None:
    while not told.wait(0.02):
        publish_one()


CASES = (
    *(Case(f"log-latency-{durability}", partial(latency, durability), latency_metrics(durability)) for durability in get_args(Durability)),
    Case("log-latency-sqlite", polled, (Metric("sqlite_poll_p50", "ms"), Metric("sqlite_poll_p99", "ms"))),
    Case("log-fdatasync", fdatasyncs, (Metric("fdatasync_p99", "ms"),)),
    Case("log-takeover", takeover, (Metric("takeover_p50", "ms"), Metric("takeover_p95", "ms", 20, at_most=True))),
    Case(
        "log-recovery",
        recovery,
        (
            Metric("kill_lone", "ms", 10, at_most=True),
            Metric("reboot_lone", "ms", 1_000, at_most=True),
            Metric("reboot_lone_cold", "ms"),
            Metric("kill_batches", "ms", 10, at_most=True),
            Metric("reboot_batches", "ms", 1_000, at_most=True),
            Metric("reboot_batches_cold", "ms"),
        ),
    ),
    Case(
        "log-sdk",
        whole,
        (
            Metric("engine_lone", "/s"),
            Metric("engine_hundreds", "/s"),
            Metric("engine_read", "/s"),
            Metric("sqlite_lone", "/s"),
            Metric("sdk_publish", "/s", musts={"sqlite_lone": 1}, over=("engine_lone",)),
            Metric("sdk_publish_many", "/s", musts={"engine_hundreds": 0.5}),
            Metric("sdk_handler", "/s", 120_000, over=("engine_read",)),
            Metric("sdk_handler_batch", "/s", musts={"engine_read": 0.5}),
        ),
    ),
)
