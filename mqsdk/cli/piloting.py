"""What the commands of `move` do together: read the route, look at the fleet, wait for the gates of a step, write the next stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from mqsdk.cli.exits import NotFound, Refused
from mqsdk.cli.output import printable
from mqsdk.cli.session import Session, check_names
from mqsdk.config.editing import File
from mqsdk.config.model import Configuration, MoveRule, Route
from mqsdk.core import move as core
from mqsdk.core.comparison import Comparison
from mqsdk.core.move import FENCE_S, Facts, Gate, Move, Stage
from mqsdk.core.stages import has_shadows
from mqsdk.errors import MoveRefused, StateError
from mqsdk.runtime.movewatch import MoveWatch
from mqsdk.runtime.shadowcompare import comparison

LOOK_S = 0.5
ENDED = "the end"


class Seen(NamedTuple):
    """What one look has found. to: the stage of the next step, None for the end of the move."""

    move: Move
    to: Stage | None
    facts: Facts
    gates: tuple[Gate, ...]

    @property
    def closed(self) -> list[Gate]:
        return [gate for gate in self.gates if not gate.ok]

    def document(self) -> dict[str, Any]:
        move, facts = self.move, self.facts
        return {
            "topic": move.topic,
            "stage": move.stage,
            "from": move.source,
            "to": move.target,
            "epoch": move.epoch,
            "next": self.to,
            "gates": [gate._asdict() for gate in self.gates],
            "instances": [{**one._asdict(), "held": dict(one.held)} for one in facts.instances],
            "groups": [one._asdict() for one in facts.backlogs],
        }


class Pilot:
    """One topic that moves, or is about to. `to`: the cluster named by --to, "" for that of the route."""

    def __init__(self, session: Session, topic: str, to: str = "") -> None:
        check_names(topic)
        self._session = session
        self.topic = topic
        self._to = to
        self.file = File(session.clusters.configuration)
        self.watch = MoveWatch(session.clusters, session.clock.mono)
        self.text = ""
        self.read()

    def read(self) -> Move:
        """The move as the file has it now. Raises NotFound without one, Refused when --to names another cluster."""
        configuration, self.text = self.file.read()
        self.route = self._route(configuration)
        rule = self.route.move
        if rule is None:
            return Move(self.topic, self.route.cluster, self._target(configuration), "source", 0)
        if self._to and self._to != rule.to:
            raise Refused(f"topic {self.topic} moves to {rule.to} already, not to {self._to}", fix=f"mqsdk move rollback {self.topic}")
        return Move(self.topic, self.route.cluster, rule.to, rule.stage, rule.epoch)

    def _route(self, configuration: Configuration) -> Route:
        route = configuration.route(self.topic)
        if route is None:
            raise NotFound(f"no route matches topic {self.topic}", where=configuration.source, fix="add one to `routes:`")
        return route

    def _target(self, configuration: Configuration) -> str:
        known = ", ".join(name for name in configuration.clusters if name != self.route.cluster) or "none"
        if not self._to:
            raise NotFound(f"topic {self.topic} does not move", where=configuration.source, fix=f"name a cluster with --to: {known}")
        if self._to not in configuration.clusters:
            raise NotFound(f"there is no cluster {self._to}", where=configuration.source, fix=f"known: {known}")
        if self._to == self.route.cluster:
            raise Refused(f"topic {self.topic} is on cluster {self._to} already")
        return self._to

    @property
    def fence_s(self) -> float:
        return FENCE_S if self.route.move is None else self.route.move.fence_s

    def look(self, move: Move, to: Stage | None) -> Seen:
        facts = self.watch.look(move, self.fence_s)
        gates = core.gates_of_end(move, facts) if to is None else core.gates(move, to, facts)
        return Seen(move, to, facts, gates)

    def compared(self, move: Move) -> Comparison | None:
        """What both clusters have, in the stage that writes to both; None in any other."""
        if not has_shadows(move.stage):
            return None
        return comparison(self._session.clusters, move, self.watch.shadows_since_ms, self._session.clock_ms())

    def is_ordered(self, move: Move) -> bool:
        """Whether any consumer of the topic is ordered. Listens until one has said so, for half the fence time at most: else it is yes."""
        clock = self._session.clock
        end = clock.mono() + self.fence_s / 2
        seen = self.look(move, None)
        while not self.watch.knows_order and clock.mono() < end:
            clock.sleep(LOOK_S)
            seen = self.look(move, None)
        return seen.facts.ordered

    def write(self, move: Move, to: Stage, *, now: bool = False) -> None:
        after = move.at(to)
        fence_s = self.fence_s
        rule = MoveRule(to=move.target, stage=to, epoch=after.epoch, now=now, fence_s=fence_s)
        self._write(replace(self.route, topics=(self.topic,), move=rule))

    def end(self, move: Move) -> None:
        """Take the key out: the topic stays where it is."""
        self._write(replace(self.route, topics=(self.topic,), cluster=move.view.writes, move=None))

    def _write(self, route: Route) -> None:
        self.file.write(self.text, self.topic, route)

    def ensure(self, move: Move, to: Stage) -> None:
        """Topic and groups where this step begins to read or to publish."""
        written = move.view.writes
        other = move.target if written == move.source else move.source
        after = core.view(to, move.source, move.target)
        clusters, topic = self._session.clusters, self.topic
        if (after.writes == written and len(after.reads) <= len(move.view.reads)) or not clusters.cluster(other).create:
            return
        admin, there = (self._session.backend(name).admin() for name in (written, other))
        count = admin.partitions(topic)
        if count is None:
            return
        known = there.partitions(topic)
        there.ensure_topic(topic, clusters.configuration.topic_rule(topic).partitions or (count if known is None else None))
        for info in admin.groups(topic):
            there.ensure_group(topic, info.group, "latest")


@contextmanager
def piloting(session: Session, topic: str, to: str = "") -> Iterator[Pilot]:
    pilot = Pilot(session, topic, to)
    try:
        yield pilot
    finally:
        pilot.watch.close()


class Drive:
    """Steps of one command. next_step: from where the move is; None: there, or its end. wait_s: for one step, None without a limit."""

    def __init__(self, session: Session, pilot: Pilot, next_step: Callable[[Move], Stage | None], wait_s: float | None) -> None:
        self._session = session
        self._pilot = pilot
        self._next = next_step
        self._wait_s = wait_s
        self.made: list[str] = []

    def run(self, steps: int | None) -> None:
        """So many steps, or with None all there are. Raises MoveRefused when gates did not open in time."""
        with viewed(self._session) as show:
            while steps is None or len(self.made) < steps:
                here = self._pilot.read()
                to = self._next(here)
                if to is None and (steps is None or self.made):
                    break
                self._step(here, to, show)
        self.finish()

    def _step(self, here: Move, to: Stage | None, show: Callable[[Seen], None]) -> None:
        if to is not None:
            self._pilot.ensure(here, to)
        seen = self._waited(here, to, show)
        if to is None:
            self._pilot.end(here)
            self.made.append(ENDED)
            self._session.out.say(f"topic {here.topic}: the move has ended on cluster {here.view.writes}")
        else:
            self._pilot.write(seen.move, to)
            self.made.append(to)
            self._session.out.say(f"topic {here.topic}: {here.stage} -> {to}")

    def _waited(self, here: Move, to: Stage | None, show: Callable[[Seen], None]) -> Seen:
        clock = self._session.clock
        end = None if self._wait_s is None else clock.mono() + self._wait_s
        while True:
            seen = self._pilot.look(here, to)
            show(seen)
            if not seen.closed:
                return seen
            if end is not None and clock.mono() >= end:
                raise _refused(seen)
            clock.sleep(LOOK_S)
            now = self._pilot.read()
            if now != here:
                raise StateError(
                    f"the move of topic {here.topic} was changed by somebody else meanwhile",
                    fix="look at it, and try again",
                    state="CHANGED",
                )

    def finish(self) -> None:
        """Show where it is now."""
        if self.made and self.made[-1] == ENDED:
            if self._session.out.json:
                self._session.out.document({"topic": self._pilot.topic, "stage": None, "steps": self.made})
            return
        here = self._pilot.read()
        seen = self._pilot.look(here, self._next(here))
        if self._session.out.json:
            self._session.out.document({**seen.document(), "steps": self.made})
        else:
            self._session.out.write(f"topic {here.topic}: {here.source} -> {here.target}, stage {here.stage}, epoch {here.epoch}")


def _refused(seen: Seen) -> MoveRefused:
    here = seen.move
    where = "\n  ".join(printable(f"{gate.name}: {gate.detail}") for gate in seen.closed)
    closed = f"{len(seen.closed)} of {len(seen.gates)} gates before {seen.to or ENDED} do not hold"
    what = f"topic {here.topic} stays in stage {here.stage}: {closed}"
    fix = f"`mqsdk move status {here.topic}` shows them; run the command again, or `mqsdk move rollback {here.topic}`"
    return MoveRefused(what, gates=seen.gates, where=where, fix=fix)


@contextmanager
def viewed(session: Session) -> Iterator[Callable[[Seen], None]]:
    """A view that follows on a terminal; else a line on stderr when other gates stand in the way."""
    if session.out.draws:
        from mqsdk.cli.drawing import live_lines

        with live_lines() as draw:
            yield lambda seen: draw([*lines_of(seen), *_figures(seen)])
        return
    last: list[str] = []

    def show(seen: Seen) -> None:
        names = [seen.to or ENDED, *(gate.name for gate in seen.closed)]
        if names != last and seen.closed:
            session.out.say(f"before {names[0]}: " + "; ".join(printable(f"{gate.name}: {gate.detail}") for gate in seen.closed))
        last[:] = names

    yield show


def _figures(seen: Seen) -> Iterator[str]:
    for one in seen.facts.backlogs:
        yield f"  {one.group} on {one.cluster}: {one.messages:,} unsettled, {one.delayed:,} delayed, {one.members} members"
    stages = [f"{one.stage} ({one.epoch})" for one in seen.facts.instances if not one.gone]
    for stage in dict.fromkeys(stages):
        yield f"  {stages.count(stage)} instances in {stage}"
    if has_shadows(seen.move.stage):
        yield f"  shadows: {shadows_of(seen.facts)}"


def shadows_of(facts: Facts) -> str:
    """As processes report them that are heard of."""
    stored, failed = sum(one.shadows for one in facts.instances), sum(one.failed_shadows for one in facts.instances)
    return f"{stored:,} stored, {failed:,} failed"


def lines_of(seen: Seen) -> Iterator[str]:
    here = seen.move
    yield f"topic {here.topic}: {here.source} -> {here.target}, stage {here.stage}, epoch {here.epoch}"
    yield f"next: {seen.to or 'the end of the move'}"
    for gate in seen.gates:
        yield printable(f"  {'ok  ' if gate.ok else 'wait'} {gate.name}: {gate.detail}")
