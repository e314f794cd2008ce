"""Lanes: one serial queue per key, whatever comes in between."""

from __future__ import annotations

from collections import defaultdict
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from mqsdk.core.lanes import Fifo, Lanes
from mqsdk.spi.events import Record
from tests.core.driving import record


@given(st.lists(st.sampled_from([None, "a", "b", "c"]), max_size=60), st.integers(0, 2**32), st.integers(1, 6))
def test_a_key_is_out_once_and_ends_in_order(keys: list[str | None], seed: int, limit: int) -> None:
    """Random takes, ends and returns: the model is a list per key, of which only the front may be out."""
    rng, lanes = Random(seed), Lanes({})
    lanes.add([record(position, key) for position, key in enumerate(keys)])
    left: dict[bytes | None, list[int]] = defaultdict(list)
    for position, key in enumerate(keys):
        left[None if key is None else key.encode()].append(position)
    out: list[list[Record]] = []
    while lanes.ready or out:
        if lanes.ready and (not out or rng.random() < 0.5):
            taken = lanes.take(limit, limit)
            assert 0 < len(taken) <= limit
            busy = {one.key for job in out for one in job}
            assert not busy & {one.key for one in taken}
            for name in {one.key for one in taken}:
                mine = [one.position for one in taken if one.key == name]
                assert mine == left[name][: len(mine)]
            out.append(taken)
        else:
            job = out.pop(rng.randrange(len(out)))
            ended = job[: rng.randint(0, len(job))]
            for one in ended:
                left[one.key].remove(one.position)
            lanes.back(job[len(ended) :])
            lanes.end(ended)
    assert not any(left.values())
    assert lanes._out == {}
    assert lanes._waiting == {}


def test_a_returned_record_waits_for_the_rest_of_its_key() -> None:
    lanes = Lanes({})
    a0, b1, a2, c3 = job = [record(0, "a"), record(1, "b"), record(2, "a"), record(3, "c")]
    lanes.add(job)
    assert lanes.take(4, 4) == [a0, a2, b1, c3]
    lanes.back([a2, b1, c3])
    assert lanes.take(4, 4) == [b1, c3]
    lanes.end([a0])
    assert lanes.take(4, 4) == [a2]


def test_a_key_of_an_earlier_ownership_stays_blocked_until_it_is_freed() -> None:
    lanes, old = Lanes({}), record(0, "a")
    lanes.hold([old])
    late = lanes.add([record(0, "a"), record(1, "b")])
    assert [one.position for one in late] == [0]
    assert [one.position for one in lanes.take(9, 9)] == [1]
    lanes.end([old])
    assert [one.position for one in lanes.take(9, 9)] == [0]


def test_what_failed_before_is_never_mixed_with_the_rest() -> None:
    lanes, fifo = Lanes({1: 2}), Fifo({1: 2})
    records = [record(0, "a"), record(1, "a"), record(2, "a")]
    for queue in (lanes, fifo):
        queue.add(records)
    assert [one.position for one in lanes.take(9, 9)] == [0]
    lanes.end([records[0]])
    assert [one.position for one in lanes.due] == [1]
    assert not lanes.ready
    assert [one.position for one in fifo.take(9, 9)] == [0, 2]
    assert [one.position for one in fifo.due] == [1]


def test_an_unordered_queue_gives_back_to_the_front() -> None:
    fifo = Fifo({})
    records = [record(position) for position in range(10)]
    fifo.add(records[:6])
    fifo.add(records[6:])
    first = fifo.take(4, 4)
    fifo.back(first[2:])
    assert [one.position for one in fifo.take(10, 10)] == [2, 3]
    assert [one.position for one in fifo.take(10, 10)] == [4, 5]
    assert [one.position for one in fifo.take(10, 10)] == [6, 7, 8, 9]
    assert fifo.ready == 0


def test_a_batch_spans_what_came_in_several_pieces() -> None:
    fifo = Fifo({}, spans_chunks=True)
    fifo.add([record(0)])
    fifo.add([record(1), record(2)])
    assert fifo.available(5) == 3
    assert [one.position for one in fifo.take(2, 2)] == [0, 1]
    lanes = Lanes({})
    lanes.add([record(0, "a"), record(1, "a"), record(2, "b")])
    assert lanes.available(2) == 2
    assert lanes.available(5) == 3
