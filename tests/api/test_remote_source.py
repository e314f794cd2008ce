"""An App that is configured by an address: what it takes and tells, and that it leaves nothing behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mqsdk import App, ConfigError
from mqsdk.config.origin import SourceDown
from mqsdk.events import Reloaded
from mqsdk.runtime.environment import Environment
from mqsdk.testing.simlog import SimBackend, SimLog
from tests.brokers.redis import RedisServer
from tests.brokers.web import WebServer

PATIENCE_S = 30.0


class Service:
    """An App on the in-memory log, configured by what `place` holds."""

    def __init__(self, place: str, store: SimLog) -> None:
        self.app = App(place)
        self.events: list[Reloaded] = []
        self.app.observe(lambda event: self.events.append(event) if isinstance(event, Reloaded) else None)
        self.app.consumer("orders", group="billing")(lambda payload: None)
        self.app._open(environment=Environment(make_backend=lambda cluster: SimBackend(store, name=cluster.name)))
        self.app.start()

    @property
    def concurrency(self) -> int:
        return self.app.consumers()[0].concurrency

    @property
    def outcomes(self) -> list[str]:
        return [event.outcome for event in self.events]


def text(concurrency: object, more: str = "") -> str:
    return f"app: shop\ndefaults: {{concurrency: {concurrency}}}\nreload: {{every: 100ms}}\n{more}"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer(text(2)) as server:
        yield server


@pytest.fixture
def service(web: WebServer, store: SimLog) -> Iterator[Service]:
    made = Service(web.url(user="me:geheim@"), store)
    yield made
    made.app.close()


def test_what_changes_is_applied_and_told_once(web: WebServer, service: Service) -> None:
    until(lambda: web.answers.count(304) > 3)
    assert service.events == []  # the first look finds what was loaded
    web.put(text(5))
    until(lambda: service.concurrency == 5)
    until(lambda: service.outcomes == ["applied"])
    assert service.events[0].changes == (("defaults.concurrency", "2", "5"),)


def test_each_bad_content_and_each_outage_is_told_once_and_the_old_one_stays(web: WebServer, service: Service) -> None:
    def looks() -> None:
        asked = len(web.requests)
        until(lambda: len(web.requests) > asked + 4)

    web.put(text("many"))
    until(lambda: service.outcomes == ["refused"])
    looks()
    web.put(text(9, "requires: '>=99'\n"))
    until(lambda: len(service.events) == 2)
    looks()
    web.status = 503
    until(lambda: len(service.events) == 3)
    looks()
    web.status = 200
    web.put(text(4))
    until(lambda: service.concurrency == 4)
    assert service.outcomes == ["refused", "refused", "refused", "applied"]
    for event, named in zip(service.events, ("concurrency", ">=99", "503"), strict=False):
        assert named in event.problem
    assert all(web.url() in event.problem and "geheim" not in event.problem for event in service.events[:3])


def test_a_reload_that_is_asked_for_asks_the_source(web: WebServer, store: SimLog) -> None:
    web.put(text(2).replace("every: 100ms", "watch: false"))
    service = Service(web.url(), store)
    try:
        web.put(text(3).replace("every: 100ms", "watch: false"))
        assert [change.key for change in service.app.reload()] == ["defaults.concurrency"]
        web.status = 500
        with pytest.raises(SourceDown):
            service.app.reload()
        assert (service.concurrency, service.outcomes) == (3, ["applied", "refused"])
        assert len(web.requests) == 3  # switched off, it does not look by itself
    finally:
        service.app.close()


def test_an_app_leaves_no_thread_and_no_connection(tmp_path: Path, store: SimLog) -> None:
    server = RedisServer(tmp_path)
    server.call("SET", "shop", text(2))

    def clients() -> int:
        with server.client() as client:
            return len(client.client_list())

    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith(("mqsdk-watch", "mqsdk-config"))]

    try:
        before = clients()
        service = Service(f"redis://{server.address}?key=shop", store)
        until(lambda: clients() == before + 2)
        assert sorted(threads()) == ["mqsdk-config-hint", "mqsdk-watch"]
        service.app.close()
        until(lambda: not threads())
        until(lambda: clients() == before)
    finally:
        server.stop()


def test_an_address_that_no_source_has_is_a_config_error_at_open() -> None:
    app = App("redis://me:geheim@h/0")
    for call in (app.start, lambda: app.publish("orders", b"x"), lambda: app.settings):
        with pytest.raises(ConfigError, match=r"redis://h/0: names no key") as caught:
            call()
        assert "geheim" not in str(caught.value)
    assert "geheim" not in repr(app)
    assert app.state == "NEW"
