"""When a consumer that stands still is restarted, and when it is given up."""

from __future__ import annotations

from typing import Any

import pytest

from mqsdk.core.watchdog import Remedy, Sight, Watchdog

PATIENCE_S = 60.0
IDLE = Sight(ended=0, stored_at=None, unstored=False, waits=False, away=False)


class Looks:
    """Sights every 10 s; what came of them."""

    def __init__(self) -> None:
        self.dog = Watchdog()
        self.now = 1000.0
        self.remedies: list[tuple[float, Remedy]] = []
        self.sight = IDLE
        self.look(0.0)

    def look(self, seconds: float, **changes: Any) -> None:
        """The sight changes so, and stays for so many seconds."""
        self.sight = self.sight._replace(**changes)
        end = self.now + seconds
        while self.now <= end:
            remedy = self.dog.judge(self.now, self.sight, PATIENCE_S)
            if remedy is not None:
                self.remedies.append((self.now - 1000.0, remedy))
            self.now += 10.0


def test_it_is_restarted_once_and_given_up_when_that_did_not_help() -> None:
    looks = Looks()
    looks.look(130.0, waits=True)
    assert looks.remedies == [(70.0, "restart"), (140.0, "give_up")]


def test_being_restarted_does_not_count_and_is_no_progress() -> None:
    looks = Looks()
    looks.look(60.0, waits=True)
    looks.look(500.0, away=True)
    looks.look(50.0, away=False)
    assert [remedy for _, remedy in looks.remedies] == ["restart"]
    looks.look(10.0)
    assert [remedy for _, remedy in looks.remedies] == ["restart", "give_up"]


def test_after_progress_it_gets_another_restart() -> None:
    looks = Looks()
    looks.look(60.0, waits=True)
    looks.look(0.0, ended=1, stored_at=5.0)
    looks.look(60.0)
    assert [remedy for _, remedy in looks.remedies] == ["restart", "restart"]


@pytest.mark.parametrize("change", [{"ended": 1}, {"stored_at": 5.0}, {"waits": False}, {"away": True}])
def test_any_sign_of_life_or_an_excuse_begins_the_wait_anew(change: dict[str, Any]) -> None:
    looks = Looks()
    looks.look(50.0, waits=True)
    looks.look(0.0, **change)
    looks.look(50.0, waits=True, away=False)
    assert looks.remedies == []
    looks.look(10.0)
    assert len(looks.remedies) == 1


def test_what_ends_and_is_never_stored_is_no_progress() -> None:
    looks = Looks()
    looks.look(0.0, ended=1, stored_at=5.0)
    for number in range(2, 16):
        looks.look(0.0, ended=number, unstored=True)
    assert [remedy for _, remedy in looks.remedies] == ["restart", "give_up"]


def test_settles_that_are_confirmed_in_between_are_progress() -> None:
    looks = Looks()
    for number in range(1, 30):
        looks.look(0.0, ended=number, unstored=True, stored_at=float(number // 5))
    assert looks.remedies == []


def test_attempts_that_fail_have_nothing_to_store() -> None:
    looks = Looks()
    for number in range(1, 30):
        looks.look(0.0, ended=number)
    assert looks.remedies == []


def test_how_long_it_has_stood_still_is_told() -> None:
    looks = Looks()
    assert looks.dog.still_for(looks.now) == 0.0
    looks.look(30.0, waits=True)
    assert looks.dog.still_for(looks.now) == 40.0
