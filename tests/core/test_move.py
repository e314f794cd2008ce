"""Stages, steps and gates of a move; and a fleet under random schedules keeps the order and loses nothing, while each mutant is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from mqsdk.core import move as core
from mqsdk.core.move import Backlog, Facts, Gate, Instance, Move, View
from tests.core import move_model
from tests.core.move_model import FENCE_S, Log, Process, World, run
from tests.simulation.broken import Broken

SEEDS, MUTANT_SEEDS = 150, 2000


def test_random_schedules_keep_the_order_and_lose_nothing() -> None:
    for seed in range(SEEDS):
        run(seed)


# --- mutants ------------------------------------------------------------------------------------------------------------------------


def gate(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Of a gate that always holds."""

    def mutant(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(core, name, lambda *given: Gate(name, True, ""))

    mutant.__name__ = f"gate_{name}_is_open"
    return mutant


def the_reader_is_closed_before_all_is_read(patch: pytest.MonkeyPatch) -> None:
    gate("is_drained")(patch)
    gate("is_silent")(patch)


def the_cut_is_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(World, "may_start", lambda self, name, log, owner, writer: True)


def the_way_back_has_no_cut(patch: pytest.MonkeyPatch) -> None:
    original = core.view

    def view(stage: core.Stage, source: str, target: str) -> View:
        found = original(stage, source, target)
        return found._replace(reads=tuple(sorted(found.reads)))

    patch.setattr(core, "view", view)


def writers_go_back_at_once(patch: pytest.MonkeyPatch) -> None:
    """The way back without a reading stage of its own."""
    patch.setattr(core, "_ROLLBACK", {**core._ROLLBACK, "switch_write": ("switch_back",), "target": ("switch_back",)})


def the_way_back_forgets_the_target(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(core, "_ROLLBACK", {**core._ROLLBACK, "read_back": ("source",)})
    original = core.is_drained
    patch.setattr(
        core, "is_drained", lambda facts, cluster: Gate("drained", True, "") if cluster == move_model.TARGET else original(facts, cluster)
    )
    gate("is_silent")(patch)


def a_dead_instance_counts(patch: pytest.MonkeyPatch) -> None:
    original = core.instances_ready
    patch.setattr(
        core,
        "instances_ready",
        lambda move, facts: original(move, facts._replace(instances=tuple(one._replace(gone=False) for one in facts.instances))),
    )


def an_instance_on_the_old_version_does_not_count(patch: pytest.MonkeyPatch) -> None:
    original = core.instances_ready
    patch.setattr(
        core,
        "instances_ready",
        lambda move, facts: original(move, facts._replace(instances=tuple(one for one in facts.instances if one.epoch == move.epoch))),
    )


def a_thawed_writer_uses_its_old_route(patch: pytest.MonkeyPatch) -> None:
    def write(self: World, process: Process) -> None:
        process.confirmed_at = self.now
        original(self, process)

    original = World.write
    patch.setattr(World, "write", write)
    patch.setattr(World, "thaw", lambda self, process: None)


def silence_before_the_step_counts(patch: pytest.MonkeyPatch) -> None:
    def watch(self: World, operator: Any) -> None:
        operator.epoch = self.route.epoch
        original(self, operator)

    original = World.watch
    patch.setattr(World, "watch", watch)


def a_shadow_is_handled(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(World, "is_shadow", lambda self, log, owner: False)


def the_stage_says_what_a_shadow_is(patch: pytest.MonkeyPatch) -> None:
    """Instead of the record: an owner that has not heard of it yet, or has gone on, handles it."""
    original = World.is_shadow
    patch.setattr(World, "is_shadow", lambda self, log, owner: owner.move.stage == "dual_write" and original(self, log, owner))


def everything_is_a_shadow_in_the_stage(patch: pytest.MonkeyPatch) -> None:
    """A quicker writer's first messages on the target are none."""
    original = World.is_shadow

    def is_shadow(self: World, log: Log, owner: Process) -> bool:
        return original(self, log, owner) or (log is self.logs[move_model.TARGET] and owner.move.stage == "dual_write")

    patch.setattr(World, "is_shadow", is_shadow)


MUTANTS: list[Callable[[pytest.MonkeyPatch], None]] = [
    gate("instances_ready"),
    the_reader_is_closed_before_all_is_read,
    the_cut_is_ignored,
    the_way_back_has_no_cut,
    writers_go_back_at_once,
    the_way_back_forgets_the_target,
    a_dead_instance_counts,
    an_instance_on_the_old_version_does_not_count,
    a_thawed_writer_uses_its_old_route,
    silence_before_the_step_counts,
    a_shadow_is_handled,
    the_stage_says_what_a_shadow_is,
    everything_is_a_shadow_in_the_stage,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_simulation_finds(mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    for seed in range(MUTANT_SEEDS):
        try:
            run(seed)
        except Broken:
            return
    raise AssertionError(f"{mutant.__name__} was not found within {MUTANT_SEEDS} seeds")


# --- steps --------------------------------------------------------------------------------------------------------------------------


def test_the_way_back_of_an_ordered_topic_has_a_reading_stage_of_its_own() -> None:
    assert core.back("switch_write", "source", ordered=True) == ("read_back", "switch_back", "source")
    assert core.back("switch_write", "source", ordered=False) == ("read_both", "source")
    assert core.back("target", "switch_write", ordered=True) == ("switch_write",)
    assert core.back("read_both", "target", ordered=True) == ()  # it does not lie behind


@pytest.mark.parametrize("stage", core.STAGES)
def test_from_every_stage_leads_a_way_back_to_the_source_and_one_ahead_to_the_target(stage: core.Stage) -> None:
    for ordered in (True, False):
        assert stage == "source" or core.back(stage, "source", ordered)[-1] == "source"
    seen = [stage]
    while (step := core.ahead(seen[-1])) is not None:
        seen.append(step)
        assert len(seen) < len(core.STAGES)
    assert seen[-1] == "target"


# --- gates --------------------------------------------------------------------------------------------------------------------------


def move_at(stage: core.Stage) -> Move:
    return Move("orders", "disk", "cache", stage, 5)


def of(stage: core.Stage, **facts: Any) -> Facts:
    """All is well, but for what is given."""
    well: dict[str, Any] = {"instances": (Instance("p1", 5, stage),), "quiet_s": {"disk": FENCE_S, "cache": FENCE_S}}
    return Facts(**{"ordered": True, **well, **facts})


STEPS: list[tuple[core.Stage, core.Stage]] = [
    ("source", "read_both"),
    ("read_both", "switch_write"),
    ("switch_write", "target"),
    ("read_both", "source"),
    ("read_both", "dual_write"),
    ("dual_write", "switch_write"),
    ("dual_write", "read_both"),
    ("switch_write", "read_back"),
    ("read_back", "switch_back"),
    ("switch_back", "read_both"),
    ("switch_back", "source"),
    ("read_back", "target"),
    ("target", "read_back"),
]


@pytest.mark.parametrize(("stage", "to"), STEPS)
def test_a_step_may_be_made_when_all_is_well(stage: core.Stage, to: core.Stage) -> None:
    assert all(gate.ok for gate in core.gates(move_at(stage), to, of(stage)))


@dataclass(frozen=True)
class Case:
    """facts: what is not well. says: how the gate names it."""

    stage: core.Stage
    to: core.Stage
    facts: dict[str, Any]
    gate: str
    says: str


CASES = [
    Case("source", "read_both", {"missing": (("billing", "cache"),)}, "groups", "billing does not exist on cluster cache"),
    Case("source", "read_both", {"unreadable": ("cache",)}, "answering", "no answer from cluster cache"),
    Case("read_both", "switch_write", {"instances": (Instance("p2", 4, "source"),)}, "instances", "p2 is at epoch 4 (source), not 5"),
    Case(
        "read_both",
        "switch_write",
        {"instances": (Instance("p2", 4, "source", "reload refused: no answer"),)},
        "instances",
        "p2 is at epoch 4 (source), not 5: reload refused: no answer",
    ),
    Case(
        "read_both",
        "switch_write",
        {"instances": (Instance("p2", 5, "read_both", "orders/billing on cache"),)},
        "instances",
        "p2 waits for orders/billing on cache",
    ),
    Case("read_both", "dual_write", {"unreadable": ("cache",)}, "answering", "no answer from cluster cache"),
    Case("read_both", "dual_write", {"members": (("cache", "old@h:1"),)}, "members", "old@h:1 reads on cluster cache and reports nothing"),
    Case(
        "read_both",
        "dual_write",
        {"backlogs": (Backlog("search", "cache", 0), Backlog("search", "disk", 0))},
        "running",
        "group search has no running consumer on cluster cache",
    ),
    Case("dual_write", "switch_write", {"unread": (("billing", 3), ("search", 0))}, "shadows", "group billing has 3 of them unsettled"),
    Case("dual_write", "read_both", {"instances": (Instance("p2", 4, "read_both"),)}, "instances", "p2 is at epoch 4 (read_both), not 5"),
    Case("read_both", "switch_write", {"members": (("disk", "old@h:1"),)}, "members", "old@h:1 reads on cluster disk and reports nothing"),
    Case(
        "switch_write",
        "target",
        {"backlogs": (Backlog("billing", "disk", 3, 2, 1),)},
        "drained",
        "cluster disk: group billing has 3 unsettled and 2 delayed",
    ),
    Case(
        "switch_write",
        "target",
        {"backlogs": (Backlog("search", "disk", 1),)},
        "drained",
        "search has 1 unsettled, and no running consumer",
    ),
    Case(
        "switch_write", "target", {"instances": (Instance("p1", 5, "switch_write", "", (("disk", 1),)),)}, "drained", "p1 has 1 in flight"
    ),
    Case("switch_write", "target", {"quiet_s": {"disk": 3.0}}, "silent", "cluster disk: empty and without a new message for 3 of 10 s"),
    Case("switch_write", "target", {"unreadable": ("disk",)}, "drained", "cluster disk does not answer"),
    Case(
        "switch_write", "read_back", {"backlogs": (Backlog("billing", "disk", 1, members=1),)}, "drained", "group billing has 1 unsettled"
    ),
    Case(
        "switch_back",
        "source",
        {"backlogs": (Backlog("billing", "cache", 1, members=1),)},
        "drained",
        "cluster cache: group billing has 1 unsettled",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.stage}-{case.to}-{case.gate}")
def test_a_gate_that_does_not_hold_names_what_is_in_the_way(case: Case) -> None:
    closed = [gate for gate in core.gates(move_at(case.stage), case.to, of(case.stage, **case.facts)) if not gate.ok]
    assert [gate.name for gate in closed] == [case.gate]
    assert case.says in closed[0].detail


def test_an_instance_that_is_gone_does_not_count() -> None:
    facts = of("read_both", instances=(Instance("p1", 5, "read_both"), Instance("p2", 4, "source", gone=True)))
    found = {gate.name: gate for gate in core.gates(move_at("read_both"), "switch_write", facts)}
    assert found["instances"] == Gate("instances", True, "1 of 1 report read_both, 1 gone")


def test_nobody_is_believed_to_be_all_there_is_before_all_had_time_to_report() -> None:
    found = core.gates(move_at("read_both"), "switch_write", of("read_both", listened_s=2.0))
    assert found[2] == Gate("instances", False, "1 of 1 report read_both, listening for 2 of 5 s")


def test_dual_write_is_optional_and_has_its_way_back() -> None:
    assert (core.ahead("read_both"), core.ahead("read_both", doubled=True)) == ("switch_write", "dual_write")
    assert core.ahead("dual_write", doubled=True) == "switch_write"
    for ordered in (True, False):
        assert core.back("dual_write", "source", ordered) == ("read_both", "source")
    assert core.at_once("dual_write") == "source"


def test_a_target_that_is_lost_keeps_nobody_from_leaving_dual_write() -> None:
    facts = of("dual_write", unreadable=("cache",), unread=(("billing", 9),))
    assert all(gate.ok for gate in core.gates(move_at("dual_write"), "read_both", facts))


def test_what_is_left_on_the_target_is_in_nobodys_way_ahead() -> None:
    facts = of("switch_write", backlogs=(Backlog("billing", "cache", 100, members=1),))
    assert all(gate.ok for gate in core.gates(move_at("switch_write"), "target", facts))
