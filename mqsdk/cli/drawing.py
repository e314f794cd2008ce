"""What is drawn on a terminal. The only module that imports rich: `--json` and pipes never load it (50 ms)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text


class Bar(Protocol):
    """Told how far the work is: messages and bytes done so far."""

    def __call__(self, messages: int, size: int, /) -> None: ...


def draw_table(titles: Sequence[str], cells: Sequence[Sequence[str]], figures: Sequence[bool]) -> None:
    """A table on stdout; cells are text, never markup."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title, figure in zip(titles, figures, strict=True):
        table.add_column(title, justify="right" if figure else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


@contextmanager
def live_lines() -> Iterator[Callable[[Sequence[str]], None]]:
    """Lines on stderr that are drawn over by the next ones, and gone at the end."""
    with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as live:
        yield lambda lines: live.update(Text("\n".join(lines)), refresh=True)


@contextmanager
def progress_bar(label: str, total_bytes: int | None, total: int | None = None) -> Iterator[Bar]:
    """A bar on stderr while the block runs: by bytes where the size of the input is known, else by messages; a count without a total."""
    counted = [DownloadColumn(), TransferSpeedColumn()] if total_bytes else [MofNCompleteColumn()]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        *counted,
        TextColumn("{task.fields[messages]:,} messages"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total_bytes or total, messages=0)

        def advance(messages: int, size: int, /) -> None:
            progress.update(task, completed=size if total_bytes else messages, messages=messages)

        yield advance


class BytesBar:
    """A bar on stderr that appears with the first report, by bytes of a total that may still grow; `close` takes it away."""

    def __init__(self, label: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(label, total=None)
        self._running = False

    def __call__(self, done: int, total: int, /) -> None:
        if not self._running:
            self._progress.start()
            self._running = True
        self._progress.update(self._task, completed=done, total=total)

    def close(self) -> None:
        """Idempotent."""
        self._progress.stop()
