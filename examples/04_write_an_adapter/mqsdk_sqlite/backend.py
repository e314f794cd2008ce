"""One cluster of kind `sqlite`: what is handed out over the open file, and the producer."""

import json
import sqlite3
from collections.abc import Sequence

from mqsdk import spi
from mqsdk_sqlite.admin import SqliteAdmin
from mqsdk_sqlite.consumer import SqliteConsumer
from mqsdk_sqlite.store import Store

MAX_PAYLOAD = 16 << 20


class SqliteBackend(spi.Backend):
    kind = "sqlite"
    # What is not named has its default, and most defaults are claims too: order, history, reading by position and by time.
    capabilities = spi.Capabilities(settle="cursor", publish="inline", replay=False, sparse_bytes=4096, max_payload=MAX_PAYLOAD)

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.store = Store(name, path)
        self._consumers: list[SqliteConsumer] = []

    def open(self, deadline: float) -> None:
        self.store.open(deadline)

    def close(self, deadline: float) -> None:
        for consumer in self._consumers:
            consumer.close(deadline)
        self.store.close()

    def producer(self, events: spi.EventSink) -> "SqliteProducer":
        return SqliteProducer(self.store, events)

    def consumer(self, subscription: spi.Subscription) -> SqliteConsumer:
        if subscription.broadcast:
            raise spi.NotSupported("broadcast")
        for topic in subscription.topics:
            self.admin().ensure_group(topic, subscription.group, subscription.start)
        consumer = SqliteConsumer(self.store, subscription)
        self._consumers = [*(one for one in self._consumers if not one.closed), consumer]
        return consumer

    def admin(self) -> SqliteAdmin:
        return SqliteAdmin(self.store)

    def health(self) -> spi.BackendHealth:
        self.store.rows("SELECT 1 FROM partitions LIMIT 1")
        return spi.BackendHealth(True, sqlite3.sqlite_version, guarantee="sqlite: what is acknowledged survives kill -9 and power loss")


class SqliteProducer(spi.Producer):
    """Inline: one transaction a call, on the caller's thread."""

    def __init__(self, store: Store, events: spi.EventSink) -> None:
        self._store, self._events = store, events

    def publish(self, batch: Sequence[spi.NewRecord], deadline: float) -> None:
        outcomes: list[spi.Outcome] = []
        try:
            with self._store.transaction(deadline) as db:
                outcomes = [_insert(db, record) for record in batch]
        except (spi.BackendError, spi.StateError) as error:
            # With everything written it is the commit that failed: nobody knows whether it is in the file.
            refused = spi.Rejected("backend", error.what, isinstance(error, spi.BackendError) and error.retryable, error.fix)
            outcomes = [spi.Unknown(error.what) if outcomes else refused] * len(batch)
        for record, outcome in zip(batch, outcomes, strict=True):
            self._events.put(spi.Published(record.token, outcome))


def _insert(db: sqlite3.Connection, record: spi.NewRecord) -> spi.Outcome:
    """What cannot be stored is refused by itself, so that its neighbours in the batch do not suffer."""
    if len(record.value) > MAX_PAYLOAD:
        return spi.Rejected("too_large", f"a payload is over the limit of {MAX_PAYLOAD} bytes")
    found = db.execute("SELECT end FROM partitions WHERE topic = ? AND partition = ?", record.partition).fetchone()
    if found is None:
        return spi.Rejected("no_route", "there is no such topic or partition", fix="create the topic first")
    headers = json.dumps([(name, raw.decode()) for name, raw in spi.encode_headers(record)])
    values = (*record.partition, found[0], record.key, record.value, headers, record.timestamp_ms)
    db.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    return spi.Stored(found[0])
