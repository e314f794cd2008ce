"""Everything that a test replaces: clock, chance, backends, executors, observers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from mqsdk.config.model import Cluster
from mqsdk.core.actions import Tuning
from mqsdk.events import Event
from mqsdk.runtime import plugins
from mqsdk.runtime.clock import Clock, SystemClock
from mqsdk.runtime.handler import Handler
from mqsdk.runtime.unfinished import Memory
from mqsdk.runtime.workers import Results, Workers
from mqsdk.spi import Backend, Start

if TYPE_CHECKING:
    from mqsdk.runtime.isolation import Isolation
    from mqsdk.runtime.tasks import EventLoop


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A consumer as the API declared it. tuning: the decorator's explicit values by the names of Tuning.

    isolation: how its worker processes are made; None = the handler runs in this process.
    """

    topic: str
    group: str
    handler: Handler
    ordered: bool = False
    batch: int | None = None
    batch_wait_s: float = 0.0
    start: Start = None
    dead_letter: str | None = None
    broadcast: bool = False
    tuning: Mapping[str, Any] = field(default_factory=dict)
    isolation: Isolation | None = None

    @property
    def name(self) -> str:
        return f"{self.topic}/{self.group}"


class MakeWorkers(Protocol):
    def __call__(self, declared: Declared, results: Results, tuning: Tuning, /) -> Workers: ...


def _ignore(event: Event) -> None:
    """No observer."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """make_workers, make_event_loop: None = threads and a real event loop. settle_every_s: as in Spec.

    threaded: False = nothing runs by itself, the owner calls `step`. isolated: False = no handler runs in a worker process.
    memory: of unfinished changes of cluster, None = the state folder.
    """

    clock: Clock = field(default_factory=SystemClock)
    rng: random.Random = field(default_factory=random.Random)
    make_backend: Callable[[Cluster], Backend] = plugins.make_backend
    make_workers: MakeWorkers | None = None
    make_event_loop: Callable[[str], EventLoop] | None = None
    settle_every_s: float = 0.01
    threaded: bool = True
    isolated: bool = True
    observe: Callable[[Event], None] = _ignore
    memory: Memory | None = None
