"""The seam: what an adapter implements. One page is enough to write one.

Twelve methods are required: Backend `open close producer consumer admin health`, Consumer `poll wake credit settle close`,
Producer `publish`. `release`, `extend` and the methods of Admin are needed where the capability is claimed.

Rules, each a scenario of `mqsdk.testing.conformance`:

- A partition has an order, at most one owner per group with a rising epoch, and durable progress.
- Many unsettled deliveries may be out at once; never "ack before next".
- `poll` is the only blocking call of a Consumer; `wake()` ends it from any thread. One thread calls everything else of a Consumer.
- A publish has three outcomes. `Rejected` only when it is certain that nothing holds the message; every doubt is `Unknown`.
- Unread messages that are gone raise `Gap`, never silence. Results of an old epoch are `stale` and change nothing.
- `close` is idempotent, works while `poll` or `publish` is blocked, and ends by its deadline.
- Errors are `mqsdk.errors.BackendError` and its subclasses, the client's exception as `__cause__`.
- Deadlines and `valid_until` are seconds of `time.monotonic()`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Protocol

from mqsdk.errors import CapabilityError
from mqsdk.spi.capabilities import Capabilities
from mqsdk.spi.events import (
    BackendHealth,
    ConsumerEvent,
    GroupInfo,
    NewRecord,
    Partition,
    PartitionProgress,
    ProducerEvent,
    Progress,
    Record,
    SavedProgress,
    Start,
    Subscription,
    TopicInfo,
)


class EventSink(Protocol):
    """Where a producer puts its results. `put` is called from any thread, never blocks and never raises."""

    def put(self, event: ProducerEvent, /) -> None: ...


class Producer(ABC):
    """Stores records. Called from any thread."""

    @abstractmethod
    def publish(self, batch: Sequence[NewRecord], deadline: float) -> None:
        """Store the records in this order, per partition; put one Published per record, or per run of tokens, into the event sink.

        inline: the results are there when it returns. async: the records are handed over in the order of the calls, and the results are
        put later, from any thread, every one of them by the deadline.

        deadline: an inline producer waits for locks no longer than that, an async one for room in its window; then it answers Rejected.
        An async one answers Unknown for what was sent and is not confirmed by then, Rejected for what was not sent and never will be.
        Never raises for one record's sake.
        """

    def ref(self, position: int) -> str:
        """A position as people see it, the same as `Record.ref` of that record; receipts show it."""
        return str(position)


class Consumer(ABC):
    """Reads one subscription. All methods but `wake` are called by one thread."""

    @abstractmethod
    def poll(self, max_records: int, timeout_s: float) -> list[ConsumerEvent]:
        """What happened since the last call, in order; empty after `timeout_s` without anything.

        The only blocking call. Keeps the ownership alive: layer 2 calls it at least every lease / 3. After close: empty, or StateError.

        A BackendError is the end of this consumer: layer 2 takes all its partitions as lost, closes it and makes another one, after a
        wait that grows; nothing that the failed call had found counts. An adapter that reconnects by itself tells `Link` instead.
        """

    @abstractmethod
    def wake(self) -> None:
        """End a running or the next `poll` at once. Any thread, any time, also after close."""

    @abstractmethod
    def credit(self, partition: Partition, records: int, bytes: int) -> None:
        """How much more may be delivered from this partition; 0 records = pause. Replaces the earlier credit; an ownership starts with 0.

        `bytes` may be passed by one record, else a record larger than the limit could never be delivered.
        """

    @abstractmethod
    def settle(self, progress: Progress) -> None:
        """Store progress; answered by a Settled event, a BackendError counts as "failed". final=True hands the partition back.

        Within an epoch the watermark never falls: max(stored, given). The blob is replaced.

        Handed back without having been asked by Revoking, the consumer is about to leave: it is given no partition any more.
        """

    def release(self, partition: Partition, epoch: int, positions: Sequence[int]) -> None:
        """Give unsettled deliveries back now. Only where `Capabilities.release` is claimed."""
        raise NotSupported("release")

    def extend(self, partition: Partition, epoch: int, positions: Sequence[int], seconds: float) -> None:
        """Ask for more time before redelivery. Only where `Capabilities.extend` is claimed."""
        raise NotSupported("extend")

    @abstractmethod
    def close(self, deadline: float) -> None:
        """Leave the group, hand everything back. Idempotent; ends by the deadline.

        What was not handed back by a final settle before is free at once, and what is not settled of it comes again; its next owner is
        `clean`, for nothing has crashed. A close that cannot reach the backend leaves the rest to the lease.
        """


class Admin:
    """Looking and arranging. Each method is needed where its capability is claimed; thread-safe."""

    def ensure_topic(self, topic: str, partitions: int | None) -> int:
        """Create the topic unless it exists (None: the backend's default of 8) and return its number of partitions.

        An existing topic with another count than asked for: UnsafeBackend(finding="partitions").
        """
        raise NotSupported("ensure_topic")

    def keep(self, topic: str, seconds: float) -> None:
        """From now on a message of the topic that no group waits for may be removed so long after its publish; infinity: never.

        How much later it goes is the backend's affair. BackendError where there is no such topic.
        """
        raise NotSupported("retention")

    def partitions(self, topic: str) -> int | None:
        """Number of partitions, None when there is no such topic."""
        raise NotSupported("partitions")

    def ensure_group(self, topic: str, group: str, start: Start = None) -> None:
        """Create the group's progress, in all partitions, so that nothing published from now on escapes it.

        start: where a new group begins, as in Subscription. One that exists is left as it is. BackendError where there is no such topic.
        """
        raise NotSupported("ensure_group")

    def topics(self) -> list[TopicInfo]:
        """All topics, the SDK's own (`.dlq`, `.retry`) included, sorted by name."""
        raise NotSupported("topics")

    def groups(self, topic: str) -> list[GroupInfo]:
        raise NotSupported("groups")

    def progress(self, topic: str, group: str) -> list[PartitionProgress]:
        """One entry per partition, in order. Empty when the group does not exist."""
        raise NotSupported("progress")

    def reset(self, topic: str, group: str, positions: dict[int, int]) -> None:
        """Move the group's progress: partition -> position. The blob is forgotten, the epoch rises; partitions not named stay.

        StateError while the group has members.
        """
        raise NotSupported("replay")

    def saved(self, topic: str, group: str) -> list[SavedProgress]:
        """What the group's next owners will be given, one entry per partition, in order. Empty when the group does not exist."""
        raise NotSupported("amend")

    def amend(self, topic: str, group: str, saved: SavedProgress, sparse: bytes) -> bool:
        """Give the next owner of a partition this blob instead. The watermark, the epoch and whether it was handed back stay.

        False, and nothing is changed, when what is saved is not `saved` any more. StateError while the group has members.
        """
        raise NotSupported("amend")

    def read(self, topic: str, partition: int, position: int, limit: int) -> list[Record]:
        """Up to `limit` records from this position on, without touching a group; positions before the first record begin there."""
        raise NotSupported("read_by_position")

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """(first position held, position after the last)."""
        raise NotSupported("read_by_position")

    def locate(self, topic: str, partition: int, time_ms: int) -> int:
        """First position whose publish time is at or after `time_ms`; the end if there is none."""
        raise NotSupported("by_time")

    def trim(self, topic: str, positions: dict[int, int]) -> None:
        """Records below these positions (partition -> position) will not be read again by anybody: their room may be freed.

        Called for topics of the SDK's own alone: delay topics, and where `retention` is claimed topics of dead letters. A hint; what a
        backend cannot do, or does by itself, it leaves.
        """

    def delete_topic(self, topic: str) -> None:
        """Delete a topic with all its groups. StateError while any group has members."""
        raise NotSupported("delete_topic")

    def delete_group(self, topic: str, group: str) -> None:
        """Delete a group's progress for ever. StateError while it has members."""
        raise NotSupported("delete_group")


class Backend(ABC):
    """One configured cluster. Constructing touches nothing; `open` connects."""

    kind: ClassVar[str]
    name: str

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """Valid before `open` too."""

    @abstractmethod
    def open(self, deadline: float) -> None:
        """Import the client, connect, check. Raises Unavailable, AccessDenied, UnsafeBackend, UnsupportedFormat or MissingExtra."""

    @abstractmethod
    def close(self, deadline: float) -> None:
        """Close everything that this backend handed out. Idempotent; ends by the deadline."""

    @abstractmethod
    def producer(self, events: EventSink) -> Producer: ...

    @abstractmethod
    def consumer(self, subscription: Subscription) -> Consumer:
        """Join the group, made at `subscription.start` where it does not exist. The first `poll` may still be before the first Assigned.

        Several topics where companions are not claimed are shared out each by itself. NotSupported for what is not claimed (broadcast,
        a start that needs history), BackendError where there is no such topic, StateError after close.
        """

    @abstractmethod
    def admin(self) -> Admin: ...

    @abstractmethod
    def health(self) -> BackendHealth: ...


class NotSupported(CapabilityError):
    """The adapter does not claim this capability."""

    def __init__(self, capability: str) -> None:
        super().__init__(f"this backend does not support `{capability}`", capability=capability)
