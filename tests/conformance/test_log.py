"""The embedded log, in a directory of its own per scenario; connections are what processes would be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mqsdk_log
import pytest
from mqsdk_log.backend import LogBackend
from mqsdk_log.engine.format import encode_headers
from mqsdk_log.engine.log import Log

from mqsdk.spi import Backend
from mqsdk.testing.conformance import BackendConformance


class TestLog(BackendConformance):
    @pytest.fixture(autouse=True)
    def _root(self, tmp_path: Path) -> None:
        self.root = tmp_path / "log"

    def make_backend(self) -> Backend:
        backend = mqsdk_log.mqsdk_backend(kind="log", name="log", options={"path": str(self.root), "durability": "none"})
        assert backend is not None
        return backend

    def restart_broker(self) -> None:
        """There is no broker: the directory is all there is, and it stays."""

    def foreign_publish(self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, str]]) -> None:
        block = encode_headers([(name.encode(), text.encode()) for name, text in headers])
        with Log.open(self.root) as log:
            log.topic(topic).partition(0).append([(key, block, value, 0, 0, 1)], timestamp_ms=0)

    def publish(self, topic: str, values: Sequence[bytes], *, partition: int = 0, key: bytes | None = None) -> list[int | None]:
        """A few are stored in segments of their own, so that `trim` can take them one by one."""
        if len(values) > 10:
            return super().publish(topic, values, partition=partition, key=key)
        positions: list[int | None] = []
        for value in values:
            positions += super().publish(topic, [value], partition=partition, key=key)
            with Log.open(self.root) as log:
                log.topic(topic).partition(partition).seal(0.0)
        return positions

    def trim(self, topic: str, partition: int, before: int) -> None:
        with Log.open(self.root) as log:
            log.topic(topic).partition(partition).remove_before(before)

    def crash(self, backend: Backend) -> None:
        """What the kernel does for a killed process: close every descriptor. Real kills are in tests/log."""
        assert isinstance(backend, LogBackend)
        backend.vanish()
