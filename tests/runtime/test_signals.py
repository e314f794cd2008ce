"""No signal is missed, whenever it comes; signals of others are not ours."""

from __future__ import annotations

import os
import select
import signal
import threading
from typing import Any

import pytest

from mqsdk.runtime.signals import WOKEN, received
from tests.processes import PATIENCE_S


def test_signals_come_one_by_one_in_order() -> None:
    with received(signal.SIGTERM, signal.SIGHUP) as arrived:
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert [arrived.get(PATIENCE_S) for _ in range(3)] == [signal.SIGHUP, signal.SIGTERM, signal.SIGTERM]
        assert arrived.get(0.0) is None


def test_a_signal_in_the_moment_before_the_wait_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """From outside: `run` had to be signalled twice, because the first one came just before it began to wait.

    The C handler alone has run then. Here it runs in another thread, which leaves the same: the interpreter knows, nobody was interrupted.
    """
    blocked = threading.Event()
    selects: list[Any] = []

    def select_late(*arguments: Any) -> Any:
        selects.append(arguments)
        if len(selects) == 1:
            blocked.set()
            other.join()
        return real(*arguments)

    def send() -> None:
        blocked.wait()
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    real, other = select.select, threading.Thread(target=send)
    monkeypatch.setattr(select, "select", select_late)
    with received(signal.SIGTERM) as arrived:
        other.start()
        assert arrived.get(PATIENCE_S) == signal.SIGTERM


def test_any_thread_may_end_a_wait() -> None:
    with received(signal.SIGTERM) as arrived:
        thread = threading.Thread(target=arrived.wake)
        thread.start()
        assert arrived.get(PATIENCE_S) == WOKEN
        thread.join()


def test_a_signal_of_somebody_else_ends_no_wait() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    try:
        with received(signal.SIGTERM) as arrived:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert arrived.get(0.05) is None
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1]


def test_what_was_set_before_is_set_again() -> None:
    before = signal.getsignal(signal.SIGTERM)
    old = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(old)
    with received(signal.SIGTERM):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    assert signal.set_wakeup_fd(old) == old
