"""A topic goes to another cluster and back under load, by its configuration alone: nothing is lost, keys stay in order.

Two publishers and two consumers watch one file. Each sees a change at its own moment, one publisher seconds after all others, and one of
each role is killed while both clusters are read.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mqsdk.runtime import control
from mqsdk.testing.journal import Kind, read_journals
from tests.brokers.kafka import KafkaBroker
from tests.brokers.rabbitmq import RabbitServer
from tests.brokers.redis import RedisServer
from tests.faults.fleet import Fleet, comes_true, drained, judged, prepare

pytestmark = pytest.mark.slow

CONFIG = """
version: 1
clusters:
  old: {{backend: log, path: ./data}}
  new: {new}
routes: [{{topics: ["*"], cluster: CLUSTER}}]
topics: {{"work": {{partitions: 4}}}}
reload: {{every: 300ms, settle: 1s}}
"""
SLOW = {"MQSDK_RELOAD__EVERY": "3s"}  # looks at the file twice before it takes it
MEMBERS = 2
ENOUGH = 150  # messages that a cluster has to carry before the next step


class Run:
    """The fleet on one file whose route is edited."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder
        self._config = config
        prepare(folder, self._text("old"))
        self.fleet = Fleet(folder)
        self.fleet.variables["publisher", 1] = SLOW

    def _text(self, cluster: str) -> str:
        return self._config.replace("CLUSTER", cluster)

    def route(self, cluster: str) -> None:
        new = self.folder / "next.yaml"
        new.write_text(self._text(cluster))
        new.chmod(0o600)
        os.replace(new, self.folder / "mqsdk.yaml")

    def carries(self) -> None:
        """Both publishers get further."""
        before = self._stored()
        self.wait(lambda: all(after >= earlier + ENOUGH for after, earlier in zip(self._stored(), before, strict=True)))

    def _stored(self) -> list[int]:
        entries = list(read_journals(self.folder))
        return [
            sum(entry.kind is Kind.SEND_STORED and entry.id.startswith(f"p{number}-") for entry in entries) for number in range(MEMBERS)
        ]

    def reads(self, *clusters: str) -> None:
        """Every consumer reads these."""
        self.wait(lambda: [places for places in self._places() if places] == [sorted(clusters)] * MEMBERS)

    def _places(self) -> list[list[str]]:
        replies: list[dict[str, Any]] = [dict(reply.document) for reply in control.ask_all("status", self.folder / ".state")]
        return [sorted(one["cluster"] for one in reply.get("consumers", ())) for reply in replies]

    def wait(self, condition: Callable[[], bool]) -> None:
        """A look is cheap, so the processes get the time between two."""
        assert comes_true(lambda: condition() or threading.Event().wait(0.05)), self.fleet.output()


@contextmanager
def served(server: RedisServer | KafkaBroker | RabbitServer, backend: str, lease: str) -> Iterator[str]:
    """The cluster of a server that has just been started."""
    try:
        yield f'{{backend: {backend}, servers: ["{server.address}"], lease: {lease}}}'
    finally:
        server.stop()


def redis(folder: Path) -> AbstractContextManager[str]:
    return served(RedisServer(folder, fsync="always"), "redis", "5s")


def kafka(folder: Path) -> AbstractContextManager[str]:
    return served(KafkaBroker(folder), "kafka", "6s")


def rabbitmq(folder: Path) -> AbstractContextManager[str]:
    return served(RabbitServer(folder), "rabbitmq", "3s")


# The way back from RabbitMQ is refused to ordered consumers: it cannot tell how far a group is.
CHANGES = {"redis": (redis, ["new", "old"])}
if "SOAK_SECONDS" in os.environ:
    CHANGES |= {"redis, again and again": (redis, ["new", "old"] * 3), "kafka": (kafka, ["new", "old"]), "rabbitmq": (rabbitmq, ["new"])}


@pytest.mark.parametrize(("start", "route"), CHANGES.values(), ids=CHANGES.keys())
def test_there_and_back_under_load_loses_nothing_and_keeps_the_order_of_keys(tmp_path: Path, start: Any, route: list[str]) -> None:
    (tmp_path / "server").mkdir()
    with start(tmp_path / "server") as new:
        run = Run(tmp_path, CONFIG.format(new=new))
        fleet = run.fleet
        try:
            fleet.start_all(MEMBERS)
            run.reads("old")
            for source, target in pairwise(["old", *route]):
                run.carries()
                run.route(target)
                run.reads(source, target)
                fleet.kill("consumer", 0)
                fleet.kill("publisher", 0)
                run.carries()
                run.reads(target)
            publishers = fleet.stop("publisher")
            complete = drained(tmp_path)
            consumers = fleet.stop("consumer")
        finally:
            fleet.end()
    verdict = judged(tmp_path, complete=complete)
    print(f"\nkills {fleet.kills}\n{verdict}")
    assert verdict.ok, f"{verdict}\n{fleet.output()}"
    assert verdict.stored > 2 * MEMBERS * ENOUGH * len(route)
    assert set(publishers) <= {0, -signal.SIGTERM}
    assert consumers == [0] * MEMBERS, fleet.output()
