"""`run`: consume until a signal, in one process or several."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from mqsdk.cli.applications import load_app, named_hook
from mqsdk.cli.exits import DONE, NotFound
from mqsdk.cli.session import Command, Session, pass_session
from mqsdk.events import Event, Reloaded

if TYPE_CHECKING:
    from mqsdk.api.app import App
    from mqsdk.config.model import Cluster, Configuration

LOG = logging.getLogger("mqsdk.app")
MAX_PROCESSES = 256


@click.command(cls=Command)
@click.argument("target", metavar="MODULE:APP")
@click.option("--processes", type=click.IntRange(1, MAX_PROCESSES), default=1, show_default=True, help="How many share the work.")
@click.option("--only", metavar="GROUP,...", help="Only consumers of these groups.")
@click.option("--ports", type=int, default=1, hidden=True, help="Of how many processes this is one: each takes a port for its pages.")
@click.option("--parent", type=int, hidden=True, help="Descriptor that tells the parent's death.")
@pass_session
def run(session: Session, target: str, processes: int, only: str | None, ports: int, parent: int | None) -> int:
    """Consume until SIGTERM or Ctrl-C; a second signal ends the drain at once."""
    if processes > 1:
        return _run_children(session, target, processes, only)
    # Before the application is imported and clients are opened there is nothing to hand back: ending is all there is to do.
    signal.signal(signal.SIGTERM, _end_at_once)
    if parent is not None:
        from mqsdk.runtime.children import stop_when_parent_dies

        stop_when_parent_dies(parent)
    app = load_app(session, target)
    groups = None if only is None else _groups(app, only)
    configuration = app._load_ahead()
    _log(session, configuration.observability.log_level)
    app.observe(partial(_follow_level, app, session))
    app._doors.ports = ports
    app._startup[:] = [named_hook(hook) for hook in app._startup]
    app.on_startup(lambda: LOG.info(_running(app, groups)))
    from mqsdk.api import running

    return running.run(app, groups)


def _end_at_once(_number: int, _frame: object) -> None:
    """Ends in the middle of an import too, whatever that catches."""
    with suppress(Exception):  # the signal may have come in the middle of a write
        sys.stdout.flush()
    os._exit(DONE)


def _log(session: Session, level: str) -> None:
    from mqsdk.cli.logs import configure, level_of

    configure(level_of(level, session.out.quiet, session.out.verbose), session.out.json)


def _follow_level(app: App, session: Session, event: Event) -> None:
    """A reload may have changed `observability.log_level`; -q and -v are stronger."""
    if isinstance(event, Reloaded) and app._session is not None:
        from mqsdk.cli.logs import level_of

        level = level_of(app._session.configuration.observability.log_level, session.out.quiet, session.out.verbose)
        logging.getLogger("mqsdk").setLevel(level)


def _groups(app: App, only: str) -> list[str]:
    """The groups of `--only`. Raises NotFound for one that the App does not have."""
    known = {group for _, group in app._declared}
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    missing = [name for name in wanted if name not in known]
    if missing:
        raise NotFound(f"the App has no group {', '.join(missing)}", fix=f"it has {', '.join(sorted(known)) or 'none'}")
    return wanted


def _running(app: App, groups: Sequence[str] | None) -> str:
    """The start line: who this is, where its topics live and how durable that is, what it consumes."""
    session = app._session
    assert session is not None
    consumers = [f"{topic}/{group}" for topic, group in app._declared if groups is None or group in groups]
    clusters = _clusters(session.configuration, [topic for topic, group in app._declared if groups is None or group in groups])
    return f"app {session.supervisor.app}, pid {os.getpid()}; {clusters}; consumers {', '.join(consumers) or 'none'}"


def _clusters(configuration: Configuration, topics: Sequence[str]) -> str:
    routes = [configuration.route(topic) for topic in topics]
    names = dict.fromkeys(cluster for route in routes if route is not None for cluster in route.view.reads)
    return "; ".join(_cluster(configuration.clusters[name]) for name in names) or "no cluster"


def _cluster(cluster: Cluster) -> str:
    """Only what is certainly no secret: the kind, a log's folder and its durability."""
    shown = [f"{name} {cluster.options[name]}" for name in ("path", "durability") if name in cluster.options]
    return f"cluster {cluster.name} ({', '.join([cluster.backend, *shown])})"


# --- several processes -----------------------------------------------------------------------------------------------------------


def _run_children(session: Session, target: str, processes: int, only: str | None) -> int:
    from mqsdk.runtime.children import Children

    _log(session, "INFO")

    def command(descriptor: int) -> list[str]:
        options = [f"--parent={descriptor}", f"--ports={processes}", *([f"--only={only}"] if only is not None else []), *_common(session)]
        return [sys.executable, "-m", "mqsdk.cli", "run", *options, "--", target]

    return Children(command, processes, LOG.warning).run()


def _common(session: Session) -> list[str]:
    """The common options as a child is given them."""
    out = session.out
    given: dict[str, Any] = {"--config": session.config, "--env": session.environment}
    words = [f"{name}={value}" for name, value in given.items() if value is not None]
    words += [f"--timeout={session.timeout_s:f}s"] if session.timeout_s else []
    return words + ["--json"] * out.json + ["-q"] * out.quiet + ["-v"] * out.verbose
