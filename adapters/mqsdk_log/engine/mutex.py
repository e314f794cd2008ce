"""Taking a `threading.Lock` with a deadline so that a signal handler that raises can never leave it locked.

`lock.acquire(timeout=...)` alone can: CPython runs signal handlers after a call and before its result is stored, so the exception comes
when the lock is held and nobody knows. Here the result is stored by the very call that takes the lock.
"""

from __future__ import annotations

import time
from typing import Any


def acquire(lock: Any, deadline: float | None, held: list[bool]) -> bool:
    """Whether the lock was taken by `deadline` (monotonic seconds, None waits for ever).

    held: empty list of the caller. Whatever happens, an exception included, it ends with True in it exactly if the lock was taken.
    """
    held.extend(map(lock.acquire, (True,), (left_s(deadline),)))
    return held[0]


def wait_until_free(lock: Any, deadline: float | None) -> bool:
    """Take the lock and give it back at once; False when it was held until `deadline`."""
    held: list[bool] = []
    try:
        return acquire(lock, deadline, held)
    finally:
        if True in held:
            lock.release()


def left_s(deadline: float | None) -> float:
    """What `Lock.acquire` takes for a timeout: seconds until `deadline`, -1 for none."""
    return -1 if deadline is None else max(deadline - time.monotonic(), 0)
