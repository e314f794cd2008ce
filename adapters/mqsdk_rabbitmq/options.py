"""The options of a cluster of kind `rabbitmq`, checked."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from mqsdk.spi import ConfigError, Problem
from mqsdk.spi.options import checked_options, checked_servers, checked_texts, no_client_options
from mqsdk.spi.tls import Tls

PORT, TLS_PORT = 5672, 5671
MAX_PREFETCH = 65_535  # 16 bits on the wire; 0 would be no limit

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
    # 0: which port is the default depends on `tls`.
    return checked_servers(value, 0, "rabbitmq.example.com:5672")


def _auth(value: Any) -> tuple[str, str] | None:
    given = checked_texts(value, "user and password")
    if unknown := sorted(set(given) - {"user", "password"}):
        raise ValueError(f"RabbitMQ knows user and password, not {', '.join(unknown)}")
    if not given:
        return None
    if set(given) != {"user", "password"}:
        raise ValueError("user and password, both")
    return given["user"], given["password"]


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
_COMMON: Mapping[str, Callable[[Any], Any]] = {"servers": _servers, "tls": Tls.parse, "auth": _auth, "options": no_client_options}
assert set(_OWN) == {item.name for item in fields(Options)}
