"""`offsets`: show and move a group's progress."""

from __future__ import annotations

from collections.abc import Sequence

import click

from mqsdk.cli.exits import Refused
from mqsdk.cli.look import chosen_partitions, parsed_place, refuse_position_of_many
from mqsdk.cli.output import Column
from mqsdk.cli.session import Family, Place, Session, changing, pass_session
from mqsdk.errors import StateError
from mqsdk.runtime import reading
from mqsdk.spi import PartitionProgress


@click.command(cls=Family)
def offsets() -> None:
    """Show or move the progress of a group."""


@offsets.command()
@click.argument("topic")
@click.argument("group")
@pass_session
def show(session: Session, topic: str, group: str) -> None:
    """Per partition: where GROUP goes on (`from`), and where the partition ends (`to`)."""
    place = session.group(topic, group)
    rows = [
        {
            "partition": one.partition,
            "from": one.watermark,
            "to": one.end,
            "start": one.start,
            "messages": one.messages,
            "epoch": one.epoch,
        }
        for one in place.admin.progress(topic, group)
    ]
    columns = [Column(name, True) for name in ("partition", "from", "to", "start", "messages")]
    columns.append(Column("epoch", True, str))  # a name for an ownership, not a quantity
    session.out.show("partitions", rows, columns, "no progress yet")


@offsets.command()
@click.argument("topic")
@click.argument("group")
@click.option("--to", "target", required=True, metavar="PLACE", help="earliest, latest, a time, a duration ago, or a position.")
@click.option("--partition", type=click.IntRange(0), help="Only this partition; needed with a position.")
@changing
@pass_session
def reset(session: Session, topic: str, group: str, target: str, partition: int | None, yes: bool, dry_run: bool) -> None:
    """Move GROUP's progress: what lies behind the new place is handled again, what it skips is not handled."""
    place = session.group(topic, group)
    numbers = chosen_partitions(place, partition)
    where = parsed_place(target, "--to")
    refuse_position_of_many(where, numbers)
    progress = [one for one in place.admin.progress(topic, group) if one.partition in numbers]
    moves = [_move(place, topic, one, where) for one in progress]
    _refuse_members(place, topic, group)
    plan = [f"partition {move['partition']}: {move['from']} -> {move['to']}" for move in moves if move["from"] != move["to"]]
    if plan and session.confirmed([f"move group {group} of topic {topic}", *plan], yes, dry_run):
        place.admin.reset(topic, group, {move["partition"]: move["to"] for move in moves})
    if not dry_run or not plan:
        session.out.show("partitions", moves, [Column(name, True) for name in ("partition", "from", "to")], "nothing to move")


def _move(place: Place, topic: str, progress: PartitionProgress, target: reading.Place) -> dict[str, int]:
    """One partition's old and new position. A position that the partition does not hold is refused."""
    first, end = place.admin.bounds(topic, progress.partition)
    position = reading.position_of(place.admin, topic, progress.partition, target)
    if not first <= position <= end:
        raise Refused(
            f"partition {progress.partition} of topic {topic} holds positions {first} to {end}, not {position}",
            where=f"cluster {place.cluster}",
            fix="`mqsdk offsets show` names what is held",
        )
    return {"partition": progress.partition, "from": progress.watermark, "to": position}


def _refuse_members(place: Place, topic: str, group: str) -> None:
    """Also the adapter refuses; asking first keeps `--dry-run` and the question honest."""
    members: Sequence[str] = [member.id for info in place.admin.groups(topic) if info.group == group for member in info.members]
    if members:
        raise StateError(
            f"group {group} of topic {topic} has members", where=", ".join(members), fix="stop its consumers first", state="RUNNING"
        )
