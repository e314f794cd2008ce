"""States of an App, hooks, observers, and calls that do not fit."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mqsdk import (
    App,
    CapabilityError,
    ConfigError,
    DeclarationError,
    Message,
    PublishRejected,
    Reject,
    Retry,
    RetryPolicy,
    StateError,
)
from mqsdk.api.app import refuse_platform
from mqsdk.config.model import Cluster, Configuration, Route
from mqsdk.errors import Unavailable
from mqsdk.events import DeadLettered, Retried
from mqsdk.message import Receipt

QUICK = RetryPolicy(attempts=2)


def noop(payload: bytes) -> None: ...


def test_the_states_of_a_life(open_app: Callable[[App], App]) -> None:
    app = App()
    app.consumer("orders", group="g")(noop)
    states = [app.state]
    with open_app(app):
        states.append(app.state)
        app.start()
        states.append(app.state)
        app.stop()
        states.append(app.state)
        app.start()  # again, after a stop
        states.append(app.state)
    states.append(app.state)
    assert states == ["NEW", "OPEN", "RUNNING", "OPEN", "RUNNING", "CLOSED"]
    assert str(app.state) == app.state.name == "CLOSED"


def test_opening_does_not_start_consumers(app: App) -> None:
    app.consumer("orders", group="g")(noop)
    app.publish("orders", b"x")
    assert app.consumers() == []
    assert app.groups("orders") == []


def test_start_returns_when_every_consumer_has_joined(app: App) -> None:
    app.consumer("orders", group="g")(noop)
    app.consumer("payments", group="g")(noop)
    app.start()
    assert [(info.topic, info.state) for info in app.consumers()] == [("orders", "running"), ("payments", "running")]
    assert app.health().ready


def test_start_twice_and_after_close(app: App) -> None:
    app.consumer("orders", group="g")(noop)
    app.start()
    with pytest.raises(StateError) as twice:
        app.start()
    assert twice.value.state == "RUNNING"
    app.close()
    for call in (app.start, app.__enter__, app.run, app.topics):
        with pytest.raises(StateError) as closed:
            call()
        assert closed.value.state == "CLOSED"


def test_close_is_idempotent_and_stop_has_nothing_to_do_unless_running() -> None:
    app = App()
    app.stop()
    assert app.state == "NEW"
    app.close()
    app.close()
    app.stop()
    assert app.state == "CLOSED"


def test_nothing_is_declared_while_it_runs(app: App) -> None:
    app.start()
    with pytest.raises(StateError):
        app.consumer("orders", group="late")(noop)


@pytest.mark.parametrize("timeout", ["soon", -1, True, float("nan")])
def test_a_bad_timeout_is_refused(app: App, timeout: Any) -> None:
    for call in (app.start, app.stop, app.flush, App().flush):
        with pytest.raises(DeclarationError) as caught:
            call(timeout)
        assert caught.value.where == f"app.{call.__name__}"
    assert app.state == "OPEN"


def test_an_app_shows_its_name_state_and_consumers() -> None:
    app = App(name="shop")
    assert repr(app) == "<App shop, NEW, consumers: none>"
    for number in range(7):
        app.consumer("orders", group=f"g{number}")(noop)
    assert repr(app) == "<App shop, NEW, consumers: orders/g0, orders/g1, orders/g2, orders/g3, orders/g4 and 2 more>"
    assert "named by its configuration" in repr(App())


def test_a_pause_is_seen_as_soon_as_it_is_asked_for(app: App) -> None:
    app.consumer("orders", group="g")(noop)
    app.start()
    for _ in range(20):  # the machine hears of it a round later
        app.pause("orders", "g")
        assert [info.paused for info in app.consumers()] == [True]
        app.resume("orders", "g")
        assert [info.paused for info in app.consumers()] == [False]


def test_a_signal_handler_that_publishes_while_the_app_is_being_opened_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs in the middle of the opening, on the same thread, with the lock held: to wait for the opening is to wait for ever."""
    app, refused = App(), []

    def on_signal(*_: object) -> None:
        for call in (lambda: app.publish("orders", b"x"), app.topics):
            with pytest.raises(StateError) as caught:
                call()
            refused.append(caught.value)

    def load() -> Configuration:
        signal.raise_signal(signal.SIGUSR1)
        return Configuration()

    monkeypatch.setattr(app, "_load", load)
    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        app._opened()  # as the first publish does
    finally:
        signal.signal(signal.SIGUSR1, before)
        app.close()
    assert [error.state for error in refused] == ["NEW", "NEW"]
    assert all("signal handler" in error.fix for error in refused)


def test_windows_is_refused_with_a_clear_text() -> None:
    with pytest.raises(CapabilityError, match="does not run on Windows"):
        refuse_platform("win32")
    refuse_platform("linux")


def test_a_start_that_fails_leaves_the_app_open(app: App) -> None:
    @app.consumer("elsewhere", group="g")
    def nowhere(payload: bytes) -> None: ...

    with pytest.raises(ConfigError, match="no route"):
        app.start()
    assert app.state == "OPEN"
    assert app.consumers() == []
    assert app.publish("orders", b"x").topic == "orders"


def test_an_async_middleware_cannot_run_around_a_sync_handler(app: App) -> None:
    app.consumer("orders", group="g")(noop)

    @app.middleware
    async def trace(message: Message) -> Any:
        yield

    with pytest.raises(DeclarationError, match="trace"):
        app.start()


# --- hooks ------------------------------------------------------------------------------------------------------------------------


def test_hooks_run_before_the_first_delivery_and_after_the_last_settle(app: App, seen: Any) -> None:
    log: list[str] = []

    @app.consumer("orders", group="g")
    def handle(payload: bytes) -> None:
        log.append("handle")
        seen.add(payload)

    @app.on_startup
    def connect() -> None:
        log.append(f"startup {app.state}")

    @app.on_startup
    async def connect_async() -> None:
        await asyncio.sleep(0)
        log.append("startup async")

    @app.on_shutdown
    def disconnect() -> None:
        log.append(f"shutdown {app.lag('orders', 'g').messages}")
        app.publish("payments", b"bye")

    @app.on_shutdown
    async def disconnect_async() -> None:
        log.append("shutdown async")

    app.publish("orders", b"x")
    app.start()
    seen.wait(1)
    app.close()
    assert log == ["startup OPEN", "startup async", "handle", "shutdown 0", "shutdown async"]


def test_a_startup_hook_that_fails_ends_the_start(app: App) -> None:
    app.consumer("orders", group="g")(noop)
    app.on_startup(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        app.start()
    assert app.state == "OPEN"
    assert app.consumers() == []


def test_a_shutdown_hook_that_fails_is_logged_and_the_rest_goes_on(app: App, caplog: pytest.LogCaptureFixture) -> None:
    called: list[str] = []
    app.on_shutdown(lambda: 1 / 0)
    app.on_shutdown(lambda: called.append("second"))
    app.start()
    app.close()
    assert called == ["second"]
    assert app.state == "CLOSED"
    assert "on_shutdown hook" in caplog.text


def test_a_hook_cannot_wait_for_what_it_is_part_of(app: App) -> None:
    refused: list[str] = []

    @app.on_startup
    def impatient() -> None:
        for call in (app.start, app.stop, app.close):
            with pytest.raises(StateError):
                call()
            refused.append(call.__name__)

    app.start()
    assert refused == ["start", "stop", "close"]


# --- inside a handler -------------------------------------------------------------------------------------------------------------


def test_stopping_inside_a_handler_is_refused_in_every_form(app: App, seen: Any) -> None:
    def try_it() -> None:
        for call in (app.stop, app.close, app.start, app.reload):
            try:
                call()
            except StateError:
                seen.add(call.__name__)

    @app.consumer("orders", group="sync")
    def sync(payload: bytes) -> None:
        try_it()

    @app.consumer("orders", group="async")
    async def coroutine(payload: bytes) -> None:
        try:
            await app.stop_async()
        except StateError:
            seen.add("stop_async")

    @app.consumer("orders", group="batch", batch=10)
    def batch(payloads: list[bytes]) -> None:
        try_it()

    app.start()
    app.publish("orders", b"x")
    assert sorted(seen.wait(9)) == sorted(["stop", "close", "start", "reload"] * 2 + ["stop_async"])
    assert app.state == "RUNNING"


def test_another_app_may_live_inside_a_handler(app: App, open_app: Callable[[App], App], seen: Any) -> None:
    @app.consumer("orders", group="g")
    def handle(payload: bytes) -> None:
        with open_app(App()) as inner:
            seen.add(inner.publish("payments", payload))

    app.start()
    app.publish("orders", b"x")
    assert isinstance(seen.wait(1)[0], Receipt)


def test_a_handler_may_publish_to_its_own_partition(app: App, seen: Any) -> None:
    @app.consumer("orders", group="g", ordered=True)
    def handle(number: int) -> None:
        seen.add(number)
        if number < 3:
            app.publish("orders", number + 1, key="same")

    app.start()
    app.publish("orders", 0, key="same")
    assert seen.wait(4) == [0, 1, 2, 3]


# --- from an event loop -----------------------------------------------------------------------------------------------------------


def test_the_async_life_cycle_does_not_block_the_loop_and_handlers_run_on_the_apps_own(open_app: Callable[[App], App], seen: Any) -> None:
    app = App()

    @app.consumer("orders", group="g")
    async def handle(payload: str) -> None:
        seen.add((payload, threading.get_ident()))

    async def live() -> None:
        open_app(app)
        async with app:
            await app.start_async()
            assert app.state == "RUNNING"
            await app.publish_async("orders", "x")
            items = await asyncio.to_thread(seen.wait, 1)
            assert items[0][0] == "x"
            assert items[0][1] != threading.get_ident()
            await app.stop_async()
            assert app.state == "OPEN"
        assert app.state == "CLOSED"
        await app.close_async()

    asyncio.run(live())


# --- observers and log lines ------------------------------------------------------------------------------------------------------


def test_observers_are_told_and_their_errors_change_nothing(app: App, seen: Any, caplog: pytest.LogCaptureFixture) -> None:
    @app.observe
    def broken(event: Any) -> None:
        raise SystemExit("SECRET")

    @app.observe
    def stops(event: Any) -> None:
        with pytest.raises(StateError):
            app.stop()

    @app.observe
    def watch(event: Any) -> None:
        if isinstance(event, Retried | DeadLettered):
            seen.add(event)

    @app.consumer("orders", group="g", retry=QUICK)
    def handle(payload: str) -> None:
        raise Retry(after="1ms", reason=f"bad {payload}")

    app.start()
    with caplog.at_level(logging.INFO, "mqsdk"):
        app.publish("orders", "SECRET", key="SECRET", id="one")
        retried, dead = seen.wait(2)
    assert (retried.message_id, retried.attempt, retried.delay_s) == ("one", 1, 0.001)
    assert (dead.message_id, dead.attempts, dead.reason) == ("one", 2, "exhausted")
    assert retried.error == "Retry: bad SECRET"  # observers get the text, log lines never do
    lines = [record.getMessage() for record in caplog.records if record.name == "mqsdk.consumer" and record.levelno >= logging.WARNING]
    assert len(lines) == 2
    assert all("orders/g" in line and "one" in line and "Retry" in line and "in handle" in line for line in lines)
    assert "SECRET" not in caplog.text
    assert {record.mq_id for record in caplog.records if record.name == "mqsdk.consumer" and hasattr(record, "mq_id")} == {"one"}
    failed = {record.getMessage() for record in caplog.records if record.getMessage().startswith("observer")}
    assert any("broken failed with SystemExit at test_lifecycle.py:" in line for line in failed)
    assert app.state == "RUNNING"


@pytest.mark.parametrize("form", ["sync", "async", "async behind"])
def test_the_stack_of_a_running_handler_begins_with_the_handler(app: App, seen: Any, form: str) -> None:
    go = threading.Event()

    async def behind() -> None:
        seen.add(1)
        while not go.is_set():
            await asyncio.sleep(0.005)

    @app.middleware
    def around(message: Message) -> Any:
        yield

    if form == "sync":

        @app.consumer("orders", group="g")
        def handle(payload: bytes) -> None:
            seen.add(1)
            assert go.wait(15)

    else:

        @app.consumer("orders", group="g")
        async def handle_async(payload: bytes) -> None:
            if form == "async":
                await behind()
            else:
                await asyncio.create_task(behind())

    app.start()
    app.publish("orders", b"x")
    seen.wait(1)
    oldest = app.consumers()[0].oldest
    go.set()
    assert oldest is not None
    first = oldest.stack.splitlines()[0]
    assert (os.path.basename(first.split(":")[0]), first.split(" in ")[1]) == (
        "test_lifecycle.py",
        "handle" if form == "sync" else "handle_async",
    )


def test_secrets_of_the_configuration_never_leave_in_an_error_text(open_app: Callable[..., App], seen: Any) -> None:
    options = {"auth": {"user": "shop", "password": "hunter2-hunter2"}}
    local = Cluster(name="local", backend="memory", options=options, lease_s=3.0)
    app = open_app(App(), Configuration(clusters={"local": local}, routes=(Route(topics=("*",), cluster="local"),)))

    @app.consumer("orders", group="g", retry=1)
    def handle(payload: str) -> None:
        raise ConnectionError("cannot log in with hunter2-hunter2")

    @app.observe
    def watch(event: Any) -> None:
        if isinstance(event, DeadLettered):
            seen.add(event.error)

    app.start()
    app.publish("orders", "x")
    assert seen.wait(1) == ["ConnectionError: cannot log in with ***"]


def test_the_package_configures_no_logging() -> None:
    code = "import logging, mqsdk; print(logging.getLogger().handlers, [type(h).__name__ for h in logging.getLogger('mqsdk').handlers])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[] ['NullHandler']"


# --- the end of the process -------------------------------------------------------------------------------------------------------

AT_EXIT = """
import atexit
from mqsdk import App, StateError
from mqsdk.runtime.environment import Environment
from mqsdk.testing.simlog import SimBackend, SimLog

store, app = SimLog(), App()

def last():
    print(app.state, store_messages())
    try:
        app.publish("orders", b"late")
    except StateError as error:
        print(error.state)

def store_messages():
    backend = SimBackend(store)
    backend.open(float("inf"))
    return sum(topic.messages for topic in backend.admin().topics())

atexit.register(last)
app._open(environment=Environment(make_backend=lambda cluster: SimBackend(store)))
for number in range(500):
    app.publish_nowait("orders", b"x")
"""


def test_a_normal_interpreter_exit_flushes_and_closes_and_later_publishes_are_refused() -> None:
    done = subprocess.run([sys.executable, "-c", AT_EXIT], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["CLOSED", "500", "CLOSED"], done.stderr


# --- looking --------------------------------------------------------------------------------------------------------------------


def test_topics_groups_and_lag(app: App) -> None:
    app.publish_many("orders", [b"a", b"b"])
    app.consumer("orders", group="g")(noop)
    app.start()
    app.stop()
    app.publish("orders", b"c", key="k")
    assert [topic.name for topic in app.topics()] == ["orders"]
    assert [info.group for info in app.groups("orders")] == ["g"]
    lag = app.lag("orders", "g")
    assert lag.messages >= 1
    assert sum(one.messages for one in lag.partitions) == lag.messages


@pytest.mark.parametrize("name", ["", "a/b", "..", 5, "mq.x"])
def test_looking_checks_names_too(app: App, name: Any) -> None:
    for call in (lambda: app.groups(name), lambda: app.lag(name, "g"), lambda: app.lag("orders", name)):
        with pytest.raises(DeclarationError):
            call()


def test_health_says_why_an_app_is_not_ready(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "mqsdk.yaml").write_text(f"clusters: {{local: {{backend: log, path: {tmp_path}/file/log}}}}\n")
    (tmp_path / "mqsdk.yaml").chmod(0o600)
    with App(tmp_path / "mqsdk.yaml") as app:
        app.consumer("orders", group="g")(noop)
        assert app.health().problems == ("no consumers are running",)
        with pytest.raises(Unavailable):
            app.start()
        health = app.health()
        assert (health.live, health.ready, health.clusters["local"].ok) == (True, False, False)
        assert [problem.partition(":")[0] for problem in health.problems] == [
            "cluster local could not be opened",
            "no consumers are running",
        ]
        (tmp_path / "file").unlink()
        app.start()
        assert (app.health().ready, app.health().problems) == (True, ())


def test_a_cluster_that_nobody_asks_for_any_more_is_told_but_keeps_no_app_from_being_ready(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    clusters = f"local: {{backend: log, path: {tmp_path}/log}}, down: {{backend: log, path: {tmp_path}/file/log}}"
    routes = '{topics: ["far"], cluster: down}, {topics: ["*"], cluster: local}'
    (tmp_path / "mqsdk.yaml").write_text(f"clusters: {{{clusters}}}\nroutes: [{routes}]\n")
    (tmp_path / "mqsdk.yaml").chmod(0o600)
    with App(tmp_path / "mqsdk.yaml") as app:
        app.consumer("orders", group="g")(noop)
        app.start()
        with pytest.raises(PublishRejected):
            app.publish("far", b"x")
        health = app.health()
        assert (health.ready, health.clusters["down"].ok, len(health.problems)) == (True, False, 1)


def test_a_consumer_of_dead_letters_sees_why_and_where_from(app: App) -> None:
    seen: queue.SimpleQueue[Message[bytes]] = queue.SimpleQueue()

    @app.consumer("orders", group="g")
    def refuse(payload: bytes) -> None:
        raise Reject("no such customer")

    @app.consumer("orders.g.dlq", group="clerk")
    def look(payload: bytes, message: Message[bytes]) -> None:
        seen.put(message)

    app.start()
    app.publish("orders", b"x", headers={"own": "1", "tenant": "t"})
    headers = seen.get(timeout=30).headers
    assert {name: headers[name] for name in ("own", "tenant")} == {"own": "1", "tenant": "t"}
    assert headers["mq-dlq-reason"] == "rejected"
    assert (headers["mq-dlq-topic"], headers["mq-dlq-group"], headers["mq-dlq-attempts"]) == ("orders", "g", "1")
    assert headers["mq-dlq-error"] == "Reject: no such customer"


def test_health_is_there_in_every_state(app: App) -> None:
    fresh = App()
    assert (fresh.health().live, fresh.health().ready, fresh.consumers()) == (True, False, [])
    app.start()
    assert app.health().ready
    app.stop()
    assert not app.health().ready
    app.close()
    assert not app.health().live


def test_pause_and_resume(app: App, seen: Any, until: Any) -> None:
    @app.consumer("orders", group="g")
    def handle(payload: str) -> None:
        seen.add(payload)

    with pytest.raises(StateError):
        app.pause("orders", "g")
    app.start()
    app.pause("orders", "g")
    until(lambda: app.consumers()[0].paused)
    app.publish("orders", "x")
    app.resume("orders", "g")
    assert seen.wait(1) == ["x"]
    with pytest.raises(StateError):
        app.pause("orders", "nobody")


def test_a_test_client_gives_the_app_back_as_new(open_app: Callable[[App], App]) -> None:
    app = App()
    app.consumer("orders", group="g")(noop)
    for _ in range(2):
        open_app(app)
        app.start()
        app._reset()
        assert app.state == "NEW"
