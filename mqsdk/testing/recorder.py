"""What a test looks at afterwards: messages published, handled and dead-lettered, and the errors of handlers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from mqsdk.api.payload import Limits, decoder
from mqsdk.errors import BatchFailure, DecodeError, Reject, Retry
from mqsdk.message import Message, Origin
from mqsdk.runtime.deadletters import DeadLetter
from mqsdk.spi import Record


class Messages(list[Message[Any]]):
    """A list of Message with shortcuts for what tests compare."""

    @property
    def payloads(self) -> list[Any]:
        return [message.payload for message in self]

    @property
    def ids(self) -> list[str]:
        return [message.id for message in self]

    @property
    def attempts(self) -> list[int]:
        return [message.attempt for message in self]


class Recorder:
    """Sees every call of a handler from the outermost middleware, and every exception as it was raised."""

    def __init__(self) -> None:
        self._handled: list[Message[Any]] = []
        self._errors: list[BaseException] = []

    def witness(self, error: BaseException) -> None:
        """Retry and Reject are verdicts, not errors: a test that provokes them looks at attempts and dead letters."""
        if not isinstance(error, Retry | Reject):
            self._errors.append(error)

    def take_error(self) -> BaseException | None:
        """The first error since the last call."""
        errors, self._errors = self._errors, []
        return errors[0] if errors else None

    def middleware(self, subject: Any) -> Iterator[None]:
        """Around every handler; `subject` is a Message, or the list of them with `batch=`."""
        messages = subject if isinstance(subject, list) else [subject]
        try:
            yield
        except BatchFailure as failure:
            if all(type(index) is int and 0 <= index < len(messages) for index in failure.failures):
                self._handled += [message for index, message in enumerate(messages) if index not in failure.failures]
            raise
        self._handled += messages

    def handled(self, topic: str, group: str) -> Messages:
        return Messages(message for message in self._handled if (message.topic, message.group) == (topic, group))


@contextmanager
def outermost(recorder: Recorder, middleware: list[Any]) -> Iterator[None]:
    """Put the recorder around an App's own middleware while its consumers are built."""
    middleware.insert(0, recorder.middleware)
    try:
        yield
    finally:
        middleware.remove(recorder.middleware)


# As for a handler without annotation: JSON by content type, text/* as str, the rest as bytes.
_read = decoder(None, Limits(1 << 40))


def stored_messages(topic: str, cluster: str, found: Iterable[tuple[int, Record]]) -> Messages:
    """Messages as they stand in a topic; payloads are read by content type, because no handler's annotation is known."""
    return Messages(
        Message(record, Origin(topic, "", cluster, partition, 0), _payload(record), attempt=record.attempt) for partition, record in found
    )


def dead_messages(topic: str, group: str, cluster: str, letters: Iterable[DeadLetter]) -> Messages:
    """Dead letters as messages of their group; `attempt` is how often they were tried."""
    return Messages(
        Message(
            letter.record, Origin(topic, group, cluster, letter.origin_partition or 0, 0), _payload(letter.record), attempt=letter.attempts
        )
        for letter in letters
    )


def _payload(record: Record) -> Any:
    """What does not parse is shown as it is stored: dead letters are often what did not parse."""
    try:
        return _read(record)
    except DecodeError:
        return record.value
