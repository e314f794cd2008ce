"""Publishing in stage `dual_write` of a move: what the source has stored goes to the target too, as a copy that nobody handles.

The answer of a publish is the source's and is there before its shadow is sent: a shadow that is late, or fails, is in nobody's way. It is
sent once, with the repeats that any publish has until its deadline; what finds no room in the window, or is not stored by then, is counted
and given up. Threads and window are its own, so that a target that does not answer holds up nothing, not even the way back.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple

from mqsdk.config.model import PublishLimits
from mqsdk.message import Receipt
from mqsdk.runtime.cells import Cells
from mqsdk.runtime.clock import Clock
from mqsdk.runtime.publisher import Publisher
from mqsdk.runtime.sender import SEND_CHUNK, Answer, Draft, Send
from mqsdk.spi.events import SHADOW

if TYPE_CHECKING:
    from mqsdk.runtime.supervisor import Supervisor

SHADOW_OF_DELAYED = "delayed"
SHADOW_ATTEMPT = 2
GATHER_S = 0.01  # shadows wait so long for others, unless enough wait already


def shadow_of(draft: Draft) -> Draft:
    """At once, whatever the message is delayed by: nobody handles it, and the target may not be able to delay.

    As a second attempt, for that is what consumers see of every record without looking at its headers.
    """
    mark = (SHADOW, "1" if draft.due_ms is None else SHADOW_OF_DELAYED)
    return draft._replace(due_ms=None, attempt=SHADOW_ATTEMPT, extra=(*draft.extra, mark))


class Shadows:
    """Of one topic, from the moment on when this process has begun with them. Any thread.

    send: to the target. carrier: has them sent; None: whoever publishes sends them.
    since_ms: wall clock. Every message published after it has a shadow, or is counted in `failed`.
    """

    def __init__(self, topic: str, send: Send, carrier: Carrier | None, clock: Clock, timeout_s: Callable[[], float]) -> None:
        self.topic = topic
        self.since_ms = clock.wall_ms()
        self.stored = Cells()
        self.failed = Cells()
        self._send = send
        self._carrier = carrier
        self._timeout_s = timeout_s

    def follow(self, drafts: Sequence[Draft], answers: Sequence[object]) -> None:
        """Copy those that were stored. Never raises, never waits for the target unless nothing is threaded."""
        copies = [shadow_of(draft) for draft, answer in zip(drafts, answers, strict=True) if isinstance(answer, Receipt)]
        if not copies:
            return
        if self._carrier is None:
            self.send(copies, self._timeout_s())
        elif not self._carrier.offer(self, copies, self._timeout_s()):
            self.failed.add(len(copies))

    def send(self, copies: Sequence[Draft], timeout_s: float) -> None:
        """Store them and count what became of them. Never raises."""
        try:
            answers = self._send(self.topic, copies, timeout_s)
        except Exception:  # a target that cannot be used must not fail the publish, whatever it raises
            self.failed.add(len(copies))
            return
        stored = sum(isinstance(answer, Receipt) for answer in answers)
        self.stored.add(stored)
        self.failed.add(len(answers) - stored)

    def counts(self) -> Mapping[str, int]:
        """As in `Report.shadows`."""
        return {"since_ms": self.since_ms, "stored": self.stored.total(), "failed": self.failed.total()}


class _Parcel(NamedTuple):
    """What one publish has left behind. deadline: monotonic seconds."""

    shadows: Shadows
    copies: Sequence[Draft]
    size: int
    deadline: float


class Carrier:
    """One thread per cluster that has shadows stored, in the order in which they are offered, within a window.

    Not a `Sender`: nobody waits for a shadow, so it may wait for others to travel with. One by one they would cost the threads that
    publish three quarters of what they carry.
    """

    def __init__(self, clock: Clock, limits: Callable[[], PublishLimits], name: str) -> None:
        self._clock = clock
        self._limits = limits
        self._name = name
        self._changed = threading.Condition()
        self._parcels: deque[_Parcel] = deque()
        self._records = self._bytes = 0  # queued or under way
        self._is_idle = False
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def offer(self, shadows: Shadows, copies: Sequence[Draft], timeout_s: float) -> bool:
        """False: there is no room, or no thread, and they are not sent. Never waits."""
        size = sum(len(copy.value) for copy in copies)
        limits, deadline = self._limits(), self._clock.mono() + timeout_s
        with self._changed:
            is_full = self._records + len(copies) > limits.window_records or self._bytes + size > limits.window_bytes
            if self._over.is_set() or (is_full and self._records) or not self._is_started():
                return False
            self._parcels.append(_Parcel(shadows, copies, size, deadline))
            self._records += len(copies)
            self._bytes += size
            if self._is_idle:
                self._changed.notify_all()
        return True

    def _is_started(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                thread.start()
            except (RuntimeError, MemoryError):  # the next one tries again
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        while taken := self._next():
            first = taken[0]
            first.shadows.send([copy for one in taken for copy in one.copies], max(0.0, first.deadline - self._clock.mono()))
            with self._changed:
                self._records -= sum(len(one.copies) for one in taken)
                self._bytes -= sum(one.size for one in taken)
                self._changed.notify_all()

    def _next(self) -> list[_Parcel]:
        """The oldest parcels of one topic, about SEND_CHUNK shadows at most; none at the end."""
        with self._changed:
            self._is_idle = True
            self._changed.wait_for(lambda: self._parcels or self._over.is_set())
            self._is_idle = False
            is_little = self._records < SEND_CHUNK
        if is_little:
            self._over.wait(GATHER_S)
        taken: list[_Parcel] = []
        count = 0
        with self._changed:
            while self._parcels and count < SEND_CHUNK and (not taken or self._parcels[0].shadows is taken[0].shadows):
                taken.append(self._parcels.popleft())
                count += len(taken[-1].copies)
        return taken

    def close(self, deadline: float) -> None:
        """What has no answer by then is given up."""
        with self._changed:
            self._over.set()
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._records, max(0.0, deadline - self._clock.mono()))


class Doubled:
    """The publisher of a topic in `dual_write`, as those who publish use it: every answer is the source's."""

    def __init__(self, publisher: Publisher, shadows: Shadows) -> None:
        self._publisher = publisher
        self._shadows = shadows

    def send_one(self, topic: str, draft: Draft, timeout_s: float) -> Answer:
        answer = self._publisher.send_one(topic, draft, timeout_s)
        self._shadows.follow((draft,), (answer,))
        return answer

    def send(self, topic: str, drafts: Sequence[Draft], timeout_s: float) -> list[Answer]:
        answers = self._publisher.send(topic, drafts, timeout_s)
        self._shadows.follow(drafts, answers)
        return answers

    def submit(self, topic: str, draft: Draft, timeout_s: float, *, block: bool = True) -> Future[Receipt]:
        future = self._publisher.submit(topic, draft, timeout_s, block=block)
        future.add_done_callback(lambda done: self._shadows.follow((draft,), (_result(done),)))
        return future

    def submit_many(self, topic: str, drafts: Sequence[Draft], timeout_s: float) -> Future[list[Answer]]:
        future = self._publisher.submit_many(topic, drafts, timeout_s)
        future.add_done_callback(lambda done: self._shadows.follow(drafts, _result(done) or [None] * len(drafts)))
        return future


def _result(done: Future[Any]) -> Any:
    """None of one that was cancelled or failed."""
    return None if done.cancelled() or done.exception() is not None else done.result()


class Shadowing:
    """Of one supervisor: the shadows of each topic, and one carrier for each cluster that gets any. Any thread."""

    def __init__(self, owner: Supervisor) -> None:
        self._owner = owner
        self._lock = threading.Lock()
        self._shadows: dict[str, tuple[tuple[str, int], Shadows]] = {}  # topic -> (cluster and step of its move, shadows)
        self._carriers: dict[str, Carrier] = {}

    def doubled(self, topic: str, publisher: Publisher) -> Publisher | Doubled:
        """The publisher itself unless the topic is in `dual_write`."""
        step = self._step(topic)
        if step is None:
            return publisher
        with self._lock:
            known = self._shadows.get(topic)
            if known is None or known[0] != step:
                known = self._shadows[topic] = step, self._begun(topic, step[0])
        return Doubled(publisher, known[1])

    def _step(self, topic: str) -> tuple[str, int] | None:
        route = self._owner.configuration.route(topic)
        return None if route is None or route.move is None or not route.shadows else (route.shadows, route.move.epoch)

    def _begun(self, topic: str, cluster: str) -> Shadows:
        environment, owner = self._owner.environment, self._owner

        def send(name: str, drafts: Sequence[Draft], timeout_s: float, /) -> list[Answer]:
            owner.clusters.backend(cluster)  # opened without the lock that other publishers are opened under
            return owner.publisher_of(cluster).send_now(name, drafts, timeout_s)

        if environment.threaded and cluster not in self._carriers:
            self._carriers[cluster] = Carrier(environment.clock, lambda: owner.configuration.publish, f"mqsdk-shadows-{cluster}")
        return Shadows(topic, send, self._carriers.get(cluster), environment.clock, lambda: owner.configuration.publish.timeout_s)

    def counts(self, topic: str) -> Mapping[str, int]:
        """As in `Report.shadows`; empty unless the topic is in `dual_write` and this process has published to it there."""
        known = self._shadows.get(topic)
        return known[1].counts() if known is not None and known[0] == self._step(topic) else {}

    def close(self, deadline: float) -> None:
        """What has no answer by then is given up."""
        for carrier in self._carriers.values():
            carrier.close(deadline)
