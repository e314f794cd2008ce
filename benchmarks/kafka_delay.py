"""Delayed messages on Kafka, moved by the process that consumes them: how late they come, how many are moved, what many that wait cost.

    PYTHONPATH=. python benchmarks/kafka_delay.py [WAITING]

One broker of its own, 100 bytes a message. Lateness: 1,000 messages delayed by 0.5 to 5 s, three times. Moves: 20,000 that are due at the
same moment, from then until the last one is handled. Waiting: memory and processor time of this process with so many due in two days.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from mqsdk import App, Message, Outgoing
from tests.brokers.kafka import FAST, KafkaBroker

WAITING = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
BURST, BURST_DELAY_S = 20_000, 35.0
CHUNK = 5000
LIMIT_S = 300.0
CONFIG = """
version: 1
clusters: {{main: {{backend: kafka, servers: ["{address}"]}}}}
routes: [{{topics: ["*"], cluster: main}}]
"""


class Late:
    """What came, as milliseconds after its due time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._late: list[float] = []

    def note(self, message: Message[str]) -> None:
        due_at = message.due_at
        assert due_at is not None
        with self._changed:
            self._late.append((time.time() - due_at.timestamp()) * 1000)
            self._changed.notify_all()

    def take(self, count: int) -> list[float]:
        """The next so many, sorted."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._late) >= count, LIMIT_S), f"{len(self._late)} of {count} came"
            taken, self._late = sorted(self._late), []
        return taken


def publish(app: App, delays_s: Sequence[float]) -> None:
    for first in range(0, len(delays_s), CHUNK):
        items = [Outgoing("x" * 100, key=str(first + n), delay=delay_s) for n, delay_s in enumerate(delays_s[first : first + CHUNK])]
        app.publish_many("orders", items, timeout=LIMIT_S)


def memory_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


def measure(app: App, late: Late) -> None:
    publish(app, [0.1])
    late.take(1)
    for _ in range(3):
        publish(app, [random.uniform(0.5, 5) for _ in range(1000)])
        found = late.take(1000)
        print(f"late: p50 {found[500]:.0f} ms   p99 {found[990]:.0f} ms   longest {found[-1]:.0f} ms")
    due = time.time() + BURST_DELAY_S
    for _ in range(0, BURST, CHUNK):
        publish(app, [max(0.001, due - time.time())] * CHUNK)
    longest = late.take(BURST)[-1]
    print(f"moved: {BURST:,} due at once in {longest / 1000:.1f} s, {BURST / longest * 1000:,.0f}/s, handled")
    before = memory_mb()
    publish(app, [2 * 86_400 + n / 1000 for n in range(WAITING)])
    spent, began = time.process_time(), time.monotonic()
    time.sleep(10)
    share = (time.process_time() - spent) / (time.monotonic() - began)
    print(f"waiting: {WAITING:,} take {memory_mb() - before:.0f} MB and {share:.1%} of a processor")


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="mqsdk-bench-"))
    broker = KafkaBroker(folder, jvm=FAST)
    try:
        config = folder / "mqsdk.yaml"
        config.write_text(CONFIG.format(address=broker.address))
        config.chmod(0o600)
        app, late = App(config=config), Late()

        @app.consumer("orders", group="g")
        def note(payload: str, message: Message[str]) -> None:
            late.note(message)

        with app:
            app.start()
            measure(app, late)
    finally:
        broker.stop()


if __name__ == "__main__":
    main()
