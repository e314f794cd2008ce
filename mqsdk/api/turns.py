"""First come, first served, for what an event loop has to wait for in a thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


class _Turn:
    __slots__ = ("lock", "waiting")

    def __init__(self, lock: asyncio.Lock) -> None:
        self.lock = lock
        self.waiting = 0


class Turns:
    """Things that are opened on first use, each by its name. Any event loop; each has turns of its own."""

    def __init__(self) -> None:
        self._turns: dict[tuple[Any, str], _Turn] = {}

    async def opened(self, name: str, is_open: Callable[[], bool], open_it: Callable[[], object]) -> None:
        """Return when it is open, to one caller after the other in the order of their calls; `open_it` runs beside the loop.

        While one caller waits, later ones queue behind it even if it is open by then. What a caller does before its next wait happens in
        this order too, because the lock goes to the next one by way of the loop. Raises what `open_it` raises.
        """
        import asyncio

        key = (asyncio.get_running_loop(), name)
        turn = self._turns.get(key)
        if turn is None:
            if is_open():
                return
            turn = self._turns[key] = _Turn(asyncio.Lock())
        turn.waiting += 1
        try:
            async with turn.lock:
                if not is_open():
                    await asyncio.to_thread(open_it)
        finally:
            turn.waiting -= 1
            if not turn.waiting:
                del self._turns[key]
