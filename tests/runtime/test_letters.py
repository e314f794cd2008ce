"""`dlq_follow_key` with real threads: the topic of dead letters is read, over restarts, until the letters are redriven or purged."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from mqsdk.core.actions import Letters
from mqsdk.core.retry import Backoff, RetryPolicy
from mqsdk.errors import BackendError, CapabilityError
from mqsdk.runtime import letters as watching
from mqsdk.runtime.clock import SystemClock
from mqsdk.runtime.deadletters import Remover, letters
from mqsdk.runtime.letters import LetterWatch
from mqsdk.runtime.redrive import Redrive
from mqsdk.spi import Capabilities, EventSink, NewRecord, Partition, ProducerEvent, Record
from mqsdk.testing.simadmin import SimAdmin
from mqsdk.testing.simlog import MEMORY, SimBackend, SimLog
from tests.runtime.test_redrive import HandClock
from tests.runtime.test_supervisor import BOUND_S, Process, Recorder, fails

PLAIN = {"concurrency": 1}
FOLLOW = {"retry": RetryPolicy(attempts=1, backoff=Backoff("1ms", jitter=0), dlq_follow_key=True)}


@pytest.fixture
def process() -> Iterator[Process]:
    made = Process(SimLog(partitions=2))
    yield made
    made.supervisor.close(BOUND_S)


def backend(process: Process) -> SimBackend:
    found = process.supervisor.clusters.backend("local")
    assert isinstance(found, SimBackend)
    return found


def left(process: Process) -> list[tuple[str, str]]:
    """Value and reason of each letter, in order."""
    found = letters(backend(process).admin(), "orders", "billing")
    return [(letter.record.value.decode(), letter.reason) for letter in found]


def test_later_messages_follow_over_a_restart_until_the_letters_are_redriven(process: Process) -> None:
    handler = Recorder(fails(b"a1"))
    process.start(handler, tuning=FOLLOW, ordered=True)
    process.publish("orders", "a1", "a2", key="a")
    process.publish("orders", "b1", key="b")
    process.wait(lambda: process.lag() == 0)
    process.supervisor.stop(BOUND_S)
    assert sorted(handler.seen) == [(b"a1", 1), (b"b1", 1)]

    healed = Recorder()
    process.start(healed, tuning=FOLLOW, ordered=True)
    process.publish("orders", "a3", key="a")
    process.publish("orders", "b2", key="b")
    process.wait(lambda: process.lag() == 0)
    assert left(process) == [("a1", "exhausted"), ("a2", "followed"), ("a3", "followed")]
    assert healed.seen == [(b"b2", 1)]

    at = backend(process)
    moved = list(Redrive(at, "orders", "billing", HandClock(), BOUND_S).run(letters(at.admin(), "orders", "billing")))[-1]
    assert (moved.moved, left(process)) == (3, [])
    healed.wait_for(4)
    assert healed.seen[1:] == [(b"a1", 1), (b"a2", 1), (b"a3", 1)]


def test_a_running_consumer_learns_that_its_letters_were_purged(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "EVERY_S", 0.01)
    handler = Recorder(fails(b"a1"))
    process.start(handler, tuning=FOLLOW, ordered=True)
    process.publish("orders", "a1", key="a")
    process.wait(lambda: left(process) == [("a1", "exhausted")])
    following = process.supervisor.loops[0][1]._machine._following
    process.wait(lambda: bool(following._read))
    at = backend(process)
    Remover(at, "orders", "billing", lambda: 0).remove(list(letters(at.admin(), "orders", "billing")), BOUND_S)
    process.wait(lambda: not following._read and not following._stored)
    process.publish("orders", "a2", key="a")
    assert handler.wait_for(2)[1] == (b"a2", 1)


def test_while_the_letters_cannot_be_read_nothing_starts_and_health_says_why(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "EVERY_S", 0.01)
    backend(process).admin().ensure_topic("orders.billing.dlq", 1)
    handler = Recorder()

    def fail(*_: object) -> tuple[int, int]:
        raise BackendError("the cluster does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(SimAdmin, "bounds", fail)
        process.start(handler, tuning=FOLLOW, ordered=True)
        process.publish("orders", "a1", key="a")
        process.wait(lambda: bool(process.supervisor.health(True).problems))
        health = process.supervisor.health(True)
        assert (health.ready, health.problems, handler.seen) == (
            False,
            ("the dead letters of consumer orders/billing cannot be read: the cluster does not answer",),
            [],
        )
    assert handler.wait_for(1) == [(b"a1", 1)]  # asked once, told when it could be read
    assert process.supervisor.health(True).ready


@pytest.mark.parametrize(
    ("capabilities", "spec", "capability"),
    [
        (replace(MEMORY, read_by_position=False), {"ordered": True}, "read_by_position"),
        (MEMORY, {}, "ordered"),
        (MEMORY, {"ordered": True, "broadcast": True}, "broadcast"),
        (MEMORY, {"ordered": True, "dead_letter": "failed"}, "dead_letter"),
    ],
)
def test_what_could_not_follow_is_refused_at_the_start(capabilities: Capabilities, spec: dict[str, Any], capability: str) -> None:
    process = Process(SimLog(), capabilities)
    with pytest.raises(CapabilityError, match="dlq_follow_key") as caught:
        process.start(Recorder(), tuning=FOLLOW, **spec)
    assert (caught.value.capability, caught.value.consumer) == (capability, "orders/billing")
    process.supervisor.close(BOUND_S)


def test_a_reload_may_turn_it_on_for_consumers_that_can(process: Process) -> None:
    process.start(Recorder(), ordered=True, tuning=PLAIN)
    asked = replace(process.configuration, defaults={"retry": {"dlq_follow_key": True}})
    assert process.supervisor.refused(asked) == []
    process.start(Recorder(), group="mail", tuning=PLAIN)
    assert [one.key for one in process.supervisor.refused(asked)] == ["consumers.orders/mail.retry.dlq_follow_key"]


# --- the watch -------------------------------------------------------------------------------------------------------------------


class Sink(EventSink):
    def put(self, event: ProducerEvent, /) -> None:
        """Nothing is looked at."""


class Watched:
    """A watch without a thread over a topic of dead letters."""

    def __init__(self) -> None:
        self.backend = SimBackend(SimLog())
        self.backend.open(0.0)
        self.told: list[Letters] = []
        self.watch = LetterWatch(self.backend.admin, "t", "g", self.told.append, SystemClock(), threaded=False)

    def put(self, *keys: bytes | None) -> None:
        self.backend.admin().ensure_topic("t.g.dlq", 1)
        place = Partition("t.g.dlq", 0)
        new = [NewRecord(number, place, key, b"x", f"id-{number}", 0) for number, key in enumerate(keys)]
        self.backend.producer(Sink()).publish(new, 0.0)

    def purge(self, *positions: int) -> None:
        found = [one for one in letters(self.backend.admin(), "t", "g") if one.position in positions]
        Remover(self.backend, "t", "g", lambda: 0).remove(found, 1.0)

    def keys(self) -> set[bytes]:
        self.watch.ask()
        return set(self.told[-1].keys)


def test_a_key_is_followed_until_its_last_letter_is_done() -> None:
    at = Watched()
    assert at.keys() == set()  # there is no such topic yet
    at.put(b"a", b"b", b"a", None)
    assert at.keys() == {b"a", b"b"}
    at.purge(0, 1)
    assert at.keys() == {b"a"}
    at.purge(2)
    at.put(b"c")
    assert at.keys() == {b"c"}


def test_only_what_is_new_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    at, read = Watched(), list[int]()

    def note(_: SimAdmin, topic: str, partition: int, position: int, limit: int) -> list[Record]:
        read.append(position)
        return []

    monkeypatch.setattr(SimAdmin, "read", note)
    at.put(*[b"a"] * 1000)
    at.keys()
    at.put(b"b")
    at.keys()
    at.keys()
    assert read == [0, 1000]


def test_letters_that_retention_took_are_followed_no_more() -> None:
    at = Watched()
    at.put(b"a", b"b")
    assert at.keys() == {b"a", b"b"}
    at.backend.store.logs[Partition("t.g.dlq", 0)].trim(1)
    assert at.keys() == {b"b"}


def test_what_cannot_be_read_is_told_once_and_asked_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    at = Watched()
    at.put(b"a")

    def fail(*_: object) -> int:
        raise BackendError("the cluster does not answer")

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, "mqsdk.consumer"):
        patch.setattr("mqsdk.testing.simadmin.SimAdmin.bounds", fail)
        at.watch.ask()
        at.watch.ask()
    assert (at.told, len(caplog.records)) == ([], 1)
    assert at.watch.problem == "the dead letters of consumer t/g cannot be read: the cluster does not answer"
    assert at.keys() == {b"a"}
    assert at.watch.problem == ""


def test_more_letters_than_anybody_wants_in_memory_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MOST_LETTERS", 2)
    at = Watched()
    at.put(b"a", b"b", b"c")
    at.watch.ask()
    assert (at.told, "more than 2 of them" in at.watch.problem) == ([], True)
    at.purge(0)
    assert at.keys() == {b"b", b"c"}
