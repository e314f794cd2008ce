"""The opened backends of one process, by cluster name, and where a topic lives."""

from __future__ import annotations

import threading
from collections.abc import Callable

from mqsdk.config.model import Cluster, Configuration
from mqsdk.core.stages import View
from mqsdk.errors import ConfigError, MqError, PublishRejected
from mqsdk.runtime import plugins
from mqsdk.runtime.clock import Clock, SystemClock
from mqsdk.spi import Backend, Capabilities

OPEN_TIMEOUT_S = 10.0
_OWN_SUFFIXES = (".dlq", ".retry")


def owner_topic(topic: str) -> str:
    """The topic that a `<topic>.<group>.dlq` or `.retry` belongs to; any other name is returned as it is. Groups hold no dots."""
    if topic.endswith(_OWN_SUFFIXES):
        parts = topic.rsplit(".", 2)
        if len(parts) == 3 and parts[0]:
            return parts[0]
    return topic


def cluster_in(configuration: Configuration, topic: str) -> str | None:
    """Cluster that a topic is published to by its route; None when no route matches."""
    found = view_in(configuration, topic)
    return None if found is None else found.writes


def view_in(configuration: Configuration, topic: str) -> View | None:
    """Where a topic is published to and read by its route; None when no route matches."""
    route = configuration.route(owner_topic(topic))
    return None if route is None else route.view


class Clusters:
    """Opens a backend on first use and closes all of them together. Thread-safe."""

    def __init__(
        self,
        configuration: Configuration,
        make_backend: Callable[[Cluster], Backend] = plugins.make_backend,
        clock: Clock | None = None,
    ) -> None:
        self.configuration = configuration
        self._make_backend = make_backend
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._backends: dict[str, Backend] = {}
        self._failures: dict[str, str] = {}
        self._unopened: dict[str, Backend] = {}

    def cluster(self, name: str) -> Cluster:
        try:
            return self.configuration.clusters[name]
        except KeyError:
            known = ", ".join(sorted(self.configuration.clusters)) or "none"
            raise ConfigError(f"no cluster is named `{name}`", where=self.configuration.source, fix=f"known: {known}") from None

    def backend(self, name: str, timeout_s: float = OPEN_TIMEOUT_S) -> Backend:
        """The opened backend of a cluster. Raises ConfigError or BackendError; a failed open is tried again at the next call."""
        with self._lock:
            backend = self._backends.get(name)
            if backend is None:
                backend = self._backends[name] = self._open(name, timeout_s)
            return backend

    def _open(self, name: str, timeout_s: float) -> Backend:
        try:
            backend = self._unopened.pop(name, None) or self._make_backend(self.cluster(name))
            backend.open(self._clock.mono() + timeout_s)
        except MqError as error:
            self._failures[name] = error.what
            raise
        self._failures.pop(name, None)
        return backend

    def failures(self) -> dict[str, str]:
        """What kept a cluster from being opened when it was last tried, by cluster name."""
        return dict(self._failures)

    def opened_anew(self, cluster: Cluster, timeout_s: float = OPEN_TIMEOUT_S) -> Backend:
        """Another client of a cluster, with other settings, connected and not in use yet. Raises ConfigError or BackendError."""
        backend = self._make_backend(cluster)
        backend.open(self._clock.mono() + timeout_s)
        return backend

    def exchange(self, name: str, backend: Backend) -> Backend | None:
        """Use this client from now on; the one that was in use, which the caller closes when nobody needs it any more."""
        with self._lock:
            old, self._backends[name] = self._backends.get(name), backend
            return old

    def adopt(self, name: str, backend: Backend) -> None:
        """Use this client of a cluster that had none; one that got one meanwhile keeps it."""
        with self._lock:
            if self._backends.setdefault(name, backend) is backend:
                return
        backend.close(self._clock.mono() + OPEN_TIMEOUT_S)

    def name_of(self, topic: str) -> str:
        """Cluster of a topic by its route. Raises PublishRejected(code="no_route")."""
        cluster = cluster_in(self.configuration, topic)
        if cluster is None:
            raise PublishRejected(
                f"no route matches topic {topic}", code="no_route", topic=topic, fix="add one to `routes:`, for example a last one for '*'"
            )
        return cluster

    def of_topic(self, topic: str) -> tuple[str, Backend]:
        """(cluster name, opened backend) of a topic. Raises as name_of and backend do."""
        name = self.name_of(topic)
        return name, self.backend(name)

    def capabilities_of(self, topic: str) -> tuple[str, str, Capabilities]:
        """(cluster name, kind, what its backend can do) of a topic; connects nothing. Raises as name_of, and ConfigError."""
        name = self.name_of(topic)
        with self._lock:
            backend = self._backends.get(name) or self._unopened.get(name)
            if backend is None:
                backend = self._unopened[name] = self._make_backend(self.cluster(name))
        return name, backend.kind, backend.capabilities

    def opened(self) -> dict[str, Backend]:
        with self._lock:
            return dict(self._backends)

    def close(self, deadline: float) -> None:
        """Close every opened backend. deadline: monotonic seconds. The first error is raised after all have been tried."""
        with self._lock:
            backends, self._backends = self._backends, {}
        first: Exception | None = None
        for backend in backends.values():
            try:
                backend.close(deadline)
            except Exception as error:  # every backend gets its chance before the error leaves
                first = first or error
        if first is not None:
            raise first
