"""Two processes with threads follow change after change at different moments: each message once, keys in the order of their producer."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mqsdk import App, Message
from tests.switch.stage import FILE, Service, Stores, until

CHANGES = 40 if "SOAK_SECONDS" in os.environ else 6
QUICK = FILE.replace("settle: 2s", "settle: 100ms")
PUBLISHERS = 3  # threads of a process, each with keys of its own and a way of its own


class Shop:
    """One process: it publishes in three ways and handles its share. seen: key -> numbers, of all processes."""

    def __init__(self, folder: Path, stores: Stores, name: str, seen: dict[str, list[int]]) -> None:
        (folder / name).mkdir()
        self.name = name
        self.seen = seen
        self.sent: dict[str, int] = defaultdict(int)
        self.stopping = threading.Event()
        self.service = Service(folder / name, stores, self.declare, virtual=False, file=QUICK)
        ways: list[Callable[[str], None]] = [self.publish, self.publish_nowait, self.publish_async]
        self.threads = [threading.Thread(target=way, args=(f"{name}{number}",)) for number, way in enumerate(ways)]

    def declare(self, app: App) -> None:
        dice = random.Random(self.name)

        @app.consumer("orders", group="billing", ordered=True)
        def bill(number: int, message: Message[int]) -> None:
            if dice.random() < 0.01:
                time.sleep(0.01)  # some keys lag behind
            self.seen[str(message.key)].append(number)

    def start(self) -> None:
        self.service.app.start()
        for thread in self.threads:
            thread.start()

    def next(self, prefix: str) -> tuple[int, str]:
        key = f"{prefix}-{self.sent[prefix] % 5}"
        self.sent[prefix] += 1
        self.sent[key] += 1
        return self.sent[key] - 1, key

    def publish(self, prefix: str) -> None:
        while not self.stopping.wait(0.001):
            number, key = self.next(prefix)
            self.service.app.publish("orders", number, key=key)

    def publish_nowait(self, prefix: str) -> None:
        while not self.stopping.wait(0.001):
            futures = [self.service.app.publish_nowait("orders", number, key=key) for number, key in [self.next(prefix) for _ in range(3)]]
        for future in futures:
            future.result(10)

    def publish_async(self, prefix: str) -> None:
        async def run() -> None:
            while not self.stopping.is_set():
                pairs = [self.next(prefix) for _ in range(3)]
                await asyncio.gather(*(self.service.app.publish_async("orders", number, key=key) for number, key in pairs))
                await asyncio.sleep(0.001)

        asyncio.run(run())


def are_alone(shops: list[Shop], cluster: str) -> bool:
    """Every consumer reads this cluster and no other."""
    return all(shop.service.clusters == [cluster] for shop in shops)


@pytest.mark.slow
def test_change_after_change_loses_nothing_and_keeps_the_order_of_each_producer(tmp_path: Path) -> None:
    stores, seen = Stores(), defaultdict[str, list[int]](list)
    shops = [Shop(tmp_path, stores, name, seen) for name in "pq"]
    dice, cluster = random.Random(int(os.environ.get("SOAK_SEED", "1"))), "a"
    try:
        for shop in shops:
            shop.start()
        for _ in range(CHANGES):
            cluster = dice.choice([one for one in "abc" if one != cluster])
            for shop in dice.sample(shops, 2):
                shop.service.switch(cluster, file=QUICK)
                threading.Event().wait(dice.random() * 0.3)  # the other one follows later
            until(partial(are_alone, shops, cluster))
        for shop in shops:
            shop.stopping.set()
        for shop in shops:
            for thread in shop.threads:
                thread.join(10)
        sent = {key: count for shop in shops for key, count in shop.sent.items() if "-" in key}
        until(lambda: sum(map(len, seen.values())) >= sum(sent.values()))
    finally:
        for shop in shops:
            shop.stopping.set()
            shop.service.app.close()
    assert dict(seen) == {key: list(range(count)) for key, count in sent.items()}
