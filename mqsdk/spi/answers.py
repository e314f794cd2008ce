"""Answering a publish: what every inline producer does with the outcome of one write."""

from __future__ import annotations

from collections.abc import Sequence

from mqsdk.spi.backend import EventSink
from mqsdk.spi.events import NewRecord, Outcome, Published, Stored


def put_outcome(events: EventSink, run: Sequence[NewRecord], outcome: Outcome) -> None:
    """Put the results of records that were written together: with Stored the first has its position and the others follow.

    One event for all where their tokens are consecutive, as `Published` wants it; else one each.
    """
    if run[-1].token - run[0].token == len(run) - 1:
        events.put(Published(run[0].token, outcome, len(run)))
        return
    base = outcome.position if isinstance(outcome, Stored) else None
    for index, record in enumerate(run):
        events.put(Published(record.token, outcome if base is None else Stored(base + index)))
