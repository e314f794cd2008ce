"""A rate and a breaker with real threads and event loops: what was given out is taken back, and nothing spins."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from mqsdk.core.actions import Failure
from mqsdk.core.retry import Backoff, RetryPolicy
from mqsdk.message import Call
from mqsdk.runtime.gates import recalled
from mqsdk.runtime.workers import Gate
from mqsdk.testing.simlog import SimLog
from tests.runtime.test_supervisor import BOUND_S, Process, Recorder

RARELY = RetryPolicy(attempts=3, backoff=Backoff("1h", max="1h"))


@pytest.fixture
def process() -> Iterator[Process]:
    made = Process(SimLog())
    yield made
    made.supervisor.close(5.0)


def test_gates_of_jobs_that_are_out_are_shut_and_those_to_come_are_as_they_were() -> None:
    old = {"owned": Gate(7.0), "fenced": Gate(0.0)}
    new = recalled(old)
    assert {name: gate.valid_until for name, gate in old.items()} == {"owned": 0.0, "fenced": 0.0}
    assert {name: gate.valid_until for name, gate in new.items()} == {"owned": 7.0, "fenced": 0.0}


class Outage:
    """The first call fails when `begin` is set, all others when `release` is."""

    batch = False

    def __init__(self, is_async: bool) -> None:
        self.is_async = is_async
        self.begin, self.release = threading.Event(), threading.Event()
        self.calls: deque[bytes] = deque()
        self._ends = deque([self.begin])

    def _end(self, call: Call) -> threading.Event:
        self.calls.append(call.record.value)
        try:
            return self._ends.pop()
        except IndexError:
            return self.release

    def invoke(self, call: Call) -> Failure | None:
        assert self._end(call).wait(3 * BOUND_S)
        return Failure("error", "ConnectionError: no")

    async def invoke_async(self, call: Call) -> Failure | None:
        end = self._end(call)
        while not end.is_set():
            await asyncio.sleep(0.001)
        return Failure("error", "ConnectionError: no")

    def invoke_batch(self, call: Call) -> Any:
        raise AssertionError("not batch")

    async def invoke_batch_async(self, call: Call) -> Any:
        raise AssertionError("not batch")


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
def test_when_the_breaker_opens_what_was_given_out_does_not_start(process: Process, is_async: bool, ordered: bool) -> None:
    """Six jobs are out: three run, three wait in front of the workers; a free worker may be quicker than the recall, once."""
    handler = Outage(is_async)
    breaker = {"minimum": 1, "probe_s": 3600.0}
    process.start(handler, tuning={"concurrency": 3, "retry": RARELY, "breaker": breaker}, ordered=ordered)  # type: ignore[arg-type]
    loop = process.supervisor.loops[0][1]
    process.wait(lambda: len(loop._gates) == 8)
    gates = list(loop._gates.values())
    for number in range(100):
        process.publish("orders", f"{number}", key=f"{number}")
    process.wait(lambda: loop.view().records == 100 and len(handler.calls) == 3)
    handler.begin.set()
    process.wait(lambda: all(gate.valid_until == 0.0 for gate in gates))
    handler.release.set()
    process.wait(lambda: loop.view().failed == len(handler.calls) and len(loop._machine._starter) == 0)
    assert 3 <= len(handler.calls) <= 4
    assert loop.view().records == 100 - len(handler.calls)


def test_a_rate_is_kept_and_the_consumer_sleeps_in_between(process: Process) -> None:
    handler = Recorder()
    process.publish("orders", *[str(number) for number in range(500)])
    began, used = time.monotonic(), time.process_time()  # before the start, which returns some time after the first message has begun
    process.start(handler, tuning={"rate_per_s": 100.0})
    handler.wait_for(110)
    took, used = time.monotonic() - began, time.process_time() - used
    assert 0.95 <= took < 3.0
    assert used < 0.5  # it is 0.05 s; a loop that spins would use all of the second
    assert len(handler.seen) <= 10 + 100 * (time.monotonic() - began) + 1
    assert not process.supervisor.loops[0][1].view().stalled
