"""What every contender of `frameworks.py` has to do, and what they share: the payload, a topic of their own, stamps for latencies.

A contender is one library on one broker. `publish` keeps 100 messages in flight as far as its API can; `handle` runs a no-op handler for
each message, `batch` for many, both over a backlog that `publish` left. At least once: nothing is acknowledged before it was handled.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from harness import PAYLOAD

BODY = (PAYLOAD * 2)[:200]
TEXT = BODY.decode()
IN_FLIGHT = 100
READ = 500
PULSES, WARM, RATE = 800, 100, 200
LIMIT_S = 120.0


class Contender(Protocol):
    """Made once per process. topic: nobody else's; it exists where the broker wants that said."""

    def __init__(self, address: str, topic: str) -> None: ...

    def publish(self, count: int) -> float:
        """Messages a second."""

    def handle(self, count: int) -> float:
        """Messages a second of a handler for each message."""

    def batch(self, count: int) -> float:
        """Messages a second of a handler for many."""

    def pulse(self, stamps: Callable[[], str | None]) -> None:
        """Publish what `stamps` gives, one by one, until it gives None."""

    def listen(self, heard: Callable[[str], object]) -> None:
        """Handle stamps until the process ends. Returns when it listens, or never."""


def new_topic() -> str:
    return f"bench-{time.time_ns():x}"


def stamps(count: int = PULSES) -> Callable[[], str | None]:
    """Moments at a fixed rate, as payloads of 200 bytes."""
    begin = time.monotonic()
    numbers = iter(range(count))

    def following() -> str | None:
        number = next(numbers, None)
        if number is None:
            return None
        time.sleep(max(0.0, begin + number / RATE - time.monotonic()))
        return f"{time.monotonic_ns():0200d}"

    return following


def latency(contender: Contender, name: str, topic: str) -> tuple[float, float]:
    """(p50, p99) in ms from before the publish in one process to the handler in another one."""
    waits: list[float] = []
    done = threading.Event()

    def heard(stamp: str) -> None:
        waits.append((time.monotonic_ns() - int(stamp)) / 1e6)
        if len(waits) == PULSES:
            done.set()

    threading.Thread(target=contender.listen, args=(heard,), daemon=True).start()
    time.sleep(2.0)  # it joins meanwhile; the first stamps are not counted
    command = [sys.executable, str(Path(__file__).with_name("frameworks.py")), "--pulse", name, topic]
    publisher = subprocess.Popen(command)
    try:
        if not done.wait(60.0):
            raise TimeoutError(f"{len(waits)} of {PULSES} stamps arrived")
    finally:
        publisher.wait(30.0)
    counted = sorted(waits[WARM:])
    return statistics.median(counted), counted[len(counted) * 99 // 100]
