"""What was handed over to be published and has no answer yet: a bounded window, in the order of hand-over."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence

from mqsdk.spi import EventSink, NewRecord, Outcome, Published

WINDOW_RECORDS = 10_000
WINDOW_BYTES = 32 << 20
RECORD_BYTES = 500  # what a record costs beside its body


class Entry:
    """One record under way. call: which publish it came by. exchange: where it was sent.

    returned: no queue took it, and the confirmation is still to come.
    """

    __slots__ = ("answered", "call", "deadline", "exchange", "record", "returned", "sink", "size", "tag")

    def __init__(self, record: NewRecord, sink: EventSink, deadline: float, call: object = None) -> None:
        self.record = record
        self.sink = sink
        self.call = call
        self.deadline = deadline
        self.size = len(record.value) + RECORD_BYTES
        self.tag = 0
        self.exchange = ""
        self.returned = self.answered = False


class Window:
    """Room for records and bytes; any thread waits for it, the loop's thread gives it back."""

    def __init__(self, records: int = WINDOW_RECORDS, size: int = WINDOW_BYTES) -> None:
        self._changed = threading.Condition()
        self._records, self._size = records, size
        self._closed = False

    def take(self, entries: Sequence[Entry], start: int, deadline: float) -> int:
        """How many entries from `start` on may go, waiting for the first of them; 0 after the deadline or a close."""
        with self._changed:
            while self._records <= 0 or self._size <= 0:
                left = deadline - time.monotonic()
                if self._closed or left <= 0:
                    return 0
                self._changed.wait(left)
            if self._closed:
                return 0
            stop = start
            # One record may pass the bytes, or one larger than the window could never go.
            while stop < len(entries) and self._records > 0 and self._size > 0:
                self._records -= 1
                self._size -= entries[stop].size
                stop += 1
            return stop - start

    def give(self, records: int, size: int) -> None:
        with self._changed:
            self._records += records
            self._size += size
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Answerer:
    """Puts outcomes into the sinks, one event for a run of consecutive tokens of one call; and gives the room back."""

    def __init__(self, window: Window) -> None:
        self._window = window

    def answer(self, entries: Iterable[Entry], outcome: Outcome) -> None:
        """Those that have an answer already are passed over."""
        count = size = 0
        sink: EventSink | None = None
        call: object = None
        first = length = 0
        for entry in entries:
            if entry.answered:
                continue
            entry.answered = True
            count += 1
            size += entry.size
            token = entry.record.token
            if entry.sink is sink and entry.call is call and token == first + length:
                length += 1
                continue
            if sink is not None:
                sink.put(Published(first, outcome, length))
            sink, call, first, length = entry.sink, entry.call, token, 1
        if sink is not None:
            sink.put(Published(first, outcome, length))
            self._window.give(count, size)


class Unconfirmed:
    """Entries sent over one channel, by their tags, which rise by one."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        self._next_tag = 1
        self._returned_up_to = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry) -> None:
        entry.tag = self._next_tag
        self._next_tag += 1
        self._entries.append(entry)

    def confirmed(self, tag: int, multiple: bool) -> list[Entry]:
        """Entries that this answer of the server is about, in order."""
        entries = self._entries
        if multiple or (entries and entries[0].tag == tag):
            found = []
            while entries and entries[0].tag <= tag:
                found.append(entries.popleft())
            return found
        index = tag - entries[0].tag if entries else -1
        # Popped from the front only, so an entry stands at the distance of its tag; one answered out of turn stays until then.
        return [entries[index]] if 0 <= index < len(entries) else []

    def returned(self, message_id: str | None, exchange: str, routing_key: str) -> Entry | None:
        """The oldest entry that a return is about: returns come in the order of publishes, each before its confirmation."""
        for entry in self._entries:
            if entry.tag <= self._returned_up_to or entry.returned:
                continue
            record = entry.record
            if record.id == message_id and entry.exchange == exchange and str(record.partition.number) == routing_key:
                self._returned_up_to = entry.tag
                return entry
        return None

    def overdue(self, now: float) -> list[Entry]:
        return [entry for entry in self._entries if not entry.answered and entry.deadline <= now]

    def next_deadline(self) -> float:
        return min((entry.deadline for entry in self._entries if not entry.answered), default=float("inf"))

    def take_all(self) -> list[Entry]:
        """Every entry; the next channel counts from 1."""
        found = list(self._entries)
        self._entries.clear()
        self._next_tag, self._returned_up_to = 1, 0
        return found
