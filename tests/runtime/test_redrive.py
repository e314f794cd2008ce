"""Redrive: each letter is copied to the group's retry topic, removed when its copy is confirmed, and counted."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest

from mqsdk.core.partitioner import partition_of
from mqsdk.errors import UnsafeBackend
from mqsdk.runtime import deadletters, redrive
from mqsdk.runtime.deadletters import Chosen, DeadLetter, Remover, letters
from mqsdk.runtime.redrive import CHUNK, Moved, Redrive
from mqsdk.spi import Record
from mqsdk.testing import SimBackend, SimLog
from tests.runtime.test_supervisor import Process, Recorder, fails

RETRY = "orders.billing.retry"


class HandClock:
    """Sleeping is all that moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def mono(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return 5_000

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def process() -> Iterator[Process]:
    made = Process(SimLog(partitions=4))
    yield made
    made.supervisor.close(5.0)


@pytest.fixture
def backend(process: Process) -> SimBackend:
    found = process.supervisor.clusters.backend("local")
    assert isinstance(found, SimBackend)
    return found


def left(backend: SimBackend) -> list[str]:
    return sorted(letter.record.value.decode() for letter in chosen(backend))


def chosen(backend: SimBackend) -> Iterator[DeadLetter]:
    return letters(backend.admin(), "orders", "billing", Chosen())


def redriven(backend: SimBackend) -> list[tuple[int, Record]]:
    return backend.store.records(RETRY)


def work(backend: SimBackend, clock: HandClock | None = None) -> Redrive:
    return Redrive(backend, "orders", "billing", clock or HandClock(), 0.1)


def last(tallies: Iterator[Moved]) -> Moved:
    return list(tallies)[-1]


def dead(process: Process, *values: str, key: str | None = None) -> None:
    """Dead letters as layer 2 makes them; the consumer is stopped again."""
    process.start(Recorder(fails(*[value.encode() for value in values])))
    process.publish("orders", *values, key=key)
    process.wait(lambda: process.lag() == 0)
    process.supervisor.stop(5.0)


def test_a_copy_is_the_message_as_it_was_and_says_where_it_came_from(process: Process, backend: SimBackend) -> None:
    [receipt] = process.publish("orders", "a", key="k")
    process.start(Recorder(fails(b"a")))
    process.wait(lambda: process.lag() == 0)
    process.supervisor.stop(5.0)
    assert last(work(backend).run(chosen(backend))) == Moved(1)
    [(number, copy)] = redriven(backend)
    assert number == receipt.partition == partition_of(b"k", 4)
    assert (copy.id, copy.key, copy.value, copy.attempt, copy.timestamp_ms) == (receipt.id, b"k", b"a", 1, 5_000)
    assert dict(copy.extra) == {"mq-redrive-of": f"orders:{receipt.partition}:{receipt.position}"}
    assert left(backend) == []


def test_messages_without_a_key_go_back_to_their_partition(process: Process, backend: SimBackend) -> None:
    dead(process, "a", "b")
    where = {letter.record.value: letter.origin_partition for letter in chosen(backend)}
    last(work(backend).run(chosen(backend)))
    assert {copy.value: number for number, copy in redriven(backend)} == where


def test_redriven_messages_reach_a_consumer_that_runs_and_this_group_alone(process: Process, backend: SimBackend) -> None:
    other = Recorder()
    process.start(other, group="mail")
    handler = Recorder(fails(b"a", times=3))
    process.start(handler)
    process.publish("orders", "a", key="k")
    process.wait(lambda: left(backend) == ["a"])
    assert last(work(backend).run(chosen(backend))) == Moved(1)
    assert handler.wait_for(4) == [(b"a", 1), (b"a", 2), (b"a", 3), (b"a", 1)]
    process.wait(lambda: process.lag() == 0)
    assert (left(backend), other.seen) == ([], [(b"a", 1)])
    assert all(len(info.partitions) == 4 for info in process.supervisor.consumers())


def test_what_is_redriven_counts_as_lag_until_it_is_handled(process: Process, backend: SimBackend) -> None:
    dead(process, "a", "b")
    assert process.lag() == 0
    last(work(backend).run(chosen(backend)))
    found = process.supervisor.lag("orders", "billing")
    assert (found.messages, sum(one.messages for one in found.partitions), len(found.partitions)) == (2, 2, 4)
    assert found.seconds > 0
    handler = Recorder()
    process.start(handler)
    handler.wait_for(2)
    process.wait(lambda: process.lag() == 0)


def test_a_second_failure_makes_a_letter_that_names_the_original(process: Process, backend: SimBackend) -> None:
    dead(process, "a")
    [first] = chosen(backend)
    last(work(backend).run(chosen(backend)))
    process.start(Recorder(fails(b"a")))
    process.wait(lambda: left(backend) == ["a"])
    [second] = chosen(backend)
    assert (second.id, second.attempts) == (first.id, 3)
    assert (second.origin_partition, second.origin_position) == (first.origin_partition, first.origin_position)


def test_a_letter_stays_when_its_copy_is_not_confirmed(process: Process, backend: SimBackend) -> None:
    dead(process, "a", "b")
    backend.store.fail_publish("rejected", times=1)
    assert last(work(backend).run(chosen(backend))) == Moved(1, 0, 1)
    assert len(left(backend)) == 1


def test_a_letter_whose_removal_is_not_confirmed_is_told(process: Process, backend: SimBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    dead(process, "a", "b")
    monkeypatch.setattr(Remover, "remove", lambda self, chosen, timeout_s: 0)
    assert last(work(backend).run(chosen(backend))) == Moved(0, 0, 2, 2)


def test_it_ends_when_nothing_of_a_chunk_can_be_stored(process: Process, backend: SimBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redrive, "CHUNK", 2)
    dead(process, *"abcde")
    backend.store.fail_publish("rejected", times=2)
    assert last(work(backend).run(chosen(backend))) == Moved(0, 3, 2)
    assert len(left(backend)) == 5


def test_what_somebody_else_removes_meanwhile_is_skipped(process: Process, backend: SimBackend) -> None:
    dead(process, "a", "b", "c")
    [first, *_] = found = list(chosen(backend))
    slow = work(backend)
    Remover(backend, "orders", "billing", lambda: 0).remove([first], 1.0)
    assert last(slow.run(iter(found))) == Moved(2, 1)


def test_what_somebody_else_removes_and_trims_meanwhile_is_skipped(process: Process, backend: SimBackend) -> None:
    """The note that it was removed is gone with it: it would have been copied once more."""
    dead(process, "a", "b", "c")
    found = list(chosen(backend))
    slow = work(backend)
    Remover(backend, "orders", "billing", lambda: 0).remove(found, 1.0)
    assert deadletters.trim(backend, "orders", "billing")
    assert last(slow.run(iter(found))) == Moved(0, 3)


def test_a_redrive_that_is_cut_off_doubles_one_chunk_at_most(
    process: Process, backend: SimBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redrive, "CHUNK", 2)
    dead(process, *"abcde")

    def die(self: Remover, chosen: list[DeadLetter], timeout_s: float) -> int:
        raise KeyboardInterrupt

    run = work(backend).run(chosen(backend))
    next(run)
    with monkeypatch.context() as patch:
        patch.setattr(Remover, "remove", die)
        with pytest.raises(KeyboardInterrupt):
            next(run)
    assert (len(redriven(backend)), len(left(backend))) == (4, 3)
    last(work(backend).run(chosen(backend)))
    copies = [copy.value.decode() for _, copy in redriven(backend)]
    assert (len(copies), sorted(set(copies))) == (7, list("abcde"))


@pytest.mark.parametrize(("rate", "count", "seconds"), [(100.0, 50, 0.5), (2.0, 4, 2.0), (None, 50, 0.0)])
def test_a_rate_is_kept(process: Process, backend: SimBackend, rate: float | None, count: int, seconds: float) -> None:
    dead(process, *[str(number) for number in range(count)])
    clock = HandClock()
    assert last(work(backend, clock).run(chosen(backend), rate)).moved == count
    slack = 0.0 if rate is None else max(1.0, rate * redrive.RATE_CHUNK_S) / rate
    assert clock.now - 1000.0 == pytest.approx(seconds - slack if rate else 0.0)


def test_a_chunk_is_bounded_whatever_the_rate(process: Process, backend: SimBackend) -> None:
    dead(process, *[str(number) for number in range(CHUNK + 1)])
    steps = list(islice(work(backend).run(chosen(backend), 1e9), 2))
    assert [step.moved for step in steps] == [CHUNK, CHUNK + 1]


def test_a_retry_topic_with_another_number_of_partitions_is_refused(process: Process, backend: SimBackend) -> None:
    dead(process, "a")
    backend.admin().ensure_topic(RETRY, 3)
    with pytest.raises(UnsafeBackend):
        work(backend)
    assert left(backend) == ["a"]


def test_a_letter_of_a_foreign_writer_goes_by_its_key(process: Process, backend: SimBackend) -> None:
    dead(process, "a")
    backend.store.publish_foreign("orders.billing.dlq", b"k", b"foreign", partition=1)
    last(work(backend).run(chosen(backend)))
    [(number, copy)] = [found for found in redriven(backend) if found[1].value == b"foreign"]
    assert (number, copy.extra) == (partition_of(b"k", 4), ())
