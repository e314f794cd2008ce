"""The watchdog over whole consumers in virtual time: what it heals, what it gives up, and what it leaves alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from mqsdk import App, Batch, Retry, RetryPolicy
from mqsdk.config.settings import Settings
from mqsdk.core.retry import Backoff, OnExhausted
from mqsdk.events import Event, Stalled
from mqsdk.message import Message
from mqsdk.spi import Admin, ConsumerEvent, Settled
from mqsdk.spi import Batch as Records
from mqsdk.testing import TestApp
from mqsdk.testing.simadmin import SimAdmin
from mqsdk.testing.simconsumer import SimConsumer

LATE = RetryPolicy(attempts=3, backoff=Backoff("1h", max="1h"))


class Scene:
    """A TestApp whose watchdog looks every 10 s of virtual time, and an adapter that may fall silent."""

    def __init__(self) -> None:
        self.app = App()
        self.events: list[Event] = []
        self.app.observe(self.events.append)
        self.handled: list[Any] = []
        self.silent: tuple[type, ...] = ()
        self.connected = 0
        self.woken = 0
        self.over = False
        self.test_app: TestApp | None = None

    def start(self, config: Settings | None = None) -> TestApp:
        self.test_app = TestApp(self.app, config=config)
        self.test_app.__enter__()
        self.guard.wake = self._wake
        self.connected = 0
        return self.test_app

    def _wake(self) -> None:
        self.woken += 1

    @property
    def guard(self) -> Any:
        assert self.app._session is not None
        return self.app._session.supervisor.guard

    def wait(self, seconds: int) -> None:
        assert self.test_app is not None
        for _ in range(seconds // 10):
            self.test_app.advance("10s")
            self.guard.look()

    @property
    def restarts(self) -> int:
        return self.connected


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    made = Scene()
    poll, join = SimConsumer.poll, SimConsumer.join

    def heard(consumer: SimConsumer, max_records: int, timeout_s: float) -> list[ConsumerEvent]:
        return [event for event in poll(consumer, max_records, timeout_s) if not isinstance(event, made.silent)]

    def joined(consumer: SimConsumer) -> None:
        made.connected += 1
        join(consumer)

    monkeypatch.setattr(SimConsumer, "poll", heard)
    monkeypatch.setattr(SimConsumer, "join", joined)
    yield made
    made.silent, made.over = (), True
    if made.test_app is not None:
        made.test_app.__exit__(None, None, None)


def plain(scene: Scene, **options: Any) -> None:
    @scene.app.consumer("orders", group="billing", **options)
    def bill(order: str) -> None:
        scene.handled.append(order)


def test_a_client_that_delivers_nothing_is_replaced(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """Twenty days as a member that owns everything and gets nothing: nobody but the backlog knows."""
    plain(scene)
    scene.start()
    scene.silent = (Records,)
    scene.app.publish("orders", "a")
    scene.wait(130)
    assert (scene.restarts, scene.handled) == (0, [])
    scene.silent = ()
    scene.wait(30)
    assert (scene.restarts, scene.handled) == (1, ["a"])
    (stalled,) = [event for event in scene.events if isinstance(event, Stalled)]
    assert (stalled.topic, stalled.group, stalled.seconds) == ("orders", "billing", 120.0)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "mqsdk.watchdog" and "is restarted" in record.message]
    assert line.startswith(
        "orders/billing: the consumer is restarted: work waits and nothing was settled for 120 s (0 in flight, 0 running)"
    )
    scene.wait(600)
    assert (scene.restarts, scene.woken, scene.app.health().live) == (1, 0, True)


def test_what_a_restart_does_not_help_is_given_up_once(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    plain(scene)
    scene.start()
    scene.silent = (Records,)
    scene.app.publish("orders", "a")
    scene.wait(260)
    assert (scene.restarts, scene.woken) == (1, 0)
    assert scene.app.health().live
    scene.wait(600)
    assert (scene.restarts, scene.woken) == (1, 1)
    health = scene.app.health()
    assert (health.live, health.ready) == (False, False)
    assert "consumer orders/billing stands still, and its restart 120 s ago did not help" in health.problems
    (line,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert "ends with 9" in line.getMessage()


def test_what_arrives_while_it_looks_is_not_unread(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it waits behind a halt, so nothing ends; and each look finds one message more than the consumer has yet."""
    plain_failing(scene)
    scene.start()
    scene.app.publish("orders", "bad", key="k")
    progress = SimAdmin.progress

    def one_more(admin: SimAdmin, topic: str, group: str) -> Any:
        scene.app.publish("orders", "later", key="k")
        return progress(admin, topic, group)

    monkeypatch.setattr(SimAdmin, "progress", one_more)
    scene.wait(900)
    assert (scene.restarts, scene.woken, scene.handled) == (0, 0, [])


def plain_failing(scene: Scene) -> None:
    @scene.app.consumer("orders", group="billing", ordered=True, retry=RetryPolicy(attempts=1, on_exhausted="halt_key"))
    def bill(order: str) -> None:
        raise ValueError(order)


def test_settles_that_are_never_answered_are_no_progress(scene: Scene) -> None:
    plain(scene)
    scene.start()
    scene.silent = (Settled,)
    while not scene.restarts:
        scene.app.publish("orders", "a")
        scene.wait(10)
        assert len(scene.handled) < 20
    assert len(scene.handled) > 10
    scene.silent = ()
    scene.app.publish("orders", "b")
    scene.wait(600)
    assert (scene.restarts, scene.woken) == (1, 0)


def test_handlers_that_hang_beyond_their_timeout_and_hold_up_the_rest_are_given_up(scene: Scene) -> None:
    @scene.app.consumer("orders", group="billing", concurrency=1, timeout="1m")
    async def hang(order: str) -> None:
        while not scene.over:
            try:
                await asyncio.sleep(10_000)
            except asyncio.CancelledError:
                continue  # as one does that waits for something else

    test_app = scene.start()
    scene.app.publish("orders", "a")
    scene.app.publish("orders", "b")
    test_app.drain()
    scene.wait(180)
    assert scene.restarts == 0
    scene.wait(20)
    assert scene.restarts == 1
    scene.wait(200)
    assert scene.woken == 1


# --- what it leaves alone ---------------------------------------------------------------------------------------------------------


def test_a_handler_within_its_timeout_is_left_alone(scene: Scene) -> None:
    @scene.app.consumer("orders", group="billing", concurrency=1, timeout=None)
    async def work(order: str) -> None:
        await asyncio.sleep(3600)

    scene.start()
    for order in "abc":
        scene.app.publish("orders", order)
    scene.wait(3000)
    assert (scene.restarts, scene.woken) == (0, 0)


@pytest.mark.parametrize("readable", [True, False])
def test_a_consumer_that_waits_for_a_retry_is_left_alone(scene: Scene, readable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not readable:
        monkeypatch.setattr(SimAdmin, "read", Admin.read)  # as RabbitMQ, which has numbers only

    @scene.app.consumer("orders", group="billing", ordered=True, retry=LATE)
    def busy(order: str, message: Message) -> None:
        if message.attempt == 1:
            raise Retry
        scene.handled.append(order)

    scene.start()
    for order in "abc":
        scene.app.publish("orders", order, key="k")
    scene.wait(1000)
    assert (scene.restarts, scene.woken, scene.handled) == (0, 0, [])


@pytest.mark.parametrize("halt", ["halt_key", "halt_partition"])
def test_a_consumer_that_waits_for_a_release_is_left_alone(scene: Scene, halt: OnExhausted) -> None:
    @scene.app.consumer("orders", group="billing", ordered=True, retry=RetryPolicy(1, on_exhausted=halt))
    def never(order: str) -> None:
        raise ValueError(order)

    test_app = scene.start()
    scene.app.publish("orders", "a", key="k")
    test_app.drain(raise_failures=False)
    for order in "bcd":
        scene.app.publish("orders", order, key="k")
    scene.wait(1000)
    assert (scene.restarts, scene.woken) == (0, 0)


def test_a_paused_consumer_is_left_alone(scene: Scene) -> None:
    plain(scene)
    test_app = scene.start()
    scene.app.pause("orders", "billing")
    test_app.drain()
    scene.app.publish("orders", "a")
    scene.wait(1000)
    assert (scene.restarts, scene.woken, scene.handled) == (0, 0, [])


@pytest.mark.parametrize("limit", [{"rate": "1/h"}, {"breaker": {"failures": 0.1, "min": 1, "window": "30s", "probe": "1h"}}])
def test_a_consumer_that_a_limit_holds_back_is_left_alone(scene: Scene, limit: dict[str, Any]) -> None:
    @scene.app.consumer("orders", group="billing", concurrency=1, retry=RetryPolicy(attempts=50, backoff=Backoff("1s", max="1s")))
    def fail(order: str) -> None:
        raise ConnectionError

    scene.start(Settings(defaults=limit))
    for order in "abcdefgh":
        scene.app.publish("orders", order)
    scene.wait(1000)
    assert (scene.restarts, scene.woken) == (0, 0)


def test_a_batch_that_waits_to_be_filled_is_left_alone_and_not_called_stalled(scene: Scene) -> None:
    @scene.app.consumer("orders", group="billing", batch=Batch(10, wait="10m"))
    def bill(orders: list[str]) -> None:
        scene.handled += orders

    scene.start()
    scene.app.publish("orders", "a")
    scene.wait(590)
    assert (scene.restarts, scene.woken, scene.handled) == (0, 0, [])
    assert not [event for event in scene.events if isinstance(event, Stalled)]
    assert scene.app.health().ready
    scene.wait(20)
    assert scene.handled == ["a"]


def test_a_backlog_that_nobody_can_read_is_left_alone(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Markers of transactions count as messages in the numbers of a broker, and no consumer ever gets one."""
    progress = SimAdmin.progress
    monkeypatch.setattr(
        SimAdmin, "progress", lambda admin, topic, group: [one._replace(messages=one.messages + 1) for one in progress(admin, topic, group)]
    )
    plain(scene)
    scene.start()
    scene.app.publish("orders", "a")
    scene.wait(1000)
    assert (scene.restarts, scene.woken, scene.handled) == (0, 0, ["a"])
