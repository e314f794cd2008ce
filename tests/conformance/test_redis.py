"""Redis Streams on a real server, one for all scenarios and empty before each; connections are what processes would be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import mqsdk_redis
import pytest
import redis
from mqsdk_redis import names
from mqsdk_redis.backend import RedisBackend
from mqsdk_redis.ids import id_of
from mqsdk_redis.wire import Command, Wire

from mqsdk.spi import Backend, Partition
from mqsdk.testing.conformance import BackendConformance
from tests.brokers.redis import RedisServer


class _Failing:
    """A connection whose next round trip ends as asked; the server and everything else is real."""

    def __init__(self, wire: Wire, outcome: str, server: RedisServer) -> None:
        self._wire = wire
        self._outcome = outcome
        self._server = server

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wire, name)

    def exchange(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        outcome, self._outcome = self._outcome, ""
        if outcome == "rejected":
            self._server.call("CONFIG", "SET", "maxmemory", 1)
            try:
                return self._wire.exchange(commands, timeout_s)
            finally:
                self._server.call("CONFIG", "SET", "maxmemory", 0)
        if outcome in ("", "unknown_stored"):
            replies = self._wire.exchange(commands, timeout_s)
            if not outcome:
                return replies
        raise redis.exceptions.ConnectionError("cut")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path_factory.mktemp("redis"))
    yield started
    started.stop()


class TestRedis(BackendConformance):
    lease_s = 1.5  # a crashed consumer is seen after it

    @pytest.fixture(autouse=True)
    def _empty(self, server: RedisServer) -> None:
        server.call("FLUSHALL")
        self.server = server

    def make_backend(self) -> Backend:
        backend = mqsdk_redis.mqsdk_backend(kind="redis", name="redis", options={"servers": [self.server.address]})
        assert backend is not None
        return backend

    def restart_broker(self) -> None:
        self.server.kill()
        self.server.start()

    def foreign_publish(self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, str]]) -> None:
        fields = [b"body", value, *([] if key is None else [b"key", key])]
        self.server.call("XADD", names.stream(Partition(topic, 0)), "*", *fields, *(text for header in headers for text in header))

    def trim(self, topic: str, partition: int, before: int) -> None:
        self.server.call("XTRIM", names.stream(Partition(topic, partition)), "MINID", id_of(before))

    def crash(self, backend: Backend) -> None:
        """What the kernel does for a killed process: close every socket. Real kills are in tests/redis."""
        assert isinstance(backend, RedisBackend)
        backend.vanish()

    def fail_publish(self, backend: Backend, outcome: Literal["rejected", "unknown_stored", "unknown_lost"]) -> None:
        assert isinstance(backend, RedisBackend)
        client = backend._client
        assert client is not None
        client._idle.append(_Failing(client.borrow(self.deadline()), outcome, self.server))  # type: ignore[arg-type]
