"""`make bench`: every case in a process of its own, in interleaved rounds; medians, spread, ratios to raw loops and other libraries.

python benchmarks/run.py                       all cases, three rounds
python benchmarks/run.py --only publish,huey   some cases; a name that is none stands for those that begin with it
python benchmarks/run.py --rounds 1            a quick look
python benchmarks/run.py --scale 0.01          a hundredth of the counts, where a case of the log has some: does all of it run?

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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import backlog
import broker_backlog
import concurrency
import footprint
import frameworks
import generic_layer
import handlers
import latency
import log_backlog
import log_engine
import log_faults
import log_processes
import peers
import publish
import reload
from brokers import Brokers
from harness import SCALE, Case, Metric
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
CASES: dict[str, Case] = {
    case.name: case
    for module in (publish, handlers, peers, latency, concurrency, generic_layer, footprint, reload, backlog, frameworks, broker_backlog)
    for case in module.CASES
}
# Of `make bench-log`: what a consumer costs that has nothing to do is one of the log's targets.
LOG_CASES: dict[str, Case] = {case.name: case for module in (log_backlog, log_engine, log_processes, log_faults) for case in module.CASES}
LOG_CASES["idle"] = CASES["idle"]
EVERY = CASES | LOG_CASES
COMPARED = (
    "redis", "hiredis", "pika", "kafka-python", "faststream", "aio-pika", "aiokafka", "dramatiq", "celery", "huey",
    "persist-queue", "litequeue",
)  # fmt: skip
# Set on machines of developers; a start without cached bytecode is not what a user has.
DEVELOPMENT = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONDEVMODE")
Values = dict[str, list[float]]
Row = dict[str, object]


def main(cases: Mapping[str, Case] = CASES, then: Callable[[Sequence[Row]], None] | None = None, rounds: int = 3) -> int:
    """cases: those that run unless some are named. then: what else to show of the rows. rounds: unless another number is asked for."""
    parser = argparse.ArgumentParser(description="Benchmarks of mqsdk on this machine.")
    parser.add_argument("--only", default="", help=f"cases or beginnings of their names, separated by commas: {', '.join(EVERY)}")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--scale", default="", help="what the counts of the log's cases are multiplied by")
    parser.add_argument("--json", type=Path, default=ROOT / ".make" / "bench.json")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.case:
        print(json.dumps(EVERY[chosen.case].run()))
        return 0
    if chosen.scale:
        os.environ[SCALE] = chosen.scale
    names = list(cases)
    if chosen.only:
        found = {word: chosen_by(word) for word in chosen.only.split(",")}
        if unknown := [word for word, some in found.items() if not some]:
            parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(EVERY)}")
        names = [name for some in found.values() for name in some]
    load = [os.getloadavg()[0]]
    with Brokers() as brokers:
        values, failures = measure(names, chosen.rounds, brokers)
    rows = [row(metric, values) for name in names for metric in EVERY[name].metrics if metric.name in values]
    show(rows)
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    machine = {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count(), "versions": versions()}
    load.append(os.getloadavg()[0])
    chosen.json.write_text(json.dumps({"machine": machine, "rounds": chosen.rounds, "load": load, "rows": rows}, indent=2) + "\n")
    print(f"written to {os.path.relpath(chosen.json)}; load of the machine (1 minute) {load[0]:.1f} before, {load[1]:.1f} after")
    if then is not None:
        then(rows)
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def versions() -> dict[str, str]:
    """Of what is compared, as far as it is installed."""
    found = {}
    for name in COMPARED:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def chosen_by(word: str) -> list[str]:
    return [word] if word in EVERY else [name for name in EVERY if name.startswith(f"{word}-")]


def measure(names: list[str], rounds: int, brokers: Brokers) -> tuple[Values, list[str]]:
    """Interleaved: every case once per round, so that a slow minute of the machine falls on all of them."""
    values: Values = defaultdict(list)
    failures = []
    for number in range(1, rounds + 1):
        for name in names:
            print(f"round {number}/{rounds}  {name}", file=sys.stderr)
            try:
                further = brokers.environment(EVERY[name].broker)
            except Exception as error:  # a broker that cannot be started fails its own cases only
                failures.append(f"{name} has no broker: {error}")
                continue
            try:
                done = one(name, further)
            except KeyboardInterrupt:
                return values, [*failures, f"interrupted in {name}: this is what had been measured by then"]
            if done.returncode:
                failures.append(f"{name} failed:\n{done.stderr[-800:]}")
                continue
            for metric, value in json.loads(done.stdout.splitlines()[-1]).items():
                values[metric].append(value)
                print(f"{metric:>40} {figure(value)}", file=sys.stderr)
    return values, failures


def one(name: str, further: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        environ = {key: value for key, value in os.environ.items() if not key.startswith("MQSDK_") and key not in DEVELOPMENT}
        environ |= further
        environ["MQSDK_STATE"] = os.path.join(folder, "state")
        command = [sys.executable, str(Path(__file__).resolve()), "--case", name]
        return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=900)


def row(metric: Metric, values: Values) -> Row:
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
        "ratios": {other: ratio(metric, other, values) for other in (*metric.over, *metric.musts) if other in values},
        "musts": {other: must for other, must in metric.musts.items() if other in values},
    }


def ratio(metric: Metric, other: str, values: Values) -> float:
    return statistics.median(values[metric.name]) / statistics.median(values[other])


def show(rows: Sequence[Row]) -> None:
    table = Table()
    for title in ("metric", "median", "low - high", "target", "", "ratio to"):
        table.add_column(title, justify="left" if title in ("metric", "", "ratio to") else "right")
    for one_row in rows:
        if "@" in str(one_row["metric"]):  # a point of a curve, which is drawn
            continue
        table.add_row(*cells(one_row))
    Console(width=None if sys.stdout.isatty() else 130).print(table)


def cells(found: Row) -> tuple[str, ...]:
    unit, met, ratios = str(found["unit"]), found["met"], found["ratios"]
    target = "" if found["target"] is None else f"{'≤' if found['at_most'] else '≥'} {figure(found['target'])}"
    assert isinstance(ratios, dict)
    return (
        str(found["metric"]),
        f"{figure(found['median'])} {unit}",
        f"{figure(found['low'])} - {figure(found['high'])}",
        target,
        "" if met is None else "met" if met else "[bold red]missed[/]",
        ", ".join(compared(found, other, ratio) for other, ratio in ratios.items()),
    )


def compared(found: Row, other: str, ratio: float) -> str:
    musts, is_at_most = found["musts"], bool(found["at_most"])
    assert isinstance(musts, dict)
    if other not in musts:
        return f"{other} {ratio:.3g}"
    is_met = ratio <= musts[other] if is_at_most else ratio >= musts[other]
    must = f"{'≤' if is_at_most else '≥'} {musts[other]:g}"
    return f"{other} {ratio:.3g} ({must}{'' if is_met else ', [bold red]missed[/]'})"


def figure(value: object) -> str:
    assert isinstance(value, int | float)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
