"""One cluster of kind `log`: a directory that this process has open, and everything handed out over it."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from mqsdk.spi import (
    Admin,
    Backend,
    BackendHealth,
    Capabilities,
    EventSink,
    Finding,
    StateError,
    Subscription,
)
from mqsdk_log.admin import LogAdmin
from mqsdk_log.consumer import LogConsumer
from mqsdk_log.engine import cursors
from mqsdk_log.engine.cursors import BLOB_LIMIT
from mqsdk_log.engine.log import Log
from mqsdk_log.engine.retention import Keep
from mqsdk_log.engine.seat import Mark
from mqsdk_log.engine.shared import Limits
from mqsdk_log.engine.syncer import Syncer
from mqsdk_log.errors import KIND, translated
from mqsdk_log.janitor import Janitor
from mqsdk_log.names import check_name
from mqsdk_log.options import Options
from mqsdk_log.producer import MAX_PAYLOAD, LogProducer

log = logging.getLogger("mqsdk.log")

CAPABILITIES = Capabilities(
    settle="cursor", publish="inline", companions=True, broadcast=True, retention=True, amend=True, copies=False, delay="native",
    sparse_bytes=BLOB_LIMIT, max_payload=MAX_PAYLOAD,
)  # fmt: skip
PROGRESS_SYNC_S = 1.0  # settles reach the medium once a second: what a power loss takes of them is handled again
GUARANTEES = {
    "none": "log `none`: survives kill -9 of any process; a power loss takes what the kernel had not written back (about 30 s)",
    "interval": "log `interval`: survives kill -9 of any process; a power loss takes the last {interval_ms:.0f} ms at most",
    "always": "log `always`: what is acknowledged survives kill -9 and power loss, as far as the disk honours flushes",
}


class LogBackend(Backend):
    """Constructing touches nothing."""

    kind: ClassVar[str] = KIND

    def __init__(self, name: str, options: Options, limits: Limits | None = None) -> None:
        """limits: of segments and free space; None takes the engine's own."""
        self.name = name
        self._options = options
        self._limits = limits
        self._janitor: Janitor | None = None
        self._log: Log | None = None
        self._syncer: Syncer | None = None
        self._consumers: set[LogConsumer] = set()  # strong: one that nobody holds any more still holds its leases
        self._reports: list[str] = []

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def open(self, deadline: float) -> None:
        """Open the directory, making it when it is missing. A relative path is taken from the working directory of now."""
        if self._log is not None:
            return
        options = self._options
        path = Path(options.path).expanduser().absolute()
        with translated(self.name, str(path)):
            found = Log.open(
                path, durability=options.durability, interval_s=options.interval, limits=self._limits, any_filesystem=options.any_filesystem
            )
        found.floor = lambda topic, partition: cursors.highest(path, topic, partition)
        found.report = self._report
        self._log = found
        self._janitor = Janitor(found, Keep(options.keep, options.keep_size), self._report)
        self._janitor.start()
        self._syncer = Syncer(PROGRESS_SYNC_S, self._report) if options.durability != "none" else None
        _open_backends.add(self)

    def close(self, deadline: float) -> None:
        for consumer in list(self._consumers):
            consumer.close(deadline)
        if self._janitor is not None:
            self._janitor.close(deadline)
        if self._syncer is not None:
            self._syncer.close(deadline)
        if self._log is not None:
            found, self._log = self._log, None
            _open_backends.discard(self)
            with translated(self.name):
                found.close(deadline)

    def producer(self, events: EventSink) -> LogProducer:
        return LogProducer(self._opened(), events)

    def consumer(self, subscription: Subscription) -> LogConsumer:
        found, admin = self._opened(), self.admin()
        check_name("group", subscription.group)
        for topic in () if subscription.broadcast else subscription.topics:
            if topic == subscription.topics[0] or admin.partitions(topic) is not None:
                admin.ensure_group(topic, subscription.group, subscription.start)
        consumer = LogConsumer(self.name, found, subscription, self._mark, self._consumers.discard)
        self._consumers.add(consumer)
        return consumer

    def admin(self) -> Admin:
        return LogAdmin(self.name, self._opened())

    def health(self) -> BackendHealth:
        """Findings: the durability that holds, and what recovery had to report since this process opened the log."""
        options = self._options
        guarantee = GUARANTEES[options.durability].format(interval_ms=options.interval * 1000)
        if self._log is None:
            return BackendHealth(ok=False, guarantee=guarantee, findings=(Finding("warn", "closed", "the log is not open"),))
        began = time.monotonic()
        with translated(self.name):
            self._log.topics()
        level = Finding(
            "info", f"durability_{options.durability}", guarantee, "durability: always" if options.durability != "always" else ""
        )
        repairs = tuple(Finding("warn", "recovered", text, "`mqsdk log verify` looks at every record") for text in self._reports)
        return BackendHealth(True, "format 1", (time.monotonic() - began) * 1000, guarantee, (level, *repairs))

    @property
    def _mark(self) -> Mark | None:
        syncer = self._syncer
        return None if syncer is None else lambda sync: syncer.mark(self._guarded(sync))

    def _guarded(self, sync: Callable[[], None]) -> Callable[[], None]:
        """A failed sync of progress costs redelivery after a power loss, nothing else: reported, and tried again after the next settle."""

        def run() -> None:
            try:
                sync()
            except OSError as error:
                self._report(f"the progress of a group could not be synced: {os.strerror(error.errno or 0)}")

        return run

    def _report(self, text: str) -> None:
        log.warning("cluster %s (%s): %s", self.name, KIND, text)
        if len(self._reports) < 100:
            self._reports.append(text)

    def _opened(self) -> Log:
        if self._log is None:
            raise StateError(f"cluster {self.name} ({KIND}) is not open", state="closed")
        return self._log

    def vanish(self) -> None:
        """Close every consumer's descriptors, hand nothing back: what a fork does to the copies in the child, and a kill to a process."""
        for consumer in list(self._consumers):
            consumer.vanish()


# Backends whose copies a fork makes stale. Module-wide because the interpreter's hook is, and cannot be taken back.
_open_backends: weakref.WeakSet[LogBackend] = weakref.WeakSet()


def _forget_all() -> None:
    for backend in list(_open_backends):
        with suppress(Exception):  # nobody would hear of it, and the others must be given up all the same
            backend.vanish()
    _open_backends.clear()


os.register_at_fork(after_in_child=_forget_all)
