"""Resident memory of a consumer process that works through a backlog of a million messages."""

from __future__ import annotations

import time
from pathlib import Path

from footprint import ended, memory_mb, started
from handlers import filled
from harness import Case, Metric

BACKLOG = 1_000_000
CONSUMER = """
from mqsdk import App
app = App()
@app.consumer("bench", group="noop")
def noop(payload: bytes) -> None: pass
"""


def backlog() -> dict[str, float]:
    """Samples the memory until nothing waits; growth = highest over what it was after a tenth of the messages."""
    from mqsdk import App

    filled(BACKLOG)
    Path("hello.py").write_text(CONSUMER)
    process = started()
    early, highest, waiting = 0.0, 0.0, BACKLOG
    with App() as app:
        deadline = time.monotonic() + 120
        while waiting and time.monotonic() < deadline:
            time.sleep(0.1)
            waiting = app.lag("bench", "noop").messages if app.groups("bench") else BACKLOG
            resident = memory_mb(process.pid, "Rss")
            highest = max(highest, resident)
            if not early and waiting <= 0.9 * BACKLOG:
                early = resident
    ended(process)
    if waiting:
        raise TimeoutError(f"{waiting} messages were left")
    return {"backlog_rss": highest, "backlog_rss_growth": 100 * (highest / early - 1)}


CASES = (Case("backlog", backlog, (Metric("backlog_rss", "MB", 80, at_most=True), Metric("backlog_rss_growth", "%", 10, at_most=True))),)
