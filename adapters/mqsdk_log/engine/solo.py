"""In place of a `Seat` for one instance of a broadcast: it has every partition from its start on, and keeps its progress to itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from .cursors import Cursor
from .holding import Change, Gained, Holding, Holdings, Key

EPOCH = 1
AGAIN_S = 1.0  # until a partition that could not be used is tried again


class _NoLease:
    """Nobody else could take it."""

    def close(self) -> None:
        """Nothing is held."""


class Solo:
    """begins: first position wanted of every partition."""

    watched_fd = -1

    def __init__(self, begins: Mapping[Key, int]) -> None:
        self.held = Holdings()
        self._told: set[Key] = set()
        # What is not held: when it is to be taken.
        self._aside = [(0.0, Holding(key, EPOCH, _NoLease(), Cursor(begin, EPOCH, high=begin))) for key, begin in begins.items()]

    @property
    def due(self) -> float:
        return min((when for when, _ in self._aside), default=float("inf"))

    def is_restless(self) -> bool:
        """Nothing changes for it but by time."""
        return False

    def turn(self, now: float, nudged: bool = False) -> list[Change]:
        new = [holding for when, holding in self._aside if when <= now]
        self._aside = [(when, holding) for when, holding in self._aside if when > now]
        self.held.update({holding.key: holding for holding in new})
        return [Gained(holding, holding.stored, float("inf")) for holding in new]

    def set_aside(self, key: Key) -> bool:
        """Give a partition up that cannot be used, and take it again after a while. True when that is to be told."""
        if (holding := self.held.pop(key, None)) is not None:
            self._aside.append((time.monotonic() + AGAIN_S, holding))
        is_new = key not in self._told
        self._told.add(key)
        return is_new

    def store(self, key: Key, epoch: int, cursor: Cursor, *, final: bool) -> bool:
        holding = self.held.get(key)
        if holding is None or holding.epoch != epoch:
            return False
        holding.stored = cursor
        if final:
            self.held.release(holding)
        return True

    def drop(self, key: Key) -> list[Holding]:
        return self.held.drop(key)

    def take_up(self, topic: str, wake: Callable[[], None]) -> None:
        """It awaits nothing."""

    def hang_up(self) -> None:
        """It watches nobody."""

    def leave(self) -> None:
        self.held.clear()

    def abandon(self) -> None:
        self.held.clear()
