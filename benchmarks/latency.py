"""Publish-to-handler latency at 200 messages a second: one process publishes, another one handles."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

from harness import Case, Metric

COUNT, RATE = 1_000, 200
PUBLISHER = f"""
import time
from mqsdk import App
with App() as app:
    app.publish("bench", "0")
    due = time.monotonic()
    for _ in range({COUNT}):
        due += 1 / {RATE}
        time.sleep(max(0.0, due - time.monotonic()))
        app.publish("bench", str(time.monotonic_ns()))
"""


def latency() -> dict[str, float]:
    from mqsdk import App

    app = App()
    waits: list[float] = []
    done = threading.Event()

    @app.consumer("bench", group="clock")
    def handle(sent: str) -> None:
        waits.append((time.monotonic_ns() - int(sent)) / 1e6)
        if len(waits) == COUNT + 1:
            done.set()

    with app:
        app.start()
        publisher = subprocess.Popen([sys.executable, "-c", PUBLISHER])
        if not done.wait(60):
            raise TimeoutError(f"{len(waits)} of {COUNT} messages arrived")
        publisher.wait(30)
    ordered = sorted(waits[1:])  # the first one opened the publisher's side
    return {"latency_p50": ordered[COUNT // 2], "latency_p99": ordered[COUNT * 99 // 100]}


CASES = (Case("latency", latency, (Metric("latency_p50", "ms", 0.25, at_most=True), Metric("latency_p99", "ms", 0.6, at_most=True))),)
