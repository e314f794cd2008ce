"""Who should own which partition: a pure, sticky, balanced distribution, and the file in which the group writes it down."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import files
from .errors import UNEXPECTED

Owners = Mapping[str, Mapping[int, str]]  # topic -> partition -> member id


@dataclass(frozen=True, slots=True)
class Assignment:
    """generation rises with every change. owners: topic -> partition -> member id."""

    generation: int = 0
    owners: Owners = field(default_factory=dict)

    def of(self, member: str, topic: str) -> frozenset[int]:
        """The partitions of this topic that the member should own."""
        return frozenset(partition for partition, owner in self.owners.get(topic, {}).items() if owner == member)


def balance(current: Mapping[int, str], members: Sequence[str], partitions: int) -> dict[int, str]:
    """Spread the partitions of one topic so that no member has two more than another, moving as few as possible.

    current: partition -> member as it is. members: ids of those alive, any order; the result is {} without any.
    """
    if not members:
        return {}
    ranked = sorted(members, key=lambda member: (-_held(current, member, partitions), member))
    share, extra = divmod(partitions, len(ranked))
    quota = {member: share + (1 if rank < extra else 0) for rank, member in enumerate(ranked)}
    result: dict[int, str] = {}
    for partition in range(partitions):
        owner = current.get(partition)
        if owner is not None and quota.get(owner, 0) > 0:
            result[partition] = owner
            quota[owner] -= 1
    for partition in range(partitions):
        if partition not in result:
            taker = next(member for member in ranked if quota[member] > 0)
            result[partition] = taker
            quota[taker] -= 1
    return dict(sorted(result.items()))


def follow(leading: Mapping[int, str], members: Sequence[str], partitions: int) -> dict[int, str]:
    """Partitions of a topic that goes along with a leading one: each to the same owner, to nobody when that one does not read it."""
    return {partition: owner for partition, owner in sorted(leading.items()) if partition < partitions and owner in members}


def _held(current: Mapping[int, str], member: str, partitions: int) -> int:
    return sum(1 for partition, owner in current.items() if owner == member and partition < partitions)


def load(path: Path) -> Assignment:
    """The written assignment; an empty one when there is none or it is damaged: it is only a wish and is computed anew."""
    try:
        content = json.loads(files.read_path(path))
        owners = {
            str(topic): {int(partition): str(owner) for partition, owner in parts.items()} for topic, parts in content["assign"].items()
        }
        return Assignment(int(content["generation"]), owners)
    except (FileNotFoundError, *UNEXPECTED):
        return Assignment()


def save(path: Path, assignment: Assignment) -> None:
    """Replace the written assignment at once. Not synced: after a power loss nobody of it is alive."""
    temporary = path.with_name(f"~{uuid.uuid4().hex}.tmp")
    owners = {topic: {str(partition): owner for partition, owner in parts.items()} for topic, parts in assignment.owners.items()}
    try:
        temporary.write_text(json.dumps({"generation": assignment.generation, "assign": owners}))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def stamp(path: Path) -> tuple[int, int]:
    """Changes whenever the assignment is replaced; one stat. (0, 0) without a file."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns
