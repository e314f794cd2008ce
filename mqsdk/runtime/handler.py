"""What the runtime needs to know of a user's function. `mqsdk.api.handler` implements it; the runtime never sees payload types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mqsdk.core.actions import Failure
from mqsdk.message import Call


class Handler(Protocol):
    """A user function made callable. Exactly one of the four methods is used, chosen by `is_async` and `batch`.

    None of them raises: every outcome of the user's function, SystemExit included, is a return value. `call.record` (or `call.records`),
    `call.origin`, `call.attempt` and `call.deadline` are set by the worker before.
    """

    is_async: bool
    batch: bool

    def invoke(self, call: Call) -> Failure | None:
        """Run one record; None = handled."""

    async def invoke_async(self, call: Call) -> Failure | None:
        """Run one record on the event loop. CancelledError of the worker's own cancel passes through."""

    def invoke_batch(self, call: Call) -> Sequence[tuple[int, Failure]]:
        """Run `call.records` in one call; (index, failure) of those that failed, () = all handled.

        Undecodable ones never reach the function.
        """

    async def invoke_batch_async(self, call: Call) -> Sequence[tuple[int, Failure]]: ...
