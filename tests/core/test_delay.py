"""The steps of a delayed message: which one it takes next, when it leaves, and what it says about itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqsdk.core import delay
from mqsdk.core.delay import SMALLEST_MS, STEPS, TOPICS, Hop, hop_again, next_hop
from mqsdk.core.shelf import AHEAD_MS, CHUNK_RECORDS, MOST_BYTES, MOST_RECORDS, Held, Shelf
from mqsdk.message import Origin
from mqsdk.spi import Assigned, Batch, Partition, Record

DAY_MS = 86_400_000
NOW = 1_700_000_000_000
STEP_MS = {topic: step_ms for topic, (_, step_ms) in zip(TOPICS, STEPS, strict=True)}


def ride(left_ms: int) -> Iterator[Hop]:
    """The hops of a message that is moved the moment it may."""
    now_ms, due_ms = NOW, NOW + left_ms
    while now_ms < due_ms:
        hop = next_hop(now_ms, due_ms)
        yield hop
        now_ms = hop.until_ms


@pytest.mark.parametrize(
    ("left_ms", "topic", "until_ms"),
    [
        (1, "1s", 1),
        (999, "1s", 999),
        (1000, "1s", 1000),
        (1999, "1s", 1999),  # the rest is waited for: it is shorter than the smallest step
        (2000, "1s", 1000),
        (4999, "1s", 1000),
        (5000, "5s", 5000),
        (5999, "5s", 5999),
        (6000, "5s", 5000),
        (59_999, "30s", 30_000),
        (60_000, "1m", 60_000),
        (29 * 60_000, "5m", 5 * 60_000),
        (DAY_MS - 1, "6h", 6 * 3_600_000),
        (DAY_MS, "1d", DAY_MS),
        (366 * DAY_MS, "1d", DAY_MS),
    ],
)
def test_the_longest_step_that_is_not_too_long(left_ms: int, topic: str, until_ms: int) -> None:
    assert next_hop(NOW, NOW + left_ms) == Hop(f"mq.delay.{topic}", NOW + until_ms)


@given(st.integers(1, 366 * DAY_MS))
def test_every_delay_ends_when_it_is_due_and_never_waits_longer_than_its_steps(left_ms: int) -> None:
    hops = list(ride(left_ms))
    assert hops[-1].until_ms == NOW + left_ms
    assert len(hops) <= 366 + 3 + 5 + 1 + 5 + 4 + 1 + 5 + 4
    at_ms = NOW
    for hop in hops:
        waits_ms = hop.until_ms - at_ms
        assert waits_ms < STEP_MS[hop.topic] + SMALLEST_MS
        assert waits_ms >= STEP_MS[hop.topic] or (hop.topic == TOPICS[0] and left_ms < SMALLEST_MS)
        at_ms = hop.until_ms


@given(st.lists(st.integers(0, 5 * DAY_MS), min_size=2, max_size=20), st.data())
def test_what_comes_later_into_a_topic_leaves_at_most_a_smallest_step_earlier(lefts: list[int], data: st.DataObject) -> None:
    """So it is enough to look that much further than the newest one."""
    newest: dict[str, int] = {}
    now_ms = NOW
    for left_ms in lefts:
        hop = next_hop(now_ms, now_ms + left_ms)
        if hop.topic != TOPICS[0]:
            assert hop.until_ms > newest.get(hop.topic, 0) - SMALLEST_MS
            newest[hop.topic] = max(hop.until_ms, newest.get(hop.topic, 0))
        now_ms += data.draw(st.integers(0, 5000))


def test_what_waits_for_a_target_that_is_down_for_long_hops_less_often() -> None:
    assert [hop_again(NOW, failing_s).topic for failing_s in (0.0, 4.9, 5.0, 59.0, 60.0, 1e6)] == [
        *(TOPICS[0],) * 2, *(TOPICS[1],) * 2, *(TOPICS[2],) * 2,
    ]  # fmt: skip
    assert hop_again(NOW, 0.0).until_ms == NOW + 1000


# --- headers ------------------------------------------------------------------------------------------------------------------------


def record(extra: tuple[tuple[str, str], ...], due_ms: int | None = NOW + 5000, position: int = 0) -> Record:
    return Record(position, b"k", b"v", id="m", due_ms=due_ms, extra=extra)


def extra_of(target: str = "orders", partition: str = "3", until: str = str(NOW + 5000)) -> tuple[tuple[str, str], ...]:
    return ((delay.TARGET, target), (delay.PARTITION, partition), (delay.UNTIL, until))


def test_a_waiting_message_says_where_it_goes_and_gives_back_what_it_carried() -> None:
    carried = (("mq-redrive-of", "orders:1:2"),)
    once = delay.headers(carried, "orders", 3, NOW + 1000)
    twice = delay.headers(delay.original(once), "orders", 3, NOW + 2000)
    assert delay.original(twice) == carried
    assert delay.read(record(twice), TOPICS[1], NOW) == delay.Waiting("orders", 3, NOW + 5000, NOW + 2000)


@pytest.mark.parametrize(
    "extra",
    [
        (),
        extra_of(target=""),
        extra_of(target="mq.delay.1s"),  # it would go round for ever
        extra_of(target="mq.delay.dlq"),
        extra_of(target="a..b"),
        extra_of(target=".retry"),
        extra_of(target="orders.retry"),
        extra_of(target="orders.billing.dlq"),
        extra_of(partition="-1"),
        extra_of(partition="x"),
        extra_of(until="1e9"),
        extra_of(until="9" * 40),
        extra_of()[1:],
        extra_of()[:2],
    ],
)
def test_what_is_none_of_ours_is_not_taken_for_it(extra: tuple[tuple[str, str], ...]) -> None:
    assert delay.read(record(extra), TOPICS[0], NOW) is None


def test_a_retry_topic_is_a_target_and_a_record_without_due_time_has_none() -> None:
    for target in ("orders.v2.billing.retry", "orders.billing.dlq.again.retry"):  # dead letters have consumers too
        assert delay.read(record(extra_of(target)), TOPICS[0], NOW) is not None
    assert delay.read(record(extra_of(), due_ms=None), TOPICS[0], NOW) is None


def test_a_writer_with_another_clock_holds_nobody_up_longer_than_a_step() -> None:
    waiting = delay.read(record(extra_of(until=str(NOW + 365 * DAY_MS)), NOW + 365 * DAY_MS), TOPICS[1], NOW)
    assert waiting is not None
    assert (waiting.until_ms, waiting.due_ms) == (NOW + 5000 + SMALLEST_MS, NOW + 365 * DAY_MS)


def test_a_dead_letter_names_its_target_and_why() -> None:
    found = record(extra_of(), NOW + 5000, 7)
    origin = Origin("orders", "delay", "main", 2, 1, 1)
    said = dict(delay.dead_letter(found, delay.read(found, TOPICS[1], NOW), origin, "no_route", "there is\nno topic", NOW))
    assert (said[delay.TARGET], said["mq-dlq-topic"], said["mq-dlq-reason"], said["mq-dlq-error"]) == (
        "orders", "orders", "no_route", "there is no topic",
    )  # fmt: skip


# --- what of a partition is held ----------------------------------------------------------------------------------------------------


def shelf_at(position: int = 0, sparse: bytes = b"", topic: str = TOPICS[1]) -> Shelf:
    return Shelf(Assigned(Partition(topic, 0), 4, position, sparse))


def take(one: Shelf, *untils: int, start: int = 0, now_ms: int = NOW, size: int = 1) -> list[Held]:
    records = [
        Record(start + number, None, b"x" * size, due_ms=until, extra=extra_of(until=str(until))) for number, until in enumerate(untils)
    ]
    return one.take(Batch(one.partition, 4, records, size * len(records)), now_ms)


def test_nothing_more_is_asked_for_while_the_newest_is_not_due_soon() -> None:
    one = shelf_at()
    assert one.credit(NOW) == CHUNK_RECORDS
    assert one.credit(NOW) is None
    take(one, NOW + 5000)
    assert one.credit(NOW) == 0
    assert one.looks_again_ms(NOW) == NOW + 5000 - AHEAD_MS
    assert one.credit(NOW + 5000 - AHEAD_MS - 1) is None
    assert one.credit(NOW + 5000 - AHEAD_MS) == CHUNK_RECORDS


def test_credit_that_was_used_is_renewed_although_the_number_is_the_same() -> None:
    """One large record may use up the bytes of a credit and leave its records."""
    one = shelf_at(topic=TOPICS[0])
    take(one, *[NOW + 100] * (MOST_RECORDS - 10))
    assert one.credit(NOW) == 10
    take(one, *[NOW + 100] * 5, start=MOST_RECORDS - 10)
    assert one.credit(NOW) == 5
    assert one.credit(NOW) is None


def test_what_is_held_is_bounded_in_records_and_bytes() -> None:
    one = shelf_at(topic=TOPICS[0])
    held = take(one, *[NOW] * (MOST_RECORDS - 10))
    assert one.credit(NOW) == 10
    take(one, *[NOW] * 10, start=MOST_RECORDS - 10)
    assert one.credit(NOW) is None  # used up
    one.moved(held[0])
    assert one.credit(NOW) == 1
    big = shelf_at(topic=TOPICS[0])
    take(big, NOW, NOW, size=MOST_BYTES // 2)
    assert big.credit(NOW) is None  # nothing was ever given


def test_progress_is_what_has_moved_with_holes_and_survives_a_change_of_owner() -> None:
    one = shelf_at()
    held = take(one, *[NOW] * 5)
    for number in (0, 1, 3):
        one.moved(held[number])
    said = one.progress(1, 1000)
    assert (said.watermark, said.done, said.high) == (2, ((0, 2), (3, 4)), 4)
    assert not one.is_dirty
    again = shelf_at(said.watermark, said.sparse)
    assert [found.record.position for found in take(again, NOW, NOW, NOW, start=2)] == [2, 4]


def test_progress_that_was_not_stored_is_told_again() -> None:
    one = shelf_at()
    held = take(one, NOW, NOW)
    one.moved(held[0])
    said = one.progress(1, 1000)
    one.again(said)
    assert one.is_dirty
    one.moved(held[1])
    assert one.progress(2, 1000).done == ((0, 2),)


def test_repeats_are_not_taken_twice_and_positions_without_a_record_count_as_moved() -> None:
    one = shelf_at()
    assert len(take(one, NOW, NOW)) == 2
    assert [held.record.position for held in take(one, NOW, NOW, start=1)] == [2]
    held = take(one, NOW, start=5)
    assert [found.record.position for found in held] == [5]
    one.skip(6, 9)
    said = one.progress(1, 1000)
    assert (said.watermark, said.done) == (0, ((3, 5), (6, 9)))


def test_a_shelf_that_ends_wants_nothing() -> None:
    one = shelf_at()
    assert one.credit(NOW) == CHUNK_RECORDS
    one.ending = True
    assert one.credit(NOW) == 0
    assert one.looks_again_ms(NOW) is None
