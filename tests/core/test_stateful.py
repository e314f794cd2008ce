"""Lanes, watermark with its saved form, span, rate and breaker as machines that do what they like, each beside a model of a few lines."""

from __future__ import annotations

from collections import defaultdict
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mqsdk.core import actions as act
from mqsdk.core import sparse
from mqsdk.core.breaker import Breaker
from mqsdk.core.credit import Account
from mqsdk.core.desk import Desk
from mqsdk.core.lanes import Lanes
from mqsdk.core.partition import Ownership
from mqsdk.core.rate import Bucket
from mqsdk.core.retry import Backoff
from mqsdk.core.span import RESUME, SpanGuard
from mqsdk.core.watermark import Watermark
from mqsdk.events import SpanExceeded
from mqsdk.message import Origin
from mqsdk.spi import events as spi
from tests.core.driving import P0, record

KEYS = st.sampled_from([None, "a", "b", "c"])
STEPS = settings(max_examples=60, stateful_step_count=40, deadline=None)


class LanesBesideLists(RuleBasedStateMachine):
    """left: positions of each key that have not ended, in order. out: what was taken together."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes = Lanes({})
        self.left: dict[bytes | None, list[int]] = defaultdict(list)
        self.out: list[list[spi.Record]] = []
        self.position = 0

    def keys_out(self) -> set[bytes | None]:
        return {one.key for job in self.out for one in job}

    @rule(keys=st.lists(KEYS, min_size=1, max_size=6))
    def add(self, keys: list[str | None]) -> None:
        records = [record(self.position + index, key) for index, key in enumerate(keys)]
        self.position += len(keys)
        self.lanes.add(records)
        for one in records:
            self.left[one.key].append(one.position)

    @rule(limit=st.integers(1, 8), starts=st.integers(1, 4))
    def take(self, limit: int, starts: int) -> None:
        free = {key for key, left in self.left.items() if left} - self.keys_out()
        taken = self.lanes.take(limit, starts)
        by_key: dict[bytes | None, list[int]] = defaultdict(list)
        for one in taken:
            by_key[one.key].append(one.position)
        assert set(by_key) <= free
        assert len(by_key) == min(len(free), starts, len(by_key) if len(taken) == limit else starts)
        assert all(positions == self.left[key][: len(positions)] for key, positions in by_key.items())
        if taken:
            self.out.append(taken)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """Some of a job ended, what did not start comes back: of each key the first so many have ended."""
        job = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        stop = data.draw(st.integers(0, len(job)))
        ended, back = job[:stop], job[stop:]
        self.lanes.end(ended)
        self.lanes.back(back)
        for one in ended:
            self.left[one.key].remove(one.position)

    @invariant()
    def nothing_is_lost(self) -> None:
        waiting = sorted(one.position for one in self.lanes.everything())
        taken = {one.position for job in self.out for one in job}
        assert waiting == sorted(position for left in self.left.values() for position in left if position not in taken)

    @invariant()
    def each_key_that_is_not_out_is_ready(self) -> None:
        assert self.lanes.ready == len({key for key, left in self.left.items() if left} - self.keys_out())


class WatermarkBesideASet(RuleBasedStateMachine):
    """done: every settled position. A change of owner saves what fits beside the watermark, and begins with that."""

    def __init__(self) -> None:
        super().__init__()
        self.mark = Watermark(0)
        self.done: set[int] = set()

    @property
    def low(self) -> int:
        return next(position for position in range(10_000) if position not in self.done)

    @rule(start=st.integers(0, 60), length=st.integers(1, 6))
    def settle(self, start: int, length: int) -> None:
        for left, right in self.mark.missing(start, start + length):
            self.mark.add(left, right)
        self.done.update(range(start, start + length))

    @rule(room=st.sampled_from((24, 60, 4096)))
    def change_of_owner(self, room: int) -> None:
        blob = sparse.encode(self.mark.low, self.mark.ranges(), {}, room)
        assert len(blob) <= room
        saved = sparse.decode(blob, self.mark.low)
        kept = {position for start, stop in saved.ranges for position in range(start, stop)}
        assert kept <= self.done
        if room == 4096:
            assert kept == {position for position in self.done if position >= self.low}
        self.done = set(range(self.mark.low)) | kept
        self.mark = Watermark(self.mark.low)
        for start, stop in saved.ranges:
            self.mark.add(start, stop)

    @invariant()
    def it_is_the_set(self) -> None:
        assert self.mark.low == self.low
        ranges = {position for start, stop in self.mark.ranges() for position in range(start, stop)}
        assert set(range(self.low)) | ranges == self.done
        assert self.mark.high == max(self.done, default=-1) + 1 or not self.done


SPAN_RECORDS, SPAN_BYTES, SPAN_AGE_S = 6, 200, 10.0


class SpanBesideAList(RuleBasedStateMachine):
    """parked: (position, bytes, since) of what waits. Over a bound reading stops, below three quarters of all of them it goes on."""

    @initialize(ordered=st.booleans())
    def begin(self, ordered: bool) -> None:
        tuning = act.Tuning(span_records=SPAN_RECORDS, span_bytes=SPAN_BYTES, span_age_s=SPAN_AGE_S)
        self.desk = Desk(act.Spec("orders", "billing", "main", ordered=ordered), tuning, Random(0), 0.0)
        self.guard = SpanGuard(self.desk, self.check)
        origin = Origin("orders", "billing", "main", 0, 1, 1)
        self.ownership = Ownership(spi.Assigned(P0, 1, 0), origin, Account(P0), ordered, False)
        self.ordered, self.now, self.position, self.stopped = ordered, 0.0, 0, False
        self.parked: list[tuple[int, int, float]] = []

    def is_over(self, part: float) -> bool:
        is_old = self.ordered and bool(self.parked) and self.now - min(since for _, _, since in self.parked) >= SPAN_AGE_S
        return len(self.parked) > SPAN_RECORDS * part or sum(size for _, size, _ in self.parked) > SPAN_BYTES * part or is_old

    def check(self, now: float, ownership: Ownership) -> None:
        self.desk.actions = []
        self.guard.check(self.now, self.ownership)
        was_stopped, self.stopped = self.stopped, self.is_over(RESUME) if self.stopped else self.is_over(1.0)
        told = [one for one in self.desk.actions if isinstance(one, act.Report) and isinstance(one.event, SpanExceeded)]
        assert self.ownership.spanned == self.stopped
        assert self.ownership.account.is_open != self.stopped
        assert len(told) == (self.stopped and not was_stopped)

    @rule(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4))
    def park(self, sizes: list[int]) -> None:
        records = [record(self.position + index, "k", size) for index, size in enumerate(sizes)]
        self.position += len(sizes)
        self.ownership.account.receive(len(records), sum(sizes))
        self.ownership.park(records, self.now)
        self.parked += [(one.position, one.size, self.now) for one in records]
        self.check(self.now, self.ownership)

    @precondition(lambda self: self.parked)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        position, _, _ = self.parked.pop(data.draw(st.integers(0, len(self.parked) - 1)))
        self.ownership.parked.remove(position)
        self.check(self.now, self.ownership)

    @rule(seconds=st.floats(0.1, 6.0))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds
        for due, ownership, subject in list(self.desk.timers.take(self.now)):
            due(self.now, ownership, subject)
        self.check(self.now, self.ownership)


class BucketBesideANumber(RuleBasedStateMachine):
    """tokens: what may start now; it grows with time to a burst. A start of more than the burst is owed afterwards."""

    @initialize(rate=st.sampled_from((1.0, 15.0, 400.0)))
    def begin(self, rate: float) -> None:
        self.rate, self.now = rate, 0.0
        self.bucket = Bucket(rate)
        self.tokens = float(self.bucket.burst)

    @rule(seconds=st.floats(0.0, 2.0))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds
        self.tokens = min(self.bucket.burst, self.tokens + seconds * self.rate)

    @rule(count=st.integers(1, 50))
    def start(self, count: int) -> None:
        wanted = min(count, self.bucket.burst)
        if abs(self.tokens - wanted) < 1e-4:
            return  # either will do
        assert (self.bucket.moment(count) <= self.now) == (self.tokens >= wanted)
        if self.tokens >= wanted:
            self.bucket.take(self.now, count)
            self.tokens -= count


class BreakerBesideALog(RuleBasedStateMachine):
    """attempts: (when, failed) since it closed last. Opened by their share, closed by one that is tried and ends well."""

    POLICY = act.BreakerPolicy(0.5, 4, 10.0, 2.0)

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(self.POLICY)
        self.now, self.token, self.opened_at = 0.0, 0, 0.0
        self.state = "closed"
        self.attempts: list[tuple[float, bool]] = []

    @rule(seconds=st.sampled_from((0.5, 1.0, 3.0, 11.0)))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.state == "closed")
    @rule(failed=st.booleans())
    def attempt(self, failed: bool) -> None:
        self.token += 1
        self.breaker.started(self.token)
        self.breaker.ended(self.now, self.token, 1, int(failed))
        self.attempts.append((self.now, failed))
        # A window of ten slots: what ended in the slot that is leaving may count or not, so only what is sure is judged.
        recent = [bad for when, bad in self.attempts if int(when) > int(self.now) - 10]
        if failed and len(recent) >= 4 and sum(recent) / len(recent) >= 0.5:
            self.state, self.opened_at = "open", self.now

    @precondition(lambda self: self.state == "open")
    @rule(ends=st.sampled_from(("well", "badly", "without an attempt")))
    def probe(self, ends: str) -> None:
        moment = self.breaker.moment()
        assert moment is not None
        self.now = max(self.now, moment)
        self.token += 1
        self.breaker.started(self.token)
        assert self.breaker.moment() is None  # one at a time
        self.breaker.ended(self.now, self.token, int(ends != "without an attempt"), int(ends == "badly"))
        if ends == "well":
            self.state, self.attempts = "closed", []
        elif ends == "badly":
            self.opened_at = self.now
            assert self.breaker.moment() == self.now + self.POLICY.probe_s

    @invariant()
    def it_is_what_the_log_says(self) -> None:
        assert (self.breaker.state == "closed") == (self.state == "closed")


MACHINES: list[Any] = [LanesBesideLists, WatermarkBesideASet, SpanBesideAList, BucketBesideANumber, BreakerBesideALog]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.__name__)
def test_it_does_what_its_model_does(machine: type[RuleBasedStateMachine]) -> None:
    case = machine.TestCase
    case.settings = STEPS
    case().runTest()


@given(st.integers(1, 200), st.floats(0.01, 100), st.floats(1, 100), st.floats(1, 1000), st.floats(0, 1), st.floats(0, 1, exclude_max=True))
def test_a_backoff_is_base_times_factor_up_to_its_maximum(
    attempt: int, base: float, factor: float, times: float, jitter: float, draw: float
) -> None:
    backoff = Backoff(base, factor=factor, max=base * times, jitter=jitter)
    wait, longest = backoff.base_s, backoff.max_s
    for _ in range(attempt - 1):
        wait = min(wait * factor, longest)
        if wait == longest or factor == 1:
            break
    expected = min(wait, longest) * (1 + jitter * draw)
    assert backoff.delay_s(attempt, draw) == pytest.approx(expected, rel=1e-9) or attempt > 65
