"""The stages of a move and what each asks of a process: data that the configuration holds and everything else reads."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

Stage = Literal["source", "read_both", "dual_write", "switch_write", "target", "read_back", "switch_back"]
STAGES: tuple[Stage, ...] = get_args(Stage)

FENCE_S = 10.0  # an instance that is silent for longer is gone, and writes nothing before it has looked at its route again


class View(NamedTuple):
    """What a process does with a topic. reads: of an ordered topic the messages on a later cluster wait for those on earlier ones."""

    writes: str
    reads: tuple[str, ...]


def view(stage: Stage, source: str, target: str) -> View:
    """What a stage asks of every process."""
    both, back = (source, target), (target, source)
    views: dict[Stage, View] = {
        "source": View(source, (source,)),
        "read_both": View(source, both),
        "dual_write": View(source, both),
        "switch_write": View(target, both),
        "target": View(target, (target,)),
        "read_back": View(target, back),
        "switch_back": View(source, back),
    }
    return views[stage]


def has_shadows(stage: Stage) -> bool:
    """Whether what is written goes to the other cluster too, as a copy that nobody handles (`core.shadows`)."""
    return stage == "dual_write"
