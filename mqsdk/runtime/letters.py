"""Which keys of one consumer have dead letters, for `dlq_follow_key`: read whole once, then what is new, on a thread of its own.

What it costs: one pass over the topic of dead letters before the first partition starts, then a look at the end of each of its partitions
when the consumer asks and every EVERY_S while there is any letter. Memory: a key and a position for each letter that is not done.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable

from mqsdk.core.actions import Letters
from mqsdk.core.deadletter import is_done
from mqsdk.errors import MqError
from mqsdk.names import composed
from mqsdk.runtime import reading
from mqsdk.runtime.clock import Clock
from mqsdk.runtime.deadletters import Positions
from mqsdk.spi import Admin

log = logging.getLogger("mqsdk.consumer")

EVERY_S = 2.0
# More would be a queue, not an accident; what stands still then is told by `health()`.
MOST_LETTERS = 1_000_000


class LetterWatch:
    """ask: any thread. tell: called from the thread of this watch, or within `ask` where threads are not wanted."""

    def __init__(
        self, admin: Callable[[], Admin], topic: str, group: str, tell: Callable[[Letters], None], clock: Clock, threaded: bool
    ) -> None:
        self.problem = ""
        self._admin = admin
        self._name, self._consumer = composed(topic, group), f"{topic}/{group}"
        self._tell = tell
        self._clock = clock
        self._threaded = threaded
        self._read_to: dict[int, int] = {}
        self._live: dict[int, dict[int, bytes]] = {}  # by partition: position of a letter -> its key
        self._keys: Counter[bytes] = Counter()
        self._told: frozenset[bytes] = frozenset()
        self._asked = threading.Event()
        self._is_asked = self._is_closed = False
        self._thread: threading.Thread | None = None

    def ask(self) -> None:
        """Tell which keys have letters, as of now or later."""
        self._is_asked = True
        if not self._threaded:
            self._look()
            return
        self._asked.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"mqsdk-letters-{self._consumer}", daemon=True)
            self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Idempotent."""
        self._is_closed = True
        self._asked.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._is_closed:
            self._asked.wait(EVERY_S if self._keys or self.problem else None)
            self._asked.clear()
            if not self._is_closed:
                self._look()

    def _look(self) -> None:
        asked_at, is_asked = self._clock.mono(), self._is_asked
        self._is_asked = False
        try:
            self._read()
        except MqError as error:
            self._is_asked |= is_asked
            self._fail(error.what)
            return
        except Exception as error:
            self._is_asked |= is_asked
            self._fail(type(error).__name__)
            return
        self.problem = ""
        keys = frozenset(self._keys)
        if is_asked or keys != self._told:
            self._told = keys
            self._tell(Letters(asked_at, keys))

    def _fail(self, why: str) -> None:
        if not self.problem:
            log.error("consumer %s: its dead letters cannot be read (%s); what waits for them does not start", self._consumer, why)
        self.problem = f"the dead letters of consumer {self._consumer} cannot be read: {why}"

    # --- reading ----------------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        admin = self._admin()
        for number in range(admin.partitions(self._name) or 0):
            self._read_partition(admin, number)

    def _read_partition(self, admin: Admin, number: int) -> None:
        first, end = admin.bounds(self._name, number)
        live = self._live.setdefault(number, {})
        for position in [one for one in live if one < first]:
            self._forget(live, position)
        for found in reading.records(admin, self._name, number, max(first, self._read_to.get(number, first)), end):
            record = found.record
            if is_done(record):
                done = Positions((record,))
                for position in [one for one in live if one in done]:
                    self._forget(live, position)
            elif record.key is not None and record.position not in live:
                live[record.position] = record.key
                self._keys[record.key] += 1
            self._read_to[number] = record.position + 1
            if len(live) > MOST_LETTERS:
                raise MqError(f"more than {MOST_LETTERS:,} of them are not redriven or purged")
        self._read_to[number] = max(end, self._read_to.get(number, first))

    def _forget(self, live: dict[int, bytes], position: int) -> None:
        key = live.pop(position)
        self._keys[key] -= 1
        if not self._keys[key]:
            del self._keys[key]
