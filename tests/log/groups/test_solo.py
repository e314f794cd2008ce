"""The seat of one instance of a broadcast: everything at once, and again what could not be used."""

from __future__ import annotations

import pytest
from mqsdk_log.engine.cursors import Cursor
from mqsdk_log.engine.holding import Change, Gained
from mqsdk_log.engine.solo import AGAIN_S, Solo

BEGINS = {("news", 0): 5, ("news", 1): 7}


def gained(changes: list[Change]) -> dict[int, int]:
    """Partition -> position."""
    return {change.holding.key[1]: change.left.watermark for change in changes if isinstance(change, Gained)}


def test_it_has_every_partition_at_once_and_for_good() -> None:
    solo = Solo(BEGINS)
    assert solo.due == 0.0
    assert gained(solo.turn(100.0)) == {0: 5, 1: 7}
    assert (solo.due, solo.is_restless(), solo.turn(1e9)) == (float("inf"), False, [])


def test_a_partition_that_cannot_be_used_is_told_once_and_taken_again_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqsdk_log.engine.solo.time.monotonic", lambda: 100.0)
    solo = Solo(BEGINS)
    solo.turn(100.0)
    assert solo.store(("news", 1), 1, Cursor(9, 1, high=9), final=False)
    assert [solo.set_aside(("news", 1)) for _ in range(2)] == [True, False]
    assert solo.due == 100.0 + AGAIN_S
    assert gained(solo.turn(100.0)) == {}
    assert gained(solo.turn(100.0 + AGAIN_S)) == {1: 9}


def test_progress_of_another_ownership_and_after_the_hand_back_is_stale() -> None:
    solo = Solo(BEGINS)
    solo.turn(0.0)
    assert not solo.store(("news", 0), 2, Cursor(6, 2, high=6), final=False)
    assert solo.store(("news", 0), 1, Cursor(6, 1, high=6), final=True)
    assert not solo.store(("news", 0), 1, Cursor(6, 1, high=6), final=False)
