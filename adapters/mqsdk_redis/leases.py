"""Taking, renewing and giving back partitions: one turn looks at the group, then does what this member's share asks for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mqsdk.spi import Assigned, ConsumerEvent, Lost, Partition, Renewed, Revoking
from mqsdk_redis import names
from mqsdk_redis.ids import START, era_of, position_of
from mqsdk_redis.owned import Owned
from mqsdk_redis.seat import Seat
from mqsdk_redis.wire import Command, ResponseError, Scripts, Wire

TRIMS = (1.0, 60.0)  # seconds between two trims: a quarter of what is kept, within these


class Leases:
    """owned: the consumer's own mapping, changed here. put: where its events go."""

    def __init__(
        self, scripts: Scripts, seat: Seat, group: str, keep_s: float, owned: dict[Partition, Owned], put: Callable[[ConsumerEvent], None]
    ) -> None:
        self._scripts = scripts
        self._seat = seat
        self._group = group
        self._owned = owned
        self._put = put
        self._keep_s = keep_s
        self._trim_at = time.monotonic() + self._trim_every_s
        # What was read of a partition that is not owned now: a server that knows less has lost entries.
        self._known: dict[Partition, bytes] = {}

    def due(self, now: float) -> float:
        """When `turn` has something to do; monotonic seconds."""
        recalls = [owned.give_back_by for owned in self._owned.values() if owned.give_back_by is not None]
        return min([self._seat.due, *recalls])

    def remember(self, owned: Owned) -> None:
        self._known[owned.partition] = owned.last

    def turn(self, wire: Wire, now: float) -> None:
        """Raises what Wire raises, and the error that the server answered."""
        self._renew(wire)
        self._recall(wire, now)
        for topic in self._seat.topics:
            self._take(wire, now, topic)
        if now >= self._trim_at:
            self._trim_at = now + self._trim_every_s
            self._trim(wire)

    # --- calls of the owner -------------------------------------------------------------------------------------------------------------

    def settle_call(self, owned: Owned, ids: list[bytes], final: bool, blob: bytes) -> Command:
        """blob: `-` to leave it as it is, else `=` and the blob."""
        keys = (owned.stream, owned.lease, owned.ownership)
        return self._scripts.settle.call(keys, owned.token, self._group, b"1" if final else b"0", blob, *ids)

    def lost_before(self, wire: Wire, owned: Owned) -> Callable[[bytes], bool]:
        """Between numbers of the SDK and those of a foreign producer only the server's counters tell whether an entry is missing."""

        def lost_before(stream_id: bytes) -> bool:
            state = wire.call(*self._scripts.state.call((owned.stream, owned.ownership), self._group))
            if not state or state[0] != stream_id:
                return False  # an older entry still stands before it, or it is gone too
            length, added = state[2], state[3]
            return bool(owned.read_so_far < 0 or added - length > owned.read_so_far)

        return lost_before

    # --- keeping ------------------------------------------------------------------------------------------------------------------------

    def _renew(self, wire: Wire) -> None:
        held = list(self._owned.values())
        members = self._seat.commands()
        sent = time.monotonic()
        replies = wire.exchange(members + [self._scripts.renew.call((one.lease,), one.token, self._seat.lease_ms) for one in held])
        _raise_first(replies)
        self._seat.seen(sent, replies[: len(members)])
        renewed = False
        for owned, answer in zip(held, replies[len(members) :], strict=True):
            if answer == 1:
                renewed = True
            else:
                self._lose(owned)
        if renewed:
            self._put(Renewed(self._seat.valid_until(sent)))

    def _recall(self, wire: Wire, now: float) -> None:
        """Ask for what is over the share; take what was not given back in time."""
        late = [owned for owned in self._owned.values() if owned.give_back_by is not None and owned.give_back_by <= now]
        for owned in late:
            wire.exchange(
                [self._scripts.release.call((owned.lease, owned.ownership), owned.token, b"0"), self._seat.tell(owned.partition.topic)]
            )
            self._lose(owned)
        if self._seat.leaving:
            return
        for topic in self._seat.topics:
            kept = [owned for owned in self._of(topic) if owned.give_back_by is None]
            for owned in kept[self._seat.share(topic) :]:
                owned.give_back_by = self._seat.give_back_by(now)
                self._put(Revoking(owned.partition, owned.epoch, owned.give_back_by))

    def _lose(self, owned: Owned) -> None:
        del self._owned[owned.partition]
        self.remember(owned)
        self._put(Lost(owned.partition, owned.epoch))

    def _of(self, topic: str) -> list[Owned]:
        return sorted((owned for owned in self._owned.values() if owned.partition.topic == topic), key=lambda owned: owned.partition.number)

    # --- taking -------------------------------------------------------------------------------------------------------------------------

    def _take(self, wire: Wire, now: float, topic: str) -> None:
        mine = self._of(topic)
        missing = self._seat.share(topic) - len([owned for owned in mine if owned.give_back_by is None])
        if missing <= 0:
            return
        candidates = self._seat.candidates(topic, [owned.partition.number for owned in mine])
        owners = wire.exchange([("GET", names.lease(partition, self._group)) for partition in candidates])
        _raise_first(owners)
        free = [partition for partition, owner in zip(candidates, owners, strict=True) if owner is None]
        for partition in free[:missing]:
            missing -= self._acquire(wire, partition)
        if missing:
            self._seat.waiting(now)

    def _acquire(self, wire: Wire, partition: Partition) -> bool:
        keys = (names.stream(partition), names.lease(partition, self._group), names.ownership(partition, self._group))
        known = self._known.get(partition, START)
        call = self._scripts.acquire.call(keys, self._seat.member, self._group, self._seat.lease_ms, known)
        sent = time.monotonic()
        answer = wire.call(*call)
        again = b""
        if answer[0] == b"gone":
            again = self._restore(wire, partition)
            sent = time.monotonic()
            answer = wire.call(*self._scripts.acquire.call(keys, self._seat.member, self._group, self._seat.lease_ms, again or known))
        if answer[0] != b"got":
            return False
        self._got(partition, answer, sent, again)
        return True

    def _got(self, partition: Partition, answer: list[Any], sent: float, again: bytes) -> None:
        _, epoch, clean, blob, delivered, oldest, last, skipped, added, read = answer
        owned = Owned(partition, self._group, self._seat.member, int(epoch), delivered, blob)
        owned.read_so_far = _read_so_far(position_of(delivered), position_of(last), added, read)
        position = min(owned.expected, position_of(oldest)) if oldest else owned.expected
        self._owned[partition] = owned
        self._put(Assigned(partition, owned.epoch, position, blob, self._seat.valid_until(sent), clean == b"1"))
        if again:
            start = position_of(self._known.get(partition, START)) + 1
            owned.lose_tail(min(start, position_of(again)), position_of(again) + 1)
        elif skipped:
            owned.lose_tail(position_of(last) + 1, position_of(skipped) + 1)
        self._known.pop(partition, None)

    def _restore(self, wire: Wire, partition: Partition) -> bytes:
        """Make again what the server has lost. Returns the id from which the stream goes on, b"" when only the group was gone."""
        restore = self._scripts.restore.call((names.stream(partition),), self._group, b"earliest", b"1")
        replies = wire.exchange([("HSETNX", names.TOPICS, partition.topic, self._seat.topics[partition.topic]), restore])
        _raise_first(replies)
        found: bytes = replies[1][1]
        return found

    # --- retention ----------------------------------------------------------------------------------------------------------------------

    @property
    def _trim_every_s(self) -> float:
        least, most = TRIMS
        return max(least, min(most, self._keep_s / 4))

    def _trim(self, wire: Wire) -> None:
        before_ms = int(self._seat.server_ms - self._keep_s * 1000)
        _raise_first(wire.exchange([self._scripts.trim.call((owned.stream,), before_ms) for owned in self._owned.values()]))


def _read_so_far(delivered: int, last: int, added: int, read: int) -> int:
    """Entries that were stored up to the one delivered last; -1 when the server does not know."""
    if not delivered:
        return 0
    return added - (last - delivered) if era_of(delivered) == era_of(last) else read


def _raise_first(replies: list[Any]) -> None:
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise reply
