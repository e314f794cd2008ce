"""What the tests of groups and of the adapter share: backends over one directory, a reader, processes that consume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mqsdk_log import mqsdk_backend
from mqsdk_log.backend import LogBackend
from mqsdk_log.consumer import LogConsumer

from mqsdk.spi import Assigned, Batch, Lost, NewRecord, Partition, ProducerEvent, Progress, Published, Revoking, Settled, Subscription

LIMIT_S = 15.0  # longest wait for anything: three times what a busy machine was seen to need
TOPIC, GROUP = "orders", "billing"


class Answers:
    """An event sink that remembers."""

    def __init__(self) -> None:
        self.events: list[Published] = []

    def put(self, event: ProducerEvent, /) -> None:
        assert isinstance(event, Published)
        self.events.append(event)


class Reading:
    """A consumer and all that it said. Takes everything that comes and answers no Revoking unless asked."""

    def __init__(self, consumer: LogConsumer) -> None:
        self.consumer = consumer
        self.events: list[Any] = []
        self.owned: dict[int, Assigned] = {}
        self.values: list[bytes] = []

    def poll(self, timeout_s: float = 0.0) -> list[Any]:
        events = self.consumer.poll(1000, timeout_s)
        self.events += events
        for event in events:
            if isinstance(event, Assigned):
                self.owned[event.partition.number] = event
                self.consumer.credit(event.partition, 1 << 30, 1 << 30)
            elif isinstance(event, Lost):
                self.owned.pop(event.partition.number, None)
            elif isinstance(event, Batch):
                self.values += [record.value for record in event.records]
        return events

    def until(self, condition: Callable[[], bool], others: tuple[Reading, ...] = ()) -> float:
        """Poll until the condition holds, the others too; seconds that it took."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < LIMIT_S, f"still waiting; last events: {self.events[-5:]}"
            self.poll(0.005 if others else 0.05)
            for other in others:
                other.poll(0.0)
        return time.monotonic() - began

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def settle(self, number: int, watermark: int, *, final: bool = False, sparse: bytes = b"", epoch: int | None = None) -> str:
        """Settle and return the outcome."""
        assigned = self.owned[number]
        token = len(self.events)
        self.consumer.settle(
            Progress(assigned.partition, epoch or assigned.epoch, watermark, high=watermark, sparse=sparse, token=token, final=final)
        )
        if final:
            del self.owned[number]
        self.until(lambda: any(event.token == token for event in self.of(Settled)))
        return next(str(event.outcome) for event in self.of(Settled) if event.token == token)

    def answer_revokes(self) -> None:
        """Hand back, in order, what is to be handed back."""
        for event in self.of(Revoking):
            assigned = self.owned.get(event.partition.number)
            if assigned is not None and assigned.epoch == event.epoch:
                self.settle(event.partition.number, assigned.position, final=True)


class Stage:
    """One directory and what is open over it."""

    topic, group, limit_s = TOPIC, GROUP, LIMIT_S

    def __init__(self, root: Path) -> None:
        self.root = root
        self.backends: list[LogBackend] = []
        self.members: list[Member] = []
        self.answers = Answers()
        self.changed = threading.Condition()
        self._sequence = 0

    def backend(self, **options: Any) -> LogBackend:
        """A new connection, as another process would have it."""
        backend = mqsdk_backend(kind="log", name="local", options={"path": str(self.root), "durability": "none", **options})
        assert isinstance(backend, LogBackend)
        backend.open(time.monotonic() + LIMIT_S)
        self.backends.append(backend)
        return backend

    def topic_of(self, partitions: int, topic: str = TOPIC) -> LogBackend:
        backend = self.backend()
        backend.admin().ensure_topic(topic, partitions)
        return backend

    def join(self, backend: LogBackend | None = None, *, group: str = GROUP, topics: tuple[str, ...] = (TOPIC,), **fields: Any) -> Reading:
        subscription = Subscription(topics, group, **fields)
        return Reading((backend or self.backend()).consumer(subscription))

    def publish(self, backend: LogBackend, count: int, partitions: int = 1, topic: str = TOPIC) -> list[bytes]:
        """Values that were never used before, spread over the partitions in turn."""
        producer = backend.producer(self.answers)
        values = [b"%d" % (self._sequence + index) for index in range(count)]
        for index, value in enumerate(values):
            partition = Partition(topic, (self._sequence + index) % partitions)
            producer.publish([self.record(partition, value)], time.monotonic() + LIMIT_S)
        self._sequence += count
        return values

    @staticmethod
    def record(partition: Partition, value: bytes, **fields: Any) -> NewRecord:
        given = {"id": f"id-{value[:20].decode()}", "timestamp_ms": time.time_ns() // 1_000_000, **fields}
        return NewRecord(given.pop("token", 0), partition, given.pop("key", None), value, **given)

    def member(self, *, lease_s: float = 10.0, group: str = GROUP, hold_s: float = 0.0) -> Member:
        """A process of its own that consumes and settles."""
        found = Member(self, group, lease_s, hold_s)
        self.members.append(found)
        return found

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the journals of the other processes show."""
        with self.changed:
            assert self.changed.wait_for(condition, LIMIT_S), f"still waiting; journals end: {[m.journal[-2:] for m in self.members]}"

    def close(self) -> None:
        for member in self.members:
            member.end()
        for backend in self.backends:
            backend.close(time.monotonic() + LIMIT_S)


class Member:
    """A consumer in another process (member.py) and its journal so far."""

    def __init__(self, stage: Stage, group: str, lease_s: float, hold_s: float) -> None:
        script = Path(__file__).with_name("member.py")
        command = [sys.executable, str(script), str(stage.root), TOPIC, group, str(lease_s), str(hold_s)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
        self.journal: list[dict[str, Any]] = []
        self._changed = stage.changed
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                if line.endswith("\n"):
                    self.journal.append(json.loads(line))
                self._changed.notify_all()

    def said(self, what: str) -> list[dict[str, Any]]:
        return [entry for entry in list(self.journal) if entry["what"] == what]

    @property
    def owns(self) -> set[int]:
        owned: set[int] = set()
        for entry in list(self.journal):
            if entry["what"] == "assigned":
                owned.add(entry["partition"])
            elif entry["what"] in ("lost", "handed_back"):
                owned.discard(entry["partition"])
        return owned

    def signal(self, number: int) -> float:
        """Send a signal; when, in monotonic seconds."""
        os.kill(self.process.pid, number)
        return time.monotonic()

    def end(self) -> None:
        """Kill, and read what it said until then."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        self._reader.join(LIMIT_S)
        for pipe in (self.process.stdout, self.process.stdin):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    found = Stage(tmp_path / "log")
    yield found
    found.close()
