"""Looking into an App and its clusters: topics, groups, lag, running consumers, health; and pausing a consumer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from mqsdk import names
from mqsdk.api.state import State
from mqsdk.errors import ConfigError, DeclarationError, PublishRejected

if TYPE_CHECKING:
    from mqsdk.api.session import Session
    from mqsdk.runtime.inspection import ConsumerInfo, Health, Lag
    from mqsdk.spi import Backend, GroupInfo, TopicInfo


class InspectMethods(ABC):
    """Everything here reads; nothing changes a group. Opens the App on first use, but for `consumers` and `health`."""

    _session: Session | None

    @property
    @abstractmethod
    def state(self) -> State: ...

    @abstractmethod
    def _opened(self) -> Session: ...

    def topics(self) -> list[TopicInfo]:
        """All topics of all clusters that a route leads to, the SDK's own (`.dlq`, `.retry`) included. Raises BackendError."""
        session = self._opened()
        clusters = dict.fromkeys(cluster for route in session.configuration.routes for cluster in route.clusters)
        return [topic for name in clusters for topic in session.supervisor.clusters.backend(name).admin().topics()]

    def groups(self, topic: str) -> list[GroupInfo]:
        """The groups of a topic with their members, wherever they run. Raises BackendError."""
        return self._backend_of(topic).admin().groups(topic)

    def lag(self, topic: str, group: str) -> Lag:
        """How far a group is behind, running here or not: messages, seconds, and per partition. Raises BackendError.

        A topic or group that does not exist has nothing to be behind: `Lag(0, 0.0, ())`. One that exists has its partitions there.
        """
        self._backend_of(topic)
        problem = names.group_problem(group)
        if problem is not None:
            raise DeclarationError(problem)
        return self._opened().supervisor.lag(topic, group)

    def consumers(self) -> list[ConsumerInfo]:
        """The consumers that run in this process; empty before `start`."""
        session = self._session
        return [] if session is None else session.supervisor.consumers()

    def health(self) -> Health:
        """live: may make progress. ready: RUNNING, every consumer joined and none stalled. Never raises."""
        session = self._session
        if session is None:
            from mqsdk.runtime.inspection import Health

            return Health(live=self.state is not State.CLOSED, ready=False, clusters={}, problems=(f"the App is {self.state}",))
        return session.supervisor.health(self.state is State.RUNNING)

    def pause(self, topic: str, group: str) -> None:
        """Start no more handlers of one consumer here, until `resume` or a restart. StateError when it does not run here."""
        self._opened().supervisor.pause(topic, group, True)

    def resume(self, topic: str, group: str) -> None:
        """Undo `pause`. StateError when the consumer does not run here."""
        self._opened().supervisor.pause(topic, group, False)

    def _backend_of(self, topic: str) -> Backend:
        problem = names.topic_problem(topic, reading=True)
        if problem is not None:
            raise DeclarationError(problem)
        try:
            return self._opened().supervisor.clusters.of_topic(topic)[1]
        except PublishRejected as error:
            raise ConfigError(error.what, where=error.where, fix=error.fix) from None
