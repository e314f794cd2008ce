"""The checker must see: a clean run passes, each way of corrupting its journals is flagged, faults explain what they may explain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from mqsdk.testing.checker import FREEZE, KILL, Verdict, judge
from mqsdk.testing.journal import Entry, Kind, Outcome

GROUPS = ("billing", "search")
KEYS = ("a", "b", "c")
PER_KEY = 4


def good_run() -> list[Entry]:
    """Three keys with four messages each, published, then handled and settled by two groups, one process per group."""
    run: list[Entry] = []
    clock = iter(range(10_000))
    for sequence in range(PER_KEY):
        for key in KEYS:
            run.append(sent(Kind.SEND_INVOKE, key, sequence, next(clock)))
            run.append(sent(Kind.SEND_STORED, key, sequence, next(clock)))
    for pid, group in enumerate(GROUPS, 20):
        for sequence in range(PER_KEY):
            for key in KEYS:
                run += [began(group, key, sequence, next(clock), pid), ended(group, key, sequence, next(clock), pid)]
                run.append(Entry(kind=Kind.SETTLED, id=f"{key}{sequence}", group=group, time=next(clock), pid=pid))
    return run


def sent(kind: Kind, key: str, sequence: int, moment: float) -> Entry:
    return Entry(kind=kind, id=f"{key}{sequence}", key=key, sequence=sequence, time=moment, pid=10)


def began(group: str, key: str, sequence: int, moment: float, pid: int, epoch: int = 2, attempt: int = 1) -> Entry:
    common = {"id": f"{key}{sequence}", "key": key, "group": group, "partition": 0}
    return Entry(kind=Kind.START, **common, time=moment, pid=pid, epoch=epoch, attempt=attempt)  # type: ignore[arg-type]


def ended(group: str, key: str, sequence: int, moment: float, pid: int, epoch: int = 2, attempt: int = 1, *, ok: bool = True) -> Entry:
    outcome = Outcome.OK if ok else Outcome.FAILED
    name = f"{key}{sequence}"
    return Entry(kind=Kind.END, id=name, group=group, time=moment, pid=pid, epoch=epoch, attempt=attempt, outcome=outcome)


def struck(name: str, pid: int, moment: float) -> Entry:
    return Entry(kind=Kind.FAULT, id=name, time=moment, pid=pid, outcome=Outcome.ON)


def verdict(run: list[Entry]) -> Verdict:
    return judge(run, GROUPS, ordered=GROUPS)


def find(run: list[Entry], kind: Kind, id: str, group: str) -> int:
    return next(index for index, entry in enumerate(run) if (entry.kind, entry.id, entry.group) == (kind, id, group))


def rules(run: list[Entry]) -> set[str]:
    return {problem.rule for problem in verdict(run).problems}


# --- the eight mutants ------------------------------------------------------------------------------------------------------------


def drop(run: list[Entry]) -> None:
    """A stored message that no handler of one group ever saw."""
    run[:] = [entry for entry in run if (entry.group, entry.id) != ("billing", "b2")]


def double(run: list[Entry]) -> None:
    """A second execution long after the success, with nothing that explains it."""
    run += [began("billing", "c", 3, 900, 20), ended("billing", "c", 3, 901, 20)]


def swap(run: list[Entry]) -> None:
    """Two messages of one key change places."""
    for kind in (Kind.START, Kind.END, Kind.SETTLED):
        first, second = find(run, kind, "a1", "billing"), find(run, kind, "a2", "billing")
        run[first], run[second] = replace(run[second], time=run[first].time), replace(run[first], time=run[second].time)


def overlap(run: list[Entry]) -> None:
    """A handler still runs when the next message of its key begins (its own end moves behind that start)."""
    end, settled = find(run, Kind.END, "a1", "billing"), find(run, Kind.SETTLED, "a1", "billing")
    later = run[find(run, Kind.START, "a2", "billing")].time
    run[end], run[settled] = replace(run[end], time=later + 0.5), replace(run[settled], time=later + 0.6)


def settle_too_early(run: list[Entry]) -> None:
    settled = find(run, Kind.SETTLED, "b1", "billing")
    run[settled] = replace(run[settled], time=run[find(run, Kind.START, "b1", "billing")].time + 0.5)


def phantom(run: list[Entry]) -> None:
    """A message that nobody published."""
    run += [began("billing", "z", 0, 900, 20), ended("billing", "z", 0, 901, 20)]


def wrong_group(run: list[Entry]) -> None:
    """One group's message is run by the other group."""
    for kind in (Kind.START, Kind.END):
        index = find(run, kind, "c1", "billing")
        run[index] = replace(run[index], group="search")


def stale_epoch(run: list[Entry]) -> None:
    """A process whose ownership is over starts one more message."""
    for kind in (Kind.START, Kind.END):
        index = find(run, kind, "c2", "billing")
        run[index] = replace(run[index], epoch=1)


MUTANTS: list[tuple[Callable[[list[Entry]], None], str]] = [
    (drop, "LOST"),
    (double, "DUPLICATE"),
    (swap, "OVERTAKE"),
    (overlap, "OVERLAP"),
    (settle_too_early, "SETTLED_EARLY"),
    (phantom, "UNEXPECTED"),
    (wrong_group, "LOST"),
    (stale_epoch, "STALE_EPOCH"),
]


@pytest.mark.parametrize(("mutant", "rule"), MUTANTS, ids=[mutant.__name__ for mutant, _ in MUTANTS])
def test_a_corrupted_journal_is_flagged(mutant: Callable[[list[Entry]], None], rule: str) -> None:
    run = good_run()
    mutant(run)
    assert rule in rules(run)


def test_a_clean_run_has_no_problem() -> None:
    result = verdict(good_run())
    assert result.ok, str(result)
    assert result.handled == {"billing": 12, "search": 12}
    assert result.duplicates == {}


def test_a_swap_is_also_a_step_back_under_one_ownership() -> None:
    run = good_run()
    swap(run)
    assert "BACKWARDS" in rules(run)


def test_a_run_that_did_not_drain_is_no_run() -> None:
    assert [problem.rule for problem in judge(good_run(), GROUPS, drained=False).problems] == ["NOT_DRAINED"]


def test_two_processes_under_one_epoch_are_flagged() -> None:
    run = good_run()
    for kind in (Kind.START, Kind.END):
        index = find(run, kind, "c2", "billing")
        run[index] = replace(run[index], pid=99)
    assert rules(run) == {"TWO_OWNERS"}


# --- what faults explain ----------------------------------------------------------------------------------------------------------


def test_a_kill_explains_the_repeat_of_what_its_victim_had_handled() -> None:
    run = [*good_run(), struck(KILL, 20, 899)]
    for sequence in (2, 3):
        run += [
            began("billing", "c", sequence, 900 + sequence, 21, epoch=3),
            ended("billing", "c", sequence, 900.5 + sequence, 21, epoch=3),
        ]
    result = verdict(run)
    assert result.ok, str(result)
    assert result.duplicates == {"crash": 2}


def test_a_kill_of_another_process_explains_nothing() -> None:
    run = [*good_run(), struck(KILL, 77, 899), began("billing", "c", 3, 900, 21, epoch=3), ended("billing", "c", 3, 901, 21, epoch=3)]
    assert rules(run) == {"DUPLICATE"}


def test_what_a_victim_did_between_the_order_and_its_death_is_explained_too() -> None:
    run = good_run()
    at = run[find(run, Kind.START, "c3", "billing")].time
    over = replace(struck(KILL, 20, at + 1.5), outcome=Outcome.OFF)
    run += [struck(KILL, 20, at - 0.5), over, began("billing", "c", 3, 900, 21, epoch=3), ended("billing", "c", 3, 901, 21, epoch=3)]
    result = verdict(run)
    assert result.ok, str(result)
    assert result.duplicates == {"crash": 1}


def test_an_execution_cut_by_a_kill_ends_with_it() -> None:
    run = good_run()
    run = [
        entry for entry in run if (entry.kind, entry.id, entry.group) not in {(Kind.END, "c3", "billing"), (Kind.SETTLED, "c3", "billing")}
    ]
    at = run[find(run, Kind.START, "c3", "billing")].time
    run += [struck(KILL, 20, at + 0.5), began("billing", "c", 3, at + 0.6, 21, epoch=3), ended("billing", "c", 3, at + 0.7, 21, epoch=3)]
    result = verdict(run)
    assert result.ok, str(result)
    assert result.duplicates == {}


def test_an_execution_without_end_and_without_kill_blocks_its_key() -> None:
    run = [entry for entry in good_run() if (entry.kind, entry.id, entry.group) != (Kind.END, "a1", "billing")]
    assert {"OVERLAP", "OVERTAKE", "LOST"} <= rules(run)


def test_a_frozen_owner_may_leave_an_orphan() -> None:
    run = good_run()
    end = find(run, Kind.END, "c3", "billing")
    run[end] = replace(run[end], time=905)
    run = [entry for entry in run if (entry.kind, entry.id, entry.group) != (Kind.SETTLED, "c3", "billing")]
    other = [began("billing", "b", 3, 903, 21, epoch=3), ended("billing", "b", 3, 904, 21, epoch=3)]
    assert rules(run + other) == {"TWO_OWNERS", "DUPLICATE"}
    result = verdict([*run, struck(FREEZE, 20, 100.5), *other])
    assert result.orphans == 1
    assert "TWO_OWNERS" not in {problem.rule for problem in result.problems}


def test_a_retry_in_place_is_neither_a_repeat_nor_a_step_back() -> None:
    run = good_run()
    end = find(run, Kind.END, "c3", "billing")
    run[end] = replace(run[end], outcome=Outcome.FAILED)
    run = [entry for entry in run if (entry.kind, entry.id, entry.group) != (Kind.SETTLED, "c3", "billing")]
    run += [began("billing", "c", 3, 900, 20, attempt=2), ended("billing", "c", 3, 901, 20, attempt=2)]
    result = verdict(run)
    assert result.ok, str(result)


def test_a_dead_letter_counts_as_an_end_but_not_before_it_is_one() -> None:
    run = [entry for entry in good_run() if entry.kind is not Kind.SETTLED]
    end = find(run, Kind.END, "a1", "billing")
    run[end] = replace(run[end], outcome=Outcome.FAILED)
    dead = Entry(kind=Kind.DEAD_LETTER, id="a1", group="billing", time=run[end].time + 0.1, pid=20)
    result = verdict([*run, dead])
    assert result.ok, str(result)
    assert result.dead_lettered == {"billing": 1, "search": 0}
    assert rules([*run, replace(dead, time=900)]) == {"OVERTAKE"}


def test_a_publish_without_an_answer_may_be_handled_or_not() -> None:
    run = [*good_run(), sent(Kind.SEND_INVOKE, "a", 9, 900), sent(Kind.SEND_INVOKE, "b", 9, 901), sent(Kind.SEND_UNKNOWN, "b", 9, 902)]
    run += [began("billing", "b", 9, 903, 20), ended("billing", "b", 9, 904, 20)]
    result = verdict(run)
    assert result.ok, str(result)
    assert result.recovered == 1


def test_a_rejected_publish_must_not_be_handled() -> None:
    run = [*good_run(), sent(Kind.SEND_INVOKE, "b", 9, 901), sent(Kind.SEND_REJECTED, "b", 9, 902)]
    assert verdict(run).ok
    run += [began("billing", "b", 9, 903, 20), ended("billing", "b", 9, 904, 20)]
    assert rules(run) == {"UNEXPECTED"}


def frozen_in_a_call(*, awake: list[Entry]) -> Verdict:
    """Process 20 begins a0 and is frozen in it; 30 takes over under a newer epoch; then what `awake` says happens."""
    run = [
        *(sent(kind, "a", sequence, sequence) for sequence in (0, 1) for kind in (Kind.SEND_INVOKE, Kind.SEND_STORED)),
        began("billing", "a", 0, 10, 20, 2),
        struck(FREEZE, 20, 11),
        began("billing", "a", 0, 20, 30, 3),
        ended("billing", "a", 0, 21, 30, 3),
        ended("billing", "a", 0, 30, 20, 2),
        began("billing", "a", 1, 40, 30, 3),
        ended("billing", "a", 1, 41, 30, 3),
        *awake,
    ]
    return judge(run, ["billing"], ordered=["billing"])


def test_a_call_that_began_before_a_freeze_may_overlap_its_repeat_by_the_new_owner() -> None:
    result = frozen_in_a_call(awake=[])
    assert result.ok, result
    assert (result.duplicates, result.orphans) == ({"lease": 1}, 1)


def test_a_frozen_process_that_begins_something_under_its_lost_ownership_is_flagged() -> None:
    late = [began("billing", "a", 1, 31, 20, 2), ended("billing", "a", 1, 32, 20, 2)]
    assert {"STALE_EPOCH"} <= {problem.rule for problem in frozen_in_a_call(awake=late).problems}


def test_within_the_frozen_process_nothing_overlaps_what_it_had_begun() -> None:
    back = [began("billing", "a", 1, 25, 20, 4), ended("billing", "a", 1, 26, 20, 4)]
    assert {"OVERLAP"} <= {problem.rule for problem in frozen_in_a_call(awake=back).problems}


def test_all_that_a_frozen_process_had_begun_may_be_left_over() -> None:
    """One message of each key: the longest of them is not the only one that went on."""
    run = [sent(kind, key, 0, 1) for key in "ab" for kind in (Kind.SEND_INVOKE, Kind.SEND_STORED)]
    run += [began("billing", "a", 0, 10, 20, 2), began("billing", "b", 0, 10, 20, 2), struck(FREEZE, 20, 11)]
    for key in "ab":
        run += [began("billing", key, 0, 20, 30, 3), ended("billing", key, 0, 21, 30, 3)]
    run += [ended("billing", "a", 0, 30, 20, 2), ended("billing", "b", 0, 40, 20, 2)]
    result = judge(run, ["billing"], ordered=["billing"])
    assert result.ok, result
    assert result.orphans == 2


def test_a_publish_that_was_repeated_after_a_doubt_explains_a_second_copy() -> None:
    """Behind what was sent with the first one."""
    run = [sent(Kind.SEND_INVOKE, "a", sequence, sequence) for sequence in (0, 1)]
    stored = [sent(Kind.SEND_STORED, "a", sequence, 5) for sequence in (0, 1)]
    for at, sequence in enumerate((0, 1, 0, 1)):
        run += [began("billing", "a", sequence, 10 + 2 * at, 20, 2), ended("billing", "a", sequence, 11 + 2 * at, 20, 2)]
    doubts = [sent(Kind.SEND_UNKNOWN, "a", sequence, 3) for sequence in (0, 1)]
    result = judge([*run, *stored, *doubts], ["billing"], ordered=["billing"])
    assert result.ok, result
    assert result.duplicates == {"unknown": 2}
    assert {problem.rule for problem in judge([*run, *stored], ["billing"], ordered=["billing"]).problems} == {"DUPLICATE", "BACKWARDS"}
