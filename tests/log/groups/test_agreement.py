"""Membership, the group lock and the assignment, without consumers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqsdk_log.engine import assignment, members
from mqsdk_log.engine.assignment import Assignment, balance, follow
from mqsdk_log.engine.groups import Group
from mqsdk_log.engine.leases import Leases
from mqsdk_log.engine.members import Membership
from mqsdk_log.engine.observation import Observation
from mqsdk_log.engine.rolelock import RoleLock

# --- who should own what --------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from([f"m{number}" for number in range(8)])


def test_a_topic_that_goes_along_has_the_owners_of_the_leading_one() -> None:
    leading = {0: "a", 1: "b", 2: "a", 3: "c"}
    assert follow(leading, ["a", "b"], 3) == {0: "a", 1: "b", 2: "a"}
    assert follow(leading, ["a", "b", "c"], 4) == leading


@given(st.dictionaries(st.integers(0, 20), NAMES), st.sets(NAMES), st.integers(1, 16))
def test_every_partition_has_one_owner_and_nobody_has_two_more_than_another(
    current: dict[int, str], alive: set[str], partitions: int
) -> None:
    found = balance(current, sorted(alive), partitions)
    if not alive:
        assert found == {}
        return
    assert list(found) == list(range(partitions))
    counts = Counter(dict.fromkeys(alive, 0))
    counts.update(found.values())
    assert set(counts) == alive
    assert max(counts.values()) - min(counts.values()) <= 1


@given(st.dictionaries(st.integers(0, 15), NAMES), st.sets(NAMES, min_size=1), st.integers(1, 16))
def test_no_more_partitions_move_than_balance_asks_for(current: dict[int, str], alive: set[str], partitions: int) -> None:
    found = balance(current, sorted(alive), partitions)
    assert balance(found, sorted(alive), partitions) == found
    share, extra = divmod(partitions, len(alive))
    held = sorted((sum(1 for p, owner in current.items() if owner == member and p < partitions) for member in alive), reverse=True)
    kept_at_best = sum(min(count, share + (1 if rank < extra else 0)) for rank, count in enumerate(held))
    assert sum(1 for partition, owner in found.items() if current.get(partition) == owner) == kept_at_best


def test_an_assignment_survives_writing_and_a_damaged_one_is_no_assignment(tmp_path: Path) -> None:
    path = tmp_path / "assign.json"
    assert assignment.load(path) == Assignment()
    written = Assignment(3, {"orders": {0: "a", 1: "b"}})
    assignment.save(path, written)
    assert assignment.load(path) == written
    assert written.of("b", "orders") == {1}
    whole = path.read_bytes()
    for damaged in (whole[:-3], b"", b"[]", b'{"generation": 1}', b'{"generation": "x", "assign": {"t": 1}}', b"\xff\xfe"):
        path.write_bytes(damaged)
        assert assignment.load(path) == Assignment()
    assert os.listdir(tmp_path) == ["assign.json"]


# --- members --------------------------------------------------------------------------------------------------------------------


def test_a_member_is_seen_until_it_leaves(tmp_path: Path) -> None:
    member = Membership(tmp_path, ("orders",), 3.0, "web")
    (seen,) = members.living(tmp_path)
    assert (seen.id, seen.topics, seen.lease_s, seen.pid) == (member.id, ("orders",), 3.0, os.getpid())
    assert seen.id.startswith("web-")
    member.leave()
    member.leave()
    assert members.living(tmp_path) == []
    assert os.listdir(tmp_path) == []


def test_two_who_probe_do_not_take_each_other_for_the_owner(tmp_path: Path) -> None:
    member = Membership(tmp_path, ("orders",), 3.0)
    member.abandon()
    import fcntl

    with (tmp_path / f"{member.id}.lock").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert members.living(tmp_path) == []


def test_the_death_of_a_process_is_told_by_a_hang_up(tmp_path: Path) -> None:
    import select

    script = (
        "import sys, pathlib\nfrom mqsdk_log.engine.members import Membership\nm = Membership(pathlib.Path(sys.argv[1]), ('t',), 1.0)\n"
    )
    script += "print(m.id, flush=True)\nsys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    member = process.stdout.readline().strip()
    fd = members.watch(tmp_path, member)
    assert fd is not None
    poll = select.poll()
    poll.register(fd, 0)
    assert poll.poll(0) == []
    os.kill(process.pid, signal.SIGKILL)
    assert poll.poll(15_000) == [(fd, select.POLLHUP)]
    os.close(fd)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert members.living(tmp_path) == []


def test_a_member_that_was_given_up_learns_it_by_its_next_beat(tmp_path: Path) -> None:
    member = Membership(tmp_path, ("orders",), 3.0)
    before = members.heartbeat(tmp_path, member.id)
    assert member.beat()
    assert members.heartbeat(tmp_path, member.id) == before + 1
    members.remove(tmp_path, member.id)
    assert not member.beat()
    member.leave()


# --- the group lock -------------------------------------------------------------------------------------------------------------


def test_a_busy_lock_is_taken_over_after_a_lease_under_the_same_holder_only(tmp_path: Path) -> None:
    stopped, other = RoleLock(tmp_path / "lock", 10.0), RoleLock(tmp_path / "lock", 10.0)
    assert stopped.try_acquire(0.0)
    assert not other.try_acquire(100.0)
    assert not other.try_acquire(109.9)
    assert other.try_acquire(110.0)
    assert not stopped.is_current()  # what a thawed holder asks before it writes
    assert other.is_current()
    stopped.release()
    other.release()


def test_a_lock_that_changes_hands_is_not_taken_over(tmp_path: Path) -> None:
    first, second, observer = (RoleLock(tmp_path / "lock", 10.0) for _ in range(3))
    assert first.try_acquire(0.0)
    assert not observer.try_acquire(100.0)
    first.release()
    assert second.try_acquire(105.0)
    assert not observer.try_acquire(110.0)
    assert second.is_current()
    second.release()
    assert observer.try_acquire(111.0)
    observer.release()


# --- leases ---------------------------------------------------------------------------------------------------------------------


def test_a_lease_has_one_holder_and_topics_with_alike_names_are_kept_apart(tmp_path: Path) -> None:
    orders, alike = Leases(tmp_path, "orders", 5.0), Leases(tmp_path, "orders-1", 5.0)
    held = orders.try_hold(1)
    assert held is not None
    assert orders.try_hold(1) is None
    others = [alike.try_hold(1), orders.try_hold(11), alike.try_hold(0)]
    assert all(other is not None and other.path != held.path for other in others)
    orders.remove()
    assert sorted(os.listdir(tmp_path)) == ["orders-1-0.0.lease", "orders-1-1.0.lease"]
    for lease in (held, *others):
        assert lease is not None
        lease.close()


def test_a_replaced_lease_is_not_current_any_more(tmp_path: Path) -> None:
    leases = Leases(tmp_path, "orders", 5.0)
    stopped = leases.try_hold(0)
    assert stopped is not None
    assert leases.is_current(stopped, 0)
    taken = leases.replace(0, 7)
    assert taken is not None
    assert not leases.is_current(stopped, 0)
    assert leases.is_current(taken, 0)
    stopped.close()
    assert leases.try_hold(0) is None
    taken.close()
    again = leases.try_hold(0)
    assert again is not None
    assert again.number == 7
    again.close()


# --- observation ----------------------------------------------------------------------------------------------------------------


def test_an_observer_that_was_late_itself_begins_its_count_anew() -> None:
    seen = Observation(interval_s=0.5, tolerance_s=1.0)
    for now in (0.0, 0.5, 1.0):
        seen.begin(now)
        assert seen.quiet_s("a", 5, now) == now
    seen.begin(2.6)
    assert seen.quiet_s("a", 5, 2.6) == 0.0
    seen.begin(3.0)
    assert seen.quiet_s("a", 5, 3.0) == pytest.approx(0.4)
    assert seen.quiet_s("a", 6, 3.0) == 0.0


def test_an_unchanged_membership_writes_no_new_assignment(tmp_path: Path) -> None:
    group = Group(tmp_path, "g")
    group.ensure("orders", [0, 0, 0])
    member = Membership(group.members_directory, ("orders",), 5.0)
    lock = group.lock()
    assert lock.try_acquire(0.0)
    first = group.rebalance(lock)
    assert first == Assignment(1, {"orders": dict.fromkeys(range(3), member.id)})
    assert group.rebalance(lock) == first
    lock.release()
    member.leave()
