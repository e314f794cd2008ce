"""Layer 2 whole keeps every promise under random schedules; and who looks at a failing one gets a small one that reads well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation import fleet, mutants
from tests.simulation.broken import Broken
from tests.simulation.plan import FAULTS, draw
from tests.simulation.shrink import broken_rule, shrink

ROOT = Path(__file__).parents[2]
SEEDS = 500  # here, where coverage is measured; most are played by processes of their own, which nothing slows down
FIRST = 1_000_000
ALL = {"fleet": 12_000, "consumer": 6_500, "cluster": 1_000}
LONGEST_S = 900.0


@pytest.mark.parametrize("start", range(0, SEEDS, 250))
def test_random_schedules_keep_every_promise(start: int) -> None:
    for seed in range(start, start + 250):
        fleet.run(seed)


@pytest.mark.parametrize("name", sorted(ALL))
def test_thousands_of_schedules_keep_every_promise(name: str) -> None:
    command = [sys.executable, "-m", "tests.simulation", "explore", name, "--first", str(FIRST), "--seeds", str(ALL[name])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout.splitlines()[1])


def test_a_seed_is_the_same_schedule_again() -> None:
    first: list[str] = []
    again: list[str] = []
    for lines in (first, again):
        fleet.run(7, trace=lines.append)
    assert first == again
    assert len(first) > 20


def test_each_fault_and_each_kind_of_backend_is_drawn() -> None:
    plans = [draw(seed) for seed in range(400)]
    assert {name for plan in plans for name in plan.faults} == set(FAULTS)
    assert {(plan.kind, plan.delay) for plan in plans} == {("log", "native"), ("log", "ladder"), ("queue", "native")}
    for extra in ("switch", "late", "lethal", "redrive"):
        assert any(getattr(plan, extra) for plan in plans), extra


def test_a_failing_plan_is_made_smaller_and_breaks_the_same_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    mutants.keys_of_running_handlers_are_free_after_a_loss(monkeypatch)
    plan = next(plan for plan in map(draw, range(2000)) if broken_rule(plan) == "I2")
    small = shrink(plan)
    assert broken_rule(small) == "I2"
    assert (len(small.faults), small.members, small.messages) <= (len(plan.faults), plan.members, plan.messages)
    assert small != plan
    with pytest.raises(Broken, match="OVERLAP"):
        fleet.run(small.seed, small)
