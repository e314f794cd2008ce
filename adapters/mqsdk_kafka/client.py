"""What one opened cluster shares: how its clients are made, one of them for looking and arranging, and one for reading."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as client
from kafka.admin import KafkaAdminClient
from kafka.net.compat import KafkaNetClient

from mqsdk_kafka.errors import FAILURES, PASSING, Doors, is_fatal
from mqsdk_kafka.options import Settings

LOOK_S = 15.0  # an administrative call repeats what may be repeated for so long
REQUEST_MS = 10_000
LEAST_BOOTSTRAP_S = 0.2
RETRY_MS = 25
PAUSE_S = 0.05
CUT_LOGINS = 3

Answer = TypeVar("Answer")
Made = TypeVar("Made")


class Watched(KafkaNetClient):  # type: ignore[misc]  # the client has no type hints
    """The client's network half, which remembers why its first connection failed: the client itself only says that it could not bootstrap.

    A cause that no repetition can heal ends the bootstrap at once. A broker answers a wrong password and closes; when both are read
    together the client drops the answer. So a connection that ends while it logs in, several times running, was refused.

    connect_by: until when it must have seen the cluster, while it is made; None later. Asking for topics makes the client connect without
    a deadline, and whoever connects meanwhile waits for that.
    """

    def __init__(self, **configs: Any) -> None:
        super().__init__(**configs)
        self.first_failure: Exception | None = None
        self.connect_by: float | None = None
        self._cut_logins = 0
        manager = self._manager
        manager.cluster.config["retry_backoff_ms"] = RETRY_MS  # else metadata of a new topic waits four times as long
        connect = manager.get_connection

        def get_connection(*given: Any, **named: Any) -> Any:
            connection = connect(*given, **named)
            connection.init_future.add_errback(self._failed)
            login = connection._sasl_authenticate

            async def watched_login(*of: Any, **by: Any) -> None:
                try:
                    await login(*of, **by)
                except client.KafkaConnectionError:
                    self._cut_logins += 1
                    raise
                self._cut_logins = 0

            connection._sasl_authenticate = watched_login
            return connection

        manager.get_connection = get_connection
        bootstrap = manager._do_bootstrap

        def bounded_bootstrap(deadline: float | None) -> Any:
            return bootstrap(self.connect_by or deadline)

        manager._do_bootstrap = bounded_bootstrap

    def _failed(self, error: Exception) -> None:
        if self._cut_logins >= CUT_LOGINS:
            error = client.SaslAuthenticationFailedError("the broker closes the connection while the user logs in")
        if self.first_failure is None or is_fatal(error):
            self.first_failure = error
        if is_fatal(error) and not self._manager.bootstrapped:
            self._manager.closed = True


def _quieten() -> None:
    """At DEBUG the client logs passwords, keys and values: never. By itself it is silent: what counts comes out of this adapter.

    While a broker is away the client warns ten times a second. Whoever sets a level for the logger `kafka` from INFO on keeps it.
    """
    logger = logging.getLogger("kafka")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
    elif logger.level < logging.INFO:
        logger.setLevel(logging.INFO)


class Client:
    """Thread-safe. `check` first in whatever may run in a forked child: nothing of the client survives a fork."""

    def __init__(self, cluster: str, settings: Settings) -> None:
        self.cluster = cluster
        self.settings = settings
        self.doors = Doors(cluster, settings.address)
        self.mark_limit = 0  # set by open
        self._pid = os.getpid()
        self._state = "open"
        self._common = self._options()
        self._guard = threading.Lock()
        self._admin: KafkaAdminClient | None = None
        self._reading = threading.Lock()
        self._reader: KafkaConsumer | None = None

    # --- making clients -----------------------------------------------------------------------------------------------------------------

    def consumer(self, deadline: float, topics: Sequence[str] = (), **options: Any) -> KafkaConsumer:
        """topics: whose partitions it knows from the start."""
        return self._make(KafkaConsumer, deadline, topics, metrics_enabled=False, **options)

    def producer(self, deadline: float, topics: Sequence[str] = (), **options: Any) -> KafkaProducer:
        return self._make(KafkaProducer, deadline, topics, metrics_enabled=False, **options)

    def _options(self) -> dict[str, Any]:
        settings, context = self.settings, self.settings.context()
        protocol = ("SASL_" if settings.mechanism else "") + ("SSL" if context else "PLAINTEXT")
        options: dict[str, Any] = {
            "bootstrap_servers": settings.addresses,
            "security_protocol": protocol,
            "client_id": f"mqsdk-{os.getpid()}",
            "reconnect_backoff_max_ms": 1000,  # the client's 30 s would be 30 s of deafness after an outage
            "request_timeout_ms": REQUEST_MS,
            "retry_backoff_ms": RETRY_MS,
        }
        if context is not None:
            options["ssl_context"] = context
        if settings.mechanism is not None:
            options |= {"sasl_mechanism": settings.mechanism, "sasl_plain_username": settings.user}
            options["sasl_plain_password"] = settings.password
        return options

    def _make(self, kind: Callable[..., Made], deadline: float, topics: Sequence[str] = (), **options: Any) -> Made:
        """A client that has seen the cluster. Raises BackendError; one that failed leaves no thread behind."""
        self.check()
        _quieten()
        made: list[Watched] = []
        left_s = max(LEAST_BOOTSTRAP_S, deadline - time.monotonic())

        def network(**configs: Any) -> Watched:
            made.append(Watched(**configs))
            made[-1].connect_by = time.monotonic() + left_s
            if topics:
                made[-1].cluster.set_topics(topics)
            return made[-1]

        try:
            client_made = kind(**{**self._common, **options}, kafka_client=network, bootstrap_timeout_ms=int(left_s * 1000))
        except FAILURES as error:
            cause = made[0].first_failure if made and made[0].first_failure is not None else error
            for network_half in made:
                network_half.close()
            raise self.doors.error(cause) from cause
        for network_half in made:
            network_half.connect_by = None
        return client_made

    # --- looking ------------------------------------------------------------------------------------------------------------------------

    def look(self, call: Callable[[KafkaAdminClient], Answer], deadline: float | None = None) -> Answer:
        """Run an administrative call that may be repeated. Raises BackendError."""
        give_up = time.monotonic() + LOOK_S if deadline is None else deadline
        return self._repeated(lambda: call(self._administrator(give_up)), give_up)

    def read(self, call: Callable[[KafkaConsumer], Answer]) -> Answer:
        """Run a call on the one consumer that belongs to no group, one call at a time."""
        give_up = time.monotonic() + LOOK_S
        with self._reading:
            return self._repeated(lambda: call(self._looker(give_up)), give_up)

    def _repeated(self, call: Callable[[], Answer], give_up: float) -> Answer:
        while True:
            self.check()
            try:
                return call()
            except PASSING as error:
                if time.monotonic() >= give_up or isinstance(error, client.UnknownTopicOrPartitionError):
                    raise self.doors.error(error) from error
            except FAILURES as error:
                self.check()
                raise self.doors.error(error) from error
            time.sleep(PAUSE_S)

    def _administrator(self, deadline: float) -> KafkaAdminClient:
        with self._guard:
            if self._admin is None:
                self._admin = self._make(KafkaAdminClient, deadline)
            return self._admin

    def _looker(self, deadline: float) -> KafkaConsumer:
        if self._reader is None:
            options: dict[str, Any] = {"group_id": None, "enable_auto_commit": False, "auto_offset_reset": "none"}
            self._reader = self.consumer(deadline, isolation_level="read_committed", fetch_max_wait_ms=100, **options)
        return self._reader

    # --- ending -------------------------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        return "stale" if self._pid != os.getpid() else self._state

    def check(self) -> None:
        """Raises StateError when it is closed, or was opened by the process that this one is a fork of."""
        state = self.state
        if state != "open":
            raise self.doors.closed(state)

    def close(self) -> None:
        if self.state == "open":
            self._state = "closed"
            admin, self._admin = self._admin, None
            reader, self._reader = self._reader, None
            if admin is not None:
                admin.close()
            if reader is not None:
                reader.close(autocommit=False, timeout_ms=500)


__all__ = ["Client", "TopicPartition", "Watched"]
