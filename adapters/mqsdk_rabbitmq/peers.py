"""Who else consumes a topic in the group, and what that means for this member: members tell each other what they own.

A single active consumer is the server's guard against two owners; that partitions are spread over the members is this file's part alone, so
nothing here can do more harm than an uneven spread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

HELLO, HERE, BYE, WHO, BEGUN = "hello", "here", "bye", "who", "begun"


@dataclass(frozen=True, slots=True)
class Note:
    """What a member tells: kind is one of those above. partitions: owned by it. held: how much it has received of each and not settled.

    BEGUN: not of a member: the group begins in a topic of its own. reply: queue to answer to (WHO).
    """

    kind: str
    topic: str
    member: str = ""
    partitions: tuple[int, ...] = ()
    held: tuple[int, ...] = ()
    host: str = ""
    pid: int = 0
    instance: str = ""
    reply: str = ""

    @classmethod
    def parse(cls, body: bytes) -> Note | None:
        """None for what is none."""
        try:
            found: dict[str, Any] = json.loads(body)
            return cls(**{**found, **{name: tuple(int(number) for number in found.get(name, ())) for name in ("partitions", "held")}})
        except (ValueError, TypeError):
            return None

    def encode(self) -> bytes:
        return json.dumps({name: getattr(self, name) for name in self.__slots__}).encode()


@dataclass(slots=True)
class Peers:
    """Of one topic. others: member -> how many partitions it says it owns."""

    me: str
    partitions: int
    others: dict[str, int] = field(default_factory=dict)

    def heard(self, note: Note) -> None:
        if note.member == self.me:
            return
        if note.kind == BYE:
            self.others.pop(note.member, None)
        else:
            self.others[note.member] = len(note.partitions)

    def gone(self, member: str) -> None:
        self.others.pop(member, None)

    def share(self, owned: int) -> int:
        """How many this member should own: all shares together are all partitions, and who owns more already has the larger one."""
        return self._shares({**self.others, self.me: owned})[self.me]

    def somebody_wants(self, owned: int) -> bool:
        """Whether another member owns less than its share."""
        counts = {**self.others, self.me: owned}
        shares = self._shares(counts)
        return any(counts[member] < shares[member] for member in self.others)

    def _shares(self, counts: Mapping[str, int]) -> dict[str, int]:
        each, rest = divmod(self.partitions, len(counts))
        order = sorted(counts, key=lambda member: (-counts[member], member))
        return {member: each + (place < rest) for place, member in enumerate(order)}
