"""The inbox of a consumer: ids of messages that it has handled, in a SQLite file, asked in front of the handler.

It narrows the window in which a message is handled twice, it does not close it: the id is committed after the handler has succeeded, so
what ends in between is handled again, and so are two copies that run at the same moment. Processes share it that open the same file.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from mqsdk.config.model import InboxRule
from mqsdk.core.actions import Failure
from mqsdk.core.deadletter import message_id
from mqsdk.errors import ConfigError
from mqsdk.message import Call
from mqsdk.runtime.handler import Handler

log = logging.getLogger("mqsdk.consumer")

BUSY_S = 5.0  # how long another process may hold the file
PURGE_EVERY_S = 60.0
PURGE_ROWS = 10_000
ASK_ROWS = 500  # SQLite takes 999 parameters at least
# NORMAL: a commit survives the end of the process; a power loss may take the newest, which are handled again then.
_SETUP = """
PRAGMA journal_mode=WAL;
PRAGMA synchronous=NORMAL;
CREATE TABLE IF NOT EXISTS handled
    (consumer TEXT NOT NULL, id TEXT NOT NULL, at_ms INTEGER NOT NULL, PRIMARY KEY (consumer, id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS handled_at ON handled (at_ms);
"""


def _make(path: str) -> None:
    """For this user alone. One that exists is left alone: closing any descriptor of it would drop the locks that SQLite has on it here."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


class Inbox:
    """Of one consumer. Any thread. Every method but `close` raises sqlite3.Error when the file cannot be used."""

    def __init__(self, rule: InboxRule, consumer: str, wall_ms: Callable[[], int]) -> None:
        """Raises ConfigError when the file cannot be opened."""
        self._consumer = consumer
        self._ttl_ms = round(rule.ttl_s * 1000)
        self._wall_ms = wall_ms
        self._lock = threading.Lock()
        self._purged_ms = 0
        self.repeats = 0  # messages that were known
        try:
            _make(rule.path)
            self._file = sqlite3.connect(rule.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self._file.executescript(_SETUP)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"the inbox of consumer {consumer} cannot be opened: {getattr(error, 'strerror', None) or error}",
                where=rule.path,
                fix="name a file that this process may write, or leave `inbox` out",
            ) from error

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that were handled within the ttl."""
        oldest, found = self._wall_ms() - self._ttl_ms, set[str]()
        with self._lock:
            for start in range(0, len(ids), ASK_ROWS):
                part = ids[start : start + ASK_ROWS]
                marks = ",".join("?" * len(part))
                query = f"SELECT id FROM handled WHERE consumer = ? AND at_ms >= ? AND id IN ({marks})"
                found.update(row[0] for row in self._file.execute(query, (self._consumer, oldest, *part)))
            self.repeats += len(found)
        return found

    def add(self, ids: Sequence[str]) -> None:
        """These are handled. Committed when it returns."""
        now = self._wall_ms()
        rows = [(self._consumer, one, now) for one in ids]
        with self._lock, _Transaction(self._file):
            self._file.executemany("INSERT OR REPLACE INTO handled VALUES (?, ?, ?)", rows)
            if now - self._purged_ms >= PURGE_EVERY_S * 1000:
                self._purged_ms = now
                old = "SELECT consumer, id FROM handled WHERE at_ms < ? AND consumer = ? LIMIT ?"
                values = (now - self._ttl_ms, self._consumer, PURGE_ROWS)
                self._file.execute(f"DELETE FROM handled WHERE (consumer, id) IN ({old})", values)

    def before(self, handler: Handler) -> InboxHandler:
        """The handler behind this inbox."""
        return InboxHandler(handler, self, self._consumer)

    def close(self) -> None:
        with self._lock:
            self._file.close()


class _Transaction:
    """Takes the write lock first: one that asks for it later fails at once where another process writes."""

    def __init__(self, file: sqlite3.Connection) -> None:
        self._file = file

    def __enter__(self) -> None:
        self._file.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._file.execute("COMMIT" if kind is None else "ROLLBACK")


class InboxHandler:
    """A handler behind an inbox. What cannot be looked up is a failed attempt; what cannot be noted is handled all the same, and told."""

    def __init__(self, handler: Handler, inbox: Inbox, consumer: str) -> None:
        self.is_async, self.batch = handler.is_async, handler.batch
        self._handler = handler
        self._inbox = inbox
        self._consumer = consumer

    def invoke(self, call: Call) -> Failure | None:
        ids = [message_id(call.origin, call.record)]
        known = self._known(ids)
        if isinstance(known, Failure) or known:
            return known if isinstance(known, Failure) else None
        failure = self._handler.invoke(call)
        if failure is None:
            self._note(ids)
        return failure

    async def invoke_async(self, call: Call) -> Failure | None:
        ids = [message_id(call.origin, call.record)]
        known = await asyncio.to_thread(self._known, ids)
        if isinstance(known, Failure) or known:
            return known if isinstance(known, Failure) else None
        failure = await self._handler.invoke_async(call)
        if failure is None:
            await asyncio.to_thread(self._note, ids)
        return failure

    def invoke_batch(self, call: Call) -> Sequence[tuple[int, Failure]]:
        ids = [message_id(call.origin, record) for record in call.records]
        known = self._known(ids)
        if isinstance(known, Failure):
            return [(index, known) for index in range(len(ids))]
        fresh = self._leave(call, ids, known)
        failures = self._handler.invoke_batch(call) if fresh else ()
        self._note(_handled(ids, fresh, failures))
        return [(fresh[index], failure) for index, failure in failures]

    async def invoke_batch_async(self, call: Call) -> Sequence[tuple[int, Failure]]:
        ids = [message_id(call.origin, record) for record in call.records]
        known = await asyncio.to_thread(self._known, ids)
        if isinstance(known, Failure):
            return [(index, known) for index in range(len(ids))]
        fresh = self._leave(call, ids, known)
        failures = await self._handler.invoke_batch_async(call) if fresh else ()
        await asyncio.to_thread(self._note, _handled(ids, fresh, failures))
        return [(fresh[index], failure) for index, failure in failures]

    @staticmethod
    def _leave(call: Call, ids: Sequence[str], known: set[str]) -> list[int]:
        """Take what is known out of the call; indexes of what is left."""
        fresh = [index for index, one in enumerate(ids) if one not in known]
        if known:
            call.records = [call.records[index] for index in fresh]
        return fresh

    def _known(self, ids: Sequence[str]) -> set[str] | Failure:
        try:
            known = self._inbox.known(ids)
        except sqlite3.Error as error:
            log.error("consumer %s: its inbox cannot be read: %s", self._consumer, error)
            return Failure("error", f"InboxError: {error}")
        for one in known:
            log.info("consumer %s: message %s was handled before and is not handled again", self._consumer, one)
        return known

    def _note(self, ids: Sequence[str]) -> None:
        try:
            if ids:
                self._inbox.add(ids)
        except sqlite3.Error as error:
            log.error("consumer %s: %d handled messages are not in its inbox: %s", self._consumer, len(ids), error)


def _handled(ids: Sequence[str], fresh: Sequence[int], failures: Sequence[tuple[int, Failure]]) -> list[str]:
    failed = {fresh[index] for index, _ in failures}
    return [ids[index] for index in fresh if index not in failed]
