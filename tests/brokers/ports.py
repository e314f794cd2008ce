"""Ports for servers of tests."""

from __future__ import annotations

import random
import socket

# Below what the system gives to outgoing connections (from 32768 on): a client that connects while a server is down for its restart
# could otherwise be given that server's port, even by connecting to it, and the server could not come back.
FIRST, LAST = 15_000, 32_000


def free_port() -> int:
    """A port of this host that nobody uses now. Drawn at random, so that runs side by side do not meet."""
    draw = random.SystemRandom()
    for _ in range(1_000):
        port = draw.randrange(FIRST, LAST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError(f"no port between {FIRST} and {LAST} is free")
