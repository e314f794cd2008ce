"""`app.run()`: signals, exit codes, the second signal."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from mqsdk import App, StateError
from mqsdk.api import running
from mqsdk.runtime.inspection import StopReport

Until = Callable[[Callable[[], bool]], None]


@pytest.fixture
def later(until: Until) -> Any:
    """Runs steps on another thread, because run() needs the main one; an error there fails the test."""
    threads: list[threading.Thread] = []
    errors: list[BaseException] = []

    def start(*steps: Callable[[], Any]) -> None:
        def work() -> None:
            try:
                for step in steps:
                    step()
            except BaseException as error:
                errors.append(error)
                os.kill(os.getpid(), signal.SIGTERM)

        threads.append(threading.Thread(target=work))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join()
    assert errors == []


def kill(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_and_old_handlers_come_back(app: App, until: Until, later: Any, number: int) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    app.consumer("orders", group="g")(lambda payload: None)
    later(lambda: until(lambda: app.state == "RUNNING"), kill(number))
    assert app.run() == 0
    assert app.state == "CLOSED"
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before


def test_the_collector_leaves_alone_what_was_there_at_the_start(app: App, until: Until, later: Any) -> None:
    app.consumer("orders", group="g")(lambda payload: None)
    later(lambda: until(lambda: gc.get_freeze_count() > 10_000), kill(signal.SIGTERM))
    assert app.run() == 0
    assert gc.get_freeze_count() == 0


def test_a_running_handler_may_finish(app: App, until: Until, later: Any) -> None:
    inside, go, done = threading.Event(), threading.Event(), threading.Event()

    @app.consumer("orders", group="g")
    def handle(payload: bytes) -> None:
        inside.set()
        go.wait(15)
        done.set()

    app.publish("orders", b"x")
    later(inside.wait, kill(signal.SIGTERM), lambda: until(lambda: app.state == "DRAINING"), go.set)
    assert app.run() == 0
    assert done.is_set()


def test_a_second_signal_ends_the_drain_at_once(app: App, until: Until, later: Any) -> None:
    inside, go = threading.Event(), threading.Event()

    @app.consumer("orders", group="g")
    def hangs(payload: bytes) -> None:
        inside.set()
        go.wait(60)

    app.publish("orders", b"x")
    later(inside.wait, kill(signal.SIGTERM), lambda: until(lambda: app.state == "DRAINING"), kill(signal.SIGTERM))
    began = time.monotonic()
    assert app.run() == 0
    assert not go.is_set()
    assert time.monotonic() - began < 20  # drain.timeout is 30 s
    go.set()


def test_a_stop_that_is_not_clean_is_8(app: App, until: Until, later: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(app._session), "close", lambda self, timeout_s: self.supervisor.close(timeout_s) and StopReport(clean=False))
    later(lambda: until(lambda: app.state == "RUNNING"), kill(signal.SIGTERM))
    assert app.run() == running.UNCLEAN == 8


def test_what_start_raises_is_raised_and_the_app_is_closed(app: App) -> None:
    app.on_startup(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        app.run()
    assert app.state == "CLOSED"


def test_only_the_main_thread_can_wait_for_signals(app: App) -> None:
    caught: list[StateError] = []

    def attempt() -> None:
        try:
            app.run()
        except StateError as error:
            caught.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])


def test_only_some_groups_are_started(app: App, until: Until, later: Any) -> None:
    app.consumer("orders", group="a")(lambda payload: None)
    app.consumer("orders", group="b")(lambda payload: None)
    groups: list[str] = []
    look = lambda: groups.extend(info.group for info in app.consumers())  # noqa: E731
    later(lambda: until(lambda: app.state == "RUNNING"), look, kill(signal.SIGTERM))
    assert running.run(app, only={"b"}) == 0
    assert groups == ["b"]
