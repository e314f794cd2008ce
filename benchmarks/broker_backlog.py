"""Resident memory of a consumer process over a backlog of a million messages on a broker, with a handler that takes its time."""

from __future__ import annotations

import time
from pathlib import Path

import brokers
import our_sdk
from footprint import ended, memory_mb, started
from frameworks import topic_of
from harness import Case, Metric

BACKLOG = 1_000_000
WARM_S, WATCHED_S, EVERY_S = 10.0, 30.0, 0.1
CONSUMER = """
import time
from mqsdk import App
app = App()
@app.consumer("{topic}", group="g", concurrency=8)
def slow(payload: bytes) -> None: time.sleep(0.002)
"""


def memory(broker: str, made: type[our_sdk.Sdk]) -> tuple[float, float]:
    """(highest MB, growth in % from after the warm-up to then)."""
    topic = topic_of(broker)
    sdk = made(brokers.address(), topic)
    sdk.publish(BACKLOG, at_once=2000)
    Path("hello.py").write_text(CONSUMER.format(topic=topic))
    process = started()
    time.sleep(WARM_S)
    warm = highest = memory_mb(process.pid, "Rss")
    until = time.monotonic() + WATCHED_S
    while time.monotonic() < until:
        time.sleep(EVERY_S)
        highest = max(highest, memory_mb(process.pid, "Rss"))
    ended(process)
    left = sdk.waiting()
    if not 0.5 * BACKLOG < left < BACKLOG:
        raise RuntimeError(f"{left} of {BACKLOG} messages are left: this was no slow consumer over a backlog")
    return highest, 100 * (highest / warm - 1)


def case(broker: str, made: type[our_sdk.Sdk]) -> Case:
    def run() -> dict[str, float]:
        highest, growth = memory(broker, made)
        return {f"{broker}_backlog_rss": highest, f"{broker}_backlog_rss_growth": growth}

    metrics = (Metric(f"{broker}_backlog_rss", "MB", 80, at_most=True), Metric(f"{broker}_backlog_rss_growth", "%", 10, at_most=True))
    return Case(f"backlog-{broker}", run, metrics, broker)


CASES = tuple(case(broker, made) for broker, made in (("redis", our_sdk.Redis), ("rabbitmq", our_sdk.Rabbit), ("kafka", our_sdk.Kafka)))
