"""One application with very many topics, a consumer on each: all of them are served, and it can be stopped."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from mqsdk import App

IS_SOAK = "SOAK_SECONDS" in os.environ
EACH = 3
BOUND_S = 600.0 if IS_SOAK else 120.0


def serve_many_topics(folder: Path, config: str) -> None:
    """AssertionError when a message is missing, repeated or out of order, or a thread is left behind."""
    topics = 1000 if IS_SOAK else 100
    path = folder / "mqsdk.yaml"
    path.write_text(config)
    path.chmod(0o600)
    before = set(threading.enumerate())
    app = App(path)
    seen: dict[str, list[int]] = {f"many-{number}": [] for number in range(topics)}
    changed = threading.Condition()

    def serve(topic: str) -> None:
        @app.consumer(topic, group="workers", ordered=True)
        def work(payload: dict[str, int]) -> None:
            with changed:
                seen[topic].append(payload["n"])
                changed.notify_all()

    for topic in seen:
        serve(topic)
    began = time.monotonic()
    with app:
        app.start(timeout=f"{BOUND_S:g}s")
        started_s = time.monotonic() - began
        sent = [app.publish_nowait(topic, {"n": n}, key="k", timeout=f"{BOUND_S:g}s") for n in range(EACH) for topic in seen]
        for future in sent:
            future.result(BOUND_S)
        with changed:
            changed.wait_for(lambda: all(len(numbers) >= EACH for numbers in seen.values()), BOUND_S)
        is_ready = app.health().ready
    took_s = time.monotonic() - began
    print(f"\n{topics} topics: started in {started_s:.1f} s, all handled and stopped after {took_s:.1f} s")
    assert is_ready
    assert all(numbers == list(range(EACH)) for numbers in seen.values())
    left = [thread for thread in set(threading.enumerate()) - before if not thread.name.startswith("proxy")]  # those are the test's
    for thread in left:
        thread.join(BOUND_S)
    assert not any(thread.is_alive() for thread in left), left
