"""The embedded log passes the suite that every backend passes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from mqsdk_log import mqsdk_backend
from mqsdk_log.backend import LogBackend
from mqsdk_log.engine.format import encode_headers
from mqsdk_log.engine.log import Log

from mqsdk.spi import Backend
from mqsdk.testing.conformance import BackendConformance


class TestLog(BackendConformance):
    short_lease_s = 0.6

    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.path = tmp_path / "log"

    def make_backend(self) -> Backend:
        backend = mqsdk_backend(kind="log", name="local", options={"path": str(self.path), "durability": "none"})
        assert isinstance(backend, LogBackend)
        return backend

    def foreign_publish(self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, str]]) -> None:
        block = encode_headers([(name.encode(), text.encode()) for name, text in headers])
        with Log.open(self.path) as log:
            log.topic(topic).partition(0).append([(key, block, value, 0, 0, 1)], timestamp_ms=0)
