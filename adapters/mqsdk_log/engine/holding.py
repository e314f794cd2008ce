"""What a seat holds, and what it reports to its consumer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from .cursors import Cursor

Key = tuple[str, int]  # topic, partition


class Held(Protocol):
    """A lease, as far as it has to be given back."""

    def close(self) -> None: ...


@dataclass(slots=True)
class Holding:
    """One ownership. stored: the slot as this process wrote it last. give_back_by: set while the partition is to be handed over.

    ended: handed back in order, but its lease is kept until the same partition of the other topics is handed back too.
    """

    key: Key
    epoch: int
    lease: Held
    stored: Cursor
    give_back_by: float = 0.0
    ended: bool = False


class Holdings(dict[Key, Holding]):
    """What one seat holds. The same partition of several topics belongs together: it is given away as a whole."""

    def admits(self, key: Key, leading: str) -> bool:
        """A partition of a further topic belongs to whoever has that of the leading one."""
        topic, number = key
        first = self.get((leading, number))
        return topic == leading or (first is not None and not first.ended and not first.give_back_by)

    def _mates(self, number: int) -> list[Holding]:
        return [holding for key, holding in self.items() if key[1] == number]

    def end(self, holding: Holding) -> None:
        """Handed back in order: given away as soon as the other topics have handed the partition back too."""
        holding.ended = True
        self._release_ended(holding.key[1])

    def _release_ended(self, number: int) -> None:
        left = self._mates(number)
        if all(holding.ended for holding in left):
            for holding in left:
                holding.lease.close()
                del self[holding.key]

    def release(self, holding: Holding) -> None:
        """Give it away whatever its state. Idempotent."""
        if self.pop(holding.key, None) is not None:
            holding.lease.close()
            self._release_ended(holding.key[1])

    def drop(self, key: Key) -> list[Holding]:
        """This ownership is over: release the partition in all topics."""
        dropped = self._mates(key[1])
        for holding in dropped:
            self.release(holding)
        return dropped


class Gained(NamedTuple):
    """left: progress as the last owner left it."""

    holding: Holding
    left: Cursor
    valid_until: float


class Recalled(NamedTuple):
    holding: Holding


class Dropped(NamedTuple):
    holding: Holding


class Extended(NamedTuple):
    valid_until: float


class Appeared(NamedTuple):
    """The group has progress in a further topic by now: to be answered by `Seat.take_up`."""

    topic: str


class Troubled(NamedTuple):
    """Something does not work and is tried again; told once until it has worked for a while. what: for people, without any content."""

    what: str


Change = Gained | Recalled | Dropped | Extended | Appeared | Troubled
