"""The one background thread of a log, which makes durable what was marked."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .mutex import left_s


class Syncer:
    """Calls what was marked, `interval_s` after the first mark; sleeps when nothing is.

    Started by the first mark, ended by `close`. What is marked must handle its own failures, and bound its waits for other processes.
    """

    def __init__(self, interval_s: float, report: Callable[[str], None]) -> None:
        self._interval_s = interval_s
        self._report = report
        self._changed = threading.Condition()
        self._marked: dict[Callable[[], None], None] = {}
        self._urgent = False
        self._closing = False
        self._thread: threading.Thread | None = None
        self._refused = False  # the thread could not be started at the last try, and that has been told

    def mark(self, sync: Callable[[], None], *, urgent: bool = False) -> bool:
        """Have `sync` called soon. False: it will not be, mark again later; the thread could not be started, or the syncer is closing."""
        with self._changed:
            if self._closing or not self._has_thread():
                return False
            self._marked[sync] = None
            self._urgent |= urgent
            self._changed.notify()
            return True

    def _has_thread(self) -> bool:
        """Start the thread unless it runs. Without one a publish is stored all the same, so this never raises."""
        if self._thread is not None and self._thread.is_alive():
            return True
        thread = threading.Thread(target=self._run, name="mqsdk-log-syncer", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._thread = None
            if not self._refused:
                self._report(f"nothing is synced in the background, because its thread cannot be started ({error}); tried again")
            self._refused = True
            return False
        self._thread, self._refused = thread, False
        return True

    def close(self, deadline: float | None = None) -> None:
        """End the thread; what was marked is synced first. A sync that runs at `deadline` (monotonic seconds) is left alone. Idempotent."""
        with self._changed:
            self._closing = True
            thread, self._thread = self._thread, None
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            left = left_s(deadline)
            thread.join(None if left < 0 else left)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._marked or self._closing)
                self._changed.wait_for(lambda: self._urgent or self._closing, timeout=self._interval_s)
                marked, self._marked, self._urgent = self._marked, {}, False
                closing = self._closing
            for sync in marked:
                sync()
            if closing:
                return
