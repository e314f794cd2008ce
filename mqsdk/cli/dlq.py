"""`dlq`: list, show, redrive and purge the dead letters of a topic and group."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mqsdk import units
from mqsdk.cli.exits import DONE, FOUND, NotFound, Refused
from mqsdk.cli.look import body_fields
from mqsdk.cli.output import Column, time_text
from mqsdk.cli.session import Family, Place, Session, changing, check_names, pass_session
from mqsdk.errors import MqError
from mqsdk.runtime import deadletters, reading
from mqsdk.runtime.deadletters import Chosen, DeadLetter
from mqsdk.runtime.redrive import Moved, Redrive, is_delayed, target_of

if TYPE_CHECKING:
    from mqsdk.cli.drawing import Bar

REASONS = ("exhausted", "rejected", "undecodable", "crash_loop", "followed")
PURGE_CHUNK = 1000  # letters removed by one publish: bounds what is held in memory and what an interrupted purge leaves open
REMOVE_TIMEOUT_S = 10.0

F = TypeVar("F", bound=Callable[..., Any])


@click.command(cls=Family)
def dlq() -> None:
    """Look at and handle dead letters."""


def choosing(function: F) -> F:
    """The arguments and options that say which letters are meant."""
    decorators = [
        click.argument("topic"),
        click.argument("group"),
        click.option("--id", "ids", multiple=True, help="The letter with this message id; may be repeated."),
        click.option("--reason", type=click.Choice(REASONS), help="Letters with this reason."),
        click.option("--since", metavar="TIME", help="Dead since this time, or a duration ago."),
        click.option("--limit", type=click.IntRange(1), help="At most so many."),
        click.option("--cluster", help="Look on this cluster, whatever the route says."),
    ]
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


class Selection:
    """The chosen letters of one call."""

    def __init__(self, session: Session, options: dict[str, Any]) -> None:
        self.topic, self.group, self.limit = options["topic"], options["group"], options["limit"]
        self.place = letters_place(session, self.topic, self.group, options["cluster"])
        self.chosen = Chosen(tuple(options["ids"]), options["reason"], _since(options["since"]))

    def letters(self) -> Iterator[DeadLetter]:
        return islice(deadletters.letters(self.place.admin, self.topic, self.group, self.chosen), self.limit)

    def count(self) -> int:
        """How many letters are meant; none is an error only where they were named. Raises NotFound."""
        total = sum(1 for _ in self.letters())
        if not total and self.chosen.ids:
            raise self.nothing()
        return total

    def nothing(self) -> NotFound:
        return NotFound("no dead letter matches", where=f"{self.topic}/{self.group}", fix="`mqsdk dlq list` shows what is there")


def letters_place(session: Session, topic: str, group: str, cluster: str | None) -> Place:
    """Where the letters of a pair are: its group exists, or a deleted group has left letters behind. Raises NotFound."""
    check_names(topic, group)
    name = cluster or session.cluster_of(topic)
    admin = session.backend(name).admin()
    kept = admin.partitions(deadletters.topic_of(topic, group))
    return session.group(topic, group, cluster) if kept is None else Place(name, admin, kept)


def _since(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(reading.parse_time(text, datetime.now(UTC)).timestamp() * 1000)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--since") from error


@dlq.command("list")
@choosing
@pass_session
def list_letters(session: Session, /, **options: Any) -> None:
    """Dead letters, oldest first."""
    selection = Selection(session, options)
    if session.out.json:
        for letter in selection.letters():
            session.out.document(_summary(letter))
        return
    columns = (
        Column("id"),
        Column("key"),
        Column("reason"),
        Column("attempts", True),
        Column("first_at"),
        Column("last_at"),
        Column("error"),
    )
    session.out.show("letters", [_summary(letter) for letter in selection.letters()], columns, "no dead letters")


def _summary(letter: DeadLetter) -> dict[str, Any]:
    key = letter.record.key
    return {
        "id": letter.id,
        "key": None if key is None else key.decode("utf-8", "surrogateescape"),
        "reason": letter.reason,
        "attempts": letter.attempts,
        "first_at": time_text(letter.first_at_ms),
        "last_at": time_text(letter.last_at_ms),
        "error": letter.error,
    }


@dlq.command("show")
@choosing
@click.option("--body", is_flag=True, help="Show the bodies.")
@pass_session
def show_letters(session: Session, /, body: bool, **options: Any) -> None:
    """Everything known about the chosen letters; bodies with --body."""
    selection = Selection(session, options)
    shown = 0
    for shown, letter in enumerate(selection.letters(), 1):
        if shown > 1 and not session.out.json:
            session.out.write("")
        session.out.fields(_details(selection, letter, body))
    if not shown:
        raise selection.nothing()


def _details(selection: Selection, letter: DeadLetter, body: bool) -> dict[str, Any]:
    record = letter.record
    details = {
        **_summary(letter),
        "topic": selection.topic,
        "group": selection.group,
        "cluster": selection.place.cluster,
        "partition": letter.origin_partition,
        "position": letter.origin_position or None,
        "headers": dict(record.headers),
        "content_type": record.content_type,
        "size": len(record.value),
    }
    return details | (body_fields(record.value) if body else {})


@dlq.command()
@choosing
@changing
@pass_session
def purge(session: Session, /, yes: bool, dry_run: bool, **options: Any) -> int:
    """Remove the chosen letters: no `dlq` command finds them again. Their bytes go when all before them are removed too."""
    selection = Selection(session, options)
    total = selection.count()
    name = deadletters.topic_of(selection.topic, selection.group)
    bytes_go = f"their bytes leave {name} when all before them are removed too"
    plan = f"remove {total:,} dead letters of {selection.topic}/{selection.group}: nothing brings them back; {bytes_go}"
    if total and not session.confirmed([plan], yes, dry_run):
        return DONE
    purged, failed = _purge(session, selection) if total else (0, 0)
    _trim(session, selection)
    session.out.fields({"purged": purged, "failed": failed})
    return FOUND if failed else DONE


def _trim(session: Session, selection: Selection) -> None:
    """What is all done need not be kept. A failure is told and no reason to call the rest one: the next call tries again."""
    try:
        deadletters.trim(session.backend(selection.place.cluster), selection.topic, selection.group)
    except MqError as error:
        session.out.warn(f"what is done could not be removed from {deadletters.topic_of(selection.topic, selection.group)}: {error.what}")


def _purge(session: Session, selection: Selection) -> tuple[int, int]:
    """(removed, not confirmed): by chunks, so that an interrupted purge has removed what it said."""
    remover = deadletters.Remover(session.backend(selection.place.cluster), selection.topic, selection.group, session.clock_ms)
    purged = failed = 0
    letters = selection.letters()
    while chunk := list(islice(letters, PURGE_CHUNK)):
        removed = remover.remove(chunk, session.timeout_s or REMOVE_TIMEOUT_S)
        purged += removed
        failed += len(chunk) - removed
    return purged, failed


# --- redrive ---------------------------------------------------------------------------------------------------------------------


def per_second(text: str) -> float:
    """`100/s`, `30/m` or `5/h`. An option type of click."""
    try:
        return units.per_second(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@dlq.command()
@choosing
@click.option("--rate", type=per_second, metavar="R", help="At most so many, as 100/s or 30/m.")
@changing
@pass_session
def redrive(session: Session, /, yes: bool, dry_run: bool, rate: float | None, **options: Any) -> int:
    """Give the chosen letters to their group once more, attempts counted from 1; each is removed when its copy is confirmed."""
    selection = Selection(session, options)
    _check_redrive(session, selection)
    total = selection.count()
    if total and not session.confirmed(_redrive_plan(selection, total), yes, dry_run):
        return DONE
    tally = _redrive(session, selection, total, rate) if total else Moved()
    _trim(session, selection)
    if tally.doubled:
        session.out.warn(f"{tally.doubled:,} letters were copied but could not be removed: another redrive handles them twice")
    session.out.fields({"moved": tally.moved, "skipped": tally.skipped, "failed": tally.failed})
    return FOUND if tally.failed else DONE


def _check_redrive(session: Session, selection: Selection) -> None:
    """A group that reads them must exist, on a backend whose consumers read a retry topic. Raises NotFound, Refused."""
    cluster = selection.place.cluster
    if is_delayed(selection.topic, selection.group):
        return
    session.group(selection.topic, selection.group, cluster)
    if not session.backend(cluster).capabilities.companions:
        raise Refused(
            f"cluster {cluster} has no redrive: its consumers read one topic only",
            where=f"{selection.topic}/{selection.group}",
            fix="the letters stay as they are; `mqsdk dlq show --body` gives what is needed to publish one again",
        )


def _redrive_plan(selection: Selection, total: int) -> list[str]:
    target = target_of(selection.topic, selection.group)
    if is_delayed(selection.topic, selection.group):
        return [f"move {total:,} dead letters of delayed messages to {target}, from where their topics are tried again"]
    creation = [f"create topic {target} on cluster {selection.place.cluster}"] if selection.place.admin.partitions(target) is None else []
    return [*creation, f"move {total:,} dead letters of {selection.topic}/{selection.group} to {target}, which only this group reads"]


def _redrive(session: Session, selection: Selection, total: int, rate: float | None) -> Moved:
    timeout_s = session.timeout_s or REMOVE_TIMEOUT_S
    work = Redrive(session.backend(selection.place.cluster), selection.topic, selection.group, session.clock, timeout_s)
    tally = Moved()
    with _bar(session, total) as bar:
        for tally in work.run(selection.letters(), rate):
            bar(sum(tally[:3]), 0)
    return tally


def _bar(session: Session, total: int) -> AbstractContextManager[Bar]:
    """A progress bar when stderr is a terminal; without one, nothing of rich is loaded."""
    if session.out.json or session.out.quiet or not sys.stderr.isatty():
        return nullcontext(lambda _messages, _size: None)
    from mqsdk.cli.drawing import progress_bar

    return progress_bar("redrive", None, total)
