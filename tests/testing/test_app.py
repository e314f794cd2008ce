"""TestApp by the contract: drain, advance, published, handled, dead_letters, lag, crash, fail_publish."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mqsdk import (
    App,
    Backoff,
    Batch,
    BatchFailure,
    CapabilityError,
    ConfigError,
    DeclarationError,
    Message,
    Outgoing,
    PublishRejected,
    PublishUnknown,
    Reject,
    Retry,
    RetryPolicy,
    StateError,
    current_message,
)
from mqsdk.config.backends import SHIPPED
from mqsdk.errors import DecodeError
from mqsdk.testing import SimBackend, TestApp
from mqsdk.testing.simlog import MEMORY


@dataclass
class Order:
    id: int


# --- the example of the contract --------------------------------------------------------------------------------------------------

app = App()


@app.consumer("orders.created", group="billing")
def bill(order: dict[str, int], message: Message[Any]) -> None:
    if message.attempt == 1:
        raise RuntimeError("the bank is closed")


def test_a_failing_order_is_retried_after_a_second() -> None:
    with TestApp(app) as t:
        app.publish("orders.created", {"id": 7}, key="7")
        t.drain(raise_failures=False)
        t.advance("1s")
        assert t.handled("orders.created", "billing").attempts == [2]


def test_the_same_app_serves_the_next_test_with_nothing_left_of_the_last() -> None:
    for _ in range(2):
        with TestApp(app) as t:
            assert t.published("orders.created") == []
            app.publish("orders.created", {"id": 8})
            assert t.drain(raise_failures=False).failed == 1
        assert app.state == "NEW"


# --- drain --------------------------------------------------------------------------------------------------------------------------


def test_nothing_happens_before_drain() -> None:
    app, seen = App(), []

    @app.consumer("t", group="g")
    def handle(value: str) -> None:
        seen.append(value)

    with TestApp(app) as t:
        app.publish("t", "hello")
        assert seen == []
        assert t.lag("t", "g").messages == 1
        assert t.drain() == (1, 0, 0)
        assert seen == ["hello"]
        assert t.lag("t", "g").messages == 0


def test_drain_raises_the_first_exception_of_a_handler_itself() -> None:
    app, errors = App(), [ValueError("first"), KeyError("second")]

    @app.consumer("t", group="g", retry=1)
    def handle(index: int) -> None:
        raise errors[index]

    with TestApp(app) as t:
        app.publish_many("t", [0, 1], key="k")
        with pytest.raises(ValueError, match="first") as caught:
            t.drain()
        assert caught.value is errors[0]
        assert t.drain() == (0, 0, 0)


def test_drain_counts_what_was_handled_failed_and_dead_lettered() -> None:
    app = App()

    @app.consumer("t", group="g", retry=1)
    def handle(value: int) -> None:
        if value % 2:
            raise RuntimeError("odd")

    with TestApp(app) as t:
        app.publish_many("t", range(5))
        assert t.drain(raise_failures=False) == (3, 2, 2)


def test_a_payload_that_does_not_decode_is_raised_and_dead_lettered() -> None:
    app = App()

    @app.consumer("t", group="g")
    def handle(order: Order) -> None: ...

    with TestApp(app) as t:
        app.publish("t", b"\xff")
        with pytest.raises(DecodeError):
            t.drain()
        assert t.dead_letters("t", "g").payloads == [b"\xff"]
        assert t.handled("t", "g") == []


def test_what_a_handler_publishes_is_drained_too() -> None:
    app = App()

    @app.consumer("orders", group="billing")
    def order(number: int) -> None:
        app.publish("invoices", {"order": number}, id=f"{current_message().id}/invoice")  # type: ignore[union-attr]

    @app.consumer("invoices", group="mail")
    async def invoice(content: dict[str, int]) -> None:
        await app.publish_async("mails", f"invoice for {content['order']}")

    with TestApp(app) as t:
        receipt = app.publish("orders", 5)
        assert t.drain().handled == 2
        assert t.published("invoices").ids == [f"{receipt.id}/invoice"]
        assert t.published("mails").payloads == ["invoice for 5"]


def test_a_handler_that_feeds_itself_for_ever_is_an_error_and_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqsdk.testing.stages.MAX_ROUNDS", 50)
    app = App()

    @app.consumer("t", group="g")
    def handle(number: int) -> None:
        app.publish("t", number + 1)

    with TestApp(app) as t:
        app.publish("t", 0)
        with pytest.raises(StateError, match="do not come to rest"):
            t.drain()


def test_a_large_backlog_is_drained_at_once() -> None:
    app, seen = App(), []

    @app.consumer("t", group="g", batch=100)
    def handle(numbers: list[int]) -> None:
        seen.extend(numbers)

    with TestApp(app) as t:
        app.publish_many("t", range(5000), key=str)
        assert t.drain().handled == 5000
        assert sorted(seen) == list(range(5000))


# --- time ---------------------------------------------------------------------------------------------------------------------------


def test_now_is_what_the_app_sees_and_moves_by_advance_only() -> None:
    with TestApp(app) as t:
        start = t.now
        assert start == datetime(2026, 1, 1, tzinfo=UTC)
        app.publish("orders.created", {"id": 1})
        t.drain(raise_failures=False)
        assert t.now == start
        t.advance(timedelta(days=1))
        t.advance("250ms")
        assert t.now == start + timedelta(days=1, milliseconds=250)
        assert t.published("orders.created")[0].published_at == start


def test_retries_come_at_their_times_exactly() -> None:
    app, moments = App(), []

    @app.consumer("t", group="g", retry=RetryPolicy(attempts=4, backoff=Backoff("1s", factor=3, max="1m")))
    def handle(message: Message[Any]) -> None:
        moments.append((message.attempt, (t.now - start).total_seconds()))
        raise RuntimeError("never")

    with TestApp(app) as t:
        start = t.now
        app.publish("t", "x")
        t.drain(raise_failures=False)
        for _ in range(9):
            t.advance("100ms")
        assert moments == [(1, 0.0)]
        t.advance("100ms")
        assert moments == [(1, 0.0), (2, 1.0)]
        assert t.advance("1h") == (0, 2, 1)
        assert moments == [(1, 0.0), (2, 1.0), (3, 4.0), (4, 13.0)]
        assert t.dead_letters("t", "g").attempts == [4]


def test_jitter_is_drawn_from_the_seed() -> None:
    def moments(seed: int) -> list[float]:
        app, found = App(), []

        @app.consumer("t", group="g", retry=3)
        def handle(value: str) -> None:
            found.append((t.now - start).total_seconds())
            raise RuntimeError("never")

        with TestApp(app, seed=seed) as t:
            start = t.now
            app.publish("t", "x")
            t.advance("1m")
        return found

    assert moments(0) == [0.0, 1.0, 3.0]
    assert moments(5) == moments(5) != moments(0)


def test_asyncio_sleep_of_a_handler_takes_virtual_time() -> None:
    app, ended = App(), []

    @app.consumer("t", group="g", concurrency=10)
    async def handle(number: int) -> None:
        await asyncio.sleep(5)
        ended.append((number, (t.now - start).total_seconds()))

    with TestApp(app) as t:
        start = t.now
        app.publish_many("t", range(5), key="one key, one partition")
        assert t.drain() == (0, 0, 0)
        t.advance("4.9s")
        assert ended == []
        assert t.advance("100ms").handled == 5
        assert sorted(ended) == [(number, 5.0) for number in range(5)]


def test_handlers_that_wait_do_not_wait_for_each_other_after_quick_ones_either() -> None:
    app = App()

    @app.consumer("t", group="g", concurrency=10)
    async def handle(seconds: int) -> None:
        await asyncio.sleep(seconds)

    with TestApp(app) as t:
        app.publish_many("t", [0] * 50, key="k")
        assert t.drain().handled == 50
        app.publish_many("t", [5] * 10, key="k")
        t.drain()
        assert t.advance("5s").handled == 10


def test_an_async_handler_times_out_in_virtual_time() -> None:
    app, cancelled = App(), []

    @app.consumer("t", group="g", timeout="30s", retry=1)
    async def handle(value: str) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append((t.now - start).total_seconds())
            raise

    with TestApp(app) as t:
        start = t.now
        app.publish("t", "x")
        t.drain()
        t.advance("1m")
        assert cancelled == [30.0]
        assert t.dead_letters("t", "g").payloads == ["x"]


@pytest.mark.parametrize("form", ["sync", "async", "payload only"])
def test_the_time_that_remains_is_virtual_too(form: str) -> None:
    app, remaining = App(), []

    def note(message: Message[Any] | None) -> None:
        assert message is not None
        remaining.append(message.remaining)

    if form == "sync":

        @app.consumer("t", group="g", timeout="30s")
        def handle(value: str, message: Message[Any]) -> None:
            note(message)

    elif form == "async":

        @app.consumer("t", group="g", timeout="30s")
        async def handle_async(value: str, message: Message[Any]) -> None:
            await asyncio.sleep(10)
            note(message)

    else:

        @app.consumer("t", group="g", timeout="30s")
        def handle_payload(value: str) -> None:
            note(current_message())

    with TestApp(app) as t:
        app.publish("t", "x")
        t.advance("10s")
    assert remaining == [20.0 if form == "async" else 30.0]


def test_a_handler_still_running_at_the_end_is_ended_with_the_drain_timeout() -> None:
    app, ended = App(), []

    @app.consumer("t", group="g")
    async def handle(value: str) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(True)

    with TestApp(app) as t:
        app.publish("t", "x")
        t.drain()
    assert ended == [True]


# --- what happened ------------------------------------------------------------------------------------------------------------------


def test_handled_shows_payloads_as_the_handler_got_them() -> None:
    app = App()

    @app.consumer("t", group="g")
    def handle(order: Order) -> None: ...

    with TestApp(app) as t:
        receipt = app.publish("t", {"id": 7}, key="k", headers={"a": "1"})
        t.drain()
        handled = t.handled("t", "g")
        assert handled.payloads == [Order(7)]
        assert handled.ids == [receipt.id]
        assert (handled[0].key, dict(handled[0].headers)) == ("k", {"a": "1"})


def test_a_misspelt_consumer_in_an_assertion_is_refused_with_the_known_names() -> None:
    with TestApp(app) as t:
        t.drain()
        for look in (t.handled, t.dead_letters, t.lag):
            with pytest.raises(DeclarationError, match=r"no consumer orders\.created/biling") as caught:
                look("orders.created", "biling")
            assert caught.value.fix == "did you mean orders.created/billing?"
        with pytest.raises(DeclarationError) as caught:
            t.handled("x", "y")
        assert caught.value.fix == "its consumers: orders.created/billing"
        assert t.handled("orders.created", "billing") == t.dead_letters("orders.created", "billing") == []
        assert t.published("mails") == []  # nothing was published there: an assertion that a test may make


def test_what_takes_no_argument_like_this_says_so() -> None:
    with pytest.raises(DeclarationError, match="TestApp takes an App, not int"):
        TestApp(3)  # type: ignore[arg-type]
    with TestApp(app) as t, pytest.raises(DeclarationError, match="write a unit"):
        t.advance("5")


@pytest.mark.parametrize("shell", [False, True])
def test_a_child_process_of_a_handler_is_waited_for(shell: bool) -> None:
    app, ended = App(), []

    @app.consumer("t", group="g")
    async def handle(number: int) -> None:
        script = "sleep 0.6; exit 3"
        start = asyncio.create_subprocess_shell(script) if shell else asyncio.create_subprocess_exec("sh", "-c", script)
        ended.append(await (await start).wait())

    with TestApp(app) as t:
        app.publish("t", 1)
        assert t.drain().handled == 1
        assert ended == [3]
        app.publish("t", 2)
        assert t.drain().handled == 1


def test_a_child_process_that_cannot_be_started_is_a_failed_attempt_and_no_wait() -> None:
    app = App()

    @app.consumer("t", group="g", retry=1)
    async def handle(number: int) -> None:
        await asyncio.create_subprocess_exec("/no/such/program")

    with TestApp(app) as t:
        app.publish("t", 1)
        with pytest.raises(FileNotFoundError):
            t.drain()
        before = time.monotonic()
        t.drain()
        assert time.monotonic() - before < 5


def test_published_keeps_the_order_over_all_partitions() -> None:
    with TestApp(App()) as t:
        for number in range(20):
            t.app.publish("t", number, key=str(number))
        assert t.published("t").payloads == list(range(20))


def test_a_dead_letter_keeps_payload_id_and_attempts() -> None:
    app = App()

    @app.consumer("t", group="g", retry=RetryPolicy(attempts=3))
    def handle(order: Order) -> None:
        raise RuntimeError("never")

    with TestApp(app) as t:
        receipt = app.publish("t", {"id": 7}, key="k")
        t.drain(raise_failures=False)
        assert t.dead_letters("t", "g") == []
        t.advance("3s")
        dead = t.dead_letters("t", "g")
        assert (dead.payloads, dead.ids, dead.attempts) == ([{"id": 7}], [receipt.id], [3])
        assert t.published("t.g.dlq").ids == [receipt.id]
        assert t.lag("t", "g").messages == 0


def test_dead_letters_of_a_topic_of_ones_own_are_found() -> None:
    app = App()

    @app.consumer("t", group="g", dead_letter="graveyard")
    def handle(value: str) -> None:
        raise Reject("no")

    with TestApp(app) as t:
        app.publish("t", "x")
        t.drain()
        assert t.dead_letters("t", "g").payloads == ["x"]
        assert t.published("graveyard").payloads == ["x"]


def test_verdicts_are_no_errors() -> None:
    app = App()

    @app.consumer("t", group="g")
    def handle(value: str, message: Message[Any]) -> None:
        if value == "reject":
            raise Reject("no")
        if message.attempt == 1:
            raise Retry(after="10s")

    with TestApp(app) as t:
        app.publish_many("t", ["reject", "retry"])
        assert t.drain() == (0, 2, 1)
        assert t.advance("9s") == (0, 0, 0)
        assert t.advance("1s") == (1, 0, 0)
        assert t.handled("t", "g").attempts == [2]


def test_a_batch_that_failed_in_part_is_handled_in_part() -> None:
    app = App()

    @app.consumer("t", group="g", batch=Batch(size=10), retry=1)
    def handle(values: list[int]) -> None:
        raise BatchFailure({index: RuntimeError("odd") for index, value in enumerate(values) if value % 2})

    with TestApp(app) as t:
        app.publish_many("t", range(6), key="k")
        t.drain(raise_failures=False)
        assert t.handled("t", "g").payloads == [0, 2, 4]
        assert t.dead_letters("t", "g").payloads == [1, 3, 5]


def test_lag_is_exact_after_drain_beside_a_handler_that_still_runs() -> None:
    app = App()

    @app.consumer("t", group="g")
    async def handle(seconds: int) -> None:
        await asyncio.sleep(seconds)

    with TestApp(app) as t:
        for seconds in (60, 0, 0, 0):
            app.publish("t", seconds, key="k")
            t.drain()
        assert t.lag("t", "g").messages == 1


def test_two_groups_each_handle_everything() -> None:
    app = App()

    @app.consumer("t", group="a")
    def first(value: int) -> None: ...

    @app.consumer("t", group="b")
    async def second(value: int) -> None: ...

    with TestApp(app) as t:
        app.publish_many("t", range(10))
        assert t.drain().handled == 20
        assert t.handled("t", "a").payloads == t.handled("t", "b").payloads == list(range(10))


def test_ordered_keys_wait_for_their_own_failure_only() -> None:
    app, seen = App(), []

    @app.consumer("t", group="g", ordered=True)
    def handle(value: str, message: Message[Any]) -> None:
        seen.append(value)
        if value == "a1" and message.attempt == 1:
            raise RuntimeError("once")

    with TestApp(app) as t:
        for value in ("a1", "b1", "a2", "b2"):
            app.publish("t", value, key=value[0])
        t.drain(raise_failures=False)
        assert [value for value in seen if value[0] == "b"] == ["b1", "b2"]
        assert [value for value in seen if value[0] == "a"] == ["a1"]
        t.advance("1s")
        assert [value for value in seen if value[0] == "a"] == ["a1", "a1", "a2"]
        assert t.handled("t", "g").payloads[-2:] == ["a1", "a2"]


def test_middleware_and_hooks_of_the_app_run_and_stay_as_they_were() -> None:
    app, log = App(), []

    @app.on_startup
    async def up() -> None:
        await asyncio.sleep(1)
        log.append("up")

    @app.on_shutdown
    def down() -> None:
        log.append("down")

    @app.middleware
    def around(message: Message[Any]) -> Any:
        log.append("before")
        yield
        log.append("after")

    @app.consumer("t", group="g")
    def handle(value: str) -> None:
        log.append(value)

    with TestApp(app) as t:
        app.publish("t", "x")
        t.drain()
    assert log == ["up", "before", "x", "after", "down"]
    assert app._middleware == [around]


# --- faults ---------------------------------------------------------------------------------------------------------------------------


def test_a_crash_delivers_again_what_was_not_settled_and_nothing_else() -> None:
    app, seen = App(), []

    @app.consumer("t", group="g")
    def handle(value: str, message: Message[Any]) -> None:
        seen.append(value)
        if value == "bad" and len(seen) < 5:
            raise RuntimeError("once")

    with TestApp(app) as t:
        app.publish_many("t", ["good", "bad", "fine"], key="k")
        t.drain(raise_failures=False)
        t.crash()
        app.publish("t", "next")
        t.drain(raise_failures=False)
        t.advance("10s")
        assert sorted(seen) == ["bad", "bad", "fine", "good", "next"] or sorted(seen) == ["bad", "bad", "bad", "fine", "good", "next"]
        assert sorted(t.handled("t", "g").payloads) == ["bad", "fine", "good", "next"]
        assert t.lag("t", "g").messages == 0


def test_a_crash_takes_running_async_handlers_with_it() -> None:
    app, ended = App(), []

    @app.consumer("t", group="g")
    async def handle(value: str) -> None:
        await asyncio.sleep(10)
        ended.append(value)

    with TestApp(app) as t:
        app.publish("t", "x")
        t.drain()
        t.advance("5s")
        t.crash()
        t.advance("9s")
        assert ended == []
        t.advance("1s")
        assert ended == ["x"]
        assert t.handled("t", "g").payloads == ["x"]


def test_publish_outcomes_reach_the_publisher() -> None:
    with TestApp(App()) as t:
        t.fail_publish("rejected")
        with pytest.raises(PublishRejected):
            t.app.publish("t", "one")
        t.fail_publish("unknown_stored")
        with pytest.raises(PublishUnknown) as stored:
            t.app.publish("t", "two")
        t.fail_publish("unknown_lost")
        with pytest.raises(PublishUnknown) as lost:
            t.app.publish("t", "three")
        assert t.published("t").payloads == ["two"]
        t.app.publish("t", "three", id=lost.value.id)
        assert t.published("t").ids == [stored.value.id, lost.value.id]


def test_as_many_publishes_fail_as_were_asked_for() -> None:
    with TestApp(App()) as t:
        t.fail_publish("rejected", times=2)
        for _ in range(2):
            with pytest.raises(PublishRejected):
                t.app.publish("t", "x")
        t.app.publish("t", "x")
        assert len(t.published("t")) == 1


def test_a_publish_that_fails_in_a_handler_is_a_failed_attempt() -> None:
    app = App()

    @app.consumer("orders", group="billing")
    def order(number: int) -> None:
        app.publish("invoices", number)

    with TestApp(app) as t:
        app.publish("orders", 1)
        t.fail_publish("rejected")
        with pytest.raises(PublishRejected):
            t.drain()
        t.advance("1s")
        assert t.handled("orders", "billing").attempts == [2]
        assert t.published("invoices").payloads == [1]


def test_a_dead_letter_whose_copy_is_rejected_stays_unsettled_and_is_copied_later() -> None:
    app = App()

    @app.consumer("t", group="g", retry=1)
    def handle(value: str) -> None:
        raise RuntimeError("never")

    with TestApp(app) as t:
        app.publish("t", "x")
        t.fail_publish("rejected")
        t.drain(raise_failures=False)
        assert t.dead_letters("t", "g") == []
        assert t.lag("t", "g").messages == 1
        t.advance("1m")
        assert t.dead_letters("t", "g").payloads == ["x"]
        assert t.lag("t", "g").messages == 0


# --- how it is made -------------------------------------------------------------------------------------------------------------------


def test_it_works_inside_a_running_event_loop() -> None:
    app, threads = App(), []

    @app.consumer("t", group="sync")
    def sync(number: int) -> None:
        threads.append(threading.current_thread())
        app.publish("copies", number)

    @app.consumer("t", group="async")
    async def plain(number: int) -> None:
        await asyncio.sleep(1)

    async def scenario() -> None:
        async with TestApp(app) as t:
            await app.publish_async("t", 1)
            await app.publish_many_async("t", [2, 3])
            t.drain()
            t.advance("1s")
            assert sorted(t.handled("t", "sync").payloads) == [1, 2, 3]
            assert sorted(t.handled("t", "async").payloads) == [1, 2, 3]
            assert len(t.published("copies")) == 3

    asyncio.run(scenario())
    assert threading.main_thread() not in threads


def test_the_configuration_of_the_app_counts_but_for_its_clusters(tmp_path: Path) -> None:
    file = tmp_path / "mqsdk.yaml"
    file.write_text(
        "version: 1\n"
        "clusters:\n  main: {backend: log, path: ./never-made}\n"
        "routes:\n  - {topics: ['*'], cluster: main}\n"
        "consumers:\n  t/g: {retry: {attempts: 2}}\n"
    )
    app = App(str(file))

    @app.consumer("t", group="g", retry=9)
    def handle(value: str) -> None:
        raise RuntimeError("never")

    with TestApp(app) as t:
        app.publish("t", "x")
        t.advance("1h")
        dead = t.dead_letters("t", "g")
        assert (dead.attempts, dead[0].cluster) == ([2], "main")
    with TestApp(App(), config=str(file)) as t:
        assert t.app.publish("t", "x").cluster == "main"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mqsdk.yaml"]


def test_capabilities_may_be_borrowed_from_a_known_backend_only() -> None:
    with TestApp(app, like="memory") as t:
        assert t.drain() == (0, 0, 0)
    with pytest.raises(ConfigError, match="no installed backend"), TestApp(app, like="carrier-pigeon"):
        pass
    assert app.state == "NEW"
    with pytest.raises(DeclarationError, match="give one of them"):
        TestApp(app, like="memory", path="x")


def test_what_the_borrowed_backend_cannot_do_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    forgetful = SimBackend(capabilities=replace(MEMORY, history=False, ordered=False))
    monkeypatch.setattr("mqsdk.runtime.plugins.make_backend", lambda cluster: forgetful)
    for options in ({"from_": "earliest"}, {"ordered": True}):
        app = App()
        app.consumer("t", group="g", **options)(lambda value: None)
        with pytest.raises(CapabilityError), TestApp(app, like="forgetful"):
            pass


def test_a_broadcast_gets_everything_from_its_start_on_beside_the_groups() -> None:
    app = App()
    app.consumer("t", group="all", broadcast=True, retry=RetryPolicy(attempts=2, backoff=Backoff("1m")))(fail_on_bad)
    app.consumer("t", group="g")(lambda value: None)
    with TestApp(app) as t:
        app.publish_many("t", ["a", "bad", "b"], key="k")
        t.drain(raise_failures=False)
        assert [message.payload for message in t.handled("t", "all")] == ["a", "b"]
        assert len(t.handled("t", "g")) == 3
        t.advance("1m")
        (letter,) = t.dead_letters("t", "all")
        assert (letter.payload, letter.attempt) == ("bad", 2)
        assert t.lag("t", "all").messages == 0
        app.publish("t", "unsettled", delay="1s")
        t.crash()
        assert len(t.handled("t", "all")) == 2, "a new instance begins where it starts"
        t.advance("1s")
        assert t.handled("t", "all")[-1].payload == "unsettled"


def fail_on_bad(value: str) -> None:
    if value == "bad":
        raise ValueError(value)


def test_a_broadcast_is_refused_where_the_backend_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = SimBackend(capabilities=replace(MEMORY, broadcast=False))
    monkeypatch.setattr("mqsdk.runtime.plugins.make_backend", lambda cluster: plain)
    app = App()
    app.consumer("t", group="g", broadcast=True)(lambda value: None)
    with pytest.raises(CapabilityError, match="cannot give each instance everything") as refused, TestApp(app, like="plain"):
        pass
    assert (refused.value.capability, refused.value.consumer) == ("broadcast", "t/g")


def test_a_delayed_message_comes_in_virtual_time() -> None:
    app = App()
    app.consumer("t", group="g")(lambda value: None)
    with TestApp(app) as t:
        receipt = app.publish("t", "later", delay="30m")
        assert receipt.due_at == t.now + timedelta(minutes=30)
        app.publish("t", "now")
        t.drain()
        assert (len(t.handled("t", "g")), t.lag("t", "g").messages, len(t.published("t"))) == (1, 0, 1)
        t.advance("29m59s")
        assert [message.payload for message in t.handled("t", "g")] == ["now"]
        t.advance("1s")
        assert [message.payload for message in t.handled("t", "g")] == ["now", "later"]
        (_, later) = t.handled("t", "g")
        assert later.due_at == receipt.due_at == t.now


def test_delays_survive_a_crash_and_come_in_the_order_of_their_times() -> None:
    app = App()
    test = TestApp(app)
    came: list[tuple[str, datetime]] = []
    app.consumer("t", group="g", ordered=True)(lambda value: came.append((value, test.now)))
    with test as t:
        start = t.now
        app.publish_many("t", [Outgoing(text, delay=wait) for text, wait in (("c", "3m"), ("a", "1m"), ("b", "2m"))], key="k")
        t.advance("90s")
        t.crash()
        t.advance("90s")
        assert came == [(text, start + timedelta(minutes=minutes)) for text, minutes in (("a", 1), ("b", 2), ("c", 3))]


def test_what_layer_2_does_for_a_backend_the_in_memory_log_does_by_itself() -> None:
    app = App()

    @app.consumer("orders", group="g")
    def take(payload: str) -> None: ...

    with TestApp(app, like="kafka") as t:
        app.publish("orders", "later", delay="30m")
        t.advance("29m")
        assert t.handled("orders", "g") == []
        t.advance("1m")
        assert [message.payload for message in t.handled("orders", "g")] == ["later"]


def test_an_app_that_is_open_is_refused_and_left_alone() -> None:
    with TestApp(app) as t:
        with pytest.raises(StateError, match="opens the App itself"), TestApp(app):
            pass
        assert t.drain() == (0, 0, 0)


def test_outside_of_with_it_says_so() -> None:
    t = TestApp(app)
    with pytest.raises(StateError, match="not open"):
        t.drain()


def test_a_failing_start_gives_the_app_back() -> None:
    app = App()

    @app.on_startup
    def up() -> None:
        raise RuntimeError("no database")

    with pytest.raises(RuntimeError, match="no database"), TestApp(app):
        pass
    assert app.state == "NEW"


def test_no_thread_is_left_behind() -> None:
    before = set(threading.enumerate())
    with TestApp(app) as t:
        app.publish("orders.created", {"id": 1})
        t.drain(raise_failures=False)
    assert set(threading.enumerate()) <= before


# --- over the real log ------------------------------------------------------------------------------------------------------------------


def test_a_path_plays_over_the_embedded_log_in_real_time(tmp_path: Path) -> None:
    app = App()

    @app.consumer("t", group="g", retry=RetryPolicy(attempts=2, backoff=Backoff("10ms")))
    def handle(number: int, message: Message[Any]) -> None:
        if number == 3 or (number == 2 and message.attempt == 1):
            raise RuntimeError("odd")

    with TestApp(app, path=tmp_path / "log") as t:
        app.publish_many("t", range(10), key="k")
        t.drain(raise_failures=False)
        t.advance("50ms")
        assert sorted(t.handled("t", "g").payloads) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
        assert t.dead_letters("t", "g").payloads == [3]
        assert t.published("t").payloads == list(range(10))
        assert t.lag("t", "g").messages == 0
        for call in (t.crash, lambda: t.fail_publish("rejected")):
            with pytest.raises(StateError, match="in-memory"):
                call()
    with TestApp(app, path=tmp_path / "log") as t:
        assert t.published("t").payloads == list(range(10))
        assert t.drain() == (0, 0, 0)


def test_the_capabilities_of_the_log_may_be_borrowed() -> None:
    with TestApp(app, like="log") as t:
        assert t.app.publish("orders.created", {"id": 1}).cluster == "local"


@pytest.mark.parametrize("backend", sorted(SHIPPED))
def test_an_application_is_tested_with_the_capabilities_of_every_shipped_backend(backend: str) -> None:
    app = App()

    @app.consumer("orders", group="billing", ordered=True, retry=RetryPolicy(attempts=2, backoff=Backoff("1s")))
    def bill(order: str) -> None:
        if order == "bad":
            raise ValueError("no")

    with TestApp(app, like=backend) as t:
        app.publish_many("orders", ["a", "bad", "b"], key="k")
        t.drain(raise_failures=False)
        assert t.handled("orders", "billing").payloads == ["a"]  # the key waits for its retry
        t.advance("2s")
        assert t.handled("orders", "billing").payloads == ["a", "b"]
        assert t.dead_letters("orders", "billing").payloads == ["bad"]
