"""A consumer: a member of its groups that keeps its lease, takes its share of the partitions and reads them under credit."""

import sqlite3
import threading
import time
import uuid
from contextlib import closing, suppress
from dataclasses import dataclass

from mqsdk import spi
from mqsdk_sqlite.store import ALIVE, OURS, READ, Store, record_of

TICK_S = 0.02  # a file wakes nobody: so often is it looked at
VALID = 0.9  # of a lease: what starts at the last moment has started before anybody takes over
HAND_OVER = 3.0  # leases: so long may the handlers of a partition go on that is asked back
SHOW_LIFE = "INSERT INTO members VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT (topic, grp, id) DO UPDATE SET seen = excluded.seen"
FREE = f"UPDATE cursors SET owner = NULL, revoke_at = NULL WHERE {OURS} AND (revoke_at <= ? OR owner NOT IN (SELECT id FROM members))"
CURSORS = f"SELECT partition, epoch, owner, watermark, sparse, clean, end FROM cursors NATURAL JOIN partitions WHERE {OURS} ORDER BY 1"
# Not clean until it is handed back in order.
TAKE = f"UPDATE cursors SET owner = ?, epoch = epoch + 1, clean = 0, revoke_at = NULL WHERE {OURS} AND partition = ?"
# Owner and epoch are asked for: an ownership that is over changes nothing.
SETTLE = f"""UPDATE cursors SET watermark = max(watermark, ?), sparse = ?, clean = ?, owner = CASE WHEN ? THEN NULL ELSE owner END
    WHERE {OURS} AND partition = ? AND owner = ? AND epoch = ?"""


@dataclass
class Owned:
    epoch: int
    position: int  # the next to deliver
    records: int = 0
    bytes: int = 0
    is_asked_back: bool = False


class SqliteConsumer(spi.Consumer):
    """What fails is raised, and nothing of a poll that failed is handed out: layer 2 then closes this consumer and makes another one."""

    def __init__(self, store: Store, subscription: spi.Subscription) -> None:
        self._id = f"{subscription.instance}-{uuid.uuid4().hex}"
        self._store, self._subscription, self._lease_s = store, subscription, subscription.lease_s
        self._owned: dict[spi.Partition, Owned] = {}
        self._events: list[spi.ConsumerEvent] = []
        self._woken = threading.Event()
        self._seen, self.closed = float("-inf"), False

    def poll(self, max_records: int, timeout_s: float) -> list[spi.ConsumerEvent]:
        deadline = time.monotonic() + timeout_s
        while not self.closed:
            with self._store.transaction() as db:
                self._take_part(db, time.monotonic())
                self._deliver(db, max_records)
            if self._events or time.monotonic() >= deadline or self._woken.wait(min(timeout_s, TICK_S)):
                break
        self._woken.clear()
        events, self._events = self._events, []
        return events

    def wake(self) -> None:
        self._woken.set()

    def credit(self, partition: spi.Partition, records: int, bytes: int) -> None:
        if partition in self._owned:
            self._owned[partition].records, self._owned[partition].bytes = records, bytes

    def settle(self, progress: spi.Progress) -> None:
        part, epoch, final = progress.partition, progress.epoch, progress.final
        ours, owned = (part.topic, self._subscription.group), self._owned.get(part)
        values = (progress.watermark, progress.sparse, final, final, *ours, part.number, self._id, epoch)
        with self._store.transaction() as db:
            stored = db.execute(SETTLE, values).rowcount > 0
            if stored and final and owned and not owned.is_asked_back:  # about to leave: it is given nothing more
                db.execute(f"UPDATE members SET leaving = 1 WHERE {OURS} AND id = ?", (*ours, self._id))
        self._events.append(spi.Settled(part, epoch, progress.token, "stored" if stored else "stale"))
        if stored and final:
            del self._owned[part]

    def close(self, deadline: float) -> None:
        self.closed = True  # first: a poll that is under way sees it and does not join again
        self._woken.set()
        # At worst it leaves without a word, and others take over when the lease has run out.
        with suppress(spi.BackendError, spi.StateError), self._store.transaction(deadline) as db:
            db.execute("UPDATE cursors SET owner = NULL, clean = 1 WHERE owner = ?", (self._id,))
            db.execute("DELETE FROM members WHERE id = ?", (self._id,))

    def _take_part(self, db: sqlite3.Connection, now: float) -> None:
        """Show life, bury the dead, free what they held and what was not handed back in time, then share."""
        shows_life = now - self._seen >= self._lease_s / 10
        for topic in self._subscription.topics if not self.closed else ():
            ours = (topic, self._subscription.group)
            if shows_life:
                db.execute(SHOW_LIFE, (*ours, self._id, now, self._lease_s))
            db.execute(f"DELETE FROM members WHERE {OURS} AND NOT {ALIVE}", (*ours, now))
            db.execute(FREE, (*ours, now))
            self._share(db, ours, now)
        if shows_life:
            self._seen = now
            self._events.append(spi.Renewed(now + VALID * self._lease_s))

    def _share(self, db: sqlite3.Connection, ours: tuple[str, str], now: float) -> None:
        """Partition n is for member n modulo their number. Each for itself lets go, asks itself to let go, and takes."""
        me, valid_until, hand_over = self._id, now + VALID * self._lease_s, now + HAND_OVER * self._lease_s
        members = [row[0] for row in db.execute(f"SELECT id FROM members WHERE {OURS} AND NOT leaving ORDER BY rowid", ours)]
        for number, epoch, owner, watermark, sparse, clean, end in db.execute(CURSORS, ours).fetchall():
            part, is_for_me = spi.Partition(ours[0], number), me in members and members[number % len(members)] == me
            if part in self._owned and owner != me:
                self._events.append(spi.Lost(part, self._owned.pop(part).epoch))
            if owner == me and me in members and not is_for_me and not self._owned[part].is_asked_back:
                db.execute(f"UPDATE cursors SET revoke_at = ? WHERE {OURS} AND partition = ?", (hand_over, *ours, number))
                self._events.append(spi.Revoking(part, epoch, hand_over))
                self._owned[part].is_asked_back = True
            elif owner is None and is_for_me:
                db.execute(TAKE, (me, *ours, number))
                self._events.append(spi.Assigned(part, epoch + 1, watermark, sparse, valid_until, bool(clean), end))
                self._owned[part] = Owned(epoch + 1, watermark)

    def _deliver(self, db: sqlite3.Connection, budget: int) -> None:
        for part, owned in list(self._owned.items()):
            if records := self._read(db, part, owned, budget):
                self._events.append(spi.Batch(part, owned.epoch, records, sum(record.size for record in records)))
                budget -= len(records)
                self._owned[part] = self._owned.pop(part)  # to the back, so that none starves

    def _read(self, db: sqlite3.Connection, part: spi.Partition, owned: Owned, budget: int) -> list[spi.Record]:
        """What comes next, without a hole between them, while there is credit: the last one may have more bytes than are left."""
        records: list[spi.Record] = []
        limit = 0 if owned.is_asked_back else max(0, min(owned.records, budget))
        with closing(db.execute(READ, (*part, owned.position, limit))) as rows:
            for record in map(record_of, rows):
                if owned.bytes <= 0 or (records and record.position != owned.position):
                    break
                if record.position != owned.position:  # somebody deleted what was not read yet
                    self._events.append(spi.Gap(part, owned.epoch, owned.position, record.position, "retention"))
                records.append(record)
                owned.position, owned.records, owned.bytes = record.position + 1, owned.records - 1, owned.bytes - record.size
        return records
