"""The watermark equals that of a sorted set of settled positions, whatever order they come in."""

from __future__ import annotations

import random
import time

from hypothesis import given
from hypothesis import strategies as st

from mqsdk.core.watermark import Watermark


def model(low: int, settled: set[int]) -> tuple[int, list[tuple[int, int]]]:
    """(watermark, ranges above it) the slow way."""
    while low in settled:
        low += 1
    ranges: list[tuple[int, int]] = []
    for position in sorted(one for one in settled if one >= low):
        if ranges and ranges[-1][1] == position:
            ranges[-1] = (ranges[-1][0], position + 1)
        else:
            ranges.append((position, position + 1))
    return low, ranges


@st.composite
def disjoint_ranges(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """(start, ranges in any order): the space from start on cut into pieces, some of them left out."""
    start = draw(st.integers(0, 2**62))
    at, pieces = start, []
    for length, is_settled in draw(st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=60)):
        if is_settled:
            pieces.append((at, at + length))
        at += length
    return start, draw(st.permutations(pieces))


@given(disjoint_ranges())
def test_it_equals_a_sorted_set(drawn: tuple[int, list[tuple[int, int]]]) -> None:
    start, ranges = drawn
    mark, settled = Watermark(start), set[int]()
    for left, right in ranges:
        mark.add(left, right)
        settled |= set(range(left, right))
        assert (mark.low, mark.ranges()) == model(start, settled)
        assert mark.high == max(settled) + 1


@given(disjoint_ranges(), st.integers(-3, 300), st.integers(0, 50))
def test_what_is_missing_is_the_complement(drawn: tuple[int, list[tuple[int, int]]], offset: int, length: int) -> None:
    start, ranges = drawn
    mark = Watermark(start)
    for left, right in ranges:
        mark.add(left, right)
    settled = {position for left, right in ranges for position in range(left, right)}
    first = start + offset
    expected = {position for position in range(max(first, start), first + length) if position not in settled}
    missing = mark.missing(first, first + length)
    assert {position for left, right in missing for position in range(left, right)} == expected
    assert missing == sorted(missing)


def test_a_late_first_position_closes_everything_above_it() -> None:
    mark = Watermark(10)
    mark.add(11, 500)
    assert mark.low == 10
    mark.add(10, 11)
    assert (mark.low, mark.ranges()) == (500, [])


def test_random_completion_costs_about_the_same_at_any_size() -> None:
    def seconds_per_position(count: int) -> float:
        order = list(range(count))
        random.Random(1).shuffle(order)
        mark, began = Watermark(0), time.process_time()
        for position in order:
            mark.add(position, position + 1)
        assert mark.low == count
        return (time.process_time() - began) / count

    assert seconds_per_position(100_000) < 20 * seconds_per_position(5_000)
