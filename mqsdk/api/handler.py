"""A user's function made callable for the runtime: decode, build the delivery, run middleware and function, judge the outcome.

The call is put together once, at start. What a message costs here beside the user's own code decides how fast a no-op handler can be, so
the common form (sync, payload only, no middleware) has a closure of its own and everything else shares one general path.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from mqsdk.api.middleware import Chain
from mqsdk.api.payload import Decoder
from mqsdk.api.signature import Passes, Shape
from mqsdk.api.state import INSIDE
from mqsdk.api.verdict import NONE_FAILED, Verdicts
from mqsdk.core.actions import Failure
from mqsdk.message import CURRENT, Call, Message
from mqsdk.spi.events import Record

Failures = Sequence[tuple[int, Failure]]


def _unused(call: Call) -> Any:
    raise AssertionError("the runtime chose the wrong one of the four calls")


@dataclass
class UserHandler:
    """Implements `mqsdk.runtime.handler.Handler`; the methods that do not fit `is_async` and `batch` are never called."""

    is_async: bool
    batch: bool
    invoke: Callable[[Call], Failure | None] = _unused
    invoke_async: Callable[[Call], Coroutine[Any, Any, Failure | None]] = _unused
    invoke_batch: Callable[[Call], Failures] = _unused
    invoke_batch_async: Callable[[Call], Coroutine[Any, Any, Failures]] = _unused


@dataclass(frozen=True, slots=True)
class Parts:
    """What one call is made of. clock: monotonic seconds, for `Message.remaining`."""

    function: Callable[..., Any]
    shape: Shape
    decode: Decoder
    verdicts: Verdicts
    chain: Chain
    clock: Callable[[], float] = monotonic


def make(parts: Parts, *, is_async: bool, batch: bool) -> UserHandler:
    """The handler of one consumer. All state that calls share is read-only but for the once-only warning of `Verdicts`."""
    plain = parts.shape.passes == "payload" and not parts.chain
    if batch and is_async:
        return UserHandler(True, True, invoke_batch_async=_batch_async(parts))
    if batch:
        return UserHandler(False, True, invoke_batch=_batch_payloads(parts) if plain else _batch(parts))
    if is_async:
        return UserHandler(True, False, invoke_async=_single_async(parts))
    return UserHandler(False, False, invoke=_payload_only(parts) if plain else _single(parts))


# --- one by one -------------------------------------------------------------------------------------------------------------------


def _payload_only(parts: Parts) -> Callable[[Call], Failure | None]:
    """The hot path: no Message is built unless current_message() asks for it."""
    function, decode, verdicts = parts.function, parts.decode, parts.verdicts
    enter, leave = CURRENT.set, CURRENT.reset

    def invoke(call: Call) -> Failure | None:
        record = call.record
        try:
            payload = decode(record)
        except BaseException as error:
            return verdicts.undecodable(error)
        token = enter((record, call.origin, payload, call.attempt, call))
        try:
            result = function(payload)
            return None if result is None else verdicts.returned(result)
        except BaseException as error:  # SystemExit too: a handler never ends its worker
            return verdicts.failed(error)
        finally:
            leave(token)

    return invoke


def _single(parts: Parts) -> Callable[[Call], Failure | None]:
    decode, verdicts, pick, clock = parts.decode, parts.verdicts, _ARGUMENTS[parts.shape.passes], parts.clock
    run = parts.chain.around(parts.function, verdicts)

    def invoke(call: Call) -> Failure | None:
        try:
            payload = decode(call.record)
        except BaseException as error:
            return verdicts.undecodable(error)
        message: Message[Any] = Message(call.record, call.origin, payload, attempt=call.attempt, call=call, clock=clock)
        token = CURRENT.set(message)
        try:
            result = run(message, pick(payload, message))
            return None if result is None else verdicts.returned(result)
        except BaseException as error:
            return verdicts.failed(error)
        finally:
            CURRENT.reset(token)

    return invoke


def _single_async(parts: Parts) -> Callable[[Call], Coroutine[Any, Any, Failure | None]]:
    decode, verdicts, pick, clock = parts.decode, parts.verdicts, _ARGUMENTS[parts.shape.passes], parts.clock
    run = parts.chain.around_async(parts.function, verdicts)

    async def invoke_async(call: Call) -> Failure | None:
        try:
            payload = decode(call.record)
        except BaseException as error:
            return verdicts.undecodable(error)
        message: Message[Any] = Message(call.record, call.origin, payload, attempt=call.attempt, call=call, clock=clock)
        token = CURRENT.set(message)
        try:
            result = await run(message, pick(payload, message))
            return None if result is None else verdicts.returned(result)
        except BaseException as error:
            if is_own_cancel(error):
                raise
            return verdicts.failed(error)
        finally:
            CURRENT.reset(token)

    return invoke_async


# --- batches ----------------------------------------------------------------------------------------------------------------------


def _batch(parts: Parts) -> Callable[[Call], Failures]:
    verdicts, pick = parts.verdicts, _ARGUMENTS[parts.shape.passes]
    run = parts.chain.around(parts.function, verdicts)

    def invoke_batch(call: Call) -> Failures:
        indexes, messages, failures = _open_batch(parts, call)
        if not messages:
            return failures
        token = INSIDE.set(verdicts.consumer)
        try:
            result = run(messages, pick([message.payload for message in messages], messages))
            judged = NONE_FAILED if result is None else verdicts.batch_returned(result, len(messages))
        except BaseException as error:
            judged = verdicts.batch_failed(error, len(messages))
        finally:
            INSIDE.reset(token)
        return _numbered(failures, indexes, judged)

    return invoke_batch


def _batch_payloads(parts: Parts) -> Callable[[Call], Failures]:
    """The hot path of batches: the function sees payloads only, so no Message is built (it would be half of the cost)."""
    function, decode, verdicts, general = parts.function, parts.decode, parts.verdicts, _batch(parts)

    def invoke_batch(call: Call) -> Failures:
        try:
            payloads = [decode(record) for record in call.records]
        except BaseException:  # some do not decode: the general path finds out which
            return general(call)
        token = INSIDE.set(verdicts.consumer)
        try:
            result = function(payloads)
            return NONE_FAILED if result is None else verdicts.batch_returned(result, len(call.records))
        except BaseException as error:
            return verdicts.batch_failed(error, len(call.records))
        finally:
            INSIDE.reset(token)

    return invoke_batch


def _batch_async(parts: Parts) -> Callable[[Call], Coroutine[Any, Any, Failures]]:
    verdicts, pick = parts.verdicts, _ARGUMENTS[parts.shape.passes]
    run = parts.chain.around_async(parts.function, verdicts)

    async def invoke_batch_async(call: Call) -> Failures:
        indexes, messages, failures = _open_batch(parts, call)
        if not messages:
            return failures
        token = INSIDE.set(verdicts.consumer)
        try:
            result = await run(messages, pick([message.payload for message in messages], messages))
            judged = NONE_FAILED if result is None else verdicts.batch_returned(result, len(messages))
        except BaseException as error:
            if is_own_cancel(error):
                raise
            judged = verdicts.batch_failed(error, len(messages))
        finally:
            INSIDE.reset(token)
        return _numbered(failures, indexes, judged)

    return invoke_batch_async


def _open_batch(parts: Parts, call: Call) -> tuple[Sequence[int], list[Message[Any]], list[tuple[int, Failure]]]:
    """(index in `call.records` of each message that decodes, those messages, failures of the others)."""
    records: Sequence[Record] = call.records
    decode, origin, attempt, clock = parts.decode, call.origin, call.attempt, parts.clock
    try:
        messages: list[Message[Any]] = [
            Message(record, origin, decode(record), attempt=attempt, call=call, clock=clock) for record in records
        ]
        return range(len(records)), messages, []
    except BaseException:  # rare: find out which ones
        return _sort_out(parts, call)


def _sort_out(parts: Parts, call: Call) -> tuple[Sequence[int], list[Message[Any]], list[tuple[int, Failure]]]:
    records: Sequence[Record] = call.records
    decode, origin, attempt, clock = parts.decode, call.origin, call.attempt, parts.clock
    indexes: list[int] = []
    messages: list[Message[Any]] = []
    failures: list[tuple[int, Failure]] = []
    for index, record in enumerate(records):
        try:
            payload = decode(record)
        except BaseException as error:
            failures.append((index, parts.verdicts.undecodable(error)))
            continue
        indexes.append(index)
        messages.append(Message(record, origin, payload, attempt=attempt, call=call, clock=clock))
    return indexes, messages, failures


def _numbered(failures: list[tuple[int, Failure]], indexes: Sequence[int], judged: Failures) -> Failures:
    return [*failures, *((indexes[index], failure) for index, failure in judged)] if judged or failures else NONE_FAILED


def is_own_cancel(error: BaseException) -> bool:
    """A CancelledError because somebody cancelled this task; one that the handler let out of something else is a failed attempt."""
    import asyncio

    if not isinstance(error, asyncio.CancelledError):
        return False
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


_ARGUMENTS: dict[Passes, Callable[[Any, Any], tuple[Any, ...]]] = {
    "payload": lambda payload, message: (payload,),
    "both": lambda payload, message: (payload, message),
    "message": lambda payload, message: (message,),
}
