"""What an App holds while it is open: the supervisor of the runtime, the outlet for publishing, and how handlers are put together."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mqsdk.api import handler
from mqsdk.api.behind import Behind
from mqsdk.api.consumer import ConsumerDeclaration
from mqsdk.api.handler import Parts
from mqsdk.api.masking import mask_for
from mqsdk.api.middleware import Chain
from mqsdk.api.outlet import Outlet
from mqsdk.api.payload import Limits, decoder
from mqsdk.api.verdict import Verdicts, Witness
from mqsdk.config.model import Configuration
from mqsdk.errors import ConfigError
from mqsdk.runtime.changing import Prepared
from mqsdk.runtime.clusters import cluster_in, owner_topic
from mqsdk.runtime.environment import Declared, Environment
from mqsdk.runtime.inspection import StopReport
from mqsdk.runtime.supervisor import Supervisor
from mqsdk.spi import Backend

if TYPE_CHECKING:
    from mqsdk.api.app import App
    from mqsdk.runtime.isolation import Isolation

LOG = logging.getLogger("mqsdk.app")

Hook = Callable[[], Any]


class Session:
    """One open App. `witness` is shown every exception of a handler (TestApp); `pid`: the process that opened it."""

    def __init__(self, configuration: Configuration, environment: Environment, app: str, witness: Witness | None = None) -> None:
        self.configuration = configuration
        self.supervisor = Supervisor(configuration, environment, app)
        self.limits = Limits(configuration.payload_limit)
        self.outlet = Outlet(self.supervisor, self.limits)
        self.behind = Behind()
        if configuration.cached:
            self.behind.unread = ConfigError(configuration.notices[0])
        self.pid = os.getpid()
        self._witness = witness

    def build(
        self, declarations: Sequence[ConsumerDeclaration], middleware: Sequence[Callable[..., Any]], app: App | None = None
    ) -> list[Declared]:
        """Consumers as the runtime takes them. app: whose they are, for worker processes.

        Raises DeclarationError for annotations or middleware that cannot work.
        """
        chain = Chain(middleware)
        return [replace(self._build(one, chain), isolation=self._isolation(one, middleware, app)) for one in declarations]

    def _isolation(self, one: ConsumerDeclaration, middleware: Sequence[Callable[..., Any]], app: App | None) -> Isolation | None:
        if not (one.isolated and self.supervisor.environment.isolated):
            return None
        from mqsdk.api.isolated import isolation_of

        return isolation_of(one, middleware, self.configuration, self.limits, app)

    def _build(self, one: ConsumerDeclaration, chain: Chain) -> Declared:
        signature = one.signature
        shape = one.shape()
        if not signature.is_async:
            chain.refuse_async_around(one.name, signature.where)
        parts = Parts(
            function=signature.function,
            shape=shape,
            decode=decoder(shape.annotation, self.limits, signature.where),
            verdicts=Verdicts(one.name, one.reject_on, mask_for(self.configuration), self._witness),
            chain=chain,
            clock=self.supervisor.environment.clock.mono,
        )
        return Declared(
            topic=one.topic,
            group=one.group,
            handler=handler.make(parts, is_async=signature.is_async, batch=signature.batch),
            ordered=one.ordered,
            batch=one.batch,
            batch_wait_s=one.batch_wait_s,
            start=one.start,
            dead_letter=one.dead_letter,
            broadcast=one.broadcast,
            tuning=one.tuning,
        )

    def run_hooks(self, hooks: Sequence[Hook]) -> None:
        """Run in order; async ones on the App's event loop. The first exception ends it."""
        for hook in hooks:
            result = hook()
            if inspect.isawaitable(result):
                self.supervisor.event_loop().run(_awaited(result))

    def run_last_hooks(self, hooks: Sequence[Hook]) -> None:
        """Run all of them; what one raises is logged, so that stopping goes on."""
        for hook in hooks:
            try:
                self.run_hooks((hook,))
            except Exception:
                LOG.exception("on_shutdown hook %s failed", getattr(hook, "__qualname__", type(hook).__name__))

    def stop(self, timeout_s: float | None) -> StopReport:
        return self.supervisor.stop(self.configuration.drain_timeout_s if timeout_s is None else timeout_s)

    def close(self, timeout_s: float) -> StopReport:
        return self.supervisor.close(timeout_s)

    def apply(self, configuration: Configuration, opened: Mapping[str, Backend], prepared: Prepared) -> None:
        """Take a whole new configuration whose changes are all live. opened: new clients. prepared: topics whose cluster changes."""
        old, are_written = self.configuration, None
        if old.routes != configuration.routes:
            are_written = self.outlet.hold(lambda topic: _is_written_otherwise(old, configuration, topic))
        self.configuration = configuration
        self.supervisor.apply(configuration)
        self.outlet.apply(configuration)
        self.supervisor.exchange(opened)
        if are_written is not None:
            self.supervisor.switching.begin(prepared, are_written)
        self.supervisor.reporting.apply(configuration)


def _is_written_otherwise(old: Configuration, new: Configuration, topic: str) -> bool:
    """To another cluster, with or without shadows, or only by a route that has to be proven; or not any more."""
    before, after = old.route(owner_topic(topic)), new.route(owner_topic(topic))
    is_proven_otherwise = (
        before is not None and after is not None and ((before.move is None) != (after.move is None) or before.shadows != after.shadows)
    )
    return cluster_in(old, topic) != cluster_in(new, topic) or is_proven_otherwise


async def _awaited(result: Any) -> None:
    await result
