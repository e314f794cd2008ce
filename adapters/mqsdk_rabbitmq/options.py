"""The options of a cluster of kind `rabbitmq`, checked."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from mqsdk.spi import ConfigError, Problem
from mqsdk.spi.options import checked_options
from mqsdk.spi.tls import Tls

PORT, TLS_PORT = 5672, 5671
MAX_PREFETCH = 65_535  # 16 bits on the wire; 0 would be no limit
_SERVER = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:/@\[\]]+)(?::(?P<port>\d{1,5}))?", re.ASCII)

Queues = Literal["quorum", "classic"]


@dataclass(frozen=True, slots=True)
class Options:
    """vhost: virtual host. queues: type of the queues that are declared from now on; those that exist stay what they are.

    prefetch: deliveries of one partition that are held here unsettled, at most; fewer where they would be over 256 MiB.
    """

    vhost: str = "/"
    queues: Queues = "quorum"
    prefetch: int = 5000

    @classmethod
    def parse(cls, given: Mapping[str, Any], cluster: str) -> Options:
        """Raises ConfigError that lists every unknown key and every value that cannot be used."""
        values, problems = _checked(given, _OWN, cluster)
        if problems:
            raise ConfigError.of(problems)
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a connection needs. servers: (host, port). tls: None without encryption; built at `open`."""

    servers: tuple[tuple[str, int], ...] = (("127.0.0.1", PORT),)
    tls: Tls | None = None
    user: str = "guest"
    password: str = field(default="guest", repr=False)
    own: Options = Options()

    @classmethod
    def parse(cls, given: Mapping[str, Any], cluster: str) -> Settings:
        """A cluster's whole block. Raises ConfigError that lists every problem."""
        values, problems = _checked(given, {**_COMMON, **_OWN}, cluster)
        if problems:
            raise ConfigError.of(problems)
        own = Options(**{name: value for name, value in values.items() if name in _OWN})
        tls = values.get("tls")
        default = TLS_PORT if tls is not None else PORT
        servers = tuple((host, port or default) for host, port in values.get("servers", (("127.0.0.1", 0),)))
        user, password = values.get("auth") or ("guest", "guest")
        return cls(servers, tls, user, password, own)

    def context(self) -> ssl.SSLContext | None:
        """Raises ConfigError for a file that cannot be used."""
        return None if self.tls is None else self.tls.context()

    @property
    def address(self) -> str:
        """For errors: where this cluster is looked for."""
        return ", ".join(f"{host}:{port}" for host, port in self.servers)


def _checked(given: Mapping[str, Any], checks: Mapping[str, Callable[[Any], Any]], cluster: str) -> tuple[dict[str, Any], list[Problem]]:
    """A key without a value is one that is not given."""
    known = {key: value for key, value in given.items() if value is not None or key not in checks}
    return checked_options(known, checks, cluster, "a RabbitMQ cluster")


def _servers(value: Any) -> tuple[tuple[str, int], ...]:
    if isinstance(value, str) or not isinstance(value, list | tuple) or not value:
        raise ValueError("a list of addresses, for example [rabbitmq.example.com:5672]")
    return tuple(_server(item) for item in value)


def _server(value: Any) -> tuple[str, int]:
    match = _SERVER.fullmatch(value) if isinstance(value, str) else None
    port = int(match["port"] or 0) if match else 0
    if match is None or port > 65535 or (match["port"] is not None and port == 0):
        raise ValueError("an address is host:port")
    return match["host"].strip("[]"), port


def _auth(value: Any) -> tuple[str, str] | None:
    if not isinstance(value, Mapping) or any(not isinstance(item, str) for item in value.values() if item is not None):
        raise ValueError("a mapping with user and password")
    given = {key: item for key, item in value.items() if item is not None}
    if unknown := sorted(set(given) - {"user", "password"}):
        raise ValueError(f"RabbitMQ knows user and password, not {', '.join(unknown)}")
    if not given:
        return None
    if set(given) != {"user", "password"}:
        raise ValueError("user and password, both")
    return given["user"], given["password"]


def _no_options(value: Any) -> None:
    if not isinstance(value, Mapping) or value:
        raise ValueError("no option of the client is open: each would weaken what this adapter promises")


def _vhost(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value.encode()) <= 255:
        raise ValueError("the name of a virtual host, for example shop")
    return value


def _queues(value: Any) -> str:
    if value not in ("quorum", "classic"):
        raise ValueError("`quorum` or `classic`")
    return str(value)


def _prefetch(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_PREFETCH:
        raise ValueError(f"a number of messages from 1 to {MAX_PREFETCH}")
    return value


_OWN: Mapping[str, Callable[[Any], Any]] = {"vhost": _vhost, "queues": _queues, "prefetch": _prefetch}
_COMMON: Mapping[str, Callable[[Any], Any]] = {"servers": _servers, "tls": Tls.parse, "auth": _auth, "options": _no_options}
assert set(_OWN) == {item.name for item in fields(Options)}
