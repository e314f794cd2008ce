"""`make bench`: every case in a process of its own, in interleaved rounds; medians, spread, ratios to raw loops and other libraries.

python benchmarks/run.py                       all cases, three rounds
python benchmarks/run.py --only publish,huey   some cases
python benchmarks/run.py --rounds 1            a quick look

Writes the table and a JSON file (--json FILE, default .make/bench.json). A figure that misses its target is marked; the exit code stays 0,
because a busy machine is no bug. Exit code 1: a case could not be run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import backlog
import concurrency
import footprint
import handlers
import latency
import peers
import publish
from harness import Case, Metric
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
CASES: dict[str, Case] = {
    case.name: case for module in (publish, handlers, peers, latency, concurrency, footprint, backlog) for case in module.CASES
}
# Set on machines of developers; a start without cached bytecode is not what a user has.
DEVELOPMENT = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONDEVMODE")
Values = dict[str, list[float]]


def main() -> int:
    parser = argparse.ArgumentParser(description="Benchmarks of mqsdk on this machine.")
    parser.add_argument("--only", default="", help=f"cases, separated by commas: {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=ROOT / ".make" / "bench.json")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.case:
        print(json.dumps(CASES[chosen.case].run()))
        return 0
    names = chosen.only.split(",") if chosen.only else list(CASES)
    if unknown := [name for name in names if name not in CASES]:
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    values, failures = measure(names, chosen.rounds)
    rows = [row(metric, values) for name in names for metric in CASES[name].metrics if metric.name in values]
    show(rows)
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    machine = {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()}
    chosen.json.write_text(json.dumps({"machine": machine, "rounds": chosen.rounds, "rows": rows}, indent=2) + "\n")
    print(f"written to {os.path.relpath(chosen.json)}")
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def measure(names: list[str], rounds: int) -> tuple[Values, list[str]]:
    """Interleaved: every case once per round, so that a slow minute of the machine falls on all of them."""
    values: Values = defaultdict(list)
    failures = []
    for number in range(1, rounds + 1):
        for name in names:
            print(f"round {number}/{rounds}  {name}", file=sys.stderr)
            done = one(name)
            if done.returncode:
                failures.append(f"{name} failed:\n{done.stderr[-800:]}")
                continue
            for metric, value in json.loads(done.stdout.splitlines()[-1]).items():
                values[metric].append(value)
    return values, failures


def one(name: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        environ = {key: value for key, value in os.environ.items() if not key.startswith("MQSDK_") and key not in DEVELOPMENT}
        environ["MQSDK_STATE"] = os.path.join(folder, "state")
        command = [sys.executable, str(Path(__file__).resolve()), "--case", name]
        return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=300)


def row(metric: Metric, values: Values) -> dict[str, object]:
    found = values[metric.name]
    median = statistics.median(found)
    return {
        "metric": metric.name,
        "unit": metric.unit,
        "median": median,
        "low": min(found),
        "high": max(found),
        "target": metric.target,
        "at_most": metric.at_most,
        "met": metric.met(median),
        "ratios": {other: median / statistics.median(values[other]) for other in metric.over if other in values},
    }


def show(rows: list[dict[str, object]]) -> None:
    table = Table()
    for title in ("metric", "median", "low - high", "target", "", "ratio to"):
        table.add_column(title, justify="left" if title in ("metric", "", "ratio to") else "right")
    for one_row in rows:
        table.add_row(*cells(one_row))
    Console(width=None if sys.stdout.isatty() else 130).print(table)


def cells(found: dict[str, object]) -> tuple[str, ...]:
    unit, met, ratios = str(found["unit"]), found["met"], found["ratios"]
    target = "" if found["target"] is None else f"{'≤' if found['at_most'] else '≥'} {figure(found['target'])}"
    assert isinstance(ratios, dict)
    return (
        str(found["metric"]),
        f"{figure(found['median'])} {unit}",
        f"{figure(found['low'])} - {figure(found['high'])}",
        target,
        "" if met is None else "met" if met else "[bold red]missed[/]",
        ", ".join(f"{other} {ratio:.2g}" for other, ratio in ratios.items()),
    )


def figure(value: object) -> str:
    assert isinstance(value, int | float)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
