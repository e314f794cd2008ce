"""How `move status` shows what both clusters have in stage `dual_write`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from mqsdk.cli.output import Column, printable
from mqsdk.cli.piloting import Seen, shadows_of
from mqsdk.cli.session import Session
from mqsdk.core.comparison import NAMED, Comparison, Minute


def document_of(found: Comparison) -> dict[str, Any]:
    """As `--json` shows it."""
    return {**found._asdict(), "minutes": [{**one._asdict(), "minute": _time(one), "same": one.is_same} for one in found.minutes]}


def show_shadows(session: Session, seen: Seen, found: Comparison) -> None:
    out = session.out
    out.write(f"shadows: {shadows_of(seen.facts)}; {found.under_way:,} under way, {found.others:,} messages of processes that make none")
    if found.trouble:
        out.write(printable(f"! not compared: {found.trouble}"))
        return
    rows = [{**one._asdict(), "minute": _time(one), "same": one.is_same} for one in found.minutes]
    columns = (
        Column("minute"), Column("source", True), Column("target", True), Column("source_hash"), Column("target_hash"), Column("same"),
    )  # fmt: skip
    out.show("minutes", rows, columns, "nothing was published with shadows in the last minutes")
    for line in _mismatches(seen, found):
        out.write(printable(f"! {line}"))


def _mismatches(seen: Seen, found: Comparison) -> Iterator[str]:
    for one in found.minutes:
        kinds = (
            (one.missing, one.missing_count, f"missing on {seen.move.target}"),
            (one.extra, one.extra_count, f"not found on {seen.move.source}"),
        )
        for ids, count, what in kinds:
            if count:
                more = f" and {count - NAMED:,} more" if count > NAMED else ""
                yield f"{_time(one)}: {what}: {', '.join(ids)}{more}"


def _time(one: Minute) -> str:
    return datetime.fromtimestamp(one.at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%MZ")
