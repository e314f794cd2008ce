"""What one connection was asked and has not answered yet: the server works on the next entries while the last ones are handled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mqsdk_redis.wire import Command, Wire

Reply = Callable[[Any], None]
Call = tuple[Command, Reply]


class Pipeline:
    """outbox: goes out with the next question. Answers are heard before anything else is asked, so never two questions are out."""

    def __init__(self) -> None:
        self.outbox: list[Call] = []
        self._asked: list[Call] = []
        self._kept = 0

    def send(self, command: Command) -> None:
        """With the next question; whatever the answer is, nothing follows from it."""
        self.outbox.append((command, lambda _: None))

    def ask(self, wire: Wire, calls: Sequence[Call]) -> None:
        """Send the outbox and these. Raises as Wire does."""
        self._kept = len(self.outbox)
        self._asked = [*self.outbox, *calls]
        self.outbox.clear()
        if self._asked:
            wire.send([command for command, _ in self._asked])

    def hear(self, wire: Wire) -> None:
        """Wait for what was asked, and pass it on: all of it is there before the first is, as a reply may ask something itself."""
        if self._asked:
            replies = wire.replies([command for command, _ in self._asked])
            asked, self._asked = self._asked, []
            for (_, answered), reply in zip(asked, replies, strict=True):
                answered(reply)

    def forget(self) -> None:
        """The connection has ended: what was in the outbox is asked again; what was read may be read again."""
        self.outbox[:0] = self._asked[: self._kept]
        self._asked = []
