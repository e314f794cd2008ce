"""What an App answers over HTTP while its consumers run: `/live`, `/ready`, `/metrics`, `/consumers`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mqsdk.api import controlling
from mqsdk.api.state import State
from mqsdk.errors import MissingExtra
from mqsdk.runtime import metrics
from mqsdk.runtime.lags import Lags
from mqsdk.runtime.pages import JSON, TEXT, Page, Pages, PageServer

if TYPE_CHECKING:
    from mqsdk.api.app import App
    from mqsdk.api.session import Session
    from mqsdk.runtime.inspection import ConsumerInfo


class Telling:
    """The pages of one App that runs. `close` ends the server and what it asks for."""

    def __init__(self, app: App, session: Session, listen: str, ports: int = 1) -> None:
        supervisor = session.supervisor
        self._lags = Lags(supervisor.lag, supervisor.pairs, supervisor.environment.clock)
        self._server = PageServer(listen, pages(app, session, self._lags), lambda: session.configuration.observability.token, ports)

    @property
    def port(self) -> int:
        return self._server.port

    def start(self) -> None:
        self._lags.start()
        self._server.start()

    def close(self) -> None:
        self._lags.close()
        self._server.close()


def pages(app: App, session: Session, lags: Lags) -> Pages:
    return {
        "/live": lambda: live(app, session),
        "/ready": lambda: ready(app),
        "/metrics": metrics_page(session, lags),
        "/consumers": lambda: consumers(app, session, lags),
    }


def live(app: App, session: Session) -> Page:
    """Asks no backend: one that does not answer is no reason to start this process anew."""
    given_up = session.supervisor.guard.given_up
    alive = not given_up and app.state is not State.CLOSED
    return _json(200 if alive else 503, {"live": alive, "problems": [given_up] if given_up else []})


def ready(app: App) -> Page:
    health = app.health()
    return _json(200 if health.ready else 503, {"ready": health.ready, "problems": list(health.problems)})


def consumers(app: App, session: Session, lags: Lags) -> Page:
    """As `mqsdk ps --json` tells them but for keys, with what became of their messages and their lag."""
    return _json(200, controlling.told(app, session, [_consumer(one, lags) for one in session.supervisor.consumers(with_lag=False)]))


def _consumer(one: ConsumerInfo, lags: Lags) -> dict[str, Any]:
    shown = controlling.shown(one)
    lag = lags.get(one.topic, one.group)
    return {
        **shown,
        "halted": [{name: value for name, value in halted.items() if name != "key"} for halted in shown["halted"]],
        "lag": None if lag is None else {"messages": lag.messages, "seconds": round(lag.seconds, 3)},
        "handled": one.handled,
        "failed": one.failed,
        "dead_lettered": one.dead_lettered,
        "oldest": None if one.oldest is None else {"id": one.oldest.id, "age_s": round(one.oldest.age_s, 3)},
    }


def metrics_page(session: Session, lags: Lags) -> Any:
    """Without prometheus-client the page says what to install, and the other pages are there all the same."""
    try:
        scrape = metrics.scraper(session.supervisor, lags)
    except MissingExtra as error:
        text = f"{error.what}: {error.fix}\n".encode()
        return lambda: Page(501, TEXT, text)
    return lambda: Page(200, *scrape())


def _json(status: int, document: Any) -> Page:
    return Page(status, JSON, json.dumps(document, default=str).encode() + b"\n")
