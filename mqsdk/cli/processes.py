"""`ps`, `reload`, `stacks`: running mqsdk processes of this host and user, over their control sockets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from mqsdk.cli.exits import DONE, FOUND, NotFound
from mqsdk.cli.output import Column, Output, printable, seconds_text
from mqsdk.cli.session import Command, Session, pass_session
from mqsdk.errors import Problem
from mqsdk.runtime import control
from mqsdk.runtime.control import Reply


@click.command(cls=Command)
@pass_session
def ps(session: Session) -> None:
    """List running processes with their consumers."""
    rows = [
        {
            "pid": reply.pid,
            "app": reply.document.get("app"),
            "state": reply.document.get("state", "no answer"),
            "config": reply.document.get("config"),
            "behind": reply.document.get("behind"),
            "sdk": reply.document.get("sdk"),
            "consumers": reply.document.get("consumers", []),
        }
        for reply in control.ask_all("status")
    ]
    columns = (
        Column("pid", True, str),
        Column("app"),
        Column("state"),
        Column("config", True),
        Column("sdk"),
        Column("consumers", show=_consumers_text),
    )
    out = session.out
    if out.json:
        out.document({"processes": rows})
        return
    out.show("processes", [_marked(row) for row in rows], columns, "no mqsdk process is running")
    for row in rows:
        if row["behind"]:
            out.write(printable(f"{row['pid']} does not follow its configuration: {row['behind'].get('what')}"))
            _show_problems(out, row["behind"])


def _marked(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "config": f"{row['config']} (behind)"} if row["behind"] else row


def _show_problems(out: Output, error: Mapping[str, Any]) -> None:
    for line in [str(Problem(**one)) for one in error.get("problems", [])] or str(error.get("where", "")).splitlines():
        out.write("    " + printable(line.strip()))


def _consumers_text(consumers: Sequence[Mapping[str, Any]]) -> str:
    names = [f"{one.get('topic')}/{one.get('group')}" for one in consumers]
    places = [f" on {one.get('cluster')}" if names.count(name) > 1 else "" for name, one in zip(names, consumers, strict=True)]
    texts = [f"{name}{place} {_state_text(one)}" for name, place, one in zip(names, places, consumers, strict=True)]
    return ", ".join(map(printable, texts)) or "-"


def _state_text(consumer: Mapping[str, Any]) -> str:
    breaker, halted = consumer.get("breaker"), consumer.get("halted")
    notes = [f"breaker {breaker}"] if breaker not in (None, "closed") else []
    notes += [f"{len(halted)} halted"] if halted else []
    return f"{consumer.get('state')}" + (f" ({', '.join(notes)})" if notes else "")


@click.command(cls=Command)
@click.argument("target", default="all", metavar="[PID|all]")
@pass_session
def reload(session: Session, target: str) -> int:
    """Let processes read their configuration now; prints what changed in each."""
    rows: list[dict[str, Any]] = []
    for reply in _asked(target, "reload"):
        rows.append({"pid": reply.pid, **reply.document})
        if not session.out.json:
            _show_reload(session.out, reply)
    if session.out.json:
        session.out.document({"processes": rows})
    return FOUND if any("error" in row for row in rows) else DONE


def _show_reload(out: Output, reply: Reply) -> None:
    error = reply.document.get("error")
    if error:
        out.write(printable(f"{reply.pid}  refused: {error.get('what')}"))
        _show_problems(out, error)
        return
    changes = reply.document.get("changes", [])
    out.write(f"{reply.pid}  {'unchanged' if not changes else f'{len(changes)} changed'}")
    for change in changes:
        out.write(printable(f"    {change.get('key')}: {change.get('old')} -> {change.get('new')}"))


@click.command(cls=Command)
@click.argument("target", default="all", metavar="[PID]")
@pass_session
def stacks(session: Session, target: str) -> None:
    """Running handlers: message id, age and stack (code places only)."""
    replies = _asked(target, "stacks")
    if session.out.json:
        session.out.document({"processes": [{"pid": reply.pid, **reply.document} for reply in replies]})
        return
    for reply in replies:
        handlers = reply.document.get("handlers", [])
        session.out.write(f"{reply.pid}  {len(handlers)} running")
        for one in handlers:
            session.out.write(printable(f"    {one.get('topic')}/{one.get('group')}  {one.get('id')}  {seconds_text(one.get('age_s'))}"))
            for line in str(one.get("stack", "")).splitlines():
                session.out.write("        " + printable(line))


def _asked(target: str, command: str) -> list[Reply]:
    """Replies of all processes, or of the one named. Raises NotFound when that one is not running."""
    if target == "all":
        return control.ask_all(command)
    if not target.isdecimal():
        raise click.BadParameter("a process number or `all`", param_hint="PID")
    reply = control.ask(int(target), command)
    if reply is None:
        raise NotFound(f"no mqsdk process {target} of this user is running", fix="`mqsdk ps` lists them")
    return [reply]
