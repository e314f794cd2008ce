"""What makes an open App follow its configuration: the watcher of its file or of its remote source."""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import TYPE_CHECKING

from mqsdk.config.load import DEFAULT_FILE, find
from mqsdk.config.origin import is_remote, source_of
from mqsdk.errors import ConfigError
from mqsdk.events import Reloaded
from mqsdk.runtime.watch import SourceWatch, Watch, Watcher

if TYPE_CHECKING:
    from mqsdk.api.app import App

LOG = logging.getLogger("mqsdk.config")


def watcher(app: App, config: str | None) -> Watcher:
    """Made before the configuration is read for the first time, so that no change in between is missed. Raises ConfigError for an address
    that no source has."""
    place = find(config, os.environ) or DEFAULT_FILE
    reload = partial(app._reload, watched=True)
    if not is_remote(place):
        return Watcher(
            Watch(os.path.abspath(place), reload, is_due=partial(_is_due, app), same=partial(_same, app)), partial(_every_s, app)
        )
    source = SourceWatch(
        source_of(place),
        lambda content: reload(content=content),
        trouble=partial(_trouble, app),
        was_down=partial(_was_down, app),
        answers=partial(_answers, app),
        is_due=partial(_is_due, app),
        same=partial(_same, app),
    )
    return Watcher(source, partial(_every_s, app))


def _same(app: App, began_at: float) -> None:
    """The configuration in force is the one that the source gives."""
    session = app._session
    if session is not None:
        session.supervisor.proof.looked(began_at)


def _every_s(app: App) -> float | None:
    session = app._session
    return session.configuration.reload.every_s if session is not None and session.configuration.reload.watch else None


def _was_down(app: App) -> bool:
    session = app._session
    return session is not None and session.configuration.cached


def _is_due(app: App) -> bool:
    session = app._session
    return session is not None and session.behind.is_due


def _answers(app: App) -> None:
    if app._session is not None:
        app._session.behind.unread = None


def _trouble(app: App, error: ConfigError) -> None:
    """A source that gives nothing. What it gives and is refused `reloading` tells."""
    session = app._session
    if session is not None:
        session.behind.unread = error
        LOG.error("the configuration stays as it is: %s", error)
        session.supervisor.environment.observe(Reloaded("refused", session.configuration.version, problem=str(error)))
