"""The publisher over a producer that answers later: what is handed over before what is waited for, late and missing results, repeats."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from mqsdk.config.model import Cluster, PublishLimits, TopicRule
from mqsdk.errors import PublishRejected, PublishUnknown
from mqsdk.message import Receipt
from mqsdk.runtime import results
from mqsdk.runtime.clock import SystemClock
from mqsdk.runtime.publisher import Publisher
from mqsdk.runtime.sender import Draft
from mqsdk.spi import (
    Admin,
    Backend,
    BackendHealth,
    Capabilities,
    Consumer,
    EventSink,
    Flow,
    NewRecord,
    Producer,
    Published,
    Rejected,
    Stored,
    Subscription,
    Unknown,
)


class LaterProducer(Producer):
    """Keeps what was handed over until the test answers."""

    def __init__(self, sink: EventSink) -> None:
        self.sink = sink
        self.calls: list[list[NewRecord]] = []
        self.changed = threading.Condition()
        self.error: Exception | None = None

    def publish(self, batch: Sequence[NewRecord], deadline: float) -> None:
        if self.error is not None:
            raise self.error
        with self.changed:
            self.calls.append(list(batch))
            self.changed.notify_all()

    def handed_over(self, calls: int) -> list[list[NewRecord]]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.calls) >= calls, 10)
            return list(self.calls)


class FourPartitions(Admin):
    def ensure_topic(self, topic: str, partitions: int | None) -> int:
        return 4


class LaterBackend(Backend):
    kind = "later"
    name = "far"
    capabilities = Capabilities(settle="cursor", publish="async")

    def open(self, deadline: float) -> None: ...
    def close(self, deadline: float) -> None: ...

    def producer(self, events: EventSink) -> Producer:
        self.made = LaterProducer(events)
        return self.made

    def consumer(self, subscription: Subscription) -> Consumer:
        raise AssertionError("no consumer here")

    def admin(self) -> Admin:
        return FourPartitions()

    def health(self) -> BackendHealth:
        return BackendHealth(ok=True)


@pytest.fixture
def backend() -> LaterBackend:
    return LaterBackend()


@pytest.fixture
def publisher(backend: LaterBackend) -> Publisher:
    return Publisher(
        Cluster(name="far", backend="later", create=True),
        backend,
        clock=SystemClock(),
        incarnation="00000000000000ab",
        sticky=0,
        limits=PublishLimits(),
        topic_rule=lambda topic: TopicRule(pattern=topic),
    )


def draft(name: str, key: str | None = None) -> Draft:
    return Draft(None if key is None else key.encode(), b"v", name)


def test_every_partition_is_handed_over_before_an_answer_is_waited_for(publisher: Publisher, backend: LaterBackend) -> None:
    drafts = [draft(f"m{number}", f"key{number}") for number in range(20)]
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(publisher.send, "t", drafts, 10.0)
        calls = backend.made.handed_over(4)
        assert {record.partition.number for call in calls for record in call} == {0, 1, 2, 3}
        assert not sending.done()
        for call in reversed(calls):
            backend.made.sink.put(Published(call[0].token, Stored(100), len(call)))
        answers = sending.result(10)
    assert [answer.id for answer in answers if isinstance(answer, Receipt)] == [f"m{number}" for number in range(20)]


def test_one_message_waits_for_its_answer(publisher: Publisher, backend: LaterBackend) -> None:
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(publisher.send_one, "t", draft("a"), 10.0)
        [[record]] = backend.made.handed_over(1)
        backend.made.sink.put(Flow(True, "memory"))
        assert not sending.done()
        backend.made.sink.put(Published(record.token, Stored(7)))
        answer = sending.result(10)
    assert isinstance(answer, Receipt)
    assert answer.position == "7"


def test_results_may_come_in_pieces_and_twice(publisher: Publisher, backend: LaterBackend) -> None:
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(publisher.send, "t", [draft(name) for name in "abcd"], 10.0)
        [call] = backend.made.handed_over(1)
        put = backend.made.sink.put
        put(Published(call[2].token, Rejected("denied", "no")))
        put(Published(call[0].token, Stored(5), 2))
        put(Published(call[0].token, Unknown("again"), 2))
        assert not sending.done()
        put(Published(call[3].token, Stored(7)))
        answers = sending.result(10)
    assert [type(answer) for answer in answers] == [Receipt, Receipt, PublishRejected, Receipt]


def test_an_answer_that_does_not_come_is_unknown_and_one_that_comes_late_is_dropped(
    publisher: Publisher, backend: LaterBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "MARGIN_S", 0.01)
    answer = publisher.send("t", [draft("a")], 0.05)[0]
    assert isinstance(answer, PublishUnknown)
    late = backend.made.calls[0][0]
    backend.made.sink.put(Published(late.token, Stored(1)))
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(publisher.send, "t", [draft("b")], 10.0)
        backend.made.sink.put(Published(backend.made.handed_over(2)[1][0].token, Stored(2)))
        assert isinstance(sending.result(10)[0], Receipt)


def test_what_failed_is_repeated_one_after_the_other_in_order(publisher: Publisher, backend: LaterBackend) -> None:
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(publisher.send, "t", [draft(name) for name in "abc"], 10.0)
        [call] = backend.made.handed_over(1)
        backend.made.sink.put(Published(call[0].token, Stored(1)))
        for record in call[1:]:
            backend.made.sink.put(Published(record.token, Unknown("the connection was cut")))
        for number, record in enumerate(call[1:], 2):
            calls = backend.made.handed_over(number)
            assert calls[number - 1] == [record._replace(again=True)]
            assert len(calls) == number  # the next one waits for this answer
            backend.made.sink.put(Published(record.token, Stored(number)))
        answers = sending.result(10)
    assert [answer.position for answer in answers if isinstance(answer, Receipt)] == ["1", "2", "3"]


def test_a_repeat_that_fails_again_is_not_passed(publisher: Publisher, backend: LaterBackend) -> None:
    cut = Unknown("the connection was cut")
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(publisher.send, "t", [draft(name) for name in "ab"], 10.0)
        [(first, second)] = backend.made.handed_over(1)
        put = backend.made.sink.put
        put(Published(first.token, cut))
        put(Published(second.token, cut))
        assert backend.made.handed_over(2)[1] == [first._replace(again=True)]
        put(Published(first.token, cut))
        assert backend.made.handed_over(3)[2] == [first._replace(again=True)]
        put(Published(first.token, Stored(1)))
        assert backend.made.handed_over(4)[3] == [second._replace(again=True)]
        put(Published(second.token, Stored(2)))
        answers = sending.result(10)
    assert [answer.position for answer in answers if isinstance(answer, Receipt)] == ["1", "2"]


def test_a_producer_that_raises_leaves_nothing_waiting(publisher: Publisher, backend: LaterBackend) -> None:
    backend.made.error = RuntimeError("closed")
    with pytest.raises(RuntimeError):
        publisher.send("t", [draft("a")], 10.0)
    assert publisher._results._calls == {}  # type: ignore[attr-defined]
