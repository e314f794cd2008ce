"""What a person sees while the demo runs: progress bars on a terminal, a plain line a second elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Screen:
    def __init__(self, total: int, groups: Sequence[str]) -> None:
        self._live = sys.stdout.isatty()
        self._progress = Progress(TextColumn("{task.description:>12}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars: dict[str, TaskID] = {name: self._progress.add_task(name, total=total) for name in ("published", *groups)}
        self._began = time.monotonic()
        self._next_line = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._progress.stop()

    def update(self, published: int, handled: Mapping[str, int]) -> None:
        counts = {"published": published, **handled}
        if self._live:
            for name, count in counts.items():
                self._progress.update(self._bars[name], completed=count)
        elif time.monotonic() >= self._next_line:
            self.say("  ".join(f"{name} {count:,}" for name, count in counts.items()))
            self._next_line = time.monotonic() + 1

    def say(self, text: str) -> None:
        if self._live:
            self._progress.console.print(text)
        else:
            print(f"{time.monotonic() - self._began:5.1f} s  {text}", flush=True)
