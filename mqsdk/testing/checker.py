"""Judges the journals of a run: what was lost, doubled, out of order, settled too early or run by the wrong owner.

One checker for simulation histories and for journals of real processes. It knows nothing of the SDK: it reads `journal.Entry` only.
Order is judged by intervals: executions of one key never overlap, and a later message starts only after the earlier one has ended in
success or dead letter. (Comparing first starts alone passed three schedulers that were broken on purpose.)
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf

from mqsdk.testing.journal import Entry, Kind, Outcome

KILL = "kill"  # names of faults that explain a repeat
FREEZE = "freeze"
REDRIVE = "redrive"
MOVE = "move"
BROKER = "broker"  # killed, frozen or cut off; explains repeats of every process


@dataclass(frozen=True, slots=True)
class Problem:
    """One broken rule: LOST UNEXPECTED DUPLICATE OVERLAP OVERTAKE BACKWARDS SETTLED_EARLY STALE_EPOCH TWO_OWNERS NOT_DRAINED."""

    rule: str
    group: str
    id: str
    what: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """problems: empty means the run kept its promises. handled: messages per group that succeeded at least once.

    duplicates: executions beyond the first success, by cause. recovered: publishes without an answer that were handled all the same.
    orphans: executions that went on after a frozen owner had lost its partition (the exception of G3 c).
    """

    problems: tuple[Problem, ...]
    invoked: int
    stored: int
    handled: dict[str, int]
    dead_lettered: dict[str, int]
    duplicates: dict[str, int]
    recovered: int
    orphans: int

    @property
    def ok(self) -> bool:
        return not self.problems

    def count(self, rule: str) -> int:
        return sum(1 for problem in self.problems if problem.rule == rule)

    def __str__(self) -> str:
        lines = [
            f"invoked {self.invoked}, stored {self.stored}, recovered {self.recovered}, handled {self.handled}",
            f"dead-lettered {self.dead_lettered}, repeated {self.duplicates}, orphans {self.orphans}",
        ]
        rules = Counter(problem.rule for problem in self.problems)
        lines += [f"{rule}: {count}" for rule, count in sorted(rules.items())]
        lines += [f"  {problem.rule} {problem.group} {problem.id}: {problem.what}" for problem in self.problems[:20]]
        return "\n".join(lines)


@dataclass(slots=True)
class Execution:
    """One run of a handler. `end` is inf while nothing says that it ended."""

    entry: Entry
    end: float = inf
    ok: bool = False

    @property
    def start(self) -> float:
        return self.entry.time


@dataclass(slots=True)
class History:
    """The journals, sorted by what the rules ask for."""

    invoked: dict[str, Entry] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)
    rejected: set[str] = field(default_factory=set)
    doubted: set[str] = field(default_factory=set)
    executions: list[Execution] = field(default_factory=list)
    settled: list[Entry] = field(default_factory=list)
    dead: dict[tuple[str, str], float] = field(default_factory=dict)
    faults: list[Entry] = field(default_factory=list)
    _running: dict[tuple[int, str, str, int, int], list[Execution]] = field(default_factory=lambda: defaultdict(list))

    def add(self, entry: Entry) -> None:
        match entry.kind:
            case Kind.SEND_INVOKE:
                self.invoked.setdefault(entry.id, entry)
            case Kind.SEND_STORED:
                self.stored.add(entry.id)
            case Kind.SEND_REJECTED:
                self.rejected.add(entry.id)
            case Kind.SEND_UNKNOWN:
                self.doubted.add(entry.id)  # with a `stored` too: it was repeated, so it may be stored twice
            case Kind.START:
                execution = Execution(entry)
                self.executions.append(execution)
                self._running[_call(entry)].append(execution)
            case Kind.END:
                self._ended(entry)
            case Kind.SETTLED:
                self.settled.append(entry)
            case Kind.DEAD_LETTER:
                self.dead.setdefault((entry.group, entry.id), entry.time)
            case Kind.FAULT:
                self.faults.append(entry)

    def _ended(self, entry: Entry) -> None:
        running = self._running[_call(entry)]
        if running:
            execution = running.pop(0)
            execution.end, execution.ok = entry.time, entry.outcome is Outcome.OK

    def close_killed(self) -> None:
        """An execution without an end, in a process that was killed, ended with the kill."""
        kills = self.fault_spans(KILL)
        for execution in self.executions:
            if execution.end == inf and (spans := kills.get(execution.entry.pid)):
                execution.end = max(execution.start, spans[-1][0])

    def fault_spans(self, name: str) -> dict[int, list[tuple[float, float]]]:
        """When this fault began and when it was over, per victim; one that was never switched off lasts a moment."""
        spans: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for fault in self.faults:
            if fault.id == name and fault.outcome is Outcome.ON:
                spans[fault.pid].append((fault.time, fault.time))
            elif fault.id == name and spans[fault.pid]:
                spans[fault.pid][-1] = (spans[fault.pid][-1][0], fault.time)
        return spans

    def handled(self) -> dict[tuple[str, str], list[Execution]]:
        """(group, id) -> its successful executions by start."""
        found: dict[tuple[str, str], list[Execution]] = defaultdict(list)
        for execution in self.executions:
            if execution.ok:
                found[execution.entry.group, execution.entry.id].append(execution)
        return found


def _call(entry: Entry) -> tuple[int, str, str, int, int]:
    return entry.pid, entry.group, entry.id, entry.attempt, entry.epoch


def judge(entries: Iterable[Entry], groups: Collection[str], *, ordered: Collection[str] = (), drained: bool = True) -> Verdict:
    """Judge a whole run. groups: every group that existed before the first publish. ordered: those with `ordered=True`.

    drained: faults were off at the end and the lag of every group reached 0; without it the sums mean nothing, so False is a problem.
    """
    history = History()
    for entry in sorted(entries, key=lambda one: one.time):
        history.add(entry)
    history.close_killed()
    handled = history.handled()
    repeats = list(_repeats(history))
    problems = [
        *([] if drained else [Problem("NOT_DRAINED", "", "", "the run ended with messages waiting")]),
        *_lost(history, handled, groups),
        *_unexpected(history, groups),
        *(Problem("DUPLICATE", group, name, "repeated without a fault that explains it") for group, name, cause in repeats if not cause),
        *_order(history, ordered),
        *_settled_early(history, handled),
        *_owners(history),
    ]
    unanswered = history.invoked.keys() - history.stored - history.rejected
    return Verdict(
        problems=tuple(problems),
        invoked=len(history.invoked),
        stored=len(history.stored),
        handled={group: sum(1 for owner, _ in handled if owner == group) for group in groups},
        dead_lettered={group: sum(1 for owner, _ in history.dead if owner == group) for group in groups},
        duplicates=dict(Counter(cause or "unexplained" for _, _, cause in repeats)),
        recovered=len({name for _, name in handled} & unanswered),
        orphans=sum(1 for _ in _orphans(history)),
    )


def _lost(history: History, handled: Collection[tuple[str, str]], groups: Iterable[str]) -> Iterator[Problem]:
    for group in groups:
        for name in sorted(history.stored):
            if (group, name) not in handled and (group, name) not in history.dead:
                yield Problem("LOST", group, name, "stored, but neither handled nor dead-lettered")


def _unexpected(history: History, groups: Collection[str]) -> Iterator[Problem]:
    for execution in history.executions:
        entry = execution.entry
        if entry.id not in history.invoked:
            yield Problem("UNEXPECTED", entry.group, entry.id, "handled, but nobody published it")
        elif entry.id in history.rejected and entry.id not in history.stored:
            yield Problem("UNEXPECTED", entry.group, entry.id, "handled, but its publish was rejected")
        elif entry.group not in groups:
            yield Problem("UNEXPECTED", entry.group, entry.id, "handled by a group that is none of this run")


def _repeats(history: History) -> Iterator[tuple[str, str, str]]:
    """(group, id, cause) of every execution that began after a success of the same message; cause "" = none found."""
    by_message: dict[tuple[str, str], list[Execution]] = defaultdict(list)
    for execution in history.executions:
        by_message[execution.entry.group, execution.entry.id].append(execution)
    causes = {name: history.fault_spans(name) for name in (KILL, FREEZE, REDRIVE, MOVE, BROKER)}
    for (group, name), executions in by_message.items():
        success: Execution | None = None
        for execution in executions:
            if success is not None:
                yield group, name, _cause(history, causes, success, execution)
            if execution.ok:
                success = execution


def _cause(history: History, causes: dict[str, dict[int, list[tuple[float, float]]]], first: Execution, second: Execution) -> str:
    def struck(name: str, pid: int) -> bool:
        return any(began <= second.start and over >= first.start for began, over in causes[name].get(pid, ()))

    if struck(KILL, first.entry.pid):
        return "crash"
    if struck(FREEZE, first.entry.pid):
        return "lease"
    if first.entry.id not in history.stored or first.entry.id in history.doubted:
        return "unknown"
    return next((name for name in (REDRIVE, MOVE, BROKER) if any(struck(name, pid) for pid in causes[name])), "")


def _order(history: History, ordered: Collection[str]) -> Iterator[Problem]:
    orphans = {id(execution) for execution in _orphans(history)}
    by_key: dict[tuple[str, str], list[Execution]] = defaultdict(list)
    for execution in history.executions:
        invoked = history.invoked.get(execution.entry.id)
        if execution.entry.group in ordered and invoked is not None and invoked.key:
            by_key[execution.entry.group, invoked.key].append(execution)
    for (group, _), executions in by_key.items():
        sequences = [history.invoked[execution.entry.id].sequence for execution in executions]
        yield from _overlaps(group, executions, orphans)
        yield from _overtakes(group, executions, sequences, history.dead)
        yield from _backwards(group, executions, sequences, history.doubted)


def _overlaps(group: str, executions: Sequence[Execution], orphans: Collection[int]) -> Iterator[Problem]:
    """A newer owner may overlap what a frozen one had begun (G3 c); the frozen process itself may not, once it is awake."""
    latest = -inf
    left_over: dict[int, float] = {}
    for execution in executions:
        if execution.start < max(latest, left_over.get(execution.entry.pid, -inf)):
            yield Problem("OVERLAP", group, execution.entry.id, "began while an execution of the same key was running")
        if id(execution) in orphans:
            left_over[execution.entry.pid] = max(left_over.get(execution.entry.pid, -inf), execution.end)
        else:
            latest = max(latest, execution.end)


def _overtakes(
    group: str, executions: Sequence[Execution], sequences: Sequence[int], dead: dict[tuple[str, str], float]
) -> Iterator[Problem]:
    final: dict[int, float] = {}
    for execution, sequence in zip(executions, sequences, strict=True):
        ended = min(execution.end if execution.ok else inf, dead.get((group, execution.entry.id), inf))
        final[sequence] = min(final.get(sequence, inf), ended)
    ranks = sorted(final)
    before = [-inf]  # before[n]: when the first n messages of the key had all ended for good
    for sequence in ranks:
        before.append(max(before[-1], final[sequence]))
    for execution, sequence in zip(executions, sequences, strict=True):
        if execution.start < before[bisect_left(ranks, sequence)]:
            yield Problem(
                "OVERTAKE", group, execution.entry.id, "began before an earlier message of its key had ended in success or dead letter"
            )


def _backwards(group: str, executions: Sequence[Execution], sequences: Sequence[int], doubted: Collection[str]) -> Iterator[Problem]:
    """A second copy of a publish that was repeated after a doubt stands behind those that were sent with the first."""
    for (first, earlier), (second, later) in pairwise(zip(executions, sequences, strict=True)):
        if later < earlier and second.entry.epoch <= first.entry.epoch and second.entry.id not in doubted:
            yield Problem("BACKWARDS", group, second.entry.id, "went back to an earlier message without a new ownership")


def _settled_early(history: History, handled: dict[tuple[str, str], list[Execution]]) -> Iterator[Problem]:
    for entry in history.settled:
        done = min((execution.end for execution in handled.get((entry.group, entry.id), ())), default=inf)
        if entry.time < min(done, history.dead.get((entry.group, entry.id), inf)):
            yield Problem("SETTLED_EARLY", entry.group, entry.id, "settled before it was handled or dead-lettered")


def _by_partition(history: History) -> dict[tuple[str, int], list[Execution]]:
    found: dict[tuple[str, int], list[Execution]] = defaultdict(list)
    for execution in history.executions:
        if execution.entry.partition >= 0:
            found[execution.entry.group, execution.entry.partition].append(execution)
    return found


def _owners(history: History) -> Iterator[Problem]:
    """Epochs rise, one process per epoch, and executions of two epochs overlap only where a frozen owner explains it.

    Within one process they may: a handler that has outlived its ownership blocks its key there (see `_overlaps`), and no other.
    """
    orphans = {id(execution) for execution in _orphans(history)}
    for (group, _), executions in _by_partition(history).items():
        owner: dict[int, int] = {}
        newest = 0
        for execution in executions:
            entry = execution.entry
            if owner.setdefault(entry.epoch, entry.pid) != entry.pid:
                yield Problem("TWO_OWNERS", group, entry.id, f"two processes under epoch {entry.epoch} of partition {entry.partition}")
            if entry.epoch < newest:
                yield Problem("STALE_EPOCH", group, entry.id, f"began under epoch {entry.epoch} after one under epoch {newest}")
            newest = max(newest, entry.epoch)
        for older, newer in _epoch_overlaps(executions):
            if id(older) not in orphans and older.entry.pid != newer.entry.pid:
                yield Problem(
                    "TWO_OWNERS", group, newer.entry.id, f"ran while epoch {older.entry.epoch} was still running, without a cause"
                )


def _epoch_overlaps(executions: Sequence[Execution]) -> Iterator[tuple[Execution, Execution]]:
    """Pairs (older epoch, newer epoch) where the newer began before the older had ended; the longest older one stands for its epoch."""
    longest: Execution | None = None
    for execution in executions:
        if longest is not None and execution.entry.epoch > longest.entry.epoch and execution.start < longest.end:
            yield longest, execution
        if longest is None or execution.end > longest.end:
            longest = execution


def _orphans(history: History) -> Iterator[Execution]:
    """Executions that still ran under an epoch when a newer one began elsewhere, in a process that had been frozen."""
    frozen = history.fault_spans(FREEZE)
    for executions in _by_partition(history).values():
        began: dict[int, Execution] = {}
        for execution in executions:
            began.setdefault(execution.entry.epoch, execution)
        for older in [one for one in executions if one.entry.pid in frozen]:
            newer = [first for epoch, first in began.items() if epoch > older.entry.epoch and first.entry.pid != older.entry.pid]
            overlapping = [first.start for first in newer if first.start < older.end]
            if overlapping and any(struck <= max(overlapping) for struck, _ in frozen[older.entry.pid]):
                yield older
