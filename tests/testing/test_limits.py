"""A rate and a breaker of the configuration, over a whole App in virtual time."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest

from mqsdk import App, Batch, Message, RetryPolicy, Settings
from mqsdk.events import BreakerChanged, DeadLettered, Event
from mqsdk.testing import TestApp


def settings(**keys: Any) -> Settings:
    return Settings(consumers={"orders/billing": keys})


class Bank:
    """What the handlers call; it may be down."""

    def __init__(self, app: App, **consumer: Any) -> None:
        self.app = app
        self.down = False
        self.calls = 0
        self.events: list[Event] = []
        app.observe(lambda event: self.events.append(event))
        app.consumer("orders", group="billing", **consumer)(self.bill)

    def bill(self, order: Any, message: Message[Any]) -> None:
        self.calls += 1
        if self.down:
            raise ConnectionError("the bank is closed")

    @property
    def states(self) -> list[str]:
        return [event.state for event in self.events if isinstance(event, BreakerChanged)]


@pytest.mark.parametrize("like", [None, "log"])
def test_a_rate_lets_so_many_start(like: str | None) -> None:
    bank = Bank(App(settings(rate="30/m")))
    with TestApp(bank.app, like=like) as t:
        bank.app.publish_many("orders", list(range(10)))
        assert t.drain().handled == 1
        assert t.advance("1.9s").handled == 0
        assert t.advance("0.2s").handled == 1
        assert t.advance("10s").handled == 5
        [info] = bank.app.consumers()
        assert (info.rate, info.breaker, info.in_flight) == (0.5, None, 3)
        assert bank.app.health().problems == ()


def test_an_idle_time_is_worth_a_tenth_of_a_second() -> None:
    bank = Bank(App(settings(rate="100/s")))
    with TestApp(bank.app) as t:
        t.advance("1h")
        bank.app.publish_many("orders", list(range(1000)))
        assert t.drain().handled == 10
        assert t.advance("1s").handled == pytest.approx(100, abs=2)
        assert t.advance("1h").handled == pytest.approx(890, abs=2)


def test_async_handlers_are_limited_by_the_rate_too() -> None:
    app, started = App(settings(rate="10/s")), []

    @app.consumer("orders", group="billing", concurrency=100)
    async def bill(order: int) -> None:
        started.append(order)

    with TestApp(app) as t:
        app.publish_many("orders", list(range(50)))
        t.drain()
        assert len(started) == 1
        t.advance("2s")
        assert len(started) == pytest.approx(21, abs=1)


def test_retries_and_batches_count_their_messages() -> None:
    bank = Bank(App(settings(rate="1/s")), retry=RetryPolicy(attempts=3))
    bank.down = True
    with TestApp(bank.app) as t:
        bank.app.publish_many("orders", list(range(10)))
        t.advance("10s")
        assert bank.calls == 11
    sizes: list[int] = []
    app = App(settings(rate="10/s"))

    @app.consumer("orders", group="billing", batch=Batch(20))
    def load(rows: list[int]) -> None:
        sizes.append(len(rows))

    with TestApp(app) as t:
        app.publish_many("orders", list(range(100)), key="one partition")
        t.drain()
        assert sizes == [20]
        t.advance("1.9s")
        assert sizes == [20]
        t.advance("0.2s")
        assert sizes == [20, 20]


def test_a_breaker_pauses_while_the_bank_is_down_and_nothing_is_dead_lettered(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mqsdk.consumer")
    bank = Bank(App(settings(breaker={"failures": 0.5, "min": 10, "window": "30s", "probe": "5s"})), retry=RetryPolicy(attempts=3))
    with TestApp(bank.app) as t:
        bank.app.publish_many("orders", list(range(5)))
        assert t.drain().handled == 5
        bank.down = True
        bank.app.publish_many("orders", list(range(500)))
        t.drain(raise_failures=False)
        assert bank.states == ["open"]
        opened = bank.calls
        assert 5 + 5 <= opened < 50
        assert bank.app.consumers()[0].breaker == "open"
        health = bank.app.health()
        assert (health.ready, health.problems) == (
            True, ("the breaker of consumer orders/billing is open: its attempts fail, and one message at a time is tried",),
        )  # fmt: skip
        t.advance("10m")
        assert bank.calls == opened + 120
        assert bank.states == ["open", *["probing", "open"] * 120]
        assert not any(isinstance(event, DeadLettered) for event in bank.events)
        bank.down = False
        t.advance("2m")
        assert bank.states[-2:] == ["probing", "closed"]
        assert bank.app.consumers()[0].breaker == "closed"
        assert bank.app.health().problems == ()
        assert sorted(t.handled("orders", "billing").payloads) == sorted([*range(5), *range(500)])
        assert t.dead_letters("orders", "billing") == []
    lines = [line.message for line in caplog.records if "breaker" in line.message]
    assert re.fullmatch(
        r"orders/billing: the breaker is open, nothing starts: \d+ of \d+ attempts failed; one message is tried in 5 s", lines[0]
    )
    assert lines[1:3] == [
        "orders/billing: the breaker tries one message",
        "orders/billing: the breaker is open, nothing starts: 1 of 1 attempts failed; one message is tried in 5 s",
    ]
    assert lines[-1] == "orders/billing: the breaker is closed, messages start again"


def test_without_a_breaker_the_same_outage_makes_dead_letters() -> None:
    """What the one before would do without one: that it sees something."""
    bank = Bank(App(settings()), retry=RetryPolicy(attempts=3))
    bank.down = True
    with TestApp(bank.app) as t:
        bank.app.publish_many("orders", list(range(50)))
        t.advance("10m")
        assert len(t.dead_letters("orders", "billing")) == 50


def test_order_of_a_key_holds_through_an_outage() -> None:
    app, seen = App(settings(breaker={"failures": 0.5, "min": 4, "probe": "5s"})), []
    down = [True]

    @app.consumer("orders", group="billing", ordered=True)
    def bill(order: int) -> None:
        if down[0]:
            raise ConnectionError("the bank is closed")
        seen.append(order)

    with TestApp(app) as t:
        for number in range(40):
            app.publish("orders", number, key=str(number % 4))
        t.advance("1m")
        assert app.consumers()[0].breaker in ("open", "probing")
        down[0] = False
        t.advance("5m")
        for key in range(4):
            assert [order for order in seen if order % 4 == key] == list(range(key, 40, 4))


def test_a_reload_turns_both_on_changes_them_and_takes_them_away() -> None:
    bank = Bank(App(settings()))
    with TestApp(bank.app) as t:

        def reload(**keys: Any) -> None:
            t._stage.supervisor.apply(t._stage.configuration(settings(**keys).configuration()))

        reload(rate="1/s")
        bank.app.publish_many("orders", list(range(200)))
        t.drain()
        assert bank.calls == 1
        reload(rate="10/s")
        t.advance("1s")
        assert bank.calls == pytest.approx(11, abs=1)
        bank.down = True
        reload(rate="none", breaker={"min": 3, "failures": 0.1, "probe": "1h"})
        t.advance("1s")
        assert bank.states == ["open"]
        calls, bank.down = bank.calls, False
        reload(breaker={"min": 3, "failures": 0.1, "probe": "2s"})
        t.drain()
        assert bank.calls == calls
        t.advance("1s")
        assert bank.states == ["open", "probing", "closed"]
        t.advance("1m")
        bank.down = True
        bank.app.publish_many("orders", list(range(50)))
        t.drain(raise_failures=False)
        assert bank.states[3:] == ["open"]
        bank.down = False
        reload(breaker="none")
        t.advance("1m")
        assert bank.states[3:] == ["open", "closed"]
        assert bank.app.consumers()[0].breaker is None
        assert bank.app.lag("orders", "billing").messages == 0
