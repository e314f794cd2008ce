"""The file: its tables, the one connection, and the one door through which errors of sqlite3 become errors of mqsdk."""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mqsdk import spi

PATIENCE_S = 5.0  # what a call without a deadline waits while others write
OURS = "topic = ? AND grp = ?"
ALIVE = "? - seen BETWEEN 0 AND lease_s"  # who was seen in the future was seen before the machine started again
READ = """SELECT position, CAST(key AS BLOB), CAST(value AS BLOB), time_ms, headers FROM records
    WHERE topic = ? AND partition = ? AND position >= ? ORDER BY position LIMIT ?"""


class Store:
    """One connection, used by one thread at a time."""

    def __init__(self, cluster: str, path: str) -> None:
        self.where = f"cluster {cluster} (sqlite), {path}"
        self._path, self._lock = path, threading.Lock()
        self._db: sqlite3.Connection | None = None

    def open(self, deadline: float) -> None:
        with self._lock, self._translated():
            self._db = sqlite3.connect(self._path, max(0.0, deadline - time.monotonic()), isolation_level=None, check_same_thread=False)
            self._db.executescript(Path(__file__).with_name("schema.sql").read_text())

    def close(self) -> None:
        with self._lock:
            if self._db is not None:
                self._db.close()
            self._db = None

    @contextmanager
    def transaction(self, deadline: float | None = None) -> Iterator[sqlite3.Connection]:
        """All of the block or nothing, alone among all processes. Unavailable when others write until `deadline`."""
        deadline = time.monotonic() + PATIENCE_S if deadline is None else deadline
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise spi.Unavailable("other threads use the file all the time", where=self.where, retryable=True)
        try:
            if self._db is None:
                raise spi.StateError("it is closed", where=self.where, state="closed")
            with self._translated(), self._db as db:  # commits, or rolls back after an exception
                db.execute(f"PRAGMA busy_timeout = {max(0, int((deadline - time.monotonic()) * 1000))}")
                db.execute("BEGIN IMMEDIATE")
                yield db
        finally:
            self._lock.release()

    def rows(self, sql: str, *values: Any) -> list[Any]:
        with self.transaction() as db:
            return db.execute(sql, values).fetchall()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "SQLITE_ERROR")  # never the text, which may quote what is stored
            passing = name.startswith(("SQLITE_BUSY", "SQLITE_FULL", "SQLITE_IOERR"))
            what = f"the file cannot be used: {name}"
            raise spi.Unavailable(what, where=self.where, retryable=passing, fix="check `path`, its owner and mode, the disk") from error


def record_of(row: Any) -> spi.Record:
    """A row of READ. Headers that somebody else wrote and nobody can read are no reason to lose the message."""
    position, key, value, time_ms, text = row
    try:
        envelope = spi.decode_headers([(name, header.encode()) for name, header in json.loads(text)])
    except (ValueError, TypeError, AttributeError):
        envelope = spi.Envelope()
    return spi.Record(position, key, value, **asdict(replace(envelope, timestamp_ms=envelope.timestamp_ms or time_ms)))
