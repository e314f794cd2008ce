"""What goes into the machine of one consumer and what comes out. Data only.

The unit of hand-over is a Job: some records that one worker runs one after another. Jobs keep the cost per message low (a lock or a
queue operation per job, not per message) and lose nothing: the runtime takes the rest of a job back when its current record is slow.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mqsdk.core.retry import RetryPolicy
from mqsdk.events import Event
from mqsdk.message import Origin
from mqsdk.names import DEAD_LETTERS
from mqsdk.spi.events import Outcome, Partition, Progress, Record

ReleaseAs = Literal["retry", "dead_letter", "drop"]
FailureKind = Literal["error", "retry", "reject", "undecodable", "timeout"]


class Failure(NamedTuple):
    """Why an attempt failed. error: `Type: text`, filtered, at most 1 KiB. after_s: earliest wait asked for by `Retry(after=)`.

    reject = dead-letter now, undecodable = the bytes do not fit the annotation, the rest are failed attempts.
    place: `file.py:12 in bill`, for log lines, which never show the text.
    """

    kind: FailureKind
    error: str
    after_s: float | None = None
    place: str = ""


@dataclass(frozen=True, slots=True)
class Spec:
    """What a consumer is, fixed while it runs.

    batch: messages per call, None = one by one. batch_wait_s: how long a batch may fill.
    retry: the group's own topic, read beside the topic: what was redriven. None where the backend reads one topic only.
    longest_wait_s: what is to wait longer for its next attempt waits as a delayed copy in that topic, not here. None: all waits here.
    settle_every_s: while a partition is busy. A settle of the log is a system call or two, of a broker a round trip.
    has_copies: a message may stand in a partition twice, see `core.copies`.
    behind: of an ordered topic that was given another cluster, the number of its partitions on each older one (`core.cut`).
    """

    topic: str
    group: str
    cluster: str
    ordered: bool = False
    batch: int | None = None
    batch_wait_s: float = 0.0
    is_async: bool = False
    sparse_bytes: int = 0
    dead_letter: str | None = None
    retry: str | None = None
    longest_wait_s: float | None = None
    settle_every_s: float = 0.01
    has_copies: bool = False
    behind: tuple[int, ...] = ()

    @property
    def reads_letters(self) -> bool:
        """The topic is one of dead letters, where some records only say which letters are gone."""
        return self.topic.endswith(DEAD_LETTERS)


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """failures: share of failed attempts, above 0 and at most 1, that opens it. minimum: attempts without which it never opens.

    window_s: how long an attempt counts, to a tenth of it. probe_s: wait before each probe.
    """

    failures: float = 0.9
    minimum: int = 20
    window_s: float = 30.0
    probe_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Tuning:
    """What may change while it runs. Times in seconds, None = no timeout. `version` is the configuration's.

    rate_per_s: messages that may start per second, None = any number. breaker: None = none.
    """

    concurrency: int = 8
    timeout_s: float | None = 300.0
    retry: RetryPolicy = RetryPolicy()  # noqa: RUF009 - frozen, shared on purpose
    paused: bool = False
    in_flight_records: int = 1000
    in_flight_bytes: int = 64 * 1024 * 1024
    span_records: int = 10_000
    span_bytes: int = 64 * 1024 * 1024
    span_age_s: float = 600.0
    stuck_after_s: float = 120.0
    rate_per_s: float | None = None
    breaker: BreakerPolicy | None = None
    version: int = 1


class Job:
    """Records of one ownership that one worker runs in this order; all at the same attempt.

    batch: the handler gets all records in one call. token: unique within the machine.
    """

    __slots__ = ("attempt", "batch", "origin", "partition", "records", "token")

    def __init__(self, token: int, partition: Partition, origin: Origin, records: list[Record], attempt: int, batch: bool) -> None:
        self.token = token
        self.partition = partition
        self.origin = origin
        self.records = records
        self.attempt = attempt
        self.batch = batch


# --- events fed, beside those of the seam -----------------------------------------------------------------------------------------


class Finished(NamedTuple):
    """A job ended. Records in neither list were handled, but for those that a Returned took out of it before.

    skipped: never started (ownership over, drain, an earlier record of its key failed).

    elapsed_s: time the worker spent in it.
    """

    job: Job
    failures: Sequence[tuple[Record, Failure]] = ()
    skipped: Sequence[Record] = ()
    elapsed_s: float = 0.0


class Returned(NamedTuple):
    """The runtime took these records of a running job back before they started, because the record before them is slow.

    handled: records of the job that ended well before the slow one, if the runtime knows; they are settled now and their keys go on,
    and Finished no longer speaks of them. Failed and skipped ones are left to Finished.
    """

    job: Job
    records: Sequence[Record]
    handled: Sequence[Record] = ()


class Overdue(NamedTuple):
    """A running record has passed its timeout (timed_out) or `stuck_after_s`. stack: code places of the handler, no values."""

    job: Job
    record: Record
    age_s: float
    timed_out: bool
    stack: str = ""


class CopyDone(NamedTuple):
    """Result of a Copy."""

    token: int
    outcome: Outcome


class Retuned(NamedTuple):
    """The configuration changed; applies to every start from now on."""

    tuning: Tuning


class Pause(NamedTuple):
    """`app.pause` / `app.resume`; independent of `Tuning.paused`."""

    paused: bool


class Release(NamedTuple):
    """Free halted messages: of these keys, or all of them. Answered by Released(token).

    outcome: run it anew from its first attempt, make it a dead letter, or let it go.
    """

    token: int
    outcome: ReleaseAs
    keys: tuple[bytes | None, ...] | None = None


class Letters(NamedTuple):
    """keys: those that have dead letters which are not done, as far as was stored at `asked_at` (monotonic seconds)."""

    asked_at: float
    keys: Collection[bytes]


class CutPassed(NamedTuple):
    """What lay on the older clusters when a Cut was asked for is settled there."""

    token: int


class CutsBegin(NamedTuple):
    """From now on messages wait for these older clusters, as in Spec.behind, whatever they waited for before."""

    behind: tuple[int, ...]


class CutsOver(NamedTuple):
    """Nothing waits for older clusters any more."""


class Drain(NamedTuple):
    """Start nothing new; when nothing runs any more, or at the deadline (monotonic seconds), settle and answer Drained."""

    deadline: float


# --- actions returned ------------------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    job: Job


class Fence(NamedTuple):
    """Start nothing more of this ownership; with `cancel` also tell its running calls (`message.cancelled`, async: cancel)."""

    partition: Partition
    epoch: int
    cancel: bool


class Cancel(NamedTuple):
    """The running record is overdue: async handlers are cancelled, threads get `message.cancelled`."""

    job: Job
    record: Record


class Recall(NamedTuple):
    """Of all jobs that are out, start nothing more: what has not started comes back as skipped. Jobs given out later are not meant."""


class Settle(NamedTuple):
    progress: Progress


class Credit(NamedTuple):
    partition: Partition
    records: int
    bytes: int


class Copy(NamedTuple):
    """Store a copy of `record` in `topic`, partition chosen by key, with `extra` headers; answered by CopyDone(token).

    attempt: its next one. due_ms: nobody gets it before, wall clock in milliseconds; None: a dead letter, or at once.
    """

    token: int
    topic: str
    record: Record
    origin: Origin
    extra: tuple[tuple[str, str], ...]
    attempt: int = 1
    due_ms: int | None = None


class Released(NamedTuple):
    """A Release was carried out and its effect is stored. freed: halted messages that it let go of.

    left: those that it may have meant and left alone: they are not read yet, or their partition is being handed back. lost: partitions
    that went to another owner before the effect was stored there; what was freed of them may be halted still.
    """

    token: int
    freed: int
    left: int = 0
    lost: int = 0


class AskLetters(NamedTuple):
    """Read which keys have dead letters; answered by Letters, asked at a moment from now on."""


class Cut(NamedTuple):
    """Tell by CutPassed(token) when the group has settled what lies on the older clusters by now.

    numbers: the partition of each older cluster that is meant, None for all.
    """

    token: int
    numbers: tuple[int | None, ...]


class Report(NamedTuple):
    """Tell observers, metrics and logs."""

    event: Event


class Drained(NamedTuple):
    """Nothing runs and everything that ended is settled; the last action of a machine.

    unfinished: handlers cut short by the deadline. unsettled: partitions whose last settle was not confirmed by then.
    """

    unfinished: int
    unsettled: int = 0


Action = Run | Fence | Cancel | Recall | Settle | Credit | Copy | Cut | Released | AskLetters | Report | Drained
