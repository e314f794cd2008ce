"""What a consumer and its worker processes say to each other: plain data in frames, never a pickled object.

`marshal` writes it: both ends are the same interpreter, and reading it back makes numbers, texts, bytes and tuples, never runs code.
"""

from __future__ import annotations

import marshal
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from mqsdk.core.actions import Failure
from mqsdk.message import Origin
from mqsdk.spi import Record


@dataclass(frozen=True, slots=True)
class Isolation:
    """How the worker processes of one consumer are made.

    command: what to run; the descriptors of its three ends are appended. recipe: plain data from which it makes the handler.
    live: plain data that may change while it runs, sent with every call.
    """

    command: Sequence[str]
    recipe: dict[str, Any]
    live: Callable[[], Any]


class Delivered(NamedTuple):
    """A record as a worker process has it; of the shape of `message.Stored`."""

    position: int
    key: bytes | None
    value: bytes
    timestamp_ms: int | None
    id: str | None
    content_type: str | None
    headers: tuple[tuple[str, str], ...]
    due_ms: int | None
    redelivered: bool
    extra: tuple[tuple[str, str], ...]
    ref: str


class Request(NamedTuple):
    """One call: of one record, or of a batch. number: of the call, within its process. timeout_s: `inf` without one."""

    number: int
    live: Any
    origin: Origin
    attempt: int
    timeout_s: float
    records: Sequence[Delivered]


# What comes back: (DONE, failures), after any number of (LOG, fields of a log record). Before the first call: (READY,) or (FAILED, why).
READY, FAILED, DONE, LOG = "ready", "failed", "done", "log"
# What is said beside a call: (CANCEL, number of the call), (STACK, number of the question); the answer is (number, text).
CANCEL, STACK = "cancel", "stack"


def pack_request(number: int, live: Any, origin: Origin, attempt: int, timeout_s: float, records: Sequence[Record]) -> tuple[Any, ...]:
    return number, live, _origin(origin), attempt, timeout_s, [_delivered(record) for record in records]


def unpack_request(packed: tuple[Any, ...]) -> Request:
    number, live, origin, attempt, timeout_s, records = packed
    return Request(number, live, Origin(*origin), attempt, timeout_s, [Delivered(*record) for record in records])


def _origin(origin: Origin) -> tuple[Any, ...]:
    return origin.topic, origin.group, origin.cluster, origin.partition, origin.epoch, origin.fence


def _delivered(record: Record) -> tuple[Any, ...]:
    return (
        record.position, record.key, record.value, record.timestamp_ms, record.id, record.content_type, record.headers, record.due_ms,
        record.redelivered, record.extra, record.ref,
    )  # fmt: skip


def pack_failures(failures: Sequence[tuple[int, Failure]]) -> list[tuple[Any, ...]]:
    return [(index, *failure) for index, failure in failures]


def unpack_failures(packed: Sequence[Any]) -> list[tuple[int, Failure]]:
    return [(index, Failure(*failure)) for index, *failure in packed]


class Channel:
    """One end of a stream of frames. Any thread may send, one at a time receives."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, True)  # whatever `socket.setdefaulttimeout` says
        os.set_inheritable(descriptor, False)
        self._connection: Connection[Any, Any] = Connection(descriptor)
        self._lock = threading.Lock()

    def send(self, item: Any) -> None:
        """Raises OSError when the other end is gone."""
        frame = marshal.dumps(item)
        with self._lock:
            self._connection.send_bytes(frame)

    def receive(self) -> Any:
        """The next item. Raises OSError when the other end is gone, or writes what is no frame of ours (native code gone wild may)."""
        try:
            return marshal.loads(self._connection.recv_bytes())
        except (EOFError, ValueError, TypeError) as error:
            raise ConnectionResetError("the other end is gone") from error

    def has_item(self, timeout_s: float) -> bool:
        """Whether there is something to receive, the end included, within so many seconds."""
        return self._connection.poll(timeout_s)

    def close(self) -> None:
        self._connection.close()
