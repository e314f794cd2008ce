"""The producer of the embedded log: runs, headers, the three outcomes."""

from __future__ import annotations

import fcntl
import time
from typing import Any

import pytest
from mqsdk_log.engine.errors import DiskFull, LogError, SyncFailed, WriteFailed
from mqsdk_log.engine.partition import PartitionLog

from mqsdk.spi import Partition, Published, Rejected, Stored, Unknown

P0, P1 = Partition("orders", 0), Partition("orders", 1)
PID = "0123456789abcdef"


def publish(stage: Any, backend: Any, records: list[Any], within_s: float = 10.0) -> list[Published]:
    stage.answers.events.clear()
    backend.producer(stage.answers).publish(records, time.monotonic() + within_s)
    return list(stage.answers.events)


def read(backend: Any, partition: Partition = P0) -> list[Any]:
    found: list[Any] = backend.admin().read(partition.topic, partition.number, 0, 1000)
    return found


FIELDS = {
    "id": "id-1",
    "timestamp_ms": 1_700_000_000_123,
    "content_type": "application/json",
    "headers": (("trace", "ä"), ("trace", "b")),
    "producer": PID,
    "sequence": 41,
    "attempt": 3,
    "due_ms": 1_700_000_009_000,
    "extra": (("mq-error", "boom"),),
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"producer": "", "sequence": -1},
        {"producer": "not sixteen hex digits"},
        {"sequence": (1 << 32) + 5},
        {"content_type": None, "headers": (), "extra": (), "due_ms": None, "attempt": 1},
        {"id": "ü" * 40, "headers": (), "extra": (), "due_ms": None},
        {"timestamp_ms": 0},
    ],
)
@pytest.mark.parametrize("together", [1, 3])
def test_every_field_comes_back_as_it_was_published(stage: Any, change: dict[str, Any], together: int) -> None:
    backend = stage.topic_of(1)
    given = {**FIELDS, **change}
    records = []
    for number in range(together):
        sequence = given["sequence"] + number if given["producer"] else -1
        records.append(stage.record(P0, b"value", key=b"key", token=number, **{**given, "sequence": sequence}))
    assert publish(stage, backend, records) == [Published(0, Stored(0), together)]
    for number, found in enumerate(read(backend)):
        assert (found.position, found.key, found.value) == (number, b"key", b"value")
        for name in given:
            assert getattr(found, name) == getattr(records[number], name), name
        assert not found.redelivered


def test_a_null_key_and_an_empty_one_are_two_things(stage: Any) -> None:
    backend = stage.topic_of(1)
    publish(stage, backend, [stage.record(P0, b"", key=None), stage.record(P0, b"", key=b"", token=1)])
    assert [found.key for found in read(backend)] == [None, b""]


def test_an_attempt_beyond_the_field_is_stored_as_its_highest_value(stage: Any) -> None:
    backend = stage.topic_of(1)
    publish(stage, backend, [stage.record(P0, b"", attempt=70_000)])
    assert read(backend)[0].attempt == 65_535


def test_a_batch_over_several_partitions_keeps_the_order_of_each(stage: Any) -> None:
    backend = stage.topic_of(2)
    records = [stage.record((P0, P1)[index % 2], b"%d" % index, token=index) for index in range(6)]
    answers = {answer.token: answer for answer in publish(stage, backend, records)}
    assert answers == {index: Published(index, Stored(index // 2)) for index in range(6)}
    assert [found.value for found in read(backend, P1)] == [b"1", b"3", b"5"]


def test_another_producer_a_jump_and_a_far_time_begin_a_new_run(stage: Any) -> None:
    backend = stage.topic_of(1)
    identities = [(PID, 5, 0), (PID, 6, 0), (PID, 9, 0), (PID[::-1], 10, 0), ("", -1, 0), ("", -1, 1 << 40), (PID, (1 << 32) - 1, 0)]
    identities.append((PID, 1 << 32, 0))
    records = [
        stage.record(P0, b"%d" % index, token=index, producer=producer, sequence=sequence, timestamp_ms=1_700_000_000_000 + later)
        for index, (producer, sequence, later) in enumerate(identities)
    ]
    answers = publish(stage, backend, records)
    assert [(answer.token, answer.length) for answer in answers] == [(0, 2), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1)]
    assert [(found.producer, found.sequence, found.timestamp_ms - 1_700_000_000_000) for found in read(backend)] == identities


def test_a_payload_over_the_limit_is_rejected_alone(stage: Any) -> None:
    backend = stage.topic_of(1)
    values = [b"a", bytes(backend.capabilities.max_payload + 1), b"b"]
    answers = publish(stage, backend, [stage.record(P0, value, token=index, id=f"{index}") for index, value in enumerate(values)])
    assert [type(answer.outcome) for answer in answers] == [Stored, Rejected, Stored]
    assert answers[1].outcome.code == "too_large"  # type: ignore[union-attr]
    assert [found.value for found in read(backend)] == [b"a", b"b"]


@pytest.mark.parametrize("delayed", [False, True])
def test_what_follows_a_part_that_was_cut_for_its_size_waits_for_it(stage: Any, monkeypatch: pytest.MonkeyPatch, delayed: bool) -> None:
    backend = stage.topic_of(1)
    append, failing = PartitionLog.append, [True]

    def full_once(log: PartitionLog, records: Any, **options: Any) -> int:
        if failing.pop() if failing else False:
            raise DiskFull("full")
        return append(log, records, **options)

    monkeypatch.setattr(PartitionLog, "append", full_once)
    large = bytes(backend.capabilities.max_payload + 1)
    records = [
        stage.record(P0, b"first", token=0, producer=PID, sequence=0),
        stage.record(P0, large, token=1, producer=PID, sequence=1),
        *([stage.record(P0, b"later", token=2, due_ms=time.time_ns() // 1_000_000 + 60_000)] if delayed else []),
        stage.record(P0, b"last", token=3, producer=PID[::-1], sequence=0),
    ]
    outcomes = [answer.outcome for answer in publish(stage, backend, records)]
    assert [(outcome.code, outcome.retryable) for outcome in outcomes if isinstance(outcome, Rejected)] == [
        ("full", True), *[("throttled", True)] * (len(records) - 1),
    ]  # fmt: skip
    assert read(backend) == []


def test_a_delayed_payload_over_the_limit_is_rejected_alone_and_a_due_time_that_has_passed_is_none(stage: Any) -> None:
    backend = stage.topic_of(1)
    due_ms = time.time_ns() // 1_000_000 + 60_000
    values = [b"a", bytes(backend.capabilities.max_payload + 1), b"b"]
    answers = publish(stage, backend, [stage.record(P0, value, token=index, due_ms=due_ms) for index, value in enumerate(values)])
    assert [type(answer.outcome) for answer in answers] == [Stored, Rejected, Stored]
    assert publish(stage, backend, [stage.record(P0, values[1], due_ms=due_ms)])[0].outcome.code == "too_large"  # type: ignore[union-attr]
    assert publish(stage, backend, [stage.record(P0, b"past", due_ms=1)])[0].outcome == Stored(0)


def test_a_lock_held_by_another_process_is_throttled_at_the_deadline(stage: Any) -> None:
    backend = stage.topic_of(1)
    publish(stage, backend, [stage.record(P0, b"first")])
    with (stage.root / "topics" / "orders" / "0" / "lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        began = time.monotonic()
        (answer,) = publish(stage, backend, [stage.record(P0, b"late")], within_s=0.1)
        assert 0.05 < time.monotonic() - began < 3.0
    assert answer.outcome == Rejected("throttled", *rest(answer.outcome))
    assert [found.value for found in read(backend)] == [b"first"]


def rest(outcome: Any) -> tuple[Any, ...]:
    assert outcome.retryable
    return outcome.what, True, outcome.fix


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DiskFull("full"), "full"),
        (WriteFailed("EIO"), "backend"),
        (SyncFailed("EIO"), None),
        (LogError("odd"), "backend"),
        (OSError(5, "x"), "backend"),
    ],
)
def test_a_failed_append_says_what_is_known_of_it_and_holds_back_what_follows(
    stage: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str | None
) -> None:
    backend = stage.topic_of(1)
    append, failures = PartitionLog.append, [error]

    def failing(self: PartitionLog, *arguments: Any, **options: Any) -> int:
        if failures:
            raise failures.pop()
        return append(self, *arguments, **options)

    monkeypatch.setattr(PartitionLog, "append", failing)
    records = [stage.record(P0, b"%d" % index, token=index, producer=PID, sequence=5 * index) for index in range(2)]  # two runs
    first, second = publish(stage, backend, records)
    if code is None:
        assert isinstance(first.outcome, Unknown)
    else:
        assert isinstance(first.outcome, Rejected)
        assert first.outcome.code == code
        assert first.outcome.retryable
    assert isinstance(second.outcome, Rejected)
    assert second.outcome.retryable
    assert read(backend) == []
    assert publish(stage, backend, records)[0].outcome == Stored(0)


def test_a_topic_that_does_not_exist_has_no_route(stage: Any) -> None:
    backend = stage.topic_of(1)
    for partition in (Partition("missing", 0), Partition("orders", 7)):
        (answer,) = publish(stage, backend, [stage.record(partition, b"x")])
        assert isinstance(answer.outcome, Rejected)
        assert answer.outcome.code == "no_route"


def test_a_topic_that_was_deleted_and_made_anew_is_found_again(stage: Any) -> None:
    backend, other = stage.topic_of(1), stage.backend()
    producer = backend.producer(stage.answers)
    deadline = time.monotonic() + 10
    producer.publish([stage.record(P0, b"old")], deadline)
    other.admin().delete_topic("orders")
    producer.publish([stage.record(P0, b"lost")], deadline)
    other.admin().ensure_topic("orders", 1)
    producer.publish([stage.record(P0, b"new")], deadline)
    assert [type(answer.outcome) for answer in stage.answers.events] == [Stored, Rejected, Stored]
    assert [found.value for found in read(other)] == [b"new"]


def test_after_close_nothing_is_stored(stage: Any) -> None:
    backend = stage.topic_of(1)
    producer = backend.producer(stage.answers)
    producer.publish([stage.record(P0, b"x")], time.monotonic() + 5)
    backend.close(time.monotonic() + 5)
    producer.publish([stage.record(P0, b"y")], time.monotonic() + 5)
    producer.publish([stage.record(P1, b"y")], time.monotonic() + 5)
    assert [type(answer.outcome) for answer in stage.answers.events] == [Stored, Rejected, Rejected]


def test_no_content_is_in_the_text_of_a_refusal(stage: Any) -> None:
    backend = stage.topic_of(1)
    secret = stage.record(Partition("orders", 5), b"secret-value", key=b"secret-key", headers=(("h", "secret-header"),))
    (answer,) = publish(stage, backend, [secret])
    assert "secret" not in repr(answer)
