"""A short connection for looking and arranging: opened, used, closed; errors leave it as errors of mqsdk."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pika
from pika import exceptions as client
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.adapters.utils.connection_workflow import AMQPConnectionWorkflowFailed, AMQPConnectorException

from mqsdk.spi import BackendError, Unavailable, UnsafeBackend
from mqsdk_rabbitmq.errors import KIND, NOT_FOUND, PRECONDITION_FAILED, is_fatal, translate
from mqsdk_rabbitmq.options import Settings

HEARTBEAT_S = 5
TAKE_S = 10.0
ATTEMPTS_S = (0.05, 0.5)
PERSISTENT = pika.BasicProperties(delivery_mode=2)
# ValueError: what a blocking connection says that ended while it waited.
FAILURES = (client.AMQPError, AMQPConnectorException, AMQPConnectionWorkflowFailed, OSError, ValueError)
LEAST_ATTEMPT_S = 0.5


class Dialer:
    """Makes sessions. Thread-safe."""

    def __init__(self, cluster: str, settings: Settings, targets: Sequence[pika.ConnectionParameters]) -> None:
        self.cluster = cluster
        self.settings = settings
        self.targets = list(targets)

    @contextmanager
    def session(self, deadline: float) -> Iterator[Session]:
        """Tries every server until the deadline; a refusal that trying again cannot change is raised at once."""
        connection = self._connected(deadline)
        try:
            yield Session(connection, self)
        except FAILURES as error:
            raise self.error(error) from error
        finally:
            if connection.is_open:
                with suppress(*FAILURES):  # it may end by itself meanwhile
                    connection.close()

    def error(self, error: BaseException) -> BackendError:
        return translate(error, self.cluster, self.settings.address)

    def unavailable(self, what: str, fix: str = "") -> Unavailable:
        where = f"cluster {self.cluster} ({KIND}), {self.settings.address}"
        return Unavailable(what, where=where, cluster=self.cluster, backend=KIND, retryable=True, fix=fix)

    def _connected(self, deadline: float) -> BlockingConnection:
        pause, longest = ATTEMPTS_S
        while True:
            failure: BackendError | None = None
            for target in self.targets:
                try:
                    return BlockingConnection(_within(target, deadline))
                except FAILURES as error:
                    failure = self.error(error)
                    failure.__cause__ = error
                    if is_fatal(failure):
                        raise failure from error
            assert failure is not None
            if time.monotonic() + pause >= deadline:
                raise failure
            time.sleep(pause)
            pause = min(longest, pause * 2)


def _within(target: pika.ConnectionParameters, deadline: float) -> pika.ConnectionParameters:
    """The same, with no more time than is left."""
    found = copy.copy(target)
    found.stack_timeout = max(LEAST_ATTEMPT_S, min(target.stack_timeout, deadline - time.monotonic()))
    found.socket_timeout = min(target.socket_timeout, found.stack_timeout)
    return found


class Session:
    """One thread uses it."""

    def __init__(self, connection: BlockingConnection, dialer: Dialer) -> None:
        self.connection = connection
        self.dialer = dialer
        self._channel: BlockingChannel | None = None

    @property
    def channel(self) -> BlockingChannel:
        """One with confirmations; another one when a refusal has ended the last."""
        if self._channel is None or not self._channel.is_open:
            self._channel = self.connection.channel()
            self._channel.confirm_delivery()
        return self._channel

    def exists(self, look: Callable[[BlockingChannel], Any]) -> Any | None:
        """The answer to a passive declaration, None where there is nothing of the name. It may end the channel."""
        try:
            return look(self.channel)
        except client.ChannelClosedByBroker as error:
            if error.reply_code != NOT_FOUND:
                raise
            return None

    def queue(self, name: str) -> tuple[int, int] | None:
        """(messages ready, consumers), None where there is no such queue."""
        found = self.exists(lambda channel: channel.queue_declare(name, passive=True))
        return None if found is None else (found.method.message_count, found.method.consumer_count)

    def _fits(self, name: str, variants: Sequence[dict[str, Any]]) -> bool:
        """Whether a queue that is there has one of these sets of arguments. AMQP only tells by refusing another declaration."""
        for arguments in variants:
            try:
                self.channel.queue_declare(name, durable=True, arguments=arguments)
                return True
            except client.ChannelClosedByBroker as error:
                if error.reply_code != PRECONDITION_FAILED:
                    raise
        return False

    def require(self, queue: str, variants: Sequence[dict[str, Any]], harm: str, remedy: str) -> None:
        """Declare a queue unless it is there with one of these sets of arguments. Raises UnsafeBackend for one that has others.

        harm: what a queue of somebody else's would do. remedy: how to make room for ours.
        """
        if not self._fits(queue, variants):
            raise UnsafeBackend(
                f"the queue `{queue}` was declared by somebody else with other arguments: {harm}",
                finding="queue_arguments",
                cluster=self.dialer.cluster,
                backend=KIND,
                fix=f"{remedy}; it is declared again as docs/rabbitmq.md says",
            )

    def put(self, queue: str, body: bytes) -> None:
        """Straight into a queue, confirmed. A quorum queue whose nodes are just starting takes nothing for a while."""
        deadline = time.monotonic() + TAKE_S
        while True:
            try:
                self.channel.basic_publish("", queue, body, PERSISTENT, mandatory=True)
                return
            except client.NackError:
                if time.monotonic() > deadline:
                    raise
            self.connection.sleep(ATTEMPTS_S[0])

    def wait(self, condition: Callable[[], bool], deadline: float, what: str) -> None:
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                raise self.dialer.unavailable(what)
            self.connection.process_data_events(min(left, 1.0))
