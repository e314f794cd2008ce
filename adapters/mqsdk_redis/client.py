"""What one opened cluster shares: the scripts, and connections for publishing and for looking."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from mqsdk_redis.errors import closed
from mqsdk_redis.options import Settings
from mqsdk_redis.wire import ANSWER_TIMEOUT_S, FAILURES, Command, Dialer, Scripts, Wire

IDLE_CONNECTIONS = 16
LOOK_TIMEOUT_S = 10.0


class Client:
    """Thread-safe: a connection is used by one thread at a time, the free ones wait in a list."""

    def __init__(self, cluster: str, settings: Settings) -> None:
        self.cluster = cluster
        self.settings = settings
        self.scripts = Scripts()
        self.dialer = Dialer(cluster, settings, self.scripts)
        self.state = "open"
        self._idle: list[Wire] = []

    def borrow(self, deadline: float) -> Wire:
        """A connection that works as far as one can see without using it. Raises BackendError or StateError."""
        self.check()
        while self._idle:
            try:
                wire = self._idle.pop()
            except IndexError:
                break  # another thread was faster
            if wire.is_fresh():
                return wire
            wire.abort()
        return self.dialer.dial(deadline)

    def give_back(self, wire: Wire) -> None:
        if self.state == "open" and len(self._idle) < IDLE_CONNECTIONS:
            self._idle.append(wire)
            if self.state == "open":
                return
        wire.abort()

    def call(self, commands: Sequence[Command]) -> list[Any]:
        """One round trip of commands that may be repeated. An error answered by the server is raised as the first of its kind."""
        if not commands:
            return []
        deadline = time.monotonic() + LOOK_TIMEOUT_S
        try:
            replies = self._call(commands, deadline)
        except FAILURES:
            try:
                replies = self._call(commands, deadline)
            except FAILURES as error:
                raise self.dialer.error(error) from error
        for reply in replies:
            if isinstance(reply, Exception):
                raise self.dialer.error(reply) from reply
        return replies

    def _call(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        wire = self.borrow(deadline)
        try:
            replies = wire.exchange(commands, max(0.05, min(ANSWER_TIMEOUT_S, deadline - time.monotonic())))
        except BaseException:
            wire.abort()
            raise
        self.give_back(wire)
        return replies

    def check(self) -> None:
        if self.state != "open":
            raise closed(self.cluster, self.state)

    def close(self) -> None:
        if self.state == "open":
            self.state = "closed"
        idle, self._idle = self._idle, []
        for wire in idle:
            wire.abort()

    def vanish(self) -> None:
        self.state = "stale"
        idle, self._idle = self._idle, []
        for wire in idle:
            wire.vanish()
