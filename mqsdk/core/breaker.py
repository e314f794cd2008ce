"""Whether what a handler depends on seems to be down: a consumer whose attempts fail pauses, and tries one message at a time. Pure.

closed -> open: at least the share `failures` of the attempts within `window_s` failed, and there were at least `minimum` of them.
open -> probing: one message was given out, `probe_s` after the opening or after the last probe failed.
probing -> closed or open: as that message ends. What still ran when it opened changes nothing.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from mqsdk.core.actions import BreakerPolicy

BreakerState = Literal["closed", "open", "probing"]

# The window moves in steps of this part of it.
SLOTS = 10


class Window:
    """Attempts of the last `window_s` seconds, by the tenth of the window in which they ended."""

    __slots__ = ("_slot_s", "_slots", "attempts", "failed")

    def __init__(self, window_s: float) -> None:
        self._slot_s = window_s / SLOTS
        self._slots: deque[list[int]] = deque()
        self.attempts = 0
        self.failed = 0

    def add(self, now: float, attempts: int, failed: int) -> None:
        number = int(now // self._slot_s)
        while self._slots and self._slots[0][0] <= number - SLOTS:
            _, old, old_failed = self._slots.popleft()
            self.attempts -= old
            self.failed -= old_failed
        if not self._slots or self._slots[-1][0] != number:
            self._slots.append([number, 0, 0])
        self._slots[-1][1] += attempts
        self._slots[-1][2] += failed
        self.attempts += attempts
        self.failed += failed


class Breaker:
    """probe: the token of the job that is tried, None when there is none. attempts, failed: what made the present state."""

    __slots__ = ("_counts_from", "_policy", "_waits_since", "_window", "attempts", "failed", "probe", "state")

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._window = Window(policy.window_s)
        self._counts_from = 0
        self._waits_since = 0.0
        self.state: BreakerState = "closed"
        self.probe: int | None = None
        self.attempts = self.failed = 0

    def retune(self, policy: BreakerPolicy) -> None:
        """Another policy. The state stays, a wait for a probe is the new one; another window counts anew."""
        if policy.window_s != self._policy.window_s:
            self._window = Window(policy.window_s)
        self._policy = policy

    def moment(self) -> float | None:
        """When the next probe may start; None while it is closed, or only the end of a probe can change anything."""
        if self.state == "open":
            return self._waits_since + self._policy.probe_s
        return self._waits_since if self.state == "probing" and self.probe is None else None

    def started(self, token: int) -> bool:
        """A job was given out, the probe if it is not closed; True when the state changed."""
        if self.state == "closed":
            return False
        changed = self.state == "open"
        self.state, self.probe = "probing", token
        self.attempts = self.failed = 0
        return changed

    def ended(self, now: float, token: int, attempts: int, failed: int) -> bool:
        """So many attempts of a job ended, so many of them failed; True when the state changed.

        A probe without an attempt (it never started, or was rejected) says nothing: the next one follows at once.
        """
        if self.state == "closed":
            return token > self._counts_from and attempts > 0 and self._count(now, attempts, failed)
        if token != self.probe:
            return False
        self.probe = None
        if not attempts:
            return False
        self.attempts, self.failed = attempts, failed
        if failed:
            self._open(now)
        else:
            self._close(token)
        return True

    def _count(self, now: float, attempts: int, failed: int) -> bool:
        window, policy = self._window, self._policy
        window.add(now, attempts, failed)
        if not failed or window.attempts < policy.minimum or window.failed / window.attempts < policy.failures:
            return False
        self.attempts, self.failed = window.attempts, window.failed
        self._open(now)
        return True

    def _open(self, now: float) -> None:
        self.state, self._waits_since = "open", now

    def _close(self, token: int) -> None:
        """Jobs given out before the probe are of the time before."""
        self.state, self._counts_from, self._window = "closed", token, Window(self._policy.window_s)
