"""One partition of one instance of a broadcast: a queue of its own, and what was received from it and is not settled.

Positions count what was received, and stay what they are when the connection is made anew: the server then delivers again what it does not
know to be acknowledged, in order, and that is recognized and passed over. So nothing comes twice, and nothing is missed. What an instance
holds it can also give to the consumer that takes its place in the process.
"""

from __future__ import annotations

from collections import deque
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from mqsdk.spi import Partition, Progress, Settled
from mqsdk_rabbitmq.frames import Assembly
from mqsdk_rabbitmq.owned import FIRST, Owned
from mqsdk_rabbitmq.records import Delivery, RabbitRecord
from mqsdk_rabbitmq.slot import NO_SUCH_TAG, never, window

if TYPE_CHECKING:
    from mqsdk_rabbitmq.instance import Instance

EPOCH = 1  # nobody else ever owns it


class Held:
    """Received, and not known to be acknowledged. tag: of the channel that is open now, 0 before it has come by that."""

    __slots__ = ("delivery", "position", "tag")

    def __init__(self, position: int, delivery: Delivery) -> None:
        self.position = position
        self.tag, *_ = delivery
        self.delivery = delivery

    def is_again(self, delivery: Delivery) -> bool:
        """The same message, as far as can be told: the server writes into the headers of one that comes again."""
        if self.delivery[3] != delivery[3]:
            return False
        mine, other = (RabbitRecord(0, False, properties, b"") for properties in (self.delivery[2], delivery[2]))
        return (mine.id, mine.timestamp_ms, mine.key) == (other.id, other.timestamp_ms, other.key)


class Feed:
    """On the loop's thread of the instance that has it, but for `begin`, before there is one."""

    def __init__(self, partition: Partition, queue: str) -> None:
        self.partition = partition
        self.queue = queue
        self.owned = Owned(partition, EPOCH)
        self._instance: Instance | None = None
        self._channel: Any = None
        self._held: deque[Held] = deque()
        self._expected: deque[Held] = deque()  # what may come again over this channel
        self._is_first = True  # of this channel: nothing has come yet
        self._next = FIRST
        self._settled = FIRST - 1  # every position up to here
        self._acknowledged = 0  # of this channel: position up to which that was sent
        self._largest = self._prefetch = 0

    def begin(self, instance: Instance, position: int | None) -> Owned:
        """instance: whose it is from now on. position: where that one goes on; None at the end."""
        self._instance = instance
        self._channel = None
        self._settled = self._next - 1 if position is None else min(max(self._settled, position - 1), self._next - 1)
        self.owned = Owned(self.partition, EPOCH, self._settled + 1)
        self.owned.buffer.extend((held.position, *held.delivery[1:]) for held in self._held if held.position > self._settled)
        return self.owned

    @property
    def is_new(self) -> bool:
        """No instance has had it."""
        return self._instance is None

    # --- the channel --------------------------------------------------------------------------------------------------------------------

    def consume(self) -> None:
        """It does so from the start on, whatever the credit: a queue without a consumer would expire."""

    def attach(self) -> None:
        connection = self._instance.connection if self._instance is not None else None
        if connection is not None:
            connection.channel(on_open_callback=self._opened)

    def detach(self) -> None:
        """The connection is gone."""
        self._channel = None

    def _opened(self, channel: Any) -> None:
        assert self._instance is not None
        if self._channel is not None:  # asked for twice: after its own end, and by a new connection
            channel.close()
            return
        self._channel = channel
        self._expected = deque(self._held)
        self._is_first, self._acknowledged = True, 0
        for held in self._held:
            held.tag = 0
        self._prefetch = window(self._instance.prefetch, self._largest)
        channel.add_on_close_callback(self._closed)
        channel.add_on_cancel_callback(lambda _: self._vanished())
        channel.basic_qos(prefetch_count=self._prefetch)
        channel.connection.deliver_to(channel.channel_number, Assembly(lambda delivery: self._came(channel, delivery)))
        channel.basic_consume(self.queue, never)

    def _closed(self, channel: Any, error: Exception) -> None:
        channel.connection.deliver_to(channel.channel_number, None)
        if channel is self._channel and channel.connection.is_open:
            self._channel = None
            assert self._instance is not None
            self._instance.failed(self, error)

    def _vanished(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None and self._instance is not None:
            channel.close()
            self._instance.repair(self)

    def missed(self) -> int:
        """The queue was gone, and what it had with it: the position that stands for that."""
        position = self._next
        self._next += 1
        return position

    # --- deliveries ---------------------------------------------------------------------------------------------------------------------

    def _came(self, channel: Any, delivery: Delivery) -> None:
        if channel is not self._channel:
            return
        tag, redelivered, properties, body = delivery
        held = self._again(delivery) if self._expected else None
        if held is None:
            held = Held(self._next, delivery)
            self._next += 1
            self._held.append(held)
            self.owned.buffer.append((held.position, redelivered, properties, body))
            self._larger(len(body))
        held.tag = tag
        if held.position <= self._settled:
            self._acknowledge(held)

    def _again(self, delivery: Delivery) -> Held | None:
        """What comes again; None for a message that is new, as all are that follow it."""
        expected = self._expected
        if self._is_first:
            # The server may have taken acknowledgements whose answers were lost: then it begins behind what they were for. In doubt as
            # few as can be are taken for known: one too many would be lost, one too few comes twice.
            settled = sum(held.position <= self._settled for held in expected)
            found = [index for index, held in enumerate(expected) if index <= settled and held.is_again(delivery)]
            for _ in range(found[-1] if found else len(expected)):
                expected.popleft()
        self._is_first = False
        if delivery[1] and expected and expected[0].is_again(delivery):
            return expected.popleft()
        expected.clear()
        return None

    def _larger(self, size: int) -> None:
        """A window that turns out too wide is narrowed by another consumer."""
        if size > self._largest:
            self._largest = size
            if window(self._prefetch, size) < self._prefetch:
                self._prefetch = window(self._prefetch, size)
                self._channel.basic_ack(NO_SUCH_TAG)  # ends the channel

    # --- settling -----------------------------------------------------------------------------------------------------------------------

    def settle(self, owned: Owned, progress: Progress, delivered: int) -> None:
        """Nobody keeps it, so there is nothing to wait for; the acknowledgement makes room."""
        assert self._instance is not None
        self._instance.put(Settled(progress.partition, progress.epoch, progress.token, "stored" if owned is self.owned else "stale"))
        self._settled = max(self._settled, min(progress.watermark - 1, delivered))
        done = [held for held in takewhile(lambda held: held.position <= self._settled, self._held) if held.tag]
        if done:
            self._acknowledge(done[-1])

    def _acknowledge(self, held: Held) -> None:
        """Up to here. It is known to be taken when the server has answered what came after it."""
        if self._channel is None or not self._channel.is_open or held.position <= self._acknowledged:
            return
        self._acknowledged = held.position

        def taken(_: object) -> None:
            while self._held and self._held[0].position <= held.position:
                self._held.popleft()

        self._channel.basic_ack(held.tag, multiple=True)
        self._channel.basic_qos(prefetch_count=self._prefetch, callback=taken)
