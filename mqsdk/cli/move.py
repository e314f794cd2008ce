"""`move`: a topic goes to another cluster, step by step, and back. Each command looks, waits for the gates of a step and edits the route.

Nothing is kept between two calls but the file: whoever is cut short runs the command again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

import click

from mqsdk.cli.comparing import document_of, show_shadows
from mqsdk.cli.exits import Refused
from mqsdk.cli.output import Column
from mqsdk.cli.piloting import ENDED, LOOK_S, Drive, Pilot, Seen, lines_of, piloting, viewed
from mqsdk.cli.session import Family, Session, changing, pass_session
from mqsdk.core import move as core
from mqsdk.core.comparison import Comparison
from mqsdk.core.move import Facts, Move, Stage

FENCES = 4  # fence times that a step is waited for, unless --timeout says otherwise
STAGES = click.Choice(list(get_args(Stage)))


@click.command(cls=Family)
def move() -> None:
    """Move a topic to another cluster while it is in use, step by step, and back."""


# --- looking ------------------------------------------------------------------------------------------------------------------------


@move.command()
@click.argument("topic")
@click.option("--to", required=True, metavar="CLUSTER", help="Where the topic shall go.")
@pass_session
def plan(session: Session, topic: str, to: str) -> None:
    """What a move of TOPIC will do, for whom, and what the new cluster cannot keep. Changes nothing."""
    with piloting(session, topic, to) as pilot:
        here = pilot.read()
        seen = pilot.look(here, core.ahead(here.stage))
        losses = list(_losses(session, here, seen.facts))
        steps = list(_steps(here))
        if session.out.json:
            session.out.document({**seen.document(), "steps": steps, "losses": losses})
            return
        session.out.write(f"topic {topic}: {here.source} -> {here.target}, now in stage {here.stage}")
        _show_groups(session, seen)
        for number, step in enumerate(steps, 1):
            session.out.write(f"{number}. {step}")
        for loss in losses:
            session.out.write(f"! {loss}")


def _steps(move: Move) -> Iterator[str]:
    a, b = move.source, move.target
    says: dict[Stage, str] = {
        "read_both": f"every group is made on {b}, and consumers read {a} and {b}; publishes go to {a}",
        "switch_write": f"publishes go to {b}, once {a} has answered all before; consumers read both, what is left on {a} first",
        "target": f"once {a} is empty for every group and silent for the fence time: consumers read {b} only",
    }
    stage = core.ahead(move.stage)
    while stage is not None:
        yield f"{stage}: {says[stage]}"
        stage = core.ahead(stage)
    yield f"the end: the route says `cluster: {b}`; until then `mqsdk move rollback {move.topic}` leads back from every stage"


def _losses(session: Session, move: Move, facts: Facts) -> Iterator[str]:
    """What cannot be kept, or stands in the way."""
    source, target = (session.clusters.backend(name) for name in (move.source, move.target))
    old, new = source.capabilities, target.capabilities
    if facts.ordered and not old.read_by_position:
        yield f"ordered consumers cannot leave {move.source} ({source.kind}): it cannot tell how far a group is"
    if facts.ordered and not new.read_by_position:
        yield f"ordered consumers cannot come back once publishes go to {move.target} ({target.kind}): it cannot tell how far a group is"
    lost = [
        ("ordered", "order per key"),
        ("history", "that a late group sees what was published before"),
        ("replay", "replay (`offsets reset`)"),
        ("broadcast", "broadcasts"),
        ("retention", "`retention` by topic"),
        ("companions", "`dlq redrive`"),
    ]
    for name, what in lost:
        if getattr(old, name) and not getattr(new, name):
            yield f"{move.target} ({target.kind}) cannot keep {what}"
    if old.delay != "none" and new.delay == "none":
        yield f"{move.target} ({target.kind}) cannot delay messages"
    yield f"dead letters stay on {move.source}: `mqsdk dlq list {move.topic} GROUP --cluster {move.source}`"
    delayed = sum(one.delayed for one in facts.backlogs if one.cluster == move.source)
    if delayed:
        yield f"{delayed:,} delayed messages on {move.source} are waited for before stage target"


@move.command()
@click.argument("topic")
@pass_session
def status(session: Session, topic: str) -> None:
    """Where the move of TOPIC is: stage, gates of the next step, instances, and what groups have left on each cluster.

    With --timeout it watches for so long first, so that it can tell who is gone and how long a cluster is silent.
    """
    with piloting(session, topic) as pilot:
        here = pilot.read()
        seen = pilot.look(here, core.ahead(here.stage))
        end = session.clock.mono() + (session.timeout_s or 0.0)
        with viewed(session) as show:
            while session.clock.mono() < end:
                session.clock.sleep(LOOK_S)
                here = pilot.read()
                seen = pilot.look(here, core.ahead(here.stage))
                show(seen)
        _show(session, seen, pilot.compared(here))


def _show(session: Session, seen: Seen, shadows: Comparison | None) -> None:
    if session.out.json:
        extra = {} if shadows is None else {"shadows": document_of(shadows)}
        session.out.document({**seen.document(), **extra})
        return
    for line in lines_of(seen):
        session.out.write(line)
    _show_groups(session, seen)
    rows = [one._asdict() for one in seen.facts.instances]
    columns = (Column("name"), Column("stage"), Column("epoch", True, str), Column("waits_for"), Column("gone"))
    session.out.show("instances", rows, columns, "no instance reports this topic")
    if shadows is not None:
        show_shadows(session, seen, shadows)


def _show_groups(session: Session, seen: Seen) -> None:
    rows = [one._asdict() for one in seen.facts.backlogs]
    columns = (Column("group"), Column("cluster"), Column("messages", True), Column("delayed", True), Column("members", True))
    session.out.show("groups", rows, columns, f"no group reads topic {seen.move.topic} yet")


# --- changing -----------------------------------------------------------------------------------------------------------------------


@move.command()
@click.argument("topic")
@click.option("--to", default="", metavar="CLUSTER", help="Where the topic shall go; to begin a move.")
@click.option("--auto", is_flag=True, help="Go on to stage target, step by step, as gates hold.")
@click.option("--dual-write", is_flag=True, help="From read_both to dual_write, which writes to both clusters and compares them.")
@changing
@pass_session
def advance(session: Session, topic: str, to: str, auto: bool, dual_write: bool, yes: bool, dry_run: bool) -> None:
    """Make the next step of TOPIC's move when its gates hold; at stage target end it. --timeout bounds the wait (with --auto: none)."""
    with piloting(session, topic, to) as pilot:
        here = pilot.read()
        if auto and here.stage == "target":
            raise Refused(f"topic {topic} is in stage target", fix=f"`mqsdk move advance {topic}` ends the move")
        wanted = ["target"] if auto else [core.ahead(here.stage, doubled=dual_write) or ENDED]
        if not session.confirmed([f"topic {topic}: {here.source} -> {here.target}, from stage {here.stage} to {wanted[0]}"], yes, dry_run):
            return
        if here.stage == "source":
            _check_leave(session, here)
        wait_s = _wait_s(session, pilot, auto)
        Drive(session, pilot, lambda one: core.ahead(one.stage, doubled=dual_write), wait_s).run(None if auto else 1)


def _check_leave(session: Session, move: Move) -> None:
    if session.clusters.backend(move.source) is session.clusters.backend(move.target):
        raise Refused(f"clusters {move.source} and {move.target} are one")


def _wait_s(session: Session, pilot: Pilot, endless: bool) -> float | None:
    return session.timeout_s if session.timeout_s is not None or endless else FENCES * pilot.fence_s


@move.command()
@click.argument("topic")
@click.option("--to-stage", type=STAGES, default="source", help="How far back; default: source.")
@click.option(
    "--now", is_flag=True, help="Publish to the old cluster at once; the order of ordered consumers is given up across this step."
)
@changing
@pass_session
def rollback(session: Session, topic: str, to_stage: Stage, now: bool, yes: bool, dry_run: bool) -> None:
    """Take the move of TOPIC back, as far as --to-stage, each step when its gates hold; at stage source end the move."""
    with piloting(session, topic) as pilot:
        here = pilot.read()
        ordered = not now and pilot.is_ordered(here)
        steps: Sequence[str] = core.back(here.stage, to_stage, ordered)
        if now:
            at_once = core.at_once(here.stage)
            if at_once is None:
                raise Refused(f"topic {topic} is in stage source: there is nothing to go back from")
            steps = [f"{at_once} at once, whatever that does to the order"]
        if here.stage == to_stage == "source":
            steps = ["the end of the move"]
        if not steps:
            raise Refused(f"stage {to_stage} does not lie behind {here.stage}", fix=f"mqsdk move advance {topic}")
        if not session.confirmed([f"topic {topic}: from stage {here.stage} back to {', '.join(steps)}"], yes, dry_run):
            return
        drive = Drive(session, pilot, lambda one: _back(one, to_stage, ordered), wait_s=_wait_s(session, pilot, False))
        if now:
            pilot.write(here, core.at_once(here.stage) or "source", now=True)
            drive.made.append(core.at_once(here.stage) or "source")
            drive.finish()
        else:
            drive.run(1 if here.stage == "source" else None)


def _back(move: Move, wanted: Stage, ordered: bool) -> Stage | None:
    return next(iter(core.back(move.stage, wanted, ordered)), None)
