"""Shadows of `dual_write` with the threads of the world: a target that stands still is in nobody's way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mqsdk.runtime.shadowing import Shadows
from mqsdk.spi import EventSink, Producer
from mqsdk.testing.simlog import SimBackend
from tests.switch.stage import BOUND_S, Service, Stores, until
from tests.switch.test_stages import staged
from tests.switch.test_writers import Gate, Slow


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Of cluster b, the target."""
    made, plain = Gate(), SimBackend.producer

    def producer(self: SimBackend, events: EventSink) -> Producer:
        inner = plain(self, events)
        return Slow(inner, events, made) if self.name == "b" else inner

    monkeypatch.setattr(SimBackend, "producer", producer)
    return made


@pytest.fixture
def stores() -> Stores:
    return Stores()


@pytest.fixture
def service(tmp_path: Path, stores: Stores, gate: Gate) -> Iterator[Service]:
    made = Service(tmp_path, stores, virtual=False, file=staged("dual_write"))
    yield made
    gate.go.set()
    made.app.close()


def shadows(service: Service) -> Shadows:
    session = service.app._session
    assert session is not None
    return session.supervisor.shadowing._shadows["orders"][1]


def on_target(stores: Stores) -> list[bytes]:
    return [record.value for _, record in stores["b"].records("orders") if record.shadow] if "orders" in stores["b"].topics else []


def go(service: Service, stage: str) -> None:
    service.route(file=staged(stage))
    service.app.reload()


def test_a_target_that_stands_still_holds_up_no_publish_and_not_the_way_back(service: Service, stores: Stores, gate: Gate) -> None:
    gate.shut()
    app = service.app
    assert app.publish("orders", 1, key="k").cluster == "a"
    assert gate.reached.wait(BOUND_S)
    assert [one.cluster for one in app.publish_many("orders", [2, 3], key="k")] == ["a", "a"]
    assert app.publish_nowait("orders", 4, key="k").result(BOUND_S).cluster == "a"
    assert asyncio.run(app.publish_async("orders", 5, key="k")).cluster == "a"
    go(service, "read_both")
    assert app.publish("orders", 6, key="k").cluster == "a"
    assert on_target(stores) == []
    gate.go.set()
    until(lambda: len(on_target(stores)) == 5)  # late, and they say what they are
    assert on_target(stores) == [b"1", b"2", b"3", b"4", b"5"]


def test_shadows_that_find_no_room_are_counted(tmp_path: Path, stores: Stores, gate: Gate) -> None:
    made = Service(tmp_path, stores, virtual=False, file=staged("dual_write") + "publish: {window: {records: 2}}\n")
    gate.shut()
    try:
        for number in range(5):
            assert made.app.publish("orders", number, key="k").cluster == "a"
        found = shadows(made)
        assert found.failed.total() == 3
        gate.go.set()
        until(lambda: found.stored.total() == 2)
    finally:
        gate.go.set()
        made.app.close()


def test_a_close_waits_for_shadows_and_stores_them(tmp_path: Path, stores: Stores, gate: Gate) -> None:
    made = Service(tmp_path, stores, virtual=False, file=staged("dual_write"))
    gate.shut()
    made.app.publish("orders", 1, key="k")
    assert gate.reached.wait(BOUND_S)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(made.app.close)
        gate.go.set()
        closing.result(BOUND_S)
    assert on_target(stores) == [b"1"]


def test_nothing_of_it_is_made_for_a_topic_that_does_not_move(service: Service) -> None:
    service.app.publish("payments", 1)
    session = service.app._session
    assert session is not None
    assert session.supervisor.shadowing._carriers == {}
