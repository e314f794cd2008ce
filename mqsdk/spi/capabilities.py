"""What a backend can do, as data. The conformance suite runs what is claimed; start-up refuses or emulates what is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Claims of one backend; `mqsdk.testing.conformance` tests them. A default counts as well: what is not there is named as False.

    settle: "cursor" stores the watermark and the sparse blob, "receipt" acknowledges the set.
    sparse_bytes: room for the sparse blob, 0 = none. history: a late group sees the past. replay: positions can be reset.
    read_by_position: `Admin.read` works. delay: "native": a record with `due_ms` in the future is as durable at its publish as any, and
    takes its place at the end of its partition at that time, within a second; until then it is in nobody's way: no position, no lag. One
    whose time has passed is as one without. "ladder": layer 2 delays, through topics that it makes and reads as any other; `due_ms` comes
    back and means nothing to the adapter, and `Admin.trim` frees what was read. "none": a delay is refused.
    exact_delay: it takes its place at its due time and not some time later: delayed ones stand in the order of their due times, before all
    that is published after. Without it, what is due or published within a second of another may stand on either side.
    publish: "inline" stores before `publish` returns, so the caller's own thread may carry it; "async" answers later.
    rejects_in_order: a failed publish never lets a newer one of the partition pass it.
    companions: a subscription may name further topics of the group's own, see `Subscription`; without it there is no redrive.
    broadcast: a subscription may be for one instance alone, see `Subscription`.
    retention: `Admin.keep` works.
    copies: a publish may end as Unknown although it was stored, and is stored twice when it is repeated: consumers look for copies.
    amend: what is saved for the next owner of a partition can be looked at, and replaced while the group has no members.
    keeps_topic: a topic keeps messages although it has no group yet. attempts: failed attempts survive a crash.
    """

    settle: Literal["cursor", "receipt"]
    publish: Literal["inline", "async"]
    ordered: bool = True
    history: bool = True
    replay: bool = True
    read_by_position: bool = True
    by_time: bool = True
    keeps_topic: bool = True
    companions: bool = False
    broadcast: bool = False
    retention: bool = False
    copies: bool = True
    amend: bool = False
    release: bool = False
    extend: bool = False
    attempts: bool = True
    rejects_in_order: bool = True
    exact_lag: bool = True
    exact_delay: bool = True
    delay: Literal["native", "ladder", "none"] = "none"
    sparse_bytes: int = 0
    max_payload: int | None = None
    name_limit: int = 249
