"""`app.reload()`: the whole new file, or the old one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mqsdk import App, ConfigError, InvalidMessage, Settings, StateError
from mqsdk.config.load import load
from mqsdk.events import Event, Reloaded, SettingChanged
from mqsdk.runtime.environment import Environment
from mqsdk.testing.simlog import SimBackend, SimLog
from tests.config.test_folder import Mounted

FILE = """
app: shop
clusters:
  local: {backend: log, path: ./data}
  other: {backend: log, path: ./other}
routes:
  - {topics: ["orders*"], cluster: local}
  - {topics: ["*"], cluster: other}
defaults: {concurrency: 4}
limits: {payload: 1MiB}
reload: {watch: false, every: 100ms}
"""


class Service:
    """An App with a file, on the in-memory log."""

    def __init__(self, path: Path, store: SimLog) -> None:
        self.path = path
        self.write(FILE)
        self.app = App(path)
        self.events: list[Reloaded] = []
        self.app.observe(lambda event: self.events.append(event) if isinstance(event, Reloaded) else None)
        self.app.consumer("orders", group="billing")(lambda payload: None)
        environment = Environment(make_backend=lambda cluster: SimBackend(store, name=cluster.name))
        self.app._open(environment=environment)

    def write(self, text: str) -> None:
        self.path.write_text(text)
        self.path.chmod(0o600)

    def reload(self, old: str, new: str) -> Any:
        assert old in FILE
        self.write(FILE.replace(old, new))
        return self.app.reload()

    @property
    def concurrency(self) -> int:
        return self.app.consumers()[0].concurrency


@pytest.fixture
def service(tmp_path: Path, store: SimLog) -> Iterator[Service]:
    made = Service(tmp_path / "mqsdk.yaml", store)
    yield made
    made.app.close()


def test_each_changed_key_is_one_event_before_that_of_the_reload(service: Service) -> None:
    seen: list[Event] = []
    service.app.observe(seen.append)
    service.reload("concurrency: 4}\nlimits: {payload: 1MiB}", "concurrency: 9}\nlimits: {payload: 2MiB}")
    told = [event for event in seen if isinstance(event, SettingChanged | Reloaded)]
    keys = {event.key: (event.old, event.new, event.version) for event in told[:-1] if isinstance(event, SettingChanged)}
    assert keys == {"defaults.concurrency": ("4", "9", 2), "limits.payload": ("1048576", "2097152", 2)}
    assert isinstance(told[-1], Reloaded)


@pytest.mark.parametrize(("asked", "key"), [("on_exhausted: halt_key", "on_exhausted"), ("dlq_follow_key: true", "dlq_follow_key")])
def test_what_a_running_consumer_cannot_do_refuses_the_whole_reload(service: Service, asked: str, key: str) -> None:
    service.app.start()
    with pytest.raises(ConfigError, match=f"consumers.orders/billing.retry.{key}: .*without `ordered=True`"):
        service.reload("concurrency: 4", f"concurrency: 9, retry: {{{asked}}}")
    assert service.concurrency == 4
    assert [event.outcome for event in service.events] == ["refused"]


def test_live_keys_are_applied_at_once_and_the_diff_is_returned(service: Service) -> None:
    service.app.start()
    assert service.concurrency == 4
    changes = service.reload("concurrency: 4", "concurrency: 9")
    assert [str(change) for change in changes] == ["defaults.concurrency: 4 -> 9"]
    assert service.concurrency == 9
    assert service.app.consumers()[0].config == 2
    assert [(event.outcome, event.version, event.changes) for event in service.events] == [
        ("applied", 2, (("defaults.concurrency", "4", "9"),)),
    ]


def test_limits_of_publishing_follow(service: Service) -> None:
    service.app.publish("orders", b"x" * 100)
    service.reload("1MiB", "50")
    with pytest.raises(InvalidMessage):
        service.app.publish("orders", b"x" * 100)


def test_nothing_changed(service: Service) -> None:
    assert service.app.reload() == []
    assert [event.outcome for event in service.events] == ["unchanged"]


REFUSED: dict[str, tuple[str, str, str]] = {
    "a key of the log": ("path: ./data", "path: ./elsewhere", "clusters.local.path"),
    "the name of the App": ("app: shop", "app: store", "app"),
    "not valid": ("concurrency: 4", "conncurrency: 4", "conncurrency"),
    "not YAML": ("app: shop", "app: [", "mqsdk.yaml"),
    "no cluster for a running topic": ('["*"], cluster: other', '["x*"], cluster: other', "payments"),
}


@pytest.mark.parametrize(("old", "new", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_what_a_running_process_cannot_take_is_refused_whole(service: Service, old: str, new: str, named: str) -> None:
    service.app.consumer("payments", group="billing")(lambda payload: None)
    service.app.start()
    with pytest.raises(ConfigError, match=named):
        service.reload(old, new.replace("4", "9"))
    assert service.concurrency == 4
    assert service.app.consumers()[0].config == 1
    assert [event.outcome for event in service.events] == ["refused"]
    service.write(FILE)
    assert service.app.reload() == []


def test_a_topic_that_was_only_published_to_is_in_use_too(service: Service) -> None:
    service.app.publish("payments", b"x")
    with pytest.raises(ConfigError, match="payments"):
        service.reload('["*"], cluster: other', '["x*"], cluster: other')
    assert service.app.publish("payments", b"x").cluster == "other"


def test_routes_of_topics_that_nobody_uses_may_change(service: Service) -> None:
    changes = service.reload('["*"], cluster: other', '["*"], cluster: local')
    assert [change.key for change in changes] == ["routes[1].cluster"]
    assert service.app.publish("payments", b"x").cluster == "local"


def test_every_reason_is_named_at_once(service: Service) -> None:
    service.write(FILE.replace("./data", "./a").replace("shop", "store"))
    with pytest.raises(ConfigError) as caught:
        service.app.reload()
    assert sorted(problem.key for problem in caught.value.problems) == ["app", "clusters.local.path"]


def test_a_watched_file_is_followed_and_each_content_reported_once(service: Service) -> None:
    service.app.start()
    watched = FILE.replace("watch: false", "watch: true")
    service.write(watched)
    service.app.reload()  # `watch` is live
    service.events.clear()
    service.write(watched.replace("concurrency: 4", "concurrency: 9"))
    until(lambda: bool(service.events))  # told after the change is made
    assert [event.outcome for event in service.events] == ["applied"]
    assert service.concurrency == 9
    for _ in range(300):  # half written, again and again, and bad at last
        service.path.write_text(watched[: len(watched) // 2])
        service.path.write_text(watched.replace("concurrency: 4", "concurrency: many"))
    until(lambda: service.events[-1].outcome == "refused")
    service.path.unlink()
    until(lambda: sum(event.outcome == "refused" for event in service.events) > 1)
    service.write(watched)
    until(lambda: service.concurrency == 4)
    refused = [event.problem for event in service.events if event.outcome == "refused"]
    assert len(refused) == len(set(refused)) <= 3
    assert service.app.state == "RUNNING"


def test_a_file_that_is_put_back_after_a_reload_by_hand_is_followed(service: Service) -> None:
    """The watcher has seen this content last, but not the one between."""
    watcher = service.app._watcher
    assert watcher is not None
    service.reload("concurrency: 4", "concurrency: 8")
    service.write(FILE)
    watcher._watch.look()
    assert service.app.settings.defaults.concurrency == 4
    session = service.app._session
    assert session is not None
    assert session.configuration.defaults["concurrency"] == 4
    assert [event.outcome for event in service.events] == ["applied", "applied"]
    watcher._watch.look()
    assert len(service.events) == 2


def test_a_mounted_directory_is_followed_when_it_is_swapped(tmp_path: Path, store: SimLog) -> None:
    mounted = Mounted(tmp_path / "mounted")
    parts = {"app": "app: shop\nreload: {every: 100ms}\n", "limits": "defaults: {concurrency: 4}\n"}
    mounted.put(**parts)
    app = App(mounted.place)
    events: list[Reloaded] = []
    app.observe(lambda event: events.append(event) if isinstance(event, Reloaded) else None)
    app.consumer("orders", group="billing")(lambda payload: None)
    app._open(environment=Environment(make_backend=lambda cluster: SimBackend(store, name=cluster.name)))
    try:
        app.start()
        for count, concurrency in enumerate(("9", "many", "5"), 1):
            mounted.put(**{**parts, "limits": f"defaults: {{concurrency: {concurrency}}}\n"})
            until(partial(lambda count: len(events) == count, count))
        assert [event.outcome for event in events] == ["applied", "refused", "applied"]
        assert f"{mounted.place}/limits.yaml:1:" in events[1].problem
        assert app.consumers()[0].concurrency == 5
    finally:
        app.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_there_is_nothing_to_reload_unless_open() -> None:
    app = App()
    with pytest.raises(StateError):
        app.reload()
    app.close()
    with pytest.raises(StateError):
        app.reload()


def test_a_named_file_that_is_missing_is_a_config_error_at_open_not_before(tmp_path: Path) -> None:
    app = App(str(tmp_path / "nowhere.yaml"))
    for call in (app.start, app.__enter__, lambda: app.publish("orders", b"x"), lambda: app.settings):
        with pytest.raises(ConfigError):
            call()
    assert app.state == "NEW"


def test_settings_are_the_file_as_a_frozen_model(service: Service) -> None:
    settings = service.app.settings
    assert isinstance(settings, Settings)
    assert settings.app == "shop"
    with pytest.raises(Exception, match="frozen"):
        settings.app = "other"


def test_an_app_takes_settings_as_they_are(service: Service, store: SimLog) -> None:
    settings = Settings.load(service.path)
    app = App(settings, name="mine")
    assert app.settings is settings
    app._open(environment=Environment(make_backend=lambda cluster: SimBackend(store, name=cluster.name)))
    assert app._session is not None
    assert app._session.configuration.app == "shop"
    assert app._session.supervisor.app == "mine"
    app.close()


def test_without_a_file_there_is_one_embedded_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MQSDK_CONFIG", "MQSDK_ENV"):
        monkeypatch.delenv(name, raising=False)
    app = App()
    assert list(app._load().clusters) == ["local"]
    (tmp_path / "mqsdk.yaml").write_text("app: found\n")
    (tmp_path / "mqsdk.yaml").chmod(0o600)
    assert app._load().app == load().app == "found"
