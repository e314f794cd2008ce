"""The heap of timers."""

from __future__ import annotations

from typing import Any

from mqsdk.core.credit import Account
from mqsdk.core.partition import Ownership
from mqsdk.core.timers import Timers
from mqsdk.message import Origin
from mqsdk.spi.events import Assigned
from tests.core.driving import P0


def ownership(epoch: int) -> Ownership:
    return Ownership(Assigned(P0, epoch, 0), Origin("orders", "billing", "main", 0, epoch), Account(P0), ordered=False, batch=False)


def test_timers_come_in_order_of_time_then_of_asking() -> None:
    timers, one, calls = Timers(), ownership(1), list[Any]()
    for when, name in ((2.0, "c"), (1.0, "a"), (1.0, "b"), (3.0, "d")):
        timers.at(when, lambda now, _, subject: calls.append(subject), one, name)
    for due, owner, subject in timers.take(2.0):
        due(2.0, owner, subject)
    assert (calls, timers.next()) == (["a", "b", "c"], 3.0)


def test_a_timer_that_asks_for_itself_again_at_once_waits_for_the_next_feed() -> None:
    timers, one = Timers(), ownership(1)

    def again(now: float, owner: Ownership, subject: Any) -> None:
        timers.at(now, again, owner)

    timers.at(1.0, again, one)
    for _ in range(3):
        rounds = 0
        for due, owner, subject in timers.take(1.0):
            due(1.0, owner, subject)
            rounds += 1
        assert rounds == 1
    assert timers.next() == 1.0


def test_an_ownership_that_is_over_leaves_no_timer_behind_not_even_while_they_run() -> None:
    timers, old, new = Timers(), ownership(1), ownership(2)
    calls: list[int] = []
    timers.at(1.0, lambda now, owner, _: timers.forget(old), new)
    timers.at(1.0, lambda now, owner, _: calls.append(owner.epoch), old)
    timers.at(1.0, lambda now, owner, _: calls.append(owner.epoch), new)
    for due, owner, subject in timers.take(1.0):
        due(1.0, owner, subject)
    assert (calls, timers.next()) == ([2], None)
