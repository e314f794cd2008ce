"""Taking a partition: its lease, then a new epoch in its progress; and handing it back.

A lease that is not followed by an epoch is given back, whatever happens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from .cursors import Cursor, CursorFile
from .errors import LogError
from .holding import Holdings
from .leases import Lease, Leases


class Claim(NamedTuple):
    """left: progress as the last owner left it. mine: as it is stored now."""

    lease: Lease
    left: Cursor
    mine: Cursor


def take_free(file: CursorFile, leases: Leases, partition: int, lease: Lease) -> Claim | None:
    """Under a lease that nobody held. None when it was replaced meanwhile."""
    return _claimed(file, partition, lambda _left: leases.is_current(lease, partition), [lease], None)


def take_over(file: CursorFile, leases: Leases, partition: int, evidence: int) -> Claim | None:
    """Over the head of an owner that stands still. evidence: what was seen to stand still. None when it has shown life since."""
    made: list[Lease] = []

    def replaced(left: Cursor) -> bool:
        while made:
            made.pop().close()
        lease = leases.replace(partition, left.epoch + 1)
        made.extend([lease] if lease is not None else [])
        return bool(made)

    return _claimed(file, partition, replaced, made, evidence)


def _claimed(
    file: CursorFile, partition: int, confirm: Callable[[Cursor], bool], leases: list[Lease], unchanged: int | None
) -> Claim | None:
    """leases: the one held, once `confirm` has been called."""
    taken: tuple[Cursor, Cursor] | None = None
    try:
        taken = file.take(partition, confirm, unchanged)
    finally:
        if taken is None:
            for lease in leases:
                lease.close()
    return None if taken is None else Claim(leases[0], *taken)


def hand_back(held: Holdings, files: Mapping[str, CursorFile]) -> None:
    """Give everything back in order: the progress first. What cannot be stored its next owner finds as after a crash."""
    for holding in list(held.values()):
        topic, partition = holding.key
        with suppress(LogError, OSError):
            files[topic].store(partition, holding.stored._replace(epoch=holding.epoch, clean=True))
    for holding in list(held.values()):
        held.release(holding)
