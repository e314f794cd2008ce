"""Publishing of one opened App: to the right cluster's publisher, with the three outcomes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar

from mqsdk.api import outgoing
from mqsdk.api.encoding import BINARY
from mqsdk.api.outgoing import Ids
from mqsdk.api.payload import Limits
from mqsdk.api.publishing import Key
from mqsdk.api.turns import Turns
from mqsdk.errors import BackendError, Duration, MqError, PublishError, PublishManyFailed, PublishRejected, PublishUnknown, StateError
from mqsdk.message import CURRENT, Receipt
from mqsdk.runtime.holding import Hold
from mqsdk.runtime.publisher import Publisher
from mqsdk.runtime.sender import Draft, as_rejected, throttled
from mqsdk.runtime.shadowing import Doubled

if TYPE_CHECKING:
    from concurrent.futures import Future

    from mqsdk.config.model import Configuration
    from mqsdk.runtime.supervisor import Supervisor

PROOF_EVERY_S = 0.005
T = TypeVar("T")
Outgoing = Publisher | Doubled


class Outlet:
    """Publishing of one opened App. Any thread.

    A signal handler runs on the main thread in the middle of whatever it does, a publish with its lock held too; so a publish inside a
    publish of the same thread is refused, since waiting would never end.
    """

    def __init__(self, supervisor: Supervisor, limits: Limits) -> None:
        clock = supervisor.environment.clock
        self._supervisor = supervisor
        self._limits = limits
        self._ids = Ids(clock.wall_ms(), supervisor.environment.rng.getrandbits)
        self._rules = outgoing.Rules(limits, self._ids, clock.wall_ms, self._check_delay)
        self._pid = os.getpid()
        self._busy: dict[int, str] = {}  # thread -> topic of the publish it is in, "" while that waits for a hold
        self._holds: tuple[Hold, ...] = ()
        self._turn = 0  # counts holds: what was opened before the last one may be the old cluster's
        self._opening = threading.RLock()  # guards the two, and what is put into `_publishers`, never a wait
        self._publishers: dict[str, Outgoing] = {}
        self._moving: dict[str, Outgoing] = {}  # of topics that move: what publishes there proves its route first
        self._turns = Turns()
        self.default_timeout_s = supervisor.configuration.publish.timeout_s

    def apply(self, configuration: Configuration) -> None:
        """Take the live keys of a new configuration. A topic that it gives another cluster is held meanwhile, see `hold`."""
        self._limits.payload = configuration.payload_limit
        self.default_timeout_s = configuration.publish.timeout_s

    def timeout_s(self, timeout: Duration | None) -> float:
        """Seconds of a `timeout=`; None is `publish.timeout` of the configuration."""
        return self.default_timeout_s if timeout is None else outgoing.seconds_of(timeout)

    # --- one --------------------------------------------------------------------------------------------------------------------

    def draft(self, topic: str, payload: Any, options: Mapping[str, Any]) -> Draft:
        if type(topic) is not str or (topic not in self._publishers and topic not in self._moving):  # a name that published before is valid
            outgoing.check_topic(topic)
        return outgoing.draft(topic, payload, self._rules, **options)

    def plain_draft(self, topic: str, payload: Any, key: Key | None) -> Draft:
        """`draft` for a message of nothing but payload and key: the usual one, and a third of its cost."""
        if type(topic) is not str or (topic not in self._publishers and topic not in self._moving):
            outgoing.check_topic(topic)
        raw_key = None if key is None else outgoing.key_bytes(key, topic)
        value, content_type = (payload, BINARY) if type(payload) is bytes else outgoing.encoded(payload, topic, self._limits)
        if len(value) > self._limits.payload:
            outgoing.too_large(value, topic, self._limits)
        headers = () if CURRENT.get() is None else outgoing.traced(())
        return tuple.__new__(Draft, (raw_key, value, self._ids.one(), content_type, headers, None, (), 1, False))

    def send_one(self, topic: str, draft: Draft, timeout_s: float) -> Receipt:
        """`_guarded` for one message, written out: at 60,000 a second each call shows."""
        ident, busy = get_ident(), self._busy
        if ident in busy:
            raise reentered()
        try:
            busy[ident] = topic  # inside: a signal handler may raise right behind it
            publisher = self._publishers.get(topic)
            if publisher is None:
                publisher, timeout_s = self._opened(topic, draft.id, timeout_s)
            answer = publisher.send_one(topic, draft, timeout_s)
        except BackendError as error:
            raise as_rejected(error, topic, draft.id) from error
        finally:
            busy.pop(ident, None)
        if isinstance(answer, PublishError):
            raise answer
        return answer

    def submit(self, topic: str, draft: Draft, timeout_s: float) -> Future[Receipt]:
        def submitted() -> Future[Receipt]:
            publisher, left_s = self._opened(topic, draft.id, timeout_s)
            return publisher.submit(topic, draft, left_s)

        return self._entered(topic, submitted)

    async def send_one_async(self, topic: str, draft: Draft, timeout_s: float) -> Receipt:
        future = await self._submitted(topic, draft.id, timeout_s, lambda publisher: publisher.submit(topic, draft, timeout_s, block=False))
        return await answered(future, topic, [draft], timeout_s)

    # --- many -------------------------------------------------------------------------------------------------------------------

    def drafts(self, topic: str, items: Iterable[Any], key: Any) -> list[Draft]:
        if type(topic) is not str or (topic not in self._publishers and topic not in self._moving):
            outgoing.check_topic(topic)
        return outgoing.drafts(topic, items, key, self._rules)

    def send_many(self, topic: str, drafts: Sequence[Draft], timeout_s: float) -> list[Receipt]:
        return receipts(self._guarded(topic, drafts, timeout_s), topic)

    async def send_many_async(self, topic: str, drafts: Sequence[Draft], timeout_s: float) -> list[Receipt]:
        try:
            future = await self._submitted(topic, drafts[0].id, timeout_s, lambda one: one.submit_many(topic, drafts, timeout_s))
            answers = await answered(future, topic, drafts, timeout_s)
        except (BackendError, PublishRejected) as error:
            answers = refused(error, topic, drafts)
        return receipts(answers, topic)

    # --- where ------------------------------------------------------------------------------------------------------------------

    def publisher(self, topic: str, id: str = "", timeout_s: float | None = None) -> Outgoing:
        """The publisher of a topic's cluster, opened on first use. A cluster that cannot be opened is a Rejected: nothing was sent.

        Waits while the topic is held: `timeout_s`, default `publish.timeout`, then it is a Rejected too.
        """
        found = self._ready(topic)
        mono = self._supervisor.environment.clock.mono
        end = mono() + (self.default_timeout_s if timeout_s is None else timeout_s)
        while found is None:
            turn = self._turn  # before the holds are looked at, see `hold`
            self._prove(topic, id, end)
            for hold in self._holds:
                if hold.covers(topic):
                    self._wait(hold, topic, id, max(0.0, end - mono()))
            try:
                made = self._supervisor.outgoing(topic)
            except BackendError as error:
                raise as_rejected(error, topic, id) from error
            with self._opening:
                if self._turn == turn:
                    found = self._keep(topic, made)
        return found

    # --- a topic that moves -------------------------------------------------------------------------------------------------------

    def _proven(self, topic: str) -> Outgoing | None:
        """The publisher of a topic that moves, while its route is known to be the one in force."""
        found = self._moving.get(topic)
        return found if found is not None and self._supervisor.is_current() else None

    def _prove(self, topic: str, id: str, end: float) -> None:
        """Have the route looked at, if it has to be: this process may have stood still, and the move gone on without it."""
        supervisor = self._supervisor
        clock = supervisor.environment.clock
        while not supervisor.is_proven(topic):
            if clock.mono() >= end:
                raise unproven(topic, id)
            assert supervisor.look_again is not None
            supervisor.look_again()
            clock.sleep(PROOF_EVERY_S)

    def _keep(self, topic: str, publisher: Outgoing) -> Outgoing:
        if len(self._publishers) + len(self._moving) >= 4096:  # a service that makes up topic names must not grow for ever
            self._publishers, self._moving = {}, {}
        kept = self._moving if self._supervisor.moves(topic) else self._publishers
        kept[topic] = publisher
        return publisher

    def _opened(self, topic: str, id: str, timeout_s: float) -> tuple[Outgoing, float]:
        """The publisher, and what a hold has left of the time."""
        found = self._ready(topic)
        if found is not None or not (self._holds or topic in self._moving):
            return found or self.publisher(topic, id), timeout_s
        mono = self._supervisor.environment.clock.mono
        end = mono() + timeout_s
        found = self.publisher(topic, id, timeout_s)
        return found, max(0.0, end - mono())

    # --- another cluster ----------------------------------------------------------------------------------------------------------

    def hold(self, covers: Callable[[str], bool]) -> Callable[[], bool]:
        """Let nothing new to these topics begin, before their routes change.

        Returns what to call again and again: True, once all that had begun is answered; what waits goes on by the new routes then.
        """
        hold = Hold(covers)
        with self._opening:
            self._holds = (*self._holds, hold)
            self._turn += 1  # last: who reads it before looks for holds finds this one, or opens in vain
            for kept in (self._publishers, self._moving):
                for topic in [topic for topic in kept if covers(topic)]:
                    del kept[topic]
        return lambda: self._release_when_answered(hold)

    def _release_when_answered(self, hold: Hold) -> bool:
        if any(topic and hold.covers(topic) for topic in list(self._busy.values())) or self._supervisor.is_sending(hold.covers):
            return False
        with self._opening:
            self._holds = tuple(one for one in self._holds if one is not hold)
        hold.release()
        return True

    def _wait(self, hold: Hold, topic: str, id: str, timeout_s: float) -> None:
        ident = get_ident()
        inside = ident in self._busy  # not the thread that opens for an event loop
        try:
            if inside:
                self._busy[ident] = ""
            if hold.wait(timeout_s):
                return
        finally:
            if inside:
                self._busy[ident] = topic
        raise held(topic, id)

    def _check_delay(self, topic: str) -> None:
        """Refuse a delay that the topic's cluster cannot keep. Opens nothing: what a backend can do is known before."""
        try:
            cluster, kind, capabilities = self._supervisor.clusters.capabilities_of(topic)
        except BackendError as error:
            raise as_rejected(error, topic, "") from error
        if capabilities.delay == "none":
            raise PublishRejected(
                f"cluster {cluster} ({kind}) cannot delay messages",
                code="unsupported",
                topic=topic,
                where=f"cluster {cluster}",
                fix="leave out `delay` and `at`, or route the topic to a cluster that can, for example a log, kafka or redis",
            )

    def topics(self) -> list[str]:
        """What was published to."""
        return [*self._publishers, *self._moving]

    async def _submitted(self, topic: str, id: str, timeout_s: float, submit: Callable[[Outgoing], Future[T]]) -> Future[T]:
        """Submit, after the publisher was opened beside the loop, which connects on first use and waits while the topic is held."""
        import asyncio

        while True:
            try:
                async with asyncio.timeout(timeout_s if self._holds else None):
                    await self._turns.opened(topic, lambda: self._ready(topic) is not None, lambda: self.publisher(topic, id, timeout_s))
            except TimeoutError:
                raise held(topic, id) from None
            future = self._entered(topic, lambda: None if (found := self._ready(topic)) is None else submit(found))
            if future is not None:  # else it is held since a moment
                return future

    def _ready(self, topic: str) -> Outgoing | None:
        """The publisher of a topic, if nothing has to be waited for."""
        return self._publishers.get(topic) or self._proven(topic)

    def _guarded(self, topic: str, drafts: Sequence[Draft], timeout_s: float) -> list[Any]:
        ident = get_ident()
        busy = self._busy
        if ident in busy:
            raise reentered()
        try:
            busy[ident] = topic
            publisher, left_s = self._opened(topic, drafts[0].id if drafts else "", timeout_s)
            return publisher.send(topic, drafts, left_s)
        except (BackendError, PublishRejected) as error:
            return refused(error, topic, drafts)
        finally:
            busy.pop(ident, None)

    def _entered(self, topic: str, submit: Callable[[], T]) -> T:
        ident = get_ident()
        if ident in self._busy:
            raise reentered()
        try:
            self._busy[ident] = topic
            return submit()
        finally:
            self._busy.pop(ident, None)

    def check_process(self) -> None:
        if os.getpid() != self._pid:
            raise StateError(
                "this process was forked from one whose App is open; its files, locks and threads are the parent's",
                fix="open the App after the fork, or start the child by spawn",
                state="FORKED",
            )


def unproven(topic: str, id: str) -> PublishRejected:
    what = "the topic moves, and whether its route is still the one that this process knows could not be found out"
    fix = "publish again; look whether the source of the configuration answers"
    return PublishRejected(what, code="throttled", retryable=True, topic=topic, id=id, fix=fix)


def held(topic: str, id: str) -> PublishRejected:
    what = "the topic goes to another cluster, and the old one has not answered all publishes yet"
    return PublishRejected(what, code="throttled", retryable=True, topic=topic, id=id, fix="publish again")


def reentered() -> StateError:
    return StateError(
        "publish was called inside a publish of the same thread (by a signal handler?)",
        fix="in a signal handler set a flag or put into a queue.SimpleQueue, and publish outside of it",
        state="PUBLISHING",
    )


async def answered(future: Future[T], topic: str, drafts: Sequence[Draft], timeout_s: float) -> T:
    """What a submitted call ends with; PublishRejected if it is not begun in time. Cancelled, it takes the call back if it is not begun."""
    import asyncio

    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.wrap_future(future)
    except TimeoutError:
        if future.cancel():
            raise throttled(topic, drafts) from None
        return await asyncio.wrap_future(future)  # under way, with the deadline of its own


def refused(error: BackendError | PublishRejected, topic: str, drafts: Sequence[Draft]) -> list[Any]:
    """The answers of a call of which nothing was sent."""
    if isinstance(error, BackendError):
        return [as_rejected(error, topic, draft.id) for draft in drafts]
    return [error] if len(drafts) == 1 else [again(error, draft.id) for draft in drafts]


def again(error: PublishRejected, id: str) -> PublishRejected:
    copy = PublishRejected(
        error.what, code=error.code, retryable=error.retryable, topic=error.topic, id=id, where=error.where, fix=error.fix
    )
    copy.__cause__ = error.__cause__
    return copy


def receipts(answers: list[Any], topic: str) -> list[Receipt]:
    """All receipts, or PublishManyFailed with one outcome per item."""
    if set(map(type, answers)) != {Receipt}:  # a fifth of the cost of looking at each
        raise PublishManyFailed(_summary(answers), outcomes=answers, topic=topic, fix="look at `.outcomes`: one per item, in order")
    return answers


def _summary(answers: Sequence[object]) -> str:
    failed = [answer for answer in answers if isinstance(answer, MqError)]
    unknown = sum(isinstance(answer, PublishUnknown) for answer in failed)
    counts = [f"{len(failed) - unknown} rejected"] * (unknown < len(failed)) + [f"{unknown} unknown (may be stored)"] * (unknown > 0)
    return f"of {len(answers)} messages {' and '.join(counts)}; the first: {failed[0].what}"
