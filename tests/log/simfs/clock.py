"""Time as the simulated engine sees it."""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager

from mqsdk_log.engine import active, commit, cursors, delays, files, log, partition, segment

BASE_MS = 1_700_000_000_000


class Clock:
    """Stands in for the module `time` in the engine: time goes on with every look, and by `jump` and `wait`."""

    def __init__(self) -> None:
        self.looks = 0
        self.waited_s = 0.0
        self.jumped_s = 0.0

    def monotonic(self) -> float:
        self.looks += 1
        return 1000 + self.waited_s + self.looks * 0.0002

    def time_ns(self) -> int:
        return BASE_MS * 1_000_000 + int((self.monotonic() - 1000 + self.jumped_s) * 1e9)

    def time(self) -> float:
        return self.time_ns() / 1e9

    def sleep(self, seconds: float) -> None:
        self.waited_s += seconds

    @contextmanager
    def installed(self) -> Iterator[None]:
        places: tuple[types.ModuleType, ...] = (active, commit, cursors, delays, files, log, partition, segment)
        real = [place.time for place in places]
        for place in places:
            place.time = self  # type: ignore[attr-defined]
        try:
            yield
        finally:
            for place, module in zip(places, real, strict=True):
                place.time = module  # type: ignore[attr-defined]
