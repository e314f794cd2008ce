"""The blob beside the watermark: what is put in comes out, and bytes that we did not write restore nothing."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqsdk.core.sparse import Saved, Suspicion, decode, encode, joined

States = tuple[int, list[tuple[int, int]], dict[int, int]]


@st.composite
def states(draw: st.DrawFn) -> States:
    """(watermark, ranges above it that do not touch, failed attempts)."""
    watermark = draw(st.integers(0, 2**61))
    at, ranges = watermark, []
    for gap, length in draw(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), max_size=30)):
        ranges.append((at + gap, at + gap + length))
        at += gap + length
    attempts = draw(st.dictionaries(st.integers(watermark, watermark + 5000), st.integers(1, 10_000), max_size=10))
    return watermark, ranges, attempts


@given(states())
def test_what_is_encoded_is_decoded(state: States) -> None:
    watermark, ranges, attempts = state
    assert decode(encode(watermark, ranges, attempts, 100_000), watermark) == Saved(tuple(ranges), attempts)


@given(states(), st.integers(0, 200))
def test_over_the_limit_the_far_end_is_left_out(state: States, limit: int) -> None:
    watermark, ranges, attempts = state
    blob = encode(watermark, ranges, attempts, limit)
    saved = decode(blob, watermark)
    assert len(blob) <= limit
    assert list(saved.ranges) == ranges[: len(saved.ranges)]
    assert saved.attempts.items() <= attempts.items()
    kept = set(saved.attempts)
    for count in set(attempts.values()):
        positions = sorted(position for position, one in attempts.items() if one == count)
        assert [position for position in positions if position in kept] == positions[: len(kept.intersection(positions))]


@given(states(), st.integers(0, 5000), st.booleans(), st.sets(st.integers(0, 300), max_size=50))
def test_a_suspicion_is_encoded_and_decoded(state: States, until: int, in_order: bool, started: set[int]) -> None:
    watermark, ranges, attempts = state
    begun = tuple(joined(sorted(watermark + one for one in started)))
    suspicion = Suspicion(watermark + until, attempts, begun, in_order)
    assert decode(encode(watermark, ranges, attempts, 100_000, suspicion), watermark) == Saved(tuple(ranges), attempts, suspicion)


@given(states(), st.dictionaries(st.integers(0, 5000), st.integers(1, 4), min_size=1, max_size=50))
def test_halts_are_encoded_and_decoded(state: States, halts: dict[int, int]) -> None:
    watermark, ranges, attempts = state
    placed = {watermark + position: kind for position, kind in halts.items()}
    suspicion = Suspicion(watermark + 1, attempts)
    assert decode(encode(watermark, ranges, attempts, 100_000, suspicion, placed), watermark) == Saved(
        tuple(ranges), attempts, suspicion, placed
    )


def test_halts_have_room_whatever_else_is_to_be_said() -> None:
    """126 are the most that a partition remembers in 4,040 bytes; here each is as far from the next as it can be in a span."""
    positions = [position for position in range(1, 12_000) if position % 3]
    halts = {one * 94: 1 for one in range(126)}
    counts = dict.fromkeys(range(0, 12_000, 3), 1)
    saved = decode(encode(0, joined(positions), counts, 4040, Suspicion(12_000, counts), halts), 0)
    assert saved.halts == halts


def test_a_blob_without_halts_is_one_that_earlier_versions_read() -> None:
    assert encode(5, [(7, 9)], {6: 2}, 1000)[:1] == b"\x02"
    assert encode(5, [(7, 9)], {6: 2}, 1000, halts={6: 1})[:1] == b"\x03"


@given(st.binary(max_size=200), st.integers(0, 2**62))
def test_foreign_bytes_restore_nothing(blob: bytes, watermark: int) -> None:
    assert decode(blob, watermark) == Saved()


@given(st.binary(max_size=60), st.integers(0, 300))
def test_a_right_checksum_over_nonsense_never_raises(body: bytes, watermark: int) -> None:
    saved = decode(b"\x02" + zlib.crc32(body).to_bytes(4, "big") + body, watermark)
    assert all(watermark < start < stop for start, stop in saved.ranges)


@pytest.mark.parametrize("position", range(12))
def test_a_flipped_bit_restores_nothing(position: int) -> None:
    blob = bytearray(encode(5, [(7, 9), (20, 30)], {6: 2}, 1000))
    blob[position] ^= 4
    assert decode(bytes(blob), 5) == Saved()


def test_a_blob_of_another_watermark_restores_nothing() -> None:
    """The group was reset: what it had settled beyond the new position is to run again."""
    blob = encode(5, [(7, 9)], {6: 2}, 1000)
    assert decode(blob, 4) == decode(blob, 6) == Saved()


def test_nothing_to_say_takes_no_bytes() -> None:
    assert encode(5, [], {}, 1000) == b""
    assert encode(5, [(7, 9)], {}, 0) == b""


@pytest.mark.parametrize("every", [2, 3, 7, 12])
def test_a_whole_span_fits_however_it_is_holed(every: int) -> None:
    """12,000 positions are the most between the watermark and the last one received."""
    positions = [position for position in range(1, 12_000) if position % every]
    saved = decode(encode(0, joined(positions), dict.fromkeys(range(0, 12_000, every), 1), 4040), 0)
    assert saved.ranges == tuple(joined(positions))
    assert len(saved.attempts) == len(range(0, 12_000, every))


@pytest.mark.parametrize(
    "body",
    [
        b"\x05\x00\x80",
        b"\x05\x04\x80\x80\x00",
        b"\x05" + b"\xff" * 9 + b"\x01",
        b"\x05\x08\x01\x01",
        b"\x05\x04\x01\x00\x00",
        b"\x05\x08\x01\x01\x00\x01\x00",
        b"\x05\x04\x00\x01\x00",
        b"\x05\x03\x01\x00",
        b"\x05\x00\x01\x01\x0c\x00\xff\xff\xff\x7f\x00",
    ],
)
def test_what_we_would_not_have_written_restores_nothing(body: bytes) -> None:
    assert decode(b"\x02" + zlib.crc32(body).to_bytes(4, "big") + body, 5) == Saved()
