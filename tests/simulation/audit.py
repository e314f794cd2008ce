"""I10: each message that a machine has received and not settled is in exactly one place."""

from __future__ import annotations

from collections import Counter

from mqsdk.core.lanes import Lanes
from mqsdk.core.machine import Machine
from mqsdk.core.partition import Ownership
from tests.simulation.broken import Broken


def audit(machine: Machine) -> None:
    """Of a machine between two feeds. Halts are left out: a halted message waits in no queue."""
    for ownership in machine._owned.values():
        if not ownership.fenced:
            _audit(machine, ownership)


def _audit(machine: Machine, ownership: Ownership) -> None:
    places: Counter[int] = Counter()
    for run in machine._starter._running.values():
        if run.ownership is ownership:
            places.update(record.position for record in run.records)
    places.update(record.position for record in ownership.queue.everything())
    places.update(one[4].position for one in machine._desk.timers._heap if one[3] is ownership and hasattr(one[4], "position"))
    places.update(one.copy.record.position for one in machine._failing._copies.values() if one.ownership is ownership)
    places.update(one[4].copy.record.position for one in machine._desk.timers._heap if one[3] is ownership and hasattr(one[4], "copy"))
    for lane in machine._cutting._held.get(ownership, {}).values():
        places.update(record.position for record in lane)
    mark = ownership.watermark
    missing = [position for start, stop in mark.missing(mark.low, ownership.expected) for position in range(start, stop)]
    if sorted(places.elements()) != missing:
        lost, twice = sorted(set(missing) - set(places)), sorted(position for position, count in places.items() if count > 1)
        kind = "ordered" if isinstance(ownership.queue, Lanes) else "unordered"
        raise Broken(
            f"I10: of {ownership.partition} ({kind}) {lost} are nowhere, {twice} in two places, {sorted(places)} in all of {missing}"
        )
