"""When a failed attempt runs again, and what happens after the last one. Pure: jitter comes in as a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mqsdk import units
from mqsdk.errors import DeclarationError, Duration, duration_s

OnExhausted = Literal["dead_letter", "halt_key", "halt_partition", "drop"]
ON_EXHAUSTED = ("dead_letter", "halt_key", "halt_partition", "drop")


@dataclass(frozen=True, slots=True, init=False)
class Backoff:
    """Wait before attempt n + 1: `base * factor ** (n - 1)`, at most `max`, spread by `jitter` (0.2 = up to 20 % longer).

    `base_s` and `max_s` are seconds. Jitter only lengthens, so the minimum is a promise that can be tested.
    """

    base_s: float
    factor: float
    max_s: float
    jitter: float

    def __init__(self, base: Duration = "1s", factor: float = 2, max: Duration = "1m", jitter: float = 0.2) -> None:
        put = object.__setattr__
        put(self, "base_s", duration_s(base, "base", "Backoff"))
        put(self, "max_s", duration_s(max, "max", "Backoff"))
        if self.base_s > self.max_s:
            raise DeclarationError(
                f"`max` ({units.duration_text(self.max_s)}) is shorter than `base` ({units.duration_text(self.base_s)})",
                where="Backoff",
                fix="give a `max` of at least `base`",
            )
        for name, value, low, high in (("factor", factor, 1, 100), ("jitter", jitter, 0, 1)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise DeclarationError(f"`{name}` is a number from {low} to {high}", where="Backoff")
            put(self, name, float(value))

    def delay_s(self, attempt: int, jitter: float) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 1). jitter: a draw from [0, 1)."""
        # 2 ** 1100 overflows a float; beyond 64 doublings every sane base has passed its maximum.
        wait = min(self.base_s * self.factor ** min(attempt - 1, 64), self.max_s)
        return wait * (1 + self.jitter * jitter)


@dataclass(frozen=True, slots=True, init=False)
class RetryPolicy:
    """How often a message is tried, how long between, and what happens after the last failed attempt.

    attempts: in total, the first one included. on_exhausted: dead_letter, halt_key, halt_partition or drop.
    reject_on: exception classes that dead-letter at once. dlq_follow_key: later messages of a key that has dead letters follow them.
    """

    attempts: int
    backoff: Backoff
    on_exhausted: OnExhausted
    reject_on: tuple[type[BaseException], ...]
    dlq_follow_key: bool

    @property
    def halts(self) -> bool:
        """Whether a message may stop its key or its partition."""
        return self.on_exhausted in ("halt_key", "halt_partition")

    def __init__(
        self,
        attempts: int = 10,
        backoff: Backoff | None = None,
        on_exhausted: OnExhausted = "dead_letter",
        reject_on: Sequence[type[BaseException]] = (),
        dlq_follow_key: bool = False,
    ) -> None:
        if isinstance(attempts, bool) or not isinstance(attempts, int) or not 1 <= attempts <= 1_000_000:
            raise DeclarationError("`attempts` is a whole number from 1 to 1,000,000, the first attempt included", where="RetryPolicy")
        if on_exhausted not in ON_EXHAUSTED:
            raise DeclarationError('`on_exhausted` is "dead_letter", "drop", "halt_key" or "halt_partition"', where="RetryPolicy")
        classes = tuple(reject_on) if isinstance(reject_on, Sequence) else (reject_on,)
        if not all(isinstance(item, type) and issubclass(item, BaseException) for item in classes):
            raise DeclarationError("`reject_on` lists exception classes", where="RetryPolicy")
        if backoff is not None and not isinstance(backoff, Backoff):
            raise DeclarationError("`backoff` is a Backoff", where="RetryPolicy", fix='for example Backoff("1s", factor=2, max="1m")')
        put = object.__setattr__
        put(self, "attempts", attempts)
        put(self, "backoff", Backoff() if backoff is None else backoff)
        put(self, "on_exhausted", on_exhausted)
        put(self, "reject_on", classes)
        put(self, "dlq_follow_key", bool(dlq_follow_key))
