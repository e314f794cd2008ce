"""The thread behind nowait and async publishing: carries what callers submit, in order, within a window of records and bytes."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

from mqsdk.config.model import PublishLimits
from mqsdk.errors import AccessDenied, BackendError, PublishRejected, PublishUnknown, StateError
from mqsdk.message import Receipt
from mqsdk.runtime.clock import Clock

log = logging.getLogger("mqsdk.publish")

Answer = Receipt | PublishRejected | PublishUnknown
SEND_CHUNK = 512
# Parcels that travel together share the earliest deadline of them; together go only those that lose less than half of their time by it.
SHARED_TIME = 2.0


class Draft(NamedTuple):
    """A message as the API made it; the publisher adds partition, sequence and time."""

    key: bytes | None
    value: bytes
    id: str
    content_type: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    due_ms: int | None = None
    extra: tuple[tuple[str, str], ...] = ()
    attempt: int = 1
    durable: bool = False


class Send(Protocol):
    """Stores the drafts in this order and returns one answer each, in order, within `timeout_s`."""

    def __call__(self, topic: str, drafts: Sequence[Draft], timeout_s: float, /) -> list[Answer]: ...


class _Parcel(NamedTuple):
    """What one call submitted. records, bytes: sums of everything submitted so far, this included. one: the future is of one Receipt."""

    topic: str
    drafts: Sequence[Draft]
    deadline: float
    records: int
    bytes: int
    future: Future[Any]
    one: bool


class Sender:
    """One thread that carries what callers submit, in order, several parcels of a topic in one `send`. Started on first use.

    records: how many are queued or under way. Any thread may read it; its own submits are in it before `submit` returns, and stay until
    they have their answers.
    """

    def __init__(self, send: Send, clock: Clock, limits: PublishLimits, name: str) -> None:
        self.records = 0
        self._send = send
        self._clock = clock
        self._limits = limits
        self._name = name
        self._changed = threading.Condition()
        self._parcels: deque[_Parcel] = deque()
        self._records_in = 0
        self._bytes_in = 0
        self._bytes = 0
        self._thread: threading.Thread | None = None
        self._closing = False
        self._carried: str | None = None

    # --- callers ----------------------------------------------------------------------------------------------------------------

    def submit(self, topic: str, draft: Draft, timeout_s: float, *, block: bool = True) -> Future[Receipt]:
        """Queue one; the future ends with its Receipt or PublishError. block: wait until it is within the window, `timeout_s` at most."""
        parcel = self._queue(topic, [draft], timeout_s, one=True)
        if block and not self.is_current_thread():
            self._await_room(parcel, timeout_s)
        return parcel.future

    def submit_many(self, topic: str, drafts: Sequence[Draft], timeout_s: float) -> Future[list[Answer]]:
        """Queue many as one. Never blocks: whoever calls it awaits the future."""
        return self._queue(topic, drafts, timeout_s, one=False).future

    def send(self, topic: str, drafts: Sequence[Draft], timeout_s: float) -> list[Answer]:
        """Send behind everything submitted before, and wait for it."""
        future = self.submit_many(topic, drafts, timeout_s)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            if future.cancel():
                raise throttled(topic, drafts) from None
            return future.result()  # under way, with the deadline of its own
        except BaseException:  # a signal handler raised
            future.cancel()
            raise

    def has_room(self, records: int, size: int) -> bool:
        with self._changed:
            limits = self._limits
            return self.records == 0 or (self.records + records <= limits.window_records and self._bytes + size <= limits.window_bytes)

    def apply(self, limits: PublishLimits) -> None:
        """Another window; who waits for room has it from now on."""
        with self._changed:
            self._limits = limits
            self._changed.notify_all()

    def is_sending(self, covers: Callable[[str], bool]) -> bool:
        """Whether anything for one of these topics is queued or under way."""
        with self._changed:
            topics = [*([] if self._carried is None else [self._carried]), *(parcel.topic for parcel in self._parcels)]
            return any(map(covers, topics))

    def is_current_thread(self) -> bool:
        """Whether this is the sender's own thread: in a callback of a future, where waiting for the sender would never end."""
        return self._thread is threading.current_thread()

    def _queue(self, topic: str, drafts: Sequence[Draft], timeout_s: float, *, one: bool) -> _Parcel:
        count, size = len(drafts), sum(len(draft.value) for draft in drafts)
        with self._changed:
            if self._closing:
                raise StateError("the publisher is closed", where=f"cluster {self._name}", state="CLOSED")
            self._ensure_thread(topic, drafts)
            self._records_in += count
            self._bytes_in += size
            deadline = self._clock.mono() + timeout_s
            parcel = _Parcel(topic, drafts, deadline, self._records_in, self._bytes_in, Future(), one)
            self.records += count
            self._bytes += size
            self._parcels.append(parcel)
            self._changed.notify_all()
        return parcel

    def _ensure_thread(self, topic: str, drafts: Sequence[Draft]) -> None:
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name=f"mqsdk-sender-{self._name}", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:  # the next call tries again
            raise throttled(topic, drafts, "no thread could be started to send it") from error
        self._thread = thread

    def _await_room(self, parcel: _Parcel, timeout_s: float) -> None:
        """Callers wait in the order of their parcels, so nobody passes one that waits."""
        with self._changed:
            found = self._changed.wait_for(lambda: self._is_within(parcel) or self._closing, timeout_s)
            within = self._is_within(parcel)
        if within or not parcel.future.cancel():
            return
        if found:
            raise StateError("the publisher is closed", where=f"cluster {self._name}", state="CLOSED")
        raise throttled(parcel.topic, parcel.drafts)

    def _is_within(self, parcel: _Parcel) -> bool:
        done = self._records_in - self.records
        records, size = parcel.records - done, parcel.bytes - (self._bytes_in - self._bytes)
        alone = records <= len(parcel.drafts)  # one parcel larger than the window must pass
        return alone or (records <= self._limits.window_records and size <= self._limits.window_bytes)

    def flush(self, timeout_s: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.records == 0, timeout_s)

    def close(self, deadline: float) -> bool:
        left = max(0.0, deadline - self._clock.mono())
        clean = self.flush(left)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None and clean:
            self._thread.join(left)
        return clean

    # --- the thread -------------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self.carry_next():
            pass

    def carry_next(self) -> bool:
        """Wait for something to send and send it; False when nothing comes any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._parcels or self._closing)
            if not self._parcels:
                return False
            taken = self._take()
            self._carried = taken[0].topic
        begun = [parcel for parcel in taken if parcel.future.set_running_or_notify_cancel()]
        if begun:
            self._carry(begun)
        with self._changed:
            self._carried = None
            self.records -= sum(len(parcel.drafts) for parcel in taken)
            self._bytes -= sum(len(draft.value) for parcel in taken for draft in parcel.drafts)
            self._changed.notify_all()
        return True

    def _take(self) -> list[_Parcel]:
        """The oldest parcel and those directly behind it of the same topic with about the same time left."""
        parcels, now = self._parcels, self._clock.mono()
        taken = [parcels.popleft()]
        records = len(taken[0].drafts)
        shortest = longest = max(0.0, taken[0].deadline - now)
        while parcels and parcels[0].topic == taken[0].topic and records < SEND_CHUNK:
            left = max(0.0, parcels[0].deadline - now)
            shortest, longest = min(shortest, left), max(longest, left)
            if longest > shortest * SHARED_TIME:
                break
            taken.append(parcels.popleft())
            records += len(taken[-1].drafts)
        return taken

    def _carry(self, parcels: Sequence[_Parcel]) -> None:
        now = self._clock.mono()
        drafts = [draft for parcel in parcels for draft in parcel.drafts]
        timeout_s = max(0.0, min(parcel.deadline for parcel in parcels) - now)
        try:
            answers = self._send(parcels[0].topic, drafts, timeout_s)
        except BaseException as error:  # the callers' futures are its owner: each gets it
            for parcel in parcels:
                _end(parcel, error)
            return
        start = 0
        for parcel in parcels:
            stop = start + len(parcel.drafts)
            _end(parcel, answers[start:stop])
            start = stop


def _end(parcel: _Parcel, answers: list[Answer] | BaseException) -> None:
    """Whoever added a callback to the future is its owner: what it raises must not end the thread of all senders."""
    answer = answers[0] if parcel.one and isinstance(answers, list) else answers
    if parcel.one and isinstance(answer, BackendError):
        answer = as_rejected(answer, parcel.topic, parcel.drafts[0].id)
    try:
        if isinstance(answer, BaseException):
            parcel.future.set_exception(answer)
        else:
            parcel.future.set_result(answer)
    except BaseException as error:
        log.error("a callback of a publish future failed", exc_info=error)


def throttled(topic: str, drafts: Sequence[Draft], what: str = "the publish window stayed full") -> PublishRejected:
    """Nothing was sent, and it may be later."""
    return PublishRejected(what, code="throttled", retryable=True, topic=topic, id=drafts[0].id if len(drafts) == 1 else "")


def as_rejected(error: BackendError, topic: str, id: str) -> PublishRejected:
    """A backend that could not be used at all: certainly nothing is stored."""
    code = "denied" if isinstance(error, AccessDenied) else "backend"
    answer = PublishRejected(error.what, code=code, retryable=error.retryable, topic=topic, id=id, where=error.where, fix=error.fix)
    answer.__cause__ = error
    return answer
