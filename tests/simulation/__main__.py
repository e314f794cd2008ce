"""`python -m tests.simulation`: play seeds again with a trace, make a failing one smaller, look at many, or run the mutation gate."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import click

from tests.simulation import cluster_change, consumer, fleet, gate
from tests.simulation.broken import Broken
from tests.simulation.plan import draw
from tests.simulation.shrink import shrink

CHUNK = 250
PLAYS: dict[str, Callable[[int], None]] = {"fleet": fleet.run, "consumer": consumer.run, "cluster": cluster_change.run}


def played(name: str, seeds: range) -> list[str]:
    """What is broken by each seed of a range that breaks something."""
    found = []
    gc.disable()  # one schedule makes no more garbage than a collection costs
    for seed in seeds:
        try:
            PLAYS[name](seed)
        except Broken as error:
            found.append(str(error) if str(error).startswith("seed") else f"seed {seed}: {error}")
    gc.enable()
    gc.collect()
    return found


def chunks(first: int, count: int) -> Iterator[range]:
    return (range(at, min(at + CHUNK, first + count)) for at in range(first, first + count, CHUNK))


def _seconds(jobs: int) -> float:
    """Of the processor where one process does it all: other work of the machine is no part of it."""
    return time.process_time() if jobs == 1 else time.monotonic()


@click.group()
def main() -> None:
    """Simulations of layer 2."""


@main.command()
@click.argument("name", type=click.Choice(sorted(PLAYS)), default="fleet")
@click.option("--seeds", default=20_000, show_default=True, help="How many.")
@click.option("--first", default=None, type=int, help="The first seed; default: one that was never played before, most likely.")
@click.option("--jobs", default=1, show_default=True, help="Processes at once.")
def explore(name: str, seeds: int, first: int | None, jobs: int) -> None:
    """Play many seeds; exit code 1 when one of them breaks a rule."""
    start = int(time.time()) * 1000 if first is None else first
    click.echo(f"{seeds:,} seeds of {name} from {start}")
    began, found = _seconds(jobs), list[str]()
    work = partial(played, name)
    with click.progressbar(length=seeds, file=sys.stderr) as bar:
        if jobs > 1:
            with ProcessPoolExecutor(jobs) as pool:
                for part, results in zip(chunks(start, seeds), pool.map(work, chunks(start, seeds)), strict=True):
                    found += results
                    bar.update(len(part))
        else:
            for part in chunks(start, seeds):
                found += work(part)
                bar.update(len(part))
    rate = seeds / (_seconds(jobs) - began)
    click.echo(f"{rate:,.0f} schedules a second{' of one core' if jobs == 1 else ''}, {len(found)} of them break a rule")
    for text in found[:20]:
        click.echo(f"{text}\n  python -m tests.simulation replay {name} {text.partition(':')[0].removeprefix('seed ')}")
    sys.exit(1 if found else 0)


@main.command()
@click.argument("name", type=click.Choice(sorted(PLAYS)))
@click.argument("seed", type=int)
@click.option("--smaller", is_flag=True, help="First find the smallest plan that breaks the same rule (fleet).")
@click.option("--without", multiple=True, help="Leave this fault out; may be repeated.")
def replay(name: str, seed: int, smaller: bool, without: tuple[str, ...]) -> None:
    """Play one seed again and show what happens."""
    try:
        if name == "fleet":
            _replay_fleet(seed, smaller, without)
        elif name == "consumer":
            consumer.run(seed, click.echo, frozenset(without))
        else:
            PLAYS[name](seed)
    except Broken as error:
        click.echo(f"BROKEN: {error}")
        sys.exit(1)
    click.echo("every promise is kept")


def _replay_fleet(seed: int, smaller: bool, without: tuple[str, ...]) -> None:
    plan = draw(seed)
    for fault in without:
        plan = plan.without(fault)
    if smaller:
        plan = shrink(plan, click.echo)
    click.echo(f"{plan}\n{'seconds':>9}  pid  what")
    fleet.run(seed, plan, click.echo)


@main.command("gate")
def gate_command() -> None:
    """Each mutant, what finds it, and after how many seeds."""
    for entry in gate.GATE:
        found = gate.find(entry)
        what = "survives" if found is None else f"{found.seeds:>5} seeds  {found.what[:90]}"
        click.echo(f"{entry.number:<11} {entry.patch.__name__:<55} {what}")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    main()
