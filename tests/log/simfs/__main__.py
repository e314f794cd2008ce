"""`python -m tests.log.simfs SEED`: what one seed does, call by call, each crash, and what recovery made of it. Exit code 1: it breaks."""

from __future__ import annotations

import argparse
import sys

from tests.log.simfs.check import Broken
from tests.log.simfs.explore import explore


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.log.simfs", description="Replay one seed of the simulated crashes.")
    parser.add_argument("seed", type=int)
    parser.add_argument("--last", action="store_true", help="the story and the last crash only: the one that breaks, if any does")
    arguments = parser.parse_args()
    trace: list[str] = []
    try:
        run = explore(arguments.seed, trace=trace)
    except Broken as error:
        _print(trace, last=arguments.last)
        print(f"\nBROKEN: {error}", file=sys.stderr)
        return 1
    _print(trace, last=arguments.last)
    print(f"\nnothing broken: {run.images} images, {run.recovered_twice} of them of a second crash, {run.faults} calls made to fail")
    return 0


def _print(trace: list[str], *, last: bool) -> None:
    crashes = [index for index, line in enumerate(trace) if line.startswith("--- ")]
    if last and crashes:
        firsts = [index for index in crashes if trace[index].startswith("--- crash")]
        trace = [*trace[: crashes[0]], "...", *trace[firsts[-1] :]]
    print("\n".join(trace))


if __name__ == "__main__":
    sys.exit(main())
