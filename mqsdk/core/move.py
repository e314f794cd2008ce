"""A topic that moves from one cluster to another while a fleet uses it: the stages, the steps between them, and the gates of each step.

Pure decisions over what was seen; knows no clock, no cluster and no file. The stage is a key of the topic's route. `docs/move-protocol.md`
tells why the gates are these.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mqsdk.core.stages import FENCE_S, STAGES, Stage, View, has_shadows, view

__all__ = ["FENCE_S", "STAGES", "Backlog", "Facts", "Gate", "Instance", "Move", "Stage", "View", "view"]

# --- what was seen ------------------------------------------------------------------------------------------------------------------


class Instance(NamedTuple):
    """What one process has reported last. waits_for: what its stage asks and it does not do yet, "" for nothing. held: messages of the
    topic in its hands, by cluster. gone: nothing was heard of it for the fence time. shadows: copies that it has stored on the other
    cluster, failed_shadows: that it could not."""

    name: str
    epoch: int
    stage: str
    waits_for: str = ""
    held: tuple[tuple[str, int], ...] = ()
    gone: bool = False
    shadows: int = 0
    failed_shadows: int = 0


class Backlog(NamedTuple):
    """What one group has left on one cluster. members: consumers that the cluster sees in it."""

    group: str
    cluster: str
    messages: int
    delayed: int = 0
    members: int = 0


class Facts(NamedTuple):
    """Everything that gates are judged by.

    ordered: whether any consumer of the topic is; unknown counts as it. members: consumers that clusters see in groups of the topic, as
    (cluster, name). quiet_s: by cluster, how long nothing was left and nothing new was written there. missing: (group, cluster) that do not
    exist. unreadable: clusters that do not answer. listened_s: for how long reports were listened to since this step was made. unread: by
    group, messages on the target that were there when this watch began and are not settled.
    """

    ordered: bool
    instances: tuple[Instance, ...] = ()
    members: tuple[tuple[str, str], ...] = ()
    backlogs: tuple[Backlog, ...] = ()
    quiet_s: Mapping[str, float] = {}
    missing: tuple[tuple[str, str], ...] = ()
    unreadable: tuple[str, ...] = ()
    fence_s: float = FENCE_S
    listened_s: float = float("inf")
    unread: tuple[tuple[str, int], ...] = ()


class Gate(NamedTuple):
    """detail: who or what is in the way, or what was found."""

    name: str
    ok: bool
    detail: str


class Move(NamedTuple):
    """One move as its route has it. epoch rises with each step."""

    topic: str
    source: str
    target: str
    stage: Stage
    epoch: int

    @property
    def view(self) -> View:
        return view(self.stage, self.source, self.target)

    def at(self, stage: Stage) -> Move:
        """After a step."""
        return self._replace(stage=stage, epoch=self.epoch + 1)


# --- steps --------------------------------------------------------------------------------------------------------------------------

_ADVANCE: Mapping[Stage, Stage] = {
    "source": "read_both",
    "read_both": "switch_write",
    "dual_write": "switch_write",
    "switch_write": "target",
    "read_back": "target",
    "switch_back": "read_both",
}
_ROLLBACK: Mapping[Stage, tuple[Stage, ...]] = {
    "read_both": ("source",),
    "dual_write": ("read_both",),
    "switch_write": ("read_back",),
    "target": ("read_back", "switch_write"),
    "read_back": ("switch_back",),
    "switch_back": ("source", "read_both"),
}
_UNORDERED_ROLLBACK: Mapping[Stage, tuple[Stage, ...]] = {**_ROLLBACK, "switch_write": ("read_both",)}


def ahead(stage: Stage, *, doubled: bool = False) -> Stage | None:
    """The next stage towards the target; None at the target, where only the end of the move is left. doubled: by way of `dual_write`."""
    return "dual_write" if doubled and stage == "read_both" else _ADVANCE.get(stage)


def back(stage: Stage, wanted: Stage, ordered: bool) -> tuple[Stage, ...]:
    """The stages on the way back to `wanted`, without the present one; () when it is the present one or does not lie behind it."""
    steps = _ROLLBACK if ordered else _UNORDERED_ROLLBACK
    ways: dict[Stage, tuple[Stage, ...]] = {stage: ()}
    queue = deque([stage])
    while queue:
        here = queue.popleft()
        for after in steps.get(here, ()):
            if after not in ways:
                ways[after] = (*ways[here], after)
                queue.append(after)
    return ways.get(wanted, ())


def at_once(stage: Stage) -> Stage | None:
    """Where `rollback --now` leads, in one step and without gates: writers to the source, which waits for nothing. None: there already."""
    if stage == "source":
        return None
    return "read_both" if view(stage, "a", "b").writes == "b" else "source"


# --- gates --------------------------------------------------------------------------------------------------------------------------


def gates(move: Move, to: Stage, facts: Facts) -> tuple[Gate, ...]:
    """What stands before this step; it may be made when all of them hold."""
    before, after = move.view, view(to, move.source, move.target)
    left = [cluster for cluster in before.reads if cluster not in after.reads]
    is_turned = facts.ordered and len(before.reads) > 1 and before.reads == tuple(reversed(after.reads))
    drained = left or ([before.reads[0]] if is_turned else [])
    found: list[Gate] = []
    is_wider, is_rewritten = len(after.reads) > len(before.reads), before.writes != after.writes
    is_doubled = has_shadows(to)
    if is_wider or is_rewritten or is_doubled:
        found += [answering(facts, after.reads), groups_exist(facts)]
    if move.stage != "source":
        found.append(instances_ready(move, facts))
    if is_rewritten or is_turned or is_doubled:
        found.append(members_known(facts))
    if is_doubled:
        found.append(groups_run(facts, move.target))
    if has_shadows(move.stage) and is_rewritten:
        found.append(shadows_settled(facts, move.target))
    for cluster in drained:
        found += [is_drained(facts, cluster), is_silent(facts, cluster)]
    return tuple(found)


def gates_of_end(move: Move, facts: Facts) -> tuple[Gate, ...]:
    """What stands before the key is taken out of the route, at the source or at the target."""
    return (instances_ready(move, facts),)


def answering(facts: Facts, clusters: Iterable[str]) -> Gate:
    down = [cluster for cluster in clusters if cluster in facts.unreadable]
    return Gate("answering", not down, f"no answer from cluster {', '.join(down)}" if down else "both clusters answer")


def groups_exist(facts: Facts) -> Gate:
    missing = [f"{group} does not exist on cluster {cluster}" for group, cluster in facts.missing]
    return Gate("groups", not missing, "; ".join(missing) or "every group exists on both clusters")


def instances_ready(move: Move, facts: Facts) -> Gate:
    """Every living instance is where the move is. One that is gone does not count: see the fence time."""
    living = [one for one in facts.instances if not one.gone]
    problems = [problem for one in living if (problem := _behind(move, one))]
    gone = len(facts.instances) - len(living)
    seen = f"{len(living)} of {len(living)} report {move.stage}" + (f", {gone} gone" if gone else "")
    if facts.listened_s < facts.fence_s / 2:  # each reports three times in a fence time, so all have been heard then
        listening = f"listening for {facts.listened_s:.0f} of {facts.fence_s / 2:g} s"
        problems.append(listening if problems else f"{seen}, {listening}")
    return Gate("instances", not problems, "; ".join(problems) or seen)


def _behind(move: Move, one: Instance) -> str:
    if one.epoch != move.epoch:
        return f"{one.name} is at epoch {one.epoch} ({one.stage}), not {move.epoch}" + (f": {one.waits_for}" if one.waits_for else "")
    return f"{one.name} waits for {one.waits_for}" if one.waits_for else ""


def members_known(facts: Facts) -> Gate:
    """A consumer on an old version, or without the move in its file, reports nothing, and the cluster sees it."""
    reporting = {one.name for one in facts.instances}
    strangers = [f"{name} reads on cluster {cluster} and reports nothing" for cluster, name in facts.members if name not in reporting]
    return Gate("members", not strangers, "; ".join(dict.fromkeys(strangers)) or f"all {len(facts.members)} members report")


def groups_run(facts: Facts, cluster: str) -> Gate:
    """Shadows of a group that nobody runs would lie there, and stand in the way back."""
    offline = [f"group {one.group} has no running consumer on cluster {cluster}" for one in facts.backlogs if _is_offline(one, cluster)]
    return Gate("running", not offline, "; ".join(offline) or f"every group reads cluster {cluster}")


def _is_offline(one: Backlog, cluster: str) -> bool:
    return one.cluster == cluster and not one.members


def shadows_settled(facts: Facts, cluster: str) -> Gate:
    """Every group has settled what was on the target when the watch began: its consumers keep up with what they will have to handle."""
    if cluster in facts.unreadable:
        return Gate("shadows", False, f"cluster {cluster} does not answer, so what is left there is not known")
    left = [f"group {group} has {count:,} of them unsettled" for group, count in facts.unread if count]
    what = f"what was on cluster {cluster} when this command began"
    return Gate("shadows", not left, f"{what}: " + ("; ".join(left) or "every group has settled it"))


def is_drained(facts: Facts, cluster: str) -> Gate:
    if cluster in facts.unreadable:
        return Gate("drained", False, f"cluster {cluster} does not answer, so what is left there is not known")
    left = [text for one in facts.backlogs if one.cluster == cluster and (text := _left(one))]
    left += [
        f"{one.name} has {count} in flight"
        for one in facts.instances
        if not one.gone
        for place, count in one.held
        if place == cluster and count
    ]
    return Gate("drained", not left, f"cluster {cluster}: " + ("; ".join(left) or "nothing is left for any group"))


def _left(one: Backlog) -> str:
    counts = [f"{one.messages:,} unsettled"] * (one.messages > 0) + [f"{one.delayed:,} delayed"] * (one.delayed > 0)
    offline = ", and no running consumer" if not one.members else ""
    return f"group {one.group} has {' and '.join(counts)}{offline}" if counts else ""


def is_silent(facts: Facts, cluster: str) -> Gate:
    """Nothing new for the fence time: a writer that bypasses the route, or has not heard of it, shows here."""
    quiet_s = facts.quiet_s.get(cluster, 0.0)
    what = f"cluster {cluster}: empty and without a new message for {min(quiet_s, facts.fence_s):.0f} of {facts.fence_s:g} s"
    return Gate("silent", quiet_s >= facts.fence_s, what)
