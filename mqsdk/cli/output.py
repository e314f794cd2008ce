"""What commands print: tables, documents, JSON lines and errors, as text for people or as JSON, from the same rows.

Results go to stdout, messages to stderr. rich is imported only when something is drawn on a terminal (`mqsdk.cli.drawing`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from mqsdk.core.move import Gate
from mqsdk.errors import MoveRefused, MqError

Row = Mapping[str, Any]


def text_of(value: Any) -> str:
    """One cell: nothing as `-`, numbers with thousands separators, lists joined; control characters escaped."""
    if value is None or value in ("", [], (), {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return ", ".join(text_of(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(printable(f"{name}={item}") for name, item in value.items())
    return printable(str(value))


def printable(text: str) -> str:
    """The text with control characters and lone surrogates escaped: what a foreign producer wrote must not steer the terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def seconds_text(value: Any) -> str:
    from mqsdk.units import duration_text

    return "-" if value is None else duration_text(float(value))


def bytes_text(value: Any) -> str:
    if value is None:
        return "-"
    size, unit = float(value), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):  # noqa: B007 - the unit reached is what the text needs
        if size < 1024:
            break
        size /= 1024
    return f"{int(value)} B" if unit == "B" else f"{size:.1f} {unit}"


def time_text(milliseconds: int | None) -> str | None:
    """ISO 8601 in UTC with milliseconds, as JSON documents carry times."""
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Column(NamedTuple):
    """One column of a table: the row's key, how its value is shown, and whether it is a figure (aligned right)."""

    key: str
    figure: bool = False
    show: Callable[[Any], str] = text_of


class Output:
    """Writes results and messages of one command. `closed` is True once the reader of stdout has gone (as with `| head`)."""

    def __init__(self) -> None:
        self.json = False
        self.quiet = False
        self.verbose = 0
        self.closed = False

    @property
    def draws(self) -> bool:
        """Whether tables and bars may be drawn: stdout is a terminal and nobody asked for JSON."""
        return not self.json and sys.stdout.isatty()

    def show(self, name: str, rows: Sequence[Row], columns: Sequence[Column], empty: str, extra: Row | None = None) -> None:
        """The rows as `{name: [...]}` or as a table of `columns`. extra: further fields of the document. empty: message for no rows."""
        if self.json:
            self.document({name: list(rows), **(extra or {})})
        elif not rows:
            self.say(empty)
        else:
            titles = [column.key.replace("_", " ") for column in columns]
            cells = [[column.show(row.get(column.key)) for column in columns] for row in rows]
            self.table(titles, cells, [column.figure for column in columns])

    def table(self, titles: Sequence[str], cells: Sequence[Sequence[str]], figures: Sequence[bool]) -> None:
        if self.draws:
            from mqsdk.cli.drawing import draw_table

            draw_table(titles, cells, figures)
            return
        widths = [max(len(row[i]) for row in [titles, *cells]) for i in range(len(titles))]
        for row in [titles, *cells]:
            parts = [cell.rjust(width) if figure else cell.ljust(width) for cell, width, figure in zip(row, widths, figures, strict=True)]
            self.write("  ".join(parts).rstrip())

    def document(self, value: Row) -> None:
        """One JSON document, or one JSON line, on stdout."""
        import json

        self.write(json.dumps(value, ensure_ascii=True, default=str))

    def fields(self, value: Row) -> None:
        """One result: the JSON document, or `name  value` lines."""
        if self.json:
            self.document(value)
            return
        width = max((len(name) for name in value), default=0)
        for name, item in value.items():
            self.write(f"{name.ljust(width)}  {text_of(item)}")

    def plan(self, steps: Iterable[str]) -> None:
        """What a changing command would do (`--dry-run`)."""
        if self.json:
            self.document({"plan": list(steps)})
        else:
            for step in steps:
                self.write(step)

    def write(self, text: str) -> None:
        """One line on stdout. A reader that has gone is no error: `closed` tells commands that would go on for ever."""
        if self.closed:
            return
        try:
            sys.stdout.write(text + "\n")
        except BrokenPipeError:
            self._reader_gone()
        except UnicodeEncodeError:
            encoding = sys.stdout.encoding or "ascii"
            sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")

    def flush(self) -> None:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            self._reader_gone()

    def _reader_gone(self) -> None:
        """Point stdout at nothing, so that the interpreter's own flush at exit does not complain either."""
        self.closed = True
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.close(nothing)

    def say(self, text: str) -> None:
        """A message for people on stderr; not with --json (a program reads the document) or -q."""
        if not self.quiet and not self.json:
            print(text, file=sys.stderr)

    def warn(self, text: str) -> None:
        """A message that -q does not hide."""
        if not self.json:
            print(text, file=sys.stderr)

    def error(self, kind: str, what: str, where: str = "", fix: str = "") -> None:
        """An error: with --json the document on stdout, else its three parts on stderr."""
        if self.json:
            self.document({"error": {"type": kind, "what": what, "where": where, "fix": fix}})
        else:
            print("\n  ".join(part for part in (f"error: {what}", where, fix) if part), file=sys.stderr)

    def failure(self, error: MqError) -> None:
        gates = [gate._asdict() for gate in error.gates if isinstance(gate, Gate)] if isinstance(error, MoveRefused) else []
        if self.json and gates:
            parts = {"type": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
            self.document({"error": parts, "gates": gates})
        else:
            self.error(type(error).__name__, error.what, error.where, error.fix)
