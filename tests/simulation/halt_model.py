"""What stands still and must not run, in the plainest words: the simulation asks it at every job and every start."""

from __future__ import annotations

from typing import Protocol

from mqsdk.core.parking import HALTS, PARTITION
from mqsdk.core.sparse import decode
from mqsdk.events import Freed, Halted
from tests.simulation.broken import Broken


class Saved(Protocol):
    """What a backend keeps of one partition."""

    position: int
    sparse: bytes


class HaltModel:
    """halted: what the owner of a partition knows to be halted; a new owner knows what was saved."""

    def __init__(self) -> None:
        self.halted: dict[int, dict[int, str]] = {}

    def assigned(self, number: int, cursor: Saved) -> None:
        saved = decode(cursor.sparse, cursor.position).halts
        scopes = {position: "partition" if kind == PARTITION else "key" for position, kind in saved.items() if kind in HALTS}
        self.halted[number] = scopes

    def reported(self, number: int, event: Halted | Freed) -> None:
        found, position = self.halted.setdefault(number, {}), event.position
        if isinstance(event, Halted):
            if position in found:
                raise Broken(f"{position} is halted twice")
            found[position] = event.scope
        elif found.pop(position, None) is None:
            raise Broken(f"{position} is released and was not halted")

    def lost(self, number: int, positions: range) -> None:
        """A gap: what is gone stands in nobody's way."""
        for position in self.halted[number].keys() & set(positions):
            del self.halted[number][position]

    def given(self, number: int) -> None:
        """A job of this partition was given out."""
        if "partition" in self.halted[number].values():
            raise Broken("a job of a halted partition is given out")

    def started(self, number: int, position: int) -> None:
        if position in self.halted[number] or "partition" in self.halted[number].values():
            raise Broken(f"{position} runs although it or its partition is halted")
