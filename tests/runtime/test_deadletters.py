"""Dead letters on a log are removed by done records; what is in a record's headers is not trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from mqsdk.core.deadletter import DONE, is_done
from mqsdk.runtime import deadletters
from mqsdk.runtime.deadletters import Chosen, Remover, done_text, letters
from mqsdk.spi import EventSink, NewRecord, Partition, ProducerEvent, Record
from mqsdk.testing import SimBackend, SimLog
from mqsdk.testing.simlog import SimProducer


class Sink:
    def put(self, event: ProducerEvent, /) -> None:
        """Nothing is looked at."""


@pytest.fixture
def backend() -> SimBackend:
    backend = SimBackend(SimLog())
    backend.open(0.0)
    backend.admin().ensure_topic("t.g.dlq", 2)
    return backend


def put(backend: SimBackend, *records: tuple[int, str], extra: tuple[tuple[str, str], ...] = (("mq-dlq-reason", "rejected"),)) -> None:
    """Store (partition, id) one after another."""
    new = [NewRecord(i, Partition("t.g.dlq", part), None, b"x", name, i, extra=extra) for i, (part, name) in enumerate(records)]
    backend.producer(Sink()).publish(new, 0.0)


def left(backend: SimBackend, chosen: Chosen = Chosen()) -> list[str]:  # noqa: B008
    return [letter.id for letter in letters(backend.admin(), "t", "g", chosen)]


@pytest.mark.parametrize(
    ("positions", "text"),
    [((), ""), ((5,), "5"), ((5, 6), "5-6"), ((12, 5, 8, 9, 10, 5), "5,8-10,12"), ((0, 1, 2, 4), "0-2,4")],
)
def test_a_done_record_names_positions_in_runs(positions: tuple[int, ...], text: str) -> None:
    assert done_text(positions) == text


def test_any_set_of_letters_can_be_removed_in_any_order(backend: SimBackend) -> None:
    put(backend, *[(i % 2, f"id-{i}") for i in range(200)])
    remover = Remover(backend, "t", "g", lambda: 0)
    everything = list(letters(backend.admin(), "t", "g"))
    assert remover.remove([one for one in everything if one.position % 3 == 0], 1.0) == 68
    expected = [one.id for one in everything if one.position % 3]
    assert sorted(left(backend)) == sorted(expected)
    assert remover.remove(everything, 1.0) == 200  # those that are gone already do no harm
    assert left(backend) == []


def test_a_done_record_counts_for_its_own_partition_only(backend: SimBackend) -> None:
    put(backend, (0, "a"), (1, "b"))
    (first, _) = letters(backend.admin(), "t", "g")
    Remover(backend, "t", "g", lambda: 0).remove([first], 1.0)
    assert left(backend) == ["b"]


def test_many_picked_letters_take_several_records_of_bounded_size(backend: SimBackend) -> None:
    put(backend, *[(0, f"id-{i}") for i in range(2 * deadletters.DONE_PER_RECORD + 1)])
    every_second = [one for one in letters(backend.admin(), "t", "g") if one.position % 2 == 0]
    Remover(backend, "t", "g", lambda: 0).remove(every_second, 1.0)
    done = [one for one in backend.admin().read("t.g.dlq", 0, 1001, 99) if is_done(one)]
    assert len(done) == 2
    assert max(len(dict(one.extra)[DONE]) for one in done) < 16 * 1024


def test_a_remover_counts_only_what_is_confirmed(backend: SimBackend) -> None:
    put(backend, (0, "a"), (1, "b"))
    backend.store.fail_publish("unknown_lost", times=1)
    assert Remover(backend, "t", "g", lambda: 0).remove(list(letters(backend.admin(), "t", "g")), 0.1) < 2
    assert left(backend)


@pytest.mark.parametrize("text", ["", "x", "-", "5-", "-5", "1e3", "9" * 400, "2-1", "\N{ARABIC-INDIC DIGIT ONE}", ",,,"])
def test_a_done_record_that_does_not_parse_removes_nothing(backend: SimBackend, text: str) -> None:
    put(backend, (0, "a"), (0, "b"))
    put(backend, (0, "done"), extra=((DONE, text),))
    assert left(backend) == ["a", "b"]


def test_a_done_record_that_names_a_huge_range_costs_nothing(backend: SimBackend) -> None:
    put(backend, (0, "a"), (1, "b"))
    put(backend, (0, "done"), extra=((DONE, f"0-{10**18}"),))
    assert left(backend) == ["b"]


def test_headers_of_a_letter_that_do_not_parse_are_left_out() -> None:
    extra = tuple((f"mq-dlq-{name}", "nonsense") for name in ("partition", "attempts", "first-at", "last-at"))
    found = deadletters.read_letter(1, Record(7, None, b"x", timestamp_ms=5, extra=extra))
    assert (found.attempts, found.first_at_ms, found.last_at_ms, found.origin_partition, found.reason) == (0, None, 5, None, "")
    assert found.id == "1:7"


def test_no_topic_of_dead_letters_means_no_letters() -> None:
    backend = SimBackend(SimLog())
    backend.open(0.0)
    assert left(backend) == []


def test_a_done_record_is_stored_as_durably_as_the_letter() -> None:
    """A letter that was redriven must not come back after a power cut because its removal was only in memory."""
    kept: list[NewRecord] = []

    class Keeping(SimProducer):
        def publish(self, batch: Sequence[NewRecord], deadline: float) -> None:
            kept.extend(batch)
            super().publish(batch, deadline)

    class KeepingBackend(SimBackend):
        def producer(self, events: EventSink) -> SimProducer:
            return Keeping(self, events)

    backend = KeepingBackend(SimLog())
    backend.open(0.0)
    backend.admin().ensure_topic("t.g.dlq", 1)
    put(backend, (0, "a"))
    kept.clear()
    Remover(backend, "t", "g", lambda: 0).remove(list(letters(backend.admin(), "t", "g")), 1.0)
    assert [(record.durable, dict(record.extra)[DONE]) for record in kept] == [(True, "0")]


# --- what is all done need not be kept -----------------------------------------------------------------------------------------------


def remove(backend: SimBackend, *names: str) -> None:
    Remover(backend, "t", "g", lambda: 0).remove([one for one in letters(backend.admin(), "t", "g") if one.id in names], 1.0)


def held(backend: SimBackend) -> list[tuple[int, int]]:
    return [backend.admin().bounds("t.g.dlq", number) for number in range(2)]


def test_letters_go_when_all_before_them_are_done_and_no_other_one_does(backend: SimBackend) -> None:
    put(backend, (0, "a"), (0, "b"), (0, "c"), (1, "d"))
    remove(backend, "b", "c")
    assert deadletters.trim(backend, "t", "g") == {}  # "a" stands before them
    remove(backend, "a")
    assert deadletters.trim(backend, "t", "g") == {0: 5}  # the notes about them too
    assert held(backend) == [(5, 5), (0, 1)]
    put(backend, (0, "e"))
    assert sorted(left(backend)) == ["d", "e"]
    remove(backend, "d", "e")
    assert deadletters.trim(backend, "t", "g") == {0: 7, 1: 2}
    assert left(backend) == []
    assert deadletters.trim(backend, "t", "g") == {}


def test_a_done_record_that_names_what_is_left_stays(backend: SimBackend) -> None:
    put(backend, (0, "a"), (0, "b"), (0, "c"))
    remove(backend, "c")
    remove(backend, "a")
    assert deadletters.trim(backend, "t", "g") == {0: 1}
    assert left(backend) == ["b"]  # and not "c", whose note is behind it


def test_what_a_consumer_of_dead_letters_has_not_handled_stays(backend: SimBackend) -> None:
    put(backend, (0, "a"), (0, "b"))
    backend.admin().ensure_group("t.g.dlq", "reader", "earliest")
    remove(backend, "a", "b")
    assert deadletters.trim(backend, "t", "g") == {}
    backend.admin().reset("t.g.dlq", "reader", {0: 1})
    assert deadletters.trim(backend, "t", "g") == {0: 1}


def test_nothing_is_trimmed_where_others_may_read(backend: SimBackend) -> None:
    put(backend, (0, "a"))
    remove(backend, "a")
    other = SimBackend(backend.store, capabilities=replace(backend.capabilities, retention=False))
    other.open(0.0)
    assert deadletters.trim(other, "t", "g") == {}
    assert held(backend)[0] == (0, 2)
