"""One partition as one member sees it: waiting for its token, claiming it, owning the partition, handing it back.

Everything runs on the loop's thread. An ownership ends in one order, whatever ends it: the channel of deliveries first, so that what is
unsettled stands in the queue again, then the same partition of the companions, which only who owns the topic's stands in line for, then the
token.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from mqsdk.spi import Partition, Progress, Settled
from mqsdk_rabbitmq import names
from mqsdk_rabbitmq.frames import Assembly
from mqsdk_rabbitmq.owned import Owned
from mqsdk_rabbitmq.records import Delivery
from mqsdk_rabbitmq.token import Token

if TYPE_CHECKING:
    from mqsdk_rabbitmq.member import Hub

TOKENS = 100  # prefetch of an owner queue, which holds one message or two
NO_SUCH_TAG = (1 << 63) - 1
# Acknowledgements reach a quorum queue behind the channel's back; the end of the channel must not overtake them.
QUORUM_ACK_S = 0.2
AGAIN_S = 0.05
WINDOW_BYTES = 256 << 20  # of deliveries held here unsettled, of one partition

State = Literal["out", "waiting", "claiming", "owned", "ending"]


class Slot:
    """chief: of a companion, the slot of the topic's partition. beside: of the topic's partition, those of the companions."""

    def __init__(self, hub: Hub, partition: Partition, chief: Slot | None = None) -> None:
        self.partition = partition
        self.chief = chief
        self.beside: list[Slot] = []
        self.state: State = "out"
        self.owned: Owned | None = None
        self.revoke_by: float | None = None
        self._hub = hub
        self._queue = names.queue(partition, hub.group)
        self._owner_queue = names.owner(partition, hub.group)
        self._channel: Any = None  # of the token
        self._data: Any = None  # of the deliveries
        self._tokens: list[tuple[int, Token]] = []  # held, unacknowledged
        self._written: Token | None = None  # the newest that this member has put
        self._line = 0  # counts how often it has stood in line
        self._is_stored = self._has_come = False
        self._hand_back = self._has_data_ended = False
        self._acked_at = 0.0
        self._largest = 0  # body seen, also by earlier ownerships
        self._prefetch = 0
        self._awaited: list[int] = []  # tokens of settles whose acknowledgements the server has not answered

    @property
    def is_busy(self) -> bool:
        """Counts as owned when shares are counted."""
        return self.state in ("claiming", "owned")

    @property
    def is_kept(self) -> bool:
        """Owned, and nobody has asked for it: companions may follow."""
        return self.state == "owned" and self.revoke_by is None

    @property
    def has_token(self) -> bool:
        return bool(self._tokens)

    # --- waiting ------------------------------------------------------------------------------------------------------------------------

    def join(self) -> None:
        """Stand in line for the token."""
        connection = self._hub.connection
        if self.state != "out" or connection is None or (self.chief is not None and not self.chief.is_kept):
            return
        self.state = "waiting"
        self._tokens, self._written = [], None
        self._line += 1
        line = self._line
        connection.channel(on_open_callback=lambda channel: self._opened(channel, line))

    def _opened(self, channel: Any, line: int) -> None:
        if self.state != "waiting" or line != self._line:
            channel.close()
            return
        self._channel = channel
        channel.add_on_close_callback(self._owner_closed)
        channel.add_on_cancel_callback(lambda _: self._hub.repair(self))
        channel.basic_qos(prefetch_count=TOKENS)
        channel.basic_consume(self._owner_queue, self._token_came)

    def _token_came(self, channel: Any, method: Any, _: Any, body: bytes) -> None:
        if channel is not self._channel:
            return
        token = Token.parse(body)
        self._tokens.append((method.delivery_tag, token))
        if self._written is not None and token.nonce == self._written.nonce:
            self._has_come = True
            self._written_or_not()
        elif self.state == "waiting":
            self._hub.offered(self)
        elif self.state == "owned":
            self._another(method.delivery_tag, token)

    def pass_on(self) -> None:
        """Let the next in line have it, and go to the end of the line."""
        self._leave_line()

    def _leave_line(self) -> None:
        channel, self._channel = self._channel, None
        self.state = "ending"
        self._tokens = []
        if channel is not None and channel.is_open:
            channel.add_on_close_callback(lambda *_: self._out())
            channel.close()
        else:
            self._out()

    def leave(self) -> None:
        """Whatever the state: hand back in order, or stand in line no more."""
        if self.state == "owned":
            self.end(hand_back=True, is_lost=True)
        elif self.state in ("waiting", "claiming"):
            self._leave_line()

    # --- owning -------------------------------------------------------------------------------------------------------------------------

    def claim(self) -> None:
        """Write a newer token; the partition is owned when it is stored and has come, behind everything that stood before it."""
        self.state = "claiming"
        best = max((token for _, token in self._tokens), key=lambda token: token.rank)
        self._write(best.claimed())

    def _write(self, token: Token) -> None:
        self._written, self._is_stored, self._has_come = token, False, False

        def told(result: str) -> None:
            if self._written is not token or self.state not in ("claiming", "ending"):
                return
            if result == "stored":
                self._is_stored = True
                self._written_or_not()
            elif result == "failed":
                self._hub.later(AGAIN_S, lambda: self._write_again(token))

        self._hub.teller.tell("", self._owner_queue, token.encode(), told, durable=True)

    def _write_again(self, token: Token) -> None:
        if self._written is token and self.state in ("claiming", "ending"):
            self._write(token)

    def _written_or_not(self) -> None:
        if not (self._is_stored and self._has_come) or self._written is None:
            return
        mine = self._written
        if self.state == "claiming" and any(token.epoch >= mine.epoch and token.nonce != mine.nonce for _, token in self._tokens):
            self.claim()
            return
        others = [token for _, token in self._tokens if token.nonce != mine.nonce]
        self._keep_only(mine)
        if self.state == "claiming":
            self.state = "owned"
            self.owned = Owned(self.partition, mine.epoch)
            is_clean = max(others, key=lambda token: token.rank).clean
            self._hub.gained(self.owned, is_clean, any(token.gap for token in others))
            for companion in self.beside:
                companion.join()
        elif self.state == "ending":
            self._leave_line()

    def _keep_only(self, mine: Token) -> None:
        for tag, token in self._tokens:
            if token.nonce != mine.nonce:
                self._channel.basic_ack(tag)
        self._tokens = [(tag, token) for tag, token in self._tokens if token.nonce == mine.nonce]

    def _another(self, tag: int, token: Token) -> None:
        """A token beside the owner's own: an older one, or one that says that messages are gone. That begins a new ownership."""
        if token.gap:
            self.end(hand_back=False, is_lost=True)
        else:
            self._channel.basic_ack(tag)
            self._tokens = [(held, other) for held, other in self._tokens if held != tag]

    # --- deliveries ---------------------------------------------------------------------------------------------------------------------

    def consume(self) -> None:
        """The first credit is there."""
        connection = self._hub.connection
        if self.state == "owned" and self._data is None and connection is not None:
            owned = self.owned
            connection.channel(on_open_callback=lambda channel: self._data_opened(channel, owned))

    def _data_opened(self, channel: Any, owned: Owned | None) -> None:
        if owned is None or owned is not self.owned or self.state != "owned":
            channel.close()
            return
        self._data = channel
        self._prefetch = window(self._hub.prefetch, self._largest)
        buffer = owned.buffer

        def came(delivery: Delivery) -> None:
            buffer.append(delivery)
            if len(delivery[3]) > self._largest:
                self._larger(len(delivery[3]))

        channel.add_on_close_callback(self._data_closed)
        channel.add_on_cancel_callback(lambda _: self._hub.repair(self))
        channel.basic_qos(prefetch_count=self._prefetch)
        channel.connection.deliver_to(channel.channel_number, Assembly(came))
        channel.basic_consume(self._queue, never)

    def _larger(self, size: int) -> None:
        """A window that turns out too wide is only narrowed by a new consumer: the partition is handed back in order, and taken again."""
        self._largest = size
        if self._prefetch * size > WINDOW_BYTES and self._prefetch > 1 and self.revoke_by is None:
            self._hub.revoke(self)

    def settle(self, owned: Owned, progress: Progress, delivered: int) -> None:
        """Acknowledge, and answer when the server has taken it."""
        partition, epoch, token = progress.partition, progress.epoch, progress.token
        if owned is not self.owned or self.state != "owned":
            self._hub.put(Settled(partition, epoch, token, "stale"))
            return
        acks = owned.acks(progress.watermark, progress.done, delivered)

        def taken(_: object = None) -> None:
            if token in self._awaited:
                self._awaited.remove(token)
                self._hub.put(Settled(partition, epoch, token, "stored"))
                if progress.final:
                    self.end(hand_back=True, is_lost=False)

        self._awaited.append(token)
        if not acks or self._data is None or not self._data.is_open:
            taken()
            return
        for tag, multiple in acks:
            self._data.basic_ack(tag, multiple)
        self._acked_at = time.monotonic()
        # The server works a channel off in order: its answer to this, which changes nothing, says that it has the acknowledgements.
        self._data.basic_qos(prefetch_count=self._prefetch, callback=taken)

    # --- ending -------------------------------------------------------------------------------------------------------------------------

    def end(self, hand_back: bool, is_lost: bool) -> None:
        """hand_back: in order, so that the next owner is told so. is_lost: layer 2 does not know yet, and loses the companions too."""
        if self.state != "owned":
            return
        self.state = "ending"
        self._hand_back, self._has_data_ended = hand_back, False
        self._drop(is_lost)
        for companion in self.beside:
            if is_lost:
                companion.end(hand_back, is_lost)
            if companion.state != "owned":
                companion.leave()
        wait_s = self._acked_at + QUORUM_ACK_S - time.monotonic() if hand_back and self._hub.is_quorum else 0.0
        if wait_s > 0:
            self._hub.later(wait_s, self._end_data)
        else:
            self._end_data()

    def _end_data(self) -> None:
        """By an error of the channel: the server puts everything back in order then; closing it in order, it would not (quorum queues)."""
        if self.state != "ending":
            return
        if self._data is not None and self._data.is_open:
            self._data.basic_ack(NO_SUCH_TAG)
        else:
            self._end_token()

    def _data_closed(self, channel: Any, error: Exception) -> None:
        if channel is not self._data:
            return
        self._data = None
        channel.connection.deliver_to(channel.channel_number, None)
        if not channel.connection.is_open:
            return  # `reset` follows
        if self.state == "ending":
            self._end_token()
        elif self.state == "owned":
            self._hub.failed(self, error)

    def _end_token(self) -> None:
        """Not before the companions are out: who gets the token may take them."""
        self._has_data_ended = True
        if any(companion.state != "out" for companion in self.beside):
            return
        if self._hand_back and self._written is not None and self._channel is not None:
            self._write(self._written.handed_back())
        else:
            self._leave_line()

    def _owner_closed(self, channel: Any, error: Exception) -> None:
        if channel is not self._channel:
            return
        self._channel = None
        if channel.connection.is_open and self.state in ("waiting", "claiming", "owned"):
            self._hub.failed(self, error)

    def _out(self) -> None:
        if self.state == "ending":
            self.state = "out"
            self._written = None
            self._hub.is_out(self)
            if self.chief is not None and self.chief.state == "ending" and self.chief._has_data_ended:
                self.chief._end_token()

    def reset(self) -> None:
        """The connection is gone, and everything with it."""
        self._channel = self._data = None
        self._tokens, self._written = [], None
        self.state = "out"
        self._drop(is_lost=True)

    def _drop(self, is_lost: bool) -> None:
        owned, self.owned = self.owned, None
        self.revoke_by = None
        if owned is None:
            return
        owned.is_alive = False
        awaited, self._awaited = self._awaited, []
        for token in awaited:
            self._hub.put(Settled(self.partition, owned.epoch, token, "stale"))
        self._hub.dropped(owned, is_lost)


def window(prefetch: int, largest: int) -> int:
    """The server counts deliveries and knows no bytes: so many of the largest seen fit into the bound."""
    return max(1, min(prefetch, WINDOW_BYTES // max(1, largest)))


def never(*_: object) -> None:
    """The client asks for a callback; deliveries go past it."""
