"""Groups over real processes: sharing, kill -9, a stopped owner, a storm of both. The figures are printed with `-s`."""

from __future__ import annotations

import random
import signal
from collections import defaultdict
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def test_two_processes_share_the_partitions_and_every_message_is_handled_once(stage: Any) -> None:
    backend = stage.topic_of(4)
    one, two = stage.member(), stage.member()
    stage.until(lambda: len(one.owns) == len(two.owns) == 2 and not one.owns & two.owns)
    values = stage.publish(backend, 200, 4)
    stage.until(lambda: handled(one, two) >= len(values))
    assert sorted(value for member in (one, two) for value in values_of(member)) == [int(value) for value in values]
    assert values_of(one)
    assert values_of(two)


def test_a_killed_process_is_replaced_at_once(stage: Any) -> None:
    backend = stage.topic_of(2)
    victim, heir = stage.member(), stage.member()
    stage.until(lambda: len(victim.owns) == 1 and len(heir.owns) == 1)
    killed_at = victim.signal(signal.SIGKILL)
    stage.until(lambda: len(heir.owns) == 2)
    took_s = heir.said("assigned")[-1]["at"] - killed_at
    print(f"\nkill -9 to Assigned: {took_s * 1000:.1f} ms")
    assert took_s < 1.0
    assert heir.said("assigned")[-1]["clean"] is False
    values = stage.publish(backend, 20, 2)
    stage.until(lambda: handled(heir) >= len(values))


def test_a_stopped_process_is_replaced_within_lease_and_two_seconds_and_settles_nothing_when_it_thaws(stage: Any) -> None:
    lease_s = 1.0
    backend = stage.topic_of(1)
    victim = stage.member(lease_s=lease_s)
    stage.until(lambda: victim.owns == {0})
    heir = stage.member(lease_s=lease_s)
    stopped_at = victim.signal(signal.SIGSTOP)
    stage.until(lambda: heir.owns == {0})
    took_s = heir.said("assigned")[-1]["at"] - stopped_at
    print(f"\nSIGSTOP to Assigned with a lease of {lease_s} s: {took_s:.2f} s")
    assert lease_s * 0.7 < took_s < (lease_s + 2.0) * 1.5
    victim.signal(signal.SIGCONT)
    stage.until(lambda: bool(victim.said("lost")))
    assert victim.said("lost")[0]["epoch"] < heir.said("assigned")[-1]["epoch"]
    values = stage.publish(backend, 50)
    stage.until(lambda: handled(heir, victim) >= len(values))
    assert sorted(values_of(heir) + values_of(victim)) == [int(value) for value in values]


def test_a_process_stopped_in_the_middle_of_its_work_gets_stale_for_what_it_settles(stage: Any) -> None:
    backend = stage.topic_of(1)
    victim = stage.member(lease_s=0.8, hold_s=0.5)
    stage.until(lambda: victim.owns == {0})
    stage.publish(backend, 1)
    stage.until(lambda: bool(victim.said("handled")))
    victim.signal(signal.SIGSTOP)  # between the batch and its settle
    heir = stage.member(lease_s=0.8)
    stage.until(lambda: bool(heir.said("handled")))
    victim.signal(signal.SIGCONT)
    stage.until(lambda: bool(victim.said("stale") and victim.said("lost")))
    assert values_of(victim) == values_of(heir)  # handled twice: the one case in which that is allowed


def test_a_storm_of_kills_loses_nothing_and_never_has_two_owners(stage: Any) -> None:
    """Three members over four partitions, killed and replaced ten times while messages flow."""
    backend = stage.topic_of(4)
    rng = random.Random(7)
    members = [stage.member(lease_s=3.0) for _ in range(3)]
    published: list[bytes] = []
    for _ in range(10):
        published += stage.publish(backend, 40, 4)
        victim = rng.choice(members)
        stage.until(lambda victim=victim: bool(victim.journal))
        victim.signal(rng.choice([signal.SIGKILL, signal.SIGTERM]))
        members[members.index(victim)] = stage.member(lease_s=3.0)
    wanted = {int(value) for value in published}
    stage.until(lambda: wanted <= {value for member in stage.members for value in values_of(member)})
    assert_one_owner_at_a_time(stage.members)
    assert not [entry for member in stage.members for entry in member.said("gap")]


# --- the judge -------------------------------------------------------------------------------------------------------------------------


def values_of(member: Any) -> list[int]:
    return [value for entry in member.said("handled") for value in entry["values"]]


def handled(*members: Any) -> int:
    return sum(len(values_of(member)) for member in members)


def assert_one_owner_at_a_time(members: list[Any]) -> None:
    """Per partition: epochs are unique, rise with time, and nothing is handled under an epoch after a later one began."""
    begun: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for member in members:
        for entry in member.said("assigned"):
            begun[entry["partition"]].append((entry["at"], entry["epoch"]))
    for partition, starts in begun.items():
        epochs = [epoch for _, epoch in sorted(starts)]
        assert epochs == sorted(set(epochs)), f"partition {partition}: epochs {epochs}"
        for member in members:
            for entry in member.said("handled"):
                if entry["partition"] == partition:
                    later = [at for at, epoch in starts if epoch > entry["epoch"]]
                    assert not later or entry["at"] <= min(later), f"partition {partition}: handled under epoch {entry['epoch']} too late"
