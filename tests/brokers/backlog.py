"""A backlog larger than its consumer's memory may become, behind handlers that take their time."""

from __future__ import annotations

import uuid
from pathlib import Path

from mqsdk import App
from tests.processes import MQSDK, Running

COUNT, BYTES = 20_000, 6000  # 120 MB, several times a consumer
WARM, DONE = 5000, 10_000  # handled, when it is looked at: RabbitMQ pushes 5000 ahead
GROWTH = 1.1
CONFIG = """
version: 1
app: backlog
clusters: {{main: {{backend: {backend}, servers: ["{address}"]}}}}
routes: [{{topics: ["*"], cluster: main}}]
topics: {{"{topic}": {{partitions: 1, groups: [g]}}}}
"""
APP = """
import itertools, time
from mqsdk import App
app, numbers = App(), itertools.count(1)

@app.consumer("{topic}", group="g", concurrency=8)
def slow(payload: bytes) -> None:
    time.sleep(0.001)
    if (number := next(numbers)) in ({warm}, {done}):
        print("handled %s;" % number, flush=True)
"""


def memory_stays_flat(folder: Path, backend: str, address: str) -> None:
    """The peak of what `mqsdk run` has in memory while it works through the backlog stays where it was after the warm-up."""
    topic = f"backlog-{uuid.uuid4().hex[:8]}"
    (folder / "mqsdk.yaml").write_text(CONFIG.format(backend=backend, address=address, topic=topic))
    (folder / "mqsdk.yaml").chmod(0o600)
    (folder / "slow.py").write_text(APP.format(topic=topic, warm=WARM, done=DONE))
    with App(config=folder / "mqsdk.yaml") as app:
        for _ in range(COUNT // 100):
            app.publish_many(topic, [b"x" * BYTES] * 100)
    with Running([*MQSDK, "run", "slow:app"], folder) as consumer:
        consumer.wait_for(f"handled {WARM};")
        warm = peak_mb(consumer.pid)
        consumer.wait_for(f"handled {DONE};")
        peak = peak_mb(consumer.pid)
    assert peak <= GROWTH * warm, f"{warm:.0f} MB after {WARM} messages, {peak:.0f} MB after {DONE}"


def peak_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1000
