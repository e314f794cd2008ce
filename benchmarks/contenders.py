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
PULSES, RATE, WARM_S = 1200, 200, 1.0
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
    """(p50, p99) in ms from before the publish in one process to the handler in another one, once it has listened for WARM_S."""
    heard: list[tuple[int, int]] = []
    done = threading.Event()

    def hear(stamp: str) -> None:
        heard.append((int(stamp), time.monotonic_ns()))
        if len(heard) == PULSES:
            done.set()

    threading.Thread(target=contender.listen, args=(hear,), daemon=True).start()
    publisher = subprocess.Popen([sys.executable, str(Path(__file__).with_name("frameworks.py")), "--pulse", name, topic])
    try:
        if not done.wait(LIMIT_S):
            raise TimeoutError(f"{len(heard)} of {PULSES} stamps arrived")
    finally:
        publisher.wait(LIMIT_S)
    begin = heard[0][1] + int(WARM_S * 1e9)
    waits = sorted((came - sent) / 1e6 for sent, came in heard if sent > begin)
    if len(waits) < PULSES / 4:
        raise RuntimeError(f"only {len(waits)} stamps were sent after it had listened for {WARM_S} s")
    return statistics.median(waits), waits[len(waits) * 99 // 100]
