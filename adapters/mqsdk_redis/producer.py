"""Publishing: one script call per partition, all of a batch in one round trip on a connection of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from mqsdk.spi import BackendError, EventSink, Flow, NewRecord, Partition, Producer, Rejected, Stored, Unknown
from mqsdk.spi.answers import put_outcome
from mqsdk_redis import names
from mqsdk_redis.client import Client
from mqsdk_redis.errors import FULL, refusal
from mqsdk_redis.ids import position_of, shown
from mqsdk_redis.records import fields_of
from mqsdk_redis.wire import ANSWER_TIMEOUT_S, FAILURES, Command, ResponseError, Wire

CALL_RECORDS = 1000
CALL_BYTES = 4 << 20
_HELD_BACK = Rejected("throttled", "an earlier message of this partition is not stored yet", retryable=True)
_LATE = Rejected("throttled", "no time was left before the deadline", retryable=True)
_SILENT = Unknown("the connection ended before the server answered")

Answer = Stored | Rejected | Unknown


class RedisProducer(Producer):
    """Thread-safe: every call borrows a connection."""

    def __init__(self, client: Client, events: EventSink) -> None:
        self._client = client
        self._events = events
        self._eras: dict[Partition, bytes] = {}
        self._is_full = False

    def publish(self, batch: Sequence[NewRecord], deadline: float) -> None:
        """One record of a partition that may still be repeated holds back what is newer in it."""
        self._client.check()
        if not batch:
            return
        try:
            wire = self._client.borrow(deadline)
        except BackendError as error:
            put_outcome(self._events, batch, Rejected("backend", error.what, retryable=error.retryable, fix=error.fix))
            return
        queues = [_calls(records) for records in _by_partition(batch)]
        try:
            while queues:
                queues = self._round(wire, queues, deadline)
        except BaseException:
            wire.abort()
            raise
        if wire.fd >= 0:
            self._client.give_back(wire)

    def ref(self, position: int) -> str:
        return shown(position)

    def _round(self, wire: Wire, queues: list[Iterator[list[NewRecord]]], deadline: float) -> list[Iterator[list[NewRecord]]]:
        """The next call of every partition in one round trip; the queues that may go on."""
        calls = [(queue, records) for queue in queues if (records := next(queue, None)) is not None]
        if not calls:
            return []
        left_s = deadline - time.monotonic()
        if left_s <= 0 or wire.fd < 0:
            replies: list[Any] = [_LATE] * len(calls)
        else:
            try:
                replies = wire.exchange([self._command(records) for _, records in calls], min(left_s, ANSWER_TIMEOUT_S))
            except FAILURES:
                wire.abort()
                replies = [_SILENT] * len(calls)
        going = []
        for (queue, records), reply in zip(calls, replies, strict=True):
            if self._told(records, reply):
                going.append(queue)
            else:
                for held_back in queue:
                    put_outcome(self._events, held_back, _HELD_BACK)
        return going

    def _command(self, records: Sequence[NewRecord]) -> Command:
        partition = records[0].partition
        arguments: list[Any] = [self._eras.get(partition, b"0")]
        for record in records:
            fields = fields_of(record)
            arguments.append(len(fields) if record.due_ms is None else b"%d@%d" % (len(fields), max(record.due_ms, 0)))
            arguments += fields
        return self._client.scripts.publish.call((names.stream(partition), *names.delayed(partition)), *arguments)

    def _told(self, records: Sequence[NewRecord], reply: Any) -> bool:
        """Answer for the records of one call. False where nothing newer may follow."""
        if isinstance(reply, Rejected | Unknown):
            put_outcome(self._events, records, reply)
            return False
        if isinstance(reply, ResponseError):
            outcome = refusal(reply)
            put_outcome(self._events, records, outcome)
            return isinstance(outcome, Rejected) and not outcome.retryable
        runs, failed = reply
        done = 0
        for first, last, count in runs:
            put_outcome(self._events, records[done : done + count], Stored(position_of(first) if first else None))
            done += count
            if last and not last.startswith(b"0-"):
                self._eras[records[0].partition] = last.split(b"-")[0]
        if failed is None:
            if self._is_full:
                self._tell_flow(Stored())
            return True
        outcome = refusal(ResponseError(failed.decode("utf-8", "replace")))
        put_outcome(self._events, records[done:], outcome)
        self._tell_flow(outcome)
        return isinstance(outcome, Rejected) and not outcome.retryable

    def _tell_flow(self, outcome: Answer) -> None:
        """Publishers are asked to wait while the server's memory is full, and to go on with the first message that finds room."""
        is_full = isinstance(outcome, Rejected) and outcome.code == FULL
        if is_full != self._is_full and (is_full or isinstance(outcome, Stored)):
            self._is_full = is_full
            self._events.put(Flow(is_full, outcome.what if isinstance(outcome, Rejected) else ""))


def _by_partition(batch: Sequence[NewRecord]) -> list[Sequence[NewRecord]]:
    first = batch[0].partition
    if all(record.partition == first for record in batch):
        return [batch]
    found: dict[Partition, list[NewRecord]] = {}
    for record in batch:
        found.setdefault(record.partition, []).append(record)
    return list(found.values())


def _calls(records: Sequence[NewRecord]) -> Iterator[list[NewRecord]]:
    """Cut so that one call neither blocks the server for long nor fills its buffers."""
    call: list[NewRecord] = []
    size = 0
    for record in records:
        if call and (len(call) >= CALL_RECORDS or size + len(record.value) > CALL_BYTES):
            yield call
            call, size = [], 0
        call.append(record)
        size += len(record.value)
    yield call
