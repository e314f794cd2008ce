"""What handlers and publishers hold in their hands: Message, Receipt, Outgoing, and the context variable behind current_message().

A leaf: imports nothing of mqsdk but `errors`. A Message is a view over a stored record and decodes its fields on first use, because
most handlers look at the payload only (building every field eagerly cost more than the no-op handler it was built for).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar, cast

from mqsdk.errors import Duration

if TYPE_CHECKING:
    # A bare `Message` in an annotation means Message[Any]; the interpreter's own TypeVar knows defaults from 3.13 on only.
    from typing_extensions import TypeVar as TypeVarWithDefault

    T_co = TypeVarWithDefault("T_co", covariant=True, default=Any)
else:
    T_co = TypeVar("T_co", covariant=True)

EMPTY_HEADERS: Mapping[str, str] = MappingProxyType({})


class Stored(Protocol):
    """What Message reads from a stored record; `mqsdk.spi.Record` has this shape."""

    @property
    def position(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes: ...
    @property
    def timestamp_ms(self) -> int | None: ...
    @property
    def id(self) -> str | None: ...
    @property
    def content_type(self) -> str | None: ...
    @property
    def headers(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def due_ms(self) -> int | None: ...
    @property
    def redelivered(self) -> bool: ...
    @property
    def extra(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def ref(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Origin:
    """Where deliveries of one ownership come from; shared by all its messages. `topic` is the topic the user named.

    epoch: of this ownership. fence: what users see as epoch, None = the same. For a redriven message, which is owned through the group's
    retry topic, it is that of the topic's partition: a store that refuses lower numbers would refuse redriven messages otherwise.
    """

    topic: str
    group: str
    cluster: str
    partition: int
    epoch: int
    fence: int | None = None


class Call:
    """The running call of one worker: reused for every message it runs, so creating one is not part of the hot path.

    `deadline` is monotonic seconds (`inf` without a timeout). `started` is 0.0 while nothing runs. Written by the worker that owns it and,
    for `cancelled` only, by the I/O thread; both are single stores.
    """

    __slots__ = ("attempt", "cancelled", "deadline", "origin", "record", "records", "started")

    def __init__(self) -> None:
        self.record: Any = None
        self.records: Any = None
        self.origin: Origin = Origin("", "", "", 0, 0)
        self.attempt = 1
        self.started = 0.0
        self.deadline = float("inf")
        self.cancelled = False


class Message(Generic[T_co]):
    """One delivery of a message to one group. Frozen; fields that need decoding are computed on first use.

    `remaining` and `cancelled` follow the running call; after the handler has returned `cancelled` is True.
    """

    # One slot, because a frozen object pays for every store into one: six cost 0.6 us, this a third.
    __slots__ = ("_facts",)

    _facts: tuple[Stored, Origin, Any, int, Call | None, Callable[[], float]]

    def __init__(
        self,
        record: Stored,
        origin: Origin,
        payload: Any,
        *,
        attempt: int = 1,
        call: Call | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        object.__setattr__(self, "_facts", (record, origin, payload, attempt, call, clock))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Message is frozen: cannot assign {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"Message is frozen: cannot delete {name!r}")

    def __repr__(self) -> str:
        return f"Message(id={self.id!r}, topic={self.topic!r}, group={self.group!r}, attempt={self.attempt}, {len(self.body)} bytes)"

    @property
    def id(self) -> str:
        """`mq-id`, or `cluster:topic:partition:position` for a message of a foreign producer."""
        origin = self._facts[1]
        return self._facts[0].id or f"{origin.cluster}:{origin.topic}:{origin.partition}:{self._facts[0].ref}"

    @property
    def topic(self) -> str:
        return self._facts[1].topic

    @property
    def group(self) -> str:
        return self._facts[1].group

    @property
    def cluster(self) -> str:
        return self._facts[1].cluster

    @property
    def partition(self) -> int:
        return self._facts[1].partition

    @property
    def epoch(self) -> int:
        """Number of this ownership of the partition: a fence token for the user's own store."""
        origin = self._facts[1]
        return origin.epoch if origin.fence is None else origin.fence

    @property
    def position(self) -> str:
        """Opaque place in the partition, as `offsets` and `peek` print it."""
        return self._facts[0].ref

    @property
    def key(self) -> str | None:
        """The key as text; bytes of a foreign producer that are not UTF-8 come by `surrogateescape`."""
        key = self._facts[0].key
        return None if key is None else key.decode("utf-8", "surrogateescape")

    @property
    def key_bytes(self) -> bytes | None:
        return self._facts[0].key

    @property
    def headers(self) -> Mapping[str, str]:
        """The user's headers only; `mq-*` are fields of this object. In a topic of dead letters also its `mq-dlq-*`: why and where from."""
        record, origin = self._facts[:2]
        pairs = record.headers
        if origin.topic.endswith(".dlq"):
            pairs += tuple(pair for pair in record.extra if pair[0].startswith("mq-dlq-"))
        return MappingProxyType(dict(pairs)) if pairs else EMPTY_HEADERS

    @property
    def payload(self) -> T_co:
        return cast(T_co, self._facts[2])

    @property
    def body(self) -> bytes:
        """The payload as it is stored."""
        return self._facts[0].value

    @property
    def content_type(self) -> str | None:
        return self._facts[0].content_type

    @property
    def attempt(self) -> int:
        return self._facts[3]

    @property
    def redelivered(self) -> bool:
        """True when the message may have been delivered before."""
        return self._facts[3] > 1 or self._facts[0].redelivered

    @property
    def published_at(self) -> datetime | None:
        return _utc(self._facts[0].timestamp_ms)

    @property
    def due_at(self) -> datetime | None:
        return _utc(self._facts[0].due_ms)

    @property
    def remaining(self) -> float:
        """Seconds until the timeout of this call; `inf` without one, 0.0 when it is over."""
        call = self._facts[4]
        if call is None:
            return float("inf")
        if self.cancelled:
            return 0.0
        return max(0.0, call.deadline - self._facts[5]())

    @property
    def cancelled(self) -> bool:
        """True when the partition is lost, the call is overdue, or the drain is over: stop early."""
        call = self._facts[4]
        if call is None:
            return False
        mine = call.record is self._facts[0] or (call.records is not None and self._facts[0] in call.records)
        return call.cancelled or not mine


def _utc(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)


class Receipt(NamedTuple):
    """Proof that a message is stored. `position` is opaque; `due_at` is set for a delayed message."""

    id: str
    topic: str
    cluster: str
    partition: int
    position: str | None
    due_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One item of publish_many with its own key, headers, delay or id. Fields mean what they mean for `publish`."""

    payload: Any
    key: str | bytes | int | None = field(default=None, kw_only=True)
    headers: Mapping[str, str] | None = field(default=None, kw_only=True)
    delay: Duration | None = field(default=None, kw_only=True)
    at: datetime | None = field(default=None, kw_only=True)
    id: str | None = field(default=None, kw_only=True)


# What the API's call wrapper sets: the Message, or what it would be made of, so that a handler which never asks pays for a tuple only.
Delivery = tuple[Stored, Origin, Any, int, Call]
CURRENT: ContextVar[Message[Any] | Delivery | None] = ContextVar("mqsdk_current_message", default=None)


def current_message() -> Message[Any] | None:
    """The Message whose handler is running in this thread or task, or None outside a handler."""
    current = CURRENT.get()
    if not isinstance(current, tuple):
        return current
    record, origin, payload, attempt, call = current
    return Message(record, origin, payload, attempt=attempt, call=call)
