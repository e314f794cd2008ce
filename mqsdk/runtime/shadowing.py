"""Publishing in stage `dual_write` of a move: what the source has stored goes to the target too, as a copy that nobody handles.

The answer of a publish is the source's and is there before its shadow is sent: a shadow that is late, or fails, is in nobody's way. It is
sent once, with the repeats that any publish has until its deadline; what finds no room in the window, or is not stored by then, is counted
and given up. Threads and window are its own, so that a target that does not answer holds up nothing, not even the way back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from mqsdk.message import Receipt
from mqsdk.runtime.cells import Cells
from mqsdk.runtime.clock import Clock
from mqsdk.runtime.publisher import Publisher
from mqsdk.runtime.sender import Answer, Draft, Send, Sender
from mqsdk.spi.events import SHADOW

if TYPE_CHECKING:
    from mqsdk.runtime.supervisor import Supervisor

SHADOW_OF_DELAYED = "delayed"
SHADOW_ATTEMPT = 2


def shadow_of(draft: Draft) -> Draft:
    """At once, whatever the message is delayed by: nobody handles it, and the target may not be able to delay.

    As a second attempt, for that is what consumers see of every record without looking at its headers.
    """
    mark = (SHADOW, "1" if draft.due_ms is None else SHADOW_OF_DELAYED)
    return draft._replace(due_ms=None, attempt=SHADOW_ATTEMPT, extra=(*draft.extra, mark))


class Shadows:
    """Of one topic, from the moment on when this process has begun with them. Any thread.

    send: to the target, within the publish timeout. sender: carries them there; None: whoever publishes does.
    since_ms: wall clock. Every message published after it has a shadow, or is counted in `failed`.
    """

    def __init__(self, topic: str, send: Send, sender: Sender | None, clock: Clock, timeout_s: Callable[[], float]) -> None:
        self.since_ms = clock.wall_ms()
        self.stored = Cells()
        self.failed = Cells()
        self._topic = topic
        self._send = send
        self._sender = sender
        self._timeout_s = timeout_s

    def follow(self, drafts: Sequence[Draft], answers: Sequence[object]) -> None:
        """Copy those that were stored. Never raises, never waits for the target unless nothing is threaded."""
        copies = [shadow_of(draft) for draft, answer in zip(drafts, answers, strict=True) if isinstance(answer, Receipt)]
        if not copies:
            return
        try:
            self._submit(copies)
        except Exception:  # a target that cannot be used must not fail the publish, whatever it raises
            self.failed.add(len(copies))

    def _submit(self, copies: Sequence[Draft]) -> None:
        timeout_s = self._timeout_s()
        if self._sender is None:
            self._count(self._send(self._topic, copies, timeout_s))
        elif self._sender.has_room(len(copies), sum(len(copy.value) for copy in copies)):
            self._sender.submit_many(self._topic, copies, timeout_s).add_done_callback(lambda future: self._ended(future, len(copies)))
        else:
            self.failed.add(len(copies))

    def _ended(self, future: Future[list[Answer]], count: int) -> None:
        answers = _result(future)
        if answers is None:
            self.failed.add(count)
        else:
            self._count(answers)

    def _count(self, answers: Sequence[Answer]) -> None:
        stored = sum(isinstance(answer, Receipt) for answer in answers)
        self.stored.add(stored)
        self.failed.add(len(answers) - stored)

    def counts(self) -> Mapping[str, int]:
        """As in `Report.shadows`."""
        return {"since_ms": self.since_ms, "stored": self.stored.total(), "failed": self.failed.total()}


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
    """Of one supervisor: the shadows of each topic, and one sender for each cluster that gets any. Any thread."""

    def __init__(self, owner: Supervisor) -> None:
        self._owner = owner
        self._lock = threading.Lock()
        self._shadows: dict[str, tuple[tuple[str, int], Shadows]] = {}  # topic -> (cluster and step of its move, shadows)
        self._senders: dict[str, Sender] = {}

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

        if environment.threaded and cluster not in self._senders:
            self._senders[cluster] = Sender(send, environment.clock, owner.configuration.publish, f"shadows-{cluster}")
        return Shadows(topic, send, self._senders.get(cluster), environment.clock, lambda: owner.configuration.publish.timeout_s)

    def counts(self, topic: str) -> Mapping[str, int]:
        """As in `Report.shadows`; empty unless the topic is in `dual_write` and this process has published to it there."""
        known = self._shadows.get(topic)
        return known[1].counts() if known is not None and known[0] == self._step(topic) else {}

    def close(self, deadline: float) -> None:
        """What has no answer by then is given up."""
        for sender in self._senders.values():
            sender.close(deadline)
