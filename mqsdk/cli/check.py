"""`check`: is this configuration valid, what would a reload change, and can the clusters do what the application asks?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mqsdk.cli.applications import environment, load_app
from mqsdk.cli.exits import DONE, INVALID
from mqsdk.cli.output import Column, printable, text_of
from mqsdk.cli.session import Command, Session, pass_session
from mqsdk.errors import ConfigError, MqError, Problem

if TYPE_CHECKING:
    from mqsdk.api.app import App
    from mqsdk.config.model import Configuration


@click.command(cls=Command)
@click.argument("file", required=False)
@click.option("--app", "target", metavar="MODULE:APP", help="Also show where its topics go, and check what its consumers need there.")
@click.option("--diff", "old", metavar="OLD", help="Also say what a reload from this file would change.")
@pass_session
def check(session: Session, file: str | None, target: str | None, old: str | None) -> int:
    """Validate FILE (default: the configuration in force here) without connecting."""
    session.config = file or session.config
    report: dict[str, list[dict[str, Any]]] = {"problems": [], "changes": []}
    configuration = _collect(report, lambda: session.configuration())
    if configuration is not None:
        for notice in configuration.notices:
            session.out.warn(printable(notice))
        for cluster in configuration.clusters.values():
            _collect(report, lambda cluster=cluster: environment(session).make_backend(cluster), key=f"clusters.{cluster.name}")
        if old is not None:
            _diff(session, report, configuration, old)
        if target is not None:
            app = load_app(session, target)
            report["consumers"] = _consumers(session, report, configuration, app)
            report["topics"] = _other_topics(report, configuration, app)
    _show(session, report, configuration)
    return INVALID if report["problems"] else DONE


def _collect(report: dict[str, list[dict[str, Any]]], step: Any, key: str = "") -> Any:
    """The step's result, or None with its problems in the report: everything wrong is named at once."""
    try:
        return step()
    except ConfigError as error:
        problems: Sequence[Problem] = error.problems or [Problem(key, error.what, error.fix)]
        report["problems"] += [_problem(one) for one in problems]
    except MqError as error:
        report["problems"].append(_problem(Problem(key, error.what, error.fix)))
    return None


def _problem(problem: Problem) -> dict[str, Any]:
    names = ("key", "file", "line", "column", "what", "fix")
    return {name: getattr(problem, name) for name in names}


def _diff(session: Session, report: dict[str, list[dict[str, Any]]], new: Configuration, old: str) -> None:
    from mqsdk.config.diff import changes
    from mqsdk.config.load import load

    before = _collect(report, lambda: load(old, environment=session.environment))
    if before is not None:
        report["changes"] = [{"key": one.key, "old": one.old, "new": one.new, "applies": one.applies} for one in changes(before, new)]


# --- what consumers need ---------------------------------------------------------------------------------------------------------


def _consumers(session: Session, report: dict[str, list[dict[str, Any]]], configuration: Configuration, app: App) -> list[dict[str, Any]]:
    """One row per consumer: its cluster and what it needs. What cannot work becomes a problem."""
    from mqsdk.api.session import Session as Opened
    from mqsdk.runtime.halts import check_retries
    from mqsdk.runtime.launching import check_capabilities

    opened = Opened(configuration, environment(session), app._name or configuration.app)
    rows = []
    for (topic, group), declaration in app._declared.items():
        key = f"{topic}/{group}"
        route = configuration.route(topic)
        rows.append({"topic": topic, "group": group, **routed(configuration, topic), "needs": needs(declaration)})
        built = _collect(report, lambda one=declaration: opened.build([one], app._middleware)[0], key)
        if route is None:
            report["problems"].append(_problem(Problem(key, f"no route matches topic {topic}", "add one to `routes:`")))
        elif built is not None:
            cluster = configuration.clusters[route.cluster]
            _collect(
                report,
                lambda one=built, cluster=cluster: check_capabilities(
                    one, environment(session).make_backend(cluster).capabilities, cluster.name
                ),
                key,
            )
            _collect(
                report,
                lambda one=built, cluster=cluster: check_retries(
                    one, opened.supervisor.whole_tuning(one), environment(session).make_backend(cluster).capabilities, cluster.name
                ),
                key,
            )
    return rows


def routed(configuration: Configuration, topic: str) -> dict[str, Any]:
    """The cluster of a topic, and what says so: the key of the route, its file and line, 0 for the one that stands behind everything."""
    route = configuration.route(topic)
    if route is None:
        return {"cluster": None, "route": None, "file": "", "line": 0}
    key = f"routes[{configuration.routes.index(route)}]"
    return {"cluster": route.cluster, "route": key, "file": route.file, "line": route.line}


def _other_topics(report: dict[str, list[dict[str, Any]]], configuration: Configuration, app: App) -> list[dict[str, Any]]:
    """Topics that no consumer reads and yet are known: those of dead letters by `dead_letter=`, those that `topics:` names."""
    letters = {declaration.dead_letter: name for name, declaration in app._declared.items() if declaration.dead_letter is not None}
    named = [rule.pattern for rule in configuration.topics if "*" not in rule.pattern]
    read = {topic for topic, _ in app._declared}
    rows = [{"topic": topic, **routed(configuration, topic)} for topic in dict.fromkeys((*letters, *named)) if topic not in read]
    for row in rows:
        if row["cluster"] is None:
            key = "/".join(letters[row["topic"]]) if row["topic"] in letters else "topics"
            report["problems"].append(_problem(Problem(key, f"no route matches topic {row['topic']}", "add one to `routes:`")))
    return rows


def _placed(row: dict[str, Any]) -> dict[str, Any]:
    """As people read it."""
    if row["route"] is None:
        return {**row, "route": "none"}
    return {**row, "route": f"{row['file']}:{row['line']}" if row["line"] else "(default)"}


def needs(declaration: Any) -> list[str]:
    """The capabilities that a declaration asks for, by their names in `Capabilities`."""
    asked = {
        "ordered": declaration.ordered,
        "history": declaration.start == "earliest",
        "by_time": declaration.start not in (None, "earliest", "latest"),
        "attempts": getattr(declaration.tuning.get("retry"), "halts", False),
    }
    return [name for name, wanted in asked.items() if wanted]


def _show(session: Session, report: dict[str, list[dict[str, Any]]], configuration: Configuration | None) -> None:
    out = session.out
    if out.json:
        out.document(report)
        return
    for problem in report["problems"]:
        out.write(printable(str(Problem(**problem))))
    for change in report["changes"]:
        out.write(printable(f"{change['applies']:7}  {change['key']}: {text_of(change['old'])} -> {text_of(change['new'])}"))
    if report.get("consumers"):
        columns = (Column("topic"), Column("group"), Column("cluster"), Column("route"), Column("needs"))
        out.show("consumers", [_placed(row) for row in report["consumers"]], columns, "")
    if report.get("topics"):
        out.show("topics", [_placed(row) for row in report["topics"]], (Column("topic"), Column("cluster"), Column("route")), "")
    if configuration is not None and not report["problems"]:
        out.say(f"{configuration.source or 'the defaults'}: valid")
