"""How long a process may publish by the route that it knows: the other half of counting one that is silent as gone.

Whoever watches a move takes an instance for gone when it has not been heard of for the fence time, and goes on without it. So an instance
may rely on its route only as long as it cannot have been taken for gone: half of that from the last report that was stored, or from the
last look at the route itself. Once that is over a report proves nothing any more, for the move may have gone on: only a look does.
"""

from __future__ import annotations


class Proof:
    """Times are monotonic seconds. fence_s: 0 while nothing moves, which needs no proof."""

    def __init__(self, now: float) -> None:
        self.fence_s = 0.0
        self._at = now

    def holds(self, now: float) -> bool:
        return not self.fence_s or now - self._at <= self.fence_s / 2

    def reported(self, sent_at: float) -> None:
        """A report was stored that was sent then."""
        if self.holds(sent_at):
            self._at = max(self._at, sent_at)

    def looked(self, began_at: float) -> None:
        """The route is what it was, or has been taken over, as of then."""
        self._at = max(self._at, began_at)
