"""A consumer's part in moving what is delayed: when it looks, when it rests."""

from __future__ import annotations

import time
from typing import Any

import pytest
from mqsdk_log.engine import state
from mqsdk_log.engine.errors import CorruptBatch, LockTimeout
from mqsdk_log.moving import LONGEST_REST_S, Mover

from mqsdk.spi import Partition


class Log:
    """A partition that says when something is due and fails as it is told."""

    def __init__(self, wait_ms: int | None) -> None:
        self.due_ms = state.NOT_DUE if wait_ms is None else time.time_ns() // 1_000_000 + wait_ms
        self.error: Exception | None = None
        self.moves = 0

    def move(self, now_ms: int, deadline: float) -> bool:
        self.moves += 1
        if self.error is not None:
            raise self.error
        return False


class Owned:
    def __init__(self, log: Log) -> None:
        self.partition, self.log = Partition("orders", 0), log


def mover(reports: list[str] | None = None) -> Any:
    return Mover((reports if reports is not None else []).append)


@pytest.mark.parametrize(("waits", "longest"), [([None], state.NOT_DUE / 1000), ([None, 40, 90], 0.04), ([500], 0.5), ([-5], 0.0)])
def test_it_sleeps_until_the_next_due_time(monkeypatch: Any, waits: list[int | None], longest: float) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)
    assert mover().wait_s([Owned(Log(wait)) for wait in waits]) == pytest.approx(longest)


def test_it_moves_what_is_due_and_leaves_the_rest_alone() -> None:
    due, later = Log(-1), Log(60_000)
    mover().move([Owned(due), Owned(later)])
    assert (due.moves, later.moves) == (1, 0)


def test_behind_a_lock_that_is_held_it_rests_ever_longer_and_not_longer_than_a_quarter_of_a_second(monkeypatch: Any) -> None:
    log, one, now = Log(-1000), mover(), [100.0]
    log.error = LockTimeout("held")
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rests = []
    for _ in range(8):
        one.move([Owned(log)])
        rests.append(one.wait_s([Owned(log)]))
        one.move([Owned(log)])  # too early
        now[0] += rests[-1]
    assert log.moves == 8
    assert rests == sorted(rests)
    assert 0 < rests[0] < 0.05
    assert rests[-1] == pytest.approx(LONGEST_REST_S)
    log.error = None
    one.move([Owned(log)])
    assert one.wait_s([Owned(log)]) == 0.0


def test_a_failure_is_told_once_and_tried_again_later(monkeypatch: Any) -> None:
    reports: list[str] = []
    log, one, now = Log(-1000), mover(reports), [100.0]
    log.error = CorruptBatch("damaged")
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for _ in range(3):
        one.move([Owned(log)])
        one.move([Owned(log)])
        now[0] += 31.0
    assert log.moves == 3
    assert len(reports) == 1
    assert "orders/0: what is delayed cannot be moved (damaged)" in reports[0]
