"""One worker process and the lines to it, as its owner sees them."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from mqsdk.core.actions import Failure
from mqsdk.message import Call
from mqsdk.runtime.clock import Clock
from mqsdk.runtime.isolation import CANCEL, DONE, FAILED, LOG, STACK, Channel, Isolation, pack_request, unpack_failures
from mqsdk.spi import Record

START_S = 60.0  # an application may import for long; one that takes longer is taken for one that hangs
LEAVE_S = 5.0  # how long an idle process may take to end, its exit hooks included
ANSWER_S = 0.1  # a process that does not say where it stands in this time holds its interpreter


class StartFailed(Exception):
    """A worker process could not be started, or did not get as far as serving. The text says why."""


class Caller:
    """Asks the process at the other end of `calls`, one call at a time. A second thread may cancel."""

    def __init__(self, calls: Channel, isolation: Isolation, clock: Clock) -> None:
        self._calls = calls
        self._isolation = isolation
        self._clock = clock
        self.number = 0

    def ask(self, call: Call, records: Sequence[Record]) -> list[tuple[int, Failure]]:
        """(index, failure) of each record that failed. Raises OSError when the process ends before it has answered."""
        self.number += 1
        left = call.deadline - self._clock.mono()
        self._calls.send(pack_request(self.number, self._isolation.live(), call.origin, call.attempt, left, records))
        while True:
            kind, content = self._calls.receive()
            if kind == DONE:
                return unpack_failures(content)
            if kind == LOG:
                write(content)


def write(fields: dict[str, Any]) -> None:
    """A log record of a worker process, as if written here. What the application's own handlers and filters raise must not end the call."""
    record = logging.makeLogRecord(fields)
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        with suppress(Exception):
            logger.handle(record)


class Worker:
    """One process and the lines to it. Made and asked by one thread; `kill`, `tell` and `stack` may be called by any."""

    def __init__(self, isolation: Isolation, clock: Clock) -> None:
        self._control_lock = threading.Lock()
        self._life_lock = threading.Lock()
        self._is_over = False  # its number may be another process's
        self._asked = 0
        calls, control, life = socket.socketpair(), socket.socketpair(), os.pipe()
        theirs = (calls[1].detach(), control[1].detach(), life[0])
        self._calls, self._control, self._life = Channel(calls[0].detach()), Channel(control[0].detach()), life[1]
        try:
            # Never a fork of this process, which has threads and clients. A group of its own, so that a kill ends what a handler started.
            self._process = subprocess.Popen(
                [*isolation.command, *map(str, theirs)], stdin=subprocess.DEVNULL, pass_fds=theirs, process_group=0
            )
        except OSError as error:
            self._close_lines()
            raise StartFailed(error.strerror or type(error).__name__) from error
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self.caller = Caller(self._calls, isolation, clock)
        with suppress(OSError):  # it has ended already, which `await_ready` finds out
            self._calls.send(isolation.recipe)

    @property
    def pid(self) -> int:
        return self._process.pid

    def await_ready(self) -> None:
        """Until it serves. Raises StartFailed; the process is gone then."""
        try:
            answer = self._first_answer()
        except OSError:
            raise StartFailed(f"it {self.end()} before it served") from None
        except StartFailed:
            self.end()
            raise
        if answer[0] == FAILED:
            self.end()
            raise StartFailed(answer[1])

    def _first_answer(self) -> Any:
        """A thread of the application may have logged before it."""
        while self._calls.has_item(START_S):
            answer = self._calls.receive()
            if answer[0] != LOG:
                return answer
            write(answer[1])
        raise StartFailed(f"it did not come up within {START_S:.0f} s")

    def is_alive(self) -> bool:
        with self._life_lock:
            return not self._is_over and os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def kill(self) -> None:
        """With all that the handler has started in its group."""
        with self._life_lock, suppress(ProcessLookupError):
            if not self._is_over:
                os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> str:
        """Kill what is left of it, wait for its end, and say how it ended."""
        self.kill()
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        self.kill()  # what outlives the process in its group, before its number may be somebody else's
        with self._life_lock:
            self._is_over = True
            code = self._process.wait()
        self._close_lines()
        return ended_how(code)

    def leave(self) -> None:
        """Let an idle process end by itself; one that does not in time is killed."""
        self._calls.close()
        timer = threading.Timer(LEAVE_S, self.kill)
        timer.daemon = True
        timer.start()
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        timer.cancel()
        self.end()

    def _close_lines(self) -> None:
        self._calls.close()
        with self._control_lock:
            if self._life >= 0:
                self._control.close()
                os.close(self._life)
                self._life = -1

    def tell_cancelled(self) -> None:
        """The running call's `message.cancelled` becomes True."""
        with self._control_lock, suppress(OSError):
            if self._life >= 0:
                self._control.send((CANCEL, self.caller.number))

    def stack(self) -> str:
        """Where its handler stands; "" when the process does not answer at once."""
        with self._control_lock, suppress(OSError):
            if self._life < 0:
                return ""
            self._asked += 1
            self._control.send((STACK, self._asked))
            while self._control.has_item(ANSWER_S):
                number, text = self._control.receive()
                if number == self._asked:
                    return str(text)
        return ""


def ended_how(code: int) -> str:
    """`was killed by SIGSEGV`, `ended with exit code 3`."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
