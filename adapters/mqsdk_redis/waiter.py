"""Sleeping until something is new: one `XREAD BLOCK` on a connection of its own, which reads for nobody and only wakes."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Mapping

import redis

from mqsdk_redis.errors import code_of
from mqsdk_redis.wire import ANSWER_TIMEOUT_S, Wire

BLOCK_S = 2.0  # at most so long is a connection not heard of


class Waiter:
    """One thread sleeps, any may `wake`. What is asked for stays asked for over wake-ups: only what lacks a stream is asked anew."""

    def __init__(self) -> None:
        self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wire: Wire | None = None
        self._asked: dict[bytes, bytes] | None = None
        self._asked_at = 0.0
        self._closed = False

    def use(self, wire: Wire | None) -> None:
        """Another connection, or none. The old one is closed."""
        if self._wire is not None:
            self._wire.abort()
        self._wire, self._asked = wire, None

    @property
    def wire(self) -> Wire | None:
        return self._wire

    def covers(self, streams: Mapping[bytes, bytes]) -> bool:
        """Whether what is asked for tells of all these streams; an older id only tells too early."""
        return self._asked is None or streams.keys() <= self._asked.keys()

    def sleep(self, streams: Mapping[bytes, bytes], timeout_s: float) -> set[bytes]:
        """Streams that have entries after the ids given; empty after the timeout or a wake-up. Raises as Wire does."""
        wire = self._wire
        poller = select.poll()
        poller.register(self._pipe[0], select.POLLIN)
        if wire is not None and streams and self._asked is None:
            wire.send([("XREAD", "COUNT", 1, "BLOCK", int(BLOCK_S * 1000), "STREAMS", *streams.keys(), *streams.values())])
            self._asked, self._asked_at = dict(streams), time.monotonic()
        if wire is not None and self._asked is not None:
            poller.register(wire.fd, select.POLLIN)
        ready = {fd for fd, _ in poller.poll(max(0.0, timeout_s) * 1000)}
        if self._pipe[0] in ready:
            self._drain()
        if wire is not None and wire.fd in ready:
            return self._heard(wire)
        if wire is not None and self._asked is not None and time.monotonic() > self._asked_at + BLOCK_S + ANSWER_TIMEOUT_S:
            raise redis.exceptions.TimeoutError("the server does not answer")
        return set()

    def _heard(self, wire: Wire) -> set[bytes]:
        self._asked = None
        reply = wire.receive()
        if isinstance(reply, Exception):
            # A stream that was deleted while it was watched: look, rather than wait.
            if code_of(reply) == "UNBLOCKED":
                return set()
            raise reply
        return {key for key, _ in reply or ()}

    def wake(self) -> None:
        """End a running or the next `sleep`. Any thread."""
        if not self._closed:
            try:
                os.write(self._pipe[1], b"\0")
            except BlockingIOError:
                return  # full: the sleeper has enough to wake up for

    def close(self) -> None:
        """The caller sees to it that nobody wakes meanwhile."""
        self._closed = True
        self.use(None)
        for fd in self._pipe:
            os.close(fd)

    def vanish(self) -> None:
        if self._wire is not None:
            self._wire.vanish()
        self._closed = True
        for fd in self._pipe:
            os.close(fd)

    def _drain(self) -> None:
        try:
            while len(os.read(self._pipe[0], 4096)) == 4096:
                continue
        except BlockingIOError:
            return
