"""Members of a group that come and go all the time: the group goes on, loses nothing and repeats nothing, for all leave in order."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

from mqsdk.testing.journal import Kind, Outcome, read_journals
from tests.faults.fleet import Fleet, comes_true, judged, prepare

SECONDS = float(os.environ.get("SOAK_SECONDS", "6"))
EVERY_S = 0.5
AT_ONCE = 3  # that are members before one leaves
MOST = 8  # processes; a machine that is slow to start them gets no more
STANDSTILL_S = 5.0  # the longest time in which nothing at all is handled


def come_and_go(folder: Path, config: str = "") -> None:
    """Every half second a member joins and the oldest one leaves, under load. AssertionError when a promise is broken."""
    prepare(folder, config)
    fleet = Fleet(folder)
    try:
        fleet.start("publisher", 0)
        numbers = itertools.count()
        fleet.start("consumer", next(numbers))
        assert comes_true(lambda: bool(_handled(folder))), fleet.output()
        began = time.monotonic()
        _change_members(fleet, numbers, until=began + SECONDS)
        ended = time.monotonic()
        publishers = fleet.stop("publisher")
        complete, consumers = fleet.finish()
    finally:
        fleet.end()
    verdict = judged(folder, complete=complete)
    standstill_s = _longest_pause(folder, began, ended)
    told = f"{len(consumers)} members in {ended - began:.0f} s, longest standstill {standstill_s:.1f} s\n{verdict}"
    print(f"\n{told}")
    assert verdict.ok, f"{told}\n{fleet.output()}"
    assert standstill_s < 3 * STANDSTILL_S, told
    assert (set(publishers), set(consumers)) == ({0}, {0}), f"{told}\n{fleet.output()}"


def _change_members(fleet: Fleet, numbers: itertools.count[int], until: float) -> None:
    here = [0]
    while time.monotonic() < until:
        time.sleep(EVERY_S)
        if len(here) < MOST:
            here.append(next(numbers))
            fleet.start("consumer", here[-1])
        members = [number for number in here if fleet.said("consumer", number, "mqsdk.app: running")]
        if len(members) > AT_ONCE:
            fleet.leave("consumer", members[0])
            here.remove(members[0])


def _handled(folder: Path) -> list[float]:
    """When a message was handled, in order."""
    return sorted(entry.time for entry in read_journals(folder) if entry.kind is Kind.END and entry.outcome is Outcome.OK)


def _longest_pause(folder: Path, began: float, ended: float) -> float:
    """Longest time between two messages while members came and went."""
    moments = [began, *(moment for moment in _handled(folder) if began < moment < ended), ended]
    return max(later - earlier for earlier, later in itertools.pairwise(moments))
