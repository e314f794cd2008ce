"""`app.run()`: start, wait for a signal, close; the exit codes of the command line."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Collection
from typing import TYPE_CHECKING

from mqsdk.errors import ConfigError, StateError
from mqsdk.runtime.inspection import StopReport
from mqsdk.runtime.signals import WOKEN, Arrived, received

if TYPE_CHECKING:
    from mqsdk.api.app import App

LOG = logging.getLogger("mqsdk.app")

DONE, UNCLEAN = 0, 8


def run(app: App, only: Collection[str] | None = None) -> int:
    """Consume until SIGTERM or SIGINT; the second one ends the drain at once. SIGHUP reloads. only: groups to start, None = all.

    Returns 0, also when handlers were cut short (they are counted in the log), and 8 when a last settle or flush is not confirmed.
    Raises what `app.start` raises; the App is closed then.
    """
    if threading.current_thread() is not threading.main_thread():
        raise StateError(
            "run() waits for signals, which only the main thread gets", fix="use app.start() and app.close()", state=str(app.state)
        )
    with received(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as arrived:
        try:
            app._start(only=only)
        except BaseException:
            app.close()
            raise
        LOG.info("running")
        _wait(app, arrived)
        return _close(app, arrived)


def _wait(app: App, arrived: Arrived) -> None:
    while (number := arrived.get() or WOKEN) == signal.SIGHUP:
        try:
            app.reload()
        except ConfigError:
            continue  # reported by reload; the old configuration stays
    LOG.info("stopping after %s", signal.Signals(number).name)


def _close(app: App, arrived: Arrived) -> int:
    """Close on a thread of its own, so that this one can hear the second signal."""
    outcome: list[StopReport | BaseException] = []

    def close() -> None:
        try:
            outcome.append(app._close())
        except BaseException as error:
            outcome.append(error)
        arrived.wake()

    thread = threading.Thread(target=close, name="mqsdk-close")
    thread.start()
    while (number := arrived.get()) != WOKEN:
        if number != signal.SIGHUP:
            LOG.warning("ending at once after a second signal")
            app._hurry()
    thread.join()
    report = outcome[0]
    if isinstance(report, BaseException):
        raise report
    if report.unfinished:
        LOG.warning("%d handlers were cut short; their messages come again", report.unfinished)
    return DONE if report.clean else UNCLEAN
