"""A consumer that is frozen longer than its lease loses its partitions; thawed, it changes nothing and works on."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqsdk.testing.journal import Entry, Kind, read_journals
from tests.faults.fleet import Fleet, comes_true, drained, judged, prepare

LEASE_S = 2.0
CONFIG = f"version: 1\nclusters:\n  local: {{backend: log, path: ./.mqsdk, lease: {LEASE_S:.0f}s}}\n"

pytestmark = pytest.mark.slow


def starts(folder: Path, pid: int, after: float = 0.0) -> list[Entry]:
    return [entry for entry in read_journals(folder) if entry.kind is Kind.START and entry.pid == pid and entry.time > after]


def partitions(entries: list[Entry]) -> set[int]:
    return {entry.partition for entry in entries}


def test_a_frozen_consumer_is_replaced_and_its_late_results_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "mqsdk.yaml").write_text(CONFIG)
    (tmp_path / "mqsdk.yaml").chmod(0o600)
    prepare(tmp_path)
    fleet = Fleet(tmp_path)
    try:
        fleet.start_all(2)
        frozen, other = fleet.pid("consumer", 0), fleet.pid("consumer", 1)
        assert comes_true(lambda: bool(starts(tmp_path, frozen)) and len(partitions(starts(tmp_path, other))) >= 2), fleet.output()
        moment = fleet.freeze("consumer", 0)
        lost = partitions(starts(tmp_path, frozen))
        assert comes_true(lambda: lost <= partitions(starts(tmp_path, other, after=moment))), fleet.output()
        fleet.thaw("consumer", 0)
        thawed = max(entry.time for entry in read_journals(tmp_path))
        assert comes_true(lambda: bool(starts(tmp_path, frozen, after=thawed))), fleet.output()
        fleet.stop("publisher")
        complete = drained(tmp_path)
        exits = fleet.stop("consumer")
    finally:
        fleet.end()
    verdict = judged(tmp_path, complete=complete)
    assert verdict.ok, f"{verdict}\n{fleet.output()}"
    assert set(verdict.duplicates) <= {"lease"}
    assert exits == [0, 0], fleet.output()
    first = {entry.partition: entry.time for entry in reversed(starts(tmp_path, other, after=moment))}
    takeover = max(first.values()) - moment
    print(f"\ntaken over {takeover:.2f} s after the freeze (lease {LEASE_S} s)\n{verdict}")
    assert takeover < 3 * (LEASE_S + 2)
