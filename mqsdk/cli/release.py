"""`groups release`: free what `on_exhausted: halt_key` or `halt_partition` has stopped.

Whoever owns the partition does it: a process of this host is asked over its control socket. Where the group has no members the saved
progress is amended, and its next owner does it. Owners elsewhere cannot be reached: that is refused, by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from mqsdk.cli.exits import DONE, UNKNOWN, NotFound, Refused
from mqsdk.cli.output import printable
from mqsdk.cli.session import Command, Place, Session, changing, pass_session
from mqsdk.spi import Admin, Member, NotSupported

if TYPE_CHECKING:
    from mqsdk.core.actions import ReleaseAs
    from mqsdk.runtime.halts import SavedHalt

PLANS = {
    "retry": "run message {} again, from its first attempt",
    "dead_letter": "make message {} a dead letter",
    "drop": "let message {} go for ever",
}


def halted_in(admin: Admin, topic: str, group: str) -> Sequence[SavedHalt]:
    """What is halted in a group; nothing where the backend cannot tell: there nothing can be halted."""
    from mqsdk.runtime import halts

    try:
        return halts.in_group(admin, topic, group)
    except NotSupported:
        return ()


@click.command(cls=Command)
@click.argument("topic")
@click.argument("group")
@click.option("--key", metavar="K", help="Only what this key stands behind; an empty one means messages without key.")
@click.option("--cluster", help="Look on this cluster; else where the route leads, then where the topic was within the last day.")
@click.option("--as", "outcome", type=click.Choice(list(PLANS)), required=True, help="What becomes of the halted message.")
@changing
@pass_session
def release(
    session: Session, topic: str, group: str, key: str | None, cluster: str | None, outcome: ReleaseAs, yes: bool, dry_run: bool
) -> int:
    """Free what is halted in GROUP: run it again, make it a dead letter, or let it go. What stood still behind it goes on."""
    keys = None if key is None else _keys(key)
    place = _place(session, topic, group, cluster, keys)
    chosen = _chosen(place, topic, group, keys)
    if not chosen:
        what = "nothing is halted" if key is None else "nothing of this key is halted"
        raise NotFound(f"{what} in group {group} of topic {topic}", where=f"cluster {place.cluster}", fix=f"mqsdk groups {topic}")
    if not session.confirmed([_step(place, topic, halt, outcome) for halt in chosen], yes, dry_run):
        return DONE
    members = [member for info in place.admin.groups(topic) if info.group == group for member in info.members]
    if not members:
        return _release_saved(session, place, topic, group, chosen, outcome)
    return _ask_owners(session, place, topic, group, keys, outcome, members, len(chosen))


def _place(session: Session, topic: str, group: str, cluster: str | None, keys: Sequence[bytes | None] | None) -> Place:
    """While a topic changes its cluster, what is halted on the old one keeps the change from ending."""
    place = session.group(topic, group, cluster)
    if cluster is not None or _chosen(place, topic, group, keys):
        return place
    older = (Place(name, admin, admin.partitions(topic) or 0) for name, admin in session.older(topic))
    return next((one for one in older if _chosen(one, topic, group, keys)), place)


def _keys(key: str) -> list[bytes | None]:
    return [key.encode("utf-8", "surrogateescape")] if key else [None, b""]


def _chosen(place: Place, topic: str, group: str, keys: Sequence[bytes | None] | None) -> list[SavedHalt]:
    return [halt for halt in halted_in(place.admin, topic, group) if keys is None or (halt.record is not None and halt.key in keys)]


def _step(place: Place, topic: str, halt: SavedHalt, outcome: str) -> str:
    shown = halt.shown(place.cluster, topic)
    what = PLANS[outcome].format(shown.id)
    return printable(f"{what} (partition {shown.partition}, position {shown.position}, halted after {shown.attempts} attempts)")


def _release_saved(session: Session, place: Place, topic: str, group: str, chosen: Sequence[SavedHalt], outcome: ReleaseAs) -> int:
    from mqsdk.runtime import halts

    released = halts.release_saved(session.backend(place.cluster), group, chosen, outcome)
    if released < len(chosen):
        raise Refused(
            f"{len(chosen) - released} of {len(chosen)} halted messages were left alone: their progress has changed meanwhile",
            where=f"{topic}/{group}",
            fix="run the command again",
        )
    _tell(session, topic, group, outcome, released, "at the next start of a consumer")
    return DONE


# --- owners that run -------------------------------------------------------------------------------------------------------------


def _ask_owners(
    session: Session,
    place: Place,
    topic: str,
    group: str,
    keys: Sequence[bytes | None] | None,
    outcome: ReleaseAs,
    members: Sequence[Member],
    wanted: int,
) -> int:
    answers = _asked(topic, group, keys, outcome)
    done = [answer for answer in answers if answer.get("running")]
    freed, lost = sum(answer["freed"] for answer in done), sum(answer["lost"] for answer in done)
    failures = [answer["error"] for answer in answers if "error" in answer]
    if lost or failures:
        for failure in failures:
            session.out.warn(printable(f"{failure.get('what')}"))
        session.out.warn(f"whether everything is released is not known: look at `mqsdk groups {topic}`")
    left = _chosen(place, topic, group, keys) if freed < wanted and not (lost or failures) else []
    if left:
        numbers = sorted({halt.saved.partition for halt in left})
        raise Refused(
            f"{len(left)} of {wanted} halted messages, of partitions {', '.join(map(str, numbers))}, were left alone: their owner is no "
            "process of this host and user, or has not read them yet",
            where=", ".join(one.id for one in members),
            fix="run the command where their owner runs, or stop the group's consumers, run it, and start them again",
        )
    _tell(session, topic, group, outcome, freed, "now")
    return UNKNOWN if lost or failures else DONE


def _asked(topic: str, group: str, keys: Sequence[bytes | None] | None, outcome: ReleaseAs) -> list[Mapping[str, Any]]:
    """What the processes of this host and user answer."""
    from mqsdk.runtime import control

    named = None if keys is None else [None if key is None else key.hex() for key in keys]
    order = {"topic": topic, "group": group, "keys": named, "outcome": outcome}
    return [reply.document for reply in control.ask_all(f"release {json.dumps(order)}")]


def _tell(session: Session, topic: str, group: str, outcome: str, released: int, applies: str) -> None:
    session.out.fields({"topic": topic, "group": group, "as": outcome, "released": released, "applies": applies})
