"""Connections to a broker that are cut after some bytes, in both directions, again and again, under a publisher and a consumer."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from pathlib import Path

from mqsdk import App, PublishRejected, PublishUnknown
from tests.brokers.proxy import Direction, Proxy

SEED = int(os.environ.get("SOAK_SEED", "20260101"))
BOUND_S = 60.0


def survive_cuts(folder: Path, proxy: Proxy, config: str, *, messages: int = 300, least: int = 200, most: int = 6000) -> None:
    """One publisher and one ordered consumer. AssertionError when something acknowledged is lost or a key is out of order."""
    path = folder / "mqsdk.yaml"
    path.write_text(config)
    path.chmod(0o600)
    dice = random.Random(SEED)
    directions: tuple[Direction, Direction] = ("up", "down")
    app = App(path)
    seen: list[int] = []
    changed = threading.Condition()

    @app.consumer("work", group="workers", ordered=True)
    def work(payload: dict[str, int]) -> None:
        with changed:
            seen.append(payload["n"])
            changed.notify_all()

    outcomes: Counter[str] = Counter()
    owed: set[int] = set()
    with app:
        app.start()
        proxy.budget = lambda: (dice.choice(directions), dice.randrange(least, most))
        proxy.cut()
        for number in range(messages):
            try:
                app.publish("work", {"n": number}, key="k", timeout="5s")
            except PublishRejected:
                outcomes["rejected"] += 1
            except PublishUnknown:
                outcomes["unknown"] += 1
            else:
                outcomes["stored"] += 1
                owed.add(number)
        cuts = proxy.cuts
        proxy.budget = lambda: None
        proxy.cut()
        deadline = time.monotonic() + BOUND_S
        with changed:
            changed.wait_for(lambda: owed <= set(seen) or time.monotonic() > deadline, BOUND_S)
    told = f"seed {SEED}, {cuts} cuts, {dict(outcomes)}, handled {len(seen)}, repeated {len(seen) - len(set(seen))}"
    print(f"\n{told}")
    assert cuts >= 5, told
    assert owed <= set(seen), f"lost {sorted(owed - set(seen))[:10]}: {told}"
    firsts = list(dict.fromkeys(seen))
    assert firsts == sorted(firsts), f"out of order: {told}"
    assert outcomes["stored"] > messages // 2, told
