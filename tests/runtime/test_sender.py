"""The sender thread: order between what was submitted and what is sent at once, the window, deadlines, cancels, failures of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from mqsdk.config.model import PublishLimits
from mqsdk.errors import PublishRejected
from mqsdk.message import Receipt
from mqsdk.runtime.clock import SystemClock
from mqsdk.runtime.publisher import Publisher
from mqsdk.runtime.sender import Answer, Draft, Sender
from tests.runtime.test_publisher import draft, publisher

BOUND_S = 10.0


def until(condition: Callable[[], bool]) -> None:
    end, pause = time.monotonic() + BOUND_S, threading.Event()
    while not condition():
        assert time.monotonic() < end, "condition not met in time"
        pause.wait(0.002)


class Stuck:
    """A publisher whose sender is inside the send of message `first` until `go` is set; other calls pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limits: PublishLimits | None = None) -> None:
        self.made, self.producer, _ = publisher(threaded=True, limits=limits)
        self.go, inside = threading.Event(), threading.Event()
        publish = self.producer.publish

        def slow(batch: Sequence[Any], deadline: float) -> None:
            if batch[0].id == "first":
                inside.set()
                assert self.go.wait(BOUND_S)
            publish(batch, deadline)

        monkeypatch.setattr(self.producer, "publish", slow)
        self.first = self.made.submit("orders", draft("first", "k"), 10.0)
        assert inside.wait(BOUND_S)

    @property
    def records(self) -> int:
        assert self.made._sender is not None
        return self.made._sender.records

    def stored(self) -> list[str]:
        assert self.made.flush(BOUND_S)
        return [record.id for record in self.producer.held]


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Stuck:
    return Stuck(monkeypatch)


SENDS: list[Callable[[Publisher, str], Any]] = [
    lambda made, name: made.send_one("orders", draft(name, "k"), BOUND_S),
    lambda made, name: made.send("orders", [draft(name, "k")], BOUND_S)[0],
]


@pytest.mark.parametrize("send", SENDS)
def test_a_send_never_passes_what_was_submitted_before(stuck: Stuck, send: Callable[[Publisher, str], Any]) -> None:
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send, stuck.made, "second")
        until(lambda: stuck.records == 2 or sending.done())
        stuck.go.set()
        assert isinstance(sending.result(BOUND_S), Receipt)
    assert stuck.stored() == ["first", "second"]


def test_a_send_behind_one_that_takes_too_long_is_rejected_in_time_and_never_sent(stuck: Stuck) -> None:
    with pytest.raises(PublishRejected) as caught:
        stuck.made.send_one("orders", draft("second", "k"), 0.05)
    assert (caught.value.code, caught.value.retryable, caught.value.id) == ("throttled", True, "second")
    stuck.go.set()
    assert stuck.stored() == ["first"]


def test_a_send_in_a_callback_of_the_senders_own_thread_does_not_wait_for_itself(stuck: Stuck) -> None:
    stuck.made.submit("orders", draft("last", "k"), 10.0)
    answers: list[Any] = []
    stuck.first.add_done_callback(lambda _: answers.append(stuck.made.send_one("orders", draft("inside", "k"), 3.0)))
    stuck.go.set()
    assert "inside" in stuck.stored()
    assert isinstance(answers[0], Receipt)


def test_nobody_passes_a_caller_that_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = Stuck(monkeypatch, PublishLimits(window_records=1))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(stuck.made.submit, "orders", draft("waits", "k"), BOUND_S)
        until(lambda: stuck.records == 2)
        stuck.made.submit("orders", draft("later", "k"), BOUND_S, block=False)
        assert not waiting.done()
        stuck.go.set()
        waiting.result(BOUND_S).result(BOUND_S)
    assert stuck.stored() == ["first", "waits", "later"]


def test_what_is_cancelled_before_it_is_begun_is_never_sent_and_no_error(stuck: Stuck, caplog: pytest.LogCaptureFixture) -> None:
    futures: list[Future[Any]] = [
        stuck.made.submit("orders", draft("one", "k"), 10.0),
        stuck.made.submit_many("orders", [draft("many", "k")], 10.0),
    ]
    assert all(future.cancel() for future in futures)
    assert not stuck.first.cancel()  # under way: nobody knows
    stuck.go.set()
    assert stuck.stored() == ["first"]
    assert caplog.records == []


def test_a_callback_that_exits_does_not_end_the_sender(stuck: Stuck, caplog: pytest.LogCaptureFixture) -> None:
    def leave(future: Future[Receipt]) -> None:
        raise SystemExit

    stuck.first.add_done_callback(leave)
    second = stuck.made.submit("orders", draft("second", "k"), 10.0)
    stuck.go.set()
    assert second.result(BOUND_S).id == "second"
    assert "a callback of a publish future failed" in caplog.text


def test_a_thread_that_cannot_be_started_is_a_rejection_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made, producer, _ = publisher(threaded=True)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot_start)
        with pytest.raises(PublishRejected) as caught:
            made.submit("orders", draft("m0"), 10.0)
    assert (caught.value.code, caught.value.retryable, caught.value.id) == ("throttled", True, "m0")
    assert made.submit("orders", draft("m1"), 10.0).result(BOUND_S).id == "m1"
    assert [record.id for record in producer.held] == ["m1"]


def cannot_start(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(("timeouts", "batches"), [((8.0, 10.0, 9.0), [3]), ((0.5, 10.0, 9.0), [1, 2]), ((10.0, 9.0, 0.5), [2, 1])])
def test_only_parcels_with_about_the_same_time_left_travel_together(timeouts: Sequence[float], batches: list[int]) -> None:
    """Those that do share the shortest time, so a short one would end the others early."""
    sent: list[tuple[int, float]] = []
    inside, go = threading.Event(), threading.Event()

    def send(topic: str, drafts: Sequence[Draft], timeout_s: float) -> list[Answer]:
        inside.set()
        assert go.wait(BOUND_S)
        sent.append((len(drafts), timeout_s))
        return [Receipt(draft.id, topic, "local", 0, None) for draft in drafts]

    sender = Sender(send, SystemClock(), PublishLimits(), "local")
    sender.submit("orders", draft("first"), 10.0)
    assert inside.wait(BOUND_S)
    for number, timeout_s in enumerate(timeouts):
        sender.submit("orders", draft(f"m{number}"), timeout_s)
    go.set()
    assert sender.flush(BOUND_S)
    assert [count for count, _ in sent[1:]] == batches
    assert sender.close(time.monotonic() + BOUND_S)


def test_repeats_of_two_calls_in_one_partition_are_both_over_before_a_third_goes_on() -> None:
    made, producer, _ = publisher()
    made.send_one("orders", draft("m0", "k"), 10.0)
    topic = made._topics["orders"]
    number = producer.held[0].partition.number
    first, second = topic.repair(number), topic.repair(number)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with ThreadPoolExecutor(1) as pool:
        third = pool.submit(topic.wait_for_repair, number, time.monotonic() + BOUND_S, SystemClock())
        with pytest.raises(TimeoutError):
            third.result(0.05)
        second.__exit__(None, None, None)
        assert third.result(BOUND_S) is None
    assert not topic.repairing
