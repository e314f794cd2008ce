"""Who publishes in one process: one thread, which blocks at each publish, or submits some and hears of them later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mqsdk.errors import MqError, PublishRejected
from mqsdk.message import Receipt
from mqsdk.runtime.sender import Draft
from tests.simulation.schedule import Thread

if TYPE_CHECKING:
    from tests.simulation.process import Process

TOPIC = "t"
WAITS = (0.0, 0.002, 0.05)
HELD_S = 0.01


class Writer:
    """Publishes what is left of the program of its place. `world.programs` outlives the process; what was begun there is not repeated."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._world = process.world
        self._left = process.world.programs[process.index]
        self.thread = Thread(process, self._step, WAITS)

    def _step(self) -> float | None:
        process, now = self._process, self._process.clock.mono()
        if not self._left or process.is_draining:
            return None
        if now < self._left[0].not_before:
            return self._left[0].not_before
        if self._is_held():
            return now + HELD_S
        writes = self._world.plan.writes
        waits = [message.not_before > now for message in self._left].index(True) if self._left[-1].not_before > now else len(self._left)
        count = 1 if writes == "send" else self._world.rng.randint(1, 4)
        drafts = [self._draft() for _ in range(min(count, waits))]
        for draft in drafts:
            process.rules.invoked(process, draft)
        self._publish(writes, drafts)
        return process.clock.mono() + self._world.rng.choice(WAITS)

    def _is_held(self) -> bool:
        """A real thread would wait inside of the publish; here it waits before."""
        outlet = self._process.session.outlet
        if any(hold.covers(TOPIC) for hold in outlet._holds):
            return True
        is_blocking = self._world.plan.writes != "submit"
        return is_blocking and any(sender.records for sender in self._process.senders)

    def _draft(self) -> Draft:
        message = self._left.pop(0)
        due_ms = None if message.delay_ms is None else self._process.clock.wall_ms() + message.delay_ms
        return Draft(message.key, message.id.encode(), message.id, due_ms=due_ms)

    def _publish(self, writes: str, drafts: list[Draft]) -> None:
        outlet, seconds = self._process.session.outlet, self._world.plan.publish_s
        if writes == "submit":
            for draft in drafts:
                self._submit(draft, seconds)
            return
        try:
            answers = outlet._guarded(TOPIC, drafts, seconds) if len(drafts) > 1 else [outlet.send_one(TOPIC, drafts[0], seconds)]
        except MqError as error:
            answers = [error]
        for draft, answer in zip(drafts, answers, strict=True):
            self._answered(draft, answer)

    def _submit(self, draft: Draft, seconds: float) -> None:
        try:
            future = self._process.session.outlet.submit(TOPIC, draft, seconds)
        except MqError as error:
            self._answered(draft, error)
            return
        future.add_done_callback(lambda done: self._answered(draft, done.exception() or done.result()))

    def _answered(self, draft: Draft, answer: Any) -> None:
        if self._process.is_dead:
            return
        rules = self._process.rules
        if isinstance(answer, Receipt):
            rules.answered(self._process, draft.id, "stored")
        elif isinstance(answer, PublishRejected):
            rules.answered(self._process, draft.id, "rejected")
        else:
            rules.answered(self._process, draft.id, "unknown")
