"""Copies of a message that its publisher sent again in doubt: handled once where the first was received here, never taken for lost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqsdk.core import actions as act
from mqsdk.core import copies, sparse
from mqsdk.core.parking import PARTITION
from mqsdk.spi import Lost, Record
from tests.core.driving import P0, Driver, failure, record


def driver(**spec: Any) -> Driver:
    return Driver(has_copies=True, sparse_bytes=4000, **spec)


def sent(position: int, sequence: int, *, again: bool = False, key: str | None = "k", producer: str = "p") -> Record:
    return record(position, key, producer=producer, sequence=sequence, again=again)


def done(made: Driver) -> set[int]:
    """Positions that were settled."""
    settles = [action.progress for action in made.log if isinstance(action, act.Settle)]
    return {position for progress in settles for start, stop in progress.done for position in range(start, stop)}


def run_all(made: Driver) -> list[int]:
    """Finish what runs until nothing does; the positions that ran."""
    ran: list[int] = []
    jobs = made.jobs()
    while jobs:
        ran += [one.position for job in jobs for one in job.records]
        made.feed(*(act.Finished(job, (), ()) for job in jobs))
        jobs = made.jobs()
    made.feed(after=1.0)
    return ran


@pytest.mark.parametrize("ordered", [True, False])
def test_a_window_that_is_sent_again_is_handled_once_and_settled_whole(ordered: bool) -> None:
    made = driver(ordered=ordered)
    made.deliver(*(sent(at, 5 + at) for at in range(3)), *(sent(3 + at, 5 + at, again=True) for at in range(3)))
    assert run_all(made) == [0, 1, 2]
    assert done(made) == set(range(6))
    assert made.machine.view().repeated == 3


def test_a_copy_behind_a_first_that_is_settled_is_settled_unseen() -> None:
    made = driver()
    made.deliver(sent(0, 5))
    assert run_all(made) == [0]
    assert made.deliver(sent(1, 5, again=True)) == []
    made.feed(after=1.0)
    assert done(made) == {0, 1}


def test_a_first_that_is_tried_again_is_owed_although_its_copy_is_settled() -> None:
    made = driver()
    (job,) = made.deliver(sent(0, 5))
    made.feed(act.Finished(job, [(job.records[0], failure())], ()))
    made.deliver(sent(1, 5, again=True))
    made.feed(after=100.0)
    assert made.started() == [0]
    assert 0 not in done(made)


def test_what_was_sent_again_and_is_not_here_is_handled() -> None:
    made = driver()
    made.deliver(sent(0, 6), sent(1, 5, again=True), sent(2, 7, again=True))
    assert run_all(made) == [0, 1, 2]
    assert made.machine.view().repeated == 0


def test_other_producers_and_foreign_messages_are_no_copies() -> None:
    made = driver()
    foreign = [record(at, "k", again=True) for at in (2, 3)]
    made.deliver(sent(0, 5), sent(1, 5, again=True, producer="q"), *foreign)
    assert run_all(made) == [0, 1, 2, 3]


def test_a_new_owner_knows_of_no_first() -> None:
    made = driver(tuning=act.Tuning(concurrency=8))
    made.deliver(sent(0, 5))
    made.feed(Lost(P0, 1))
    made.assign(position=0, epoch=2)
    made.deliver(sent(0, 5), sent(1, 5, again=True), epoch=2)
    assert made.started() == [0]
    made.feed(Lost(P0, 2))
    made.assign(position=1, epoch=3)
    made.deliver(sent(1, 5, again=True), epoch=3)
    assert made.started() == [1]


def test_a_copy_that_an_earlier_owner_halted_holds_nothing_up() -> None:
    made = driver(assign=False, ordered=True)
    made.assign(sparse=sparse.encode(0, [], {1: 3}, 1000, halts={1: PARTITION}))
    made.deliver(sent(0, 5), sent(1, 5, again=True), sent(2, 6))
    assert run_all(made) == [0, 2]
    assert made.machine.view().halted == ()
    assert done(made) == {0, 1, 2}


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "REMEMBERED", 100)
    known = copies.Copies()
    for at in range(0, 1000, 10):
        known.among([sent(at + index, at + index) for index in range(10)])
    assert len(known.among([sent(2000, 900, again=True), sent(2001, 5, again=True)])) == 1


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40), st.integers(1, 7))
def test_against_a_model(messages: list[tuple[int, bool]], size: int) -> None:
    """A record goes if it says so itself and one of its producer and sequence came before it."""
    known, kept = copies.Copies(), []
    records = [sent(at, sequence, again=again) for at, (sequence, again) in enumerate(messages)]
    for start in range(0, len(records), size):
        batch = records[start : start + size]
        gone = {one.position for one in known.among(batch)}
        kept += [one.position for one in batch if one.position not in gone]
    expected = [at for at, (sequence, again) in enumerate(messages) if not (again and sequence in [one for one, _ in messages[:at]])]
    assert kept == expected
