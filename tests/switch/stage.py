"""An App with a file, over one in-memory log per cluster: in virtual time, or with the threads and the time of the world."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mqsdk import App
from mqsdk.config.model import Cluster
from mqsdk.errors import Unavailable
from mqsdk.events import ClusterChanged, Event
from mqsdk.runtime.environment import Environment
from mqsdk.runtime.unfinished import InMemory, Memory
from mqsdk.spi import Backend, Capabilities
from mqsdk.testing.clock import VirtualClock
from mqsdk.testing.simlog import MEMORY, SimBackend, SimLog
from mqsdk.testing.stages import VirtualStage

FILE = """
app: shop
clusters:
  a: {backend: log, path: ./a}
  b: {backend: log, path: ./b}
  c: {backend: log, path: ./c}
routes:
  - {topics: ["orders*"], cluster: a}
  - {topics: ["*"], cluster: c}
defaults: {concurrency: 4}
reload: {watch: false, settle: 2s}
"""
BOUND_S = 10.0


class Stores(dict[str, SimLog]):
    """One log per cluster, shared by the Apps of a test."""

    def __init__(self, clock: VirtualClock | None = None) -> None:
        super().__init__()
        self.clock = clock

    def __missing__(self, cluster: str) -> SimLog:
        self[cluster] = SimLog(self.clock) if self.clock is not None else SimLog()
        return self[cluster]


class Virtual(VirtualStage):
    """As TestApp's stage, with a log of its own for each cluster."""

    def __init__(self, stores: Stores, capabilities: dict[str, Capabilities], memory: Memory) -> None:
        super().__init__(None, 0)
        assert stores.clock is not None
        self.clock = stores.clock
        self.stores = stores
        self.able = capabilities
        self._kept = memory
        self.down: set[str] = set()

    def environment(self) -> Environment:
        return replace(super().environment(), memory=self._kept)

    def _make_backend(self, cluster: Cluster) -> Backend:
        if cluster.name in self.down:
            raise Unavailable("no answer", cluster=cluster.name, fix="check `servers`")
        return SimBackend(self.stores[cluster.name], name=cluster.name, capabilities=self.able.get(cluster.name, MEMORY))

    def _due(self) -> float | None:
        moments = [super()._due(), *(store.due() for store in self.stores.values())]
        return min((moment for moment in moments if moment is not None), default=None)


class Service:
    """One process. declare: adds consumers. virtual: nothing runs by itself, `advance` moves the clock."""

    def __init__(
        self,
        folder: Path,
        stores: Stores,
        declare: Callable[[App], object] = lambda app: None,
        *,
        virtual: bool = True,
        capabilities: dict[str, Capabilities] | None = None,
        memory: Memory | None = None,
        file: str = FILE,
    ) -> None:
        self.path = folder / "mqsdk.yaml"
        self.route(file=file)
        self.app = App(self.path)
        self.steps: list[tuple[str, str, str, str]] = []
        self.app.observe(self._note)
        declare(self.app)
        self.stage = Virtual(stores, capabilities or {}, memory or InMemory()) if virtual else None
        if self.stage is not None:
            environment = self.stage.environment()
        else:
            environment = Environment(
                make_backend=lambda cluster: SimBackend(stores[cluster.name], name=cluster.name), memory=memory or InMemory()
            )
        session = self.app._open(environment=environment)
        if self.stage is not None:
            self.stage.supervisor = session.supervisor

    def _note(self, event: Event) -> None:
        if isinstance(event, ClusterChanged):
            self.steps.append((event.step, event.group, event.source, event.target))

    def route(self, cluster: str = "a", *, file: str = FILE) -> None:
        """Write the file so that `orders*` is there."""
        self.path.write_text(file.replace('["orders*"], cluster: a', f'["orders*"], cluster: {cluster}'))
        self.path.chmod(0o600)

    def switch(self, cluster: str, **text: Any) -> None:
        self.route(cluster, **text)
        self.app.reload()

    def settle(self) -> None:
        assert self.stage is not None
        self.stage.settle_down()

    def advance(self, duration: str) -> None:
        assert self.stage is not None
        self.stage.advance(duration)

    @property
    def clusters(self) -> list[str]:
        """Where consumers read now."""
        return [info.cluster for info in self.app.consumers()]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.002)
