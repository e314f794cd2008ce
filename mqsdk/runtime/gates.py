"""What becomes of the start gates of a consumer when what it gave out is taken back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from mqsdk.runtime.workers import Gate

K = TypeVar("K")


def recalled(gates: Mapping[K, Gate]) -> dict[K, Gate]:
    """New gates for jobs to come, the old ones shut: jobs that are out hold those, and what has not started is skipped.

    A drain shuts gates from any thread. One that misses a new gate is followed by the machine's Fence.
    """
    renewed = {key: Gate(gate.valid_until) for key, gate in gates.items()}
    for gate in gates.values():
        gate.valid_until = 0.0
    return renewed
