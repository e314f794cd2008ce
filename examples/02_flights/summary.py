"""The end of the demo: judges the journals, adds up what the handlers found, prints the table."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mqsdk.testing import checker
from mqsdk.testing.journal import Entry, Kind, Outcome, read_journals

ORDER_RULES = ("OVERLAP", "OVERTAKE", "BACKWARDS", "STALE_EPOCH", "TWO_OWNERS")


@dataclass(frozen=True)
class Result:
    verdict: checker.Verdict
    groups: Sequence[str]
    succeeded: Counter[str]
    failed: Counter[str]
    holes: int
    after_late: float  # share of departures that are late when the aircraft's departure before was late
    after_punctual: float
    delays: list[tuple[str, float, int]]  # carrier, mean delay in minutes, flights; worst first

    @property
    def out_of_order(self) -> int:
        return self.holes + sum(self.verdict.count(rule) for rule in ORDER_RULES)

    @property
    def ok(self) -> bool:
        return self.verdict.ok and not self.holes


def judge_run(journals: Path, groups: Sequence[str], *, ordered: Sequence[str]) -> Result:
    entries = read_journals(journals)
    holes, after_late, after_punctual = rotations(Path("results"))
    return Result(
        verdict=checker.judge(entries, groups, ordered=ordered),
        groups=groups,
        succeeded=ends(entries, Outcome.OK),
        failed=ends(entries, Outcome.FAILED),
        holes=holes,
        after_late=after_late,
        after_punctual=after_punctual,
        delays=delays(Path("results")),
    )


def ends(entries: Sequence[Entry], outcome: Outcome) -> Counter[str]:
    """Handler calls per group that ended so."""
    return Counter(entry.group for entry in entries if entry.kind is Kind.END and entry.outcome is outcome)


def rotations(results: Path) -> tuple[int, float, float]:
    """Holes in `seq`, and how often a departure is late after a late one and after a punctual one."""
    holes, pairs = 0, Counter[tuple[bool, bool]]()
    for path in results.glob("aircraft-*.txt"):
        flown: dict[str, list[bool]] = defaultdict(list)
        for line in path.read_text().splitlines():
            tail, _, late, hole = line.split()
            holes += hole == "1"
            flown[tail].append(late == "1")
        pairs.update(pair for flights in flown.values() for pair in pairwise(flights))
    return holes, _share(pairs[True, True], pairs[True, False]), _share(pairs[False, True], pairs[False, False])


def _share(yes: int, no: int) -> float:
    return yes / (yes + no) if yes + no else 0.0


def delays(results: Path) -> list[tuple[str, float, int]]:
    """Mean delay per carrier; a message that a crash repeated counts once."""
    seen = {line.split()[0]: line.split()[1:] for path in results.glob("delays-*.txt") for line in path.read_text().splitlines()}
    minutes: dict[str, list[int]] = defaultdict(list)
    for carrier, delay in seen.values():
        minutes[carrier].append(int(delay))
    return sorted(((carrier, sum(all_) / len(all_), len(all_)) for carrier, all_ in minutes.items()), key=lambda row: -row[1])


def show(result: Result, *, published: int, publish_s: float, drained_s: float, exits: Sequence[int]) -> None:
    verdict = result.verdict
    handled = sum(verdict.handled.values()) + sum(verdict.dead_lettered.values())
    console = Console(width=None if os.isatty(1) else 100)
    console.print(f"{published:,} flights, {len(result.groups)} groups, 2 processes, one kill -9")
    table = Table()
    table.add_column("")
    for group in result.groups:
        table.add_column(group, justify="right")
    rows = {
        "handled": verdict.handled,
        "failed attempts, retried": {group: result.failed[group] - verdict.dead_lettered[group] for group in result.groups},
        "dead-lettered": verdict.dead_lettered,
        "repeated": {group: result.succeeded[group] - verdict.handled[group] for group in result.groups},
        "lost": {group: sum(problem.group == group for problem in verdict.problems if problem.rule == "LOST") for group in result.groups},
    }
    for name, counts in rows.items():
        table.add_row(name, *(f"{counts[group]:,}" for group in result.groups))
    table.add_row("out of order per aircraft", f"{result.out_of_order}", "-", "-")
    console.print(table)
    repeats = ", ".join(f"{count} ({_REASONS.get(cause, cause)})" for cause, count in verdict.duplicates.items()) or "0"
    console.print(f"published {published:,} in {publish_s:.2f} s ({published / publish_s:,.0f} a second, while the consumers ran)")
    console.print(
        f"handled {handled:,} in {drained_s:.1f} s ({handled / drained_s:,.0f} a second over all groups, start of the processes included)"
    )
    console.print(f"repeated in all: {repeats}")
    console.print("alerts failed on purpose: its pager answers at random, and never for two airports (see app.py)")
    console.print(f"both consumers stopped by SIGTERM, exit codes {', '.join(map(str, exits))}")
    if not result.ok:
        console.print(f"[bold red]the run broke a promise[/]\n{verdict}")
    console.print(
        f"\nAfter a late departure the aircraft's next one is late in {result.after_late:.0%} of cases,"
        f" after a punctual one in {result.after_punctual:.0%}."
    )
    print(delays_text(result.delays, console.width))


def delays_text(delays: Sequence[tuple[str, float, int]], width: int) -> str:
    """A sentence that never breaks between a carrier and its minutes: textwrap leaves a no-break space alone."""
    worst = ", ".join(f"{carrier}\N{NO-BREAK SPACE}{mean:.0f}" for carrier, mean, count in delays if count > 100)
    return textwrap.fill(f"Mean departure delay by carrier, in minutes: {worst}.", width).replace("\N{NO-BREAK SPACE}", " ")


_REASONS = {"crash": "handled, but not yet settled when its process was killed", "unexplained": "without a reason: a bug"}


def what_next(run: Path, began: float) -> None:
    here = os.path.relpath(run, os.environ.get("PWD", run))
    programs = os.path.relpath(Path(sys.prefix) / "bin", run)
    print(f"\nAll of it took {time.monotonic() - began:.1f} s and is kept in {here}. Look around:")
    chosen = "".join(f" {name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("MQSDK_"))
    print(f"  cd {here} && export PATH=$PWD/{programs}:$PATH{chosen}")
    print("  mqsdk lag                                   # how far each group is")
    print("  mqsdk dlq list flights alerts               # the dead letters, and why")
    print("  mqsdk topics                                # what the cluster holds")
    print("  mqsdk peek flights -n 3 --body              # messages, without touching a group")
    print("  mqsdk offsets reset flights delays --to earliest --dry-run   # read the month once more")
