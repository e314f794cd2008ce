"""`mqsdk <backend> <tool>`: commands made from what an adapter brings along (`mqsdk.spi.tools`). The adapter gives data; drawn here."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from mqsdk.cli.exits import DONE, FOUND, REFUSED
from mqsdk.cli.output import Column, bytes_text, printable, seconds_text, text_of, time_text
from mqsdk.cli.session import Command, Family, Session, pass_session
from mqsdk.errors import ConfigError
from mqsdk.spi.tools import Advance, Call, Field, Line, Parameter, Plan, Remark, Report, Tool, Toolbox

if TYPE_CHECKING:
    from collections.abc import Callable

_SHOW: dict[str, Callable[[Any], str]] = {
    "text": text_of,
    "plain": lambda value: "-" if value is None else printable(str(value)),
    "bytes": bytes_text,
    "seconds": seconds_text,
    "time": lambda value: text_of(time_text(value)),
}


def family(kind: str, box: Toolbox) -> click.Group:
    """The command of a backend with its tools as sub-commands."""
    group = Family(kind, help=box.help)
    for tool in box.tools:
        group.add_command(_command(kind, box, tool))
    return group


def _command(kind: str, box: Toolbox, tool: Tool) -> click.Command:
    @pass_session
    def call(session: Session, /, **given: Any) -> int:
        yes, dry_run = given.pop("yes", False), given.pop("dry_run", False)
        cluster, place = given.pop("cluster"), given.pop("place", None)
        name, options = _target(session, kind, box, cluster, place)
        with _bar(session, tool.name) as advance:
            wanted = Call(name, options, given, advance)
            if tool.look is not None:
                return _shown(session, tool.look(wanted))
            assert tool.plan is not None
            plan = tool.plan(wanted)
        return _changed(session, tool.name, plan, yes, dry_run)

    parameters = [_parameter(one) for one in tool.parameters]
    parameters.append(
        click.Option(["--cluster"], metavar="NAME", help=f"A cluster of the configuration, where several are of kind {kind}.")
    )
    if box.place is not None:
        parameters.append(click.Option([box.place.name, "place"], metavar="DIR", help=box.place.help))
    if tool.plan is not None:
        parameters.append(click.Option(["--yes"], is_flag=True, help="Do not ask."))
        parameters.append(click.Option(["--dry-run"], is_flag=True, help="Print the plan, change nothing."))
    return Command(tool.name, callback=call, params=parameters, help=tool.help)


def _parameter(one: Parameter) -> click.Parameter:
    kinds: dict[str, Any] = {"text": str, "number": click.IntRange(0), "place": _place, "flag": bool}
    if not one.name.startswith("-"):
        return click.Argument([one.key], type=kinds[one.kind], required=one.required, metavar=one.name)
    names = [name for name in (one.name, one.short, one.key) if name]
    if one.kind == "flag":
        return click.Option(names, is_flag=True, help=one.help)
    metavar = {"number": "N", "place": "PLACE", "text": "TEXT"}[one.kind]
    return click.Option(names, type=kinds[one.kind], required=one.required, metavar=metavar, help=one.help)


def _place(text: str) -> int | datetime:
    """A position, or a time as everywhere. An option type of click."""
    from mqsdk.runtime.reading import parse_time

    if text.isascii() and text.isdecimal():
        return int(text)
    try:
        return parse_time(text, datetime.now(UTC))
    except ValueError as error:
        raise click.BadParameter(f"{error}, or a position") from error


def _target(session: Session, kind: str, box: Toolbox, cluster: str | None, place: str | None) -> tuple[str, Mapping[str, Any]]:
    """(name of the cluster, its options): what the options name, else the only cluster of this kind. Raises ConfigError."""
    if place is not None and cluster is not None:
        raise click.UsageError(f"either --cluster or {box.place.name if box.place else ''}, not both")
    if place is not None:
        return "", {box.place_key: place}
    configuration = session.configuration()
    mine = {name: one for name, one in configuration.clusters.items() if one.backend == kind}
    fix = f"clusters of kind {kind}: {', '.join(mine) or 'none'}"
    if cluster is None and len(mine) == 1:
        cluster = next(iter(mine))
    if cluster is None:
        what = f"{len(mine)} clusters are of kind {kind}: which one is meant?" if mine else f"no cluster is of kind {kind}"
        raise ConfigError(what, where=configuration.source, fix=f"name it with --cluster; {fix}" if mine else _instead(box))
    if cluster not in mine:
        raise ConfigError(f"cluster {cluster} is not one of kind {kind}", where=configuration.source, fix=fix)
    return cluster, mine[cluster].options


def _instead(box: Toolbox) -> str:
    return f"{box.place.name} names one without a configuration" if box.place else "configure one"


def _changed(session: Session, name: str, plan: Plan, yes: bool, dry_run: bool) -> int:
    if plan.steps and not session.confirmed(plan.steps, yes, dry_run):
        return FOUND if plan.wrong else DONE
    if dry_run:
        session.out.plan(["nothing is to be done"])
        return DONE
    with _bar(session, name) as advance:
        report = plan.apply(advance)
    return _shown(session, report)


# --- showing -------------------------------------------------------------------------------------------------------------------------


def _shown(session: Session, report: Report) -> int:
    if report.lines is not None:
        return FOUND if _streamed(session, report.lines) else DONE
    out = session.out
    if out.json:
        out.document({**{table.name: list(table.rows) for table in report.tables}, **report.facts})
    else:
        shown = [table for table in report.tables if table.fields and (table.rows or table.empty)]
        for number, table in enumerate(shown):
            if number:
                out.write("")
            out.show(table.name, table.rows, [_column(one) for one in table.fields], table.empty)
        for remark in report.remarks:
            _say(session, remark)
        if report.facts:
            out.fields({name.replace("_", " "): value for name, value in report.facts.items()})
    return REFUSED if report.refused else FOUND if report.wrong else DONE


def _say(session: Session, remark: Remark) -> None:
    session.out.write(f"  {remark.kind:8} {printable(remark.where)}: {printable(remark.what)}")
    if remark.fix:
        session.out.write(f"           fix: {printable(remark.fix)}")


def _streamed(session: Session, lines: Iterable[Line]) -> bool:
    """Whether one of them tells of something wrong."""
    wrong = False
    for line in lines:
        wrong = wrong or line.wrong
        if session.out.json:
            session.out.document(line.row)
        else:
            session.out.write(printable_lines(line.text))
        if session.out.closed:
            break
    return wrong


def printable_lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))


def _column(one: Field) -> Column:
    return Column(one.key, one.figure, _SHOW[one.show])


@contextmanager
def _bar(session: Session, label: str) -> Iterator[Advance]:
    """A bar on stderr from the first report on, where stderr is a terminal; without one, nothing of rich is loaded."""
    if session.out.json or session.out.quiet or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from mqsdk.cli.drawing import BytesBar

    bar = BytesBar(label)
    try:
        yield bar
    finally:
        bar.close()
