"""Configuration from a key of Redis: `redis://[user:password@]host[:port][/db]?key=NAME[&version=NAME][&channel=NAME]`, with TLS `rediss://`.

Asked again and again, because a message of pub/sub that nobody hears is gone: one on the channel only says that now is a good time to ask.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from ssl import SSLCertVerificationError
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote

from mqsdk.config.origin import ANSWER_S, MAX_BYTES, Content, digest, down, refused, secrets_of, shown, too_large, untrusted
from mqsdk.errors import ConfigError, MissingExtra

log = logging.getLogger("mqsdk.config")

DEFAULT_PORT = 6379
KEYS = ("key", "version", "channel")
HEAR_S = 1.0  # so long a thread that listens takes to notice that it shall end
AGAIN_S = 5.0  # after a lost connection, before listening again


class RedisSource:
    """One key, a string. With `version`, the value of that key is the content's version: the content is only read when it has changed."""

    def __init__(self, address: SplitResult) -> None:
        given = parse_qsl(address.query, keep_blank_values=True)
        query = dict(given)
        self._key, self._counter = query.get("key", ""), query.get("version", "")
        self.name = shown(address, f"?key={quote(self._key)}" if self._key else "")
        if not self._key:
            raise refused(self.name, "names no key", "write redis://host:port/db?key=NAME")
        for name, value in given:
            if name not in KEYS or not value:
                raise refused(self.name, f"has a part that is not used: {name[:40]}", f"known: {', '.join(KEYS)}, each with a value")
        self._channel = query.get("channel", self._key)
        self._where: dict[str, Any] = {
            "host": address.hostname,
            "port": address.port or DEFAULT_PORT,
            "db": self._database(address.path),
        }
        if address.scheme == "rediss":
            self._where |= {"ssl": True, "ssl_cert_reqs": "required", "ssl_check_hostname": True}
        user, password = secrets_of(address)
        self._secrets = {"username": user if password is not None else None, "password": password}
        if user is not None and password is None:
            raise refused(self.name, "has a user and no password", "write redis://user:password@host, or redis://:password@host")
        self.id = f"{address.scheme}://{self._where['host']}:{self._where['port']}/{self._where['db']}?key={quote(self._key)}"
        self._client: Any = None
        self._last: Content | None = None

    def _database(self, path: str) -> int:
        text = path.strip("/")
        if text and not (text.isascii() and text.isdecimal() and len(text) < 6):
            raise refused(self.name, "names a database that is no number", "write redis://host:port/0?key=NAME")
        return int(text or 0)

    def load(self, timeout_s: float = ANSWER_S) -> Content:
        redis = self._imported()
        try:
            if self._client is None:
                self._client = self._connected(redis, timeout_s)
            if self._counter and self._last is not None and self._numbered(self._client.get(self._counter)) == self._last.version:
                return self._last
            self._last = self._read(self._client)
            return self._last
        except (redis.exceptions.RedisError, OSError) as error:
            self.close()
            raise self._translated(redis, error) from None

    def _imported(self) -> Any:
        try:
            import redis
        except ModuleNotFoundError:
            raise MissingExtra("redis", where=self.name) from None
        return redis

    def _connected(self, redis: Any, timeout_s: float) -> Any:
        """A client that repeats nothing by itself: who asks decides how long."""
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        return redis.Redis(
            **self._where,
            **self._secrets,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )

    def _read(self, client: Any) -> Content:
        """Content and version of one moment. Asks for no more bytes than are taken."""
        with client.pipeline(transaction=True) as pipe:
            pipe.exists(self._key)
            pipe.getrange(self._key, 0, MAX_BYTES)
            if self._counter:
                pipe.get(self._counter)
            exists, data, *counted = pipe.execute()
        if not exists:
            raise refused(self.name, "there is no such key", "set it to the text of a configuration file")
        if len(data) > MAX_BYTES:
            raise too_large(self.name)
        return Content(self._numbered(counted[0]) if counted else digest(data), data)

    def _numbered(self, value: bytes | None) -> str:
        """The version key's value. One that is missing is a mistake, for then no change would ever be seen."""
        if value is None:
            raise refused(self.name, "has no key for its version, which the address names", "INCR it after each change of the content")
        return value[:64].decode("utf-8", "replace")

    def _translated(self, redis: Any, error: Exception) -> ConfigError:
        """By the class of the error and the code it begins with; the text of a server may quote what was sent."""
        kinds = redis.exceptions
        if isinstance(error.__cause__ or error.__context__, SSLCertVerificationError):
            return untrusted(self.name)
        if isinstance(error, kinds.AuthenticationError | kinds.AuthorizationError | kinds.NoPermissionError):
            fix = "give a user that may read the key: redis://user:password@host:port/db?key=NAME"
            return refused(self.name, "the server refuses the user or password", fix)
        if isinstance(error, kinds.ResponseError) and not isinstance(error, kinds.BusyLoadingError):
            code = str(error).split(" ", 1)[0][:20]
            if code in ("LOADING", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN", "BUSY"):
                return down(self.name, f"the server answers {code}")
            what = "holds no text" if "WRONGTYPE" in str(error) else "the server refuses to read it"
            return refused(self.name, what, "the key must be a string with the text of a configuration file")
        return down(self.name, (error.strerror if isinstance(error, OSError) else None) or type(error).__name__)

    def watch(self, changed: Callable[[], object]) -> Callable[[], None]:
        ended = threading.Event()
        threading.Thread(target=self._hear, args=(changed, ended), name="mqsdk-config-hint", daemon=True).start()
        return ended.set

    def _hear(self, changed: Callable[[], object], ended: threading.Event) -> None:
        """Listens on a connection of its own. What is not heard is found by asking: a failure is worth a line at -v."""
        redis = self._imported()
        while not ended.is_set():
            try:
                with self._connected(redis, ANSWER_S) as client, client.pubsub(ignore_subscribe_messages=True) as heard:
                    heard.subscribe(self._channel)
                    while not ended.is_set():
                        if heard.get_message(timeout=HEAR_S) is not None:
                            changed()
            except (redis.exceptions.RedisError, OSError) as error:
                log.debug("%s: not listening for changes (%s), only asking", self.name, type(error).__name__)
                ended.wait(AGAIN_S)

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()
