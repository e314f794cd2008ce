"""`groups` and `lag`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from mqsdk.cli.exits import DONE, FOUND
from mqsdk.cli.look import own_topics
from mqsdk.cli.output import Column, seconds_text
from mqsdk.cli.release import halted_in, release
from mqsdk.cli.session import Command, Listing, Place, Session, changing, check_names, duration, pass_session
from mqsdk.errors import StateError
from mqsdk.names import RETRIES
from mqsdk.runtime.inspection import progress_of
from mqsdk.runtime.topics import ensure_topic
from mqsdk.spi import Admin, GroupInfo


@click.command(cls=Listing)
@click.pass_context
def groups(ctx: click.Context) -> Any:
    """List groups with their members and what is halted: `groups [TOPIC]`; or `groups ensure|delete|release TOPIC GROUP`."""
    return groups.list(ctx)


groups.add_command(release)


@groups.command("list", hidden=True)
@click.argument("topic", required=False)
@pass_session
def list_groups(session: Session, topic: str | None = None) -> None:
    """Groups of TOPIC, of all topics without it."""
    rows = [_row(place, info) for place, info in found_groups(session, topic)]
    columns = (
        Column("topic"),
        Column("group"),
        Column("cluster"),
        Column("members", show=_members_text),
        Column("assignment", show=_assignment_text),
        Column("halted", show=lambda halted: str(len(halted)) if halted else "-"),
    )
    session.out.show(
        "groups", rows, columns, "no groups yet: a consumer's first start or `mqsdk groups ensure` creates one", session.told()
    )


def found_groups(session: Session, topic: str | None, group: str | None = None) -> Iterator[tuple[Place, GroupInfo]]:
    """Groups with the place of their topic. A named topic or group that does not exist: NotFound."""
    if topic is not None:
        place = session.place(topic) if group is None else session.group(topic, group)
        yield from ((place, info) for info in place.admin.groups(topic) if group in (None, info.group))
        return
    for cluster, admin in session.each_admin():
        for one in admin.topics():
            if one.name.endswith(RETRIES):
                continue  # its messages are counted with those of the pair that it belongs to
            yield from ((Place(cluster, admin, one.partitions), info) for info in admin.groups(one.name))


def _row(place: Place, info: GroupInfo) -> dict[str, Any]:
    return {
        "topic": info.topic,
        "group": info.group,
        "cluster": place.cluster,
        "members": [{"id": one.id, "host": one.host, "pid": one.pid} for one in info.members],
        "assignment": {str(partition): one.id for one in info.members for partition in sorted(one.partitions)},
        "halted": [halt.shown(place.cluster, info.topic)._asdict() for halt in halted_in(place.admin, info.topic, info.group)],
    }


def _members_text(members: list[dict[str, Any]]) -> str:
    return ", ".join(one["id"] for one in members) or "-"


def _assignment_text(assignment: dict[str, str]) -> str:
    owned: dict[str, list[str]] = {}
    for partition, member in assignment.items():
        owned.setdefault(member, []).append(partition)
    return "; ".join(f"{member}: {','.join(numbers)}" for member, numbers in owned.items()) or "-"


@groups.command("ensure")
@click.argument("topic")
@click.argument("group")
@changing
@pass_session
def ensure_group(session: Session, topic: str, group: str, yes: bool, dry_run: bool) -> None:
    """Create TOPIC and GROUP ahead of the first start, so that GROUP sees what is published from now on."""
    check_names(topic, group)
    cluster = session.cluster_of(topic)
    admin = session.backend(cluster).admin()
    rule = session.clusters.configuration.topic_rule(topic)
    plan = _missing(admin, cluster, topic, group)
    if plan and not session.confirmed(plan, yes, dry_run):
        return
    if plan:
        ensure_topic(session.backend(cluster), cluster, topic, rule)
        admin.ensure_group(topic, group)
    session.out.fields({"topic": topic, "group": group, "cluster": cluster, "created": bool(plan)})


def _missing(admin: Admin, cluster: str, topic: str, group: str) -> list[str]:
    """The steps that are still to be done; none when both exist."""
    create_group = f"create group {group} of topic {topic}"
    if admin.partitions(topic) is None:
        return [f"create topic {topic} on cluster {cluster}", create_group]
    return [] if group in [one.group for one in admin.groups(topic)] else [create_group]


@groups.command("delete")
@click.argument("topic")
@click.argument("group")
@changing
@pass_session
def delete_group(session: Session, topic: str, group: str, yes: bool, dry_run: bool) -> None:
    """Delete GROUP's progress in TOPIC for ever. Its dead letters stay until they are purged."""
    place = session.group(topic, group)
    (info,) = [one for one in place.admin.groups(topic) if one.group == group]
    if info.members:
        who = ", ".join(one.id for one in info.members)
        raise StateError(f"group {group} of topic {topic} has members", where=who, fix="stop its consumers first", state="RUNNING")
    pending = sum(one.messages for one in progress_of(place.admin, topic, group))
    plan = [f"delete group {group} of topic {topic}: its progress, and {pending:,} messages that it has not handled are lost to it"]
    owned = own_topics(place, topic, group)
    retries = [name for name in owned if name.endswith(RETRIES)]
    plan += [f"keep its dead letters in {name}" for name in owned if name not in retries]
    plan += [f"delete topic {name}, which only this group reads" for name in retries]
    if session.confirmed(plan, yes, dry_run):
        for name in retries:
            place.admin.delete_topic(name)
        place.admin.delete_group(topic, group)
        session.out.fields({"topic": topic, "group": group, "deleted": True, "unhandled": pending})


# --- lag -------------------------------------------------------------------------------------------------------------------------


@click.command(cls=Command)
@click.argument("topic", required=False)
@click.argument("group", required=False)
@click.option("--max-messages", type=click.IntRange(0), help="Exit 1 if a group is further behind.")
@click.option("--max-age", type=duration, metavar="D", help="Exit 1 if a group's oldest unhandled message is older.")
@pass_session
def lag(session: Session, topic: str | None, group: str | None, max_messages: int | None, max_age: float | None) -> int:
    """How many messages, and seconds, groups are behind. `-v` shows partitions."""
    now = session.clock_ms()
    rows = [
        {
            "topic": info.topic,
            "group": info.group,
            "cluster": place.cluster,
            "partition": one.partition,
            "messages": one.messages,
            "seconds": _age(one.oldest_ms, now),
        }
        for place, info in _lagging(session, topic, group)
        for one in progress_of(place.admin, info.topic, info.group)
    ]
    totals = _totals(rows)
    figures = (Column("messages", True), Column("seconds", True, seconds_text))
    if session.out.json or session.out.verbose:
        places = (Column("topic"), Column("group"), Column("cluster"), Column("partition", True))
        session.out.show("lag", rows, (*places, *figures), "no groups yet", session.told())
    else:
        session.out.show("lag", totals, (Column("topic"), Column("group"), *figures), "no groups yet")
    over = [one for one in totals if _over(one, max_messages, max_age)]
    for one in over:
        session.out.warn(f"over the limit: {one['topic']}/{one['group']}")
    return FOUND if over else DONE


def _lagging(session: Session, topic: str | None, group: str | None) -> Iterator[tuple[Place, GroupInfo]]:
    """As `found_groups`; of a topic whose route was given another cluster lately those on the older ones too."""
    if topic is not None:
        found = list(found_groups(session, topic, group))  # a name that does not exist is told before any other cluster is asked
        for cluster, admin in session.older(topic):
            partitions = admin.partitions(topic)
            if partitions is not None:
                place = Place(cluster, admin, partitions)
                yield from ((place, info) for info in admin.groups(topic) if group in (None, info.group))
        yield from found
    else:
        yield from found_groups(session, topic)


def _age(oldest_ms: int | None, now_ms: int) -> float | None:
    return None if oldest_ms is None else max(0.0, (now_ms - oldest_ms) / 1000)


def _totals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per group: the sum of messages and the largest age."""
    totals: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        pair = (row["topic"], row["group"])
        one = totals.setdefault(pair, {"topic": pair[0], "group": pair[1], "messages": 0, "seconds": None})
        one["messages"] += row["messages"]
        one["seconds"] = max((age for age in (one["seconds"], row["seconds"]) if age is not None), default=None)
    return list(totals.values())


def _over(total: dict[str, Any], max_messages: int | None, max_age: float | None) -> bool:
    too_many = max_messages is not None and total["messages"] > max_messages
    return too_many or (max_age is not None and (total["seconds"] or 0.0) > max_age)
