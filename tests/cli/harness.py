"""The command line over an in-memory log: every call is one `mqsdk ...` of a user."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from click.testing import CliRunner

from mqsdk.cli.main import cli
from mqsdk.cli.session import Session
from mqsdk.config.model import Cluster
from mqsdk.runtime.clock import Clock
from mqsdk.spi import NewRecord, Partition, ProducerEvent, Published, Stored, Subscription
from mqsdk.testing import SimBackend, SimLog
from mqsdk.testing.simconsumer import SimConsumer

NOW_MS = 1_700_000_000_000


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        (line,) = self.out.splitlines()
        found = json.loads(line)
        assert isinstance(found, dict)
        return found

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> dict[str, str]:
        found = self.document["error"]
        assert set(found) == {"type", "what", "where", "fix"}
        assert isinstance(found, dict)
        return found


class Broker:
    """An in-memory log that outlives the calls, with shortcuts to fill it."""

    def __init__(self) -> None:
        self.store = SimLog()
        self.backend = SimBackend(self.store, name="local")
        self.backend.open(0.0)
        self.tokens = 0
        self.terminal = False
        self.clock: Clock | None = None

    def make_backend(self, cluster: Cluster) -> SimBackend:
        return SimBackend(self.store, name=cluster.name)

    def mqsdk(self, *words: str, input: str | bytes | None = None) -> Result:
        session = Session(self.make_backend, lambda: self.terminal, lambda: NOW_MS, self.clock)
        found = CliRunner().invoke(cli, list(words), obj=session, input=input)
        return Result(found.exit_code, found.stdout, found.stderr)

    def topic(self, name: str, partitions: int = 1) -> None:
        self.backend.admin().ensure_topic(name, partitions)

    def group(self, topic: str, group: str) -> None:
        self.backend.admin().ensure_group(topic, group)

    def join(self, topic: str, group: str) -> SimConsumer:
        consumer = self.backend.consumer(Subscription((topic,), group))
        consumer.poll(1, 0.0)
        return consumer

    def store_records(self, topic: str, *records: NewRecord) -> list[int]:
        sink: list[ProducerEvent] = []
        producer = self.backend.producer(Sink(sink))
        producer.publish(records, 0.0)
        return [event.outcome.position or 0 for event in sink if isinstance(event, Published) and isinstance(event.outcome, Stored)]

    def put(self, topic: str, *bodies: bytes | str, partition: int = 0, age_s: float = 0.0, **fields: Any) -> None:
        """Store messages `id-1`, `id-2`, ... with these bodies, `age_s` seconds old."""
        for body in bodies:
            self.tokens += 1
            value = body if isinstance(body, bytes) else body.encode()
            given = {"key": None, "id": f"id-{self.tokens}", "timestamp_ms": NOW_MS - int(age_s * 1000) + self.tokens, **fields}
            self.store_records(topic, NewRecord(token=self.tokens, partition=Partition(topic, partition), value=value, **given))


class Sink:
    def __init__(self, events: list[ProducerEvent]) -> None:
        self.events = events

    def put(self, event: ProducerEvent, /) -> None:
        self.events.append(event)
