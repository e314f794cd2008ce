"""Delay by layer 2 with real threads over the in-memory log: who moves, when movers begin and end, and long waits for a retry."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from mqsdk.core import delay
from mqsdk.core.actions import Failure
from mqsdk.core.retry import Backoff, RetryPolicy
from mqsdk.errors import AccessDenied, BackendError
from mqsdk.message import Receipt
from mqsdk.runtime import launching, movers
from mqsdk.runtime.sender import Draft
from mqsdk.spi import Partition, Record
from mqsdk.testing.simadmin import SimAdmin
from mqsdk.testing.simlog import MEMORY, SimBackend, SimLog
from tests.runtime.test_supervisor import Process, Recorder

LADDER = replace(MEMORY, delay="ladder")


@pytest.fixture
def store() -> SimLog:
    return SimLog(partitions=4)


@pytest.fixture
def process(store: SimLog) -> Iterator[Process]:
    made = Process(store, capabilities=LADDER)
    yield made
    made.supervisor.close(5.0)


def publish_later(process: Process, *waits_ms: int, topic: str = "orders") -> list[Receipt]:
    now_ms = time.time_ns() // 1_000_000
    drafts = [Draft(None, b"%d" % wait, f"m{wait}", due_ms=now_ms + wait) for wait in waits_ms]
    return [answer for answer in process.supervisor.publisher(topic).send(topic, drafts, 5.0) if isinstance(answer, Receipt)]


def movers_of(process: Process) -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("mqsdk-mover-")}


def test_a_process_with_consumers_moves_what_it_publishes(process: Process) -> None:
    handler = Recorder()
    process.start(handler)
    publish_later(process, 120, 40, 80)
    assert [value for value, _ in handler.wait_for(3)] == [b"40", b"80", b"120"]


def test_nothing_runs_and_no_topic_is_made_before_something_is_delayed(process: Process, store: SimLog) -> None:
    handler = Recorder()
    process.start(handler)
    process.publish("orders", "a")
    handler.wait_for(1)
    assert (sorted(store.topics), movers_of(process)) == (["orders"], set())


def test_one_that_only_publishes_moves_nothing_and_one_that_consumes_takes_it_up(
    process: Process, store: SimLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(movers, "LOOK_EVERY_S", 0.01)
    web = Process(store, capabilities=LADDER)
    publish_later(web, 50)
    threading.Event().wait(0.2)
    assert store.records("orders") == []
    assert movers_of(web) == set()
    handler = Recorder()
    process.start(handler)
    handler.wait_for(1)
    publish_later(web, 30)
    handler.wait_for(2)
    web.supervisor.close(5.0)


def test_the_first_delayed_message_of_another_process_is_noticed(process: Process, store: SimLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movers, "LOOK_EVERY_S", 0.01)
    handler = Recorder()
    process.start(handler)
    web = Process(store, capabilities=LADDER)
    publish_later(web, 30)
    handler.wait_for(1)
    web.supervisor.close(5.0)


def test_movers_end_with_the_consumers_and_begin_again(process: Process) -> None:
    handler = Recorder()
    process.start(handler)
    publish_later(process, 10)
    handler.wait_for(1)
    assert movers_of(process) == {"mqsdk-mover-local"}
    assert process.supervisor.stop(5.0).clean
    process.wait(lambda: movers_of(process) == set())
    publish_later(process, 10)
    process.start(handler)
    handler.wait_for(2)


def test_what_keeps_a_process_from_moving_is_told_in_its_health(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movers, "LOOK_EVERY_S", 0.01)
    refused = True
    real = SimBackend.consumer

    def consumer(self: SimBackend, subscription: object) -> object:
        if refused and getattr(subscription, "group", "") == delay.GROUP:
            raise BackendError("no right to read mq.delay.1s")
        return real(self, subscription)  # type: ignore[arg-type]

    monkeypatch.setattr(SimBackend, "consumer", consumer)
    handler = Recorder()
    process.start(handler)
    publish_later(process, 10)
    process.wait(lambda: bool(process.supervisor.movers.problems()))
    health = process.supervisor.health(running=True)
    assert health.problems == ("delayed messages of cluster local are not moved by this process: no right to read mq.delay.1s",)
    assert health.ready
    refused = False
    handler.wait_for(1)
    process.wait(lambda: not process.supervisor.health(running=True).problems)


def test_one_that_may_not_look_and_delays_nothing_has_no_trouble(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker does not say of a topic that may not be read whether it exists."""
    monkeypatch.setattr(movers, "LOOK_EVERY_S", 0.01)
    looked = threading.Semaphore(0)

    def partitions(self: SimAdmin, topic: str) -> int | None:
        if topic.startswith("mq.delay."):
            looked.release()
            raise AccessDenied("no right to read mq.delay.1s")
        return real(self, topic)

    real = SimAdmin.partitions
    monkeypatch.setattr(SimAdmin, "partitions", partitions)
    process.start(Recorder())
    for _ in range(3):
        assert looked.acquire(timeout=5)
    assert process.supervisor.health(running=True).problems == ()
    process.supervisor.movers.look()
    process.wait(lambda: bool(process.supervisor.health(running=True).problems))


# --- retries ------------------------------------------------------------------------------------------------------------------------


def test_a_long_wait_for_a_retry_is_no_message_in_memory_and_comes_back_to_its_group_alone(
    process: Process, store: SimLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "LONGEST_WAIT_S", 0.2)
    policy = RetryPolicy(attempts=3, backoff=Backoff("300ms", factor=1, jitter=0))
    seen: list[tuple[float, Record]] = []

    def behave(record: Record) -> Failure | None:
        seen.append((time.monotonic(), record))
        return Failure("error", "ValueError: no") if len(seen) < 3 else None

    handler, other = Recorder(behave), Recorder()
    process.start(other, group="mail")
    process.start(handler, tuning={"retry": policy})
    process.publish("orders", "a", key="k")
    assert [attempt for _, attempt in handler.wait_for(3)] == [1, 2, 3]
    times = [at for at, _ in seen]
    assert all(later - earlier >= 0.3 for earlier, later in pairwise(times))
    last = seen[-1][1]
    assert (last.key, last.value, last.id) == (b"k", b"a", "a")
    assert dict(last.extra)["mq-redrive-of"].startswith("orders:")
    process.wait(lambda: process.lag() == 0)
    assert (other.seen, len(store.records("orders")), store.topics["orders.billing.retry"]) == ([(b"a", 1)], 1, 4)


def test_an_ordered_consumer_waits_in_place(process: Process, store: SimLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "LONGEST_WAIT_S", 0.01)
    policy = RetryPolicy(attempts=2, backoff=Backoff("50ms", jitter=0))
    failures = [Failure("error", "ValueError: no")]
    handler = Recorder(lambda record: failures.pop() if failures else None)
    process.start(handler, ordered=True, tuning={"retry": policy})
    process.publish("orders", "a", key="k")
    handler.wait_for(2)
    assert "orders.billing.retry" not in store.topics
    assert Partition("orders", 0) in store.logs
