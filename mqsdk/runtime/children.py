"""`mqsdk run --processes N`: N children that share the work through their groups, restarted when they die, stopped together.

Children are new interpreters, never forks of one that holds clients. They lead process groups of their own, so that a Ctrl-C reaches
the parent alone: forwarded once, and not taken for the second signal that ends a drain. They see the parent's death by a closed pipe.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mqsdk.runtime.signals import received

# Codes that a new try cannot change: usage, configuration, refused, no such app.
FINAL = frozenset({2, 3, 5, 6})
NOT_CLEAN, WATCHDOG = 8, 9
FIRST_DELAY_S, MAX_DELAY_S = 1.0, 30.0
HEALTHY_AFTER_S = 60.0  # a child that lived so long starts its backoff anew
MAX_WATCHDOG_EXITS = 3  # in a row: then a new process does not help either and whoever watches the parent must know


@dataclass(slots=True)
class _Slot:
    """One place for a child. restart_at: monotonic seconds, None while it runs or may not run again."""

    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float | None = 0.0
    failures: int = 0
    stuck: int = 0


@dataclass(slots=True)
class _Stop:
    """signals: how many were received. code: what the parent answers. decided: a child's end for good has fixed the code."""

    signals: int = 0
    asked: bool = False
    code: int = 0
    decided: bool = False


class Children:
    """Starts and watches `count` processes. command: argv of a child, given the descriptor that tells the parent's death."""

    def __init__(self, command: Callable[[int], Sequence[str]], count: int, report: Callable[[str], None]) -> None:
        self._command = command
        self._slots = [_Slot() for _ in range(count)]
        self._report = report
        self._stop = _Stop()
        self._alive_read, self._alive_write = -1, -1

    def run(self) -> int:
        """Returns the exit code once every child has ended after SIGTERM or SIGINT, or one has ended for good. Main thread only."""
        self._alive_read, self._alive_write = os.pipe()
        try:
            with received(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD) as arrived:
                while not self._ended():
                    self._start_due()
                    self._signalled(arrived.get(self._next_start_s()))
                    self._reap()
        finally:
            for descriptor in (self._alive_read, self._alive_write):
                os.close(descriptor)
        return self._stop.code

    def _ended(self) -> bool:
        return self._stop.asked and all(slot.process is None for slot in self._slots)

    def _start_due(self) -> None:
        if self._stop.asked:
            return
        now = time.monotonic()
        for slot in self._slots:
            if slot.process is None and slot.restart_at is not None and slot.restart_at <= now:
                slot.process = subprocess.Popen(
                    self._command(self._alive_read), stdin=subprocess.DEVNULL, pass_fds=[self._alive_read], process_group=0
                )
                slot.started_at, slot.restart_at = now, None

    def _next_start_s(self) -> float | None:
        times = [slot.restart_at for slot in self._slots if slot.restart_at is not None]
        return max(0.0, min(times) - time.monotonic()) if times and not self._stop.asked else None

    def _signalled(self, number: int | None) -> None:
        if number is None or number == signal.SIGCHLD:
            return
        if number == signal.SIGHUP:
            self._send(signal.SIGHUP)
            return
        self._stop.signals += 1
        self._stop.asked = True
        # The first asks for a drain, the second ends it; who asks a third time does not want to wait at all.
        self._send(signal.SIGTERM if self._stop.signals < 3 else signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        for slot in self._slots:
            if slot.process is not None:
                slot.process.send_signal(number)

    def _reap(self) -> None:
        for slot in self._slots:
            if slot.process is not None and (code := slot.process.poll()) is not None:
                pid, slot.process = slot.process.pid, None
                if self._stop.asked:
                    self._note(code)
                else:
                    self._died(slot, pid, code)

    def _note(self, code: int) -> None:
        """A child ended while all are being stopped: the gravest code counts, and one that had to be killed did not stop cleanly."""
        clean = code in (0, -signal.SIGTERM)  # the latter: it had not even installed its handlers, so it had started nothing
        grave = 0 if clean else WATCHDOG if code == WATCHDOG else NOT_CLEAN
        if not self._stop.decided:
            self._stop.code = max(self._stop.code, grave)

    def _died(self, slot: _Slot, pid: int, code: int) -> None:
        slot.stuck = slot.stuck + 1 if code == WATCHDOG else 0
        if code in FINAL or slot.stuck >= MAX_WATCHDOG_EXITS:
            self._report(f"process {pid} ended with {code}, which a restart does not change: stopping all")
            self._stop.asked, self._stop.decided, self._stop.code = True, True, code
            self._send(signal.SIGTERM)
            return
        now = time.monotonic()
        slot.failures = 1 if now - slot.started_at >= HEALTHY_AFTER_S else slot.failures + 1
        delay = restart_delay(slot.failures)
        slot.restart_at = now + delay
        how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
        self._report(f"process {pid} {how}, a new one starts in {delay:g} s")


def restart_delay(failures: int) -> float:
    """Seconds before the next start after so many failures in a row: 1, 2, 4 ... 30."""
    return float(min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(failures - 1, 10)))


def stop_when_parent_dies(descriptor: int) -> None:
    """In a child: SIGTERM to this process once the parent is gone (its end of the pipe closed)."""
    import threading

    def watch() -> None:
        os.read(descriptor, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="mqsdk-parent", daemon=True).start()
