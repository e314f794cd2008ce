"""Inside a worker process: takes one call after the other from the consumer's process, runs the handler, answers.

The main thread runs handlers; a second one hears what is said beside a call, and ends the process when its parent is gone.
"""

from __future__ import annotations

import fcntl
import logging
import logging.handlers
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mqsdk.core.actions import Failure
from mqsdk.message import Call
from mqsdk.runtime.handler import Handler
from mqsdk.runtime.isolation import CANCEL, DONE, LOG, Channel, Request, pack_failures, unpack_request
from mqsdk.runtime.stacks import thread_stack
from mqsdk.runtime.workers import end_call, end_child

if TYPE_CHECKING:
    import asyncio

PLAIN = (str, int, float, bool, type(None))
LOOK_S = 1.0  # how often the parent's id is compared, for the case that a process which it forked keeps our line to it open


class Serving:
    """Serves calls until the other end of `calls` is closed. handler: as the runtime uses it in threads. apply: takes `Isolation.live`."""

    def __init__(self, calls: Channel, handler: Handler, apply: Callable[[Any], None], name: str) -> None:
        self._calls = calls
        self._handler = handler
        self._apply = apply
        self._name = name
        self._pid = os.getpid()
        self._runner: asyncio.Runner | None = None
        self._current: tuple[int, Call] = (0, Call())
        self.thread_id = threading.get_ident()

    def run(self) -> None:
        try:
            while True:
                try:
                    request = unpack_request(self._calls.receive())
                except OSError:
                    return
                self._apply(request.live)
                failures = self._call(request)
                if os.getpid() != self._pid:
                    end_child(self._name)
                self._calls.send((DONE, pack_failures(failures)))
        finally:
            if self._runner is not None:
                self._runner.close()

    def _call(self, request: Request) -> Sequence[tuple[int, Failure]]:
        call = Call()  # one each, so that a cancel that comes late is of a call that is over
        call.origin, call.attempt = request.origin, request.attempt
        call.record = request.records[0]
        call.records = request.records if self._handler.batch else None
        call.started = time.monotonic()
        call.deadline = call.started + request.timeout_s
        self._current = (request.number, call)
        try:
            return self._invoke(call)
        finally:
            end_call(call)

    def _invoke(self, call: Call) -> Sequence[tuple[int, Failure]]:
        handler = self._handler
        if handler.batch:
            return self._awaited(handler.invoke_batch_async, call) if handler.is_async else handler.invoke_batch(call)
        failure = self._awaited(handler.invoke_async, call) if handler.is_async else handler.invoke(call)
        return () if failure is None else ((0, failure),)

    def _awaited(self, invoke: Callable[[Call], Any], call: Call) -> Any:
        """On an event loop of the process's own, which runs while a call does."""
        import asyncio

        if self._runner is None:
            self._runner = asyncio.Runner()
        try:
            return self._runner.run(invoke(call))
        except asyncio.CancelledError:
            failure = Failure("error", "CancelledError: the handler was cancelled")
            return [(index, failure) for index in range(len(call.records))] if self._handler.batch else failure

    def cancel(self, number: int) -> None:
        """`message.cancelled` of this call becomes True; of another one nothing changes."""
        current, call = self._current
        if current == number:
            call.cancelled = True


def listen(control: Channel, serving: Serving, parent: int, end: Callable[[], None]) -> None:
    """Thread main: hears what is said beside calls, until the other end is gone or the parent is another process than `parent`."""
    while True:
        try:
            if not control.has_item(LOOK_S):
                if os.getppid() != parent:
                    break
                continue
            kind, number = control.receive()
            if kind == CANCEL:
                serving.cancel(number)
            else:
                control.send((number, thread_stack(serving.thread_id)))
        except OSError:
            break
    end()


def end_group() -> None:
    """End this process and whatever a handler has started in its process group."""
    os.killpg(0, signal.SIGKILL)


def end_with(life: int) -> None:
    """End the process group when the other end of the pipe `life` is closed, even while a handler holds the interpreter in native code.

    The kernel does it, on Linux; elsewhere `listen` does, as soon as the interpreter lets it.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)


def ignore_stop_signals() -> None:
    """The parent decides how a stop goes: a signal to the whole service must not cut a handler off that is to get its time.

    By a handler that does nothing: an ignored signal would be ignored by whatever a handler starts, too.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: None)


class Forward(logging.handlers.QueueHandler):
    """Log records of this process go to the consumer's, which writes them as it writes its own."""

    def __init__(self, calls: Channel) -> None:
        super().__init__(None)  # type: ignore[arg-type]  # `enqueue` needs no queue
        self._calls = calls

    def enqueue(self, record: logging.LogRecord) -> None:
        fields = {name: value for name, value in vars(record).items() if type(value) in PLAIN}
        try:
            self._calls.send((LOG, fields))
        except OSError:  # the parent has closed this end: the process is about to end
            return
