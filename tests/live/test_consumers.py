"""Every live key of a consumer, at each place where it may stand: what the running consumer does before and after the file changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mqsdk.events import BreakerChanged, DeadLettered, Dropped, Retried
from mqsdk.testing.stages import NoJitter
from tests.live.keys import shows_everywhere
from tests.live.stage import AT_HOME, Shop

Make = Callable[..., Shop]


class Place:
    """Where the keys of the consumer stand in this run of the test."""

    def __init__(self, folder: Path, write: Callable[[str], str]) -> None:
        self._folder = folder
        self._write = write
        self.shop: Shop | None = None

    def start(self, keys: str, **options: Any) -> Shop:
        self.shop = Shop(self._folder, self._write(keys), **options)
        return self.shop

    def take(self, keys: str) -> None:
        assert self.shop is not None
        assert self.shop.take(self._write(keys)), "something changed"


@pytest.fixture(params=AT_HOME)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path, AT_HOME[request.param])
    yield made
    if made.shop is not None:
        made.shop.app.close()


def backoff(keys: str) -> str:
    return f"retry: {{attempts: 1000, backoff: {{{keys}}}}}"


def breaker(keys: str, more: str = "") -> str:
    return f"breaker: {{{keys}}}, retry: {{attempts: 1000, backoff: {{base: 10s, factor: 1}}}}{more}"


@shows_everywhere("concurrency")
def test_concurrency_goes_up_and_down_and_no_running_handler_is_lost(place: Place) -> None:
    shop = place.start("concurrency: 2")
    shop.busy_s = 10.0
    shop.publish(*range(40))
    assert shop.running == 2
    place.take("concurrency: 5")
    assert shop.running == 5
    place.take("concurrency: 1")
    assert shop.running == 5, "what runs may end"
    shop.advance("15s")
    shop.most = 0
    shop.advance("5m")
    assert shop.most == 1
    place.take("concurrency: 8")
    shop.advance("5m")
    assert sorted(number for _, number in shop.seen) == list(range(40))


@shows_everywhere("timeout")
def test_a_timeout_holds_from_the_next_call_on(place: Place) -> None:
    shop = place.start("timeout: 1m")
    shop.busy_s = 10.0
    shop.publish(1)
    place.take("timeout: 2s")
    shop.advance("20s")
    shop.publish(2)
    shop.advance("3s")
    assert [event.error.split(":")[0] for event in shop.told(Retried)][-1] == "HandlerTimeout"
    place.take("timeout: none")
    shop.advance("1m")
    assert [number for _, number in shop.seen] == [1, 2]


@shows_everywhere("retry.attempts")
def test_the_number_of_attempts_holds_for_retries_that_wait(place: Place) -> None:
    shop = place.start("retry: {attempts: 50, backoff: {base: 10s, factor: 1}}")
    shop.broken = {1}
    shop.publish(1)
    shop.advance("15s")
    place.take("retry: {attempts: 3, backoff: {base: 10s, factor: 1}}")
    assert not shop.told(DeadLettered)
    shop.advance("6s")
    assert [event.attempts for event in shop.told(DeadLettered)] == [3]


@shows_everywhere("retry.backoff.base")
def test_the_first_wait(place: Place) -> None:
    shop = place.start(backoff("base: 10s, factor: 1"))
    shop.broken = {1}
    shop.publish(1)
    place.take(backoff("base: 1s, factor: 1"))
    shop.advance("12s")
    assert [event.delay_s for event in shop.told(Retried)][:2] == [10.0, 1.0]
    assert len(shop.told(Retried)) > 2


@shows_everywhere("retry.backoff.factor")
def test_the_growth_of_waits(place: Place) -> None:
    shop = place.start(backoff("base: 1s, factor: 1, max: 1h"))
    shop.broken = {1}
    shop.publish(1)
    shop.advance("2s")
    place.take(backoff("base: 1s, factor: 2, max: 1h"))
    shop.advance("1h")
    assert [event.delay_s for event in shop.told(Retried)][:6] == [1.0, 1.0, 1.0, 8.0, 16.0, 32.0]


@shows_everywhere("retry.backoff.max")
def test_the_longest_wait(place: Place) -> None:
    shop = place.start(backoff("base: 1s, factor: 10, max: 1h"))
    shop.broken = {1}
    shop.publish(1)
    shop.advance("1s")
    place.take(backoff("base: 1s, factor: 10, max: 5s"))
    shop.advance("20s")
    assert [event.delay_s for event in shop.told(Retried)][:4] == [1.0, 10.0, 5.0, 5.0]


@shows_everywhere("retry.backoff.jitter")
def test_the_chance_in_a_wait(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoJitter, "random", lambda self: 0.5)
    shop = place.start(backoff("base: 10s, factor: 1, jitter: 0"))
    shop.broken = {1}
    shop.publish(1)
    place.take(backoff("base: 10s, factor: 1, jitter: 1"))
    shop.advance("11s")
    assert [event.delay_s for event in shop.told(Retried)] == [10.0, 15.0]


@shows_everywhere("retry.on_exhausted")
def test_what_follows_the_last_attempt(place: Place) -> None:
    shop = place.start("retry: {attempts: 1}")
    shop.broken = {1, 2}
    shop.publish(1)
    place.take("retry: {attempts: 1, on_exhausted: drop}")
    shop.publish(2)
    assert (len(shop.told(DeadLettered)), len(shop.told(Dropped))) == (1, 1)


@shows_everywhere("retry.dlq_follow_key")
def test_later_messages_of_a_key_follow_its_dead_letters(place: Place) -> None:
    shop = place.start("retry: {attempts: 1}", ordered=True)
    shop.broken = {1}
    shop.publish(1, 2, key="k")
    assert [number for _, number in shop.seen] == [2]
    place.take("retry: {attempts: 1, dlq_follow_key: true}")
    shop.advance("1m")
    shop.publish(3, key="k")
    shop.advance("1m")
    assert [event.reason for event in shop.told(DeadLettered)] == ["exhausted", "followed"]


@shows_everywhere("paused")
def test_a_pause_begins_and_ends(place: Place) -> None:
    shop = place.start("paused: true")
    shop.publish(1)
    assert not shop.seen
    place.take("paused: false")
    assert len(shop.seen) == 1
    place.take("paused: true")
    shop.publish(2)
    assert len(shop.seen) == 1


@shows_everywhere("in_flight.records")
def test_the_messages_held_at_once(place: Place) -> None:
    shop = place.start("concurrency: 1, in_flight: {records: 10}")
    shop.busy_s = 3600.0
    shop.publish(*range(100))
    assert 1 <= shop.app.consumers()[0].in_flight <= 10
    place.take("concurrency: 1, in_flight: {records: 1000}")
    shop.advance("1s")
    assert shop.app.consumers()[0].in_flight == 100


@shows_everywhere("in_flight.bytes")
def test_the_bytes_held_at_once(place: Place) -> None:
    shop = place.start("concurrency: 1, in_flight: {bytes: 1024}")
    shop.busy_s = 3600.0
    shop.publish(*(10**500 + number for number in range(20)))
    few = shop.app.consumers()[0].in_flight
    assert few < 6
    place.take("concurrency: 1, in_flight: {bytes: 1MiB}")
    shop.advance("1s")
    assert shop.app.consumers()[0].in_flight == 20


@shows_everywhere("rate")
def test_the_rate_of_starts(place: Place) -> None:
    shop = place.start("rate: 10/s")
    shop.publish(*range(1000))

    def in_seconds(duration: str) -> int:
        before = len(shop.seen)
        shop.advance(duration)
        return len(shop.seen) - before

    assert in_seconds("2s") == pytest.approx(20, abs=2)
    place.take("rate: 100/s")
    assert in_seconds("2s") == pytest.approx(200, abs=12)
    place.take("rate: none")
    in_seconds("1s")
    assert len(shop.seen) == 1000


def state(shop: Shop) -> str | None:
    return shop.app.consumers()[0].breaker


@shows_everywhere("breaker.failures")
def test_the_share_of_failures_that_opens_the_breaker(place: Place) -> None:
    shop = place.start(breaker("failures: 1, min: 4, window: 1h"))
    shop.broken = set(range(1, 100, 2))
    shop.publish(*range(10))
    assert state(shop) == "closed"
    place.take(breaker("failures: 0.3, min: 4, window: 1h"))
    shop.publish(*range(10, 20))
    assert state(shop) == "open"


@shows_everywhere("breaker.min")
def test_the_attempts_without_which_it_stays_closed(place: Place) -> None:
    shop = place.start(breaker("min: 100, window: 1h"))
    shop.broken = set(range(100))
    shop.publish(*range(5))
    assert state(shop) == "closed"
    place.take(breaker("min: 2, window: 1h"))
    shop.publish(*range(5, 8))
    assert state(shop) == "open"


@shows_everywhere("breaker.window")
def test_how_long_an_attempt_counts(place: Place) -> None:
    shop = place.start(breaker("min: 3, window: 5s"))
    shop.broken = {1}
    shop.publish(1)
    shop.advance("1m")  # an attempt each ten seconds: one in the window
    assert state(shop) == "closed"
    place.take(breaker("min: 3, window: 1h"))
    shop.advance("1m")
    assert shop.told(BreakerChanged)[0].attempts == 3


@shows_everywhere("breaker.probe")
def test_the_wait_before_a_probe(place: Place) -> None:
    shop = place.start(breaker("min: 2, window: 1h, probe: 1h"))
    shop.broken = {1, 2, 3}
    shop.publish(1, 2, 3)
    assert state(shop) == "open"
    place.take(breaker("min: 2, window: 1h, probe: 2s"))
    shop.broken = set()
    shop.advance("1m")
    assert state(shop) == "closed"
