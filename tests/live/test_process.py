"""Every other live key: what a running process does before and after its file changed."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mqsdk import App, ConfigError, InvalidMessage, PublishRejected, PublishUnknown
from mqsdk.api import controlling, following
from mqsdk.config.model import Cluster
from mqsdk.events import Event, Reloaded, Stuck
from mqsdk.runtime.environment import Environment
from mqsdk.spi import EventSink, Producer
from mqsdk.testing.simlog import SimBackend, SimLog
from tests.live.keys import shows
from tests.live.stage import HEAD, QUIET, Shop

PATIENCE_S = 30.0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Shop]]:
    made: list[Shop] = []

    def one(text: str, **options: Any) -> Shop:
        made.append(Shop(tmp_path, text, **options))
        return made[-1]

    yield one
    for shop in made:
        shop.app.close()


# --- in virtual time -------------------------------------------------------------------------------------------------------------


@shows("publish.timeout")
def test_the_time_for_one_publish(start: Callable[..., Shop]) -> None:
    shop = start("publish: {timeout: 20s}")

    def fails_after() -> float:
        shop.stores["a"].fail_publish("unknown_lost", 1)
        began = shop.now
        with pytest.raises(PublishUnknown):
            shop.app.publish("orders", 1)
        return shop.now - began

    assert fails_after() == pytest.approx(20, abs=1)
    shop.take("publish: {timeout: 2s}")
    assert fails_after() == pytest.approx(2, abs=1)


@shows("limits.payload")
def test_the_largest_payload(start: Callable[..., Shop]) -> None:
    shop = start("limits: {payload: 100}")
    with pytest.raises(InvalidMessage):
        shop.app.publish("orders", b"x" * 200)
    shop.take("limits: {payload: 1000}")
    shop.app.publish("orders", b"x" * 200)


@shows("drain.timeout")
def test_the_time_for_running_handlers_at_a_stop(start: Callable[..., Shop]) -> None:
    shop = start("drain: {timeout: 10m}")
    shop.busy_s = 3600.0
    shop.publish(1)
    shop.take("drain: {timeout: 5s}")
    began = shop.now
    shop.app.stop()
    assert shop.now - began == pytest.approx(5, abs=1)


@shows("watchdog.no_progress")
def test_when_a_handler_is_reported(start: Callable[..., Shop]) -> None:
    shop = start("watchdog: {no_progress: 1h}\ndefaults: {timeout: none}\n")
    shop.busy_s = 1800.0
    shop.publish(1)
    shop.advance("1m")
    assert not shop.told(Stuck)
    shop.take("watchdog: {no_progress: 2m}\ndefaults: {timeout: none}\n")
    shop.advance("2m")
    assert [event.age_s for event in shop.told(Stuck)] == [pytest.approx(120, abs=5)]


def switched(text: str) -> str:
    """With `orders*` on cluster b."""
    return f"{HEAD}{text}".replace('["orders*"], cluster: a', '["orders*"], cluster: b')


@shows("routes.[].cluster")
def test_the_cluster_of_a_route(start: Callable[..., Shop]) -> None:
    shop = start("")
    assert shop.app.publish("orders", 1).cluster == "a"
    shop.take(QUIET, head=switched(""))
    assert shop.app.publish("orders", 2).cluster == "b"
    shop.advance("1s")
    assert sorted(number for _, number in shop.seen) == [1, 2]


@shows("routes.[].topics")
def test_the_topics_of_a_route(start: Callable[..., Shop]) -> None:
    shop = start("")
    assert shop.app.publish("users", 1).cluster == "b"
    shop.take(QUIET, head=HEAD.replace('"orders*"', '"orders*", "users"'))
    assert shop.app.publish("users", 2).cluster == "a"
    shop.take(QUIET, head=HEAD.replace('"orders*"', '"x*"'))
    assert shop.app.publish("orders", 2).cluster == "b"


@shows("reload.settle")
def test_how_long_the_old_cluster_of_a_topic_must_stay_empty(start: Callable[..., Shop]) -> None:
    shop = start("")
    shop.take("reload: {watch: false, settle: 1h}\n", head=switched(""))
    shop.advance("10m")
    assert [one.cluster for one in shop.app.consumers()] == ["a", "b"]
    shop.take("reload: {watch: false, settle: 2s}\n", head=switched(""))
    shop.advance("5s")
    assert [one.cluster for one in shop.app.consumers()] == ["b"]


# --- with threads and the time of the world -----------------------------------------------------------------------------------------


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


class Client(SimBackend):
    """A client of the shared log that notes what is published through it, and waits before that while `gate` is shut."""

    def __init__(self, store: SimLog, cluster: Cluster, gate: threading.Event) -> None:
        super().__init__(store, name=cluster.name)
        self.options = cluster.options
        self.published = 0
        self.gate = gate

    def producer(self, events: EventSink) -> Any:
        inner, client = super().producer(events), self

        class Noting(Producer):
            def publish(self, batch: Any, deadline: float) -> None:
                assert client.gate.wait(PATIENCE_S)
                client.published += len(batch)
                inner.publish(batch, deadline)

        return Noting()


class Real:
    """An App with a file, over an in-memory log. clients: every one that it has made, oldest first."""

    def __init__(self, folder: Path, text: str) -> None:
        self.path = folder / "mqsdk.yaml"
        self.gate = threading.Event()
        self.gate.set()
        self.clients: list[Client] = []
        self.seen: list[int] = []
        self.events: list[Event] = []
        self.write(text)
        self.app = App(self.path)
        self.app.observe(self.events.append)
        self.app.consumer("orders", group="billing")(self._bill)
        store = SimLog()

        def make(cluster: Cluster) -> Client:
            self.clients.append(Client(store, cluster, self.gate))
            return self.clients[-1]

        self.app._open(environment=Environment(make_backend=make))
        self.app.start()

    def _bill(self, number: int) -> None:
        self.seen.append(number)

    def write(self, text: str) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.chmod(0o600)
        new.rename(self.path)

    def take(self, text: str) -> None:
        self.write(text)
        assert self.app.reload(), "something changed"

    def publishes_through(self) -> Client:
        """Of the next publish, which is handled."""
        before = [client.published for client in self.clients]
        number = sum(before)
        self.app.publish("orders", number)
        until(lambda: number in self.seen)
        (found,) = (client for client, earlier in zip(self.clients, before, strict=True) if client.published > earlier)
        return found


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[[str], Real]]:
    made: list[Real] = []

    def one(text: str) -> Real:
        made.append(Real(tmp_path, text))
        return made[-1]

    yield one
    for real in made:
        real.gate.set()
        real.app.close()


# The cluster's block before and after, and what of it the new client has.
CLIENT_KEYS: dict[str, tuple[str, str, object]] = {
    "servers": ('servers: ["h1:1"]', 'servers: ["h2:1"]', ["h2:1"]),
    "options": ("options: {x: 1}", "options: {x: 2}", {"x": 2}),
    **{f"tls.{name}": (f"tls: {{{name}: ./one}}", f"tls: {{{name}: ./two}}", "./two") for name in ("ca", "cert", "key")},
    "tls.verify": ("tls: {verify: true}", "tls: {verify: false}", False),
    **{f"auth.{name}": (f"auth: {{{name}: one}}", f"auth: {{{name}: two}}", "two") for name in ("mechanism", "user", "password", "token")},
}
SERVER = 'clusters: {main: {backend: redis, servers: ["h1:1"], KEYS}}\npublish: {timeout: 50ms}\n' + QUIET


def given(options: Any, key: str) -> object:
    for name in key.split("."):
        options = options[name]
    return options


@shows(*(f"clusters.*.{key}" for key in CLIENT_KEYS))
@pytest.mark.parametrize("key", CLIENT_KEYS)
def test_how_a_cluster_is_reached(run: Callable[[str], Real], monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """A new client of these options is used, and the old one closed."""
    monkeypatch.setattr("mqsdk.config.backends.options_of", lambda name: None)
    before, after, wanted = CLIENT_KEYS[key]
    text = SERVER if key != "servers" else SERVER.replace('servers: ["h1:1"], ', "")
    real = run(text.replace("KEYS", before))
    old = real.publishes_through()
    assert given(old.options, key) != wanted
    real.take(text.replace("KEYS", after))
    new = real.publishes_through()
    assert new is not old
    assert given(new.options, key) == wanted
    until(lambda: not old.is_open)
    assert real.publishes_through() is new


LOCAL = "clusters: {main: {backend: log}}\n" + QUIET
WINDOWS = {"records": ("{records: 3}", "{records: 12}"), "bytes": ("{bytes: 2KiB}", "{bytes: 8KiB}")}


@shows(*(f"publish.window.{name}" for name in WINDOWS))
@pytest.mark.parametrize("name", WINDOWS)
def test_how_much_may_be_under_way(run: Callable[[str], Real], name: str) -> None:
    before, after = (f"{LOCAL}publish: {{window: {window}}}\n" for window in WINDOWS[name])
    real = run(before)
    payload = 1 if name == "records" else 10**600
    real.gate.clear()
    for _ in range(3):
        real.app.publish_nowait("orders", payload, timeout="30s")
    with pytest.raises(PublishRejected):
        real.app.publish_nowait("orders", payload, timeout="50ms")
    waiting = threading.Thread(target=real.app.publish_nowait, args=("orders", payload), kwargs={"timeout": "1h"}, daemon=True)
    waiting.start()
    real.take(after)
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive(), "who waits for room has it now"
    real.app.publish_nowait("orders", payload, timeout="30s")


@shows("reload.watch")
def test_looking_is_switched_on_and_off(run: Callable[[str], Real], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float | None] = []
    every_s = following._every_s

    def noted(app: App) -> float | None:
        asked.append(every_s(app))
        return asked[-1]

    monkeypatch.setattr(following, "_every_s", noted)
    cluster = "clusters: {main: {backend: log}}\n"
    real = run(cluster + QUIET)
    real.take(cluster + "reload: {every: 100ms}\n")
    real.write(cluster + "reload: {every: 100ms}\ndefaults: {concurrency: 3}\n")
    until(lambda: real.app.consumers()[0].concurrency == 3)
    real.take(cluster + QUIET)
    off = len(asked)
    until(lambda: asked[off:].count(None) > 2)
    real.write(cluster + QUIET + "defaults: {concurrency: 5}\n")
    off = len(asked)
    until(lambda: asked[off:].count(None) > 2)
    assert [change.key for change in real.app.reload()] == ["defaults.concurrency"], "nobody has taken it before"


@shows("reload.every")
def test_how_often_it_looks_holds_at_once(run: Callable[[str], Real]) -> None:
    """A wait of an hour that has begun is over, too."""
    cluster = "clusters: {main: {backend: log}}\n"
    real = run(cluster + "reload: {every: 1h}\n")
    real.take(cluster + "reload: {every: 100ms}\n")
    real.write(cluster + "reload: {every: 100ms}\ndefaults: {concurrency: 3}\n")
    until(lambda: real.app.consumers()[0].concurrency == 3)


def page(real: Real, path: str, token: str = "") -> tuple[int, str]:
    assert real.app._doors.port is not None
    connection = http.client.HTTPConnection("127.0.0.1", real.app._doors.port, timeout=PATIENCE_S)
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def status_of(real: Real, token: str) -> int:
    return page(real, "/live", token)[0]


def test_the_number_of_the_configuration_is_the_same_wherever_it_is_told(run: Callable[[str], Real]) -> None:
    text = LOCAL + "observability: {listen: '127.0.0.1:0'}\ndefaults: {concurrency: %s}\n"
    real = run(text % 1)
    for concurrency in ("2", "3", "many"):
        real.write(text % concurrency)
        with suppress(ConfigError):
            real.app.reload()
    assert [(event.outcome, event.version) for event in real.events if isinstance(event, Reloaded)] == [
        ("applied", 2),
        ("applied", 3),
        ("refused", 3),
    ]
    assert [(info.config, info.concurrency) for info in real.app.consumers()] == [(3, 3)]
    assert controlling.status(real.app)["config"] == json.loads(page(real, "/consumers")[1])["config"] == 3
    numbers = page(real, "/metrics")[1]
    assert 'config="3"' in next(line for line in numbers.splitlines() if line.startswith("mqsdk_info{"))
    assert 'mqsdk_reloads_total{outcome="applied"} 2.0' in numbers
    assert 'mqsdk_reloads_total{outcome="refused"} 1.0' in numbers


@shows("observability.token")
def test_the_token_of_the_pages(run: Callable[[str], Real]) -> None:
    real = run(LOCAL + "observability: {listen: '127.0.0.1:0', token: one}\n")
    assert (status_of(real, "one"), status_of(real, "two")) == (200, 401)
    real.take(LOCAL + "observability: {listen: '127.0.0.1:0', token: two}\n")
    assert (status_of(real, "one"), status_of(real, "two")) == (401, 200)


@shows("requires.version", "requires.action")
def test_which_versions_may_go_on(run: Callable[[str], Real], caplog: pytest.LogCaptureFixture) -> None:
    real = run(LOCAL + "requires: {version: '>=0.0.1', action: warn}\n")
    assert not caplog.messages
    real.take(LOCAL + "requires: {version: '>=99', action: warn}\n")
    assert any("needs mqsdk >=99" in message for message in caplog.messages)
    real.write(LOCAL + "requires: {version: '>=99', action: refuse}\n")
    with pytest.raises(ConfigError, match="needs mqsdk >=99"):
        real.app.reload()
    assert [event.outcome for event in real.events if isinstance(event, Reloaded)] == ["applied", "refused"]
