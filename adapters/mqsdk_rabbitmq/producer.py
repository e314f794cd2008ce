"""Publishing: records go over one connection of their own, many in flight, each confirmed by the server or answered at its deadline."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from pika import ConnectionParameters, spec

from mqsdk.spi import BackendError, EventSink, Flow, Link, NewRecord, Outcome, Producer, Rejected, Stored, Unknown
from mqsdk_rabbitmq.errors import closed, is_fatal, rejection
from mqsdk_rabbitmq.outbox import Answerer, Entry, Unconfirmed, Window
from mqsdk_rabbitmq.records import TooLarge
from mqsdk_rabbitmq.routes import CHANNEL, Routes
from mqsdk_rabbitmq.session import Dialer
from mqsdk_rabbitmq.wire import Connection, Loop, Wire

MAX_PAYLOAD = 16 << 20  # `max_message_size` of RabbitMQ 4; 128 MiB before
WRITE_BYTES = 1 << 16
TURN_RECORDS = 500  # sent in one go, then the loop reads confirmations
SLACK_S = 0.002
LEAST_CLOSE_S = 0.5

_STORED = Stored()
_LATE = Rejected("throttled", "no time was left before the deadline", retryable=True)
_FULL_WINDOW = Rejected("throttled", "too much is unconfirmed already, and no time was left", retryable=True)
_BLOCKED = Rejected("full", "the server blocks publishers: its memory or its disk is short", retryable=True, fix="let consumers catch up")
_HELD_BACK = Rejected("throttled", "an earlier message of this partition is in doubt", retryable=True)
_SILENT = Unknown("the connection ended before the server answered")
_OVERDUE = Unknown("the server did not answer before the deadline")
_NACKED = Unknown("a queue did not take the message; another one may have")
_NO_GROUP = Rejected("no_group", "no queue takes it: the topic has no group yet, or not this partition", fix="ensure the groups first")
_TOO_LARGE = Rejected("too_large", f"the payload has over {MAX_PAYLOAD} bytes")


class RabbitProducer(Producer):
    """Any thread."""

    def __init__(self, publisher: Publisher, events: EventSink) -> None:
        self._publisher = publisher
        self._events = events

    def publish(self, batch: Sequence[NewRecord], deadline: float) -> None:
        self._publisher.publish(self._events, batch, deadline)


class Publisher:
    """One per opened cluster. `publish` is for any thread; everything else runs on the loop's."""

    def __init__(self, dialer: Dialer, targets: Sequence[ConnectionParameters]) -> None:
        cluster, settings = dialer.cluster, dialer.settings
        self._cluster = cluster
        self.state = "open"
        self._done = threading.Event()
        self._window = Window()
        self._answerer = Answerer(self._window)
        self._sinks: list[EventSink] = []
        self._outbox: deque[Entry] = deque()
        self._sent = Unconfirmed()
        self._channel: Any = None
        self._is_blocked = self._is_flushing = False
        self._is_up = True
        self._timer: object | None = None
        self._timer_at = float("inf")
        self._loop = Loop(f"publish-{cluster}")
        self._wire: Wire = Wire(self._loop, cluster, settings, targets, self._connected, self._went_down, self._blocked)
        self._loop.broken = self._wire.cut
        self._routes = Routes(dialer, self._loop, self._found, self._answerer.answer)
        self._loop.call(self._wire.open)
        self._loop.start()

    def producer(self, events: EventSink) -> RabbitProducer:
        self._sinks.append(events)
        return RabbitProducer(self, events)

    # --- any thread -------------------------------------------------------------------------------------------------------------------

    def publish(self, sink: EventSink, batch: Sequence[NewRecord], deadline: float) -> None:
        """Blocks for room in the window only, and no longer than the deadline. Raises StateError after close."""
        if self.state != "open":
            raise closed(self._cluster, self.state)
        call = object()
        entries = [Entry(record, sink, deadline, call) for record in batch]
        start = 0
        while start < len(entries):
            count = self._window.take(entries, start, deadline)
            if count == 0:
                self._refuse_unheard(entries[start:])
                return
            part = entries[start : start + count]
            self._loop.call(lambda part=part: self._accept(part))  # type: ignore[misc]  # bound now
            start += count

    def _refuse_unheard(self, entries: Sequence[Entry]) -> None:
        """They hold no room."""
        if self.state != "open":
            raise closed(self._cluster, self.state)
        Answerer(Window()).answer(entries, _BLOCKED if self._is_blocked else _FULL_WINDOW)

    def forget(self, topic: str) -> None:
        """It was deleted: another one may have its name by now."""
        self._loop.call(lambda: self._routes.forget(topic))

    def close(self, deadline: float) -> None:
        """What has no answer by the deadline is answered: in doubt where it was sent. Idempotent."""
        if self.state != "open":
            return
        self.state = "closed"
        self._window.close()
        self._loop.call(lambda: self._leave(deadline))
        if not self._done.wait(max(0.0, deadline - time.monotonic()) + LEAST_CLOSE_S):
            self._loop.call(self._end_now)
            self._done.wait(LEAST_CLOSE_S)
        self._loop.stop()

    def vanish(self) -> None:
        """In a forked child: the socket's copy is closed, nothing else happens."""
        self.state = "stale"
        self._wire.vanish()
        self._loop.vanish()

    def crash(self) -> None:
        """As a kill of the process: the socket is cut. For tests of the seam."""
        self.state = "closed"
        self._window.close()
        self._loop.call(self._end_now)
        self._done.wait(LEAST_CLOSE_S)
        self._loop.stop()

    # --- the loop's thread --------------------------------------------------------------------------------------------------------------

    def _accept(self, entries: Sequence[Entry]) -> None:
        self._outbox.extend(entries)
        self._wake_at(min(entry.deadline for entry in entries))
        self._flush()

    def _flush(self) -> None:
        """Send what may be sent."""
        connection = self._wire.connection
        if self._channel is None or connection is None or self._is_blocked:
            return
        now = time.monotonic()
        pieces: list[bytes] = []
        size = 0
        for _ in range(min(len(self._outbox), TURN_RECORDS)):
            entry = self._outbox.popleft()
            frames = self._frames_of(entry, connection, now)
            if frames:
                self._sent.add(entry)
                pieces += frames
                size += entry.size
                if size >= WRITE_BYTES:
                    connection.send_frames(b"".join(pieces))
                    pieces, size = [], 0
        if pieces:
            connection.send_frames(b"".join(pieces))
        if self._outbox and not self._is_flushing:
            self._is_flushing = True
            self._loop.call(self._flush_on)

    def _flush_on(self) -> None:
        self._is_flushing = False
        self._flush()

    def _frames_of(self, entry: Entry, connection: Connection, now: float) -> tuple[bytes, bytes] | None:
        """What goes over the wire for an entry; None where it is answered here, or has to wait for a look at the server."""
        record = entry.record
        outcome: Rejected
        if entry.answered:
            return None
        if entry.deadline <= now:
            outcome = _LATE
        elif len(record.value) > MAX_PAYLOAD:
            outcome = _TOO_LARGE
        else:
            try:
                return self._routes.frames(entry, connection)
            except TooLarge as error:
                outcome = Rejected("too_large", str(error))
            except ValueError as error:
                outcome = Rejected("invalid", str(error))
        self._answerer.answer((entry,), outcome)
        return None

    def _found(self, entries: list[Entry]) -> None:
        """Their topic may be published to."""
        self._outbox.extendleft(reversed(entries))
        self._flush()

    # --- answers ------------------------------------------------------------------------------------------------------------------------

    def _confirmed(self, frame: Any) -> None:
        method = frame.method
        entries = self._sent.confirmed(method.delivery_tag, method.multiple)
        if not isinstance(method, spec.Basic.Ack):
            self._answerer.answer(entries, _NACKED)
        elif any(entry.returned for entry in entries):
            for entry in entries:
                self._answerer.answer((entry,), _NO_GROUP if entry.returned else _STORED)
        else:
            self._answerer.answer(entries, _STORED)

    def _returned(self, _: Any, method: Any, properties: Any, __: bytes) -> None:
        entry = self._sent.returned(properties.message_id, method.exchange, method.routing_key)
        if entry is not None:
            entry.returned = True

    def _wake_at(self, deadline: float) -> None:
        if deadline < self._timer_at and deadline != float("inf"):
            if self._timer is not None:
                self._loop.forget(self._timer)
            self._timer_at = deadline
            self._timer = self._loop.later(max(0.0, deadline - time.monotonic()) + SLACK_S, self._expire)

    def _expire(self) -> None:
        """Answer everything whose deadline has passed."""
        self._timer, self._timer_at = None, float("inf")
        now = time.monotonic()
        unsent = [entry for entry in self._waiting() if entry.deadline <= now]
        self._answerer.answer(unsent, _BLOCKED if self._is_blocked else _LATE)
        self._outbox = deque(entry for entry in self._outbox if not entry.answered)
        self._answerer.answer(self._sent.overdue(now), _OVERDUE)
        unsent_next = min((entry.deadline for entry in self._waiting() if not entry.answered), default=float("inf"))
        self._wake_at(min(unsent_next, self._sent.next_deadline()))

    def _waiting(self) -> list[Entry]:
        return [*self._outbox, *self._routes.waiting()]

    # --- the link -----------------------------------------------------------------------------------------------------------------------

    def _connected(self, connection: Connection) -> None:
        self._open_channel(connection)

    def _open_channel(self, connection: Connection) -> None:
        def opened(channel: Any) -> None:
            channel.add_on_close_callback(ended)
            channel.add_on_return_callback(self._returned)
            channel.confirm_delivery(self._confirmed, callback=lambda _: ready(channel))

        def ready(channel: Any) -> None:
            self._channel = channel
            if not self._is_up:
                self._is_up = True
                self._tell(Link(up=True))
            self._flush()

        def ended(_: Any, __: Exception) -> None:
            # A topic was deleted while it was published to: what is unconfirmed may be stored or not.
            self._channel = None
            self._routes.clear()
            self._doubt()
            if self._wire.connection is connection and connection.is_open:
                self._loop.later(SLACK_S, lambda: self._reopen(connection))

        connection.channel(channel_number=CHANNEL, on_open_callback=opened)

    def _reopen(self, connection: Connection) -> None:
        if self._wire.connection is connection and connection.is_open:
            self._open_channel(connection)

    def _went_down(self, error: BackendError, was_open: bool) -> None:
        self._channel = None
        self._doubt()
        self._outbox.extendleft(reversed(self._routes.take_all()))
        if self._is_blocked:
            self._blocked(False)
        if is_fatal(error):
            self._answerer.answer(self._outbox, rejection(error))
            self._outbox.clear()
        if self._is_up:
            self._is_up = False
            self._tell(Link(up=False, error=error))

    def _doubt(self) -> None:
        """The channel is gone: what it carried is in doubt, and nothing newer of those partitions goes before layer 2 has seen that."""
        doubtful = [entry for entry in self._sent.take_all() if not entry.answered]
        partitions = {entry.record.partition for entry in doubtful}
        self._answerer.answer(doubtful, _SILENT)
        if partitions:
            held = [entry for entry in self._waiting() if entry.record.partition in partitions]
            self._answerer.answer(held, _HELD_BACK)
            self._outbox = deque(entry for entry in self._outbox if not entry.answered)

    def _blocked(self, is_blocked: bool) -> None:
        self._is_blocked = is_blocked
        self._tell(Flow(is_blocked, "the server's memory or disk is short" if is_blocked else ""))
        if not is_blocked:
            self._flush()

    def _tell(self, event: Flow | Link) -> None:
        for sink in self._sinks:
            sink.put(event)

    # --- ending -------------------------------------------------------------------------------------------------------------------------

    def _leave(self, deadline: float) -> None:
        """Wait for what is under way, then close."""
        if (self._waiting() or self._sent.next_deadline() < float("inf")) and time.monotonic() < deadline:
            self._loop.later(SLACK_S, lambda: self._leave(deadline))
            return
        self._end()

    def _end(self) -> None:
        self._answer_all()
        self._wire.close(self._done.set)

    def _end_now(self) -> None:
        self._end()
        self._wire.cut(ConnectionError("closed"))

    def _answer_all(self) -> None:
        outcome: Outcome = Unknown("the producer was closed before the server answered")
        self._answerer.answer(self._sent.take_all(), outcome)
        self._answerer.answer(self._waiting(), Rejected("throttled", "the producer was closed before it was sent", retryable=True))
        self._outbox.clear()
        self._routes.take_all()
