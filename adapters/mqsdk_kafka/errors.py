"""The one door through which errors of the client become errors of mqsdk. No content ever passes it."""

from __future__ import annotations

import ssl

from kafka import errors as client

from mqsdk.spi import AccessDenied, BackendError, Rejected, StateError, Unavailable, Unknown, UnsafeBackend

KIND = "kafka"
FAILURES = (client.KafkaError, OSError, RuntimeError)  # RuntimeError: the client's loop was closed meanwhile
# Whoever asks again gets another answer: the client raises these for a broker that is starting, moving or out of reach.
PASSING = (client.RetriableError, client.KafkaConnectionError, client.NodeNotReadyError, client.KafkaTimeoutError)
_LOGIN = (
    client.SaslAuthenticationFailedError, client.UnsupportedSaslMechanismError, client.IllegalSaslStateError,
)  # fmt: skip


class Doors:
    """Translates for one cluster, so that every error names it and where it is looked for."""

    def __init__(self, cluster: str, address: str) -> None:
        self.cluster = cluster
        self.where = f"cluster {cluster} ({KIND}), {address}"

    def error(self, error: Exception) -> BackendError:
        """The error of mqsdk that says the same."""
        if isinstance(error, _LOGIN):
            return self._denied("the broker refuses the user, the password or the mechanism", "check the block `auth`")
        if isinstance(error, client.AuthorizationError):
            return self._denied(_lacking(error), "grant the user the rights that docs/kafka.md lists")
        if isinstance(error, client.InvalidSessionTimeoutError):
            fix = "set `lease` between group.min.session.timeout.ms and group.max.session.timeout.ms of the broker"
            return self._made("the broker does not allow a session as long as the cluster's `lease`", fix)
        if isinstance(error, client.InconsistentGroupProtocolError):
            fix = "stop the members that are not mqsdk's, or use another group"
            what = "other clients are members of this group and share its partitions in another way"
            return UnsafeBackend(what, finding="assignor", where=self.where, cluster=self.cluster, backend=KIND, fix=fix)
        return self._network(error)

    def _network(self, error: Exception) -> BackendError:
        text = _text(error)
        if _is_tls(error, text):
            reason = _tls_reason(error, text)
            return self._away(f"no encrypted connection: {reason}", "check the block `tls`, and whether this port speaks TLS", False)
        if isinstance(error, client.IncompatibleBrokerVersion | client.UnsupportedVersionError):
            fix = "check that this is the port of a broker, version 2.1 or newer, and not that of a controller"
            return self._away("what answers there is no broker that this client understands", fix, False)
        if isinstance(error, client.CorruptRecordError | client.KafkaProtocolError | client.InvalidReceiveError):
            return self._away("what answers there is no Kafka broker", "check the port, and whether it wants `tls`", False)
        if isinstance(error, (*PASSING, OSError, RuntimeError)):
            fix = "check `servers`: is it running, is this its port, does it want `tls` or `auth`?"
            return self._away(f"the broker cannot be reached{_reason(error, text)}", fix, True)
        return BackendError(f"the broker answers {type(error).__name__}", where=self.where, cluster=self.cluster, backend=KIND)

    def closed(self, state: str = "closed") -> StateError:
        where = f"cluster {self.cluster} ({KIND})"
        if state == "stale":
            what, fix = "the process has forked since this was opened", "open the backend again in the child"
            return StateError(what, where=where, fix=fix, state=state)
        return StateError("it is closed", where=where, state=state)

    def _denied(self, what: str, fix: str) -> AccessDenied:
        return AccessDenied(what, where=self.where, cluster=self.cluster, backend=KIND, fix=fix)

    def _made(self, what: str, fix: str) -> BackendError:
        return BackendError(what, where=self.where, cluster=self.cluster, backend=KIND, fix=fix)

    def _away(self, what: str, fix: str, retryable: bool) -> Unavailable:
        return Unavailable(what, where=self.where, cluster=self.cluster, backend=KIND, fix=fix, retryable=retryable)


def refusal(error: Exception) -> Rejected | Unknown:
    """What the end of one record's sending means for it. Only a broker's own refusal is certain; every failure on the way is a doubt."""
    if isinstance(error, client.MessageSizeTooLargeError | client.RecordListTooLargeError):
        return Rejected("too_large", "the message is larger than the topic takes", fix="raise max.message.bytes of the topic")
    if isinstance(error, client.TopicAuthorizationFailedError | client.ClusterAuthorizationFailedError):
        return Rejected("denied", "the user may not publish here", fix="grant the user WRITE on the topic")
    if isinstance(error, client.InvalidTopicError | client.UnknownTopicOrPartitionError):
        return Rejected("no_route", "there is no such topic or partition", fix="create the topic first")
    if isinstance(error, client.InvalidTimestampError | client.InvalidRecordError | client.PolicyViolationError):
        return Rejected("backend", f"the broker refuses the message: {type(error).__name__}")
    return Unknown(f"no answer of the broker says that it is stored: {type(error).__name__}")


def is_fatal(error: Exception) -> bool:
    """Trying to connect again cannot help."""
    return isinstance(error, (*_LOGIN, client.IncompatibleBrokerVersion)) or _is_tls(error, _text(error))


def _lacking(error: Exception) -> str:
    if isinstance(error, client.TopicAuthorizationFailedError):
        return "the user lacks a right on the topic"
    if isinstance(error, client.GroupAuthorizationFailedError):
        return "the user lacks a right on the consumer group"
    return "the user lacks a right on the cluster"


def _text(error: Exception) -> str:
    """The client folds the cause of a failed connection into a text. Only looked at, never shown."""
    return " ".join(str(item) for item in error.args)


def _is_tls(error: BaseException, text: str) -> bool:
    return isinstance(error, ssl.SSLError) or "[SSL" in text or "CERTIFICATE_VERIFY_FAILED" in text


def _tls_reason(error: Exception, text: str) -> str:
    known = {
        "certificate has expired": "the server's certificate has expired",
        "unable to get local issuer": "the server's certificate is signed by nobody who is trusted",
        "self-signed": "the server's certificate is signed by nobody who is trusted",
        "self signed": "the server's certificate is signed by nobody who is trusted",
        "Hostname mismatch": "the server's certificate is for another host",
        "IP address mismatch": "the server's certificate is for another host",
        "WRONG_VERSION_NUMBER": "what answers there does not speak TLS",
        "BAD_CERTIFICATE": "the server wants a certificate of the client",
        "CERTIFICATE_REQUIRED": "the server wants a certificate of the client",
    }
    return next((said for part, said in known.items() if part.lower() in text.lower()), "the handshake failed")


def _reason(error: Exception, text: str) -> str:
    known = {
        "ECONNREFUSED": "Connection refused",
        "DNS Resolution failure": "the name of the host is not known",
        "EHOSTUNREACH": "no route",
    }
    for part, said in known.items():
        if part in text:
            return f": {said}"
    return f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
