"""Where an App that runs can be asked from outside: its control socket, and its pages over HTTP. Imported late: most Apps only publish."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mqsdk.api.app import App
    from mqsdk.api.session import Session
    from mqsdk.api.telling import Telling
    from mqsdk.runtime.control import ControlServer


class Doors:
    """Of one App. In tests, which step by hand, there is nobody to ask, and none is opened. ports: as in PageServer."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._control: ControlServer | None = None
        self._pages: Telling | None = None
        self.ports = 1

    @property
    def port(self) -> int | None:
        """Where the pages are, None while they are not served."""
        return None if self._pages is None else self._pages.port

    def open_pages(self, session: Session) -> None:
        """The pages of `observability.listen`, from before the first consumer joins. Raises ConfigError when the port is taken."""
        listen = session.configuration.observability.listen
        if listen is not None and session.supervisor.environment.threaded:
            from mqsdk.api.telling import Telling

            self._pages = Telling(self._app, session, listen, self.ports)
            self._pages.start()

    def open_control(self, session: Session) -> None:
        """Answer `mqsdk ps`, `reload`, `stacks` and `groups release` while consumers run."""
        if session.supervisor.environment.threaded:
            from mqsdk.api import controlling
            from mqsdk.runtime.control import ControlServer

            self._control = ControlServer(controlling.answers(self._app), orders=controlling.orders(self._app))
            self._control.start()

    def close(self) -> None:
        """Outside of a change of the App's state: a reload that was asked for over the socket may be waiting for it."""
        pages, self._pages = self._pages, None
        control, self._control = self._control, None
        if pages is not None:
            pages.close()
        if control is not None:
            control.close()
