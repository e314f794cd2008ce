"""Connections to a broker that are cut after some bytes, lose every answer, or are slow, under a publisher and an ordered consumer."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mqsdk import App, PublishRejected, PublishUnknown
from mqsdk.events import Event, OwnershipChanged
from tests.brokers.proxy import Direction, Proxy

SEED = int(os.environ.get("SOAK_SEED", "20260101"))
BOUND_S = 60.0
LATENCY_S = 0.2 if "SOAK_SECONDS" in os.environ else 0.05


class Scene:
    """An App with one ordered consumer of one key. owed: what was stored. seen: what the handler was called with."""

    def __init__(self, folder: Path, config: str, topic: str) -> None:
        self.topic = topic
        path = folder / "mqsdk.yaml"
        path.write_text(config)
        path.chmod(0o600)
        self.app = app = App(path)
        self.seen: list[int] = []
        self.owed: set[int] = set()
        self.outcomes: Counter[str] = Counter()
        self.took_s = 0.0  # the longest publish
        self.moves: list[OwnershipChanged] = []
        self._changed = threading.Condition()

        @app.consumer(topic, group="workers", ordered=True)
        def work(payload: dict[str, int]) -> None:
            with self._changed:
                self.seen.append(payload["n"])
                self._changed.notify_all()

        @app.observe
        def note(event: Event) -> None:
            if isinstance(event, OwnershipChanged):
                self.moves.append(event)

    def publish(self, number: int, timeout: str = "5s") -> str:
        """How it ended: stored, rejected or unknown."""
        began = time.monotonic()
        try:
            self.app.publish(self.topic, {"n": number}, key="k", timeout=timeout)
        except PublishRejected:
            outcome = "rejected"
        except PublishUnknown:
            outcome = "unknown"
        else:
            outcome = "stored"
            self.owed.add(number)
        self.took_s = max(self.took_s, time.monotonic() - began)
        self.outcomes[outcome] += 1
        return outcome

    def wait_for(self, numbers: set[int]) -> bool:
        """Until the handler has been called with all of these."""
        with self._changed:
            return self._changed.wait_for(lambda: numbers <= set(self.seen), BOUND_S)

    def wait_until_settled(self) -> None:
        deadline = time.monotonic() + BOUND_S
        while self.app.lag(self.topic, "workers").messages:
            assert time.monotonic() < deadline, "the handled message is not settled"
            time.sleep(0.02)

    def is_in_order(self) -> bool:
        firsts = list(dict.fromkeys(self.seen))
        return firsts == sorted(firsts)

    def __str__(self) -> str:
        repeated = len(self.seen) - len(set(self.seen))
        return f"seed {SEED}, {dict(self.outcomes)}, handled {len(self.seen)}, repeated {repeated}, longest publish {self.took_s:.2f} s"


def survive_cuts(folder: Path, proxy: Proxy, config: str, *, messages: int = 300, least: int = 200, most: int = 6000) -> None:
    """Every connection ends after some bytes. AssertionError when something acknowledged is lost or a key is out of order."""
    dice = random.Random(SEED)
    directions: tuple[Direction, Direction] = ("up", "down")
    scene = Scene(folder, config, "cut")
    with scene.app:
        scene.app.start()
        proxy.budget = lambda: (dice.choice(directions), dice.randrange(least, most))
        proxy.cut()
        for number in range(messages):
            scene.publish(number)
        cuts = proxy.cuts
        proxy.budget = lambda: None
        proxy.cut()
        is_complete = scene.wait_for(scene.owed)
    told = f"{cuts} cuts, {scene}"
    print(f"\n{told}")
    assert cuts >= 5, told
    assert is_complete, f"lost {sorted(scene.owed - set(scene.seen))[:10]}: {told}"
    assert scene.is_in_order(), f"out of order: {told}"
    assert scene.outcomes["stored"] > messages // 2, told


def lose_replies(folder: Path, proxy: Proxy, config: str) -> None:
    """What is asked arrives, the answers do not: a publish in doubt is said to be so by its deadline, and is handled once."""
    scene = Scene(folder, config, "silent")
    with scene.app:
        scene.app.start()
        assert scene.publish(0) == "stored"
        assert scene.wait_for({0})
        scene.wait_until_settled()
        proxy.swallowed = "down"
        outcomes = {number: scene.publish(number, "1s") for number in (1, 2, 3)}
        took_s = scene.took_s
        proxy.swallowed = None
        proxy.cut()
        assert scene.publish(4, "30s") == "stored"
        is_complete = scene.wait_for({1, 4})
    told = f"{outcomes}, {scene}"
    print(f"\n{told}")
    assert outcomes[1] == "unknown", told
    assert took_s < 1.0 + 3 * 0.5, told
    assert is_complete, told
    assert not {number for number, outcome in outcomes.items() if outcome == "rejected"} & set(scene.seen), told
    assert scene.seen == sorted(set(scene.seen)), f"repeated or out of order: {scene.seen}: {told}"


def send_again(folder: Path, proxy: Proxy, config: str, direct: str) -> None:
    """The answer to a publish is lost while its consumer has the message already: it is sent again, stored, and handled once.

    config: of who publishes, by the proxy. direct: of who consumes, past it.
    """
    scene = Scene(folder, direct, "again")
    (folder / "publisher").mkdir()
    publisher = Scene(folder / "publisher", config, "again")
    with scene.app, publisher.app, ThreadPoolExecutor(1) as pool:
        scene.app.start()
        assert publisher.publish(0) == "stored"
        assert scene.wait_for({0})
        proxy.swallowed = "down"
        publishing = pool.submit(publisher.publish, 1, "60s")
        arrived = scene.wait_for({1})
        proxy.swallowed = None
        proxy.cut()
        outcome = publishing.result(BOUND_S)
        last = publisher.publish(2, "60s")
        is_complete = scene.wait_for({2})
        scene.wait_until_settled()
    told = f"{outcome}, {last}, {scene}"
    print(f"\n{told}")
    assert (arrived, is_complete) == (True, True), told
    assert (outcome, last) == ("stored", "stored"), told
    assert scene.seen == [0, 1, 2], f"{scene.seen}: {told}"


def bear_delays(folder: Path, proxy: Proxy, config: str) -> None:
    """A slow line that carries a few bytes at a time is no failure: everything is stored, handled once, nothing changes hands."""
    scene = Scene(folder, config, "slow")
    messages = 20
    with scene.app:
        scene.app.start()
        scene.publish(0)
        assert scene.wait_for({0})
        joined = len(scene.moves)
        proxy.latency_s, proxy.jitter_s, proxy.slice_bytes = LATENCY_S, LATENCY_S, 100
        for number in range(1, messages):
            scene.publish(number)
        is_complete = scene.wait_for(scene.owed)
        scene.wait_until_settled()
        moves = scene.moves[joined:]
        proxy.latency_s, proxy.jitter_s, proxy.slice_bytes = 0.0, 0.0, 1 << 16
    told = f"{LATENCY_S:g} s one way and as much again, {scene}"
    print(f"\n{told}")
    assert scene.outcomes == {"stored": messages}, told
    assert is_complete, told
    assert scene.seen == list(range(messages)), told
    assert not moves, f"changed hands: {moves}: {told}"
