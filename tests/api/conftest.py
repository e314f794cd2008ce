"""An App over the in-memory log, with real threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mqsdk import App
from mqsdk.config.model import Cluster, Configuration, Route
from mqsdk.runtime.environment import Environment
from mqsdk.testing.simlog import SimBackend, SimLog

BOUND_S = 15.0
MEMORY_ONLY = Configuration(
    clusters={"local": Cluster(name="local", backend="memory", lease_s=3.0)},
    routes=(Route(topics=("orders*", "payments"), cluster="local"),),
)

Opener = Callable[..., App]


@pytest.fixture
def store() -> SimLog:
    return SimLog()


@pytest.fixture
def open_app(store: SimLog) -> Iterator[Opener]:
    """Opens an App on the in-memory log; closes it at the end."""
    opened: list[App] = []

    def open_it(app: App, configuration: Configuration = MEMORY_ONLY, **more: Any) -> App:
        environment = Environment(make_backend=lambda cluster: SimBackend(store, name=cluster.name))
        app._open(configuration=configuration, environment=environment, **more)
        opened.append(app)
        return app

    yield open_it
    for app in opened:
        app.close()


@pytest.fixture
def app(open_app: Opener) -> App:
    """An App that is OPEN."""
    return open_app(App())


class Seen:
    """What a handler noted; `wait` until there is enough of it."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.changed = threading.Condition()

    def add(self, item: Any) -> None:
        with self.changed:
            self.items.append(item)
            self.changed.notify_all()

    def wait(self, count: int) -> list[Any]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.items) >= count, BOUND_S), f"{len(self.items)} of {count}: {self.items}"
            return list(self.items)


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Wait for a condition that nobody signals."""

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + BOUND_S
        pause = threading.Event()
        while not condition():
            assert time.monotonic() < end, "condition not met in time"
            pause.wait(0.005)

    return wait
