"""One group: its directory, the progress it keeps per topic, and the agreement of its members on who should own what.

    groups/<group>/lock  members/  assign.json  leases/  cursors/<topic>

Everything that changes the membership or the assignment happens under the group lock. Nobody waits for it on a consumer's thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from . import assignment, cursors, files, members
from .assignment import Assignment, Owners
from .cursors import Cursor, CursorFile, NoSuchGroup
from .errors import LockTimeout, LogError
from .leases import Leases
from .members import MemberInfo
from .rolelock import RoleLock


class GroupBusy(LogError):
    """The group has members; what was asked for needs it empty."""

    def __init__(self, what: str, members: Sequence[MemberInfo]) -> None:
        super().__init__(what)
        self.members = tuple(members)


class Group:
    """Paths and operations of one group. Each thread uses its own; constructing touches nothing."""

    def __init__(self, root: Path, name: str, lease_s: float = 10.0) -> None:
        """lease_s: how long the group lock may stay under one holder before it is taken from it."""
        self.name = name
        self._directory = root / "groups" / name
        self.members_directory = self._directory / "members"
        self.assignment_path = self._directory / "assign.json"
        self._lock_path = self._directory / "lock"
        self._lease_s = lease_s

    # --- progress -------------------------------------------------------------------------------------------------------------------

    def ensure(self, topic: str, starts: Sequence[int]) -> bool:
        """Begin the group's progress in a topic at these positions, one per partition. False when it has some already."""
        if self.knows(topic):
            return False
        self._make_directories()
        return cursors.create(self._cursor_path(topic), [Cursor(start, high=start) for start in starts])

    def knows(self, topic: str) -> bool:
        return self._cursor_path(topic).exists()

    def topics(self) -> list[str]:
        """Topics in which the group keeps progress, sorted."""
        try:
            names = os.listdir(self._directory / "cursors")
        except FileNotFoundError:
            return []
        return sorted(name for name in names if "~" not in name)

    def cursors(self, topic: str, patience_s: float = 1.0) -> CursorFile:
        """Open the progress of a topic. Raises NoSuchGroup."""
        return CursorFile(self._cursor_path(topic), patience_s)

    def progress(self, topic: str) -> list[Cursor]:
        """The newest slot of every partition. Raises NoSuchGroup, CursorDamaged."""
        file = self.cursors(topic)
        try:
            return [file.read(partition) for partition in range(file.partitions)]
        finally:
            file.close()

    def leases(self, topic: str, term_s: float = 10.0) -> Leases:
        return Leases(self._directory / "leases", topic, term_s)

    # --- agreement -----------------------------------------------------------------------------------------------------------------

    def lock(self) -> RoleLock:
        """A handle of the group lock, not taken yet. The group's directory must exist."""
        return RoleLock(self._lock_path, self._lease_s)

    def assignment(self) -> Assignment:
        return assignment.load(self.assignment_path)

    def rebalance(self, lock: RoleLock) -> Assignment:
        """Compute the assignment for those alive now and write it down when it differs. The caller holds the group lock."""
        before = self.assignment()
        alive = members.living(self.members_directory)
        owners = self._owners(before, alive)
        if owners == before.owners:
            return before
        after = Assignment(before.generation + 1, owners)
        if lock.is_current():  # a holder that was stopped in between has lost the role: its view is old
            assignment.save(self.assignment_path, after)
        return after

    def _owners(self, before: Assignment, alive: Sequence[MemberInfo]) -> Owners:
        """Balanced per topic, but for topics that all their members read beside a leading one, their first: those follow it."""
        owners: dict[str, Mapping[int, str]] = {}
        takers = {topic: [member for member in alive if topic in member.topics] for topic in self.topics()}
        leading = {topic: {member.topics[0] for member in found} for topic, found in takers.items()}
        followers = [topic for topic, first in leading.items() if first and topic not in first and len(first) == 1]
        for topic, found in takers.items():
            if found and topic not in followers:
                ids = [member.id for member in found]
                owners[topic] = assignment.balance(before.owners.get(topic, {}), ids, self._partitions(topic))
        for topic in followers:
            (first,) = leading[topic]
            owners[topic] = assignment.follow(owners.get(first, {}), [member.id for member in takers[topic]], self._partitions(topic))
        return owners

    def living(self, topic: str) -> list[MemberInfo]:
        """Members that read this topic and whose process lives."""
        return [member for member in members.living(self.members_directory) if topic in member.topics]

    # --- arranging ------------------------------------------------------------------------------------------------------------------

    def reset(self, topic: str, positions: Mapping[int, int], patience_s: float = 5.0) -> None:
        """Move the progress: partition -> position. Raises GroupBusy while a living member reads the topic, NoSuchGroup, LockTimeout."""
        with self._empty(topic, patience_s):
            file = self.cursors(topic)
            try:
                for partition, position in positions.items():
                    file.move(partition, position)
                file.sync()
            finally:
                file.close()

    def amend(self, topic: str, partition: int, epoch: int, left: bytes, sparse: bytes, patience_s: float = 5.0) -> bool:
        """Replace the blob that the last owner of a partition left; False when it is another one now. Raises as `reset`."""
        with self._empty(topic, patience_s):
            file = self.cursors(topic)
            try:
                is_done = file.amend(partition, epoch, left, sparse)
                file.sync()
            finally:
                file.close()
        return is_done

    def delete(self, topic: str, patience_s: float = 5.0) -> None:
        """Forget the group's progress in a topic for ever. Raises as `reset`."""
        with self._empty(topic, patience_s):
            for path in cursors.generations(self._cursor_path(topic)):
                path.unlink(missing_ok=True)
            files.sync_path(self._directory / "cursors")
            self.leases(topic).remove()
        if not self.topics():
            self._remove_directory()

    @contextmanager
    def _empty(self, topic: str, patience_s: float) -> Iterator[None]:
        if not self.knows(topic):
            raise NoSuchGroup(f"group `{self.name}` has no progress in topic `{topic}`")
        lock = self.lock()
        if not lock.acquire(patience_s):
            raise LockTimeout(f"the lock of group `{self.name}` is held by another process; nothing was changed")
        try:
            alive = self.living(topic)
            if alive:
                raise GroupBusy(f"group `{self.name}` has {len(alive)} member(s) in topic `{topic}`", alive)
            yield
        finally:
            lock.release()

    # --- files ----------------------------------------------------------------------------------------------------------------------

    def _cursor_path(self, topic: str) -> Path:
        return self._directory / "cursors" / topic

    def _partitions(self, topic: str) -> int:
        file = self.cursors(topic)
        try:
            return file.partitions
        finally:
            file.close()

    def _make_directories(self) -> None:
        for name in ("members", "leases", "cursors"):
            files.make_dirs(self._directory / name)
        for path in (self._directory, *list(self._directory.parents)[:2]):  # whoever made them may have died before he did this
            files.sync_path(path)

    def _remove_directory(self) -> None:
        """Only when nothing of it is in use: rmdir refuses a directory that somebody filled again."""
        with suppress(OSError):
            for path in [self.assignment_path, *self._directory.glob("lock*")]:
                path.unlink(missing_ok=True)
            for name in ("members", "leases", "cursors"):
                (self._directory / name).rmdir()
            self._directory.rmdir()


def names(root: Path) -> list[str]:
    """All groups of a log, sorted."""
    try:
        return sorted(entry.name for entry in os.scandir(root / "groups") if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def of_topic(root: Path, topic: str) -> list[str]:
    """Groups that keep progress in this topic, sorted."""
    return [name for name in names(root) if Group(root, name).knows(topic)]
