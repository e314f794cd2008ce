"""A topic goes to another cluster and back under load, by its configuration alone: nothing is lost, keys stay in order.

Two publishers and two consumers watch one file. Each sees a change at its own moment, one publisher seconds after all others, and one of
each role is killed while both clusters are read.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mqsdk.runtime import control
from mqsdk.testing.checker import Verdict
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
{others}
routes: [{{topics: ["*"], cluster: CLUSTER}}]
topics: {{"work": {{partitions: 4}}}}
reload: {{every: 300ms, settle: 1s}}
"""
SLOW = {"MQSDK_RELOAD__EVERY": "3s"}  # looks at the file twice before it takes it
MEMBERS = 2
ENOUGH = 150  # messages that a cluster has to carry before the next step


class Run:
    """The fleet on one file whose route is edited."""

    def __init__(self, folder: Path, others: dict[str, str], *, ordered: bool = True, config: str = CONFIG) -> None:
        """others: the blocks of the clusters beside `old` by their names."""
        self.folder = folder
        self.ordered = ordered
        self._config = config.format(others="\n".join(f"  {name}: {block}" for name, block in others.items()))
        prepare(folder, self._text("old"))
        self.fleet = Fleet(folder)
        self.fleet.variables["publisher", 1] = SLOW
        if not ordered:
            self.fleet.variables |= {("consumer", number): {"WORK": "unordered"} for number in range(MEMBERS)}

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

    def go(self, route: Sequence[str]) -> Verdict:
        """From cluster to cluster under load, one of each role killed while both are read. AssertionError when a promise is broken."""
        fleet = self.fleet
        try:
            fleet.start_all(MEMBERS)
            self.reads("old")
            for source, target in pairwise(["old", *route]):
                self.carries()
                self.route(target)
                self.reads(source, target)
                fleet.kill("consumer", 0)
                fleet.kill("publisher", 0)
                self.carries()
                self.reads(target)
            publishers = fleet.stop("publisher")
            complete = drained(self.folder)
            consumers = fleet.stop("consumer")
        finally:
            fleet.end()
        verdict = judged(self.folder, complete=complete, ordered=self.ordered)
        print(f"\n{' -> '.join(['old', *route])}: kills {fleet.kills}\n{verdict}")
        assert verdict.ok, f"{verdict}\n{fleet.output()}"
        assert verdict.stored > 2 * MEMBERS * ENOUGH * len(route)
        assert set(publishers) <= {0, -signal.SIGTERM}
        assert consumers == [0] * MEMBERS, fleet.output()
        return verdict

    def wait(self, condition: Callable[[], bool]) -> None:
        """A look is cheap, so the processes get the time between two."""
        assert comes_true(lambda: condition() or threading.Event().wait(0.05)), self.fleet.output()


Server = RedisServer | KafkaBroker | RabbitServer
STARTS: dict[str, Callable[[Path], Server]] = {
    "redis": lambda folder: RedisServer(folder, fsync="always"),
    "kafka": KafkaBroker,
    "rabbitmq": RabbitServer,
}
LEASES = {"redis": "5s", "kafka": "6s", "rabbitmq": "3s"}
IS_SOAK = "SOAK_SECONDS" in os.environ


@contextmanager
def served(folder: Path, *backends: str) -> Iterator[dict[str, str]]:
    """Servers of these kinds that have just been started: the block of a cluster for each."""
    with ExitStack() as servers:
        blocks = {}
        for backend in backends:
            (folder / f"{backend}-server").mkdir()
            server = STARTS[backend](folder / f"{backend}-server")
            servers.callback(server.stop)
            blocks[backend] = f'{{backend: {backend}, servers: ["{server.address}"], lease: {LEASES[backend]}}}'
        yield blocks


# The way back from RabbitMQ is refused to ordered consumers: it cannot tell how far a group is.
CHANGES = {"redis": ["redis", "old"]}
if IS_SOAK:
    CHANGES |= {
        "redis, again and again": ["redis", "old"] * 3,
        "kafka": ["kafka", "old"],
        "all, rabbitmq at last": ["redis", "kafka", "old", "rabbitmq"],
    }


@pytest.mark.parametrize("route", CHANGES.values(), ids=CHANGES.keys())
def test_there_and_back_under_load_loses_nothing_and_keeps_the_order_of_keys(tmp_path: Path, route: list[str]) -> None:
    with served(tmp_path, *(set(route) - {"old"})) as others:
        Run(tmp_path, others).go(route)


def test_through_every_backend_under_load_loses_nothing(tmp_path: Path) -> None:
    """Unordered: what is left on RabbitMQ may be handled beside what comes on the next cluster."""
    route = ["redis", "rabbitmq", "kafka", "old"]
    with served(tmp_path, "redis", "rabbitmq", "kafka") as others:
        Run(tmp_path, others, ordered=False).go(route * (3 if IS_SOAK else 1))
