"""Which whole segments of a partition may go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import locate, segment

if TYPE_CHECKING:
    from .partition import PartitionLog


def over(log: PartitionLog, due_ms: int, known: int) -> int:
    """Of a journal: first offset of the oldest segment that holds a record not moved yet.

    due_ms, known: every record below the offset `known` that was due at `due_ms` or before has been moved.
    """
    found = segment.bases(log.directory)
    keep = found[0] if found else 0
    for base in found[1:]:
        # The highest due time up to and including the first batch of the next segment: of its own, and one more to be safe.
        latest = locate.first_newest(log.directory, base, log.slot)
        if base > known or latest is None or latest > due_ms:
            break
        keep = base
    return keep
