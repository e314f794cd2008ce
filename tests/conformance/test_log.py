"""The embedded log, in a directory of its own per scenario; connections are what processes would be."""

from __future__ import annotations

from pathlib import Path

import pytest

import mqsdk_log
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
