"""What bounds the starts of one consumer beside its workers: a rate, a breaker. Without either nothing here is asked."""

from __future__ import annotations

from collections.abc import Sequence

from mqsdk.core.actions import Failure, Job
from mqsdk.core.breaker import Breaker, BreakerState
from mqsdk.core.desk import Desk
from mqsdk.core.rate import Bucket
from mqsdk.events import BreakerChanged
from mqsdk.spi.events import Record

# What a handler says of one message tells nothing about what it depends on, and what cannot be decoded never reaches it.
SAYS_NOTHING = ("reject", "undecodable")
MANY = 1 << 62
# Jobs out per worker: one runs, one waits in front of it, so that no worker idles until the next feed. Under a rate a start is counted when
# it is given out, so nothing waits in front of a worker then.
JOBS_PER_WORKER = 2


class Limits:
    """is_on: there is a rate or a breaker. until: what is ready waits for this moment (monotonic seconds), None: for no moment.

    jobs_per_worker: how many may be out. most: how many records the next job may have at most. is_trying: the next job is a probe.
    has_opened: the breaker has just opened, and what was given out is to be taken back; the machine sets it to False.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._bucket: Bucket | None = None
        self._rate: float | None = None
        self._breaker: Breaker | None = None
        self.has_opened = False
        self.is_on = False
        self.jobs_per_worker = JOBS_PER_WORKER
        self.until: float | None = None
        self.most = self._most = MANY
        self.is_trying = False
        self.retune(0.0)

    @property
    def breaker(self) -> BreakerState | None:
        """State of the breaker, None without one."""
        return None if self._breaker is None else self._breaker.state

    def retune(self, now: float) -> None:
        """Take over what the tuning says now."""
        self._retune_rate(now, self._desk.tuning.rate_per_s)
        policy, breaker = self._desk.tuning.breaker, self._breaker
        if policy is None:
            self._breaker = None
            if breaker is not None and breaker.state != "closed":
                self._report("closed", 0, 0)
        elif breaker is None:
            self._breaker = Breaker(policy)
        else:
            breaker.retune(policy)
        self.jobs_per_worker = JOBS_PER_WORKER if self._bucket is None else 1
        self.is_on = self._bucket is not None or self._breaker is not None
        # What fails is heard of when its job ends: with small jobs the breaker opens at about its minimum, not at a multiple of it.
        self._most = MANY if policy is None else max(1, policy.minimum // self._desk.tuning.concurrency)
        self.most, self.is_trying = MANY, False

    def _retune_rate(self, now: float, rate: float | None) -> None:
        if rate is None:
            self._bucket = None
        elif self._bucket is None:
            self._bucket = Bucket(rate)
        elif rate != self._rate:
            self._bucket = self._bucket.retuned(now, rate)
        self._rate = rate

    # --- before a start ---------------------------------------------------------------------------------------------------------

    def admits(self, now: float) -> bool:
        """Whether a job may start now, and how large it may be (`most`). False: `until` says when to ask again."""
        self.most, self.is_trying = self._most, False
        breaker, bucket = self._breaker, self._bucket
        if breaker is not None and breaker.state != "closed":
            moment = breaker.moment()
            if moment is None or now < moment:
                self.until = moment
                return False
            self.most, self.is_trying = 1, True
        if bucket is not None:
            available = bucket.available(now)
            if not available:
                self.until = bucket.moment(bucket.step)
                return False
            self.most = min(self.most, available, bucket.step)
        return True

    def admits_batch(self, now: float, count: int) -> bool:
        """Whether so many messages may start together. False: `until` says when to ask again."""
        if self._bucket is None or now >= self._bucket.moment(count):
            return True
        self.until = self._bucket.moment(count)
        return False

    # --- what became of it ------------------------------------------------------------------------------------------------------

    def started(self, now: float, job: Job) -> None:
        """The job was given out."""
        if self._bucket is not None:
            self._bucket.take(now, len(job.records))
        if self._breaker is not None and self._breaker.started(job.token):
            self._report("probing", 0, 0)

    def ended(self, now: float, token: int, ran: int, failures: Sequence[tuple[Record, Failure]], unstarted: int) -> None:
        """Of a job `ran` records ran, with these failures, and others never started."""
        if self._bucket is not None and unstarted:
            self._bucket.give_back(unstarted)
        if self._breaker is not None:
            failed = sum(1 for _, failure in failures if failure.kind not in SAYS_NOTHING)
            self._attempted(now, token, ran - len(failures) + failed, failed)

    def overdue(self, now: float, token: int) -> None:
        """A probe that does not end within the timeout has failed, whatever it says later."""
        if self._breaker is not None and self._breaker.probe == token:
            self._attempted(now, token, 1, 1)

    def _attempted(self, now: float, token: int, attempts: int, failed: int) -> None:
        breaker = self._breaker
        if breaker is None or not breaker.ended(now, token, attempts, failed):
            return
        self._report(breaker.state, breaker.failed, breaker.attempts)
        if breaker.state == "open":
            self.has_opened = True

    def _report(self, state: BreakerState, failed: int, attempts: int) -> None:
        spec, policy = self._desk.spec, self._desk.tuning.breaker
        probe_s = 0.0 if policy is None else policy.probe_s
        self._desk.report(BreakerChanged(spec.topic, spec.group, spec.cluster, state, failed, attempts, probe_s))
