"""Publishing to one cluster: partition, sequence, repeats within the deadline, receipts; and the sender thread behind nowait and async.

`send` runs on the caller's thread and holds no lock of ours while the adapter stores: a queue round trip to another thread costs 13 us,
three times the log's whole append. Where the adapter answers later, every partition's records are handed over before the first answer is
waited for, and nothing newer follows before the answers are there: a repeat never comes behind a newer record of its partition.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from functools import partial
from itertools import repeat
from operator import itemgetter
from typing import Any, NamedTuple, cast

from mqsdk.config.model import Cluster, PublishLimits, TopicRule
from mqsdk.core import window
from mqsdk.core.partitioner import partition_of
from mqsdk.errors import BackendError, PublishRejected, PublishUnknown, StateError
from mqsdk.events import Event, FlowChanged
from mqsdk.message import Receipt
from mqsdk.runtime.clock import Clock
from mqsdk.runtime.ladder import Ladder
from mqsdk.runtime.results import AsyncResults, InlineResults, Results
from mqsdk.runtime.sender import Answer, Draft, Sender, as_rejected
from mqsdk.runtime.topics import Topic, ensure_with_groups
from mqsdk.spi import Admin, Backend, Flow, NewRecord, Outcome, Producer, Rejected, Stored

# tuple.__new__ itself: the generated __new__ of a NamedTuple packs its arguments anew.
_new_record = cast("Callable[[Any], NewRecord]", partial(tuple.__new__, NewRecord))
_receipt = cast("Callable[[Any], Receipt]", partial(tuple.__new__, Receipt))
_ID_OF = itemgetter(2)
_KEY_OF = itemgetter(0)
_DUE_OF = itemgetter(5)


class _Run(NamedTuple):
    """What one `send` hands over to one partition; `refused`: nothing was, and why."""

    number: int
    drafts: Sequence[Draft]
    records: list[NewRecord]
    refused: Rejected | None = None


class Publisher:
    """One per cluster. Every method may be called from any thread."""

    def __init__(
        self,
        cluster: Cluster,
        backend: Backend,
        *,
        clock: Clock,
        incarnation: str,
        sticky: int,
        limits: PublishLimits,
        topic_rule: Callable[[str], TopicRule],
        threaded: bool = True,
        delays: Callable[[], None] = lambda: None,
        observe: Callable[[Event], None] = lambda _: None,
    ) -> None:
        """delays: called when messages wait in delay topics of this cluster, which somebody has to move."""
        self._cluster = cluster
        self._backend = backend
        self._clock = clock
        self._incarnation = incarnation
        self._sticky = sticky
        self._topic_rule = topic_rule
        self._direct = backend.capabilities.publish == "inline"  # until it is closed; one look for `send_one`
        self._observe = observe
        self.blocked = ""  # why the cluster takes no publishes just now
        self._results: Results = InlineResults(self._flow) if self._direct else AsyncResults(clock, self._flow)
        self._producer = producer = backend.producer(self._results)
        # Most backends have no notation of their own; `str` itself costs half of a method that calls it.
        self._ref: Callable[[int], str] = str if type(producer).ref is Producer.ref else producer.ref
        self._topics: dict[str, Topic] = {}
        self._lock = threading.Lock()  # guards numbers only, never a wait
        self._next_token = 0
        self._ladder = Ladder(cluster, self._admin, clock, delays) if backend.capabilities.delay == "ladder" else None
        self._sender = Sender(self.send_now, clock, limits, cluster.name) if threaded else None
        self._closed = False

    def _admin(self) -> Admin:
        return self._backend.admin()

    def _flow(self, event: Flow) -> None:
        """From any thread of the adapter's."""
        self.blocked = (event.reason or "no reason was given") if event.blocked else ""
        self._observe(FlowChanged(self._cluster.name, event.blocked, event.reason))

    def exchange(self, backend: Backend) -> None:
        """Publish through another client of the same cluster from now on; calls under way end where they began."""
        self.blocked = ""
        self._backend, self._producer = backend, backend.producer(self._results)

    def apply(self, limits: PublishLimits) -> None:
        """Take a changed `publish.window`."""
        if self._sender is not None:
            self._sender.apply(limits)

    # --- blocking ---------------------------------------------------------------------------------------------------------------

    def send(self, topic: str, drafts: Sequence[Draft], timeout_s: float) -> list[Answer]:
        """Store the drafts in this order and return one answer each, in order. Blocks for `timeout_s` at most.

        Behind what was submitted before, so that it never passes a message of its key. Raises StateError after close, PublishRejected
        when it was not begun in time, and BackendError when the topic can neither be found nor created; else failures are answers.
        """
        sender = self._sender
        if sender is None or not sender.records or sender.is_current_thread():
            return self.send_now(topic, drafts, timeout_s)
        return sender.send(topic, drafts, timeout_s)

    def send_now(self, topic: str, drafts: Sequence[Draft], timeout_s: float) -> list[Answer]:
        """As `send`, beside what was submitted before."""
        if self._closed:
            raise StateError("the publisher is closed", where=f"cluster {self._cluster.name}", state="CLOSED")
        deadline = self._clock.mono() + timeout_s
        if self._ladder is not None and self._waits(drafts):
            self._ladder.prepare()
        return self._send_many(self._topics.get(topic) or self._prepare(topic), drafts, deadline)

    def send_one(self, topic: str, draft: Draft, timeout_s: float) -> Answer:
        """As `send` for one draft. Written out flat: at 60,000 a second every call and list of the general way shows."""
        known, sender = self._topics.get(topic), self._sender
        is_busy = sender is not None and sender.records
        if known is None or known.repairing or not self._direct or is_busy or (self._ladder is not None and draft[5] is not None):
            return self.send(topic, [draft], timeout_s)[0]
        key, clock = draft[0], self._clock
        number = known.sticky_partition(1) if key is None else partition_of(key, len(known.partitions))
        deadline = clock.mono() + timeout_s
        with self._lock:
            token = self._next_token
            self._next_token = token + 1
            sequence = known.sequences[number]
            known.sequences[number] = sequence + 1
        record = tuple.__new__(
            NewRecord,
            (
                token, known.partitions[number], key, draft[1], draft[2], clock.wall_ms(), draft[3], draft[4], self._incarnation, sequence,
                draft[7], draft[5], draft[6], draft[8], False,
            ),
        )  # fmt: skip
        self._producer.publish((record,), deadline)
        outcome = self._results.take(token, 1, deadline)[0][0]
        if type(outcome) is Stored and outcome.position is not None and draft[5] is None:
            known.stored.add(1)
            return tuple.__new__(Receipt, (draft[2], topic, self._cluster.name, number, self._ref(outcome.position), None))
        flat = [(outcome, 0)]
        if window.repeatable(outcome):
            flat = self._repeat(known, number, [record], flat, deadline)
        return self._answer(known, number, draft, *flat[0])

    def _send_many(self, topic: Topic, drafts: Sequence[Draft], deadline: float) -> list[Answer]:
        """Group by partition, so that each partition gets one batch; answers come back in the caller's order."""
        if set(map(_KEY_OF, drafts)) == {None}:
            return self._send_run(topic, topic.sticky_partition(len(drafts)), drafts, deadline)
        count = len(topic.partitions)
        sticky = -1
        runs: dict[int, list[int]] = {}
        for index, draft in enumerate(drafts):
            key = draft.key
            if key is not None:
                number = partition_of(key, count)
            else:
                if sticky < 0:
                    sticky = topic.sticky_partition(len(drafts))
                number = sticky
            run = runs.get(number)
            if run is None:
                runs[number] = [index]
            else:
                run.append(index)
        if len(runs) == 1:
            return self._send_run(topic, next(iter(runs)), drafts, deadline)
        begun = [(indexes, self._begin_run(topic, number, [drafts[i] for i in indexes], deadline)) for number, indexes in runs.items()]
        answers: list[Answer | None] = [None] * len(drafts)
        for indexes, handed in begun:
            for index, answer in zip(indexes, self._end_run(topic, handed, deadline), strict=True):
                answers[index] = answer
        return answers  # type: ignore[return-value]  # every index is in exactly one run

    def _send_run(self, topic: Topic, number: int, drafts: Sequence[Draft], deadline: float) -> list[Answer]:
        return self._end_run(topic, self._begin_run(topic, number, drafts, deadline), deadline)

    def _begin_run(self, topic: Topic, number: int, drafts: Sequence[Draft], deadline: float) -> _Run:
        """Hand the records of one partition over."""
        if topic.repairing:
            refused = topic.wait_for_repair(number, deadline, self._clock)
            if refused is not None:
                return _Run(number, drafts, [], refused)
        records = self._number(topic, number, drafts)
        self._hand_over(records, deadline)
        return _Run(number, drafts, records)

    def _end_run(self, topic: Topic, run: _Run, deadline: float) -> list[Answer]:
        """Answers of one partition's records. The common case is one event for all."""
        number, drafts, records, refused = run
        if refused is not None:
            return [self._answer(topic, number, draft, refused, 0) for draft in drafts]
        outcomes = self._results.take(records[0].token, len(records), deadline)
        if len(outcomes) == 1 and type(outcomes[0][0]) is Stored and not self._waits(drafts):
            return self._receipts(topic, number, drafts, outcomes[0][0])
        flat = [(outcome, offset) for outcome, length in outcomes for offset in range(length)]
        if any(window.repeatable(outcome) for outcome, _ in flat):
            flat = self._repeat(topic, number, records, flat, deadline)
        return [self._answer(topic, number, draft, *outcome) for draft, outcome in zip(drafts, flat, strict=True)]

    def _number(self, topic: Topic, number: int, drafts: Sequence[Draft]) -> list[NewRecord]:
        count = len(drafts)
        with self._lock:
            token = self._next_token
            self._next_token = token + count
            sequence = topic.sequences[number]
            topic.sequences[number] = sequence + count
        keys, values, ids, types, headers, dues, extras, attempts, durables = zip(*drafts, strict=True)
        partition, now_ms, producer = topic.partitions[number], self._clock.wall_ms(), self._incarnation
        # By columns, because C does the loop: half the cost of a comprehension that names each field.
        rows = zip(
            range(token, token + count), repeat(partition), keys, values, ids, repeat(now_ms), types, headers, repeat(producer),
            range(sequence, sequence + count), attempts, dues, extras, durables, repeat(False),
        )  # fmt: skip
        records = list(map(_new_record, rows))
        return records if self._ladder is None or not self._waits(drafts) else self._ladder.turned(records)

    def _waits(self, drafts: Sequence[Draft]) -> bool:
        """Whether any of them goes to a delay topic."""
        return self._ladder is not None and set(map(_DUE_OF, drafts)) != {None}

    def _hand_over(self, records: Sequence[NewRecord], deadline: float) -> None:
        token, count = records[0].token, len(records)
        self._results.expect(token, count)
        try:
            self._producer.publish(records, deadline)
        except BaseException:
            self._results.take(token, count, 0.0)
            raise

    def _repeat(
        self, topic: Topic, number: int, records: list[NewRecord], latest: list[tuple[Outcome, int]], deadline: float
    ) -> list[tuple[Outcome, int]]:
        """Send again, oldest first, what may be repeated; other publishers of this partition wait meanwhile.

        One that fails again ends the round, and those behind it keep the outcome they have: one of them that passed would be stored
        before it.
        """
        answers = list(latest)
        records = list(records)
        repeats = 0
        with topic.repair(number):
            while (wait := self._wait_before_repeat(latest, repeats, deadline)) is not None:
                self._clock.sleep(wait)
                for i in [i for i, (outcome, _) in enumerate(latest) if window.in_doubt(outcome)]:
                    records[i] = records[i]._replace(again=True)
                for i, result in self._publish_each(records, latest, deadline):
                    latest[i] = result
                    answers[i] = (window.merge(answers[i][0], result[0]), result[1])
                repeats += 1
        return answers

    def _wait_before_repeat(self, latest: Sequence[tuple[Outcome, int]], repeats: int, deadline: float) -> float | None:
        now = self._clock.mono()
        waits = (window.repeat_after(outcome, repeats, now, deadline) for outcome, _ in latest)
        return next((wait for wait in waits if wait is not None), None)

    def _publish_each(
        self, records: Sequence[NewRecord], latest: Sequence[tuple[Outcome, int]], deadline: float
    ) -> Iterator[tuple[int, tuple[Outcome, int]]]:
        """Tokens of a subset are not consecutive, so each record gets its own call; in order, so each waits for the one before."""
        for i in [i for i, (outcome, _) in enumerate(latest) if window.repeatable(outcome)]:
            self._hand_over([records[i]], deadline)
            outcome = self._results.take(records[i].token, 1, deadline)[0][0]
            yield i, (outcome, 0)
            if window.repeatable(outcome):
                return

    # --- topics -----------------------------------------------------------------------------------------------------------------

    def _prepare(self, name: str) -> Topic:
        """Find or create the topic and the groups that `topics:` names for it."""
        admin = self._backend.admin()
        rule = self._topic_rule(name)
        if self._cluster.create:
            count = ensure_with_groups(self._backend, self._cluster.name, name, rule)
        else:
            found = admin.partitions(name)
            if found is None:
                raise PublishRejected(
                    f"topic {name} does not exist and `create` is false",
                    code="backend",
                    topic=name,
                    where=f"cluster {self._cluster.name}",
                    fix="create it, or set create: true",
                )
            count = found
        with self._lock:
            return self._topics.setdefault(name, Topic(name, count, self._sticky))

    # --- answers ----------------------------------------------------------------------------------------------------------------

    def _receipts(self, topic: Topic, number: int, drafts: Sequence[Draft], stored: Stored) -> list[Answer]:
        base, count = stored.position, len(drafts)
        topic.stored.add(count)
        positions = repeat(None, count) if base is None else map(self._ref, range(base, base + count))
        ids, dues = map(_ID_OF, drafts), list(map(_DUE_OF, drafts))
        due_at: Iterable[datetime | None] = repeat(None) if dues.count(None) == count else map(_due_at, dues)
        return list(map(_receipt, zip(ids, repeat(topic.name), repeat(self._cluster.name), repeat(number), positions, due_at)))

    def _answer(self, topic: Topic, number: int, draft: Draft, outcome: Outcome, offset: int) -> Answer:
        if isinstance(outcome, Stored):
            topic.stored.add(1)
            is_elsewhere = draft.due_ms is not None and self._ladder is not None
            position = None if outcome.position is None or is_elsewhere else self._ref(outcome.position + offset)
            return Receipt(draft.id, topic.name, self._cluster.name, number, position, _due_at(draft.due_ms))
        where = f"topic {topic.name}, partition {number}, cluster {self._cluster.name}"
        if isinstance(outcome, Rejected):
            topic.rejected.add(1)
            return PublishRejected(
                outcome.what, code=outcome.code, retryable=outcome.retryable, topic=topic.name, id=draft.id, where=where, fix=outcome.fix
            )
        topic.unknown.add(1)
        return PublishUnknown(
            f"sent, but not confirmed: {outcome.what}", topic=topic.name, id=draft.id, where=where, fix="publish again with the same id"
        )

    # --- from other threads ------------------------------------------------------------------------------------------------------

    def submit(self, topic: str, draft: Draft, timeout_s: float, *, block: bool = True) -> Future[Receipt]:
        """Store on the sender thread; the future ends with a Receipt or a PublishError. Cancelled before it is begun it is never sent.

        block: wait while the window is full, and raise PublishRejected at the timeout.
        """
        if self._sender is not None:
            return self._sender.submit(topic, draft, timeout_s, block=block)
        future: Future[Receipt] = Future()
        try:
            answer = self.send_one(topic, draft, timeout_s)
        except BackendError as error:
            answer = as_rejected(error, topic, draft.id)
        except (PublishRejected, StateError) as error:
            future.set_exception(error)
            return future
        if isinstance(answer, Receipt):
            future.set_result(answer)
        else:
            future.set_exception(answer)
        return future

    def submit_many(self, topic: str, drafts: Sequence[Draft], timeout_s: float) -> Future[list[Answer]]:
        """As `send`, on the sender thread and without waiting."""
        if self._sender is not None:
            return self._sender.submit_many(topic, drafts, timeout_s)
        future: Future[list[Answer]] = Future()
        try:
            future.set_result(self.send(topic, drafts, timeout_s))
        except (PublishRejected, BackendError, StateError) as error:
            future.set_exception(error)
        return future

    def has_room(self, records: int, size: int) -> bool:
        """Whether so much more would be within the window now; for threads that must not wait."""
        return self._sender is None or self._sender.has_room(records, size)

    def is_sending(self, covers: Callable[[str], bool]) -> bool:
        """Whether something submitted to one of these topics has no answer yet. `send` and `send_one` are not asked: they block."""
        return self._sender is not None and self._sender.is_sending(covers)

    def flush(self, timeout_s: float | None) -> bool:
        """Wait until everything submitted has its answer; False at the timeout."""
        return self._sender is None or self._sender.flush(timeout_s)

    def published(self) -> list[tuple[str, str, int]]:
        """(topic, outcome, messages) of all that has an answer."""
        topics = list(self._topics.values())
        return [
            (topic.name, outcome, cells.total())
            for topic in topics
            for outcome, cells in (("stored", topic.stored), ("rejected", topic.rejected), ("unknown", topic.unknown))
        ]

    def close(self, deadline: float) -> bool:
        """Flush and stop the sender; False when something submitted had no answer by the deadline (monotonic seconds)."""
        clean = self._sender is None or self._sender.close(deadline)
        self._closed, self._direct = True, False
        return clean


def _due_at(due_ms: int | None) -> datetime | None:
    return None if due_ms is None else datetime.fromtimestamp(due_ms / 1000, UTC)
