"""What SimLog adds to the contract of `mqsdk.testing.conformance`: virtual time, faults, borrowed capabilities."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mqsdk.spi import (
    Assigned,
    Batch,
    Capabilities,
    CapabilityError,
    ConsumerEvent,
    Lost,
    NewRecord,
    Partition,
    Progress,
    Published,
    Rejected,
    Revoking,
    Settled,
    StateError,
    Stored,
    Subscription,
    Unknown,
)
from mqsdk.testing import SimBackend, SimLog, VirtualClock
from mqsdk.testing.simlog import SimConsumer

P0 = Partition("t", 0)


class Sink(list[Published]):
    def put(self, event: object) -> None:
        assert isinstance(event, Published)
        self.append(event)


def opened(store: SimLog, capabilities: Capabilities | None = None) -> SimBackend:
    backend = SimBackend(store, capabilities=capabilities) if capabilities else SimBackend(store)
    backend.open(0.0)
    return backend


def new(token: int, *, producer: str = "p", sequence: int | None = None) -> NewRecord:
    sequence = token if sequence is None else sequence
    return NewRecord(token, P0, b"k", b"v%d" % token, f"id-{sequence}", 1, producer=producer, sequence=sequence)


def publish(backend: SimBackend, records: Sequence[NewRecord]) -> list[Published]:
    sink = Sink()
    backend.producer(sink).publish(records, 0.0)
    return sink


def joined(backend: SimBackend, group: str = "g", lease_s: float = 10.0) -> SimConsumer:
    return backend.consumer(Subscription(("t",), group, lease_s=lease_s))


def poll(consumer: SimConsumer) -> list[ConsumerEvent]:
    return consumer.poll(1000, 0.0)


def test_time_stands_still_until_it_is_advanced() -> None:
    clock = VirtualClock(mono_s=5.0, wall_ms=1_000)
    assert (clock.mono(), clock.wall_ms()) == (5.0, 1_000)
    clock.advance("1m")
    assert (clock.mono(), clock.wall_ms()) == (65.0, 61_000)
    clock.advance_to(10.0)
    assert clock.mono() == 65.0


def test_a_frozen_member_loses_its_partitions_after_its_lease_and_its_settle_is_stale() -> None:
    clock = VirtualClock()
    backend = opened(SimLog(clock, partitions=1))
    backend.admin().ensure_topic("t", None)
    frozen, other = joined(backend), joined(backend)
    assert isinstance(poll(frozen)[0], Assigned)
    assert not [event for event in poll(other) if isinstance(event, Assigned)]
    clock.advance("11s")
    gained = next(event for event in poll(other) if isinstance(event, Assigned))
    assert (gained.epoch, gained.clean) == (2, False)
    assert Lost(P0, 1) in poll(frozen)
    frozen.settle(Progress(P0, 1, watermark=0, token=9))
    assert poll(frozen) == [Settled(P0, 1, 9, "stale")]


def test_an_owner_that_does_not_answer_revoking_in_time_loses_the_partition() -> None:
    clock = VirtualClock()
    backend = opened(SimLog(clock, handover_s=5.0))
    backend.admin().ensure_topic("t", 2)
    slow = joined(backend, lease_s=1000.0)
    assert len(poll(slow)) == 2
    newcomer = joined(backend, lease_s=1000.0)
    (asked,) = poll(slow)
    assert isinstance(asked, Revoking)
    assert asked.deadline == clock.mono() + 5
    clock.advance("6s")
    assert [event.clean for event in poll(newcomer) if isinstance(event, Assigned)] == [False]


def test_a_crash_releases_everything_without_a_clean_mark() -> None:
    store = SimLog(VirtualClock(), partitions=1)
    first, second = opened(store), opened(store)
    first.admin().ensure_topic("t", None)
    joined(first)
    first.crash()
    (assigned,) = poll(joined(second))
    assert isinstance(assigned, Assigned)
    assert (assigned.epoch, assigned.clean) == (2, False)


@pytest.mark.parametrize(
    ("fault", "stored"), [("rejected", 0), ("unknown_stored", 1), ("unknown_lost", 0)], ids=["rejected", "unknown-stored", "unknown-lost"]
)
def test_a_failed_publish_fails_again_when_it_is_repeated_but_a_new_one_passes(fault: str, stored: int) -> None:
    store = SimLog(VirtualClock(), partitions=1)
    backend = opened(store)
    backend.admin().ensure_topic("t", None)
    store.fail_publish(fault)  # type: ignore[arg-type]
    kind = Rejected if fault == "rejected" else Unknown
    outcomes = [publish(backend, [new(1)])[0].outcome, publish(backend, [new(1)])[0].outcome]
    assert [type(outcome) for outcome in outcomes] == [kind, kind]
    assert len(store.records("t")) == stored
    assert publish(backend, [new(2, sequence=2)])[0].outcome == Stored(stored)


def test_fail_publish_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="outcome is one of"):
        SimLog().fail_publish("lost")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        SimLog().fail_publish("rejected", 0)


def test_results_come_in_runs_and_faults_break_them() -> None:
    store = SimLog(VirtualClock(), partitions=1)
    backend = opened(store)
    backend.admin().ensure_topic("t", None)
    assert publish(backend, [new(token) for token in range(100)]) == [Published(0, Stored(0), 100)]
    store.fail_publish("rejected")
    assert [type(result.outcome) for result in publish(backend, [new(200), new(201)])] == [Rejected, Stored]


RABBIT = Capabilities(
    settle="receipt", publish="async", history=False, replay=False, read_by_position=False, by_time=False, keeps_topic=False, max_payload=10
)


def test_borrowed_capabilities_are_refused_as_the_named_backend_would() -> None:
    backend = opened(SimLog(VirtualClock(), partitions=1), RABBIT)
    admin = backend.admin()
    admin.ensure_topic("t", None)
    refusal = publish(backend, [new(1)])[0].outcome
    assert isinstance(refusal, Rejected)
    assert refusal.code == "no_group"
    with pytest.raises(CapabilityError) as refused:
        admin.ensure_group("t", "g", "earliest")
    assert refused.value.capability == "history"
    admin.ensure_group("t", "g")
    for call in (lambda: admin.reset("t", "g", {0: 0}), lambda: admin.read("t", 0, 0, 1), lambda: admin.locate("t", 0, 0)):
        with pytest.raises(CapabilityError):
            call()


def test_a_receipt_backend_remembers_each_settled_position() -> None:
    backend = opened(SimLog(VirtualClock(), partitions=1), RABBIT)
    backend.admin().ensure_topic("t", None)
    consumer = joined(backend)
    poll(consumer)
    publish(backend, [new(token) for token in range(4)])
    consumer.credit(P0, 10, 1000)
    poll(consumer)
    consumer.settle(Progress(P0, 1, watermark=0, done=((1, 3),), high=3))
    consumer.close(0.0)
    again = joined(backend)
    poll(again)
    again.credit(P0, 10, 1000)
    (batch,) = poll(again)
    assert isinstance(batch, Batch)
    assert [record.position for record in batch.records] == [0, 3]


def test_publish_order_is_kept_across_partitions_for_whoever_looks() -> None:
    store = SimLog(VirtualClock(), partitions=2)
    backend = opened(store)
    backend.admin().ensure_topic("t", None)
    for token in range(6):
        publish(backend, [new(token)._replace(partition=Partition("t", token % 2))])
    assert [record.value for _, record in store.records("t")] == [b"v%d" % token for token in range(6)]


def test_nothing_works_before_open_and_after_close() -> None:
    backend = SimBackend(SimLog(VirtualClock()))
    for call in (backend.admin, lambda: backend.producer(Sink()), lambda: joined(backend)):
        with pytest.raises(StateError):
            call()
