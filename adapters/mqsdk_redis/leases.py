"""Taking, renewing and giving back partitions: one turn looks at the group, then does what this member's share asks for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from mqsdk.spi import Assigned, ConsumerEvent, Lost, Partition, Renewed, Revoking
from mqsdk_redis import names
from mqsdk_redis.ids import START, era_of, position_of
from mqsdk_redis.owned import Entry, Owned
from mqsdk_redis.seat import Seat
from mqsdk_redis.wire import Command, ResponseError, Scripts, Wire

TRIMS = (1.0, 60.0)  # seconds between two trims: a quarter of what is kept, within these
CONSUMER = b"o"  # the one of a group, so that an owner inherits what was pending
LOOK_S = 1.0  # how often it looks for companions that the group does not read yet


class Leases:
    """owned: the consumer's own mapping, changed here. put: where its events go. send: a command that goes out with the next round trip.

    Partition p of all topics is one thing. Who holds the lease of the first topic's may take those of the companions; it keeps that lease,
    also after it has handed the partition back, until the companions are handed back too. Renewals of companions go before that of the
    first, in one round trip, so that theirs never lapse later.
    """

    def __init__(
        self,
        scripts: Scripts,
        seat: Seat,
        keep_s: float,
        owned: dict[Partition, Owned],
        put: Callable[[ConsumerEvent], None],
        send: Callable[[Command], None],
    ) -> None:
        self._scripts = scripts
        self._seat = seat
        self._group = seat.group
        self._reading = (b"XREADGROUP", b"GROUP", seat.group, CONSUMER, b"COUNT")
        self._owned = owned
        self._put = put
        self._send = send
        self._keep_s = keep_s
        self._trim_at = time.monotonic() + self._trim_every_s
        self._look_at = 0.0
        # Handed back, but for the lease: a companion is still held. By number.
        self._ended: dict[int, Owned] = {}
        # What was read of a partition that is not owned now: a server that knows less has lost entries.
        self._known: dict[Partition, bytes] = {}

    def due(self) -> float:
        """When `turn` has something to do; monotonic seconds."""
        recalls = [owned.give_back_by for owned in self._owned.values() if owned.give_back_by is not None]
        return min([self._seat.due, *([self._look_at] if self._seat.awaited else []), *recalls])

    def turn(self, wire: Wire, now: float) -> None:
        """Raises what Wire raises, and the error that the server answered."""
        if self._seat.awaited and now >= self._look_at:
            self._look_at = now + LOOK_S
            self._take_up(wire)
        self._renew(wire)
        self._recall(now)
        self._take(wire, now)
        self._take_companions(wire, now)
        if now >= self._trim_at:
            self._trim_at = now + self._trim_every_s
            self._trim(wire)

    @property
    def news(self) -> dict[bytes, bytes]:
        """What else to wake up for: something has changed in the group."""
        return self._seat.news

    def hurry(self) -> None:
        """Turn as soon as possible."""
        self._seat.due = 0.0

    def leave_soon(self) -> None:
        """Take nothing any more."""
        self._seat.leaving = True

    def reconnected(self, wire: Wire, is_same: bool) -> None:
        """is_same: the server process is the one that it was."""
        self.hurry()
        if is_same:
            for owned in self._owned.values():
                owned.read_again()
            return
        # Another server process: it may have lost its newest entries, acknowledgements and leases. Begin anew, under new epochs.
        wire.exchange(self._release_all(b"0"))
        for owned in list(self._owned.values()):
            self.lose(owned)

    def leaving(self) -> list[Command]:
        """What tells the group that this one is gone."""
        tell = [self._seat.tell()] if self._owned else []
        return [*self._release_all(b"1"), *self._seat.commands(leaving=True), *tell]

    # --- calls of the owner -------------------------------------------------------------------------------------------------------------

    def read_call(self, owned: Owned, count: int) -> Command:
        """As safe as a script: the server looks for all streams of a read before it takes an entry, so it takes none without the fence."""
        return (*self._reading, count, b"STREAMS", owned.fence, owned.stream, b">", owned.after)

    def entries(self, reply: Any) -> Sequence[Entry]:
        """What a read has brought."""
        return reply[0][1] if reply else ()

    def settle_call(self, owned: Owned, ids: list[bytes], final: bool = False, blob: bytes = b"-") -> Command:
        """blob: `-` to leave it as it is, else `=` and the blob."""
        keys = (owned.stream, owned.lease, owned.ownership, owned.fence)
        end = b"0" if not final else b"2" if self._companions(owned) else b"1"
        return self._scripts.settle.call(keys, owned.token, self._group, end, blob, *ids)

    def lost_before(self, wire: Wire, owned: Owned) -> Callable[[bytes], bool]:
        return lost_before(self._scripts, wire, owned, self._group)

    # --- keeping ------------------------------------------------------------------------------------------------------------------------

    def _renew(self, wire: Wire) -> None:
        held = self._held()
        members = self._seat.commands()
        sent = time.monotonic()
        replies = wire.exchange(members + [self._renew_call(one) for one in held])
        raise_first(replies)
        self._seat.seen(sent, replies[: len(members)])
        for owned, answer in zip(held, replies[len(members) :], strict=True):
            if answer != 1:
                self.lose(owned)
        if self._owned:
            self._put(Renewed(self._seat.valid_until(sent)))

    def _held(self) -> list[Owned]:
        """Everything that this one has a lease of, the companions first."""
        mine = [*self._owned.values(), *self._ended.values()]
        return sorted(mine, key=lambda owned: owned.partition.topic == self._seat.first)

    def _recall(self, now: float) -> None:
        """Ask for what is over the share; take what was not given back in time."""
        for owned in [owned for owned in self._owned.values() if owned.give_back_by is not None and owned.give_back_by <= now]:
            if self._owned.get(owned.partition) is owned:
                self._send(self._release_call(owned, b"0"))
                self.lose(owned)
        if self._seat.leaving:
            return
        kept = [owned for owned in self._of_first() if owned.give_back_by is None]
        for chief in kept[self._seat.share() :]:
            for owned in (*self._companions(chief), chief):
                owned.give_back_by = self._seat.give_back_by(now)
                self._put(Revoking(owned.partition, owned.epoch, owned.give_back_by))

    def lose(self, owned: Owned) -> None:
        """An ownership is over; that of the first topic takes the companions along. Nothing happens for one that is over already."""
        if self._ended.get(owned.partition.number) is owned:
            del self._ended[owned.partition.number]
        elif self._drop(owned):
            self._put(Lost(owned.partition, owned.epoch))
        else:
            return
        for companion in self._companions(owned):
            self._send(self._release_call(companion, b"0"))
            self.lose(companion)
        self._free(owned.partition.number)
        self.hurry()

    def handed_back(self, owned: Owned) -> None:
        """The final settle is stored: give the partition away as soon as all of it is handed back."""
        if self._drop(owned):
            if self._companions(owned):
                self._ended[owned.partition.number] = owned
            self._free(owned.partition.number)
        self.hurry()

    def _release_all(self, clean: bytes) -> list[Command]:
        return [self._release_call(owned, clean) for owned in self._held()]

    def _drop(self, owned: Owned) -> bool:
        if self._owned.get(owned.partition) is not owned:
            return False
        del self._owned[owned.partition]
        self._known[owned.partition] = owned.last
        return True

    def _free(self, number: int) -> None:
        """Tell the others when nothing of this partition is held any more."""
        ended = self._ended.get(number)
        if ended is not None and not self._companions(ended):
            del self._ended[number]
            self._send(self._release_call(ended, b"1"))
        if number not in {partition.number for partition in self._owned} and number not in self._ended:
            self._send(self._seat.tell())

    def _renew_call(self, owned: Owned) -> Command:
        return self._scripts.renew.call((owned.lease, owned.fence), owned.token, self._seat.lease_ms)

    def _release_call(self, owned: Owned, clean: bytes) -> Command:
        return self._scripts.release.call((owned.lease, owned.fence, owned.ownership), owned.token, clean)

    def _companions(self, chief: Owned) -> list[Owned]:
        """What follows a partition of the first topic; nothing follows one of the others."""
        topic, number = chief.partition
        if topic != self._seat.first:
            return []
        return [owned for partition, owned in self._owned.items() if partition.number == number and partition.topic != topic]

    def _of_first(self) -> list[Owned]:
        return sorted(
            (owned for owned in self._owned.values() if owned.partition.topic == self._seat.first), key=lambda owned: owned.partition.number
        )

    # --- companions ---------------------------------------------------------------------------------------------------------------------

    def _take_up(self, wire: Wire) -> None:
        """Read the companions in which the group has begun."""
        counts = wire.exchange([("HGET", names.TOPICS, topic) for topic in self._seat.awaited])
        raise_first(counts)
        for topic, count in zip(list(self._seat.awaited), counts, strict=True):
            if count is not None and self._has_begun(wire, topic, int(count)):
                self._seat.awaited.remove(topic)
                self._seat.topics[topic] = int(count)

    def _has_begun(self, wire: Wire, topic: str, count: int) -> bool:
        """A companion that is just being made has streams without the group, or not all of its streams."""
        replies = wire.exchange([("XINFO", "GROUPS", names.stream(Partition(topic, number))) for number in range(count)])
        wanted = self._group.encode()
        return all(not isinstance(reply, ResponseError) and any(wanted in group for group in reply) for reply in replies)

    def _take_companions(self, wire: Wire, now: float) -> None:
        for topic, count in list(self._seat.topics.items())[1:]:
            for chief in self._of_first():
                partition = Partition(topic, chief.partition.number)
                may_take = chief.give_back_by is None and not self._seat.leaving and partition.number < count
                if may_take and partition not in self._owned and self._owned.get(chief.partition) is chief:
                    self._take_companion(wire, now, chief, partition)

    def _take_companion(self, wire: Wire, now: float, chief: Owned, partition: Partition) -> None:
        if not self._acquire(wire, partition, chief):
            self._seat.waiting(now)

    # --- taking -------------------------------------------------------------------------------------------------------------------------

    def _take(self, wire: Wire, now: float) -> None:
        mine = self._of_first()
        missing = self._seat.share() - len([owned for owned in mine if owned.give_back_by is None])
        if missing <= 0:
            return
        candidates = self._seat.candidates([owned.partition.number for owned in mine])
        owners = wire.exchange([("GET", names.lease(partition, self._group)) for partition in candidates])
        raise_first(owners)
        free = [partition for partition, owner in zip(candidates, owners, strict=True) if owner is None]
        for partition in free[:missing]:
            missing -= self._acquire(wire, partition)
        if missing:
            self._seat.waiting(now)

    def _acquire(self, wire: Wire, partition: Partition, chief: Owned | None = None) -> bool:
        """Take it if it is free. chief: who takes a companion must hold this; it is renewed after, so that it lapses later."""
        known = self._known.get(partition, START)
        again = b""
        answer, sent = self._try(wire, partition, known, chief)
        if answer[0] == b"gone":
            again = self._restore(wire, partition)
            answer, sent = self._try(wire, partition, again or known, chief)
        if answer[0] != b"got":
            return False
        self._got(partition, answer, sent, again)
        return True

    def _try(self, wire: Wire, partition: Partition, known: bytes, chief: Owned | None) -> tuple[Any, float]:
        """(what `acquire.lua` says, when it was sent)."""
        group = self._group
        lease, ownership = names.lease(partition, group), names.ownership(partition, group)
        keys = (names.stream(partition), lease, ownership, names.fences(partition, group))
        call = self._scripts.acquire.call(keys, self._seat.member, self._group, self._seat.lease_ms, known)
        sent = time.monotonic()
        if chief is None:
            return wire.call(*call), sent
        replies = wire.exchange([call, self._renew_call(chief)])
        raise_first(replies)
        answer, renewed = replies
        if renewed != 1:
            if answer[0] == b"got":
                _, epoch, clean = answer[:3]
                taken = (lease, names.fence(partition, group, int(epoch)), ownership)
                self._send(self._scripts.release.call(taken, b"%s|%s" % (self._seat.member, epoch), clean))
            self.lose(chief)
            answer = [b"held"]
        return answer, sent

    def _got(self, partition: Partition, answer: list[Any], sent: float, again: bytes) -> None:
        _, epoch, clean, blob, delivered, oldest, last, skipped, added, read = answer
        owned = Owned(partition, self._group, self._seat.member, int(epoch), delivered, blob)
        owned.read_so_far = _read_so_far(position_of(delivered), position_of(last), added, read)
        position = min(owned.expected, position_of(oldest)) if oldest else owned.expected
        self._owned[partition] = owned
        end = position_of(last) + 1
        self._put(Assigned(partition, owned.epoch, position, blob, self._seat.valid_until(sent), clean == b"1", end))
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
        raise_first(replies)
        found: bytes = replies[1][1]
        return found

    # --- retention ----------------------------------------------------------------------------------------------------------------------

    @property
    def _trim_every_s(self) -> float:
        least, most = TRIMS
        return max(least, min(most, self._keep_s / 4))

    def _trim(self, wire: Wire) -> None:
        before_ms = int(self._seat.server_ms - self._keep_s * 1000)
        keys = [(owned.stream, *names.instances(owned.partition)) for owned in self._owned.values()]
        raise_first(wire.exchange([self._scripts.trim.call(each, before_ms) for each in keys]))


def lost_before(scripts: Scripts, wire: Wire, owned: Owned, group: str) -> Callable[[bytes], bool]:
    """Between numbers of the SDK and those of a foreign producer only the server's counters tell whether an entry is missing."""

    def lost_before(stream_id: bytes) -> bool:
        state = wire.call(*scripts.state.call((owned.stream, owned.ownership), group))
        if not state or state[0] != stream_id:
            return False  # an older entry still stands before it, or it is gone too
        length, added = state[2], state[3]
        return bool(owned.read_so_far < 0 or added - length > owned.read_so_far)

    return lost_before


def _read_so_far(delivered: int, last: int, added: int, read: int) -> int:
    """Entries that were stored up to the one delivered last; -1 when the server does not know."""
    if not delivered:
        return 0
    return added - (last - delivered) if era_of(delivered) == era_of(last) else read


def raise_first(replies: list[Any]) -> None:
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise reply
