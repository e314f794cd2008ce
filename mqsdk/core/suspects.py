"""What may have ended the process that owned a partition before: counted, so that it cannot end every owner for ever.

An owner that hands back in order says so; the next owner of a partition that was not handed back is *suspicious* until all is settled that
may have been handed out then. While it is, jobs are written down with the progress before they start (the settle is answered first), so
that the owner after it knows what was running if this one ends too: each of those gets a crash. With three crashes a message runs alone,
so that the innocent ones which only ran beside it are told from it; with four it is a dead letter, `crash_loop`.

The first end is not seen ahead. Then only the message at the watermark is blamed, and never more than once: it may not have been started.
"""

from __future__ import annotations

from mqsdk.core import sparse
from mqsdk.core.actions import Job, Run, Tuning
from mqsdk.core.attempts import Attempt
from mqsdk.core.desk import Desk
from mqsdk.core.partition import Ownership
from mqsdk.spi.events import Assigned


def suspect(ownership: Ownership, assigned: Assigned, tuning: Tuning) -> None:
    """Take over what the last owner left: its counts, and who is blamed for its end."""
    suspicion = ownership.inherited or sparse.Suspicion(0)
    crashes = dict(suspicion.crashes)
    if not assigned.clean:
        until = max(suspicion.until, ownership.restored_until + tuning.in_flight_records)
        ownership.suspect_until = until if assigned.end is None else min(until, assigned.end)
        if not suspicion.in_order:
            _blame(ownership, suspicion, crashes)
    for position, count in crashes.items():
        attempt = ownership.attempts.setdefault(position, Attempt(0, retry_at=float("-inf")))
        attempt.crashes = count
    ownership.dirty |= ownership.is_suspect  # what is blamed is stored before anything starts


def _blame(ownership: Ownership, suspicion: sparse.Suspicion, crashes: dict[int, int]) -> None:
    if suspicion.until > ownership.watermark.low:  # it wrote down what it started
        for start, stop in suspicion.started:
            for position in range(start, stop):
                crashes[position] = crashes.get(position, 0) + 1
    elif ownership.is_suspect and not ownership.parked.kind(ownership.watermark.low):
        crashes.setdefault(ownership.watermark.low, 1)


class Suspects:
    """Jobs that wait until it is stored that they are about to start."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._waiting: dict[Ownership, list[Job]] = {}
        self._asking: list[Ownership] = []

    def start(self, ownership: Ownership, job: Job) -> None:
        """Run the job, or have it written down first."""
        if not ownership.is_suspect:
            self._desk.actions.append(Run(job))
            return
        ownership.started.update(record.position for record in job.records)
        ownership.dirty = ownership.is_urgent = True
        self._waiting.setdefault(ownership, []).append(job)
        self._asking.append(ownership)

    def asking(self) -> list[Ownership]:
        """Ownerships with jobs that no settle has written down yet; told once."""
        asking, self._asking = self._asking, []
        return asking

    def announced(self, ownership: Ownership) -> list[Job]:
        """The jobs that a settle made now writes down."""
        return list(self._waiting.get(ownership, ()))

    def stored(self, ownership: Ownership, jobs: list[Job]) -> None:
        """A settle that wrote these jobs down is stored: they run, unless they were withdrawn meanwhile."""
        waiting = self._waiting.pop(ownership, [])
        self._desk.actions += [Run(job) for job in waiting if job in jobs]
        left = [job for job in waiting if job not in jobs]
        if left:
            self._waiting[ownership] = left

    def withdraw(self, ownership: Ownership) -> list[Job]:
        """The ownership ends: jobs that have not run and never will."""
        return self._waiting.pop(ownership, [])
