"""TestApp: an App without a broker and without waiting. Real layer 2 over the in-memory log, driven by hand in virtual time."""

from __future__ import annotations

import asyncio
import difflib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self, TypeVar

from mqsdk.api.app import App
from mqsdk.api.state import State
from mqsdk.config.load import load
from mqsdk.core.deadletter import is_done
from mqsdk.errors import DeclarationError, Duration, StateError, duration_s
from mqsdk.names import composed
from mqsdk.runtime.deadletters import DeadLetter, read_letter
from mqsdk.runtime.inspection import Lag
from mqsdk.testing.recorder import Messages, Recorder, dead_messages, outermost, stored_messages
from mqsdk.testing.simstore import PublishFault
from mqsdk.testing.stages import START_S, RealStage, Stage, VirtualStage

if TYPE_CHECKING:
    from mqsdk.config.settings import Settings

T = TypeVar("T")


class DrainResult(NamedTuple):
    """Messages handled, attempts that failed and messages dead-lettered meanwhile."""

    handled: int
    failed: int
    dead_lettered: int


class TestApp:
    """Opens and starts an App for one test and gives it back as it was. Use it as `with TestApp(app) as t:`, or `async with`.

    like: take the capabilities of this backend; what it cannot do is refused. path: the real log in this directory, in real time.
    config: as App's `config`, default the App's own. seed: 0 = no jitter, else the seed of all chance.
    Every route leads to the in-memory log. Nothing happens by itself: `drain` and `advance` run what is due.
    """

    __test__: ClassVar[bool] = False

    def __init__(
        self,
        app: App,
        *,
        like: str | None = None,
        path: str | Path | None = None,
        config: str | Path | Settings | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(app, App):
            raise DeclarationError(f"TestApp takes an App, not {type(app).__name__}", where="TestApp", fix="with TestApp(app) as t: ...")
        if like is not None and path is not None:
            raise DeclarationError("`like` is for the in-memory log, `path` for the real one: give one of them", where="TestApp")
        self.app = app
        self._config = config
        self._make_stage: Callable[[], Stage] = (lambda: RealStage(path)) if path is not None else (lambda: VirtualStage(like, seed))
        self._open_stage: Stage | None = None
        self._recorder = Recorder()

    # --- life -------------------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Open and start. Raises what `app.start` raises, StateError for an App that is open already."""
        _off_loop(self._open)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _off_loop(self._close)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.__exit__(kind, error, trace)

    def _open(self) -> None:
        if self.app.state is not State.NEW:
            raise StateError("a TestApp opens the App itself", fix="close the App first, or make a new one", state=str(self.app.state))
        stage = self._make_stage()
        configuration = self.app._load() if self._config is None else load(self._config)
        session = self.app._open(
            configuration=stage.configuration(configuration), environment=stage.environment(), witness=self._recorder.witness
        )
        stage.supervisor = session.supervisor
        self._open_stage = stage
        try:
            with outermost(self._recorder, self.app._middleware):
                self.app._start(START_S)
            stage.settle_down()
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        self._open_stage = None
        self.app._reset()

    @property
    def _stage(self) -> Stage:
        if self._open_stage is None:
            raise StateError("the TestApp is not open", fix="use it inside `with TestApp(app) as t:`", state="CLOSED")
        return self._open_stage

    # --- time -------------------------------------------------------------------------------------------------------------------

    def drain(self, raise_failures: bool = True) -> DrainResult:
        """Run until nothing is due now: what is published meanwhile is handled too, retries wait for their time.

        A handler that waits in `asyncio.sleep` waits for the virtual clock, so for `advance`. One that waits for a thread or a child
        process is waited for in real time, up to 10 s; one that waits for a socket, until 0.2 s pass without traffic.

        Raises the first exception that a handler raised (but for Retry and Reject, which are verdicts), unless told not to.
        """
        return _off_loop(lambda: self._run(self._stage.settle_down, raise_failures))

    def advance(self, duration: Duration) -> DrainResult:
        """Move the clock; retries, timeouts and sleeps of async handlers that fall due happen in the order of their times.

        Exceptions of handlers are not raised here. With `path` it waits in real time.
        """
        seconds = duration_s(duration, "duration", "TestApp.advance")
        return _off_loop(lambda: self._run(lambda: self._stage.advance(seconds), raise_failures=False))

    def _run(self, work: Callable[[], None], raise_failures: bool) -> DrainResult:
        before = self._counts()
        self._recorder.take_error()
        work()
        error = self._recorder.take_error()
        if raise_failures and error is not None:
            raise error
        return DrainResult(*(after - earlier for after, earlier in zip(self._counts(), before, strict=True)))

    def _counts(self) -> DrainResult:
        views = [loop.view() for _, loop in self._stage.supervisor.loops]
        return DrainResult(
            sum(view.handled for view in views), sum(view.failed for view in views), sum(view.dead_lettered for view in views)
        )

    @property
    def now(self) -> datetime:
        """The time that the App sees, aware, UTC. It begins at 2026-01-01."""
        return self._stage.now()

    # --- what happened ----------------------------------------------------------------------------------------------------------

    def published(self, topic: str) -> Messages:
        """Everything stored in a topic, in order; payloads are read by content type. Nothing for a topic that nobody published to."""
        return _off_loop(lambda: stored_messages(topic, self._cluster(topic), self._stage.records(topic)))

    def handled(self, topic: str, group: str) -> Messages:
        """The deliveries that a handler of this group ended well, in order, with the payload as the handler got it.

        DeclarationError for a consumer that the App does not have: a misspelt name would make an assertion about nothing pass.
        """
        self._known(topic, group)
        return self._recorder.handled(topic, group)

    def dead_letters(self, topic: str, group: str) -> Messages:
        """The dead letters of a group, in order; `attempts` are those that were made. DeclarationError as for `handled`."""
        self._known(topic, group)
        return _off_loop(lambda: dead_messages(topic, group, self._cluster(topic), self._letters(topic, group)))

    def _letters(self, topic: str, group: str) -> list[DeadLetter]:
        name = self.app._declared[topic, group].dead_letter or composed(topic, group)
        letters = [read_letter(partition, record) for partition, record in self._stage.records(name) if not is_done(record)]
        return [letter for letter in letters if dict(letter.record.extra).get("mq-dlq-group") == group]

    def _cluster(self, topic: str) -> str:
        return self._stage.supervisor.clusters.name_of(topic)

    def lag(self, topic: str, group: str) -> Lag:
        """As `app.lag`, of a consumer or of any group that exists. DeclarationError as for `handled`."""
        lag = _off_loop(lambda: self._stage.supervisor.lag(topic, group))
        if not lag.partitions:
            self._known(topic, group)
        return lag

    def _known(self, topic: str, group: str) -> None:
        """Refuse a consumer that is not declared, with the names of those that are."""
        if (topic, group) in self.app._declared:
            return
        known = [one.name for one in self.app._declared.values()]
        near = difflib.get_close_matches(f"{topic}/{group}", known, 1)
        raise DeclarationError(
            f"the App has no consumer {topic}/{group}",
            where="TestApp",
            fix=f"did you mean {near[0]}?" if near else f"its consumers: {', '.join(known) or 'none'}",
        )

    # --- faults -----------------------------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """Consumers vanish as by kill -9 and start again: what was not settled is delivered again."""
        _off_loop(self._stage.crash)

    def fail_publish(self, outcome: PublishFault, times: int = 1) -> None:
        """The next `times` messages end so: "rejected" (not stored), "unknown_stored" (stored, no answer), "unknown_lost" (neither).

        Layer 2 repeats what may be repeated until the publish timeout, which passes in virtual time.
        """
        self._stage.fail_publish(outcome, times)


def _off_loop(work: Callable[[], T]) -> T:
    """Run it here, or on a thread of its own when an event loop runs on this one: handlers must not find themselves inside it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name="mqsdk-test")
    thread.start()
    thread.join()
    return outcome.result()
