"""One instance of a broadcast: all partitions from its start on, no group, no lease. In place of `Leases` for its consumer.

What it has not settled is kept from being removed by its place, which the server forgets a while after the last word of the instance.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mqsdk.spi import Assigned, ConsumerEvent, Partition, Subscription
from mqsdk_redis import names
from mqsdk_redis.ids import id_before, position_of
from mqsdk_redis.leases import TRIMS, lost_before, raise_first
from mqsdk_redis.owned import Entry, Owned
from mqsdk_redis.wire import Command, Scripts, Wire

PLACE_S = 60.0  # how long the place of an instance that is not heard of any more is kept
TURN_S = 5.0  # how often it is told, and with it that the stream is still the one that was read
EPOCH = 1


class End(NamedTuple):
    """Of one stream at a moment: id of the last entry, and how many were ever added."""

    last: bytes
    added: int


class Instance:
    """owned: the consumer's own mapping, filled here. put: where its events go. Methods as of `Leases`."""

    def __init__(
        self,
        scripts: Scripts,
        subscription: Subscription,
        ends: Sequence[End],
        keep_s: float,
        owned: dict[Partition, Owned],
        put: Callable[[ConsumerEvent], None],
    ) -> None:
        self.news: dict[bytes, bytes] = {}
        self._scripts = scripts
        self._name = secrets.token_hex(8).encode()
        self._group = subscription.group
        self._topic, self._partitions = subscription.topics[0], len(ends)
        self._owned = owned
        self._put = put
        self._keep_s = keep_s
        self._trim_every_s = max(TRIMS[0], min(TRIMS[1], keep_s / 4))
        self._trim_at = time.monotonic() + self._trim_every_s
        self._due = 0.0
        self._settled: dict[Partition, bytes] = {}  # up to where
        for number, end in enumerate(ends):
            self._begin(Partition(self._topic, number), end, dict(subscription.positions).get(number))

    def _begin(self, partition: Partition, end: End, position: int | None) -> None:
        begin = end.last if position is None else min(end.last, id_before(position), key=position_of)
        owned = Owned(partition, self._group, self._name, EPOCH, begin, b"")
        owned.history = False
        owned.read_so_far = end.added if begin == end.last else -1
        self._owned[partition] = owned
        self._settled[partition] = begin
        self._put(Assigned(partition, EPOCH, owned.expected))

    # --- time ---------------------------------------------------------------------------------------------------------------------------

    def due(self) -> float:
        return min(self._due, self._trim_at)

    def hurry(self) -> None:
        self._due = 0.0

    def leave_soon(self) -> None:
        """There is nothing to take."""

    def turn(self, wire: Wire, now: float) -> None:
        """Say where it is; see whether the streams are those that it knows."""
        self._due = now + TURN_S
        held = list(self._owned.values())
        replies = wire.exchange([self._place(owned, self._settled[owned.partition]) for owned in held])
        raise_first(replies)
        for owned, reply in zip(held, replies, strict=True):
            self._found(wire, owned, reply)
        if now >= self._trim_at:
            self._trim_at = now + self._trim_every_s
            self._trim(wire)

    def _found(self, wire: Wire, owned: Owned, reply: Sequence[Any]) -> None:
        """What the server has lost is a gap, and it goes on behind."""
        if reply[0] == b"gone":
            self._restore(wire, owned)
        elif reply[1]:
            self._go_on(owned, reply[1])

    def _restore(self, wire: Wire, owned: Owned) -> None:
        """Make a stream that is gone again, as its groups would."""
        restore = self._scripts.restore.call((owned.stream,), "mq-make", b"earliest", b"1")
        known = ("HSETNX", names.TOPICS, self._topic, self._partitions)
        replies = wire.exchange([known, restore, ("XGROUP", "DESTROY", owned.stream, "mq-make")])
        raise_first(replies)
        # Somebody else was faster: what it is numbered on from is not known, so the gap is the one position that is certain.
        self._go_on(owned, replies[1][1] or owned.last)

    def _go_on(self, owned: Owned, last: bytes) -> None:
        owned.lose_tail(owned.expected, max(position_of(last), owned.expected) + 1)
        owned.last = max(owned.last, last, key=position_of)
        owned.read_so_far, owned.behind = -1, True

    def reconnected(self, wire: Wire, is_same: bool) -> None:
        """What was asked for may not have been heard; nothing is lost by it."""
        for owned in self._owned.values():
            owned.behind = True
        self.hurry()

    # --- calls --------------------------------------------------------------------------------------------------------------------------

    def read_call(self, owned: Owned, count: int) -> Command:
        return (b"XRANGE", owned.stream, b"(" + owned.last, b"+", b"COUNT", count)

    def entries(self, reply: Any) -> Sequence[Entry]:
        """What a read has brought."""
        found: Sequence[Entry] = reply
        return found

    def settle_call(self, owned: Owned, ids: list[bytes], final: bool = False, blob: bytes = b"-") -> Command:
        """Its place moves up to before the first entry that is not settled."""
        first = owned.first_unsettled
        self._settled[owned.partition] = owned.last if first is None else id_before(first)
        return self._place(owned, self._settled[owned.partition])

    def lost_before(self, wire: Wire, owned: Owned) -> Callable[[bytes], bool]:
        return lost_before(self._scripts, wire, owned, self._group)

    def lose(self, owned: Owned) -> None:
        """Nobody can take it."""

    def handed_back(self, owned: Owned) -> None:
        self._owned.pop(owned.partition, None)

    def leaving(self) -> list[Command]:
        return [self._place(owned, b"") for owned in self._owned.values()]

    def _place(self, owned: Owned, settled: bytes) -> Command:
        keys = (owned.stream, *names.instances(owned.partition))
        return self._scripts.place.call(keys, self._name, int(PLACE_S * 1000), settled, owned.last)

    def _trim(self, wire: Wire) -> None:
        seconds, _ = wire.call("TIME")
        before_ms = int((int(seconds) - self._keep_s) * 1000)
        keys = [(owned.stream, *names.instances(owned.partition)) for owned in self._owned.values()]
        raise_first(wire.exchange([self._scripts.trim.call(each, before_ms) for each in keys]))
