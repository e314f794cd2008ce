"""The thread behind nowait and async publishing: carries what callers submit, in order, within a window of records and bytes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from mqsdk.config.model import PublishLimits
from mqsdk.errors import PublishRejected, PublishUnknown, StateError
from mqsdk.message import Receipt
from mqsdk.runtime.clock import Clock

Answer = Receipt | PublishRejected | PublishUnknown
SEND_CHUNK = 512


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
    topic: str
    drafts: Sequence[Draft]
    deadline: float
    size: int
    future: Future[list[Answer]]


class Sender:
    """One thread that carries what callers submit, in order, several parcels of a topic in one `send`. Started on first use."""

    def __init__(self, send: Send, clock: Clock, limits: PublishLimits, name: str) -> None:
        self._send = send
        self._clock = clock
        self._limits = limits
        self._name = name
        self._changed = threading.Condition()
        self._parcels: deque[_Parcel] = deque()
        self._records = 0
        self._bytes = 0
        self._thread: threading.Thread | None = None
        self._closing = False

    def submit(self, topic: str, drafts: Sequence[Draft], timeout_s: float) -> Future[list[Answer]]:
        size = sum(len(draft.value) for draft in drafts)
        parcel = _Parcel(topic, drafts, self._clock.mono() + timeout_s, size, Future())
        with self._changed:
            if not self._changed.wait_for(lambda: self._fits(len(drafts), size) or self._closing, timeout_s):
                raise PublishRejected("the publish window stayed full", code="throttled", retryable=True, topic=topic)
            if self._closing:
                raise StateError("the publisher is closed", where=f"cluster {self._name}", state="CLOSED")
            self._parcels.append(parcel)
            self._records += len(drafts)
            self._bytes += size
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"mqsdk-sender-{self._name}", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return parcel.future

    def has_room(self, records: int, size: int) -> bool:
        with self._changed:
            return self._fits(records, size)

    def _fits(self, records: int, size: int) -> bool:
        empty = self._records == 0  # one parcel larger than the window must pass
        return empty or (self._records + records <= self._limits.window_records and self._bytes + size <= self._limits.window_bytes)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._parcels or self._closing)
                if not self._parcels:
                    return
                parcels = self._take()
            self._carry(parcels)
            with self._changed:
                self._records -= sum(len(parcel.drafts) for parcel in parcels)
                self._bytes -= sum(parcel.size for parcel in parcels)
                self._changed.notify_all()

    def _take(self) -> list[_Parcel]:
        """The oldest parcel and those directly behind it of the same topic."""
        parcels = [self._parcels.popleft()]
        records = len(parcels[0].drafts)
        while self._parcels and self._parcels[0].topic == parcels[0].topic and records < SEND_CHUNK:
            parcels.append(self._parcels.popleft())
            records += len(parcels[-1].drafts)
        return parcels

    def _carry(self, parcels: Sequence[_Parcel]) -> None:
        now = self._clock.mono()
        drafts = [draft for parcel in parcels for draft in parcel.drafts]
        timeout_s = max(0.0, min(parcel.deadline for parcel in parcels) - now)
        try:
            answers = self._send(parcels[0].topic, drafts, timeout_s)
        except Exception as error:  # the callers' futures are its owner: each gets it
            for parcel in parcels:
                parcel.future.set_exception(error)
            return
        start = 0
        for parcel in parcels:
            stop = start + len(parcel.drafts)
            parcel.future.set_result(answers[start:stop])
            start = stop

    def flush(self, timeout_s: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._records == 0, timeout_s)

    def close(self, deadline: float) -> bool:
        left = max(0.0, deadline - self._clock.mono())
        clean = self.flush(left)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None and clean:
            self._thread.join(left)
        return clean
