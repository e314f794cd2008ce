"""The in-memory log of `mqsdk.testing` is a backend like any other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pytest

from mqsdk.spi import Backend, Capabilities
from mqsdk.testing.conformance import BackendConformance
from mqsdk.testing.simlog import SimBackend, SimLog
from mqsdk.testing.simqueue import SimQueue


class TestMemory(BackendConformance):
    short_lease_s = 0.3

    @pytest.fixture(autouse=True)
    def _broker(self) -> None:
        self.store_of_broker = SimLog()

    def make_backend(self) -> Backend:
        return SimBackend(self.store_of_broker)

    def restart_broker(self) -> None:
        """The store outlives its connections, which is all that a restart may keep."""

    def foreign_publish(self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, str]]) -> None:
        self.store_of_broker.publish_foreign(topic, key, value, tuple(headers))

    def trim(self, topic: str, partition: int, before: int) -> None:
        self.store_of_broker.trim(topic, partition, before)

    def crash(self, backend: Backend) -> None:
        assert isinstance(backend, SimBackend)
        backend.crash()

    def fail_publish(self, backend: Backend, outcome: Literal["rejected", "unknown_stored", "unknown_lost"]) -> None:
        self.store_of_broker.fail_publish(outcome)


class TestMemoryWithReceipts(TestMemory):
    """The fewest claims that a broker of queues would make: the suite asserts that the rest is refused."""

    capabilities = Capabilities(
        settle="receipt",
        publish="async",
        history=False,
        replay=False,
        read_by_position=False,
        by_time=False,
        keeps_topic=False,
        exact_lag=False,
        sparse_bytes=0,
        max_payload=2 * 1024 * 1024,
        name_limit=200,
    )

    def make_backend(self) -> Backend:
        return SimBackend(self.store_of_broker, capabilities=self.capabilities)


class TestQueue(TestMemory):
    """The in-memory broker of queues, whose positions are numbers of deliveries."""

    trim = BackendConformance.trim  # it has no positions that could be gone

    def make_backend(self) -> Backend:
        return SimQueue(self.store_of_broker)
