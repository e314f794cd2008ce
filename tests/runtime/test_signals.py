"""No signal is missed, whenever it comes; signals of others are not ours."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
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


def test_a_signal_that_interrupts_no_wait_ends_it_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """From outside: `run` had to be signalled twice, because the first one came just before it began to wait.

    Sent to another thread it leaves the same: the interpreter knows of it, and the waiting thread was not interrupted.
    """
    waits = threading.Event()
    real = select.select

    def watched(*arguments: Any) -> Any:
        waits.set()
        return real(*arguments)

    def send() -> None:
        waits.wait()
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    monkeypatch.setattr(select, "select", watched)
    other = threading.Thread(target=send)
    with received(signal.SIGTERM) as arrived:
        other.start()
        began = time.monotonic()
        assert arrived.get(PATIENCE_S) == signal.SIGTERM
        assert time.monotonic() - began < PATIENCE_S / 2  # by the signal, not by the end of the wait
        other.join()


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
