"""When a consumer may stop reading the older cluster of its topic, and when it has to go back."""

from __future__ import annotations

from mqsdk.core.actions import Tuning
from mqsdk.core.oldside import WATCH_EVERY_S, WATCH_S, OldSide
from mqsdk.core.shares import divided
from mqsdk.spi import PartitionProgress


def left(messages: int = 0, end: int = 10, delayed: int = 0) -> list[PartitionProgress]:
    return [PartitionProgress(0, end - messages, end, messages, delayed=delayed)]


def test_it_is_closed_when_it_was_empty_and_silent_for_long_enough() -> None:
    side = OldSide(0.0, 60.0)
    assert side.looked(0.0, left(), 0) is None
    assert side.looked(1.0, left(), 0) is None
    assert side.is_quiet
    assert side.looked(60.9, left(), 0) is None
    assert side.looked(61.0, left(), 0) == "close"
    assert not side.is_open


def test_anything_that_is_left_or_written_or_held_here_begins_it_anew() -> None:
    for progress, held in ((left(1), 0), (left(end=11), 0), (left(), 1), (left(delayed=1), 0)):
        side = OldSide(0.0, 10.0)
        side.looked(0.0, left(), 0)
        side.looked(1.0, left(), 0)
        side.looked(5.0, progress, held)
        assert not side.is_quiet
        side.looked(6.0, left(end=progress[0].end), 0)
        assert side.looked(11.5, left(end=progress[0].end), 0) is None
        assert side.looked(17.0, left(end=progress[0].end), 0) == "close"


def test_a_server_that_does_not_answer_says_nothing_is_left_to_nobody() -> None:
    side = OldSide(0.0, 10.0)
    side.looked(0.0, left(), 0)
    side.looked(1.0, left(), 0)
    side.failed(5.0)
    assert not side.is_quiet
    assert side.looked(12.0, left(), 0) is None


def closed() -> OldSide:
    side = OldSide(0.0, 1.0)
    for moment in (0.0, 1.0, 2.0):
        side.looked(moment, left(), 0)
    assert not side.is_open
    return side


def test_closed_it_is_looked_at_every_half_minute_for_a_day() -> None:
    side = closed()
    assert side.due() == 2.0 + WATCH_EVERY_S
    assert side.looked(2.0 + WATCH_EVERY_S, left(), 0) is None
    assert side.due() == 2.0 + 2 * WATCH_EVERY_S
    assert side.looked(2.0 + WATCH_S, left(), 0) == "over"


def test_it_is_opened_again_when_somebody_has_written_there_or_will_have() -> None:
    assert closed().looked(40.0, left(1, 11), 0) == "open"
    assert closed().looked(40.0, left(delayed=1), 0) == "open"


def test_the_day_begins_anew_when_it_is_closed_again() -> None:
    side = closed()
    side.looked(WATCH_S, left(1, 11), 0)
    assert side.looked(WATCH_S + 2, left(end=11), 0) is None
    assert side.looked(WATCH_S + 3, left(end=11), 0) == "close"
    assert side.looked(2 * WATCH_S, left(end=11), 0) is None
    assert side.looked(2 * WATCH_S + 4, left(end=11), 0) == "over"


def test_it_is_looked_at_often_enough_for_a_short_settle_and_not_more_often_than_each_second_for_a_long_one() -> None:
    for settle_s, every_s in ((0.2, 0.05), (60.0, 1.0)):
        side = OldSide(0.0, settle_s)
        side.looked(0.0, left(1), 0)
        assert side.due() == every_s


def test_one_that_is_never_closed_is_over_when_its_day_is() -> None:
    side = OldSide(0.0, 1.0, closes=False)
    assert [side.looked(moment, [], 0) for moment in (0.0, 100.0, WATCH_S)] == [None, None, "over"]


# --- limits -----------------------------------------------------------------------------------------------------------------------

WHOLE = Tuning(concurrency=8, rate_per_s=80.0, in_flight_records=100, in_flight_bytes=1000)


def test_the_sides_together_have_what_the_consumer_has() -> None:
    for quiet in ([False], [True], [False, True], [True, True, True]):
        parts = divided(WHOLE, quiet)
        assert sum(part.concurrency for part in parts) == 8
        assert sum(part.rate_per_s or 0 for part in parts) == 80.0
        assert sum(part.in_flight_records for part in parts) <= 100
        assert sum(part.in_flight_bytes for part in parts) <= 1000
    assert [part.concurrency for part in divided(WHOLE, [True])] == [1, 7]
    assert [part.concurrency for part in divided(WHOLE, [False])] == [4, 4]


def test_one_side_alone_has_all_and_each_of_several_one_at_least() -> None:
    assert divided(WHOLE, []) == [WHOLE]
    assert [part.concurrency for part in divided(Tuning(concurrency=1), [False])] == [1, 1]


def test_what_appears_on_a_closed_one_is_left_alone_for_a_while() -> None:
    """Found at a look of the watch or of a cut, whichever comes first; forgotten when somebody else has handled it."""
    side = OldSide(0.0, 1.0, patience_s=10.0)
    for moment in (0.0, 1.0, 2.0):
        side.looked(moment, left(), 0)
    assert side.looked(5.0, left(2), 0) is None
    assert side.due() == 15.0
    assert side.looked(9.0, left(), 0) is None
    assert side.looked(15.0, left(1), 0) is None
    assert side.looked(20.0, left(1), 0) is None
    assert side.looked(25.0, left(1), 0) == "open"
