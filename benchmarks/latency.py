"""Publish-to-handler latency at 200 messages a second: one process publishes, another one handles."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

from harness import Case, Metric, quantile

COUNT, RATE = 1_000, 200
# Publishes COUNT stamps at RATE a second. Arguments: RATE, COUNT.
PUBLISHER = """
import sys, time
from mqsdk import App
rate, count = map(int, sys.argv[1:])
with App() as app:
    app.publish("bench", "0")
    due = time.monotonic()
    for _ in range(count):
        due += 1 / rate
        time.sleep(max(0.0, due - time.monotonic()))
        app.publish("bench", str(time.monotonic_ns()))
"""


def waits(rate: int, count: int) -> list[float]:
    """Milliseconds from the call of `publish` to the call of the handler, of `count` messages, in the folder's configuration."""
    from mqsdk import App

    app = App()
    found: list[float] = []
    done = threading.Event()

    @app.consumer("bench", group="clock")
    def handle(sent: str) -> None:
        found.append((time.monotonic_ns() - int(sent)) / 1e6)
        if len(found) == count + 1:
            done.set()

    with app:
        app.start()
        publisher = subprocess.Popen([sys.executable, "-c", PUBLISHER, str(rate), str(count)])
        if not done.wait(60 + 3 * count / rate):
            raise TimeoutError(f"{len(found)} of {count} messages arrived")
        publisher.wait(30)
    return found[1:]  # the first one opened the publisher's side


def latency() -> dict[str, float]:
    found = waits(RATE, COUNT)
    return {"latency_p50": quantile(found, 0.5), "latency_p99": quantile(found, 0.99)}


CASES = (Case("latency", latency, (Metric("latency_p50", "ms", 0.25, at_most=True), Metric("latency_p99", "ms", 0.6, at_most=True))),)
