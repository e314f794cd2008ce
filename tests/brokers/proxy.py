"""A TCP proxy before a server: delays, slices, swallows, cuts after so many bytes. What a network does, on purpose and by number."""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

Direction = Literal["up", "down"]  # to the server, to the client
CHUNK = 1 << 16


class Proxy:
    """Every setting counts for connections that are open and for later ones. `stop` in any case."""

    def __init__(self, server_port: int, seed: int = 1) -> None:
        self.server_port = server_port
        self.dice = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.latency_s = 0.0  # one way
        self.jitter_s = 0.0  # so much more at most, for each slice another share of it
        self.slice_bytes = CHUNK  # what is carried at once at most
        self.swallowed: Direction | None = None  # nothing of this direction arrives; `cut` when that is over: a piece is missing
        self.budget: Callable[[], tuple[Direction, int] | None] = lambda: (
            None
        )  # of a new connection: cut after so many bytes of a direction
        self.cuts = 0
        self._open: set[_Pair] = set()
        self._guard = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.server_port), 5)
            except OSError:
                client.close()
                continue
            pair = _Pair(self, client, server, self.budget())
            with self._guard:
                self._open.add(pair)
            pair.thread.start()

    def cut(self) -> None:
        """Reset every open connection."""
        with self._guard:
            pairs = list(self._open)
        for pair in pairs:
            pair.reset()

    def ended(self, pair: _Pair) -> None:
        with self._guard:
            self._open.discard(pair)

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._thread.join(5)


class _Pair:
    """One connection and its twin to the server; a thread carries both directions."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket, budget: tuple[Direction, int] | None) -> None:
        self._proxy = proxy
        self._sockets: dict[Direction, socket.socket] = {"up": client, "down": server}  # read from
        self._budget = budget
        self._late: deque[tuple[float, Direction, bytes]] = deque()
        self._due = 0.0
        for found in (client, server):
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.thread = threading.Thread(target=self._carry, name="proxy-pair", daemon=True)

    def _carry(self) -> None:
        with selectors.DefaultSelector() as selector:
            for direction, found in self._sockets.items():
                selector.register(found, selectors.EVENT_READ, direction)
            try:
                while self._round(selector):
                    pass
            except OSError:
                pass  # reset by one of the two, or by us
        self.reset()
        self._proxy.ended(self)

    def _round(self, selector: selectors.BaseSelector) -> bool:
        wait_s = max(0.0, self._late[0][0] - time.monotonic()) if self._late else 1.0
        for key, _ in selector.select(wait_s):
            direction: Direction = key.data
            data = self._sockets[direction].recv(CHUNK)
            if not data:
                return False
            if self._proxy.swallowed != direction:
                self._take(direction, data)
        while self._late and self._late[0][0] <= time.monotonic():
            _, direction, data = self._late.popleft()
            if not self._send(direction, data):
                return False
        return True

    def _take(self, direction: Direction, data: bytes) -> None:
        """In slices, none before the one ahead of it."""
        proxy = self._proxy
        for start in range(0, len(data), proxy.slice_bytes):
            self._due = max(self._due, time.monotonic() + proxy.latency_s + proxy.jitter_s * proxy.dice.random())
            self._late.append((self._due, direction, data[start : start + proxy.slice_bytes]))

    def _send(self, direction: Direction, data: bytes) -> bool:
        to = self._sockets["down" if direction == "up" else "up"]
        if self._budget is not None and self._budget[0] == direction:
            left = self._budget[1] - len(data)
            self._budget = (direction, left)
            if left <= 0:
                to.sendall(data[: left or None])
                self._proxy.cuts += 1
                return False
        to.sendall(data)
        return True

    def reset(self) -> None:
        for found in self._sockets.values():
            with contextlib.suppress(OSError):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # a reset, not a farewell
            with contextlib.suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)
            found.close()
