"""Connections on a thread of their own: pika's event loop, one connection or two on it, each made anew with backoff when it ends.

Everything of a connection happens on its loop's thread; `Loop.call` is the one way in from other threads. What is used of pika beyond its
documented interface stands in this file, and tests/rabbitmq pins it.
"""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pika
from pika.adapters.select_connection import IOLoop
from pika.frame import decode_frame

from mqsdk.spi import BackendError
from mqsdk_rabbitmq.errors import translate
from mqsdk_rabbitmq.frames import Assembly, BadFrame, read
from mqsdk_rabbitmq.options import Settings

CONNECT_S = 10.0  # one attempt, all of it
BACKOFF_S = (0.05, 1.0)
JOIN_S = 5.0
RECEIVE_BYTES = 1 << 16
Work = Callable[[], None]

_log = logging.getLogger("mqsdk.rabbitmq")
# The client logs every failed attempt with its stack, and at DEBUG every body: what matters comes as Link, Flow and errors.
logging.getLogger("pika").setLevel(logging.CRITICAL + 1)


def parameters(settings: Settings, heartbeat_s: int, name: str) -> list[pika.ConnectionParameters]:
    """One for each server. Raises ConfigError for files of `tls`."""
    context = settings.context()
    return [
        pika.ConnectionParameters(
            host=host,
            port=port,
            virtual_host=settings.own.vhost,
            credentials=pika.PlainCredentials(settings.user, settings.password),
            heartbeat=heartbeat_s,
            blocked_connection_timeout=None,
            connection_attempts=1,
            socket_timeout=CONNECT_S / 2,
            stack_timeout=CONNECT_S,
            ssl_options=None if context is None else pika.SSLOptions(context, host),
            client_properties={"connection_name": name, "product": "mqsdk"},
        )
        for host, port in settings.servers
    ]


class Connection(pika.SelectConnection):  # type: ignore[misc]  # the client has no types
    """heard: monotonic time of the last bytes from the server. on_chunk: called after bytes from the server were worked off."""

    heard = 0.0
    on_chunk: Work | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._assemblies: dict[int, Assembly] = {}
        self._frame_buffer = b""  # the client's own
        super().__init__(*arguments, **named)

    def deliver_to(self, channel: int, assembly: Assembly | None) -> None:
        """Deliveries of a channel go there, past the client, until None is set."""
        if assembly is not None:
            self._assemblies[channel] = assembly
        else:
            self._assemblies.pop(channel, None)

    def _on_data_available(self, data_in: bytes) -> None:
        self.heard = time.monotonic()
        if self._assemblies:
            data = self._frame_buffer + data_in if self._frame_buffer else data_in
            self._frame_buffer = b""
            try:
                taken = read(data, self._assemblies, self._other_frame)
            except BadFrame as error:
                self.cut(error)
                return
            self.bytes_received += taken
            self._frame_buffer = data[taken:]
        else:
            super()._on_data_available(data_in)
        if self.on_chunk is not None:
            self.on_chunk()

    def _other_frame(self, data: bytes) -> None:
        _, found = decode_frame(data)
        self._process_frame(found)

    def read_more_at_once(self) -> None:
        """The client reads 4 KiB a call."""
        transport = getattr(self, "_transport", None)
        if transport is not None:
            transport._MAX_RECV_BYTES = RECEIVE_BYTES

    def send_frames(self, frames: bytes) -> None:
        """Whole frames, many in one write."""
        self._output_marshaled_frames([frames])

    def cut(self, error: Exception) -> bool:
        """Close the socket and tell the server nothing; `on_close` follows. False where there is no socket any more."""
        if getattr(self, "_transport", None) is None:
            return False
        self._terminate_stream(error)
        return True

    def drop_socket(self) -> None:
        """Close this process's copy of the socket, and nothing else."""
        found: socket.socket | None = getattr(getattr(self, "_transport", None), "_sock", None)
        if found is not None:
            found.close()


class Loop:
    """A thread that runs pika's event loop until `stop`. `call` is for any thread, the rest of what happens is on the loop's own."""

    def __init__(self, name: str) -> None:
        self._io = IOLoop()
        self._work: deque[Work] = deque()
        self._is_awake = False
        self._ending = False
        self._gone = False
        self.broken: Callable[[Exception], None] | None = None  # what to do when a callback has failed
        self._thread = threading.Thread(target=self._run, name=f"mqsdk-rabbitmq-{name}", daemon=True)

    @property
    def io(self) -> IOLoop:
        return self._io

    def start(self) -> None:
        self._thread.start()

    def call(self, work: Work) -> None:
        """Run it on the loop's thread, in the order of calls. Nothing happens after `stop`."""
        self._work.append(work)
        if not self._is_awake and not self._gone:
            self._is_awake = True
            self._io.add_callback_threadsafe(self._drain)

    def later(self, delay_s: float, work: Work) -> object:
        """Loop's thread only."""
        return self._io.call_later(delay_s, work)

    def forget(self, timer: object) -> None:
        self._io.remove_timeout(timer)

    def stop(self, timeout_s: float = JOIN_S) -> None:
        """End the thread. Idempotent, any thread but the loop's own."""
        if self._ending:
            self._thread.join(timeout_s)
            return
        self._ending = True
        if self._thread.ident is None:
            self._close()
            return
        self._io.add_callback_threadsafe(self._io.stop)
        self._thread.join(timeout_s)

    def vanish(self) -> None:
        """In a forked child: the thread is not there, and nothing may be run."""
        self._gone = True

    def _drain(self) -> None:
        self._is_awake = False
        work = self._work
        for _ in range(len(work)):
            work.popleft()()
        if work and not self._is_awake:
            self._is_awake = True
            self._io.add_callback_threadsafe(self._drain)

    def _run(self) -> None:
        while not self._ending:
            try:
                self._io.start()
            except Exception as error:
                _log.error("the connection's thread has failed and goes on", exc_info=error)
                self._is_awake = False
                if self.broken is not None:
                    self.broken(error)
        self._close()

    def _close(self) -> None:
        self._gone = True
        self._io.close()


class Wire:
    """One connection, made anew with backoff until `close`.

    up(connection): it is open. down(error, was_open): it ended, or an attempt failed. blocked(reason or None): the server stops publishers.
    """

    def __init__(
        self,
        loop: Loop,
        cluster: str,
        settings: Settings,
        targets: Sequence[pika.ConnectionParameters],
        up: Callable[[Connection], None],
        down: Callable[[BackendError, bool], None],
        blocked: Callable[[bool], None] | None = None,
    ) -> None:
        self._loop = loop
        self._cluster = cluster
        self._address = settings.address
        self._targets = list(targets)
        self._up, self._down, self._blocked = up, down, blocked
        self._failures = 0
        self._closing = False
        self._done: Work | None = None
        self._attempt: Connection | None = None
        self.connection: Connection | None = None

    def open(self) -> None:
        """Begin connecting. Loop's thread, as everything here."""
        if self._closing:
            return
        target = self._targets[self._failures % len(self._targets)]
        self._attempt = Connection(target, self._opened, self._failed, self._ended, custom_ioloop=self._loop.io)

    def close(self, done: Work | None = None) -> None:
        """In order where it is open; then `done`."""
        self._closing = True
        self._done = done or self._done
        connection, self.connection = self.connection or self._attempt, None
        self._attempt = connection
        if connection is None or connection.is_closed:
            self._finish()
        elif not connection.is_closing:
            connection.close()

    def cut(self, error: Exception) -> None:
        connection = self.connection or self._attempt
        if connection is None or connection.is_closed:
            return
        if connection.is_open or connection.is_closing:
            if not connection.cut(error):  # what should have told its end has failed on the way
                self._ended(connection, error)
        else:
            connection.close()

    def _finish(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            done()

    def vanish(self) -> None:
        """All that a forked child may do."""
        connection = self.connection or self._attempt
        if connection is not None:
            connection.drop_socket()

    def _opened(self, connection: Any) -> None:
        if self._closing:
            self._attempt = connection
            connection.close()
            return
        connection.read_more_at_once()
        self.connection, self._attempt = connection, None
        self._failures = 0
        if self._blocked is not None:
            connection.add_on_connection_blocked_callback(lambda *_: self._is_blocked(True))
            connection.add_on_connection_unblocked_callback(lambda *_: self._is_blocked(False))
        self._up(connection)

    def _is_blocked(self, is_blocked: bool) -> None:
        if self._blocked is not None:
            self._blocked(is_blocked)

    def _failed(self, _: object, error: BaseException) -> None:
        self._attempt = None
        self._again(error, False)

    def _ended(self, connection: Any, error: BaseException) -> None:
        if self.connection is connection or self._attempt is connection:
            self.connection = self._attempt = None
            self._again(error, True)

    def _again(self, error: BaseException, was_open: bool) -> None:
        if self._closing:
            self._finish()
            return
        least, most = BACKOFF_S
        delay = min(most, least * 2 ** min(self._failures, 10)) * random.uniform(0.7, 1.0)
        self._failures += 1
        self._loop.later(delay, self.open)
        self._down(translate(error, self._cluster, self._address), was_open)
