"""`mqsdk log repair`: what `verify` found in a topic, put right as far as it can be, with the root alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from mqsdk.spi.tools import Call, Field, NotThere, Plan, Report, Table
from mqsdk_log.engine import cursors
from mqsdk_log.engine.log import Log
from mqsdk_log.engine.shared import Durability
from mqsdk_log.engine.topic import Topic
from mqsdk_log.tools import mending, verify
from mqsdk_log.tools.survey import PartitionView, Root, TopicView
from mqsdk_log.tools.target import Target
from mqsdk_log.tools.verify import Finding, Gauge

Tell = Callable[[int, int], None]


def plan(call: Call) -> Plan:
    """What is wrong with a topic, or one partition of it, and can be put right."""
    target, name, number = Target(call), call.values["topic"], call.values["partition"]
    with target.opened() as root:
        target.chosen(root, name)
        findings = _found(root, name, number, call.advance)
        steps = [step for finding in findings if (step := _step(root, finding))]
    return Plan(steps, lambda advance: _apply(target, name, number, bool(steps), advance), wrong=bool(steps))


def _found(root: Root, name: str, number: int | None, tell: Tell) -> list[Finding]:
    with root.topic(name) as topic:
        if number is not None and number >= topic.partitions:
            raise NotThere(f"topic {name} has partitions 0 to {topic.partitions - 1}, not {number}", where=str(root.path))
    verdicts, others = verify.topic(root, name, Gauge(verify.total_bytes(root, [name]), tell))
    found = [finding for verdict in verdicts for finding in verdict.findings] + others
    return [one for one in found if number is None or one.partition in (number, None)]


def _step(root: Root, finding: Finding) -> str:
    """What would be done about it; "" for nothing."""
    where, flaw = f"{finding.topic}/{finding.partition}", finding.flaw
    if finding.kind == "failed":
        return f"{where}: write what came after the durable mark to new files, sync them, take appends again"
    if finding.kind == "torn" and flaw is not None:
        behind = f"look at {flaw.stop_position - flaw.position:,} bytes behind the end of segment {flaw.segment}"
        return f"{where}: {behind}; what is no whole batch is cut off and kept in quarantine/"
    if finding.kind == "damage" and flaw is not None and flaw.start < flaw.stop:
        if flaw.position == 0 and flaw.stop_position and _can_restore(root, finding):
            return f"{where}: make the header of segment {flaw.segment} anew from its batches; keep the old one in quarantine/"
        kept = "keep a copy of the bytes in quarantine/; " if flaw.stop_position > flaw.position else ""
        lost = f"record offsets {flaw.start} to {flaw.stop} (excluded) of segment {flaw.segment} as lost"
        return f"{where}: {lost}; {kept}the segment stays as it is"
    return f"{where}: {finding.remedy}" if finding.remedy else ""


def _can_restore(root: Root, finding: Finding) -> bool:
    assert finding.flaw is not None
    base, name = finding.flaw.segment, finding.topic.split(" ")[0]
    with root.topic(name) as topic, topic.bands() as bands:
        for view in [topic, *(band for _, band in bands)]:
            if view.name == finding.topic and finding.partition is not None:
                with view.partition(finding.partition) as partition, partition.open(base) as fd:
                    return not mending.is_readable(partition, fd) and mending.restored(partition, fd, base) is not None
    return False


# --- doing it ------------------------------------------------------------------------------------------------------------------------


def _apply(target: Target, name: str, number: int | None, needed: bool, tell: Tell) -> Report:
    if not needed:
        return Report((_table([], "nothing is to be done"),))
    done: list[dict[str, Any]] = []
    with target.opened() as root:
        with root.topic(name) as view, view.bands() as bands:
            views = {view.name: view, **{band.name: band for _, band in bands}}
            with _alone(target, view.durability) as log:
                log.report = lambda text: done.append({"topic": name, "partition": None, "done": text})
                topic = log.topic(name)
                gauge = Gauge(verify.total_bytes(root, [name]), tell)
                for part in range(topic.partition_count) if number is None else (number,):
                    for one in (topic, *_bands(topic)):
                        _mend(views[one.name], one, part, gauge, done)
        left = [one for one in _found(root, name, number, tell) if one.kind in verify.WRONG]
    tables = (_table(done, "nothing was to be done"), Table("left", [one.row for one in left], ()))
    return Report(tables, [one.remark for one in left], wrong=bool(left))


def _alone(target: Target, durability: str) -> Log:
    """The log, open in no other process. InUse."""
    kinds: tuple[Durability, ...] = get_args(Durability)
    chosen: Durability = next((kind for kind in kinds if kind == durability), target.options.durability)
    log = Log.open(target.path, durability=chosen, create=False, any_filesystem=target.options.any_filesystem, alone=True)
    log.floor = lambda topic, partition: cursors.highest(target.path, topic, partition)
    return log


def _bands(topic: Topic) -> list[Topic]:
    return [] if topic.bands is None else [topic.bands.topic(number) for number in topic.bands.existing()]


def _mend(view: TopicView, topic: Topic, number: int, gauge: Gauge, done: list[dict[str, Any]]) -> None:
    with view.partition(number) as partition:
        _mend_partition(partition, topic, gauge, done)


def _mend_partition(view: PartitionView, topic: Topic, gauge: Gauge, done: list[dict[str, Any]]) -> None:
    for text in mending.mend(view, topic.partition(view.number), gauge):
        done.append({"topic": topic.name, "partition": view.number, "done": text})


def _table(rows: list[dict[str, Any]], empty: str) -> Table:
    return Table("done", rows, [Field("topic"), Field("partition", True), Field("done")], empty)
