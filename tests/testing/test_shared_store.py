"""Several Apps over one SimLog are what several processes are over one broker: members come and go under load, and nothing is lost,
repeated or out of order, because every hand-over is in order."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, defaultdict
from itertools import pairwise
from typing import NamedTuple

from mqsdk import App, Outgoing
from mqsdk.config.model import Cluster, Configuration
from mqsdk.runtime.environment import Environment
from mqsdk.spi import Backend
from mqsdk.testing import SimBackend, SimLog

KEYS, MESSAGES, CHANGES = 50, 12_000, 4
PATIENCE_S = 30.0


class Execution(NamedTuple):
    key: int
    sequence: int
    start: float
    end: float


class Journal:
    def __init__(self) -> None:
        self.entries: list[Execution] = []
        self._grown = threading.Condition()

    def note(self, key: int, sequence: int, start: float) -> None:
        with self._grown:
            self.entries.append(Execution(key, sequence, start, time.monotonic()))
            self._grown.notify_all()

    def wait_for(self, count: int) -> None:
        with self._grown:
            assert self._grown.wait_for(lambda: len(self.entries) >= count, PATIENCE_S), f"{len(self.entries)} of {count} handled"


def member(store: SimLog, journal: Journal, *, is_async: bool) -> App:
    app = App()

    def work(value: list[int]) -> None:
        key, sequence = value
        journal.note(key, sequence, time.monotonic())

    async def work_async(value: list[int]) -> None:
        (key, sequence), start = value, time.monotonic()
        await asyncio.sleep(0)
        journal.note(key, sequence, start)

    app.consumer("t", group="g", ordered=True, concurrency=4)(work_async if is_async else work)
    opened(app, store)
    return app


def opened(app: App, store: SimLog) -> App:
    def backend(cluster: Cluster) -> Backend:
        return SimBackend(store, name=cluster.name)

    app._open(configuration=Configuration(), environment=Environment(make_backend=backend))
    return app


def test_members_that_come_and_go_lose_repeat_and_reorder_nothing() -> None:
    store, journal = SimLog(), Journal()
    publisher = opened(App(), store)
    members = [member(store, journal, is_async=False)]
    members[0].start()
    sender = threading.Thread(target=publish, args=(publisher,))
    sender.start()
    for change in range(1, CHANGES + 1):
        journal.wait_for(change * MESSAGES // (CHANGES + 2))
        members.append(member(store, journal, is_async=change % 2 == 0))
        members[-1].start()
        journal.wait_for(change * MESSAGES // (CHANGES + 2) + 500)
        members.pop(0).close()
    journal.wait_for(MESSAGES)
    sender.join(PATIENCE_S)
    for app in (*members, publisher):
        app.close()
    check(journal.entries)


def publish(app: App) -> None:
    for start in range(0, MESSAGES, 100):
        app.publish_many("t", [Outgoing([each % KEYS, each // KEYS], key=each % KEYS) for each in range(start, start + 100)])


def check(entries: list[Execution]) -> None:
    counts = Counter((entry.key, entry.sequence) for entry in entries)
    assert len(counts) == MESSAGES
    assert set(counts.values()) == {1}
    by_key: dict[int, list[Execution]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: entry.start):
        by_key[entry.key].append(entry)
    for executions in by_key.values():
        for earlier, later in pairwise(executions):
            assert later.sequence == earlier.sequence + 1
            assert later.start >= earlier.end
