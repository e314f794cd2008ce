"""A route's cluster changed while publishes are under way: nothing goes to the new one before the old one has answered them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mqsdk import App, PublishRejected, Receipt
from mqsdk.spi import EventSink, NewRecord, Producer, Published, Unknown
from mqsdk.testing.simlog import SimBackend
from tests.switch.stage import BOUND_S, Service, Stores, until


class Gate:
    """Publishes to `orders` on cluster a stand here until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go = threading.Event()
        self.go.set()
        self.doubts = 0  # so many publishes end without an answer

    def shut(self) -> None:
        self.go.clear()
        self.reached.clear()

    def pass_through(self) -> None:
        self.reached.set()
        assert self.go.wait(BOUND_S)


class Slow(Producer):
    def __init__(self, inner: Producer, events: EventSink, gate: Gate) -> None:
        self._inner = inner
        self._events = events
        self._gate = gate

    def publish(self, batch: Sequence[NewRecord], deadline: float) -> None:
        if batch[0].partition.topic == "orders":
            self._gate.pass_through()
            if self._gate.doubts:
                self._gate.doubts -= 1
                self._events.put(Published(batch[0].token, Unknown("no answer"), len(batch)))
                return
        self._inner.publish(batch, deadline)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    made, plain = Gate(), SimBackend.producer

    def producer(self: SimBackend, events: EventSink) -> Producer:
        inner = plain(self, events)
        return Slow(inner, events, made) if self.name == "a" else inner

    monkeypatch.setattr(SimBackend, "producer", producer)
    return made


@pytest.fixture
def stores() -> Stores:
    return Stores()


@pytest.fixture
def service(tmp_path: Path, stores: Stores, gate: Gate) -> Iterator[Service]:
    made = Service(tmp_path, stores, virtual=False)
    made.app.publish("orders", 0)
    made.app.publish("orders.other", 0)
    yield made
    gate.go.set()
    made.app.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def stored(stores: Stores, cluster: str) -> list[bytes]:
    return [record.value for _, record in stores[cluster].records("orders")] if "orders" in stores[cluster].topics else []


def a_loop(app: App, *values: int) -> Future[Any]:
    """One event loop of its own that publishes these at once."""

    async def publish() -> list[Receipt]:
        return list(await asyncio.gather(*(app.publish_async("orders", value, key="k") for value in values)))

    result: Future[Any] = Future()
    threading.Thread(target=lambda: result.set_result(asyncio.run(publish()))).start()
    return result


def a_loop_of(app: App, topic: str) -> Future[Any]:
    """An event loop of its own that publishes one message."""
    result: Future[Any] = Future()
    threading.Thread(target=lambda: result.set_result(asyncio.run(app.publish_async(topic, 1)))).start()
    return result


CALLS: dict[str, Callable[[App, ThreadPoolExecutor, int], Future[Any]]] = {
    "publish": lambda app, pool, value: pool.submit(app.publish, "orders", value, key="k"),
    "publish_many": lambda app, pool, value: pool.submit(app.publish_many, "orders", [value], key="k"),
    "publish_nowait": lambda app, pool, value: pool.submit(lambda: app.publish_nowait("orders", value, key="k").result(BOUND_S)),
    "publish_async": lambda app, pool, value: a_loop(app, value),
}


@pytest.mark.parametrize("later", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("first", CALLS.values(), ids=CALLS.keys())
def test_nothing_goes_to_the_new_cluster_before_the_old_one_has_answered(
    service: Service, stores: Stores, gate: Gate, pool: ThreadPoolExecutor, first: Any, later: Any
) -> None:
    gate.shut()
    begun = first(service.app, pool, 1)
    assert gate.reached.wait(BOUND_S)
    service.switch("b")
    waiting = later(service.app, pool, 2)
    assert service.app.publish("payments", 1).cluster == "c"  # other topics are not disturbed
    assert stored(stores, "b") == []
    assert not waiting.done()
    gate.go.set()
    begun.result(BOUND_S)
    waiting.result(BOUND_S)
    assert stored(stores, "a") == [b"0", b"1"]
    assert stored(stores, "b") == [b"2"]
    assert service.steps == [("writing", "", "a", "b")] * 2  # of `orders` and of `orders.other`


def test_what_one_thread_has_submitted_keeps_its_order(service: Service, stores: Stores, gate: Gate) -> None:
    gate.shut()
    futures = [service.app.publish_nowait("orders", number, key="k") for number in range(1, 30)]
    assert gate.reached.wait(BOUND_S)
    service.switch("b")
    threading.Timer(0.05, gate.go.set).start()
    futures += [service.app.publish_nowait("orders", number, key="k") for number in range(30, 60)]
    assert [future.result(BOUND_S).cluster for future in futures] == ["a"] * 29 + ["b"] * 30
    assert stored(stores, "b") == [b"%d" % number for number in range(30, 60)]


def test_one_event_loop_keeps_its_order(service: Service, stores: Stores, gate: Gate) -> None:
    gate.shut()
    task = a_loop(service.app, *range(1, 40))
    assert gate.reached.wait(BOUND_S)  # some of them are submitted, in the order of their calls
    service.switch("b")
    after = a_loop(service.app, 40)
    gate.go.set()
    task.result(BOUND_S)
    assert [receipt.cluster for receipt in after.result(BOUND_S)] == ["b"]
    values = [int(value) for value in (*stored(stores, "a"), *stored(stores, "b")) if int(value) < 40]
    assert values == list(range(40))


def test_one_that_waits_too_long_is_certainly_not_stored(service: Service, stores: Stores, gate: Gate, pool: ThreadPoolExecutor) -> None:
    gate.shut()
    begun = pool.submit(service.app.publish, "orders", 1)
    assert gate.reached.wait(BOUND_S)
    service.switch("b")
    calls: list[Callable[[], Receipt]] = [
        lambda: service.app.publish("orders", 2, timeout=0.05),
        lambda: service.app.publish_nowait("orders", 3, timeout=0.05).result(BOUND_S),
        lambda: asyncio.run(service.app.publish_async("orders", 3, timeout=0.05)),
    ]
    for call in calls:
        with pytest.raises(PublishRejected, match="has not answered all publishes yet") as caught:
            call()
        assert (caught.value.code, caught.value.retryable) == ("throttled", True)
    gate.go.set()
    begun.result(BOUND_S)
    until(lambda: service.steps)
    assert service.app.publish("orders", 4).cluster == "b"
    assert stored(stores, "b") == [b"4"]


def test_a_doubt_is_cleared_on_the_old_cluster_alone(service: Service, stores: Stores, gate: Gate, pool: ThreadPoolExecutor) -> None:
    gate.shut()
    gate.doubts = 3
    begun = pool.submit(service.app.publish, "orders", 1, key="k", id="one")
    assert gate.reached.wait(BOUND_S)
    service.switch("b")
    waiting = pool.submit(service.app.publish, "orders", 2, key="k")
    gate.go.set()
    assert (begun.result(BOUND_S).cluster, waiting.result(BOUND_S).cluster) == ("a", "b")
    assert stored(stores, "a") == [b"0", b"1"]
    assert stored(stores, "b") == [b"2"]


def test_two_changes_before_the_first_answer(service: Service, stores: Stores, gate: Gate, pool: ThreadPoolExecutor) -> None:
    gate.shut()
    begun = pool.submit(service.app.publish, "orders", 1)
    assert gate.reached.wait(BOUND_S)
    service.switch("b")
    waiting = pool.submit(service.app.publish, "orders", 2)
    service.switch("c")
    gate.go.set()
    assert (begun.result(BOUND_S).cluster, waiting.result(BOUND_S).cluster) == ("a", "c")
    assert stored(stores, "b") == []


@pytest.mark.parametrize("way", ["publish", "publish_async"])
def test_one_that_opens_the_old_cluster_just_before_the_change_does_not_keep_it(
    service: Service, stores: Stores, gate: Gate, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The routes change, and the hold is over or not, while a thread stands between what it was told and its use."""
    supervisor = service.app._session.supervisor  # type: ignore[union-attr]
    found, go, plain = threading.Event(), threading.Event(), supervisor.publisher

    def publisher(topic: str) -> Any:
        made = plain(topic)
        if topic == "orders.new" and not found.is_set():
            found.set()
            assert go.wait(BOUND_S)
        return made

    monkeypatch.setattr(supervisor, "publisher", publisher)
    begun = pool.submit(service.app.publish, "orders.new", 1) if way == "publish" else a_loop_of(service.app, "orders.new")
    assert found.wait(BOUND_S)
    service.switch("b")
    go.set()
    begun.result(BOUND_S)
    assert service.app.publish("orders.new", 2).cluster == "b"


def test_publishers_under_load_never_go_back(service: Service, pool: ThreadPoolExecutor) -> None:
    """Each thread's receipts: first all of the old cluster, then all of the new one, change after change."""
    stop, went = threading.Event(), threading.Barrier(5)

    def publish(number: int) -> list[str]:
        seen = [service.app.publish("orders", number, key=str(number)).cluster]
        went.wait(BOUND_S)
        while not stop.is_set():
            cluster = service.app.publish("orders", number, key=str(number)).cluster
            if cluster != seen[-1]:
                seen.append(cluster)
        return [*seen, service.app.publish("orders", number, key=str(number)).cluster]

    threads = [pool.submit(publish, number) for number in range(4)]
    went.wait(BOUND_S)
    try:
        for source, target in ("ab", "bc"):
            service.switch(target)
            until(partial(service.steps.__contains__, ("writing", "", source, target)))
            assert service.app.publish("orders", 0).cluster == target
    finally:
        stop.set()
    for thread in threads:
        seen = thread.result(BOUND_S)
        assert seen == sorted(seen)
        assert seen[-1] == "c"
