"""One consumer that reads several clusters at once: how its limits are divided among them, so that together they stay what they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mqsdk.core.actions import Tuning


def divided(tuning: Tuning, quiet: Sequence[bool]) -> list[Tuning]:
    """Tunings of the older sides, then of the newest one. quiet: of each older side, whether nothing was left there lately.

    A quiet side gets one handler, the newest what is left. Each gets one at least: with fewer handlers than sides, and only then, together
    they have more than `tuning`. The rate and what may be in flight follow the handlers.
    """
    if not quiet:
        return [tuning]
    equal = max(1, tuning.concurrency // (len(quiet) + 1))
    older = [1 if is_quiet else equal for is_quiet in quiet]
    return [_part(tuning, count) for count in (*older, max(1, tuning.concurrency - sum(older)))]


def _part(tuning: Tuning, concurrency: int) -> Tuning:
    part = concurrency / tuning.concurrency
    return replace(
        tuning,
        concurrency=concurrency,
        rate_per_s=None if tuning.rate_per_s is None else tuning.rate_per_s * min(1.0, part),
        in_flight_records=max(1, int(tuning.in_flight_records * part)),
        in_flight_bytes=max(1, int(tuning.in_flight_bytes * part)),
    )
