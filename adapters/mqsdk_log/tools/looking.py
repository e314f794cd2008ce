"""`mqsdk log ls`: topics, or one topic with its partitions and groups, from the files."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from mqsdk.spi.tools import Call, Field, Report, Table
from mqsdk_log.engine import dueheap, files, segment
from mqsdk_log.engine.quarantine import QUARANTINE
from mqsdk_log.tools import progress
from mqsdk_log.tools.survey import PartitionView, Root, Tail, TopicView
from mqsdk_log.tools.target import Target

Row = dict[str, Any]


def ls(call: Call) -> Report:
    """All topics; of a named one every partition and group."""
    target = Target(call)
    with target.opened() as root:
        names = target.chosen(root, call.values["topic"])
        if call.values["topic"] is not None:
            return _one(root, names[0])
        topics, groups = [], []
        for name in names:
            with target.unless_gone(None), root.topic(name) as view:
                partitions = [_partition(view, number) for number in range(view.partitions)]
                topics.append(_topic(view, partitions))
                groups += _groups(root, view, partitions)
        facts = {"root": str(root.path), "format": root.format}
        return Report((_topics_table(topics), _groups_table(_summed(groups))), facts=facts)


def _one(root: Root, name: str) -> Report:
    with root.topic(name) as view:
        partitions = [_partition(view, number) for number in range(view.partitions)]
        groups = _groups(root, view, partitions)
        lost = [{"partition": number, "start": low, "stop": high} for number, ranges in sorted(view.lost().items()) for low, high in ranges]
    numbers = [Field(key, True) for key in ("partition", "start", "end", "durable", "delayed", "segments")]
    fields = [*numbers, Field("bytes", True, "bytes"), Field("age", True, "seconds"), Field("quarantined", True, "bytes"), Field("state")]
    lost_fields = [Field("partition", True), Field("start", True), Field("stop", True)]
    tables = [
        Table("partitions", partitions, fields),
        Table("groups", groups, _group_fields()),
        Table("lost", lost, lost_fields),
    ]
    facts = {"topic": name, "durability": view.durability, "keep_s": view.retention_s, "uuid": view.uuid.hex()}
    return Report(tables, facts=facts)


# --- topics --------------------------------------------------------------------------------------------------------------------------


def _topic(view: TopicView, partitions: list[Row]) -> Row:
    states = sorted({row["state"] for row in partitions if row["state"] not in ("ok", "unused")})
    ages = [row["age"] for row in partitions if row["age"] is not None]
    return {
        "topic": view.name,
        "partitions": view.partitions,
        "segments": sum(row["segments"] for row in partitions),
        "records": sum(row["end"] - row["start"] for row in partitions),
        "delayed": sum(row["delayed"] or 0 for row in partitions),
        "bytes": sum(row["bytes"] for row in partitions),
        "age": max(ages, default=None),
        "durability": view.durability,
        "state": ", ".join(states) or "ok",
    }


def _topics_table(rows: list[Row]) -> Table:
    fields = [Field("topic"), *(Field(key, True) for key in ("partitions", "segments", "records", "delayed"))]
    fields += [Field("bytes", True, "bytes"), Field("age", True, "seconds"), Field("durability"), Field("state")]
    return Table("topics", rows, fields, "there are no topics")


# --- partitions ----------------------------------------------------------------------------------------------------------------------


def _partition(view: TopicView, number: int) -> Row:
    try:
        with view.partition(number) as partition:
            return _row(partition)
    except FileNotFoundError:
        empty: Row = dict.fromkeys(("start", "end", "durable", "segments", "bytes", "quarantined"), 0)
        return {"partition": number, **empty, "delayed": None, "age": None, "state": "missing"}


def _row(view: PartitionView) -> Row:
    tail = view.tail()
    bases = view.bases(tail)
    start, end = bases[0] if bases else 0, view.end(tail, bases)
    mark = view.mark()
    oldest = view.time_of(start, tail) if end > start else None
    return {
        "partition": view.number,
        "start": start,
        "end": end,
        "durable": max(mark.offset if mark else 0, tail.synced if tail else 0),
        "delayed": _waiting(view),
        "segments": len(bases),
        "bytes": sum(view.size(base) for base in bases),
        "age": _age_s(oldest),
        "quarantined": _quarantined(view),
        "state": _state(view, tail),
    }


def _state(view: PartitionView, tail: Tail | None) -> str:
    if tail is not None and tail.failed:
        return "read-only"
    if view.number in view.topic.lost():
        return "records lost"
    if tail is not None:
        return "ok"
    return "not opened since boot" if segment.bases(view.directory) else "unused"


def _waiting(view: PartitionView) -> int | None:
    """How many delayed records wait, None where nobody has counted them in this boot."""
    name = f"{view.number}.due"
    with suppress(FileNotFoundError):
        directory = files.open_dir("delay", view.topic.directory)
        try:
            return dueheap.waiting(name, directory)
        finally:
            files.close(directory)
    return 0


def _quarantined(view: PartitionView) -> int:
    total = 0
    with suppress(FileNotFoundError):
        directory = files.open_dir(QUARANTINE, view.directory)
        try:
            for name in files.names(directory):
                fd = files.open_read(name, directory)
                total += files.size_of(fd)
                files.close(fd)
        finally:
            files.close(directory)
    return total


def _age_s(time_ms: int | None) -> float | None:
    return None if time_ms is None else round(max(time.time() - time_ms / 1000, 0.0), 3)


# --- groups --------------------------------------------------------------------------------------------------------------------------


def _groups(root: Root, view: TopicView, partitions: list[Row]) -> list[Row]:
    rows = []
    for group in progress.of_topic(root.path, view.name):
        for number, (copies, place) in enumerate(zip(group.copies, partitions, strict=False)):
            newest = copies.newest
            if newest is None:
                rows.append(
                    {"topic": view.name, "group": group.name, "partition": number, "owner": group.owners.get(number), "state": "damaged"}
                )
                continue
            lag = max(place["end"] - max(newest.watermark, place["start"]), 0)
            rows.append(
                {
                    "topic": view.name,
                    "group": group.name,
                    "partition": number,
                    "watermark": newest.watermark,
                    "lag": lag,
                    "behind": _behind_s(view, number, max(newest.watermark, place["start"])) if lag else None,
                    "epoch": newest.epoch,
                    "sparse_bytes": len(newest.sparse),
                    "owner": group.owners.get(number),
                    "state": "ok" if newest.clean else "in use",
                }
            )
        if group.broken:
            rows.append({"topic": view.name, "group": group.name, "partition": None, "state": f"damaged: {group.broken}"})
    return rows


def _behind_s(view: TopicView, number: int, offset: int) -> float | None:
    with suppress(FileNotFoundError), view.partition(number) as partition:
        return _age_s(partition.time_of(offset, partition.tail()))
    return None


def _group_fields() -> list[Field]:
    fields = [Field("group"), *(Field(key, True) for key in ("partition", "watermark", "lag")), Field("behind", True, "seconds")]
    return [*fields, Field("epoch", True, "plain"), Field("sparse_bytes", True), Field("owner"), Field("state")]


def _summed(rows: list[Row]) -> list[Row]:
    """One row per group and topic."""
    summed: dict[tuple[str, str], Row] = {}
    for row in rows:
        one = summed.setdefault(
            (row["topic"], row["group"]),
            {"topic": row["topic"], "group": row["group"], "lag": 0, "behind": None, "owners": [], "state": "ok"},
        )
        one["lag"] += row.get("lag") or 0
        one["behind"] = max((value for value in (one["behind"], row.get("behind")) if value is not None), default=None)
        if row.get("owner") and row["owner"] not in one["owners"]:
            one["owners"].append(row["owner"])
        if row["state"].startswith("damaged"):
            one["state"] = "damaged"
    return list(summed.values())


def _groups_table(rows: list[Row]) -> Table:
    fields = [Field("topic"), Field("group"), Field("lag", True), Field("behind", True, "seconds"), Field("owners"), Field("state")]
    return Table("groups", rows, fields)
