"""The one door through which errors of the client become errors of mqsdk. No content ever passes it."""

from __future__ import annotations

import ssl

from redis import exceptions as client

from mqsdk.spi import AccessDenied, BackendError, Rejected, StateError, Unavailable, Unknown

KIND = "redis"
STALE, NO_TOPIC = "MQSTALE", "MQNOTOPIC"
FULL = "full"  # of `Rejected.code`
_PASSING = ("LOADING", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN", "MISCONF", "BUSY", "NOREPLICAS", "UNBLOCKED", "READONLY")


def code_of(error: Exception) -> str:
    """The first word of the server's answer; the client cuts off some that it knows."""
    known = {
        client.OutOfMemoryError: "OOM", client.ReadOnlyError: "READONLY", client.BusyLoadingError: "LOADING",
        client.NoPermissionError: "NOPERM", client.NoScriptError: "NOSCRIPT",
    }  # fmt: skip
    for kind, code in known.items():
        if isinstance(error, kind):
            return code
    return str(error).split(" ", 1)[0].split(":", 1)[0]


def translate(error: Exception, cluster: str, address: str) -> BackendError:
    """The error of mqsdk that says the same. Never the server's text where it could hold a key or a value."""
    where = f"cluster {cluster} ({KIND}), {address}"
    certificate = _tls_cause(error)
    if certificate is not None:
        reason = getattr(certificate, "verify_message", "") or certificate.reason or "the handshake failed"
        return Unavailable(f"no encrypted connection: {reason}", where=where, cluster=cluster, backend=KIND, fix="check the block `tls`")
    if isinstance(error, client.AuthenticationError | client.AuthorizationError) or code_of(error) in ("NOAUTH", "WRONGPASS"):
        return AccessDenied(
            "the server refuses the user or the password", where=where, cluster=cluster, backend=KIND, fix="check the block `auth`"
        )
    if isinstance(error, client.NoPermissionError):
        fix = "grant the user the keys `mq:*` and the commands that docs/redis.md lists"
        return AccessDenied("the user lacks a right on the server", where=where, cluster=cluster, backend=KIND, fix=fix)
    if isinstance(error, client.InvalidResponse):
        fix = "check the port, and whether the server wants or does not want `tls`"
        return Unavailable("what answers there is no Redis server", where=where, cluster=cluster, backend=KIND, fix=fix)
    if isinstance(error, client.ResponseError):
        code = code_of(error)
        return BackendError(f"the server answers {code}", where=where, cluster=cluster, backend=KIND, retryable=code in _PASSING)
    if isinstance(error, client.TimeoutError):
        return Unavailable(
            "the server does not answer", where=where, cluster=cluster, backend=KIND, retryable=True, fix="is it running, is this its port?"
        )
    return Unavailable(
        f"the server cannot be reached{_reason(error)}", where=where, cluster=cluster, backend=KIND, retryable=True, fix="check `servers`"
    )


def is_fatal(error: BackendError) -> bool:
    """Trying again cannot help: refused credentials, a certificate that does not fit."""
    return isinstance(error, AccessDenied) or (isinstance(error, Unavailable) and not error.retryable)


def closed(cluster: str, state: str = "closed") -> StateError:
    if state == "stale":
        what, fix = "the process has forked since this was opened", "open the backend again in the child"
        return StateError(what, where=f"cluster {cluster} ({KIND})", fix=fix, state=state)
    return StateError("it is closed", where=f"cluster {cluster} ({KIND})", state=state)


def refusal(error: Exception) -> Rejected | Unknown:
    """What an error that the server answered to an append means for the messages: it stored none of them."""
    code = code_of(error)
    if code == NO_TOPIC:
        return Rejected("no_route", "there is no such topic or partition", fix="create the topic first")
    if code == "OOM":
        return Rejected(FULL, "the server's memory is full", retryable=True, fix="let consumers catch up, or raise maxmemory")
    if code == "NOPERM":
        return Rejected("denied", "the user may not publish here", fix="grant the user the keys `mq:*`")
    if code in _PASSING:
        return Rejected("backend", f"the server answers {code}", retryable=True)
    if code in ("WRONGTYPE", "ERR"):
        return Rejected("backend", f"the server answers {code}")
    return Unknown(f"the server answers {code}")


def _tls_cause(error: BaseException | None) -> ssl.SSLError | None:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _reason(error: BaseException | None) -> str:
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return f": {error.strerror}"
        error = error.__cause__ or error.__context__
    return ""
