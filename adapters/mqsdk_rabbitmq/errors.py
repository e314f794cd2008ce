"""The one door through which errors of the client become errors of mqsdk. No content ever passes it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

from pika import exceptions as client

from mqsdk.spi import AccessDenied, BackendError, Rejected, StateError, Unavailable

KIND = "rabbitmq"
ACCESS_REFUSED, NOT_FOUND, RESOURCE_LOCKED, PRECONDITION_FAILED = 403, 404, 405, 406
CONNECTION_FORCED, NOT_ALLOWED = 320, 530
_MEANINGS = {
    311: "a message is too large for the server",
    CONNECTION_FORCED: "the server closed the connection: it is shutting down, or an operator closed it",
    NOT_FOUND: "a queue or exchange is missing on the server",
    RESOURCE_LOCKED: "a queue is in the exclusive use of another connection",
    PRECONDITION_FAILED: "the server refuses an argument: a queue exists with other settings, or a delivery was held past consumer_timeout",
    NOT_ALLOWED: "the server does not allow it",
}
_PASSING = (CONNECTION_FORCED, 541, RESOURCE_LOCKED)


def translate(error: BaseException, cluster: str, address: str) -> BackendError:
    """The error of mqsdk that says the same. Never the server's text, which names queues and users."""
    causes = list(_causes(error))
    made = _Maker(cluster, f"cluster {cluster} ({KIND}), {address}")
    for cause in causes:
        found = _refused(cause, made) or _answered(cause, made)
        if found is not None:
            return found
    return _unreachable(causes, made)


class _Maker:
    """Makes the errors of one cluster."""

    def __init__(self, cluster: str, where: str) -> None:
        self.cluster = cluster
        self.where = where

    def denied(self, what: str, fix: str) -> BackendError:
        return AccessDenied(what, where=self.where, cluster=self.cluster, backend=KIND, fix=fix)

    def unavailable(self, what: str, fix: str = "", retryable: bool = True) -> BackendError:
        return Unavailable(what, where=self.where, cluster=self.cluster, backend=KIND, fix=fix, retryable=retryable)

    def other(self, what: str, retryable: bool) -> BackendError:
        return BackendError(what, where=self.where, cluster=self.cluster, backend=KIND, retryable=retryable)


def _refused(cause: BaseException, made: _Maker) -> BackendError | None:
    if isinstance(cause, ssl.SSLError):
        reason = getattr(cause, "verify_message", "") or cause.reason or "the handshake failed"
        return made.unavailable(f"no encrypted connection: {reason}", "check the block `tls`, and that the port is the one for TLS", False)
    if isinstance(cause, client.ProbableAuthenticationError | client.AuthenticationError):
        return made.denied("the server refuses the user or the password", "check the block `auth`")
    if isinstance(cause, client.ProbableAccessDeniedError):
        return made.denied("the server refuses the virtual host to this user", "check `vhost`, and the user's permissions in it")
    if isinstance(cause, client.IncompatibleProtocolError | client.ProtocolSyntaxError | client.ProtocolVersionMismatch):
        return made.unavailable("what answers there speaks no AMQP 0-9-1", "check the port, and whether the server wants `tls`", False)
    return None


def _answered(cause: BaseException, made: _Maker) -> BackendError | None:
    """A code that the server gave when it closed a connection or a channel."""
    if not isinstance(cause, client.ConnectionClosedByBroker | client.ChannelClosedByBroker):
        return None
    code, is_connection = cause.reply_code, isinstance(cause, client.ConnectionClosedByBroker)
    if code == ACCESS_REFUSED and is_connection:
        return made.denied("the server refuses the user or the password", "check the block `auth`")
    if code == ACCESS_REFUSED:
        return made.denied("the user lacks a right on the server", "grant the user `^mq\\.` to configure, write and read in this vhost")
    if code == NOT_ALLOWED and is_connection:
        return made.denied("the server refuses the virtual host to this user", "check `vhost`, and the user's permissions in it")
    if code == CONNECTION_FORCED:
        return made.unavailable(_MEANINGS[code])
    what = _MEANINGS.get(code, "the server closed the channel or the connection")
    return made.other(f"{what} (AMQP {code})", code in _PASSING)


def _unreachable(causes: list[BaseException], made: _Maker) -> BackendError:
    for cause in causes:
        if isinstance(cause, socket.gaierror):
            return made.unavailable("the name of the server is not known", "check `servers`")
        if isinstance(cause, OSError) and cause.strerror:
            return made.unavailable(f"the server cannot be reached: {cause.strerror}", "check `servers`")
    if any(isinstance(cause, client.NackError) for cause in causes):
        return made.unavailable("a queue takes nothing now", "are the nodes of the queue up, is the queue full?")
    if any(isinstance(cause, client.AMQPHeartbeatTimeout) or "Timeout" in type(cause).__name__ for cause in causes):
        return made.unavailable("the server does not answer", "is it running, is this its port, does it want `tls`?")
    return made.unavailable("the connection to the server ended", "is this its port, does it want `tls`?")


def is_fatal(error: BackendError) -> bool:
    """Trying again cannot help: refused credentials, a certificate that does not fit."""
    return isinstance(error, AccessDenied) or (isinstance(error, Unavailable) and not error.retryable)


def closed(cluster: str, state: str = "closed") -> StateError:
    if state == "stale":
        what, fix = "the process has forked since this was opened", "open the backend again in the child"
        return StateError(what, where=f"cluster {cluster} ({KIND})", fix=fix, state=state)
    return StateError("it is closed", where=f"cluster {cluster} ({KIND})", state=state)


def rejection(error: BackendError) -> Rejected:
    """What a failure before the sending means for a message."""
    if isinstance(error, AccessDenied):
        return Rejected("denied", error.what, fix=error.fix)
    return Rejected("backend", error.what, retryable=error.retryable, fix=error.fix)


def _causes(error: BaseException | None, depth: int = 6) -> Iterator[BaseException]:
    """The error, what it carries and what it came from: the client wraps errors of connecting in several layers."""
    if error is None or depth == 0:
        return
    yield error
    inner: list[object] = [*error.args, getattr(error, "exceptions", None), getattr(error, "exception", None)]
    for item in inner:
        for one in item if isinstance(item, list | tuple) else (item,):
            if isinstance(one, BaseException):
                yield from _causes(one, depth - 1)
    yield from _causes(error.__cause__, depth - 1)
    yield from _causes(error.__context__, depth - 1)
