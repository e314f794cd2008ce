"""`topics`, `peek`, `tail`: looking without touching a group."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from mqsdk.cli.output import Column, Output, bytes_text, printable, time_text
from mqsdk.cli.session import Command, Listing, Place, Session, changing, pass_session
from mqsdk.errors import StateError
from mqsdk.runtime import reading
from mqsdk.runtime.clusters import owner_topic
from mqsdk.runtime.reading import Found
from mqsdk.spi import GroupInfo

# `tail` asks for the ends of the partitions this often: the seam has no waiting read, and 150 ms is below what a reader notices.
TAIL_EVERY_S = 0.15


# --- topics ----------------------------------------------------------------------------------------------------------------------


@click.command(cls=Listing)
@click.pass_context
def topics(ctx: click.Context) -> Any:
    """List topics with cluster and size: `topics [PATTERN]`; or `topics delete TOPIC`."""
    return topics.list(ctx)


@topics.command("list", hidden=True)
@click.argument("pattern", required=False)
@pass_session
def list_topics(session: Session, pattern: str | None = None) -> None:
    """Topics whose name matches PATTERN (`*` is any run of characters), all without it."""
    from mqsdk.config.model import pattern as compiled

    wanted = compiled(pattern or "*")
    rows = [
        {
            "name": one.name,
            "cluster": cluster,
            "partitions": one.partitions,
            "groups": list(one.groups),
            "messages": one.messages,
            "bytes": one.bytes,
        }
        for cluster, admin in session.each_admin()
        for one in admin.topics()
        if wanted.fullmatch(one.name)
    ]
    columns = (
        Column("name"),
        Column("cluster"),
        Column("partitions", True),
        Column("groups"),
        Column("messages", True),
        Column("bytes", True, bytes_text),
    )
    empty = "no topic matches" if pattern else "no topics yet: the first publish creates one"
    session.out.show("topics", rows, columns, empty, session.told())


@topics.command("delete")
@click.argument("topic")
@changing
@pass_session
def delete_topic(session: Session, topic: str, yes: bool, dry_run: bool) -> None:
    """Delete TOPIC with all its groups, their dead letters and everything in it."""
    place = session.place(topic)
    found = {one.name: one for one in place.admin.topics()}
    doomed = [topic, *_beneath(topic, found)]
    groups = {name: place.admin.groups(name) for name in doomed}
    _refuse_members(topic, groups)
    plan = [_deletion(name, place.cluster, found[name].messages if name in found else None) for name in doomed]
    plan += [f"delete the progress of group {one.group}" for one in groups[topic]]
    if session.confirmed(plan, yes, dry_run):
        for name in reversed(doomed):
            place.admin.delete_topic(name)
        session.out.fields({"deleted": doomed})


def _beneath(topic: str, known: Iterable[str]) -> list[str]:
    """The SDK's topics that belong to this one, whether their group still exists or not, each followed by those beneath it."""
    own = sorted(name for name in known if name != topic and owner_topic(name) == topic)
    return [one for name in own for one in (name, *_beneath(name, known))]


def _refuse_members(topic: str, groups: Mapping[str, Sequence[GroupInfo]]) -> None:
    """Dead letters may have consumers too."""
    busy = [f"{one.topic}/{one.group}" for infos in groups.values() for one in infos if one.members]
    if busy:
        raise StateError(
            f"topic {topic} is being consumed", where=f"by {', '.join(busy)}", fix="stop their consumers first", state="RUNNING"
        )


def own_topics(place: Place, topic: str, group: str) -> list[str]:
    """The topics that exist for this pair only."""
    names = (f"{topic}.{group}.retry", f"{topic}.{group}.dlq")
    return [name for name in names if place.admin.partitions(name) is not None]


def _deletion(name: str, cluster: str, messages: int | None) -> str:
    return f"delete topic {name} on cluster {cluster}" + ("" if messages is None else f": {messages:,} messages")


# --- messages --------------------------------------------------------------------------------------------------------------------


@click.command(cls=Command)
@click.argument("topic")
@click.option(
    "--from", "start", default="earliest", metavar="PLACE", help="earliest (default), latest, a time, a duration ago, or a position."
)
@click.option("-n", "count", type=click.IntRange(1), default=10, show_default=True, help="How many messages.")
@click.option("--partition", type=click.IntRange(0), help="Of this partition only.")
@click.option("--body", is_flag=True, help="Show the bodies.")
@pass_session
def peek(session: Session, topic: str, start: str, count: int, partition: int | None, body: bool) -> None:
    """Read messages of TOPIC without touching a group, oldest first. `--from latest` shows the newest."""
    place = session.place(topic)
    numbers = chosen_partitions(place, partition)
    where = parsed_place(start)
    refuse_position_of_many(where, numbers)
    if where == "latest":
        found: Iterator[Found] = iter(reading.last(place.admin, topic, numbers, count))
    else:
        starts = {number: reading.position_of(place.admin, topic, number, where) for number in numbers}
        found = itertools.islice(reading.merged(place.admin, topic, starts), count)
    empty = True
    for one in found:
        empty = False
        show_message(session.out, place.cluster, topic, one, body)
    if empty:
        session.out.say(f"nothing to show in {topic}")


@click.command(cls=Command)
@click.argument("topic")
@click.option("--key", help="Only messages with this key.")
@click.option("--body", is_flag=True, help="Show the bodies.")
@pass_session
def tail(session: Session, topic: str, key: str | None, body: bool) -> None:
    """Follow new messages of TOPIC until Ctrl-C, without touching a group."""
    place = session.place(topic)
    wanted = None if key is None else key.encode()
    session.out.say(f"following {topic} on cluster {place.cluster}, Ctrl-C ends")
    try:
        for found in follow(place, topic, lambda: session.out.closed):
            if found is None:
                session.out.flush()
            elif wanted is None or found.record.key == wanted:
                show_message(session.out, place.cluster, topic, found, body)
    except KeyboardInterrupt:
        return  # the way to end it, so the exit code is 0


def follow(place: Place, topic: str, ended: Any) -> Iterator[Found | None]:
    """New records of every partition as they come; None after each round, so that the caller flushes."""
    positions = {number: place.admin.bounds(topic, number)[1] for number in range(place.partitions)}
    while not ended():
        for number, position in positions.items():
            for found in reading.records(place.admin, topic, number, position):
                positions[number] = found.record.position + 1
                yield found
        yield None
        time.sleep(TAIL_EVERY_S)


def chosen_partitions(place: Place, partition: int | None) -> Sequence[int]:
    if partition is not None and partition >= place.partitions:
        raise click.BadParameter(f"the topic has partitions 0 to {place.partitions - 1}", param_hint="--partition")
    return range(place.partitions) if partition is None else [partition]


def parsed_place(text: str, option: str = "--from") -> reading.Place:
    try:
        return reading.parse_place(text, datetime.now(UTC))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error


def refuse_position_of_many(place: reading.Place, partitions: Sequence[int]) -> None:
    """A position means something in one partition; a number is also what is left of a duration whose unit was forgotten."""
    if isinstance(place, int) and len(partitions) > 1:
        raise click.UsageError(
            f"a position belongs to one partition: add --partition, or use a time, earliest or latest ({place}m is {place} minutes ago)"
        )


def show_message(out: Output, cluster: str, topic: str, found: Found, body: bool) -> None:
    """One message: a JSON line, or one line of text and its body."""
    fields = message_fields(cluster, topic, found, body)
    if out.json:
        out.document(fields)
        return
    head = f"{fields['partition']}:{fields['position']}  {fields['published_at'] or '-'}  {fields['id']}"
    key = "" if fields["key"] is None else f"  key={fields['key']}"
    headers = "".join(f"  {name}={value}" for name, value in fields["headers"].items())
    out.write(printable(f"{head}{key}  {fields['size']} bytes  {fields['content_type'] or 'no content type'}{headers}"))
    if body:
        text = fields["body"] if "body" in fields else f"base64:{fields['body_base64']}"
        out.write("    " + printable(text))


def message_fields(cluster: str, topic: str, found: Found, body: bool) -> dict[str, Any]:
    """The fields of one stored message, as `Message` names them. A body that is not UTF-8 is given as `body_base64`."""
    record, partition = found.record, found.partition
    fields: dict[str, Any] = {
        "id": record.id or f"{cluster}:{topic}:{partition}:{record.ref}",
        "topic": topic,
        "cluster": cluster,
        "partition": partition,
        "position": record.ref,
        "key": None if record.key is None else record.key.decode("utf-8", "surrogateescape"),
        "headers": dict(record.headers),
        "content_type": record.content_type,
        "attempt": record.attempt,
        "published_at": time_text(record.timestamp_ms),
        "due_at": time_text(record.due_ms),
        "size": len(record.value),
    }
    if body:
        fields |= body_fields(record.value)
    return fields


def body_fields(value: bytes) -> dict[str, str]:
    try:
        return {"body": value.decode()}
    except UnicodeDecodeError:
        import base64

        return {"body_base64": base64.b64encode(value).decode()}
