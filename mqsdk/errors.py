"""Every exception that mqsdk raises, and the verdicts that a handler may raise.

    MqError                       .what .where .fix
    ├── DeclarationError          at the decorator (also TypeError)
    ├── ConfigError               .problems
    │   └── MissingExtra          .extra
    ├── CapabilityError           .capability .cluster .consumer
    ├── StateError                .state (also RuntimeError)
    ├── PublishError              .topic .id
    │   ├── PublishRejected       .code .retryable
    │   │   └── InvalidMessage    .field (also ValueError)
    │   ├── PublishUnknown
    │   └── PublishManyFailed     .outcomes
    ├── BackendError              .cluster .backend .retryable
    │   └── Unavailable · AccessDenied · UnsafeBackend · Corrupt · UnsupportedFormat
    ├── HandlerError              .message_id
    │   └── DecodeError · HandlerTimeout · WorkerDied · CrashLoop
    └── MoveRefused               .gates

    Retry · Reject · BatchFailure   verdicts of a handler, plain exceptions

A text has three parts: what happened to which object, where, and how to fix it. It never holds a payload, a key, a
header value or a secret. This module is a leaf: of mqsdk it imports `units` only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from mqsdk import units

Duration = timedelta | float | int | str


class MqError(Exception):
    """Base of all errors of mqsdk.

    what: what happened to which object, one sentence. where: file:line, cluster, topic/group or partition.
    fix: what the reader can do about it. `str(error)` is the three parts on up to three lines.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        return "\n  ".join(part for part in (self.what, self.where, self.fix) if part)


class DeclarationError(MqError, TypeError):
    """An argument that cannot work, given to a decorator, App, Router, TestApp or verdict. Publishing has InvalidMessage."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a configuration. `line` and `column` count from 1; 0 where no file position exists."""

    key: str
    what: str
    fix: str = ""
    file: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}: " if self.line else (f"{self.file}: " if self.file else "")
        return f"{place}{self.key + ': ' if self.key else ''}{self.what}{f' ({self.fix})' if self.fix else ''}"


class ConfigError(MqError):
    """The configuration is not usable; `problems` lists everything that is wrong with it, not the first thing only."""

    def __init__(self, what: str, *, where: str = "", fix: str = "", problems: Sequence[Problem] = ()) -> None:
        super().__init__(what, where=where, fix=fix)
        self.problems = list(problems)

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> ConfigError:
        """One error that lists every problem, each on its own line."""
        count = len(problems)
        return cls(
            f"the configuration has {count} problem{'' if count == 1 else 's'}",
            where="\n  ".join(str(problem) for problem in problems),
            problems=problems,
        )


class MissingExtra(ConfigError):
    """A backend or feature needs an optional dependency that is not installed."""

    def __init__(self, extra: str, *, what: str = "", where: str = "") -> None:
        fix = f"pip install 'mqsdk[{extra}]'"
        super().__init__(what or f"the extra `{extra}` is not installed", where=where, fix=fix)
        self.extra = extra


class CapabilityError(MqError):
    """A consumer or publisher asks for something that its backend cannot do and layer 2 does not emulate."""

    def __init__(self, what: str, *, where: str = "", fix: str = "", capability: str = "", cluster: str = "", consumer: str = "") -> None:
        super().__init__(what, where=where, fix=fix)
        self.capability = capability
        self.cluster = cluster
        self.consumer = consumer


class StateError(MqError, RuntimeError):
    """The call does not fit the state of the App, client or process. `state` names it."""

    def __init__(self, what: str, *, where: str = "", fix: str = "", state: str = "") -> None:
        super().__init__(what, where=where, fix=fix)
        self.state = state


class PublishError(MqError):
    """A publish did not end as Stored."""

    def __init__(self, what: str, *, topic: str = "", id: str = "", where: str = "", fix: str = "") -> None:
        super().__init__(what, where=where or (f"topic {topic}" if topic else ""), fix=fix)
        self.topic = topic
        self.id = id


REJECT_CODES = ("invalid", "too_large", "no_route", "no_group", "denied", "full", "throttled", "unsupported", "backend")


class PublishRejected(PublishError):
    """Certainly not stored. `code` is one of REJECT_CODES; `retryable` says whether the same call may succeed later."""

    def __init__(
        self,
        what: str,
        *,
        code: str,
        retryable: bool = False,
        topic: str = "",
        id: str = "",
        where: str = "",
        fix: str = "",
    ) -> None:
        super().__init__(what, topic=topic, id=id, where=where, fix=fix)
        self.code = code
        self.retryable = retryable


class InvalidMessage(PublishRejected, ValueError):
    """An argument of publish breaks a rule; `field` names the argument. Nothing was sent."""

    def __init__(
        self,
        what: str,
        *,
        field: str,
        code: str = "invalid",
        topic: str = "",
        id: str = "",
        fix: str = "",
    ) -> None:
        super().__init__(what, code=code, retryable=False, topic=topic, id=id, fix=fix)
        self.field = field


class PublishUnknown(PublishError):
    """Sent, no answer: the message may be stored. Publishing again with `id=error.id` is safe for whoever dedups by id."""


class PublishManyFailed(PublishError):
    """Some items of publish_many were not stored. `outcomes`: one Receipt, PublishRejected or PublishUnknown per item, in order."""

    def __init__(self, what: str, *, outcomes: Sequence[object], topic: str = "", fix: str = "") -> None:
        super().__init__(what, topic=topic, fix=fix)
        self.outcomes = list(outcomes)


class BackendError(MqError):
    """A backend failed; the client's own exception is `__cause__`. `retryable`: the same call may succeed later."""

    def __init__(self, what: str, *, cluster: str = "", backend: str = "", retryable: bool = False, where: str = "", fix: str = "") -> None:
        super().__init__(what, where=where or (f"cluster {cluster} ({backend})" if cluster else ""), fix=fix)
        self.cluster = cluster
        self.backend = backend
        self.retryable = retryable


class Unavailable(BackendError):
    """The backend cannot be reached or does not answer."""


class AccessDenied(BackendError):
    """The backend refuses the credentials, or the right to do this."""


class UnsafeBackend(BackendError):
    """The backend's settings would lose or reorder messages. `finding` is the code that `accept:` may list."""

    def __init__(self, what: str, *, finding: str, cluster: str = "", backend: str = "", where: str = "", fix: str = "") -> None:
        super().__init__(what, cluster=cluster, backend=backend, where=where, fix=fix)
        self.finding = finding


class Corrupt(BackendError):
    """Stored bytes do not pass their checksum. `file` and `position` say where."""

    def __init__(
        self, what: str, *, file: str = "", position: int = -1, cluster: str = "", backend: str = "", where: str = "", fix: str = ""
    ) -> None:
        super().__init__(what, cluster=cluster, backend=backend, where=where or (f"{file} at {position}" if file else ""), fix=fix)
        self.file = file
        self.position = position


class UnsupportedFormat(BackendError):
    """Files or a server of a version that this SDK does not know: `found`, and the versions `supported`."""

    def __init__(
        self, what: str, *, found: str, supported: str, cluster: str = "", backend: str = "", where: str = "", fix: str = ""
    ) -> None:
        super().__init__(what, cluster=cluster, backend=backend, where=where, fix=fix)
        self.found = found
        self.supported = supported


class HandlerError(MqError):
    """Why a delivery failed, where the reason is mqsdk's and not the handler's. `message_id` names the message."""

    def __init__(self, what: str, *, message_id: str = "", where: str = "", fix: str = "") -> None:
        super().__init__(what, where=where or (f"message {message_id}" if message_id else ""), fix=fix)
        self.message_id = message_id


class DecodeError(HandlerError):
    """The stored bytes do not fit the handler's annotation; the message goes to the dead letters at once."""


class HandlerTimeout(HandlerError):
    """The handler ran longer than `timeout`."""


class WorkerDied(HandlerError):
    """The worker process of `isolation="process"` ended while it ran the message."""


class CrashLoop(HandlerError):
    """The message was in flight at three crashes of its consumer."""


class MoveRefused(MqError):
    """A step of a live move is refused; `gates` lists every gate that does not hold."""

    def __init__(self, what: str, *, gates: Sequence[object] = (), where: str = "", fix: str = "") -> None:
        super().__init__(what, where=where, fix=fix)
        self.gates = list(gates)


class Retry(Exception):
    """Verdict of a handler: failed, run again. `after`: earliest wait as a duration (default: the backoff), `after_s` in seconds.

    Raises DeclarationError for what is no duration: ignoring it would retry at another time than the handler asked for.
    """

    after_s: float | None = None

    def __init__(self, after: Duration | None = None, reason: str | None = None) -> None:
        super().__init__(reason or "retry asked for")
        self.after = after
        self.reason = reason
        if after is not None:
            self.after_s = duration_s(after, "after", "Retry")

    def __reduce__(self) -> tuple[object, ...]:
        # An exception is copied by its `args`, which hold the text: the first argument here is a wait.
        return type(self), (self.after, self.reason), self.__dict__


class Reject(Exception):
    """Verdict of a handler: never run again, to the dead letters now."""

    def __init__(self, reason: str = "rejected by the handler") -> None:
        super().__init__(reason)
        self.reason = reason


class BatchFailure(Exception):
    """Verdict of a batch handler: the messages at these indexes failed, all others are handled.

    failures: index in the batch -> the exception; `Retry` and `Reject` are allowed as values. DeclarationError for what is no mapping.
    """

    def __init__(self, failures: Mapping[int, BaseException]) -> None:
        if not isinstance(failures, Mapping):
            raise DeclarationError(
                f"BatchFailure takes a mapping of index to exception, not {type(failures).__name__}",
                where="BatchFailure",
                fix="raise BatchFailure({index: exception}); to fail all of them raise the exception itself",
            )
        super().__init__(f"{len(failures)} of the batch failed")
        self.failures: dict[int, BaseException] = dict(failures)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.failures,)


def duration_s(value: Duration, name: str, where: str) -> float:
    """Seconds of an argument that is a duration. DeclarationError names the argument and the call it belongs to."""
    try:
        return units.seconds(value)
    except ValueError as error:
        raise DeclarationError(f"`{name}`: {error}", where=where) from None
