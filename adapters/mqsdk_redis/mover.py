"""Delayed entries of the partitions that a consumer owns: given their place in the stream when they are due.

Each owner of each group does it; the script lets one of them move an entry. The server's clock decides, so publishers' clocks and the
server's have to agree. Nothing of it stands in this process but the time of the next look.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from mqsdk.spi import Partition
from mqsdk_redis.owned import Owned
from mqsdk_redis.pipeline import Call, Reply
from mqsdk_redis.wire import ResponseError, Scripts

LOOK_S = 1.0  # while something waits: the server's clock may jump, which this process's does not see
IDLE_LOOK_S = 5.0  # while nothing does: whoever delays something tells, so only a news stream that was lost is found by this


class Mover:
    """owned: the consumer's own mapping."""

    def __init__(self, scripts: Scripts, owned: Mapping[Partition, Owned]) -> None:
        self._scripts = scripts
        self._owned = owned

    def calls(self, now: float) -> list[Call]:
        """Scripts that move what is due now. They go before the reads, which then find it."""
        calls: list[Call] = []
        for owned in self._owned.values():
            if owned.move_at <= now:
                owned.behind = True
                calls.append((self._scripts.move.call((owned.stream, *owned.delayed)), self._moved(owned)))
        return calls

    def _moved(self, owned: Owned) -> Reply:
        def answered(reply: Any) -> None:
            if isinstance(reply, ResponseError):
                raise reply
            _, wait_ms, owned.last_news, _ = reply
            wait_s = IDLE_LOOK_S if wait_ms < 0 else min(float(wait_ms) / 1000, LOOK_S)
            owned.move_at = time.monotonic() + wait_s

        return answered

    def due(self) -> float:
        """When `calls` has something to do; monotonic seconds."""
        return min((owned.move_at for owned in self._owned.values()), default=float("inf"))

    def watched(self) -> dict[bytes, bytes]:
        """What to wake up for."""
        return {owned.delayed[2]: owned.last_news for owned in self._owned.values()}

    def heard(self, fresh: set[bytes]) -> None:
        for owned in self._owned.values():
            if owned.delayed[2] in fresh:
                owned.move_at = 0.0
