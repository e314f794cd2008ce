"""Messages on the source against their shadows on the target: counts and hashes by minute, and the ids that differ."""

from __future__ import annotations

from mqsdk.core.comparison import MINUTE_MS, Published, compared, digest

SINCE = {"p": 0}
NEVER = 10**9


def published(*ids: int, at_ms: int = 1, producer: str = "p") -> list[Published]:
    return [Published(f"m{number}", producer, at_ms) for number in ids]


def test_both_have_the_same_whatever_their_order() -> None:
    (minute,) = compared(published(1, 2, 3), published(3, 1, 2, 2), SINCE, 0, NEVER).minutes
    assert (minute.source, minute.target, minute.is_same) == (3, 3, True)
    assert minute.source_hash == minute.target_hash == digest(["m2", "m3", "m1"])


def test_what_is_missing_and_what_is_too_much_is_named_in_its_minute() -> None:
    late = published(7, 8, at_ms=MINUTE_MS + 5)
    first, second = compared([*published(1, 2), *late], [*published(1, 9), *late], SINCE, 0, NEVER).minutes
    assert (first.at_ms, first.is_same, first.missing, first.extra) == (0, False, ("m2",), ("m9",))
    assert first.source_hash != first.target_hash
    assert (second.at_ms, second.is_same) == (MINUTE_MS, True)


def test_a_minute_names_some_and_counts_all() -> None:
    (minute,) = compared(published(*range(100)), [], SINCE, 0, NEVER).minutes
    assert (len(minute.missing), minute.missing_count) == (20, 100)


def test_what_is_too_new_is_under_way() -> None:
    found = compared(published(1, at_ms=5), [], SINCE, 0, settled_ms=4)
    assert (found.minutes, found.under_way) == ((), 1)


def test_what_was_published_before_a_process_made_shadows_is_not_compared() -> None:
    found = compared([*published(1, at_ms=5), *published(2, at_ms=6), *published(3, producer="q")], published(2), {"p": 5}, 0, NEVER)
    assert [minute.source for minute in found.minutes] == [1]
    assert found.others == 2


def test_what_is_older_is_known_and_not_compared() -> None:
    found = compared(published(1, 2, at_ms=5), published(1, at_ms=10), SINCE, 10, NEVER)
    assert found.minutes == ()
