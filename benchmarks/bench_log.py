"""`make bench-log`: the targets of the embedded log in one table, and "a pool, not a pipe", drawn.

    python benchmarks/bench_log.py [--only log-backlog,...] [--rounds N] [--scale SHARE] [--json FILE]

Needs the dependency group `bench`, 5 GB of disk and about ten minutes. Every case once, in a process of its own, what is compared
in turn within it. The picture (--json FILE.png beside the figures) has publish latency and take rate against the backlog, of the log to
10,000,000 messages and of stores on SQLite to 1,000,000.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import run
from log_backlog import STORES
from rich.console import Console
from rich.table import Table

PICTURE = run.ROOT / "docs" / "pool-not-a-pipe.png"
NAMES = {
    "log": "mqsdk, embedded log",
    "sqlite": "SQLite table, WAL",
    "litequeue": "litequeue",
    "persist_queue": "persist-queue",
    "huey": "huey, SQLite",
}
Curve = dict[int, float]


def curves(rows: Sequence[run.Row], what: str) -> dict[str, Curve]:
    """Of each store, by backlog: `publish` in us (median), or `take` in messages a second."""
    found: dict[str, Curve] = {}
    for row in rows:
        name, _, backlog = str(row["metric"]).partition("@")
        who, _, kind = name.rpartition("_")
        if backlog and kind == what:
            value = row["median"]
            assert isinstance(value, float)
            found.setdefault(who, {})[int(backlog)] = value
    return found


def show(rows: Sequence[run.Row]) -> None:
    publish, take = curves(rows, "publish"), curves(rows, "take")
    if not publish:
        return
    depths = sorted({backlog for curve in publish.values() for backlog in curve})
    table = Table("backlog", *(NAMES[who] for who in STORES if who in publish), title="publish, us at p50 / taken, messages a second")
    for backlog in depths:
        cells = (cell(publish[who].get(backlog), take.get(who, {}).get(backlog)) for who in STORES if who in publish)
        table.add_row(f"{backlog:,}", *cells)
    Console(width=None if sys.stdout.isatty() else 130).print(table)


def cell(publish_us: float | None, taken: float | None) -> str:
    return "-" if publish_us is None or taken is None else f"{run.figure(publish_us)} / {run.figure(taken)}"


def draw(rows: Sequence[run.Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    _panel(left, curves(rows, "publish"), "publish one message, median", "microseconds")
    _panel(right, curves(rows, "take"), "take the oldest messages, one by one", "messages a second")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle("A pool, not a pipe: what waits costs nothing")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _panel(axes: Any, found: dict[str, Curve], title: str, unit: str) -> None:
    """Both axes logarithmic, from one message on the left: an empty store stands at 1."""
    for who in (who for who in STORES if who in found):
        curve = found[who]
        style = {"linewidth": 2.6, "color": "black", "zorder": 3} if who == "log" else {"linewidth": 1.4}
        axes.plot([max(backlog, 100) for backlog in curve], list(curve.values()), marker="o", markersize=4, label=NAMES[who], **style)
    axes.set(xscale="log", yscale="log", title=title, ylabel=unit, xlabel="messages that wait")
    ticks = [100, *(10**power for power in range(3, 8))]
    axes.set_xticks(ticks, ["none", "1,000", "10,000", "100,000", "1 million", "10 million"])
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(visible=True, alpha=0.25)


def main() -> int:
    def then(rows: Sequence[run.Row]) -> None:
        show(rows)
        if curves(rows, "take"):
            draw(rows, picture)
            print(f"drawn in {picture}")

    wanted = [argument for argument in sys.argv[1:] if argument.endswith(".json")]
    picture = Path(wanted[-1]).with_suffix(".png") if wanted else PICTURE
    if not wanted:
        sys.argv += ["--json", str(run.ROOT / ".make" / "bench-log.json")]
    return run.main(run.LOG_CASES, then, rounds=1)


if __name__ == "__main__":
    sys.exit(main())
