"""The stage of every scenario: backends, topics, publishing, readers; and the hooks that an adapter's test class gives.

Scenarios follow the claimed capabilities: claimed and failing is a failure; what is not claimed is asserted to be refused; and what a
missing hook leaves untested is listed in the output. Nothing is skipped.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pytest

from mqsdk.spi import Admin, Backend, Capabilities, NewRecord, Outcome, Partition, Producer, Record, Start, Stored, Subscription
from mqsdk.testing.conformance.reader import PLENTY, Answers, Reader, until

HOOKS = ("restart_broker", "foreign_publish", "trim", "crash", "fail_publish")
FLAGS = (
    "ordered",
    "history",
    "replay",
    "read_by_position",
    "by_time",
    "keeps_topic",
    "companions",
    "broadcast",
    "retention",
    "amend",
    "release",
    "extend",
    "exact_lag",
    "exact_delay",
)


class _Anything(str):
    """An address, and whatever else a fixture would have given, attribute by attribute."""

    def __getattr__(self, name: str) -> _Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


class Stage:
    """Base of the scenario classes. Implement `make_backend`; each further hook enables the scenarios that need it."""

    timeout_s = 20.0  # longest wait for anything; three times what a slow machine was seen to need
    lease_s = 10.0
    quiet_s = 0.1  # nothing arriving for so long means that nothing will; raise it for a broker that redelivers late
    short_lease_s = 1.0  # of the scenarios in which a consumer is frozen
    sdk_payload = 1024 * 1024  # layer 2's own limit: every backend carries it

    # --- hooks ------------------------------------------------------------------------------------------------------------------

    def make_backend(self) -> Backend:
        """A new connection to the broker of this test; called several times, as several processes would."""
        raise NotImplementedError("a conformance class implements make_backend")

    @classmethod
    def claims(cls) -> Capabilities:
        """What the backend of this class claims, asked without its broker, for the table of `mqsdk.testing.conformance.table`.

        Made as a scenario makes it, with an address in place of everything that fixtures give. A class to whose `make_backend` that is
        not enough overrides this.
        """
        made: Stage = type("StandIn", (cls,), {"__getattr__": lambda self, name: _Anything("127.0.0.1:1"), "__test__": False})()
        return made.make_backend().capabilities

    def restart_broker(self) -> None:
        """Stop the broker and start it again; what it acknowledged is still there."""
        raise NotImplementedError

    def foreign_publish(self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, str]]) -> None:
        """Store a message in partition 0 without any `mq-*` header, as a producer that is not the SDK does."""
        raise NotImplementedError

    def trim(self, topic: str, partition: int, before: int) -> None:
        """Lose every record below this position, as retention does."""
        raise NotImplementedError

    def crash(self, backend: Backend) -> None:
        """Let everything of this backend vanish as kill -9 would."""
        raise NotImplementedError

    def fail_publish(self, backend: Backend, outcome: Literal["rejected", "unknown_stored", "unknown_lost"]) -> None:
        """Make the next published record end so."""
        raise NotImplementedError

    # --- stage ------------------------------------------------------------------------------------------------------------------

    @pytest.fixture(autouse=True)
    def _stage(self) -> Iterator[None]:
        self.set_up()
        yield
        self.tear_down()

    def set_up(self) -> None:
        self._backends: list[Backend] = []
        self._token = 0
        self._main: Backend | None = None
        self._threads = set(threading.enumerate())

    def tear_down(self) -> None:
        """Close every backend; fails when one leaves a thread behind."""
        for backend in self._backends:
            backend.close(self.deadline())
        left = [thread for thread in set(threading.enumerate()) - self._threads if not self._ends(thread)]
        assert not left, f"threads left behind after close: {[thread.name for thread in left]}"

    def _ends(self, thread: threading.Thread) -> bool:
        thread.join(self.timeout_s)
        return not thread.is_alive()

    def deadline(self, seconds: float | None = None) -> float:
        return time.monotonic() + (self.timeout_s if seconds is None else seconds)

    def connect(self) -> Backend:
        """An opened backend, closed after the scenario."""
        backend = self.make_backend()
        self._backends.append(backend)
        backend.open(self.deadline())
        return backend

    @property
    def backend(self) -> Backend:
        """The first connection of the scenario."""
        if self._main is None:
            self._main = self.connect()
        return self._main

    @property
    def caps(self) -> Capabilities:
        return self.backend.capabilities

    @property
    def admin(self) -> Admin:
        return self.backend.admin()

    def gives(self, hook: str) -> bool:
        return getattr(type(self), hook) is not getattr(Stage, hook)

    def missing(self) -> list[str]:
        """What this class leaves untested or its backend does not claim, for the listing."""
        flags = [flag for flag in FLAGS if not getattr(self.caps, flag)]
        delay = ["delay"] if self.caps.delay == "none" else []
        return flags + delay + [f"hook {hook}" for hook in HOOKS if not self.gives(hook)]

    # --- arranging --------------------------------------------------------------------------------------------------------------

    def topic(self, partitions: int = 1, groups: Sequence[str] = ("g",)) -> str:
        """A new topic. `groups` are ensured, so that backends which keep nothing without a group keep it too."""
        name = f"conf.{uuid.uuid4().hex[:12]}"
        self.admin.ensure_topic(name, partitions)
        for group in groups:
            self.admin.ensure_group(name, group)
        return name

    def record(self, topic: str, value: bytes = b"v", key: bytes | None = None, partition: int = 0, **fields: Any) -> NewRecord:
        self._token += 1
        given: dict[str, Any] = {"id": f"id-{self._token}", "timestamp_ms": time.time_ns() // 1_000_000, **fields}
        return NewRecord(self._token, Partition(topic, partition), key, value, **given)

    def outcomes(self, records: Sequence[NewRecord], backend: Backend | None = None) -> list[Outcome]:
        """Publish in one call and wait for all answers."""
        answers = Answers(self.timeout_s)
        self._producer(backend or self.backend, answers).publish(records, self.deadline())
        return answers.of([record.token for record in records])

    def _producer(self, backend: Backend, answers: Answers) -> Producer:
        return backend.producer(answers)

    def publish(self, topic: str, values: Sequence[bytes], *, partition: int = 0, key: bytes | None = None) -> list[int | None]:
        """Publish in one call, all stored; their positions."""
        return self.store([self.record(topic, value, key, partition) for value in values])

    def store(self, records: Sequence[NewRecord], backend: Backend | None = None) -> list[int | None]:
        outcomes = self.outcomes(records, backend)
        failed = [outcome for outcome in outcomes if not isinstance(outcome, Stored)]
        assert not failed, f"{len(failed)} of {len(records)} not stored, first: {failed[0]}"
        return [outcome.position for outcome in outcomes if isinstance(outcome, Stored)]

    def subscribe(
        self,
        *topics: str,
        group: str = "g",
        backend: Backend | None = None,
        start: Start = None,
        lease_s: float | None = None,
        credit: tuple[int, int] | None = PLENTY,
        answers_revoking: bool = True,
        max_records: int = 1000,
        broadcast: bool = False,
        positions: tuple[tuple[int, int], ...] = (),
    ) -> Reader:
        lease_s = lease_s or self.lease_s
        subscription = Subscription(topics, group, False, broadcast, positions, start, lease_s, "conformance")
        consumer = (backend or self.backend).consumer(subscription)
        return Reader(
            consumer,
            self.timeout_s,
            credit=credit,
            answers_revoking=answers_revoking,
            max_records=max_records,
            quiet_s=self.quiet_s,
        )

    def join(self, topic: str, partitions: int = 1, **how: Any) -> Reader:
        """A consumer that owns so many partitions of the topic."""
        return self.subscribe(topic, **how).joined(partitions)

    def until(self, readers: Sequence[Reader], condition: Any, what: str) -> None:
        until(readers, condition, what, self.timeout_s)

    def redelivered(self, topic: str, count: int, **how: Any) -> list[Record]:
        """What a fresh consumer of the group gets: `count` records and then nothing."""
        reader = self.join(topic, **how)
        records = reader.take(count)
        reader.quiet()
        reader.close()
        return records


def numbered(count: int, prefix: str = "m") -> list[bytes]:
    """Distinct payloads in order."""
    return [f"{prefix}{number}".encode() for number in range(count)]
