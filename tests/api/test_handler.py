"""The table of outcomes: what a handler does, and what the machine hears. None of the four calls ever raises."""

from __future__ import annotations

import asyncio
import copy
import logging
import re
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from mqsdk import BatchFailure, DeclarationError, Message, Reject, Retry, current_message
from mqsdk.api import handler, middleware, signature
from mqsdk.api.handler import Parts
from mqsdk.api.middleware import Chain
from mqsdk.api.payload import Limits, decoder
from mqsdk.api.verdict import MAX_ERROR_BYTES, Verdicts
from mqsdk.core.actions import Failure
from mqsdk.message import CURRENT, Call, Origin
from mqsdk.runtime.clock import SystemClock
from mqsdk.runtime.isolation import Channel, Isolation
from mqsdk.runtime.serving import Serving
from mqsdk.runtime.workerprocess import Caller
from mqsdk.spi import Record

BOUND_S = 10.0
ORIGIN = Origin("orders", "billing", "local", 3, 7)


@pytest.fixture(autouse=True, params=["here", "over the line to a worker process"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every outcome is the same whether the call is made here or crosses to a worker process as plain data."""
    monkeypatch.setattr(Case, "crosses", request.param != "here")
    return str(request.param)


class Case:
    """One handler with its call, run without a runtime."""

    crosses = False

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        batch: bool = False,
        layers: Sequence[Callable[..., Any]] = (),
        reject_on: tuple[type[BaseException], ...] = (),
        mask: Callable[[str], str] = str,
        witness: Callable[[BaseException], None] | None = None,
    ) -> None:
        signed = signature.check(function, batch=batch)
        shape = signature.shape(signed)
        verdicts = Verdicts("orders/billing", reject_on, mask, witness)
        parts = Parts(function, shape, decoder(shape.annotation, Limits(1000)), verdicts, Chain([middleware.check(one) for one in layers]))
        self.handler = handler.make(parts, is_async=signed.is_async, batch=batch)

    def run(self, *values: bytes, attempt: int = 1) -> Any:
        call = Call()
        call.origin, call.attempt, call.deadline = ORIGIN, attempt, float("inf")
        records = [Record(index, b"k", value, id=f"m{index}", headers=(("h", "1"),)) for index, value in enumerate(values or (b"x",))]
        call.record, call.records = records[0], records if self.handler.batch else None
        made = self.handler
        if self.crosses:
            found = over_the_line(made, call, records)
            return found if made.batch else found[0][1] if found else None
        if made.is_async:
            return asyncio.run(made.invoke_batch_async(call) if made.batch else made.invoke_async(call))
        return made.invoke_batch(call) if made.batch else made.invoke(call)


def over_the_line(made: handler.UserHandler, call: Call, records: Sequence[Record]) -> Sequence[tuple[int, Failure]]:
    """What the caller's end hears. The other end is served by a thread instead of a process, so that handlers may be closures."""
    ours, theirs = socket.socketpair()
    calls, served = Channel(ours.detach()), Channel(theirs.detach())
    thread = threading.Thread(target=Serving(served, made, lambda live: None, "orders/billing").run)
    thread.start()
    try:
        return Caller(calls, Isolation((), {}, lambda: None), SystemClock()).ask(call, records if made.batch else records[:1])
    finally:
        calls.close()
        thread.join(BOUND_S)
        served.close()
        assert not thread.is_alive()


def raising(error: BaseException | type[BaseException]) -> list[Callable[..., Any]]:
    """The same behaviour in every form of a handler."""

    def payload(value: bytes) -> None:
        raise error

    def both(value: bytes, message: Message) -> None:
        raise error

    def message(message: Message[bytes]) -> None:
        raise error

    async def coroutine(value: bytes) -> None:
        raise error

    return [payload, both, message, coroutine]


RAISED: dict[str, tuple[Any, Failure]] = {
    "an error": (ValueError("no"), Failure("error", "ValueError: no")),
    "an error without text": (KeyError(), Failure("error", "KeyError")),
    "SystemExit": (SystemExit(3), Failure("error", "SystemExit: 3")),
    "KeyboardInterrupt": (KeyboardInterrupt(), Failure("error", "KeyboardInterrupt")),
    "GeneratorExit": (GeneratorExit(), Failure("error", "GeneratorExit")),
    "Retry": (Retry(), Failure("retry", "Retry: retry asked for")),
    "the class Retry": (Retry, Failure("retry", "Retry: retry asked for")),
    "Retry later": (Retry(after="5s", reason="busy"), Failure("retry", "Retry: busy", 5.0)),
    "Reject": (Reject("no such customer"), Failure("reject", "Reject: no such customer")),
    "a class of reject_on": (PermissionError("no"), Failure("reject", "PermissionError: no")),
    "line breaks": (ValueError("a\nb\r\nc"), Failure("error", "ValueError: a b c")),
    "BatchFailure from a handler of single messages": (
        BatchFailure({0: ValueError()}),
        Failure("error", "BatchFailure: 1 of the batch failed"),
    ),
    "CancelledError that nobody asked for": (asyncio.CancelledError(), Failure("error", "CancelledError")),
}


@pytest.mark.parametrize(("error", "expected"), RAISED.values(), ids=RAISED.keys())
def test_what_a_handler_raises(error: Any, expected: Failure) -> None:
    for function in raising(error):
        if isinstance(error, BaseException):
            error.__traceback__ = None  # else it keeps the frames of the function before
        failure = Case(function, reject_on=(OSError,)).run()
        assert failure._replace(place="") == expected
        assert failure.place.startswith("test_handler.py:")
        assert failure.place.endswith(f" in {function.__name__}")


@pytest.mark.parametrize("after", ["soon", "5", -1, True, float("nan")])
def test_a_wait_that_is_no_duration_is_a_failed_attempt_that_says_so(after: Any) -> None:
    """Ignored, it would run the message again at another time than the handler asked for."""

    def plain(payload: bytes) -> None:
        raise Retry(after=after)

    failure = Case(plain).run()
    assert (failure.kind, failure.error[:26]) == ("error", "DeclarationError: `after`:")
    assert failure.place.endswith(" in plain")


def test_a_verdict_that_is_copied_says_the_same() -> None:
    for verdict in (Retry(after="5s", reason="busy"), Retry(reason="busy")):
        copied = copy.copy(verdict)
        assert (copied.after, copied.after_s, copied.reason, str(copied)) == (verdict.after, verdict.after_s, "busy", "busy")
    (cause,) = copy.copy(BatchFailure({3: ValueError("no")})).failures.values()
    assert str(cause) == "no"


@pytest.mark.parametrize("failures", [[ValueError()], 3, None])
def test_a_batch_failure_of_something_else_than_a_mapping_is_explained(failures: Any) -> None:
    with pytest.raises(DeclarationError, match="mapping of index to exception"):
        BatchFailure(failures)


def returning(value: Callable[[], Any]) -> list[Callable[..., Any]]:
    def plain(payload: bytes) -> Any:
        return value()

    def both(payload: bytes, message: Message) -> Any:
        return value()

    async def coroutine(payload: bytes) -> Any:
        return value()

    return [plain, both, coroutine]


async def forgotten() -> None:
    raise AssertionError("never awaited")


RETURNED: dict[str, tuple[Callable[[], Any], str | None]] = {
    "nothing": (lambda: None, None),
    "Retry": (lambda: Retry(after="5s"), "retry"),
    "the class Retry": (lambda: Retry, "retry"),
    "Reject": (lambda: Reject("no"), "reject"),
    "the class Reject": (lambda: Reject, "reject"),
    "an awaitable": (forgotten, "error"),
    "an exception": (lambda: ValueError("not raised"), None),
    "a value": (lambda: 5, None),
    "False": (lambda: False, None),
}


@pytest.mark.parametrize(("value", "kind"), RETURNED.values(), ids=RETURNED.keys())
def test_what_a_handler_returns(value: Callable[[], Any], kind: str | None) -> None:
    for function in returning(value):
        failure = Case(function).run()
        assert (failure.kind if failure else None) == kind


def test_a_returned_awaitable_is_ended_and_explained() -> None:
    made: list[Any] = []

    def sync(payload: bytes) -> Any:
        made.append(forgotten())
        return made[0]

    assert "async def" in Case(sync).run().error
    assert made[0].cr_frame is None  # closed: a warning "never awaited" would fail this test


def test_a_returned_value_is_warned_about_once_per_consumer(caplog: pytest.LogCaptureFixture) -> None:
    case = Case(returning(lambda: "SECRET")[0])
    with caplog.at_level(logging.WARNING, "mqsdk"):
        for _ in range(3):
            assert case.run() is None
    assert [record.getMessage() for record in caplog.records] == ["handler of orders/billing returned a str, which is ignored (said once)"]


@pytest.mark.parametrize("function", returning(lambda: None))
def test_a_payload_that_does_not_decode_never_reaches_the_handler(function: Callable[..., Any]) -> None:
    called: list[int] = []

    def strict(payload: int) -> None:
        called.append(payload)

    async def strict_async(payload: int) -> None:
        called.append(payload)

    for one in (strict, strict_async):
        failure = Case(one).run(b'"SECRET"')
        assert failure.kind == "undecodable"
        assert failure.error.startswith("DecodeError: ")
        assert "SECRET" not in failure.error
    assert Case(function).run(b"x" * 1001).kind == "undecodable"  # over limits.payload
    assert called == []


def test_the_error_text_is_masked_and_at_most_1_kib() -> None:
    def long(payload: bytes) -> None:
        raise ValueError("hunter2 " + "é" * 5_000_000)

    failure = Case(long, mask=lambda text: text.replace("hunter2", "***")).run()
    assert failure.error.startswith("ValueError: *** é")
    assert MAX_ERROR_BYTES - 2 <= len(failure.error.encode()) <= MAX_ERROR_BYTES


def test_an_exception_without_readable_text_is_a_failed_attempt() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    class Odd(Exception):
        def __str__(self) -> str:
            return "\ud800"

    class Leaves(Exception):
        def __str__(self) -> str:
            raise SystemExit

    for error in (Broken(), Odd(), Leaves()):
        failure = Case(raising(error)[0]).run()
        assert failure.kind == "error"
        failure.error.encode()


def test_the_place_is_the_innermost_frame_of_the_users_code() -> None:
    def deeper() -> None:
        int("no number")

    def calls_library(payload: bytes) -> None:
        asyncio.run(nested())

    async def nested() -> None:
        deeper()

    assert Case(calls_library).run().place.endswith(" in deeper")


def test_a_witness_sees_the_exception_itself() -> None:
    seen: list[BaseException] = []
    error = ValueError("no")
    Case(raising(error)[0], witness=seen.append).run()
    assert seen == [error]


# --- arguments --------------------------------------------------------------------------------------------------------------------


def test_the_message_shows_the_delivery() -> None:
    got: list[Message[Any]] = []

    def both(payload: str, message: Message[str]) -> None:
        got.append(message)

    assert Case(both).run(b"hello", attempt=2) is None
    message = got[0]
    assert (message.id, message.topic, message.group, message.cluster) == ("m0", "orders", "billing", "local")
    assert (message.payload, message.body, message.key, message.key_bytes) == ("hello", b"hello", "k", b"k")
    assert (message.attempt, message.redelivered, message.partition, message.position, message.epoch) == (2, True, 3, "0", 7)
    assert dict(message.headers) == {"h": "1"}
    with pytest.raises(AttributeError):
        message.topic = "other"  # type: ignore[misc]


def test_further_parameters_are_left_alone() -> None:
    got: list[Any] = []

    def more(payload: bytes, tries: int = 3, *, log: bool = False) -> None:
        got.append((payload, tries, log))

    Case(more).run(b"x")
    assert got == [(b"x", 3, False)]


def test_the_current_message_is_there_during_the_call_only() -> None:
    got: list[Any] = []

    def deep_down() -> None:
        got.append(current_message())

    def plain(payload: bytes) -> None:
        deep_down()

    def both(payload: bytes, message: Message) -> None:
        deep_down()
        got.append(message)

    async def coroutine(payload: bytes) -> None:
        await asyncio.to_thread(deep_down)

    for function in (plain, both, coroutine):
        Case(function).run(b"x")
        assert current_message() is None
    assert [message.id for message in got] == ["m0"] * 4
    assert got[1] is got[2]
    assert got[0].payload == b"x"


def test_a_message_kept_after_a_failure_is_not_current() -> None:
    Case(raising(SystemExit())[0]).run()
    assert CURRENT.get() is None


def test_remaining_and_cancelled_follow_the_call() -> None:
    got: list[Any] = []

    def both(payload: bytes, message: Message) -> None:
        got.append((message, message.cancelled, message.remaining))

    Case(both).run()
    message, cancelled, remaining = got[0]
    assert (cancelled, remaining) == (False, float("inf"))
    assert isinstance(message, Message)


# --- cancel -----------------------------------------------------------------------------------------------------------------------


def test_the_cancel_of_the_worker_passes_through() -> None:
    async def waits(payload: bytes) -> None:
        await asyncio.Event().wait()

    call = Call()
    call.origin, call.record = ORIGIN, Record(0, None, b"x")

    async def cancel_it() -> Any:
        task = asyncio.ensure_future(Case(waits).handler.invoke_async(call))
        await asyncio.sleep(0)
        task.cancel()
        return await asyncio.gather(task, return_exceptions=True)

    (result,) = asyncio.run(cancel_it())
    assert isinstance(result, asyncio.CancelledError)


# --- batches ----------------------------------------------------------------------------------------------------------------------


def batches(behave: Callable[[list[Any]], Any]) -> list[Callable[..., Any]]:
    def plain(items: list[int]) -> Any:
        return behave(items)

    async def coroutine(items: list[int]) -> Any:
        return behave(items)

    def messages(items: list[Message[int]]) -> Any:
        return behave([item.payload for item in items])

    return [plain, coroutine, messages]


def failing(error: BaseException) -> Callable[[list[Any]], Any]:
    def behave(items: list[Any]) -> Any:
        raise error

    return behave


ALL = {0: "error", 1: "error", 2: "error"}
BATCH: dict[str, tuple[Callable[[list[Any]], Any], dict[int, str]]] = {
    "returns": (lambda items: None, {}),
    "returns a value": (lambda items: 5, {}),
    "raises": (failing(ValueError("no")), ALL),
    "SystemExit": (failing(SystemExit()), ALL),
    "Retry": (failing(Retry()), {0: "retry", 1: "retry", 2: "retry"}),
    "BatchFailure": (failing(BatchFailure({1: ValueError("no")})), {1: "error"}),
    "BatchFailure with verdicts": (failing(BatchFailure({2: Reject("no"), 0: Retry(after=1)})), {0: "retry", 2: "reject"}),
    "BatchFailure with classes": (failing(BatchFailure({2: Reject, 1: UnicodeDecodeError})), {1: "error", 2: "reject"}),  # type: ignore[dict-item]
    "BatchFailure of nothing": (failing(BatchFailure({})), {}),
    "BatchFailure returned": (lambda items: BatchFailure({1: ValueError("no")}), {1: "error"}),
    "BatchFailure beyond the batch": (failing(BatchFailure({0: ValueError(), 3: ValueError()})), ALL),
    "BatchFailure with a negative index": (failing(BatchFailure({-1: ValueError()})), ALL),
    "BatchFailure with True": (failing(BatchFailure({True: ValueError()})), ALL),
    "BatchFailure with text": (failing(BatchFailure({0: "no"})), ALL),  # type: ignore[dict-item]
}


@pytest.mark.parametrize(("behave", "expected"), BATCH.values(), ids=BATCH.keys())
def test_the_outcomes_of_a_batch(behave: Callable[[list[Any]], Any], expected: dict[int, str]) -> None:
    for function in batches(behave):
        failed = Case(function, batch=True).run(b"1", b"2", b"3")
        assert {index: failure.kind for index, failure in failed} == expected


def test_undecodable_messages_never_enter_a_batch_and_indexes_still_fit() -> None:
    got: list[Any] = []

    def behave(items: list[Any]) -> Any:
        got.append(items)
        raise BatchFailure({1: ValueError("no")})

    for function in batches(behave):
        failed = Case(function, batch=True).run(b"1", b"bad", b"2", b"3")
        assert {index: failure.kind for index, failure in failed} == {1: "undecodable", 2: "error"}
    assert got == [[1, 2, 3]] * 3


def test_a_batch_of_undecodable_messages_calls_nobody() -> None:
    for function in batches(failing(AssertionError("called"))):
        failed = Case(function, batch=True).run(b"a", b"b")
        assert [failure.kind for _, failure in failed] == ["undecodable"] * 2


def test_a_batch_handler_may_take_the_deliveries_too() -> None:
    got: list[Any] = []

    def both(items: list[str], messages: list[Message]) -> None:
        got.append((items, [message.id for message in messages], current_message()))

    assert list(Case(both, batch=True).run(b"a", b"b")) == []
    assert got == [(["a", "b"], ["m0", "m1"], None)]


# --- middleware -------------------------------------------------------------------------------------------------------------------


def test_middleware_surrounds_the_handler_in_the_order_of_declaration() -> None:
    log: list[str] = []

    def outer(message: Message) -> Any:
        log.append(f"outer {message.id}")
        yield
        log.append("outer end")

    def inner(message: Message) -> Any:
        log.append(f"inner {current_message() is message}")
        yield
        log.append("inner end")

    def plain(payload: bytes) -> None:
        log.append("handler")

    async def coroutine(payload: bytes) -> None:
        log.append("handler")

    for function in (plain, coroutine):
        log.clear()
        assert Case(function, layers=[outer, inner]).run() is None
        assert log == ["outer m0", "inner True", "handler", "inner end", "outer end"]


def test_the_exception_is_raised_at_the_yield_a_returned_verdict_too() -> None:
    seen: list[str] = []

    def watch(message: Message) -> Any:
        try:
            yield
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    for function in (*raising(SystemExit())[:2], *returning(lambda: Reject("no")), *returning(forgotten)):
        Case(function, layers=[watch]).run()
    assert seen == ["SystemExit"] * 2 + ["Reject"] * 3 + ["TypeError"] * 3


def test_middleware_may_change_the_outcome() -> None:
    def swallow(message: Message) -> Any:
        try:
            yield
        except ValueError:
            return

    def translate(message: Message) -> Any:
        try:
            yield
        except ValueError as error:
            raise Reject("bad") from error

    for function in raising(ValueError("no")):
        assert Case(function, layers=[swallow]).run() is None
        assert Case(function, layers=[translate]).run().kind == "reject"


@pytest.mark.parametrize("yields", [0, 2])
def test_middleware_that_does_not_yield_once_is_a_failed_attempt(yields: int) -> None:
    called: list[bytes] = []

    def wrong(message: Message) -> Any:
        for _ in range(yields):
            yield

    def plain(payload: bytes) -> None:
        called.append(payload)

    assert Case(plain, layers=[wrong]).run().kind == "error"
    assert len(called) == min(yields, 1)


@pytest.mark.parametrize(("yields", "what"), [(0, "ended without its `yield`"), (2, "did not end after its `yield`")])
def test_middleware_that_does_not_yield_once_is_named_with_its_place(yields: int, what: str) -> None:
    def wrong(message: Message) -> Any:
        for _ in range(yields):
            yield

    async def wrong_async(message: Message) -> Any:
        for _ in range(yields):
            yield

    def innocent(message: Message) -> Any:
        yield

    async def coroutine(payload: bytes) -> None: ...

    def plain(payload: bytes) -> None: ...

    for function, layer in ((plain, wrong), (coroutine, wrong), (coroutine, wrong_async)):
        for layers in ([innocent, layer], [layer, innocent]):
            failure = Case(function, layers=layers).run()
            assert failure.error.startswith(f"MiddlewareError: the middleware `{layer.__name__}` {what}")
            assert failure.place.startswith("test_handler.py:")
            assert failure.place.endswith(f" in {layer.__name__}")


def test_a_generator_of_the_handlers_own_is_not_blamed_on_the_middleware() -> None:
    @contextmanager
    def broken() -> Any:
        yield from ()

    def innocent(message: Message) -> Any:
        yield

    def plain(payload: bytes) -> None:
        with broken():
            pass

    failure = Case(plain, layers=[innocent]).run()
    assert failure.error == "RuntimeError: generator didn't yield"
    assert failure.place.endswith(" in plain")


def test_async_middleware_surrounds_async_handlers_and_mixes_with_sync() -> None:
    log: list[str] = []

    async def outer(message: Message) -> Any:
        await asyncio.sleep(0)
        log.append("outer")
        yield
        log.append("outer end")

    def inner(message: Message) -> Any:
        log.append("inner")
        yield
        log.append("inner end")

    async def coroutine(payload: bytes) -> None:
        log.append("handler")

    assert Case(coroutine, layers=[outer, inner]).run() is None
    assert log == ["outer", "inner", "handler", "inner end", "outer end"]
    assert Case(raising(ValueError("no"))[3], layers=[outer, inner]).run().kind == "error"


def test_with_batch_middleware_gets_the_list_once() -> None:
    seen: list[Any] = []

    def watch(messages: list[Message]) -> Any:
        seen.append([message.id for message in messages])
        yield

    for function in batches(lambda items: None):
        Case(function, batch=True, layers=[watch]).run(b"1", b"bad", b"3")
    assert seen == [["m0", "m2"]] * 3


def test_a_batch_verdict_passes_middleware() -> None:
    def watch(messages: list[Message]) -> Any:
        yield

    for behave in (failing(BatchFailure({1: ValueError()})), lambda items: BatchFailure({1: ValueError()})):
        for function in batches(behave):
            assert [index for index, _ in Case(function, batch=True, layers=[watch]).run(b"1", b"2")] == [1]


def test_undecodable_messages_do_not_reach_middleware() -> None:
    def watch(message: Message) -> Any:
        raise AssertionError("called")
        yield

    def strict(payload: int) -> None: ...

    assert Case(strict, layers=[watch]).run(b"x").kind == "undecodable"


def test_the_wrong_one_of_the_four_calls_is_a_bug_of_ours() -> None:
    with pytest.raises(AssertionError):
        Case(returning(lambda: None)[0]).handler.invoke_batch(SimpleNamespace())  # type: ignore[arg-type]


def test_at_debug_the_whole_way_of_an_exception_is_logged_without_a_value_of_it(caplog: pytest.LogCaptureFixture) -> None:
    def deep(secret: str) -> None:
        nothing: dict[str, int] = {}
        nothing[secret]

    def handle(secret: str) -> None:
        try:
            deep(secret)
        except KeyError as error:
            raise ValueError(f"no {secret}") from error

    verdicts = Verdicts("orders/billing")
    with caplog.at_level(logging.DEBUG, "mqsdk.handler"), pytest.raises(ValueError, match="no") as caught:
        handle("hunter2")
    with caplog.at_level(logging.DEBUG, "mqsdk.handler"):
        verdicts.failed(caught.value)
    (line,) = [record.getMessage() for record in caplog.records]
    assert re.search(r"ValueError at\n.*in handle\n  which came from\nKeyError at\n.*in handle\n.*in deep", line, re.DOTALL)
    assert "hunter2" not in line
    caplog.clear()
    with caplog.at_level(logging.INFO, "mqsdk.handler"):
        verdicts.failed(caught.value)
    assert not caplog.records
