"""What the parts of an open topic share: descriptors, rules, the state page. Data only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .state import StatePage

if TYPE_CHECKING:
    from .bands import Bands
    from .syncer import Syncer
    from .wake import Wakers

Durability = Literal["none", "interval", "always"]


@dataclass(frozen=True)
class Limits:
    """Sizes and ages of one open log. Segments must stay below 4 GiB, because positions in the index are u32.

    segment_bytes, segment_age_s: when a segment is rolled. dirty_bytes: `interval` syncs early at so many.
    min_free_bytes: appends are refused below it, so that recovery, cursors and the operator have room.
    """

    segment_bytes: int = 64 << 20
    segment_age_s: float = 3600.0
    dirty_bytes: int = 8 << 20
    min_free_bytes: int = 256 << 20
    check_bytes: int = 16 << 20


@dataclass(frozen=True)
class Shared:
    """One open topic. floor(partition): lowest next offset that recovery may give out, from the groups' progress.

    bands: where delayed records wait; None in a band. sync_name: has the topic's name survive a power loss; for the first sync of each
    partition, because whoever made the topic may have died before he saw to it.
    """

    name: str
    uuid: bytes
    directory: int
    page: StatePage
    durability: Durability
    limits: Limits
    syncer: Syncer
    wakers: Wakers
    floor: Callable[[int], int]
    report: Callable[[str], None]
    bands: Bands | None
    sync_name: Callable[[], None]
