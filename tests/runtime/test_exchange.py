"""Another client of a cluster under load: nothing is lost or overlaps, handlers may finish, the old client is closed at last."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from mqsdk.config.model import Configuration
from mqsdk.errors import ConfigError, Unavailable
from mqsdk.spi import Record
from mqsdk.testing import SimBackend, SimLog
from tests.runtime.test_supervisor import BOUND_S, MEMORY_ONLY, Process, Recorder


@pytest.fixture
def process() -> Iterator[Process]:
    made = Process(SimLog(), configuration=quick())
    yield made
    made.supervisor.close(BOUND_S)


def quick() -> Configuration:
    return replace(MEMORY_ONLY, publish=replace(MEMORY_ONLY.publish, timeout_s=0.05))


def exchange(process: Process) -> tuple[Any, Any]:
    """(old client, new client)."""
    old = process.supervisor.clusters.backend("local")
    opened = process.supervisor.opened_anew(process.configuration, ["local"])
    process.supervisor.exchange(opened)
    return old, opened["local"]


def is_closed(backend: SimBackend) -> bool:
    return not backend.health().ok


def test_messages_flow_through_client_after_client(process: Process) -> None:
    running: Counter[bytes | None] = Counter()
    guard, overlaps, seen = threading.Lock(), [], []

    def behave(record: Record) -> None:
        with guard:
            running[record.key] += 1
            overlaps.extend([record.value] * (running[record.key] > 1))
        time.sleep(0.0005)
        with guard:
            running[record.key] -= 1
            seen.append(record.value)

    process.start(Recorder(behave), ordered=True)
    clients = []
    for number in range(400):
        process.publish("orders", str(number), key=f"k{number % 7}")
        if number % 80 == 40:
            clients.append(exchange(process)[0])
    process.wait(lambda: process.lag() == 0)
    assert sorted(set(seen), key=int) == [str(number).encode() for number in range(400)]
    assert len(seen) == 400  # handed back in order: nothing is repeated
    assert not overlaps
    process.wait(lambda: all(is_closed(old) for old in clients))
    assert process.supervisor.clusters.backend("local").health().ok


def test_a_handler_that_runs_may_finish_and_is_settled_on_the_old_client(process: Process) -> None:
    inside, go = threading.Event(), threading.Event()

    def behave(record: Record) -> None:
        inside.set()
        assert go.wait(BOUND_S)

    handler = Recorder(behave)
    process.start(handler)
    process.publish("orders", "a")
    assert inside.wait(BOUND_S)
    old, _ = exchange(process)
    process.publish("orders", "b")
    assert not is_closed(old)
    go.set()
    assert sorted(value for value, _ in handler.wait_for(2)) == [b"a", b"b"]
    process.wait(lambda: is_closed(old))
    process.wait(lambda: process.lag() == 0)
    assert len(handler.seen) == 2


def test_a_broadcast_goes_on_where_it_was_on_the_new_client(process: Process) -> None:
    inside, go = threading.Event(), threading.Event()

    def behave(record: Record) -> None:
        inside.set()
        assert go.wait(BOUND_S)

    handler = Recorder(behave)
    process.start(handler, broadcast=True)
    process.publish("orders", "a", key="k")
    assert inside.wait(BOUND_S)
    old, _ = exchange(process)
    process.publish("orders", "b", "c", key="k")
    go.set()
    assert sorted(handler.wait_for(3)) == [(b"a", 1), (b"b", 1), (b"c", 1)]
    process.wait(lambda: is_closed(old))


def test_a_client_that_cannot_connect_changes_nothing(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = Recorder()
    process.start(handler)
    old = process.supervisor.clusters.backend("local")

    def refuse(self: SimBackend, deadline: float) -> None:
        raise Unavailable("the password is wrong", cluster="local", fix="check `auth`")

    monkeypatch.setattr(SimBackend, "open", refuse)
    with pytest.raises(ConfigError) as caught:
        process.supervisor.opened_anew(process.configuration, ["local"])
    assert [problem.key for problem in caught.value.problems] == ["clusters.local"]
    assert "the password is wrong" in str(caught.value)
    assert process.supervisor.clusters.backend("local") is old
    process.publish("orders", "a")
    assert handler.wait_for(1) == [(b"a", 1)]


def test_a_stop_in_the_middle_of_an_exchange_closes_both(process: Process) -> None:
    inside, go = threading.Event(), threading.Event()

    def behave(record: Record) -> None:
        inside.set()
        go.wait(BOUND_S)

    process.start(Recorder(behave))
    process.publish("orders", "a")
    assert inside.wait(BOUND_S)
    old, new = exchange(process)
    threading.Timer(0.1, go.set).start()
    report = process.supervisor.close(BOUND_S)
    assert (report.unfinished, report.clean) == (0, True)
    assert is_closed(old)
    assert is_closed(new)
