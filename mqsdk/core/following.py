"""`dlq_follow_key`: later messages of a key that has dead letters follow them, in order, until none is left.

Which keys have letters stands in the topic of dead letters, which the runtime reads: whole before a partition starts anything, then again
while there is any. What this process has stored itself is known at once. Messages without key follow nobody, and a redriven message only
those that became letters beside it: the letters that it comes from are still there when it arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from mqsdk.core.actions import AskLetters, Letters
from mqsdk.core.attempts import Attempt
from mqsdk.core.desk import Desk
from mqsdk.core.partition import Ownership
from mqsdk.spi.events import Record


class Following:
    """Of one consumer. changed(now, ownership): something of it may start."""

    def __init__(self, desk: Desk, changed: Callable[[float, Ownership], None]) -> None:
        self._desk = desk
        self._changed = changed
        self._read: Collection[bytes] = frozenset()
        self._asked_at = float("-inf")
        self._stored: dict[bytes, float] = {}  # by this process, and not in what was read yet: key -> when it was confirmed
        self._beside: dict[Ownership, dict[bytes, None]] = {}  # keys of redriven messages that became letters again
        self._since: dict[Ownership, float] = {}  # what waits for a reading that began after this moment

    @property
    def is_on(self) -> bool:
        return self._desk.tuning.retry.dlq_follow_key and self._desk.spec.ordered

    def owned(self, now: float, ownership: Ownership) -> None:
        """Nothing of it starts before the letters are read: its last owner may have stored some."""
        if self.is_on and not self._is_redriven(ownership):
            self._since[ownership] = now
            ownership.awaits_letters = True
            ownership.open_account(self._desk.is_stopped)
            self._desk.actions.append(AskLetters())

    def retuned(self, now: float, owned: Iterable[Ownership]) -> None:
        """It may have been turned on or off."""
        if not self.is_on:
            self._read, self._stored = frozenset(), {}
        for ownership in owned:
            if not self.is_on:
                self._start(now, ownership)
            elif not self._has_read(ownership):
                self.owned(now, ownership)

    def forget(self, ownership: Ownership) -> None:
        self._since.pop(ownership, None)
        self._beside.pop(ownership, None)

    def read(self, now: float, event: Letters) -> list[Ownership]:
        """The keys that had letters when somebody began to read them. Returns what starts now."""
        if event.asked_at < self._asked_at:
            return []  # a newer one came first
        self._asked_at = event.asked_at
        self._read = event.keys
        self._stored = {key: moment for key, moment in self._stored.items() if moment >= event.asked_at}
        for ownership, keys in self._beside.items():
            self._beside[ownership] = dict.fromkeys(key for key in keys if self._has_letters(key))
        started = [one for one, since in self._since.items() if one.awaits_letters and event.asked_at >= since]
        for ownership in started:
            self.mark(ownership, list(ownership.queue.everything()))
            ownership.queue.divert()
            self._start(now, ownership)
        return started

    def stored(self, now: float, ownership: Ownership, record: Record) -> None:
        """A dead letter is confirmed: what waits behind it follows, in this partition and in its twin."""
        if not self.is_on or record.key is None:
            return
        if record.key not in self._stored:
            self._desk.actions.append(AskLetters())  # whoever reads them looks again as long as there are any
        self._stored[record.key] = now
        if self._is_redriven(ownership):
            self._beside.setdefault(ownership, {})[record.key] = None
        twins = [one for one in self._since if one.partition.number == ownership.partition.number]
        for one in dict.fromkeys((ownership, *twins)):
            self.mark(one, one.queue.behind(record.key))

    def stored_elsewhere(self) -> None:
        """There is a letter that this consumer has no part in any more."""
        if self.is_on:
            self._desk.actions.append(AskLetters())

    def mark(self, ownership: Ownership, records: Iterable[Record]) -> None:
        """Have those that follow looked at when their turn comes."""
        if self.is_on:
            for record in records:
                if self.follows(ownership, record):
                    ownership.attempts.setdefault(record.position, Attempt(0, retry_at=float("-inf")))

    def follows(self, ownership: Ownership, record: Record) -> bool:
        if not self.is_on or record.key is None:
            return False
        if self._is_redriven(ownership):
            return record.key in self._beside.get(ownership, ())
        return self._has_letters(record.key)

    def _has_letters(self, key: bytes) -> bool:
        return key in self._read or key in self._stored

    def _has_read(self, ownership: Ownership) -> bool:
        return ownership in self._since or self._is_redriven(ownership)

    def _is_redriven(self, ownership: Ownership) -> bool:
        return ownership.partition.topic == self._desk.spec.retry

    def _start(self, now: float, ownership: Ownership) -> None:
        if ownership.awaits_letters:
            ownership.awaits_letters = False
            ownership.open_account(self._desk.is_stopped)
            self._changed(now, ownership)
        if not self.is_on:
            self._since.pop(ownership, None)
