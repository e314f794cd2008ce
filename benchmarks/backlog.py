"""Resident memory of a consumer process that works through a backlog of a million messages."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from footprint import ended, memory_mb, started
from handlers import filled
from harness import Case, Metric

BACKLOG = 1_000_000
CONSUMER = """
from mqsdk import App
app = App()
@app.consumer({topic!r}, group="drain")
def noop(payload: bytes) -> None: pass
"""


class Drain(NamedTuple):
    """early, highest: resident memory in MB after a tenth of the messages and at the most. rate: messages a second, start included."""

    early: float
    highest: float
    rate: float


def drained(topic: str, backlog: int, timeout_s: float = 120.0) -> Drain:
    """A consumer process handles all of `topic`; its memory is sampled until nothing waits."""
    from mqsdk import App

    Path("hello.py").write_text(CONSUMER.format(topic=topic))
    process, began = started(), time.monotonic()
    early, highest, waiting = 0.0, 0.0, backlog
    with App() as app:
        while waiting and time.monotonic() < began + timeout_s:
            time.sleep(0.1)
            waiting = app.lag(topic, "drain").messages if any(group.group == "drain" for group in app.groups(topic)) else backlog
            resident = memory_mb(process.pid, "Rss")
            highest = max(highest, resident)
            if not early and waiting <= 0.9 * backlog:
                early = resident
    seconds = time.monotonic() - began
    ended(process)
    if waiting:
        raise TimeoutError(f"{waiting} messages were left")
    return Drain(early, highest, backlog / seconds)


def backlog() -> dict[str, float]:
    """Growth = highest over what it was after a tenth of the messages."""
    filled(BACKLOG)
    found = drained("bench", BACKLOG)
    return {"backlog_rss": found.highest, "backlog_rss_growth": 100 * (found.highest / found.early - 1)}


CASES = (Case("backlog", backlog, (Metric("backlog_rss", "MB", 80, at_most=True), Metric("backlog_rss_growth", "%", 10, at_most=True))),)
