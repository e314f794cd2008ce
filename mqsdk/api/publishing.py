"""The publish family: what App and Router offer. Three outcomes, no fourth."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mqsdk.errors import Duration, StateError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from mqsdk.api.outlet import Outlet
    from mqsdk.message import Receipt

Key = str | bytes | int


def refuse_event_loop(name: str) -> None:
    """A blocking call on the thread of a running event loop would stop everything on it. Free while asyncio was never imported."""
    module = sys.modules.get("asyncio")
    if module is not None and module._get_running_loop() is not None:
        raise StateError(
            f"`{name}` would block the event loop that runs on this thread", fix=f"await app.{name}_async(...)", state="EVENT_LOOP"
        )


class PublishMethods(ABC):
    """What App and Router offer for publishing. Arguments are checked and payloads encoded at the call, before any wait."""

    @abstractmethod
    def _outlet(self) -> Outlet:
        """The Outlet of the opened App; opens it on first use. Raises StateError after close and in a forked child."""

    def publish(
        self,
        topic: str,
        payload: Any,
        *,
        key: Key | None = None,
        headers: Mapping[str, str] | None = None,
        delay: Duration | None = None,
        at: datetime | None = None,
        id: str | None = None,
        timeout: Duration | None = None,
    ) -> Receipt:
        """Store one message; returns when it is stored as durably as the cluster promises. Blocks for `timeout` at most.

        key: messages of one key keep their order; str, bytes or int, 1 to 1,024 bytes. headers: str to str, at most 64 and 16 KiB.
        id: 1 to 128 visible ASCII characters, default a UUIDv7; publishing the same id again is a repeat of the same message.
        delay, at: deliver it later, at most 366 days, where the topic's cluster can (else PublishRejected, code "unsupported"). It is
        stored now, and takes its place in the order when it is due; a time that has passed is now.
        Raises InvalidMessage (an argument), PublishRejected (certainly not stored), PublishUnknown (may be stored), StateError.
        """
        refuse_event_loop("publish")
        outlet = self._outlet()
        if headers is None and delay is None and at is None and id is None:
            draft = outlet.plain_draft(topic, payload, key)
        else:
            draft = outlet.draft(topic, payload, {"key": key, "headers": headers, "delay": delay, "at": at, "id": id})
        return outlet.send_one(topic, draft, outlet.timeout_s(timeout))

    async def publish_async(
        self,
        topic: str,
        payload: Any,
        *,
        key: Key | None = None,
        headers: Mapping[str, str] | None = None,
        delay: Duration | None = None,
        at: datetime | None = None,
        id: str | None = None,
        timeout: Duration | None = None,
    ) -> Receipt:
        """As `publish`, from an event loop, which is never blocked. Calls of one loop keep their order.

        Cancelled before it is begun it is never sent; later nobody knows.
        """
        outlet = await self._outlet_async()
        draft = outlet.draft(topic, payload, {"key": key, "headers": headers, "delay": delay, "at": at, "id": id})
        timeout_s = outlet.timeout_s(timeout)
        return await outlet.send_one_async(topic, draft, timeout_s)

    def publish_many(
        self, topic: str, items: Iterable[Any], *, key: Key | Callable[[Any], Key | None] | None = None, timeout: Duration | None = None
    ) -> list[Receipt]:
        """Store many messages in order, as one pipelined call; not atomic. items: payloads, or Outgoing for own key, headers or id.

        key: one for all, or a function payload -> key. Raises InvalidMessage before anything is sent, and PublishManyFailed when some
        were not stored: its `outcomes` has one Receipt, PublishRejected or PublishUnknown per item.
        """
        refuse_event_loop("publish_many")
        outlet = self._outlet()
        timeout_s = outlet.timeout_s(timeout)
        drafts = outlet.drafts(topic, items, key)
        return outlet.send_many(topic, drafts, timeout_s) if drafts else []

    async def publish_many_async(
        self, topic: str, items: Iterable[Any], *, key: Key | Callable[[Any], Key | None] | None = None, timeout: Duration | None = None
    ) -> list[Receipt]:
        """As `publish_many`, from an event loop, which is never blocked. Calls of one loop keep their order."""
        outlet = await self._outlet_async()
        timeout_s = outlet.timeout_s(timeout)
        drafts = outlet.drafts(topic, items, key)
        return await outlet.send_many_async(topic, drafts, timeout_s) if drafts else []

    def publish_nowait(
        self,
        topic: str,
        payload: Any,
        *,
        key: Key | None = None,
        headers: Mapping[str, str] | None = None,
        delay: Duration | None = None,
        at: datetime | None = None,
        id: str | None = None,
        timeout: Duration | None = None,
    ) -> Future[Receipt]:
        """As `publish`, without waiting: the future ends with the Receipt, PublishRejected or PublishUnknown.

        Blocks while the publish window (`publish.window`) is full, for `timeout` at most. Bad arguments are raised here. Messages of one
        key keep the order of the calls of one thread, `publish` among them. `cancel()` works until the message is begun.
        """
        outlet = self._outlet()
        draft = outlet.draft(topic, payload, {"key": key, "headers": headers, "delay": delay, "at": at, "id": id})
        return outlet.submit(topic, draft, outlet.timeout_s(timeout))

    async def _outlet_async(self) -> Outlet:
        """As `_outlet`; opening reads files and connects, so that happens beside the loop."""
        return self._outlet()
