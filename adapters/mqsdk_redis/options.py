"""The options of a cluster of kind `redis`, checked."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mqsdk.spi import ConfigError, Problem
from mqsdk.spi.options import checked_options, checked_servers, checked_texts, no_client_options
from mqsdk.spi.tls import Tls

DEFAULT_PORT = 6379
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class Options:
    """database: number of the database. sentinel: name of the primary; `servers` are then sentinels.

    keep: a message that every group has settled can be read and replayed for so long after its publish; then it is removed (seconds).
    noeviction: states that `maxmemory-policy` is `noeviction`, where the user may not ask the server.
    """

    database: int = 0
    sentinel: str | None = None
    keep: float = 3600.0
    noeviction: bool = False

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

    servers: tuple[tuple[str, int], ...] = (("127.0.0.1", DEFAULT_PORT),)
    tls: Tls | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    own: Options = Options()

    @classmethod
    def parse(cls, given: Mapping[str, Any], cluster: str) -> Settings:
        """A cluster's whole block. Raises ConfigError that lists every problem."""
        checks = {**_COMMON, **_OWN}
        values, problems = _checked(given, checks, cluster)
        if problems:
            raise ConfigError.of(problems)
        own = Options(**{name: value for name, value in values.items() if name in _OWN})
        user, password = values.get("auth", (None, None))
        return cls(values.get("servers", cls().servers), values.get("tls"), user, password, own)

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
    return checked_options(known, checks, cluster, "a Redis cluster")


def _servers(value: Any) -> tuple[tuple[str, int], ...]:
    return checked_servers(value, DEFAULT_PORT, "redis.example.com:6379")


def _auth(value: Any) -> tuple[str | None, str | None]:
    given = checked_texts(value, "user and password")
    if unknown := sorted(set(given) - {"user", "password", "token"}):
        raise ValueError(f"Redis knows user, password and token, not {', '.join(unknown)}")
    password = given.get("password", given.get("token"))
    if given and password is None:
        raise ValueError("a user needs a password")
    return given.get("user"), password


def _database(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1024:
        raise ValueError("the number of a database, for example 0")
    return value


def _sentinel(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("the name of the primary as the sentinels know it")
    return value


def _keep(value: Any) -> float:
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)) is not None:
        value = float(match[1]) * _UNITS[match[2]]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 3650 * 86400:
        raise ValueError("a duration, for example '1h'")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


_OWN: Mapping[str, Callable[[Any], Any]] = {"database": _database, "sentinel": _sentinel, "keep": _keep, "noeviction": _flag}
_COMMON: Mapping[str, Callable[[Any], Any]] = {"servers": _servers, "tls": Tls.parse, "auth": _auth, "options": no_client_options}
assert set(_OWN) == {item.name for item in fields(Options)}
