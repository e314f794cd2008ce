"""The publisher over a scripted producer: partitions, sequences, repeats, outcomes, the sender thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from mqsdk.config.model import Cluster, PublishLimits, TopicRule
from mqsdk.errors import PublishRejected, PublishUnknown, StateError
from mqsdk.message import Receipt
from mqsdk.runtime.publisher import Publisher
from mqsdk.runtime.sender import Draft
from mqsdk.spi import (
    Admin,
    Backend,
    BackendHealth,
    Capabilities,
    Consumer,
    EventSink,
    NewRecord,
    Outcome,
    Partition,
    Producer,
    Published,
    Rejected,
    Stored,
    Subscription,
    Unknown,
)


class ManualClock:
    """Time that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def mono(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return 1_700_000_000_000

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class ScriptedProducer(Producer):
    """Gives the scripted outcomes in turn, then stores. `held` is what the backend holds, in order."""

    def __init__(self, sink: EventSink) -> None:
        self.sink = sink
        self.script: list[Outcome | None] = []
        self.held: list[NewRecord] = []
        self.calls: list[list[NewRecord]] = []
        self.before: threading.Event | None = None

    def publish(self, batch: Sequence[NewRecord], deadline: float) -> None:
        if self.before is not None:
            assert self.before.wait(3)
        self.calls.append(list(batch))
        scripted = self.script.pop(0) if self.script else None
        if scripted is None:
            base = sum(1 for record in self.held if record.partition == batch[0].partition)
            self.held += batch
            self.sink.put(Published(batch[0].token, Stored(base), len(batch)))
        else:
            for record in batch:
                self.sink.put(Published(record.token, scripted))


class FourPartitions(Admin):
    def ensure_topic(self, topic: str, partitions: int | None) -> int:
        return partitions or 4

    def partitions(self, topic: str) -> int | None:
        return None


class ScriptedBackend(Backend):
    kind = "scripted"
    name = "local"
    capabilities = Capabilities(settle="cursor", publish="inline")

    def open(self, deadline: float) -> None: ...
    def close(self, deadline: float) -> None: ...

    def producer(self, events: EventSink) -> Producer:
        self.made = ScriptedProducer(events)
        return self.made

    def consumer(self, subscription: Subscription) -> Consumer:
        raise AssertionError("no consumer here")

    def admin(self) -> Admin:
        return FourPartitions()

    def health(self) -> BackendHealth:
        return BackendHealth(ok=True)


def publisher(
    *, create: bool = True, limits: PublishLimits | None = None, threaded: bool = False
) -> tuple[Publisher, ScriptedProducer, ManualClock]:
    backend, clock = ScriptedBackend(), ManualClock()
    made = Publisher(
        Cluster(name="local", backend="scripted", create=create),
        backend,
        clock=clock,
        incarnation="00000000000000ab",
        sticky=2,
        limits=limits or PublishLimits(),
        topic_rule=lambda topic: TopicRule(pattern=topic),
        threaded=threaded,
    )
    return made, backend.made, clock


def draft(name: str, key: str | None = None) -> Draft:
    return Draft(None if key is None else key.encode(), name.encode(), name)


def test_one_message_is_stored_and_receipted() -> None:
    made, producer, _ = publisher()
    (receipt,) = made.send("orders", [draft("m1", "7")], 10.0)
    assert isinstance(receipt, Receipt)
    assert (receipt.id, receipt.topic, receipt.cluster, receipt.position) == ("m1", "orders", "local", "0")
    (record,) = producer.held
    assert record.partition == Partition("orders", receipt.partition)
    assert (record.producer, record.sequence, record.timestamp_ms) == ("00000000000000ab", 0, 1_700_000_000_000)


def test_receipts_show_positions_in_the_notation_of_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScriptedProducer, "ref", lambda self, position: f"0-{position}")
    made, producer, _ = publisher()
    answers = [made.send_one("orders", draft("m1", "7"), 10.0)]
    answers += made.send("orders", [draft("m2", "7"), draft("m3", "7")], 10.0)
    producer.script = [Rejected("throttled", "not now", retryable=True)]
    answers += made.send("orders", [draft("m4", "7")], 10.0)  # repeated, which takes the long way
    assert [answer.position for answer in answers if isinstance(answer, Receipt)] == ["0-0", "0-1", "0-2", "0-3"]


def test_many_messages_become_one_batch_per_partition_and_keep_their_order() -> None:
    made, producer, _ = publisher()
    drafts = [draft(f"m{i}", str(i % 7)) for i in range(50)]
    receipts = made.send("orders", drafts, 10.0)
    assert [receipt.id for receipt in receipts if isinstance(receipt, Receipt)] == [one.id for one in drafts]
    assert len(producer.calls) == len({record.partition for record in producer.held})
    for number in range(4):
        mine = [record for record in producer.held if record.partition.number == number]
        assert [record.sequence for record in mine] == list(range(len(mine)))
        assert [int(record.id[1:]) for record in mine] == sorted(int(record.id[1:]) for record in mine)
        for record, position in zip(mine, range(len(mine)), strict=True):
            receipt = receipts[int(record.id[1:])]
            assert isinstance(receipt, Receipt)
            assert receipt.position == str(position)


def test_keyless_messages_stick_to_one_partition_and_move_on_after_a_while() -> None:
    made, producer, _ = publisher()
    for i in range(600):
        made.send("orders", [draft(f"m{i}")], 10.0)
    numbers = [record.partition.number for record in producer.held]
    assert numbers[:512] == [2] * 512
    assert numbers[512:] == [3] * 88


def test_a_final_rejection_is_the_answer_and_is_not_repeated() -> None:
    made, producer, clock = publisher()
    producer.script = [Rejected("too_large", "too large")]
    (answer,) = made.send("orders", [draft("m1", "7")], 10.0)
    assert isinstance(answer, PublishRejected)
    assert (answer.code, answer.retryable, answer.id, answer.topic) == ("too_large", False, "m1", "orders")
    assert len(producer.calls) == 1
    assert clock.slept == []


def test_a_retryable_rejection_is_repeated_within_the_deadline() -> None:
    made, producer, clock = publisher()
    producer.script = [Rejected("full", "disk full", retryable=True)] * 3
    (answer,) = made.send("orders", [draft("m1", "7")], 10.0)
    assert isinstance(answer, Receipt)
    assert len(clock.slept) == 3


def test_the_deadline_ends_the_repeats() -> None:
    made, producer, clock = publisher()
    producer.script = [Rejected("full", "disk full", retryable=True)] * 1000
    (answer,) = made.send("orders", [draft("m1", "7")], 2.0)
    assert isinstance(answer, PublishRejected)
    assert answer.retryable
    assert 1.0 < sum(clock.slept) <= 2.0


def test_unknown_is_repeated_with_the_same_id_and_sequence() -> None:
    made, producer, _ = publisher()
    producer.script = [Unknown("no answer")]
    (answer,) = made.send("orders", [draft("m1", "7")], 10.0)
    assert isinstance(answer, Receipt)
    first, second = producer.calls
    assert (first[0].id, first[0].sequence) == (second[0].id, second[0].sequence)


def test_a_doubt_is_not_taken_away_by_a_later_rejection() -> None:
    made, producer, _ = publisher()
    producer.script = [Unknown("no answer"), Rejected("denied", "denied")]
    (answer,) = made.send("orders", [draft("m1", "7")], 10.0)
    assert isinstance(answer, PublishUnknown)
    assert answer.id == "m1"


def test_a_result_that_the_backend_does_not_give_is_unknown() -> None:
    made, producer, _ = publisher()
    producer.sink = type("Silent", (), {"put": lambda self, event: None})()
    (answer,) = made.send("orders", [draft("m1", "7")], 0.0)
    assert isinstance(answer, PublishUnknown)


def test_of_many_only_what_failed_is_repeated() -> None:
    made, producer, _ = publisher()

    def publish(batch: Sequence[NewRecord], deadline: float) -> None:
        producer.calls.append(list(batch))
        for index, record in enumerate(batch):
            failed = len(producer.calls) == 1 and index == 1
            producer.sink.put(Published(record.token, Unknown("lost") if failed else Stored(index)))

    producer.publish = publish  # type: ignore[method-assign]
    answers = made.send("orders", [draft(f"m{i}", "k") for i in range(3)], 10.0)
    assert all(isinstance(answer, Receipt) for answer in answers)
    assert [[record.id for record in call] for call in producer.calls] == [["m0", "m1", "m2"], ["m1"]]


@pytest.mark.parametrize("outcome", [Rejected("full", "disk full", retryable=True), Unknown("no answer")])
def test_a_repeat_that_fails_again_is_not_passed_by_those_behind_it(outcome: Outcome) -> None:
    made, producer, _ = publisher()
    producer.script = [outcome, outcome]  # the batch, then the first repeat
    answers = made.send("orders", [draft(f"m{i}", "k") for i in range(3)], 10.0)
    assert [record.id for record in producer.held] == ["m0", "m1", "m2"]
    assert [answer.position for answer in answers if isinstance(answer, Receipt)] == ["0", "1", "2"]


def test_what_stands_behind_a_repeat_that_fails_to_the_end_keeps_its_outcome() -> None:
    made, producer, _ = publisher()
    producer.script = [Rejected("full", "disk full", retryable=True), *[Unknown("no answer")] * 1000]
    first, second = made.send("orders", [draft("m0", "k"), draft("m1", "k")], 2.0)
    assert isinstance(first, PublishUnknown)
    assert isinstance(second, PublishRejected)
    assert producer.held == []
    assert {record.id for call in producer.calls[1:] for record in call} == {"m0"}


def test_a_missing_topic_is_refused_by_name_when_it_may_not_be_created() -> None:
    made, _, _ = publisher(create=False)
    with pytest.raises(PublishRejected, match="topic orders does not exist"):
        made.send("orders", [draft("m1")], 10.0)


def test_submitted_messages_are_carried_in_order_and_in_batches() -> None:
    made, producer, _ = publisher(threaded=True)
    producer.before = threading.Event()
    futures = [made.submit("orders", draft(f"m{i}", "k"), 10.0) for i in range(100)]
    producer.before.set()
    assert [future.result(3).id for future in futures] == [f"m{i}" for i in range(100)]
    assert [record.id for record in producer.held] == [f"m{i}" for i in range(100)]
    assert len(producer.calls) < 100
    assert made.flush(3)
    assert made.close(103.0)


def test_a_full_window_blocks_and_then_rejects() -> None:
    made, producer, _ = publisher(limits=PublishLimits(window_records=2), threaded=True)
    producer.before = threading.Event()
    made.submit("orders", draft("m0"), 10.0)
    made.submit("orders", draft("m1"), 10.0)
    with pytest.raises(PublishRejected) as caught:
        made.submit("orders", draft("m2"), 0.05)
    assert (caught.value.code, caught.value.retryable) == ("throttled", True)
    assert not made.flush(0.05)
    producer.before.set()
    assert made.flush(3)
    assert made.close(103.0)


def test_after_close_everything_is_refused() -> None:
    made, _, _ = publisher(threaded=True)
    assert made.close(103.0)
    with pytest.raises(StateError):
        made.send("orders", [draft("m0")], 1.0)
    with pytest.raises(StateError):
        made.submit("orders", draft("m0"), 1.0)


@pytest.mark.parametrize("key", ["7", None])
def test_one_at_a_time_and_many_at_a_time_store_the_same(key: str | None) -> None:
    one, producer_of_one, _ = publisher()
    many, producer_of_many, _ = publisher()
    drafts = [draft(f"m{i}", key) for i in range(600)]
    answers = [one.send_one("orders", each, 10.0) for each in drafts]
    assert answers == [answer for each in drafts for answer in many.send("orders", [each], 10.0)]
    assert producer_of_one.held == producer_of_many.held


@pytest.mark.parametrize(
    ("script", "kind", "calls"),
    [
        ([Unknown("no answer")], Receipt, 3),
        ([Rejected("full", "disk full", retryable=True)], Receipt, 3),
        ([Rejected("denied", "denied")], PublishRejected, 2),
        ([Unknown("no answer"), Rejected("denied", "denied")], PublishUnknown, 3),
    ],
)
def test_one_at_a_time_has_the_same_outcomes(script: list[Outcome | None], kind: type, calls: int) -> None:
    made, producer, _ = publisher()
    made.send_one("orders", draft("m0", "7"), 10.0)
    producer.script = script
    assert isinstance(made.send_one("orders", draft("m1", "7"), 10.0), kind)
    assert len(producer.calls) == calls


def test_every_answer_is_counted_by_its_outcome() -> None:
    made, producer, _ = publisher()
    assert made.published() == []
    made.send("orders", [draft("a"), draft("b")], 1.0)
    made.send_one("orders", draft("c"), 1.0)
    producer.script = [Rejected("denied", "denied"), Unknown("no answer"), Rejected("denied", "denied")]
    made.send("orders", [draft("d")], 1.0)
    made.send_one("orders", draft("e"), 1.0)
    made.submit("orders", draft("f"), 1.0).result(3)
    assert {outcome: count for _, outcome, count in made.published()} == {"stored": 4, "rejected": 1, "unknown": 1}
