"""What is known of a message that has failed, and what happens next. Pure decisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mqsdk.core.actions import Failure, Spec, Tuning
from mqsdk.core.retry import RetryPolicy

Reason = Literal["exhausted", "rejected", "undecodable", "crash_loop", "followed"]

_AT_ONCE: dict[str, Reason] = {"reject": "rejected", "undecodable": "undecodable"}


# A message that was running when its process ended so often runs alone; one that ends the process even then is a dead letter.
CRASHES_ALONE = 3
# Room beside the watermark without which a backend cannot remember halts: for sixteen of them in a partition.
HALT_BYTES = 512


class Attempt:
    """failed: failed attempts so far. crashes: how often a process ended while it ran. first_at, last_at: monotonic seconds of failures
    seen by this process, None for none.

    retry_at: when the next one may start; None: not known yet (counts restored from an earlier owner), so a whole backoff from now.
    """

    __slots__ = ("crashes", "error", "failed", "first_at", "last_at", "place", "retry_at")

    def __init__(self, failed: int, retry_at: float | None = None, crashes: int = 0) -> None:
        self.failed = failed
        self.crashes = crashes
        self.retry_at = retry_at
        self.error = ""
        self.place = ""
        self.first_at: float | None = None
        self.last_at: float | None = None

    def begin_again(self) -> None:
        """A person wants it tried as if it were new, at once."""
        self.failed = self.crashes = 0
        self.retry_at = float("-inf")

    @property
    def runs_alone(self) -> bool:
        return self.crashes >= CRASHES_ALONE

    def fail(self, now: float, number: int, error: str, place: str = "") -> None:
        """Attempt `number` failed."""
        self.failed = number
        self.error = error
        self.place = place
        self.last_at = now
        if self.first_at is None:
            self.first_at = now


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Run again after `delay_s`, measured from the failure."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Copy to the dead letters, then settle."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Drop:
    """Settle; the message is gone for this group."""


@dataclass(frozen=True, slots=True)
class HaltKey:
    """Leave it unsettled; its key stands still until a release."""


@dataclass(frozen=True, slots=True)
class HaltPartition:
    """Leave it unsettled; its partition stands still until a release."""


End = DeadLetter | Drop | HaltKey | HaltPartition
Verdict = RetryAfter | End


def decide(policy: RetryPolicy, failed: int, failure: Failure, jitter: float) -> Verdict:
    """What follows failed attempt number `failed` (from 1). jitter: a draw from [0, 1)."""
    reason = _AT_ONCE.get(failure.kind)
    if reason is not None:
        return DeadLetter(reason)
    ended = exhausted(policy, failed)
    if ended is not None:
        return ended
    if failure.after_s is not None:
        return RetryAfter(failure.after_s)
    return RetryAfter(policy.backoff.delay_s(failed, jitter))


def exhausted(policy: RetryPolicy, failed: int) -> End | None:
    """The end of a message with so many failed attempts, None while it may run again."""
    return None if failed < policy.attempts else _end(policy, "exhausted")


def ended(policy: RetryPolicy, attempt: Attempt) -> End | None:
    """The end of a message that comes to its turn with such a past, None while it may run again."""
    return _end(policy, "crash_loop") if attempt.crashes > CRASHES_ALONE else exhausted(policy, attempt.failed)


def _end(policy: RetryPolicy, reason: Reason) -> End:
    match policy.on_exhausted:
        case "drop":
            return Drop()
        case "halt_key":
            return HaltKey()
        case "halt_partition":
            return HaltPartition()
        case "dead_letter":
            return DeadLetter(reason)


def accept(tuning: Tuning, spec: Spec) -> Tuning:
    """The same tuning. Raises ValueError for what a machine cannot carry out: a halt must never turn into something else."""
    if tuning.retry.halts and spec.sparse_bytes < HALT_BYTES:
        raise ValueError(f"on_exhausted={tuning.retry.on_exhausted!r} needs a backend that remembers it")
    if tuning.retry.on_exhausted == "halt_key" and not spec.ordered:
        raise ValueError("on_exhausted='halt_key' needs ordered=True")
    if tuning.concurrency < 1 or tuning.in_flight_records < 1 or tuning.in_flight_bytes < 1:
        raise ValueError("concurrency, in_flight records and in_flight bytes are at least 1")
    return tuning
