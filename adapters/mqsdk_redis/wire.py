"""Connections: one exchange is one round trip of any number of commands, never repeated by the client.

redis-py's own retries are off (they send a command twice, and skip entries of a read); who may repeat is decided by the caller.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any

import redis
from hiredis import pack_command
from redis.backoff import NoBackoff
from redis.retry import Retry

from mqsdk.spi import BackendError
from mqsdk_redis.errors import is_fatal, translate
from mqsdk_redis.options import Settings

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 5.0
READ_BYTES = 1 << 18
ATTEMPTS = 3
FIRST_WAIT_S = 0.1
FAILURES = (redis.exceptions.RedisError, OSError)
ResponseError = redis.exceptions.ResponseError
NoScriptError = redis.exceptions.NoScriptError

FLAGS_OOM = b"#!lua flags=allow-oom\n"  # has to be the first line of a script

Command = Sequence[Any]


class Script:
    """One Lua file of this package. before: another one whose functions it uses."""

    def __init__(self, name: str, before: str = "") -> None:
        self.source = _lua(name)
        if before:
            flags, line, body = self.source.rpartition(FLAGS_OOM)
            self.source = flags + line + _lua(before) + body
        self.digest = sha1(self.source).hexdigest().encode()

    def call(self, keys: Sequence[bytes], *arguments: Any) -> Command:
        return (b"EVALSHA", self.digest, len(keys), *keys, *arguments)


def _lua(name: str) -> bytes:
    return (files("mqsdk_redis") / "lua" / f"{name}.lua").read_bytes()


class Scripts:
    """All of them, read once per backend."""

    def __init__(self) -> None:
        self.publish, self.move = Script("publish", "append"), Script("move", "append")
        self.acquire, self.renew, self.settle, self.release = Script("acquire"), Script("renew"), Script("settle"), Script("release")
        self.place, self.member, self.state = Script("place"), Script("member"), Script("state")
        self.restore, self.trim, self.amend = Script("restore"), Script("trim"), Script("amend")
        self.loads = [(b"SCRIPT", b"LOAD", script.source) for script in vars(self).values()]


class _Secured(redis.Connection):
    """A connection over the cluster's one SSLContext; redis-py's own makes a context of its own for each connection."""

    def __init__(self, *, context: Any, **how: Any) -> None:
        super().__init__(**how)  # type: ignore[no-untyped-call]  # redis-py has no annotation here
        self._context = context

    def _connect(self) -> Any:
        plain = super()._connect()  # type: ignore[no-untyped-call]  # as above
        try:
            return self._context.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise


class Wire:
    """One connection. Not thread-safe, except `abort`. `run_id` names the server process, "" where the user may not ask."""

    def __init__(self, connection: Any, scripts: Scripts) -> None:
        self._connection = connection
        self._scripts = scripts
        self.run_id = ""

    def exchange(self, commands: Sequence[Command], timeout_s: float = ANSWER_TIMEOUT_S) -> list[Any]:
        """The replies in order; an error that the server answered stands in its place. Raises FAILURES when the connection ends."""
        self.send(commands, timeout_s)
        return self.replies(commands, timeout_s)

    def replies(self, commands: Sequence[Command], timeout_s: float = ANSWER_TIMEOUT_S) -> list[Any]:
        """As `exchange`, of commands that were sent before and not heard of yet."""
        replies = [self.receive() for _ in commands]
        missing = [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missing:
            # A server that has restarted: such a command did nothing at all.
            self._exchange(self._scripts.loads, timeout_s)
            for place, reply in zip(missing, self._exchange([commands[place] for place in missing], timeout_s), strict=True):
                replies[place] = reply
        return replies

    def _exchange(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        self.send(commands, timeout_s)
        return [self.receive() for _ in commands]

    def send(self, commands: Sequence[Command], timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        sock = self._connection._sock
        if sock is None:
            raise redis.exceptions.ConnectionError("the connection was closed")
        sock.settimeout(max(timeout_s, 0.001))
        packed = b"".join([pack_command(tuple(command)) for command in commands])
        self._connection.send_packed_command([packed], check_health=False)

    def receive(self) -> Any:
        try:
            return self._connection.read_response()
        except ResponseError as error:
            return error

    def call(self, *command: Any, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        """One command; the error that the server answered is raised."""
        (reply,) = self.exchange([command], timeout_s)
        if isinstance(reply, Exception):
            raise reply
        return reply

    @property
    def fd(self) -> int:
        sock = self._connection._sock
        return -1 if sock is None else int(sock.fileno())

    def is_fresh(self) -> bool:
        """Nothing unread on it, not closed by the server."""
        try:
            return not self._connection.can_read(0)
        except FAILURES:
            return False

    def abort(self) -> None:
        """End whatever runs over it, from any thread."""
        self._connection.disconnect()

    def vanish(self) -> None:
        """Close this process's copy of the socket and say nothing to the server."""
        sock, self._connection._sock = self._connection._sock, None
        if sock is not None:
            sock.close()


class Dialer:
    """Makes connections to the cluster's primary."""

    def __init__(self, cluster: str, settings: Settings, scripts: Scripts) -> None:
        self.cluster = cluster
        self.settings = settings
        self.scripts = scripts
        self._context = settings.context()

    def error(self, error: Exception) -> BackendError:
        return translate(error, self.cluster, self.settings.address)

    def dial(self, deadline: float) -> Wire:
        """A connection to the primary, after a bounded number of attempts. Raises BackendError."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self.once(deadline - time.monotonic())
            except FAILURES as error:
                found = self.error(error)
                wait_s = FIRST_WAIT_S * 3 ** (attempt - 1) * random.uniform(0.8, 1.2)
                if is_fatal(found) or attempt == ATTEMPTS or time.monotonic() + wait_s >= deadline:
                    raise found from error
                time.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def once(self, timeout_s: float) -> Wire:
        """One attempt at each server. Raises what FAILURES lists."""
        last: Exception | None = None
        give_up = time.monotonic() + max(timeout_s, 0.05)
        for host, port in self.settings.servers:
            left_s = min(give_up - time.monotonic(), CONNECT_TIMEOUT_S)
            if left_s <= 0:
                break
            try:
                if self.settings.own.sentinel is not None:
                    host, port = self._primary(host, port, left_s)
                return self._checked(self._connect(host, port, left_s), left_s)
            except FAILURES as error:
                last = error
        raise last or redis.exceptions.TimeoutError("no time left to connect")

    def _primary(self, host: str, port: int, timeout_s: float) -> tuple[str, int]:
        """Where this sentinel says that the primary is. Sentinels are asked without the cluster's user."""
        sentinel = Wire(self._open(host, port, timeout_s, None, None, 0), self.scripts)
        try:
            found = sentinel.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.settings.own.sentinel, timeout_s=timeout_s)
        finally:
            sentinel.abort()
        if not found:
            raise redis.exceptions.ConnectionError("the sentinel knows no such primary")
        return found[0].decode(), int(found[1])

    def _connect(self, host: str, port: int, timeout_s: float) -> Wire:
        settings = self.settings
        return Wire(self._open(host, port, timeout_s, settings.user, settings.password, settings.own.database), self.scripts)

    def _checked(self, wire: Wire, timeout_s: float) -> Wire:
        """Which server process it is; a replica is refused."""
        try:
            (info,) = wire.exchange([("INFO",)], timeout_s)
            if isinstance(info, ResponseError):
                # A user without the right to ask: whatever else is wrong shows with the first command that matters.
                if isinstance(info, redis.exceptions.NoPermissionError):
                    return wire
                raise info
            facts = facts_of(info)
            if facts.get("role", "master") != "master" or facts.get("loading", "0") == "1":
                raise redis.exceptions.ConnectionError("the server is a replica")
            wire.run_id = facts.get("run_id", "")
        except BaseException:
            wire.abort()
            raise
        return wire

    def _open(self, host: str, port: int, timeout_s: float, user: str | None, password: str | None, database: int) -> Any:
        how: dict[str, Any] = {
            "host": host, "port": port, "db": database, "username": user, "password": password,
            "socket_timeout": min(timeout_s, ANSWER_TIMEOUT_S), "socket_connect_timeout": timeout_s, "retry": Retry(NoBackoff(), 0),
            "protocol": 2, "legacy_responses": False, "decode_responses": False, "driver_info": None, "socket_read_size": READ_BYTES,
        }  # fmt: skip
        plain: Any = redis.Connection
        connection = plain(**how) if self._context is None else _Secured(context=self._context, **how)
        connection.connect()
        return connection


def facts_of(info: bytes) -> dict[str, str]:
    """`INFO` as a mapping."""
    pairs = (line.split(":", 1) for line in info.decode("utf-8", "replace").splitlines() if ":" in line and not line.startswith("#"))
    return {name: value.strip() for name, value in pairs}
