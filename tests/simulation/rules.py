"""The invariants of `docs/guarantees.md` while a fleet runs, and the journal that `mqsdk.testing.checker` judges at its end.

What is stored anywhere is a *copy* with a number, in a header that every further copy is told apart by: so it is known of each copy
whether it ended, whether that is settled, and what may happen to it still.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from mqsdk.core import delay
from mqsdk.core.actions import Job
from mqsdk.core.sparse import decode
from mqsdk.events import DeadLettered, Dropped, Event, GapSeen, SpanExceeded, Stalled, Stuck
from mqsdk.runtime.inspection import StopReport
from mqsdk.runtime.loop import ConsumerLoop
from mqsdk.runtime.sender import Draft
from mqsdk.spi import NewRecord, Partition, Progress, Record
from mqsdk.testing import checker
from mqsdk.testing.journal import Entry, Kind, Outcome
from mqsdk.testing.simgroup import Cursor
from tests.simulation.audit import audit
from tests.simulation.broken import Broken

if TYPE_CHECKING:
    from tests.simulation.backends import _Hooks
    from tests.simulation.fleet import World
    from tests.simulation.process import Process

TOPIC = "t"
AUDIT_EVERY = 16
ANSWERS = {"stored": Kind.SEND_STORED, "rejected": Kind.SEND_REJECTED, "unknown": Kind.SEND_UNKNOWN}
# What may repeat a message without a second copy of it: then each copy is judged by itself.
REPEATING = frozenset(("kill", "freeze", "stop", "lost", "hang"))


class Copy(NamedTuple):
    """One stored record. name: its id, with `#` behind it where it was redriven: a person wanted it handled once more."""

    name: str
    topic: str
    cluster: str
    key: bytes | None


class Rules:
    def __init__(self, world: World) -> None:
        self._world = world
        self._plan = world.plan
        self._entries: list[Entry] = []
        self._copies: dict[int, Copy] = {}
        self._stored: Counter[tuple[str, str, str]] = Counter()  # by (name, topic, cluster)
        self._published: set[str] = set()
        self._in_topic: Counter[str] = Counter()
        self._clusters: dict[str, set[str]] = defaultdict(set)
        self._doubts: Counter[str] = Counter()
        self._final: set[tuple[str, int]] = set()  # (group, copy) that has ended: handled, or its own copy is stored
        self._settled: set[tuple[str, int]] = set()
        self._ok: set[tuple[str, int, int, int]] = set()
        self._failed_at: dict[tuple[str, int, int], tuple[int, float]] = {}
        self._dead: set[tuple[str, str]] = set()
        self._gone: dict[tuple[str, Partition], dict[int, int]] = defaultdict(dict)  # trimmed: position -> copy
        self._marks: dict[tuple[str, Partition, str, int], int] = {}
        self._running: dict[tuple[str, bytes], list[tuple[Process, Job, Record]]] = defaultdict(list)
        self._whole: dict[tuple[int, str, int], Any] = {}
        self._checks = 0
        self.limit = max(one.in_flight for one in self._plan.consumers)
        self.attempts = max(one.policy.attempts for one in self._plan.consumers)
        self.retrying = {one.group: one.policy for one in self._plan.consumers}

    def _note(self, kind: Kind, name: str, pid: int = 0, **fields: Any) -> None:
        self._entries.append(Entry(kind=kind, id=name, time=self._world.schedule.now, pid=pid, **fields))

    # --- publishing ---------------------------------------------------------------------------------------------------------------------

    def invoked(self, process: Process, draft: Draft) -> None:
        self._published.add(draft.id)
        # Order is that of a producer's messages of a key; what is delayed has that of its due time.
        key = "" if draft.key is None or draft.due_ms is not None else f"{process.pid}/{draft.key.decode()}"
        self._note(Kind.SEND_INVOKE, draft.id, process.pid, key=key, sequence=len(self._entries))

    def answered(self, process: Process, name: str, answer: str) -> None:
        self._world.say(process, f"publish of {name}: {answer}")
        self._note(ANSWERS[answer], name, process.pid)

    def next_copy(self) -> int:
        return len(self._copies) + 1

    def stored(self, cluster: str, record: NewRecord, number: int, in_doubt: bool) -> None:
        """A record is in a topic, or waits there for its due time. in_doubt: nobody is told."""
        topic = record.partition.topic
        earlier = int(record.headers[0][1]) if record.headers else 0
        is_redriven = topic.endswith(".retry") and self._world.is_redriving
        name = f"{record.id}#" if is_redriven else self._name(earlier, record.id)
        self._copies[number] = Copy(name, topic, cluster, record.key)
        self._stored[name, topic, cluster] += 1
        if self._world.trace is not None:
            doubt = ", and no answer comes" if in_doubt else ""
            self._world.say(None, f"{cluster}: {name} is stored in {topic}/{record.partition.number} as copy {number}{doubt}")
        if in_doubt:
            self._doubts[record.id] += 1
            self._note(Kind.SEND_UNKNOWN, record.id)
        if topic == TOPIC:
            self._in_topic[record.id] += 1
            self._clusters[record.id].add(cluster)
        elif earlier and not is_redriven:
            self._ended_as_copy(dict(record.extra).get(delay.TARGET, topic), record, earlier)
        if is_redriven:
            self._note(Kind.SEND_INVOKE, name)
            self._note(Kind.SEND_STORED, name)
        if earlier:
            self._final.add((delay.GROUP, earlier))

    def _name(self, earlier: int, record_id: str) -> str:
        return self._copies[earlier].name if earlier else record_id

    def _ended_as_copy(self, topic: str, record: NewRecord, earlier: int) -> None:
        if not topic.startswith(f"{TOPIC}."):
            return
        group = topic.split(".")[-2]
        self._final.add((group, earlier))
        if topic.endswith(".dlq"):
            name = self._copies[earlier].name
            self._dead.add((group, name))
            self._note(Kind.DEAD_LETTER, name, group=group)

    def is_dead(self, name: str | None) -> bool:
        return any(one == name for _, one in self._dead)

    # --- handling -----------------------------------------------------------------------------------------------------------------------

    def started(self, process: Process, job: Job, record: Record) -> None:
        world, group, epoch, number = self._world, job.origin.group, job.origin.epoch, _number(record)
        copy = self._copies[number]
        if world.trace is not None:
            world.say(
                process,
                f"{group} begins {copy.name} (copy {number}), attempt {job.attempt}, epoch {epoch} of {'/'.join(map(str, job.partition))}",
            )
        if process.is_draining:
            raise Broken(f"I9: {copy.name} begins after its process began to stop")
        cursor = self._cursor(copy.cluster, job.partition, group)
        if cursor.epoch > epoch:
            raise Broken(f"I5: {copy.name} begins under epoch {epoch} of {job.partition}, which is owned under epoch {cursor.epoch}")
        if (group, number) in self._settled:
            raise Broken(f"I15: {copy.name} (copy {number}) begins although it is settled in {group}")
        if (group, number, epoch, process.pid) in self._ok:
            raise Broken(f"I15: {copy.name} (copy {number}) begins again after a success of the same ownership")
        if job.attempt > self.attempts:
            raise Broken(f"I7: attempt {job.attempt} of {copy.name}")
        self._check_backoff(job, number)
        self._check_due(record, copy)
        self._check_overlap(process, job, record, copy)
        where = self._where(copy.cluster, job)
        self._note(Kind.START, copy.name, process.pid, group=group, attempt=job.attempt, epoch=epoch, partition=where)

    def _check_backoff(self, job: Job, number: int) -> None:
        failed = self._failed_at.get((job.origin.group, number, job.origin.epoch))
        if failed is None or failed[0] + 1 != job.attempt:
            return
        least = min(0.05 * 2 ** (failed[0] - 1), 0.2)
        if self._world.schedule.now < failed[1] + least - 1e-9:
            raise Broken(f"I8: attempt {job.attempt} begins {self._world.schedule.now - failed[1]:.3f} s after the last one failed")

    def _check_due(self, record: Record, copy: Copy) -> None:
        if record.due_ms is not None and copy.topic == TOPIC and "clock" not in self._plan.faults:
            early_ms = record.due_ms - self._world.schedule.wall_ms()
            if early_ms > 0:
                raise Broken(f"delay: {copy.name} begins {early_ms} ms before it is due")

    def _check_overlap(self, process: Process, job: Job, record: Record, copy: Copy) -> None:
        """Of a key, in one process at any time, elsewhere as long as neither has lost its partition.

        Over two clusters what different producers have sent may overlap, as the guarantees say.
        """
        group = job.origin.group
        if record.key is None or not self._world.is_ordered(group):
            return
        running = self._running[group, record.key]
        for other, earlier, one in running:
            cluster = self._copies[_number(one)].cluster
            if cluster != copy.cluster and one.producer != record.producer:
                continue
            if other is process or self._cursor(cluster, earlier.partition, group).epoch == earlier.origin.epoch:
                raise Broken(f"I2 OVERLAP: {copy.name} begins while {other.pid} runs another message of its key in {group}")
        running.append((process, job, record))

    def ended(self, process: Process, job: Job, record: Record, is_ok: bool) -> None:
        group, number = job.origin.group, _number(record)
        copy = self._copies[number]
        self._world.say(process, f"{group} ends {copy.name}: {'handled' if is_ok else 'failed'}")
        outcome = Outcome.OK if is_ok else Outcome.FAILED
        self._note(Kind.END, copy.name, process.pid, group=group, attempt=job.attempt, epoch=job.origin.epoch, outcome=outcome)
        running = self._running.get((group, record.key or b""))
        if running:
            running[:] = [one for one in running if one[2] is not record]
        if is_ok:
            self._final.add((group, number))
            self._ok.add((group, number, job.origin.epoch, process.pid))
        else:
            self._failed_at[group, number, job.origin.epoch] = (job.attempt, self._world.schedule.now)

    # --- settling -----------------------------------------------------------------------------------------------------------------------

    def settling(self, process: Process, consumer: _Hooks, progress: Progress) -> list[int]:
        """Asked for; the copies that are settled for good by it."""
        group, partition = consumer._group, progress.partition
        if progress.final and any(
            running.task is not None and running.task.job.partition == partition
            for _, loop in process.supervisor.loops
            for running in loop._workers.running()
        ):
            self._note(Kind.FAULT, checker.FREEZE, process.pid, outcome=Outcome.ON)  # what runs has outlived its ownership
        where = (consumer.cluster, partition, group, progress.epoch)
        if progress.watermark < self._marks.get(where, 0):
            raise Broken(f"I3: the watermark of {partition} in {group} falls to {progress.watermark}")
        self._marks[where] = progress.watermark
        if len(progress.sparse) > consumer._sparse_bytes:
            raise Broken(f"I11: {len(progress.sparse)} bytes beside the watermark")
        cursor = self._cursor(consumer.cluster, partition, group)
        if cursor.epoch != progress.epoch:
            return []  # stale, and answered so
        saved = decode(progress.sparse, progress.watermark).ranges
        ranges = progress.done if self._plan.kind == "queue" else saved  # what a log does not save beside the watermark comes again
        claimed = list(self._claimed(consumer, cursor, progress.watermark, ranges))
        wrong = [number for number in claimed if (group, number) not in self._final and not self._is_second(number)]
        if wrong:
            names = [self._copies[number].name for number in wrong]
            raise Broken(f"I4: {group} settles {names} in {partition} without an outcome")
        return claimed

    def _is_second(self, number: int) -> bool:
        """A copy beside another one of the same publish is settled unseen; that not all of them are is judged at the end."""
        copy = self._copies[number]
        return self._stored[copy.name, copy.topic, copy.cluster] > 1 and self._doubts[copy.name] > 0

    def settled(self, process: Process, group: str, progress: Progress, claimed: list[int]) -> None:
        """The backend has stored it."""
        if self._world.trace is not None:
            topic, number = progress.partition
            self._world.say(process, f"{group} settles {topic}/{number} below {progress.watermark} and {list(progress.done)}")
        self._settled.update((group, number) for number in claimed)

    def _claimed(self, consumer: Any, cursor: Cursor, watermark: int, ranges: Any) -> Iterator[int]:
        """Copies that lie below the watermark, or in these ranges, and are not known to be settled since long."""
        places = consumer._queues[cursor.partition].places if hasattr(consumer, "_queues") else None
        gone, log = self._gone[consumer.cluster, cursor.partition], cursor.log
        low = 0 if places is not None else min(cursor.watermark, watermark)
        for start, stop in ((low, watermark), *ranges):
            for position in range(start, stop):
                place = position if places is None else places[position]
                if place in gone:
                    yield gone[place]
                elif log.base <= place < log.end:
                    yield _number(log.records[place - log.base])

    # --- what happens to processes and partitions ---------------------------------------------------------------------------------------

    def killed(self, process: Process) -> None:
        self._note(Kind.FAULT, checker.KILL, process.pid, outcome=Outcome.ON)
        for running in self._running.values():
            running[:] = [one for one in running if one[0] is not process]

    def frozen(self, process: Process) -> None:
        self._note(Kind.FAULT, checker.FREEZE, process.pid, outcome=Outcome.ON)

    def lost(self, process: Process, partition: Partition) -> None:
        self._world.say(process, f"loses {partition}")
        self._note(Kind.FAULT, checker.FREEZE, process.pid, outcome=Outcome.ON)

    def trimmed(self, cluster: str, partition: Partition, records: list[Record]) -> None:
        self._gone[cluster, partition].update((record.position, _number(record)) for record in records)

    def draining(self, process: Process) -> None:
        """What is cut short at the end of a drain ends with its process."""

    def stopped(self, process: Process, report: StopReport, loops: list[ConsumerLoop]) -> None:
        if report.unfinished:
            self.killed(process)
        for loop in loops:
            view = loop.view()
            if (view.records or view.bytes) and not report.unfinished and report.clean:
                raise Broken(f"I6: {view.records} records are in flight after an orderly stop")
        if self._world.is_ending and (report.unfinished or not report.clean):
            raise Broken(f"G7: a stop without anything to wait for ends as {report}")

    # --- what is told -------------------------------------------------------------------------------------------------------------------

    def heard(self, process: Process, event: Event) -> None:
        if isinstance(event, GapSeen):
            self._gap_seen(process, event)
        elif isinstance(event, Dropped):
            self._dropped(event)
        elif isinstance(event, DeadLettered):
            if event.reason == "crash_loop" and event.message_id != self._world.lethal and self._world.unclean <= 3:
                raise Broken(f"I16: {event.message_id} is a dead letter because of crashes that it had no part in")
        elif isinstance(event, Stuck):
            if not {"slow", "hang", "freeze"}.intersection(self._plan.faults) and not self._world.lethal:
                raise Broken(f"I16: {event.message_id} is reported to hang after {event.age_s} s")
        elif isinstance(event, SpanExceeded | Stalled):
            raise Broken(f"I16: {event} is reported without a cause")

    def _gap_seen(self, process: Process, event: GapSeen) -> None:
        gone = self._gone[event.cluster, Partition(event.topic, event.partition)]
        self._world.say(process, f"{event.group} is told of a gap: {event.start} to {event.stop}")
        for position in range(event.start, event.stop):
            if position not in gone:
                raise Broken(f"I16: a gap is reported at {position}, where nothing is missing")
            self._final.add((event.group, gone[position]))
            self._dead.add((event.group, self._copies[gone[position]].name))
            self._note(Kind.DEAD_LETTER, self._copies[gone[position]].name, group=event.group)

    def _dropped(self, event: Dropped) -> None:
        name = event.message_id
        for number, copy in self._copies.items():
            if copy.name.rstrip("#") == name:
                self._final.add((event.group, number))
        for each in (name, f"{name}#"):
            self._note(Kind.DEAD_LETTER, each, group=event.group)

    # --- after each round of a loop -----------------------------------------------------------------------------------------------------

    def check(self, process: Process, loop: ConsumerLoop) -> None:
        machine = loop._machine
        accounts = machine._credits._accounts.values()
        if sum([one.records for one in accounts]) > self.limit:
            raise Broken(f"I6: {sum(one.records for one in accounts)} records are in flight, {self.limit} may be")
        self._check_whole(process, loop)
        self._checks += 1
        if self._checks % AUDIT_EVERY == 0:
            audit(machine)

    def _check_whole(self, process: Process, loop: ConsumerLoop) -> None:
        """I13: the machine goes by one whole version. While a consumer reads two clusters each has a part of it."""
        if self._plan.switch:
            return
        tuning = loop._machine._desk.tuning
        known = self._whole.setdefault((process.pid, loop.spec.group, tuning.version), tuning)
        if known is tuning:
            return
        if known != tuning:
            raise Broken(f"I13: version {tuning.version} is in force in two forms")

    # --- the end ------------------------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        for name, count in self._in_topic.items():
            allowed = 1 + self._doubts[name]
            if self._is_moved(name):
                continue  # who moves it may die, and whoever comes next moves it again
            if count > allowed:
                raise Broken(f"I15: {name} is {count} times in its topic, {allowed} times explained")
            if len(self._clusters[name]) > 1:
                raise Broken(f"I14: {name} is on both clusters")
        groups = [one.group for one in self._plan.consumers]
        ordered = [one.group for one in self._plan.consumers if one.ordered]
        verdict = checker.judge(self._entries, groups, ordered=ordered)
        problems = [one for one in verdict.problems if not self._is_explained(one)]
        if problems:
            first = problems[0]
            raise Broken(
                f"{first.rule} {first.group} {first.id}: {first.what}" + (f", and {len(problems) - 1} more" if problems[1:] else "")
            )

    def _is_moved(self, name: str) -> bool:
        is_delayed = any(copy.name == name and copy.topic.startswith("mq.") for copy in self._copies.values())
        disturbs = REPEATING.union(("settle", "answer", "publish")).intersection(self._plan.faults) or self._world.lethal
        return is_delayed and bool(disturbs)

    def _is_explained(self, problem: checker.Problem) -> bool:
        if problem.rule != "DUPLICATE":
            return False
        return problem.id.endswith("#") or bool(REPEATING.intersection(self._plan.faults)) or self._world.lethal is not None

    # --- places -------------------------------------------------------------------------------------------------------------------------

    def _cursor(self, cluster: str, partition: Partition, group: str) -> Cursor:
        found = self._world.stores[cluster].group(partition.topic, group)
        assert found is not None
        return found.cursors[partition.number]

    def _where(self, cluster: str, job: Job) -> int:
        """A partition by one number over all clusters and topics."""
        return job.partition.number + (100 if job.partition.topic != TOPIC else 0) + 1000 * sorted(self._world.stores).index(cluster)


def _number(record: Record) -> int:
    return int(record.headers[0][1])
