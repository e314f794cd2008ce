"""Everything that crosses the seam, as frozen data. Nothing here has behaviour beyond reading its own fields.

NamedTuples, because they are read at every start: a class costs 0.1 ms to make, a frozen dataclass 0.7 ms.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from mqsdk.errors import BackendError

SHADOW = "mq-shadow"


class Partition(NamedTuple):
    """An ordered sequence inside a topic. `topic` is the backend's topic, which for retries is `<topic>.<group>.retry`."""

    topic: str
    number: int


class Record:
    """One stored message as a consumer reads it. An adapter may subclass it and compute headers lazily.

    position: place in the partition, an int that rises within one (partition, epoch); a backend without offsets numbers its deliveries.
    headers: the user's headers only, without `mq-*`, `content-type` (both are fields) - what `spi.decode_headers` returns.
    timestamp_ms: `mq-ts`, else the backend's own time, else None. producer, sequence: `mq-pid`, `mq-seq`; "" and -1 when foreign.
    attempt: attempts already counted in a retry copy, 1 for an original. due_ms: when a delayed one was due, wall clock in milliseconds.
    again: its publisher had sent it before, without learning whether it was stored, so it may stand here twice.
    """

    __slots__ = (
        "again", "attempt", "content_type", "due_ms", "extra", "headers", "id", "key", "position", "producer",
        "redelivered", "sequence", "timestamp_ms", "value",
    )  # fmt: skip

    position: int
    key: bytes | None
    value: bytes
    timestamp_ms: int | None
    id: str | None
    content_type: str | None
    headers: tuple[tuple[str, str], ...]
    producer: str
    sequence: int
    attempt: int
    due_ms: int | None
    redelivered: bool
    extra: tuple[tuple[str, str], ...]
    again: bool

    def __init__(
        self,
        position: int,
        key: bytes | None,
        value: bytes,
        *,
        timestamp_ms: int | None = None,
        id: str | None = None,
        content_type: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        producer: str = "",
        sequence: int = -1,
        attempt: int = 1,
        due_ms: int | None = None,
        redelivered: bool = False,
        extra: tuple[tuple[str, str], ...] = (),
        again: bool = False,
    ) -> None:
        self.position = position
        self.key = key
        self.value = value
        self.timestamp_ms = timestamp_ms
        self.id = id
        self.content_type = content_type
        self.headers = headers
        self.producer = producer
        self.sequence = sequence
        self.attempt = attempt
        self.due_ms = due_ms
        self.redelivered = redelivered
        self.extra = extra
        self.again = again

    @property
    def mark(self) -> Hashable:
        """What copies of one message share and nothing else has. Asked of every record where there may be copies (`Capabilities.copies`):
        an adapter that decodes headers lazily gives bytes that it has at hand."""
        return (self.producer, self.sequence, self.id)

    @property
    def shadow(self) -> bool:
        """Whether it is a shadow copy: its header `mq-shadow` says so. Asked only of what is no first attempt, as shadows are written."""
        extra = self.extra
        return bool(extra) and any(name == SHADOW for name, _ in extra)

    @property
    def ref(self) -> str:
        """The position as people see it; a backend with its own notation (Redis stream ids) overrides it."""
        return str(self.position)

    @property
    def placed_ms(self) -> int | None:
        """When it took its place in the order: a delayed record at its due time, any other at its publish time."""
        return self.timestamp_ms if self.due_ms is None else max(self.due_ms, self.timestamp_ms or 0)

    @property
    def size(self) -> int:
        """Bytes that count against in-flight limits: key and value."""
        return len(self.value) + (len(self.key) if self.key is not None else 0)


class NewRecord(NamedTuple):
    """One message to store as it is: layer 2 has chosen partition, id and sequence.

    token: names the record in `Published`. headers: user headers, then `traceparent`.
    extra: further `mq-*` headers (dead letters, redrive), written as they are.
    due_ms: nobody gets it before, see `Capabilities.delay`. durable: wait for the medium whatever `durability` says (dead letters).
    again: it was sent before, and whether it was stored is in doubt; whoever reads it is told.
    """

    token: int
    partition: Partition
    key: bytes | None
    value: bytes
    id: str
    timestamp_ms: int
    content_type: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    producer: str = ""
    sequence: int = -1
    attempt: int = 1
    due_ms: int | None = None
    extra: tuple[tuple[str, str], ...] = ()
    durable: bool = False
    again: bool = False


# --- results of a publish -------------------------------------------------------------------------------------------------------


class Stored(NamedTuple):
    """Stored as durably as the cluster promises. `position` as `Record.position`; None where that is not known, and of a delayed one."""

    position: int | None = None


class Rejected(NamedTuple):
    """Certain that no queue, partition or group holds the message. `code` is one of `mqsdk.errors.REJECT_CODES`: no_route (no such topic or
    partition), no_group, too_large, full, denied, throttled, backend (all else), ... retryable: the same record may be stored later."""

    code: str
    what: str
    retryable: bool = False
    fix: str = ""


class Unknown(NamedTuple):
    """Sent, no answer, or any doubt: it may be stored."""

    what: str


Outcome = Stored | Rejected | Unknown


class Published(NamedTuple):
    """Result of `length` records of one `publish` with consecutive tokens from `token` on; with Stored their positions are, too."""

    token: int
    outcome: Outcome
    length: int = 1


# --- events of a consumer -------------------------------------------------------------------------------------------------------


class Assigned(NamedTuple):
    """This consumer now owns the partition.

    epoch: number of this ownership, larger than every earlier one of the partition and group. position: first unsettled position.
    sparse: what the last owner's `settle` gave as `sparse`, b"" at first. valid_until: see Renewed.
    clean: the last owner handed the partition back in order. end: position after the newest record there was at that moment, None where
    the backend cannot tell cheaply; it bounds what a last owner that did not hand back may have had.
    """

    partition: Partition
    epoch: int
    position: int
    sparse: bytes = b""
    valid_until: float = float("inf")
    clean: bool = True
    end: int | None = None


class Renewed(NamedTuple):
    """Nothing may start after `valid_until`: monotonic seconds at the sending of the last renewal that succeeded, + lease - margin."""

    valid_until: float


class Revoking(NamedTuple):
    """The partition is to be handed back before `deadline` (monotonic seconds; three leases where the adapter sets it), else it is lost.

    The answer is a `settle` with final=True. Nothing more is delivered meanwhile.
    """

    partition: Partition
    epoch: int
    deadline: float


class Lost(NamedTuple):
    """The partition is gone already: settle nothing more under this epoch."""

    partition: Partition
    epoch: int


class Batch(NamedTuple):
    """Records of one partition in position order. `bytes` is the sum of `Record.size`."""

    partition: Partition
    epoch: int
    records: Sequence[Record]
    bytes: int


class Gap(NamedTuple):
    """Unread messages are gone: positions start (included) to stop (excluded). reason: retention, corrupt, truncated."""

    partition: Partition
    epoch: int
    start: int
    stop: int
    reason: str


class Settled(NamedTuple):
    """Answer to `settle`. stale: the ownership is over and nothing was stored. failed: nothing stored, may be repeated."""

    partition: Partition
    epoch: int
    token: int
    outcome: Literal["stored", "stale", "failed"]
    error: str = ""


class Flow(NamedTuple):
    """The backend asks publishers to stop (blocked) or go on."""

    blocked: bool
    reason: str = ""


class Link(NamedTuple):
    """The connection went up or down. A consumer whose link is down keeps its thread and reconnects by itself."""

    up: bool
    error: BackendError | None = None


ConsumerEvent = Assigned | Renewed | Revoking | Lost | Batch | Gap | Settled | Link
ProducerEvent = Published | Flow | Link

# --- what layer 2 asks ----------------------------------------------------------------------------------------------------------


Start = Literal["earliest", "latest"] | datetime | None


class Subscription(NamedTuple):
    """What one consumer of layer 2 reads.

    topics: the topic, then topics of the group's own (its retry topic), where `Capabilities.companions` is claimed. They follow the first:
    partition p of all belongs to one consumer at any time. That of the first is assigned before the others' and given to nobody else
    before they are handed back too; a consumer that loses it loses all. Further topics need not exist: one in which the group begins
    (`Admin.ensure_group`) later is taken up within two seconds. All consumers of a group name the same topics. start: where a *new*
    group begins; None = the oldest that the backend holds for it.
    broadcast: all partitions of the one topic from now on for this consumer alone; no group, no progress kept, settles are answered.
    positions: of a broadcast, (partition, position) where it goes on in place of a consumer that failed; others begin at the end.
    lease_s: a consumer that shows no life for so long loses its partitions. instance: name of this process in member lists.
    """

    topics: tuple[str, ...]
    group: str
    ordered: bool = False
    broadcast: bool = False
    positions: tuple[tuple[int, int], ...] = ()
    start: Start = None
    lease_s: float = 10.0
    instance: str = ""


class Progress(NamedTuple):
    """Both facts about progress of one partition; a cursor backend stores the first, a receipt backend the second.

    watermark: every position below it is settled. done: ranges [start, stop) settled since the last Progress of this epoch.
    high: highest settled position + 1. sparse: opaque, at most `Capabilities.sparse_bytes` long, given back in `Assigned`.
    final: the partition is handed back; nothing follows under this epoch.
    """

    partition: Partition
    epoch: int
    watermark: int
    done: tuple[tuple[int, int], ...] = ()
    high: int = 0
    sparse: bytes = b""
    token: int = 0
    final: bool = False


# --- what an admin shows --------------------------------------------------------------------------------------------------------


class TopicInfo(NamedTuple):
    """`messages` and `bytes` are None where the backend cannot tell."""

    name: str
    partitions: int
    groups: tuple[str, ...] = ()
    messages: int | None = None
    bytes: int | None = None


class Member(NamedTuple):
    """One consumer of a group, as the backend sees it."""

    id: str
    host: str = ""
    pid: int | None = None
    partitions: tuple[int, ...] = ()


class GroupInfo(NamedTuple):
    topic: str
    group: str
    members: tuple[Member, ...] = ()


class PartitionProgress(NamedTuple):
    """Progress of a group in one partition.

    messages: not settled yet, delayed ones from their due time on. oldest_ms: `Record.placed_ms` of the oldest of them, if that is known.
    delayed: of the partition, not due yet; 0 where that is not known, which only `exact_lag=False` allows.
    """

    partition: int
    watermark: int
    end: int
    messages: int
    oldest_ms: int | None = None
    start: int = 0
    epoch: int = 0
    delayed: int = 0


class SavedProgress(NamedTuple):
    """What the newest `settle` of one partition left for its next owner. epoch: of the ownership that settled. sparse: b"" for nothing."""

    partition: int
    epoch: int
    sparse: bytes = b""


class Finding(NamedTuple):
    """One thing that `doctor` or the start-up line reports. level: ok, info, warn, refuse. code: people write it as `<backend>.<code>`."""

    level: Literal["ok", "info", "warn", "refuse"]
    code: str
    what: str
    fix: str = ""


class BackendHealth(NamedTuple):
    """What `health()` found: reachable, version, the row of the guarantees that applies, and findings."""

    ok: bool
    version: str = ""
    latency_ms: float | None = None
    guarantee: str = ""
    findings: tuple[Finding, ...] = ()
