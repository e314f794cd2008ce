"""Every key that only a restart changes: a reload with another value is refused by its name, and nothing else of the file is taken."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqsdk import App, ConfigError
from mqsdk.config import backends, diff
from mqsdk.events import Reloaded
from mqsdk.runtime.environment import Environment
from mqsdk.testing.simlog import SimBackend, SimLog
from tests.live.keys import HOMES, shows

FILE = """
version: 1
app: shop
environment: dev
clusters:
  main: {CLUSTER, create: true, lease: 10s, accept: [kafka.rf1]}
topics: {"orders": {partitions: 4, retention: 7d, groups: [search]}}
defaults: {concurrency: 4, inbox: {store: sqlite, path: FOLDER/a.db, ttl: 1h}}
consumers:
  "users/mail": {concurrency: 4, inbox: {store: sqlite, path: FOLDER/b.db, ttl: 1h}}
reload: {watch: false}
observability: {listen: '127.0.0.1:0'}
"""
IN_FILE: dict[str, tuple[str, str]] = {
    "app": ("app: shop", "app: store"),
    "environment": ("environment: dev", "environment: prod"),
    "clusters.*.backend": ("backend: log", "backend: redis"),
    "clusters.*.create": ("create: true", "create: false"),
    "clusters.*.lease": ("lease: 10s", "lease: 3s"),
    "clusters.*.accept": ("accept: [kafka.rf1]", "accept: []"),
    "topics.*.partitions": ("partitions: 4", "partitions: 8"),
    "topics.*.retention": ("retention: 7d", "retention: 1d"),
    "topics.*.groups": ("groups: [search]", "groups: [search, mail]"),
    "defaults.inbox.path": ("FOLDER/a.db", "FOLDER/c.db"),
    "defaults.inbox.ttl": ("a.db, ttl: 1h", "a.db, ttl: 2h"),
    "consumers.*.inbox.path": ("FOLDER/b.db", "FOLDER/c.db"),
    "consumers.*.inbox.ttl": ("b.db, ttl: 1h", "b.db, ttl: 2h"),
    "observability.listen": ("127.0.0.1:0", "localhost:0"),
}
# What an adapter's own keys may be changed to; before, each has its default.
OWN: dict[str, dict[str, str]] = {
    "log": {
        "path": "./elsewhere",
        "durability": "always",
        "interval": "50ms",
        "any_filesystem": "true",
        "keep": "1d",
        "keep_size": "1GiB",
    },
    "kafka": {"replication": "3", "group_id": '"{group}"'},
    "rabbitmq": {"vhost": "shop", "queues": "classic", "prefetch": "100"},
    "redis": {"database": "3", "sentinel": "primary", "keep": "2h", "noeviction": "true"},
}


class Process:
    """An App with a file, on an in-memory log, whose consumers run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "mqsdk.yaml"
        self.events: list[Reloaded] = []
        self.app = App(self._path)
        self.app.observe(lambda event: self.events.append(event) if isinstance(event, Reloaded) else None)
        for topic, group in (("orders", "billing"), ("users", "mail")):
            self.app.consumer(topic, group=group)(lambda payload: None)

    def start(self, backend: str = "log") -> None:
        self.write("", "", backend)
        store = SimLog()
        self.app._open(environment=Environment(make_backend=lambda cluster: SimBackend(store, name=cluster.name)))
        self.app.start()

    def write(self, old: str, new: str, backend: str = "log", more: str = "") -> None:
        servers = ["h1:1"] if backend == "redis" else []
        cluster = f"backend: {backend}" + (f", servers: {servers}" if servers else "") + more
        assert old in f"{FILE}{cluster}"
        text = FILE.replace("CLUSTER", cluster).replace(old, new) if old else FILE.replace("CLUSTER", cluster)
        self._path.write_text(text.replace("FOLDER", str(self._folder)))
        self._path.chmod(0o600)

    def refuses(self, key: str) -> None:
        """The reload names this key, and nothing of the file is taken."""
        with pytest.raises(ConfigError) as caught:
            self.app.reload()
        assert key in [problem.key for problem in caught.value.problems]
        assert [event.outcome for event in self.events] == ["refused"]
        assert {(info.concurrency, info.config) for info in self.app.consumers()} == {(4, 1)}


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    made = Process(tmp_path)
    yield made
    made.app.close()


def concrete(key: str) -> str:
    names = {"clusters.*": "clusters.main", "topics.*": "topics.orders", "consumers.*": 'consumers."users/mail"'}
    return next((key.replace(pattern, name, 1) for pattern, name in names.items() if key.startswith(pattern)), key)


@shows(*IN_FILE)
@pytest.mark.parametrize("key", IN_FILE)
def test_it_is_refused_by_name(process: Process, key: str) -> None:
    process.start()
    old, new = IN_FILE[key]
    process.write(old, new)
    assert "concurrency: 4" in process._path.read_text()
    process._path.write_text(process._path.read_text().replace("concurrency: 4", "concurrency: 9"))
    process.refuses(concrete(key))


@shows("version", *(f"{home}.inbox.store" for home in HOMES))
@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("version: 1", "version: 2", "version"),
        ("sqlite, path: FOLDER/a", "other, path: FOLDER/a", "defaults.inbox.store"),
        ("sqlite, path: FOLDER/b", "other, path: FOLDER/b", 'consumers."users/mail".inbox.store'),
    ],
)
def test_a_key_that_has_one_value_takes_no_other(process: Process, old: str, new: str, key: str) -> None:
    process.start()
    process.write(old, new)
    process.refuses(key)


@pytest.mark.parametrize(("backend", "key"), [(backend, key) for backend, keys in OWN.items() for key in keys])
def test_an_adapters_own_key_is_refused_by_name(process: Process, backend: str, key: str) -> None:
    process.start(backend)
    process.write("", "", backend, f", {key}: {OWN[backend][key]}")
    process.refuses(f"clusters.main.{key}")


def test_every_key_of_every_adapter_is_among_them() -> None:
    for backend in backends.SHIPPED:
        own = {field.name for field in dataclasses.fields(backends.options_of(backend))}
        assert set(OWN[backend]) == own - backends.COMMON_KEYS, backend
        assert {diff.applies(("clusters", "main", key)) for key in OWN[backend]} == {"restart"}
