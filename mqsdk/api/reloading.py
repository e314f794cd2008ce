"""Reload: read the configuration now, take the whole of it or nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from mqsdk.config import diff
from mqsdk.config.diff import Change
from mqsdk.config.model import Configuration
from mqsdk.config.origin import SourceDown
from mqsdk.errors import ConfigError, Problem
from mqsdk.events import Event, Reloaded, SettingChanged
from mqsdk.runtime.changing import NotYet

if TYPE_CHECKING:
    from mqsdk.api.session import Session
    from mqsdk.runtime.changing import Prepared
    from mqsdk.spi import Backend

LOG = logging.getLogger("mqsdk.config")


def reload(
    session: Session, load: Callable[[], Configuration], topics: Sequence[str], notify: Callable[[Event], None], watched: bool = False
) -> list[Change]:
    """Apply what `load` gives and return what changed. topics: those that consumers or publishers of this process use.

    watched: the file was looked at, nobody asked: when nothing changed, nothing is told.

    Raises ConfigError when the file is not valid or changes something that a running process cannot take; the old configuration stays.
    """
    old = session.configuration
    try:
        new = load()
        changes = diff.changes(old, new)
        _refuse(session, new, changes)
        opened = session.supervisor.opened_anew(new, _changed_clients(session, changes))
        prepared = _prepared(session, new, topics, opened)
    except ConfigError as error:
        _refused(session, error)
        LOG.error("reload refused, the previous configuration stays: %s", error)
        notify(Reloaded("refused", old.version, problem=str(error)))
        session.supervisor.reporting.refused(error)
        raise
    if not changes:
        session.behind.follow()
        if not watched:
            tell(new)
            notify(Reloaded("unchanged", old.version))
        return []
    session.apply(new.with_version(old.version + 1), opened, prepared)
    session.behind.follow()
    tell(new)
    told = tuple((change.key, str(change.old), str(change.new)) for change in changes)
    for change, pair in zip(changes, told, strict=True):
        LOG.info("configuration: %s", change)
        notify(SettingChanged(*pair, old.version + 1))
    notify(Reloaded("applied", old.version + 1, told))
    return changes


def _refused(session: Session, error: ConfigError) -> None:
    """Note it for `mqsdk ps`, and for the watcher when it may pass by itself."""
    if isinstance(error, SourceDown):
        session.behind.unread = error
    elif isinstance(error, NotYet):
        topics, is_unfinished = error.topics, session.supervisor.switching.is_unfinished
        session.behind.refuse(error, lambda: not any(map(is_unfinished, topics)))
    else:
        session.behind.refuse(error)


def tell(configuration: Configuration) -> None:
    """Warn of what stands in a configuration that is taken all the same."""
    for notice in configuration.notices:
        LOG.warning("%s", notice)


def _refuse(session: Session, new: Configuration, changes: Sequence[Change]) -> None:
    """Every reason at once, each key named."""
    problems = [
        Problem(change.key, "takes effect after a restart only", "restart, or undo the change", new.source)
        for change in changes
        if change.applies == "restart"
    ]
    needed = {f"clusters.{name}.backend" for name in session.supervisor.switching.in_use()}
    what = "is needed until what topics have left on this cluster is handled, and for a day after"
    problems += [Problem(change.key, what, "undo the change", new.source) for change in changes if change.key in needed]
    problems += session.supervisor.refused(new)
    if problems:
        raise ConfigError.of(problems)


def _prepared(session: Session, new: Configuration, topics: Sequence[str], opened: Mapping[str, Backend]) -> Prepared:
    """Topics in use whose route leads elsewhere. When one cannot go there nothing changes, and the new clients are closed."""
    supervisor = session.supervisor
    try:
        return supervisor.switching.prepare(new, topics, opened)
    except ConfigError:
        supervisor.discard(opened)
        raise


def _changed_clients(session: Session, changes: Sequence[Change]) -> list[str]:
    """Open clusters whose address, credentials or client options change: each gets a new client before the old one goes."""
    live = [change.key for change in changes if change.applies == "live"]
    return [name for name in session.supervisor.clusters.opened() if any(key.startswith(f"clusters.{name}.") for key in live)]
