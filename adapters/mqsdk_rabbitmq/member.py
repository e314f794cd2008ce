"""One consumer as the server sees it: a connection, a slot for every partition, and what it knows of the group's other members.

Partition p of the topic and of its companions go as one: shares are counted in the topic's alone. Everything runs on the loop's thread;
what layer 2 is to hear goes into the inbox.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import pika

from mqsdk.spi import BackendError, ConsumerEvent, Gap, Link, Partition, Revoking, Subscription
from mqsdk_rabbitmq import names
from mqsdk_rabbitmq.companions import Companions
from mqsdk_rabbitmq.errors import NOT_FOUND
from mqsdk_rabbitmq.gossip import Gossip
from mqsdk_rabbitmq.owned import Gained, Owned
from mqsdk_rabbitmq.peers import BEGUN
from mqsdk_rabbitmq.repairs import Repairs
from mqsdk_rabbitmq.session import Dialer
from mqsdk_rabbitmq.slot import AGAIN_S, Slot
from mqsdk_rabbitmq.teller import Teller
from mqsdk_rabbitmq.wire import Connection, Loop, Wire

TICK_S = 0.1
NOTE_EVERY_S = 1.0
HANDOVER_LEASES = 3  # how many leases a revoked owner may take to finish what runs
MAX_PASSES = 20  # a token nobody takes is taken, whatever the shares say
CLEAN_CLOSE_S = 3.0


class Inbox(Protocol):
    """What the consumer of layer 2 gives: called on the loop's thread."""

    def put(self, event: ConsumerEvent) -> None: ...
    def gained(self, gained: Gained) -> None: ...
    def dropped(self, owned: Owned, is_lost: bool) -> None: ...
    def look(self) -> None: ...
    def is_frozen(self, now: float) -> bool: ...


class Hub:
    """partitions: of the topic. targets: where to connect, with `heartbeat_s`."""

    def __init__(
        self,
        dialer: Dialer,
        subscription: Subscription,
        partitions: int,
        inbox: Inbox,
        targets: Sequence[pika.ConnectionParameters],
        heartbeat_s: int,
    ) -> None:
        settings = dialer.settings
        self.group = subscription.group
        self.prefetch = settings.own.prefetch
        self.is_quorum = settings.own.queues == "quorum"
        self.heartbeat_s = heartbeat_s
        self.done = threading.Event()
        self._id = f"{time.time_ns() // 1_000_000:013x}-{secrets.token_hex(4)}"  # in order of joining
        self._inbox = inbox
        self._lease_s = subscription.lease_s
        self._topic = subscription.topics[0]
        self._chiefs = [Slot(self, Partition(self._topic, number)) for number in range(partitions)]
        self._slots = {slot.partition: slot for slot in self._chiefs}  # also of companions, once they were found
        self._passes: dict[Partition, int] = {}
        self._control: Any = None
        self._is_leaving = self._is_closing = self._is_frozen = False
        self._is_up = True
        self._note_at = 0.0
        self.loop = Loop(f"consume-{self.group}")
        self.loop.broken = self._broken
        self._wire = Wire(self.loop, dialer.cluster, settings, targets, self._connected, self._went_down)
        self.teller = Teller(self.loop, dialer.cluster, settings, targets)
        self._gossip = Gossip(self._id, subscription.instance, self.group, self._topic, partitions, self.teller, self._held_of)
        self._repairs = Repairs(dialer, self.loop, self.group, self._repaired)
        self._companions = Companions(dialer, self.loop, self.group, subscription.topics[1:], self._found)
        self.loop.call(self._begin)
        self.loop.start()

    def _begin(self) -> None:
        self._wire.open()
        self.teller.open()
        self._tick()

    # --- what slots use -----------------------------------------------------------------------------------------------------------------

    @property
    def connection(self) -> Connection | None:
        return self._wire.connection if self._control is not None else None

    def put(self, event: ConsumerEvent) -> None:
        self._inbox.put(event)

    def later(self, delay_s: float, work: Callable[[], None]) -> None:
        self.loop.later(delay_s, work)

    def gained(self, owned: Owned, is_clean: bool, has_gap: bool) -> None:
        self._passes.pop(owned.partition, None)
        self._inbox.gained(Gained(owned, is_clean, has_gap))
        self._gossip.changed()

    def dropped(self, owned: Owned, is_lost: bool) -> None:
        self._inbox.dropped(owned, is_lost)

    def offered(self, slot: Slot) -> None:
        """The token has come: take it, or let it go on to a member that owns less than its share."""
        if slot.state != "waiting" or not slot.has_token:
            return
        if self._is_leaving or self._is_frozen:
            slot.pass_on()
            return
        peers, owned = self._gossip.peers, sum(chief.is_busy for chief in self._chiefs)
        passes = self._passes.get(slot.partition, 0)
        if slot.chief is not None or owned < peers.share(owned) or not peers.somebody_wants(owned) or passes >= MAX_PASSES:
            slot.claim()
        else:
            self._passes[slot.partition] = passes + 1
            slot.pass_on()

    def is_out(self, slot: Slot) -> None:
        self._gossip.changed()
        if self._is_closing:
            self._close_when_out()
        elif not (self._is_leaving or self._is_frozen) and slot.partition not in self._repairs:
            passes = self._passes.get(slot.partition, 0)
            self.later(min(AGAIN_S, 0.005 * passes), slot.join)

    def failed(self, slot: Slot, error: Exception) -> None:
        """The server has ended a channel that was in use."""
        if getattr(error, "reply_code", 0) == NOT_FOUND:
            self.repair(slot)
        elif slot.state == "owned":
            slot.end(hand_back=False, is_lost=True)
        elif self._wire.connection is not None:
            # What could be refused was not there at the start: begin anew, with the pauses of a reconnect.
            self._wire.cut(error)

    def repair(self, slot: Slot) -> None:
        """A queue of the partition is not there any more: declare it again, and let whoever owns the partition know what that means."""
        if slot.partition not in self._repairs and not self._is_closing:
            self._repairs.begin(slot)

    def _repaired(self, slot: Slot, failure: BackendError | None) -> None:
        if failure is not None and self._wire.connection is not None:
            self._wire.cut(failure)
        elif slot.state == "out" and not self._is_leaving and not self._is_frozen:
            slot.join()

    # --- what the consumer uses, by `loop.call` -----------------------------------------------------------------------------------------

    def slot(self, partition: Partition) -> Slot:
        return self._slots[partition]

    def leave_group(self) -> None:
        """Layer 2 has handed something back unasked: it is about to leave, and gets nothing any more."""
        if not self._is_leaving:
            self._is_leaving = self._gossip.is_quiet = True
            self._gossip.bye()
            for slot in self._slots.values():
                if slot.state in ("waiting", "claiming"):
                    slot.leave()

    def thaw(self) -> None:
        if self._is_frozen:
            self._is_frozen = False
            self._gossip.is_quiet = self._is_leaving
            self._begin_anew()

    def close(self, deadline: float) -> None:
        """Hand everything back in order, then end the connection; whatever is not done by the deadline ends with the sockets."""
        if self._is_closing:
            return
        self.leave_group()
        self._is_closing = True
        self.later(max(0.0, min(deadline - time.monotonic(), CLEAN_CLOSE_S)), self._close_now)
        for slot in list(self._slots.values()):
            slot.leave()
        self._close_when_out()

    def _close_when_out(self) -> None:
        if self._is_closing and all(slot.state == "out" for slot in self._slots.values()):
            self.teller.close(lambda: self._wire.close(self.done.set))

    def _close_now(self) -> None:
        if not self.done.is_set():
            for wire in (self.teller, self._wire):
                wire.close()
                wire.cut(ConnectionError("closed"))
            self.done.set()

    def crash(self) -> None:
        """As a kill of the process."""
        self._is_closing = True
        for wire in (self._wire, self.teller):
            wire.cut(ConnectionError("crashed"))
        self._close_when_out()

    def vanish(self) -> None:
        """In a forked child."""
        self._wire.vanish()
        self.teller.vanish()
        self.loop.vanish()

    # --- the link -----------------------------------------------------------------------------------------------------------------------

    def _connected(self, connection: Connection) -> None:
        connection.on_chunk = self._inbox.look
        connection.channel(on_open_callback=self._control_opened)

    def _control_opened(self, channel: Any) -> None:
        inbox = names.inbox(self._id)
        channel.add_on_close_callback(self._control_closed)
        channel.queue_declare(inbox, exclusive=True, auto_delete=False)
        channel.basic_consume(inbox, self._note_came, auto_ack=True, exclusive=True)
        self._enlist(channel, self._topic, lambda _: self._ready(channel))

    def _enlist(self, channel: Any, topic: str, done: Callable[[Any], None] | None = None) -> None:
        """Be a member of the group in this topic: to be counted, and to be told what is told to all."""
        members = names.members(topic, self.group)
        channel.queue_bind(names.inbox(self._id), members)
        channel.basic_consume(members, lambda *_: None, consumer_tag=f"{self._id}.{topic}"[:255], callback=done)

    def _ready(self, channel: Any) -> None:
        self._control = channel
        if not self._is_up:
            self._is_up = True
            self.put(Link(up=True))
        self._begin_anew()

    def _begin_anew(self) -> None:
        if not (self._is_leaving or self._is_frozen):
            self._gossip.hello()
            for slot in self._chiefs:
                slot.join()
            self._companions.look()

    def _found(self, topics: Mapping[str, int]) -> bool:
        """The group has begun in companions."""
        if self._control is None or self._is_closing:
            return False
        for topic, count in topics.items():
            self._gossip.beside.add(topic)
            self._enlist(self._control, topic)
            for chief in self._chiefs[:count]:
                slot = self._slots.setdefault(where := Partition(topic, chief.partition.number), Slot(self, where, chief))
                chief.beside.append(slot)
                if not (self._is_leaving or self._is_frozen):
                    slot.join()
        return True

    def _control_closed(self, _: Any, error: Exception) -> None:
        self._control = None
        if self._wire.connection is not None and self._wire.connection.is_open:
            self._wire.cut(error)

    def _went_down(self, error: BackendError, _: bool) -> None:
        self._control = None
        for slot in self._slots.values():
            slot.reset()
            slot.beside.clear()
        self._gossip.forget()
        self._companions.forget()
        if self._is_closing:
            self.done.set()
        elif self._is_up:
            self._is_up = False
            self.put(Link(up=False, error=error))

    def _broken(self, error: Exception) -> None:
        self._wire.cut(error)
        self.later(TICK_S, self._tick)

    # --- the group ----------------------------------------------------------------------------------------------------------------------

    def _held_of(self, topic: str) -> dict[int, int]:
        """Partition -> deliveries held, of those that it owns."""
        mine = [slot for partition, slot in self._slots.items() if partition.topic == topic and slot.is_busy]
        return {slot.partition.number: slot.owned.unsettled if slot.owned is not None else 0 for slot in mine}

    def _note_came(self, _: Any, __: Any, ___: Any, body: bytes) -> None:
        kind = self._gossip.heard(body)
        if kind == BEGUN:
            self._companions.look()
        elif kind is not None:
            self._balance()

    def _balance(self) -> None:
        """Ask layer 2 for what is over this member's share, if another one is short of it."""
        if self._is_leaving or self._is_frozen:
            return
        peers = self._gossip.peers
        mine = [slot for slot in self._chiefs if slot.is_busy]
        kept = [slot for slot in mine if slot.revoke_by is None]
        surplus = len(kept) - peers.share(len(mine))
        if surplus > 0 and peers.somebody_wants(len(mine)):
            for slot in [slot for slot in reversed(kept) if slot.state == "owned"][:surplus]:
                self.revoke(slot)

    def revoke(self, slot: Slot) -> None:
        """Ask layer 2 to hand the partition back, with that of the topic or of the companions."""
        chief = slot.chief or slot
        revoke_by = time.monotonic() + HANDOVER_LEASES * self._lease_s
        for one in (chief, *chief.beside):
            if one.owned is not None:
                one.revoke_by = revoke_by
                self.put(Revoking(one.partition, one.owned.epoch, revoke_by))
            else:
                one.leave()

    # --- time ---------------------------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        if self.done.is_set():
            return
        self.later(TICK_S, self._tick)
        now = time.monotonic()
        connection = self._wire.connection
        if connection is not None and 0 < connection.heard < now - 2 * self.heartbeat_s:
            self._wire.cut(TimeoutError("the server is not heard of"))
            return
        if not self._is_frozen and self._inbox.is_frozen(now):
            self._freeze()
        for slot in self._slots.values():
            if slot.revoke_by is not None and now > slot.revoke_by:
                slot.end(hand_back=False, is_lost=True)
        if now >= self._note_at:
            self._note_at = now + NOTE_EVERY_S
            self._gossip.changed()
            self._balance()

    def _freeze(self) -> None:
        """Layer 2 shows no life: what it owns goes to others."""
        self._is_frozen = self._gossip.is_quiet = True
        self._gossip.bye()
        for slot in self._slots.values():
            if slot.state == "owned":
                slot.end(hand_back=False, is_lost=True)
            else:
                slot.leave()


def gap(owned: Owned) -> Gap:
    """Nobody knows how many: at least one, before everything that is there now."""
    return Gap(owned.partition, owned.epoch, 0, 1, "truncated")
