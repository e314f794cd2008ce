"""What a publisher does with an outcome: answer, or repeat the same message within its deadline. Pure.

A repeat carries the same id and sequence and goes before anything newer of its partition, so order holds and readers can drop the copy: a
message that was in doubt once says that it was sent before (`core.copies`).
"""

from __future__ import annotations

from mqsdk.spi.events import Outcome, Rejected, Stored, Unknown

FIRST_WAIT_S, LONGEST_WAIT_S = 0.005, 0.5


def repeatable(outcome: Outcome) -> bool:
    """True for Unknown and for rejections that may pass later."""
    return not isinstance(outcome, Stored) and not (isinstance(outcome, Rejected) and not outcome.retryable)


def in_doubt(outcome: Outcome) -> bool:
    """Whether the message may be stored although its publisher does not know."""
    return isinstance(outcome, Unknown)


def repeat_after(outcome: Outcome, repeats: int, now: float, deadline: float) -> float | None:
    """Seconds to wait before the message is sent again, None when `outcome` is the answer.

    repeats: how often it was repeated already. now, deadline: monotonic seconds. A wait never ends after the deadline.
    """
    if not repeatable(outcome):
        return None
    wait = min(FIRST_WAIT_S * 2.0 ** min(repeats, 20), LONGEST_WAIT_S)
    return wait if now + wait < deadline else None


def merge(earlier: Outcome, latest: Outcome) -> Outcome:
    """The answer after a repeat: once a send was Unknown, only Stored can take the doubt away."""
    return earlier if isinstance(earlier, Unknown) and not isinstance(latest, Stored) else latest
