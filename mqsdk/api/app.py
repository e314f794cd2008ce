"""App: the composition root and the life cycle. NEW -> OPEN -> RUNNING -> DRAINING -> OPEN | CLOSED."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mqsdk import names
from mqsdk.api import naming
from mqsdk.api.doors import Doors
from mqsdk.api.hooks import Hooks
from mqsdk.api.inspecting import InspectMethods
from mqsdk.api.publishing import PublishMethods
from mqsdk.api.router import Declarations, Router
from mqsdk.api.state import INSIDE, State
from mqsdk.api.turns import Turns
from mqsdk.errors import CapabilityError, DeclarationError, Duration, StateError, duration_s
from mqsdk.message import current_message

if TYPE_CHECKING:
    from pathlib import Path

    from mqsdk.api.consumer import ConsumerDeclaration
    from mqsdk.api.outlet import Outlet
    from mqsdk.api.session import Session
    from mqsdk.api.verdict import Witness
    from mqsdk.config.diff import Change
    from mqsdk.config.model import Configuration
    from mqsdk.config.origin import Content
    from mqsdk.config.settings import Settings
    from mqsdk.runtime.environment import Declared, Environment
    from mqsdk.runtime.inspection import StopReport
    from mqsdk.runtime.watch import Watcher

LOG = logging.getLogger("mqsdk.app")
LAST_FLUSH_S = 1.0  # what was published gets so long even when the drain took all of its time

SHOWN_CONSUMERS = 5


class App(Declarations, Hooks, PublishMethods, InspectMethods):
    """Handlers and publishing of one service. Constructing and declaring touch no file, socket or environment variable.

    config: None (at open: `$MQSDK_CONFIG`, else `./mqsdk.yaml`, else one embedded log in `./.mqsdk`), a path, the address of a remote
    source, or `Settings`.
    name: in client ids and metrics; default the file's `app:`, else "app". Methods may be called from any thread.
    """

    def __init__(self, config: str | Path | Settings | None = None, *, name: str | None = None) -> None:
        Declarations.__init__(self)
        Hooks.__init__(self)
        if config is not None and not isinstance(config, str | os.PathLike) and not hasattr(config, "configuration"):
            raise DeclarationError(f"`config` is None, a path or Settings, not {type(config).__name__}", where="App")
        problem = None if name is None else names.app_problem(name)
        if problem is not None:
            raise DeclarationError(problem, where="App")
        self._config = config
        self._environment_name: str | None = None
        self._name = name
        self._state = State.NEW
        self._session: Session | None = None
        self._doors = Doors(self)
        self._watcher: Watcher | None = None
        self._ahead: Configuration | None = None
        self._moving_lock = threading.RLock()  # a signal handler may come while it is being taken or given back
        self._turns = Turns()
        self._mover = 0

    def __repr__(self) -> str:
        consumers = [one.name for one in self._declared.values()]
        more = len(consumers) - SHOWN_CONSUMERS
        shown = ", ".join(consumers[:SHOWN_CONSUMERS]) + (f" and {more} more" if more > 0 else "")
        return f"<App {self._name or '(named by its configuration)'}, {self._state}, consumers: {shown or 'none'}>"

    # --- declaring --------------------------------------------------------------------------------------------------------------

    def include_router(self, router: Router) -> None:
        """Take in the consumers of a Router. DeclarationError for a pair that is declared already, or a router that has an App."""
        if not isinstance(router, Router):
            raise DeclarationError(f"include_router takes a Router, not {type(router).__name__}")
        router._include_in(self)

    def _add(self, declarations: Any) -> None:
        if self._state in (State.RUNNING, State.DRAINING, State.CLOSED):
            raise StateError(f"consumers are declared before the App starts; it is {self._state}", state=str(self._state))
        super()._add(declarations)

    # --- state ------------------------------------------------------------------------------------------------------------------
    @property
    def state(self) -> State:
        """Where the App is in its life; compares equal to "NEW", "OPEN", "RUNNING", "DRAINING" and "CLOSED"."""
        return self._state

    @property
    def settings(self) -> Settings:
        """The configuration file as a frozen model, defaults filled in. Raises ConfigError."""
        from mqsdk.config.load import load_settings

        if self._config is None or isinstance(self._config, str | os.PathLike):
            return load_settings(_path(self._config), environment=self._environment_name)
        return self._config

    @contextmanager
    def _moving(self, what: str) -> Iterator[None]:
        """One change of state at a time. A call from within one (a hook, a signal handler) would wait for itself."""
        self._refuse_waiting_for_itself(what)
        if self._is_inside():
            raise StateError(
                f"{what} was called inside a handler, which it would wait for", fix="set a flag, stop outside", state=str(self._state)
            )
        if self._session is not None:
            self._check_process(self._session)
        with self._locked():
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._moving_lock:
            self._mover = threading.get_ident()
            try:
                yield
            finally:
                self._mover = 0

    def _refuse_waiting_for_itself(self, what: str) -> None:
        if self._mover == threading.get_ident():
            raise StateError(
                f"{what} was called while this thread is opening, starting or stopping the App (by a hook or a signal handler?)",
                fix="call it after that; in a signal handler set a flag or put into a queue.SimpleQueue, and act outside of it",
                state=str(self._state),
            )

    def _is_inside(self) -> bool:
        """Whether this is code that a consumer of this App is running: a handler, or an observer."""
        if self._session is None:
            return False
        message, inside = current_message(), INSIDE.get()
        own = message is not None and (message.topic, message.group) in self._declared
        return own or inside == self._mark or any(inside == one.name for one in self._declared.values())

    def _check_process(self, session: Session) -> None:
        if session.pid != os.getpid():
            session.outlet.check_process()

    # --- open -------------------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Open: configuration and clients. Does not start consumers."""
        self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._session is None or self._session.pid == os.getpid():  # a forked child leaves its parent's clients alone
            self.close()

    async def __aenter__(self) -> Self:
        import asyncio

        await asyncio.to_thread(self._open)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        import asyncio

        await asyncio.to_thread(self.__exit__, kind, error, trace)

    def _open(
        self, *, configuration: Configuration | None = None, environment: Environment | None = None, witness: Witness | None = None
    ) -> Session:
        """Open unless open. The arguments replace what would be read and made; `mqsdk.testing` gives them."""
        with self._moving("open"):
            return self._session or self._open_now(configuration, environment, witness)

    def _open_now(self, configuration: Configuration | None, environment: Environment | None, witness: Witness | None) -> Session:
        if self._state is State.CLOSED:
            raise self._closed()
        refuse_platform(sys.platform)
        from mqsdk.api import reloading
        from mqsdk.api.session import Session
        from mqsdk.runtime.environment import Environment

        environment = environment or Environment()
        watcher = self._make_watcher() if environment.threaded and configuration is None else None
        ahead, self._ahead = self._ahead, None
        configuration = configuration or ahead or self._load()
        environment = replace(environment, observe=partial(self._notify, environment.observe))
        self._session = Session(configuration, environment, self._name or configuration.app, witness)
        self._state = State.OPEN
        reloading.tell(configuration)
        self._session.supervisor.reporting.apply(configuration)
        atexit.register(self._at_exit)
        if watcher is not None:
            self._watcher = watcher
            self._session.supervisor.look_again = watcher.ask
            watcher.start()
        return self._session

    def _make_watcher(self) -> Watcher | None:
        from mqsdk.api import following

        if self._config is not None and not isinstance(self._config, str | os.PathLike):
            return None
        return following.watcher(self, _path(self._config))

    def _load(self, running: bool = False, content: Content | None = None) -> Configuration:
        """running, content: as `mqsdk.config.load.load` takes them."""
        from mqsdk.config.load import load

        config = self._config
        path = _path(config) if isinstance(config, os.PathLike) else config
        return load(path, environment=self._environment_name, running=running, content=content)

    def _load_ahead(self) -> Configuration:
        """What opening will take. Kept when it came from a remote source: one that is down shall not be waited for twice."""
        configuration = self._load()
        self._ahead = configuration if "://" in configuration.source else None
        return configuration

    def _opened(self) -> Session:
        session = self._session
        if session is None:
            if self._state is State.CLOSED:
                raise self._closed()
            return self._open_for_use()
        self._check_process(session)
        return session

    def _open_for_use(self) -> Session:
        """Publishing and looking open the App by themselves, inside hooks and handlers of other Apps too.

        In a signal handler that has interrupted an opening on this thread it is refused, for it would wait for what it has interrupted.
        """
        self._refuse_waiting_for_itself("publishing or looking, which opens the App,")
        with self._locked():
            return self._session or self._open_now(None, None, None)

    def _outlet(self) -> Outlet:
        return self._opened().outlet

    async def _outlet_async(self) -> Outlet:
        await self._turns.opened("", lambda: self._session is not None or self._state is not State.NEW, self._open_for_use)
        return self._outlet()

    def _closed(self) -> StateError:
        return StateError("the App is closed, which is final", fix="make a new App", state="CLOSED")

    # --- start and stop ---------------------------------------------------------------------------------------------------------

    def start(self, timeout: Duration = "30s") -> None:
        """Open if needed, check capabilities, start all consumers; returns when each has joined its group.

        Raises StateError (started already, closed, not joined within `timeout`), DeclarationError, CapabilityError, ConfigError,
        BackendError, and whatever an on_startup hook raises. Nothing runs then and the App is OPEN.
        """
        self._start(duration_s(timeout, "timeout", "app.start"))

    def _start(self, timeout_s: float = 30.0, only: Collection[str] | None = None) -> None:
        """only: groups to start, None = all."""
        if naming.in_worker():
            raise StateError(
                "consumers were started while a worker process imported the application",
                fix='call app.run() and app.start() under `if __name__ == "__main__":`',
                state=str(self._state),
            )
        with self._moving("start"):
            if self._state not in (State.NEW, State.OPEN):
                raise self._closed() if self._state is State.CLOSED else StateError("the App is started already", state=str(self._state))
            session = self._session or self._open_now(None, None, None)
            chosen = [one for one in self._declared.values() if only is None or one.group in only]
            self._launch(session, chosen, timeout_s)

    def _launch(self, session: Session, chosen: list[ConsumerDeclaration], timeout_s: float) -> None:
        if not chosen:
            LOG.warning("the App has no consumers to start")
        declared = session.build(chosen, self._middleware, self)
        self._doors.open_pages(session)
        try:
            session.run_hooks(self._startup)
            self._start_consumers(session, declared, timeout_s)
        except BaseException:
            self._doors.close()
            raise
        self._state = State.RUNNING
        self._doors.open_control(session)

    def _start_consumers(self, session: Session, declared: list[Declared], timeout_s: float) -> None:
        try:
            session.supervisor.start(declared, timeout_s)
        except BaseException:
            session.run_last_hooks(self._shutdown)
            raise

    def _end_watcher(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()

    def stop(self, timeout: Duration | None = None) -> None:
        """Drain: start nothing, wait for running handlers, settle, hand back, leave. Nothing to do unless RUNNING.

        timeout: default `drain.timeout` (30 s); handlers that still run then are cut short and their messages come again.
        """
        timeout_s = None if timeout is None else duration_s(timeout, "timeout", "app.stop")
        with self._moving("stop"):
            self._stop_now(timeout_s)
        self._doors.close()

    def _stop_now(self, timeout_s: float | None) -> StopReport:
        from mqsdk.runtime.inspection import StopReport

        session = self._session
        if self._state is not State.RUNNING or session is None:
            return StopReport()
        self._state = State.DRAINING
        try:
            report = session.stop(timeout_s)
            session.run_last_hooks(self._shutdown)
        finally:
            self._state = State.OPEN
        return report

    def close(self) -> None:
        """`stop`, flush what was published, close the clients. Idempotent, and final."""
        self._close()

    def _close(self) -> StopReport:
        deadline = time.monotonic() + self._drain_timeout_s()
        with self._moving("close"):
            report = self._stop_now(None)
            session = self._session
            try:
                closed = report if session is None else session.close(max(LAST_FLUSH_S, deadline - time.monotonic()))
            finally:
                self._state, self._session = State.CLOSED, None
                self._end_watcher()
                atexit.unregister(self._at_exit)
        self._doors.close()
        return report._replace(clean=report.clean and closed.clean)

    def _drain_timeout_s(self) -> float:
        return 0.0 if self._session is None else self._session.configuration.drain_timeout_s

    def _hurry(self) -> None:
        session = self._session
        if session is not None:
            session.supervisor.hurry()

    def _reset(self) -> None:
        """Close and be NEW again: a test client borrows the App of a module and gives it back."""
        self._close()
        self._state = State.NEW

    def _at_exit(self) -> None:
        if self._session is not None and self._session.pid == os.getpid():
            self.close()

    def run(self) -> int:
        """Start, wait for SIGTERM or SIGINT, close. Returns the exit code of `mqsdk run`: 0, or 8 when the stop was not clean.

        A second signal ends the drain at once. Main thread only. Raises what `start` raises.
        """
        from mqsdk.api.running import run

        return run(self)

    async def start_async(self, timeout: Duration = "30s") -> None:
        """As `start`, without blocking the event loop. Async handlers run on the App's own loop all the same."""
        import asyncio

        await asyncio.to_thread(self.start, timeout)

    async def stop_async(self, timeout: Duration | None = None) -> None:
        """As `stop`, without blocking the event loop."""
        import asyncio

        await asyncio.to_thread(self.stop, timeout)

    async def close_async(self) -> None:
        """As `close`, without blocking the event loop."""
        import asyncio

        await asyncio.to_thread(self.close)

    def flush(self, timeout: Duration | None = None) -> bool:
        """Wait until everything from `publish_nowait` and the async calls has its answer; False when `timeout` came first."""
        timeout_s = None if timeout is None else duration_s(timeout, "timeout", "app.flush")
        session = self._session
        if session is None:
            return True
        self._check_process(session)
        return session.supervisor.flush(timeout_s)

    def reload(self) -> list[Change]:
        """Read the configuration now and apply it whole; returns what changed. StateError unless open.

        Raises ConfigError when it is not valid or changes what only a restart can; the old one stays in force then.
        """
        return self._reload()

    def _reload(self, watched: bool = False, content: Content | None = None) -> list[Change]:
        """watched: nobody asked, so that nothing changed is not worth an event. content: what a remote source gave just now."""
        from mqsdk.api import reloading

        with self._moving("reload"):
            if self._session is None:
                raise StateError("there is nothing to reload: the App is not open", state=str(self._state))
            topics = dict.fromkeys([*(topic for topic, _ in self._declared), *self._session.outlet.topics()])
            load, notify = partial(self._load, True, content), self._session.supervisor.environment.observe
            began_at = time.monotonic()
            changes = reloading.reload(self._session, load, list(topics), notify, watched)
            self._session.supervisor.proof.looked(began_at)
            if self._watcher is not None and not watched:
                self._watcher.forget()
            if self._watcher is not None and any(change.key.startswith("reload.") for change in changes):
                self._watcher.wake()
            return changes


def refuse_platform(platform: str) -> None:
    """Raises CapabilityError on Windows."""
    if platform == "win32":
        raise CapabilityError(
            "mqsdk does not run on Windows: its file locks and signals are those of Linux",
            fix="use WSL or a container",
            capability="platform",
        )


def _path(config: Any) -> str | None:
    return None if config is None else os.fspath(config)
