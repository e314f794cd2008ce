"""Halts with real threads over the in-memory log: where they are refused, what a process shows of them, and a release from outside."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from mqsdk.core.retry import Backoff, OnExhausted, RetryPolicy
from mqsdk.errors import CapabilityError, StateError
from mqsdk.events import Freed, Halted
from mqsdk.spi import Capabilities
from mqsdk.testing.simlog import MEMORY, SimLog
from tests.runtime.test_supervisor import BOUND_S, MEMORY_ONLY, Process, Recorder, fails


def tuning(halt: OnExhausted) -> dict[str, Any]:
    return {"retry": RetryPolicy(attempts=2, backoff=Backoff("1ms", jitter=0), on_exhausted=halt)}


@pytest.fixture
def process() -> Iterator[Process]:
    made = Process(SimLog())
    yield made
    made.supervisor.close(BOUND_S)


@pytest.mark.parametrize(
    ("capabilities", "halt", "spec", "capability"),
    [
        (replace(MEMORY, attempts=False, sparse_bytes=0), "halt_key", {"ordered": True}, "attempts"),
        (replace(MEMORY, sparse_bytes=511), "halt_partition", {}, "attempts"),
        (MEMORY, "halt_key", {"ordered": False}, "ordered"),
        (MEMORY, "halt_partition", {"broadcast": True}, "broadcast"),
    ],
)
def test_a_halt_that_could_not_be_kept_is_refused_at_the_start(
    capabilities: Capabilities, halt: OnExhausted, spec: dict[str, Any], capability: str
) -> None:
    process = Process(SimLog(), capabilities)
    with pytest.raises(CapabilityError, match=halt) as caught:
        process.start(Recorder(), tuning=tuning(halt), **spec)
    assert (caught.value.capability, caught.value.consumer, caught.value.cluster) == (capability, "orders/billing", "local")
    assert caught.value.fix
    process.supervisor.close(BOUND_S)


def test_a_configuration_that_asks_for_such_a_halt_is_refused_while_running(process: Process) -> None:
    process.start(Recorder())
    asked = replace(MEMORY_ONLY, defaults={"retry": {"on_exhausted": "halt_key"}})
    process.supervisor.loops[0] = (replace(process.supervisor.loops[0][0], tuning={}), process.supervisor.loops[0][1])
    [problem] = process.supervisor.refused(asked)
    assert (problem.key, "without `ordered=True`" in problem.what) == ("consumers.orders/billing.retry.on_exhausted", True)
    assert process.supervisor.refused(replace(MEMORY_ONLY, defaults={"retry": {"on_exhausted": "halt_partition"}})) == []


def test_a_halt_is_told_shown_and_released(process: Process, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "mqsdk.consumer")
    handler = Recorder(fails(b"a1", times=2))
    process.start(handler, tuning=tuning("halt_key"), ordered=True)
    process.publish("orders", "a1", "a2", key="a")
    process.publish("orders", "b1", key="b")
    process.wait(lambda: bool(process.supervisor.consumers()[0].halted) and (b"b1", 1) in handler.seen)

    [halted] = process.supervisor.consumers()[0].halted
    assert (halted.id, halted.key, halted.attempts, halted.scope, halted.redriven) == ("a1", "a", 2, "key", False)
    [problem] = [one for one in process.supervisor.health(True).problems if "halted" in one]
    assert problem.endswith(": mqsdk groups release orders billing --as retry|dead_letter|drop")
    assert process.supervisor.health(True).ready
    assert (b"a2", 1) not in handler.seen

    answer = process.supervisor.release("orders", "billing", "retry", [b"a"], BOUND_S)
    assert (answer.freed, answer.left, answer.lost) == (1, 0, 0)
    handler.wait_for(5)
    assert [seen for seen in handler.seen if seen[0] != b"b1"] == [(b"a1", 1), (b"a1", 2), (b"a1", 1), (b"a2", 1)]
    process.wait(lambda: process.lag() == 0)
    assert process.supervisor.consumers()[0].halted == ()
    assert [type(event) for event in process.events if isinstance(event, Halted | Freed)] == [Halted, Freed]


def test_the_log_lines_name_the_message_and_no_key_or_text(caplog: pytest.LogCaptureFixture) -> None:
    from mqsdk.runtime import observe

    observe.log(Halted("orders", "billing", "local", "id-1", 3, 17, "key", 2, "ValueError: secret", "shop.py:1 in bill"))
    observe.log(Freed("orders", "billing", "local", "id-1", 3, 17, "retry"))
    first, second = [record.getMessage() for record in caplog.records]
    assert first == (
        "orders/billing: message id-1 is halted after 2 attempts: ValueError at shop.py:1 in bill; "
        "its key stands still until `mqsdk groups release`"
    )
    assert second == "orders/billing: message id-1 at position 17 of partition 3 is released: retry"


def test_only_a_running_consumer_releases(process: Process) -> None:
    with pytest.raises(StateError, match="no running consumer"):
        process.supervisor.release("orders", "billing", "retry", None, BOUND_S)


def test_a_release_that_cannot_be_stored_in_time_says_so(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = Recorder(fails(b"a1", times=2))
    process.start(handler, tuning=tuning("halt_partition"))
    process.publish("orders", "a1")
    process.wait(lambda: bool(process.supervisor.consumers()[0].halted))
    monkeypatch.setattr("mqsdk.testing.simconsumer.SimConsumer.settle", lambda self, progress: None)
    with pytest.raises(StateError, match="has not stored the release within"):
        process.supervisor.release("orders", "billing", "drop", None, 0.05)
