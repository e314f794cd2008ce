"""Publishing: bad arguments at the call, three outcomes, and where a publish is refused."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mqsdk import (
    App,
    InvalidMessage,
    Message,
    Outgoing,
    PublishError,
    PublishRejected,
    PublishUnknown,
    Receipt,
    StateError,
    current_message,
)
from mqsdk.api.outgoing import Ids
from mqsdk.api.turns import Turns
from mqsdk.config.model import PublishLimits
from mqsdk.errors import PublishManyFailed, Unavailable
from mqsdk.runtime.environment import Environment
from mqsdk.spi import Published, Rejected, Stored, Unknown
from mqsdk.testing.simlog import MEMORY, SimBackend, SimLog
from tests.api.conftest import BOUND_S, MEMORY_ONLY, Opener, Seen

MIB = 1024 * 1024


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "topic: empty": ({"topic": ""}, "topic"),
    "topic: 300 characters": ({"topic": "a" * 300}, "topic"),
    "topic: ..": ({"topic": ".."}, "topic"),
    "topic: a/b": ({"topic": "a/b"}, "topic"),
    "topic: NUL": ({"topic": "a\0b"}, "topic"),
    "topic: newline": ({"topic": "orders\n"}, "topic"),
    "topic: percent": ({"topic": "%2e%2e"}, "topic"),
    "topic: zero-width": ({"topic": "a\u200bb"}, "topic"),
    "topic: reserved suffix dlq": ({"topic": "orders.billing.dlq"}, "topic"),
    "topic: reserved suffix retry": ({"topic": "orders.billing.retry"}, "topic"),
    "topic: reserved suffix delay": ({"topic": "orders.delay"}, "topic"),
    "topic: reserved prefix": ({"topic": "mq.orders"}, "topic"),
    "topic: not text": ({"topic": 5}, "topic"),
    "topic: a list": ({"topic": ["orders"]}, "topic"),
    "key: empty": ({"key": ""}, "key"),
    "key: empty bytes": ({"key": b""}, "key"),
    "key: 1 MiB": ({"key": "SECRET" * 175_000}, "key"),
    "key: 1,025 bytes": ({"key": b"k" * 1025}, "key"),
    "key: 1,025 bytes in 513 characters": ({"key": "é" * 513}, "key"),
    "key: not UTF-8": ({"key": "SECRET\ud800"}, "key"),
    "key: bool": ({"key": True}, "key"),
    "key: NaN": ({"key": math.nan}, "key"),
    "key: float": ({"key": 1.0}, "key"),
    "key: a huge integer": ({"key": 10**100_000}, "key"),
    "key: a list": ({"key": ["SECRET"]}, "key"),
    "payload: None": ({"payload": None}, "payload"),
    "payload: limit + 1": ({"payload": b"x" * (MIB + 1)}, "payload"),
    "payload: text over the limit": ({"payload": "é" * (MIB // 2 + 1)}, "payload"),
    "payload: JSON over the limit": ({"payload": ["SECRET" * 200_000]}, "payload"),
    "payload: deep JSON": ({"payload": nested(65)}, "payload"),
    "payload: 100,000 levels": ({"payload": nested(100_000)}, "payload"),
    "payload: NaN": ({"payload": {"SECRET": math.nan}}, "payload"),
    "payload: huge integers": ({"payload": [10**5000]}, "payload"),
    "payload: no form on the wire": ({"payload": object()}, "payload"),
    "payload: lone surrogate": ({"payload": "SECRET\ud800"}, "payload"),
    "delay: negative": ({"delay": -1}, "delay"),
    "delay: negative timedelta": ({"delay": timedelta(seconds=-1)}, "delay"),
    "delay: NaN": ({"delay": math.nan}, "delay"),
    "delay: infinity": ({"delay": math.inf}, "delay"),
    "delay: 10 years": ({"delay": timedelta(days=3650)}, "delay"),
    "delay: 367 days": ({"delay": "367d"}, "delay"),
    "delay: no unit": ({"delay": "30"}, "delay"),
    "delay: bool": ({"delay": True}, "delay"),
    "at: naive datetime": ({"at": datetime(2026, 1, 1)}, "at"),
    "at: 10 years": ({"at": datetime.now(UTC) + timedelta(days=3650)}, "at"),
    "at: text": ({"at": "2026-01-01T00:00:00Z"}, "at"),
    "at and delay": ({"at": datetime.now(UTC), "delay": "1s"}, "at"),
    "headers: reserved mq-": ({"headers": {"mq-id": "SECRET"}}, "headers"),
    "headers: reserved MQ-": ({"headers": {"MQ-Id": "SECRET"}}, "headers"),
    "headers: content-type": ({"headers": {"Content-Type": "SECRET"}}, "headers"),
    "headers: 10,000 entries": ({"headers": {f"h{number}": "x" for number in range(10_000)}}, "headers"),
    "headers: 65 entries": ({"headers": {f"h{number}": "x" for number in range(65)}}, "headers"),
    "headers: 16 KiB": ({"headers": {"h": "SECRET" * 3000}}, "headers"),
    "headers: CRLF in a value": ({"headers": {"h": "SECRET\r\nx: y"}}, "headers"),
    "headers: LF in a name": ({"headers": {"h\n": "x"}}, "headers"),
    "headers: NUL": ({"headers": {"h": "SECRET\0"}}, "headers"),
    "headers: empty name": ({"headers": {"": "x"}}, "headers"),
    "headers: a number": ({"headers": {"h": 5}}, "headers"),
    "headers: bytes": ({"headers": {b"h": b"x"}}, "headers"),
    "headers: lone surrogate": ({"headers": {"h": "SECRET\ud800"}}, "headers"),
    "headers: a list": ({"headers": [("h", "x")]}, "headers"),
    "id: empty": ({"id": ""}, "id"),
    "id: 129 characters": ({"id": "i" * 129}, "id"),
    "id: a space": ({"id": "a b"}, "id"),
    "id: newline": ({"id": "a\n"}, "id"),
    "id: beyond ASCII": ({"id": "é"}, "id"),
    "id: a number": ({"id": 5}, "id"),
    "timeout: negative": ({"timeout": -1}, "timeout"),
    "timeout: no unit": ({"timeout": "30"}, "timeout"),
}
TOO_LARGE = {"payload: limit + 1", "payload: text over the limit", "payload: JSON over the limit"}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named_at_the_call(app: App, store: SimLog, name: str, caplog: pytest.LogCaptureFixture) -> None:
    change, field = BAD[name]
    arguments = {"topic": "orders", "payload": b"x", **change}
    topic, payload = arguments.pop("topic"), arguments.pop("payload")
    with caplog.at_level(logging.DEBUG):
        for call in (app.publish, app.publish_nowait):
            with pytest.raises(InvalidMessage) as caught:
                call(topic, payload, **arguments)
            error = caught.value
            assert (error.field, error.code, error.retryable) == (field, "too_large" if name in TOO_LARGE else "invalid", False)
            assert isinstance(error, ValueError)
            assert "SECRET" not in str(error) + repr(error)
            assert len(str(error)) < 500
    assert "SECRET" not in caplog.text
    assert app.topics() == []


@pytest.mark.parametrize(
    "name", [name for name, (change, field) in BAD.items() if field in ("key", "payload", "headers", "delay", "at", "id")]
)
def test_a_bad_item_of_many_is_named_with_its_index_before_anything_is_sent(app: App, name: str) -> None:
    change, field = BAD[name]
    arguments = {"payload": b"x", **change}
    with pytest.raises(InvalidMessage, match=r"item 1: ") as caught:
        app.publish_many("orders", [b"first", Outgoing(arguments.pop("payload"), **arguments)])
    assert caught.value.field == field
    assert "SECRET" not in str(caught.value)
    assert app.topics() == []


@pytest.mark.parametrize("items", ["text", b"bytes", {"a": 1}, 5, None])
def test_items_are_an_iterable_of_payloads(app: App, items: Any) -> None:
    with pytest.raises(InvalidMessage) as caught:
        app.publish_many("orders", items)
    assert caught.value.field == "items"


def test_bad_text_among_many_is_named(app: App) -> None:
    with pytest.raises(InvalidMessage, match="item 2") as caught:
        app.publish_many("orders", ["a", "b", "\ud800"])
    assert caught.value.field == "payload"


def test_what_is_just_allowed_passes(app: App) -> None:
    headers = {f"h{number:02}": "x" * 250 for number in range(64)}
    receipt = app.publish("orders", b"x" * MIB, key=b"\xff" * 1024, headers=headers, id="~" * 128, timeout="5s")
    assert receipt.id == "~" * 128
    assert app.publish("orders", nested(64), key=-(10**300)).topic == "orders"
    assert app.publish("orders", b"", at=datetime.now(UTC) - timedelta(days=1), headers={}).due_at is None
    assert app.publish("orders", b"", delay=0).due_at is None


WAITS: list[dict[str, Any]] = [{"delay": "1s"}, {"delay": timedelta(days=366)}, {"at": datetime.now(UTC) + timedelta(days=300)}]


@pytest.mark.parametrize("wait", WAITS)
def test_a_cluster_that_cannot_delay_refuses_at_the_call_and_is_named(wait: dict[str, Any]) -> None:
    opened: list[SimBackend] = []

    class Counting(SimBackend):
        def open(self, deadline: float) -> None:
            opened.append(self)
            super().open(deadline)

    app = App()
    environment = Environment(make_backend=lambda cluster: Counting(name=cluster.name, capabilities=replace(MEMORY, delay="none")))
    app._open(configuration=MEMORY_ONLY, environment=environment)
    many = [b"now", Outgoing(b"later", **wait)]
    calls: list[Callable[[], Any]] = [
        lambda: app.publish("orders", b"x", **wait),
        lambda: app.publish_nowait("orders", b"x", **wait),
        lambda: app.publish_many("orders", many),
        lambda: asyncio.run(app.publish_async("orders", b"x", **wait)),
        lambda: asyncio.run(app.publish_many_async("orders", many)),
    ]
    for call in calls:
        with pytest.raises(PublishRejected, match=r"cluster local \(memory\) cannot delay messages") as caught:
            call()
        assert (caught.value.code, caught.value.retryable, caught.value.where) == ("unsupported", False, "cluster local")
    assert opened == []
    assert app.publish("orders", b"now", delay=0).due_at is None
    assert [(topic.name, topic.messages) for topic in app.topics()] == [("orders", 1)]
    app.close()


@pytest.mark.parametrize("wait", WAITS)
def test_a_delayed_message_is_stored_and_its_receipt_says_when_it_is_due(app: App, wait: dict[str, Any]) -> None:
    many = [b"now", Outgoing(b"later", **wait), Outgoing(b"too", **wait)]
    before = datetime.now(UTC)
    receipts = [
        app.publish("orders", b"x", **wait),
        app.publish_nowait("orders", b"x", key="k", **wait).result(BOUND_S),
        asyncio.run(app.publish_async("orders", b"x", headers={"h": "v"}, **wait)),
        *app.publish_many("orders", many)[1:],
        *asyncio.run(app.publish_many_async("orders", many, key="k"))[1:],
    ]
    after = datetime.now(UTC)
    for receipt in receipts:
        assert (receipt.topic, receipt.cluster, receipt.position) == ("orders", "local", None)
        due_at = receipt.due_at
        assert due_at is not None
        if "at" in wait:
            assert timedelta(0) <= due_at - wait["at"] < timedelta(milliseconds=2)
        else:
            delay = timedelta(seconds=1) if wait["delay"] == "1s" else wait["delay"]
            assert before + delay - timedelta(milliseconds=1) <= due_at <= after + delay + timedelta(milliseconds=1)
    assert app.publish_many("orders", many)[0].due_at is None
    assert app.publish_many("orders", [b"a", b"b"])[1].due_at is None


def test_a_delayed_message_comes_when_it_is_due(open_app: Opener, seen: Seen) -> None:
    app = App()

    @app.consumer("orders", group="billing")
    def bill(payload: str, message: Message) -> None:
        seen.add((payload, message.due_at, datetime.now(UTC), message.published_at))

    open_app(app)
    app.start()
    later = app.publish("orders", "later", delay="200ms")
    app.publish("orders", "now")
    (first, due_of_first, *_), (second, due_at, came_at, published_at) = seen.wait(2)
    assert (first, due_of_first, second, due_at) == ("now", None, "later", later.due_at)
    assert due_at is not None
    assert due_at <= came_at < due_at + timedelta(seconds=1)
    assert published_at < due_at


# --- what is stored ---------------------------------------------------------------------------------------------------------------


def received(app: App, count: int, publish: Callable[[], Any], seen: Any) -> list[Message[Any]]:
    @app.consumer("orders", group="look")
    def look(message: Message[bytes]) -> None:
        seen.add(message)

    app.start()
    publish()
    messages: list[Message[Any]] = seen.wait(count)
    app.stop()
    return messages


def test_a_message_arrives_as_it_was_given(app: App, seen: Any) -> None:
    payload = {"a": [1]}

    def publish() -> None:
        app.publish("orders", payload, key=7, headers={"h": "é"}, id="one")
        payload["a"].append(2)  # changed after the call: nothing changes

    (message,) = received(app, 1, publish, seen)
    assert (message.id, message.key, dict(message.headers), message.body) == ("one", "7", {"h": "é"}, b'{"a":[1]}')
    assert message.content_type == "application/json"
    assert message.published_at is not None
    assert abs(message.published_at.timestamp() - time.time()) < 60


def test_an_object_changed_after_nowait_returned_was_encoded_at_the_call(app: App, seen: Any) -> None:
    payload = {"a": 1}

    def publish() -> None:
        futures = []
        for number in range(50):
            payload["a"] = number
            futures.append(app.publish_nowait("orders", payload, key="k"))
        payload["a"] = -1
        assert [type(future.result(15)) for future in futures] == [Receipt] * 50

    bodies = [message.body for message in received(app, 50, publish, seen)]
    assert sorted(bodies) == sorted(f'{{"a":{number}}}'.encode() for number in range(50))


def test_many_keep_their_order_and_may_choose_keys(app: App, seen: Any) -> None:
    receipts = app.publish_many("orders", [f"{number}" for number in range(100)], key="k")
    assert [int(receipt.position or -1) for receipt in receipts] == list(range(100))
    assert len({receipt.partition for receipt in receipts}) == 1
    own = app.publish_many("orders", (Outgoing(b"x", key=number, id=f"own-{number}") for number in range(40)))
    assert [receipt.id for receipt in own] == [f"own-{number}" for number in range(40)]
    assert len({receipt.partition for receipt in own}) > 1
    chosen = app.publish_many("orders", [b"a", b"b"], key=lambda payload: "k")
    assert {receipt.partition for receipt in chosen} == {receipts[0].partition}
    assert app.publish_many("orders", [b"a"], key=lambda payload: None)[0].topic == "orders"
    assert app.publish_many("orders", []) == []


def test_the_trace_is_passed_on_from_the_message_that_is_handled(app: App, seen: Any) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    @app.consumer("orders", group="pass-on")
    def pass_on(payload: bytes) -> None:
        message = current_message()
        assert message is not None
        app.publish("payments", b"x", id=f"{message.id}/invoice")
        app.publish_many("payments", [b"y"])
        app.publish("payments", b"z", headers={"traceparent": "own"})

    @app.consumer("payments", group="look")
    def look(message: Message[bytes]) -> None:
        seen.add(message)

    app.start()
    app.publish("orders", b"x", id="o", headers={"traceparent": trace, "tracestate": "a=b", "other": "stays"})
    messages = {message.body: message for message in seen.wait(3)}
    assert messages[b"x"].id == "o/invoice"
    assert dict(messages[b"x"].headers) == dict(messages[b"y"].headers) == {"traceparent": trace, "tracestate": "a=b"}
    assert dict(messages[b"z"].headers) == {"traceparent": "own"}


# --- outcomes ---------------------------------------------------------------------------------------------------------------------


def test_a_topic_without_route(app: App) -> None:
    with pytest.raises(PublishRejected) as caught:
        app.publish("elsewhere", b"x", id="i")
    assert (caught.value.code, caught.value.topic) == ("no_route", "elsewhere")
    with pytest.raises(PublishManyFailed) as many:
        app.publish_many("elsewhere", [b"x", b"y"])
    assert [outcome.code for outcome in many.value.outcomes] == ["no_route"] * 2  # type: ignore[attr-defined]
    assert many.value.what.startswith("of 2 messages 2 rejected; the first: ")
    with pytest.raises(PublishRejected):
        app.publish_nowait("elsewhere", b"x").result(15)


class Answering(SimBackend):
    """Answers a publish as told; `answer` may also do something first."""

    answer: Callable[[Any], Any]

    def producer(self, events: Any) -> Any:
        real, backend = super().producer(events), self

        class Producer(type(real)):  # type: ignore[misc]
            def publish(self, batch: Any, deadline: float) -> None:
                for record in batch:
                    events.put(Published(record.token, backend.answer(record)))

        real.__class__ = Producer
        return real


@pytest.fixture
def answering(store: SimLog) -> Any:
    """An App whose backend answers with a function record -> outcome."""
    opened: list[App] = []

    def make(answer: Callable[[Any], Any]) -> App:
        backend = Answering(store)
        backend.answer = answer
        app = App()
        app._open(environment=Environment(make_backend=lambda cluster: backend))
        opened.append(app)
        return app

    yield make
    for app in opened:
        app.close()


def test_rejected_and_unknown_are_raised_with_their_id(answering: Any) -> None:
    app = answering(lambda record: Rejected("full", "no room"))
    with pytest.raises(PublishRejected) as rejected:
        app.publish("orders", b"x", id="r")
    assert (rejected.value.code, rejected.value.retryable, rejected.value.id) == ("full", False, "r")
    app = answering(lambda record: Unknown("no answer"))
    with pytest.raises(PublishUnknown) as unknown:
        app.publish("orders", b"x", timeout="20ms")
    assert unknown.value.id
    assert not isinstance(unknown.value, PublishRejected)


def test_many_that_fail_in_part_give_one_outcome_per_item(answering: Any) -> None:
    outcomes = {b"a": Stored(1), b"b": Rejected("full", "no room"), b"c": Unknown("no answer")}
    app = answering(lambda record: outcomes[record.value])
    for call in (app.publish_many, lambda *args, **more: asyncio.run(app.publish_many_async(*args, **more))):
        with pytest.raises(PublishManyFailed) as caught:
            call("orders", [b"a", b"b", b"c"], key="k", timeout="20ms")
        assert [type(outcome) for outcome in caught.value.outcomes] == [Receipt, PublishRejected, PublishUnknown]
        assert isinstance(caught.value, PublishError)
        assert caught.value.what == "of 3 messages 1 rejected and 1 unknown (may be stored); the first: no room"


def test_a_backend_that_cannot_be_opened_is_a_rejection() -> None:
    class Down(SimBackend):
        def open(self, deadline: float) -> None:
            raise Unavailable("nobody listens", cluster="local", backend="memory", retryable=True)

    app = App()
    app._open(environment=Environment(make_backend=lambda cluster: Down(SimLog())))
    calls: list[Callable[[], Any]] = [
        lambda: app.publish("orders", b"x"),
        lambda: app.publish_nowait("orders", b"x").result(15),
        lambda: asyncio.run(app.publish_async("orders", b"x")),
    ]
    for call in calls:
        with pytest.raises(PublishRejected) as caught:
            call()
        assert (caught.value.code, caught.value.retryable) == ("backend", True)
        assert isinstance(caught.value.__cause__, Unavailable)
    with pytest.raises(PublishManyFailed):
        app.publish_many("orders", [b"x"])
    app.close()


# --- order ------------------------------------------------------------------------------------------------------------------------


def stored(app: App) -> list[bytes]:
    assert app._session is not None
    admin = app._session.supervisor.clusters.backend("local").admin()
    return [record.value for number in range(admin.partitions("orders") or 0) for record in admin.read("orders", number, 0, 1000)]


def test_one_thread_keeps_the_order_of_a_key_over_all_ways_to_publish(app: App) -> None:
    for number in range(0, 300, 3):
        app.publish_nowait("orders", b"%d" % number, key="k")
        app.publish("orders", b"%d" % (number + 1), key="k")
        app.publish_nowait("orders", b"%d" % (number + 2), key="k")
    assert app.flush(10)
    app.publish_nowait("orders", b"300", key="k")
    app.publish_many("orders", [b"301", b"302"], key="k")
    assert stored(app) == [b"%d" % number for number in range(303)]


def test_one_event_loop_keeps_the_order_of_a_key(open_app: Any) -> None:
    small = replace(MEMORY_ONLY, publish=PublishLimits(window_records=20))
    app = open_app(App(), small)

    async def use() -> None:
        # The first ones open the cluster, and the window is full after 20.
        await asyncio.gather(*(app.publish_async("orders", b"%d" % number, key="k") for number in range(400)))
        first = asyncio.create_task(app.publish_async("orders", b"400", key="k"))
        await asyncio.sleep(0)
        await app.publish_many_async("orders", [b"401", b"402"], key="k")
        await first

    asyncio.run(use())
    assert stored(app) == [b"%d" % number for number in range(403)]


def test_while_one_call_waits_later_ones_queue_behind_it_in_order() -> None:
    turns, go, is_open = Turns(), threading.Event(), threading.Event()
    order: list[int] = []

    def open_it() -> None:
        assert go.wait(10)
        is_open.set()

    async def call(number: int) -> None:
        await turns.opened("orders", is_open.is_set, open_it)
        order.append(number)

    async def use() -> None:
        early = [asyncio.create_task(call(number)) for number in range(5)]
        await asyncio.sleep(0)
        go.set()
        while not is_open.is_set():
            await asyncio.sleep(0)
        await asyncio.gather(call(5), *early)  # it is open, but they have not been told yet

    asyncio.run(use())
    assert order == list(range(6))
    assert turns._turns == {}


def test_an_opening_that_fails_is_tried_again_by_the_next_one() -> None:
    turns, tries = Turns(), 0

    def open_it() -> None:
        nonlocal tries
        tries += 1
        raise Unavailable("not yet")

    async def use() -> None:
        calls = (turns.opened("orders", lambda: False, open_it) for _ in range(3))
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(end) for end in ends] == [Unavailable] * 3

    asyncio.run(use())
    assert tries == 3


# --- from an event loop -----------------------------------------------------------------------------------------------------------


def test_blocking_calls_on_an_event_loop_are_refused_with_the_way_out(app: App) -> None:
    async def blocking() -> None:
        for call in (lambda: app.publish("orders", b"x"), lambda: app.publish_many("orders", [b"x"])):
            with pytest.raises(StateError, match="_async"):
                call()

    asyncio.run(blocking())
    assert app.topics() == []


def test_an_async_call_that_is_cancelled_is_no_error_and_one_that_is_not_begun_in_time_is_rejected(
    answering: Any, caplog: pytest.LogCaptureFixture
) -> None:
    inside, go = threading.Event(), threading.Event()

    def answer(record: Any) -> Stored:
        assert record.id != "never"
        if record.id != "open":
            inside.set()
            assert go.wait(10)
        return Stored(0)

    app = answering(answer)
    app.publish("orders", b"x", id="open")

    async def use() -> None:
        first = asyncio.create_task(app.publish_async("orders", b"x"))
        assert await asyncio.to_thread(inside.wait, 10)
        for call in (app.publish_async("orders", b"x", id="never"), app.publish_many_async("orders", [Outgoing(b"x", id="never")])):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(call, 0.01)
        with pytest.raises(PublishRejected) as one:
            await app.publish_async("orders", b"x", id="never", timeout=0.01)
        with pytest.raises(PublishManyFailed) as many:
            await app.publish_many_async("orders", [Outgoing(b"x", id="never")] * 2, timeout=0.01)
        assert {getattr(error, "code", None) for error in (one.value, *many.value.outcomes)} == {"throttled"}
        go.set()
        await first

    asyncio.run(use())
    assert app.flush(10)
    assert caplog.records == []


def test_the_async_calls_have_the_same_outcomes(app: App) -> None:
    async def use() -> None:
        first = await app.publish_async("orders", b"x", key="k", id="one")
        assert (first.id, first.topic) == ("one", "orders")
        many = await app.publish_many_async("orders", [b"a", b"b"], key="k")
        assert [receipt.partition for receipt in many] == [first.partition] * 2
        together = await asyncio.gather(*(app.publish_async("orders", b"x") for _ in range(200)))
        assert len({receipt.id for receipt in together}) == 200
        assert await app.publish_many_async("orders", []) == []
        with pytest.raises(InvalidMessage):
            await app.publish_async("orders", None)
        with pytest.raises(InvalidMessage):
            await app.publish_many_async("orders", [None])
        with pytest.raises(PublishRejected):
            await app.publish_async("elsewhere", b"x")

    asyncio.run(use())


def test_publishing_inside_handlers(app: App, seen: Any) -> None:
    @app.consumer("orders", group="sync")
    def sync(payload: str) -> None:
        app.publish("payments", "sync")

    @app.consumer("orders", group="async")
    async def coroutine(payload: str) -> None:
        with pytest.raises(StateError):
            app.publish("payments", "blocking")
        await app.publish_async("payments", "async")

    @app.consumer("payments", group="look")
    def look(payload: str) -> None:
        seen.add(payload)

    app.start()
    app.publish("orders", "x")
    assert sorted(seen.wait(2)) == ["async", "sync"]


def test_nowait_and_flush(app: App) -> None:
    futures = [app.publish_nowait("orders", b"x") for _ in range(100)]
    assert app.flush("10s") is True
    assert all(future.done() for future in futures)
    assert App().flush() is True  # nothing was ever submitted


# --- where it is refused ----------------------------------------------------------------------------------------------------------


def test_after_close(app: App) -> None:
    app.close()
    calls: list[Callable[[], Any]] = [
        lambda: app.publish("orders", b"x"),
        lambda: app.publish_many("orders", [b"x"]),
        lambda: app.publish_nowait("orders", b"x"),
        lambda: asyncio.run(app.publish_async("orders", b"x")),
    ]
    for call in calls:
        with pytest.raises(StateError) as caught:
            call()
        assert caught.value.state == "CLOSED"
        assert isinstance(caught.value, RuntimeError)


def in_child(action: Callable[[], str]) -> str:
    """What `action` says in a forked child."""
    gc.collect()  # what earlier tests have left of crashed backends would close its descriptors there, and they may be this pipe by then
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, action().encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        said = stream.read()
    os.waitpid(pid, 0)
    return said


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_in_a_forked_child_of_an_open_app(app: App) -> None:
    app.publish("orders", b"x")

    def attempt() -> str:
        said = []
        for call in (lambda: app.publish("orders", b"y"), lambda: app.publish_nowait("orders", b"y"), app.start, app.close, app.topics):
            try:
                call()
            except StateError as error:
                said.append(error.state)
        app.__exit__(None, None, None)
        app._at_exit()
        return " ".join(said)

    assert in_child(attempt) == " ".join(["FORKED"] * 5)
    assert app.publish("orders", b"z").topic == "orders"  # the parent is unharmed
    assert app.topics()[0].messages == 2


def test_from_a_signal_handler_in_the_middle_of_a_publish(answering: Any) -> None:
    seen: list[Any] = []

    def answer(record: Any) -> Stored:
        os.kill(os.getpid(), signal.SIGUSR1)  # arrives while this thread is inside the publisher
        return Stored(0)

    app = answering(answer)

    def on_signal(number: int, frame: Any) -> None:
        calls: list[Callable[[], Any]] = [lambda: app.publish("orders", b"y"), lambda: app.publish_nowait("orders", b"y")]
        for call in calls:
            try:
                call()
            except StateError as error:
                seen.append(error.state)

    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        assert app.publish("orders", b"x").topic == "orders"
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == ["PUBLISHING"] * 2
    app._session.supervisor.clusters.backend("local").answer = lambda record: Stored(0)
    assert app.publish("orders", b"x").topic == "orders"  # and the guard is gone again


class Interrupted(dict[int, str]):
    """What a signal handler that raises does to a publish that has just been noted as under way."""

    def __setitem__(self, thread: int, topic: str) -> None:
        super().__setitem__(thread, topic)
        raise InterruptedError


def test_a_signal_handler_that_raises_at_any_moment_leaves_the_thread_free(app: App) -> None:
    assert app._session is not None
    outlet = app._session.outlet
    calls: list[Callable[[], Any]] = [
        lambda: app.publish("orders", b"x"),
        lambda: app.publish_many("orders", [b"x"]),
        lambda: app.publish_nowait("orders", b"x"),
    ]
    for call in calls:
        outlet._busy = Interrupted()
        with pytest.raises(InterruptedError):
            call()
        assert outlet._busy == {}


# --- ids --------------------------------------------------------------------------------------------------------------------------


def test_ids_look_like_uuid7_rise_and_never_repeat_over_threads() -> None:
    from uuid import UUID

    chance = iter(range(1, 1000))
    ids = Ids(1_700_000_000_000, lambda bits: next(chance))
    made: list[str] = []
    with ThreadPoolExecutor(8) as pool:
        for part in pool.map(lambda _: [*ids.many(500), *(ids.one() for _ in range(500))], range(8)):
            assert part[:500] == sorted(part[:500])
            made += part
    assert len(set(made)) == 8000
    for text in made[::500]:
        parsed = UUID(text)
        assert (str(parsed), parsed.version, parsed.int >> 80) == (text, 7, 1_700_000_000_000)


def test_ids_of_two_apps_differ() -> None:
    import random

    assert Ids(1, random.Random().getrandbits).one() != Ids(1, random.Random().getrandbits).one()


def test_a_prefix_is_renewed_when_its_counter_is_used_up() -> None:
    from itertools import count

    chance = iter(range(1, 1000))
    ids = Ids(1, lambda bits: next(chance))
    ids._single = (ids._single[0], count(0xFFFFFFFF))
    ids._blocks = (ids._blocks[0], count(0xFFFFFF))
    made = [ids.one(), ids.one(), ids.one(), *ids.many(300), *ids.many(2)]
    assert len(set(made)) == 305
    assert {len(text) for text in made} == {36}


def test_publishing_from_many_threads_at_once_opens_the_app_once(store: SimLog) -> None:
    opened: list[str] = []

    class Counted(SimBackend):
        def open(self, deadline: float) -> None:
            opened.append(threading.current_thread().name)
            super().open(deadline)

    app = App()
    app._open(environment=Environment(make_backend=lambda cluster: Counted(store)))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: app.publish("orders", b"x"), range(50)))
    assert len(opened) == 1
    app.close()
