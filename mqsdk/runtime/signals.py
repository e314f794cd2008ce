"""Waiting for signals without missing one.

A thread that waits on a lock or a queue is woken by a signal only if the signal comes after the wait has begun: one that comes in the
moment before is noted by the interpreter, and its handler runs when the thread wakes for another reason, which may be never. So the wait
is on a pipe, which the interpreter's C handler writes (`signal.set_wakeup_fd`): data that is there already ends a wait that begins later.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

WOKEN = 0  # what `get` answers after `wake`; signal numbers begin at 1


class Arrived:
    """The signals that have come, one by one. `get` belongs to the main thread, `wake` may be called by any."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading = reading
        self._writing = writing
        self._numbers: deque[int] = deque()
        self.interrupts = False  # while the main thread does something that may not end: a second signal raises KeyboardInterrupt in it

    def get(self, timeout_s: float | None = None) -> int | None:
        """The next signal's number, WOKEN, or None after `timeout_s` seconds without either."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._numbers:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self._reading], [], [], left)
            if ready:
                os.read(self._reading, 512)  # what it says does not matter: signals of others are written too
            elif not self._numbers:
                return None
        return self._numbers.popleft()

    def wake(self) -> None:
        self._numbers.append(WOKEN)
        with suppress(BlockingIOError):  # a full pipe wakes too
            os.write(self._writing, b"\0")

    def note(self, number: int, _frame: object) -> None:
        """The handler of the signals."""
        if self.interrupts and number != signal.SIGHUP and any(one not in (WOKEN, signal.SIGHUP) for one in self._numbers):
            self.interrupts = False
            raise KeyboardInterrupt
        self._numbers.append(number)


@contextmanager
def received(*numbers: signal.Signals) -> Iterator[Arrived]:
    """Collect these signals during the block instead of what they would do. Main thread only; what was set before is set again after it."""
    reading, writing = os.pipe()
    for descriptor in (reading, writing):
        os.set_blocking(descriptor, False)
    arrived = Arrived(reading, writing)
    old = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    before = {number: signal.signal(number, arrived.note) for number in numbers}
    try:
        yield arrived
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)
