"""Messages per second by cluster over time, with the stages marked: as `move.png` with matplotlib, else as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

BIN_S = 0.5
COLORS = {"old": "#8c6d31", "new": "#3182bd"}
WIDTH = 60


class Handled(NamedTuple):
    """at: Unix time in seconds."""

    at: float
    cluster: str
    key: str
    number: int


Stages = Sequence[tuple[float, str]]


def rates(handled: Sequence[Handled], began: float) -> dict[str, list[float]]:
    """Messages per second, one figure for each half second."""
    bins = int((handled[-1].at - began) / BIN_S) + 1
    counts = Counter((one.cluster, max(0, int((one.at - began) / BIN_S))) for one in handled)
    return {cluster: [counts[cluster, number] / BIN_S for number in range(bins)] for cluster in COLORS}


def draw(handled: Sequence[Handled], stages: Stages) -> None:
    try:
        pyplot: Any = import_module("matplotlib.pyplot")
    except ImportError:
        draw_text(rates(handled, stages[0][0]), stages)
        return
    draw_png(pyplot, rates(handled, stages[0][0]), stages)


def draw_png(pyplot: Any, found: dict[str, list[float]], stages: Stages) -> None:
    began = stages[0][0]
    pyplot.switch_backend("agg")
    figure, axes = pyplot.subplots(figsize=(11, 4.5))
    times = [number * BIN_S for number in range(len(found["old"]))]
    axes.stackplot(times, *found.values(), labels=[f"handled from `{name}`" for name in found], colors=list(COLORS.values()), alpha=0.85)
    top = max(map(sum, zip(*found.values(), strict=True))) * 1.35
    for at, stage in stages:
        axes.axvline(at - began, color="black", linewidth=0.8, linestyle="--")
        axes.text(at - began + 0.1, top * 0.98, stage, rotation=90, va="top", fontsize=8)
    axes.set(xlabel="seconds", ylabel="messages per second", ylim=(0, top), xlim=(0, times[-1]), title="orders: old -> new, and back")
    figure.legend(loc="upper right", ncols=2, fontsize=8)
    figure.tight_layout()
    figure.savefig("move.png", dpi=110)
    print("the picture is in move.png", flush=True)


def draw_text(found: dict[str, list[float]], stages: Stages) -> None:
    """A line for each second: `#` for the old cluster, `o` for the new one."""
    top = max(map(sum, zip(*found.values(), strict=True))) or 1.0
    marks = {int((at - stages[0][0]) / BIN_S): stage for at, stage in stages}
    for number, (old, new) in enumerate(zip(found["old"], found["new"], strict=True)):
        if number % 2 == 0:
            stage = marks.get(number) or marks.get(number + 1) or ""
            print(f"{number * BIN_S:5.0f} s {stage:12} {'#' * round(old / top * WIDTH)}{'o' * round(new / top * WIDTH)}")
    print("# handled from `old`, o from `new`; with matplotlib installed this is a picture", flush=True)
