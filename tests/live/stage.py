"""A process whose file changes while its consumer runs, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mqsdk import App, Message
from mqsdk.events import Event
from mqsdk.testing.clock import VirtualClock
from tests.switch.stage import Service, Stores

HEAD = """
app: shop
clusters:
  a: {backend: log, path: ./a}
  b: {backend: log, path: ./b}
routes:
  - {topics: ["orders*"], cluster: a}
  - {topics: ["*"], cluster: b}
"""
QUIET = "reload: {watch: false}\n"
AT_HOME: dict[str, Callable[[str], str]] = {
    "defaults": lambda keys: f"defaults: {{{keys}}}\n",
    "consumers": lambda keys: f'consumers: {{"orders/billing": {{{keys}}}}}\n',
}


class Shop:
    """`orders/billing` handles what is published at once, or takes `busy_s` for it, or fails for what is in `broken`.

    seen: (seconds since the start, number) of what it has handled. most: handlers that ran at once since it was set to 0.
    """

    def __init__(self, folder: Path, text: str = "", **options: Any) -> None:
        self.busy_s = 0.0
        self.broken: set[int] = set()
        self.seen: list[tuple[float, int]] = []
        self.events: list[Event] = []
        self.running = self.most = 0
        self._options = options
        self._clock = VirtualClock()
        self._began = self._clock.mono()
        self.stores = Stores(self._clock)
        self._service = Service(folder, self.stores, self._declare, file=HEAD + QUIET + text)
        self.app = self._service.app
        self.app.start()

    def _declare(self, app: App) -> None:
        app.observe(self.events.append)

        @app.consumer("orders", group="billing", **self._options)
        async def bill(number: int, message: Message[int]) -> None:
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                if self.busy_s:
                    await asyncio.sleep(self.busy_s)
                if number in self.broken:
                    raise ConnectionError("not yet")
                self.seen.append((self.now, number))
            finally:
                self.running -= 1

    @property
    def now(self) -> float:
        return round(self._clock.mono() - self._began, 3)

    def take(self, text: str, head: str = HEAD + QUIET) -> list[str]:
        """Another file, and what changed by it."""
        self._service.route(file=head + text)
        changes = [change.key for change in self.app.reload()]
        self._service.settle()
        return changes

    def publish(self, *numbers: int, key: str | None = None) -> None:
        self.app.publish_many("orders", list(numbers), key=key)
        self._service.settle()

    def advance(self, duration: str) -> None:
        self._service.advance(duration)

    def told(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]
