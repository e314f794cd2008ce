"""The shipped suite on this adapter: `make_backend` is all it needs, each hook adds the scenarios that it makes possible."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from mqsdk_sqlite.backend import SqliteBackend

from mqsdk.testing.conformance import BackendConformance

FOREIGN = """INSERT INTO records (topic, partition, position, key, value, headers)
    SELECT topic, partition, end, ?, ?, ? FROM partitions WHERE topic = ? AND partition = 0"""


class TestSqlite(BackendConformance):
    lease_s = 1.0  # a crashed consumer is seen after it

    @pytest.fixture(autouse=True)
    def _path(self, tmp_path: Path) -> None:
        self.path = tmp_path / "messages.db"

    def make_backend(self) -> SqliteBackend:
        return SqliteBackend("sqlite", str(self.path))

    def restart_broker(self) -> None:
        """There is none: the file stays."""

    def foreign_publish(self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, str]]) -> None:
        self.sql(FOREIGN, key, value, json.dumps(headers), topic)

    def trim(self, topic: str, partition: int, before: int) -> None:
        self.sql("DELETE FROM records WHERE topic = ? AND partition = ? AND position < ?", topic, partition, before)

    def crash(self, backend: SqliteBackend) -> None:  # type: ignore[override]  # those of make_backend
        backend.store.close()

    def sql(self, text: str, *values: object) -> None:
        with closing(sqlite3.connect(self.path)) as db, db:
            db.execute(text, values)
