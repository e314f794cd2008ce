"""What every test of the adapter starts from: a real server, empty, and the stage of the conformance suite over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mqsdk_redis
import pytest
from mqsdk_redis import names
from mqsdk_redis.backend import RedisBackend

from mqsdk.spi import Partition
from mqsdk.testing.conformance.base import Stage
from tests.brokers.redis import RedisServer


def backend_over(server: RedisServer, **options: Any) -> RedisBackend:
    return backend_at([server.address], **options)


def backend_at(servers: list[str], **options: Any) -> RedisBackend:
    backend = mqsdk_redis.mqsdk_backend(kind="redis", name="shop", options={"servers": servers, **options})
    assert isinstance(backend, RedisBackend)
    return backend


class RedisStage(Stage):
    """A server per test, so that it may be killed."""

    server: RedisServer
    server_options: tuple[str, ...] = ()
    fsync = "everysec"

    @pytest.fixture(autouse=True)
    def _server(self, tmp_path: Path) -> Iterator[None]:
        self.server = RedisServer(tmp_path, *self.server_options, fsync=self.fsync)
        yield
        self.server.stop()

    @pytest.fixture(autouse=True)
    def _stage(self, _server: None) -> Iterator[None]:
        self.set_up()
        yield
        self.tear_down()

    def make_backend(self, **options: Any) -> RedisBackend:
        return backend_over(self.server, **options)

    @property
    def backend(self) -> RedisBackend:
        found = super().backend
        assert isinstance(found, RedisBackend)
        return found

    def pending(self, topic: str, partition: int = 0) -> int:
        found = self.server.call("XPENDING", names.stream(Partition(topic, partition)), "g")
        assert isinstance(found, dict)
        return int(found["pending"])

    def stream(self, topic: str, partition: int = 0) -> bytes:
        return names.stream(Partition(topic, partition))
