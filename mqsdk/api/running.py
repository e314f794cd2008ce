"""`app.run()`: start, wait for a signal, close; the exit codes of the command line."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from mqsdk.errors import ConfigError, StateError
from mqsdk.runtime.inspection import StopReport
from mqsdk.runtime.overview import tell_what_holds
from mqsdk.runtime.signals import WOKEN, Arrived, received
from mqsdk.runtime.stacks import thread_stack

if TYPE_CHECKING:
    from mqsdk.api.app import App
    from mqsdk.runtime.watchdog import Guard

LOG = logging.getLogger("mqsdk.app")

DONE, UNCLEAN, GIVEN_UP = 0, 8, 9
# What a stop may take beyond `drain.timeout` (shutdown hooks, the last flush, closing of clients), and what after a second signal.
GRACE_S, HURRY_S = 5.0, 2.0


def run(app: App, only: Collection[str] | None = None) -> int:
    """Consume until SIGTERM or SIGINT; the second one ends the drain at once. SIGHUP reloads. only: groups to start, None = all.

    Returns 0, also when handlers were cut short (they are counted in the log), and 8 when a last settle or flush is not confirmed. A stop
    that has not ended GRACE_S after `drain.timeout`, or HURRY_S after the second signal, ends the process with 8 where it stands.
    When the watchdog gives a consumer up it stops by itself, and the code is 9 however the stop goes.
    Raises what `app.start` raises; the App is closed then.
    """
    if threading.current_thread() is not threading.main_thread():
        raise StateError(
            "run() waits for signals, which only the main thread gets", fix="use app.start() and app.close()", state=str(app.state)
        )
    with received(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as arrived:
        arrived.interrupts = True
        try:
            app._start(only=only)
        except KeyboardInterrupt:
            return _close(app, arrived, hurried=True)
        except BaseException:
            app.close()
            raise
        finally:
            arrived.interrupts = False
        guard = _guard(app, arrived)
        LOG.info("running")
        # On a thread: a server that does not answer must not keep this one from hearing signals.
        threading.Thread(target=_tell_what_holds, args=(app,), name="mqsdk-tell", daemon=True).start()
        _wait(app, arrived, guard)
        return _close(app, arrived, failed=GIVEN_UP if guard.given_up else None)


def _guard(app: App, arrived: Arrived) -> Guard:
    """The watchdog of the App that was just started; it wakes this thread when it gives up."""
    assert app._session is not None
    guard = app._session.supervisor.guard
    guard.wake = arrived.wake
    if guard.given_up:
        arrived.wake()
    return guard


def _tell_what_holds(app: App) -> None:
    """On each cluster in use."""
    session = app._session
    if session is None:
        return
    for name, backend in session.supervisor.clusters.opened().items():
        cluster = session.configuration.clusters.get(name)
        if cluster is not None:
            tell_what_holds(cluster, backend)


def _wait(app: App, arrived: Arrived, guard: Guard) -> None:
    while (number := arrived.get() or WOKEN) == signal.SIGHUP:
        try:
            app.reload()
        except ConfigError:
            continue  # reported by reload; the old configuration stays
    LOG.info("stopping after %s", signal.Signals(number).name if number else guard.given_up)


def _close(app: App, arrived: Arrived, hurried: bool = False, failed: int | None = None) -> int:
    """Close on a thread of its own, so that this one can hear the second signal, and end the process when the stop does not end.

    failed: the exit code whatever becomes of the stop, None = it decides.
    """
    outcome: list[StopReport | BaseException] = []

    def close() -> None:
        try:
            outcome.append(app._close())
        except BaseException as error:
            outcome.append(error)
        arrived.wake()

    deadline = time.monotonic() + app._drain_timeout_s() + GRACE_S
    thread = threading.Thread(target=close, name="mqsdk-close", daemon=True)
    thread.start()
    if hurried:
        deadline = _hurry(app)
    while (number := arrived.get(max(0.0, deadline - time.monotonic()))) != WOKEN:
        if number is None:
            _abandon(thread, UNCLEAN if failed is None else failed)
        elif number != signal.SIGHUP:
            deadline = _hurry(app)
    thread.join()
    code = _code(outcome[0])
    return code if failed is None else failed


def _hurry(app: App) -> float:
    """End the drain now; until when the rest of the stop may take."""
    LOG.warning("ending at once after a second signal")
    app._hurry()
    return time.monotonic() + HURRY_S


def _abandon(thread: threading.Thread, code: int) -> NoReturn:
    """The stop hangs, in a hook or a publish that waits for another process: what holds it is said, and the process ends all the same."""
    stack = thread_stack(thread.ident or 0).replace("\n", " < ")
    LOG.error("the stop did not end in time, the process ends without it; unsettled messages come again. It was at: %s", stack)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)


def _code(report: StopReport | BaseException) -> int:
    if isinstance(report, BaseException):
        raise report
    if report.unfinished:
        LOG.warning("%d handlers were cut short; their messages come again", report.unfinished)
    LOG.info("stopped, %d cut short%s", report.unfinished, "" if report.clean else "; a last settle or publish is not confirmed")
    return DONE if report.clean else UNCLEAN
