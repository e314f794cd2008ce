"""From what a handler did to what the machine understands: Failure or nothing. Every outcome of the contract's table is decided here."""

from __future__ import annotations

import inspect
import logging
import os
import sysconfig
from collections.abc import Callable, Sequence
from typing import Any

from mqsdk.core.actions import Failure
from mqsdk.errors import BatchFailure, DecodeError, Reject, Retry
from mqsdk.runtime.stacks import STACK_FRAMES

LOG = logging.getLogger("mqsdk.handler")

MAX_ERROR_BYTES = 1024
# Cut before masking: an exception may carry a payload of any size, and the filter looks at every character.
_LOOKED_AT = 8 * MAX_ERROR_BYTES
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARY = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})

Witness = Callable[[BaseException], None]


class MiddlewareError(RuntimeError):
    """A middleware that did not yield exactly once; `place` is where it is defined."""

    def __init__(self, what: str, place: str) -> None:
        super().__init__(what)
        self.place = place


class Verdicts:
    """Judges the outcomes of one consumer. Any thread.

    reject_on: classes that dead-letter at once; code only, so they never change while it runs. mask: hides registered secrets in a text.
    witness: is shown every exception object as it is (TestApp re-raises it); None in a running service.
    """

    def __init__(
        self,
        consumer: str,
        reject_on: tuple[type[BaseException], ...] = (),
        mask: Callable[[str], str] = str,
        witness: Witness | None = None,
    ) -> None:
        self.consumer = consumer
        self._reject_on = reject_on
        self._mask = mask
        self._witness = witness
        self._warned = False

    def failed(self, error: BaseException) -> Failure:
        """The handler, or a middleware around it, raised this."""
        if self._witness is not None:
            self._witness(error)
        if LOG.isEnabledFor(logging.DEBUG):
            LOG.debug("handler of %s failed with\n%s", self.consumer, trace(error))
        text = self._text(error)
        if isinstance(error, Retry):
            return Failure("retry", text, error.after_s, place(error))
        if isinstance(error, (Reject, *self._reject_on)):
            return Failure("reject", text, None, place(error))
        return Failure("error", text, None, place(error))

    def undecodable(self, error: BaseException) -> Failure:
        """The payload does not fit the annotation. A DecodeError's text holds no content; of others only the type is told."""
        if self._witness is not None:
            self._witness(error)
        text = self._text(error) if isinstance(error, DecodeError) else f"DecodeError: {type(error).__name__} while decoding"
        return Failure("undecodable", text)

    def returned(self, value: object) -> Failure | None:
        """The handler returned something that is not None."""
        error = returned_error(value)
        if error is not None:
            return self.failed(error)
        self._warn(value)
        return None

    def raise_returned(self, value: object) -> None:
        """As `returned`, for a handler inside middleware, which sees the failure as an exception."""
        error = value if isinstance(value, BatchFailure) else returned_error(value)
        if error is not None:
            raise error
        self._warn(value)

    def batch_returned(self, value: object, count: int) -> list[tuple[int, Failure]]:
        error = value if isinstance(value, BatchFailure) else returned_error(value)
        if error is not None:
            return self.batch_failed(error, count)
        self._warn(value)
        return []

    def batch_failed(self, error: BaseException, count: int) -> list[tuple[int, Failure]]:
        """(index, failure) of each message of a call with `count` messages that ended with this exception.

        A BatchFailure that names an index which is not in the batch, or a value that is no exception, is a bug in the handler:
        nobody knows which message it meant, so all of them failed.
        """
        if not isinstance(error, BatchFailure):
            failure = self.failed(error)
            return [(index, failure) for index in range(count)]
        problem = _batch_problem(error, count)
        if problem is not None:
            return self.batch_failed(TypeError(problem), count)
        return [(index, self.failed(_instance(cause))) for index, cause in sorted(error.failures.items())]

    def _text(self, error: BaseException) -> str:
        try:
            text = str(error)[:_LOOKED_AT]
        except BaseException:  # a broken __str__, SystemExit too, must not turn a failed attempt into a dead worker
            text = "(its text cannot be read)"
        line = " ".join(f"{type(error).__name__}: {text}".split()) if text else type(error).__name__
        return cut(self._mask(line))

    def _warn(self, value: object) -> None:
        if not self._warned:
            self._warned = True
            LOG.warning("handler of %s returned a %s, which is ignored (said once)", self.consumer, type(value).__name__)


def cut(text: str) -> str:
    """At most MAX_ERROR_BYTES of UTF-8, whole characters, nothing that cannot be encoded."""
    raw = text.encode("utf-8", "replace")
    return raw[:MAX_ERROR_BYTES].decode("utf-8", "ignore")


def returned_error(value: object) -> BaseException | None:
    """The exception that a returned value stands for: a verdict without `raise`, or work that was never awaited."""
    if isinstance(value, Retry | Reject):
        return value
    if isinstance(value, type) and issubclass(value, Retry | Reject):
        return value()
    if inspect.isawaitable(value):
        _discard(value)
        return TypeError("the handler returned an awaitable, so its work was never done: declare it `async def` and await")
    return None


def _discard(awaitable: Any) -> None:
    """End it, so that the interpreter does not warn about it later."""
    end = getattr(awaitable, "close", None) or getattr(awaitable, "cancel", None)
    if callable(end):
        try:
            end()
        except Exception as error:
            LOG.debug("a returned awaitable could not be closed: %s", type(error).__name__)


def _batch_problem(error: BatchFailure, count: int) -> str | None:
    for index, cause in error.failures.items():
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < count:
            return f"BatchFailure names an index that is not in the batch of {count}"
        if not isinstance(_instance(cause), BaseException):
            return f"BatchFailure has a {type(cause).__name__} where an exception belongs"
    return None


def _instance(cause: Any) -> Any:
    if isinstance(cause, type) and issubclass(cause, BaseException):
        try:
            return cause()
        except TypeError:  # a class whose constructor wants arguments
            return RuntimeError(cause.__name__)
    return cause


def trace(error: BaseException) -> str:
    """The code places that an exception and its causes came through, innermost last: a traceback without source lines, values or texts."""
    lines: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(lines) < STACK_FRAMES:
        lines.append(f"{type(cause).__name__}" + (" at" if cause.__traceback__ is not None else ""))
        at = cause.__traceback__
        while at is not None:
            if not at.tb_frame.f_code.co_filename.startswith(_OWN):
                lines.append(f"    {at.tb_frame.f_code.co_filename}:{at.tb_lineno} in {at.tb_frame.f_code.co_name}")
            at = at.tb_next
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
        if cause is not None:
            lines.append("  which came from")
    return "\n".join(lines)


def place(error: BaseException) -> str:
    """`file.py:12 in bill`: the innermost frame of the user's code; of any code but ours when the user's is not in the traceback."""
    if isinstance(error, MiddlewareError):
        return error.place
    best = fallback = ""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith(_OWN):
            text = f"{os.path.basename(code.co_filename)}:{trace.tb_lineno} in {code.co_name}"
            fallback = text
            if not code.co_filename.startswith(_LIBRARY):
                best = text
        trace = trace.tb_next
    return best or fallback


NONE_FAILED: Sequence[tuple[int, Failure]] = ()
