"""The options of a cluster of kind `kafka`, checked."""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mqsdk.spi import ConfigError, Problem
from mqsdk.spi.options import checked_options
from mqsdk.spi.tls import Tls

DEFAULT_PORT = 9092
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
PER_TOPIC, SHARED = "{topic}.{group}", "{group}"
_SERVER = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:/@\[\]]+)(?::(?P<port>\d{1,5}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Options:
    """replication: copies of each partition of a topic that is created here; None: what the broker has as its default.

    group_id: how a group is named in Kafka. `{topic}.{group}` keeps the groups of different topics apart, so that neither a slow
    member nor a reset of one concerns the other; `{group}` continues the progress of another client's group of that name.
    """

    replication: int | None = None
    group_id: str = PER_TOPIC

    @classmethod
    def parse(cls, given: Mapping[str, Any], cluster: str) -> Options:
        """Raises ConfigError that lists every unknown key and every value that cannot be used."""
        values, problems = checked_options(given, _OWN, cluster, "a Kafka cluster")
        if problems:
            raise ConfigError.of(problems)
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a connection needs. servers: (host, port). tls: None without encryption; its files are read at `open`."""

    servers: tuple[tuple[str, int], ...] = (("127.0.0.1", DEFAULT_PORT),)
    tls: Tls | None = None
    mechanism: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    own: Options = Options()

    @classmethod
    def parse(cls, given: Mapping[str, Any], cluster: str) -> Settings:
        """A cluster's whole block. Raises ConfigError that lists every problem."""
        checks = {**_COMMON, **_OWN}
        known = {key: value for key, value in given.items() if value is not None or key not in checks}
        values, problems = checked_options(known, checks, cluster, "a Kafka cluster")
        own = {name: value for name, value in values.items() if name in _OWN}
        mechanism, user, password = values.get("auth", (None, None, None))
        made = cls(values.get("servers", cls().servers), values.get("tls"), mechanism, user, password, Options(**own))
        if made.mechanism == "PLAIN" and made.tls is None and not all(_is_loopback(host) for host, _ in made.servers):
            where = f"clusters.{cluster}.auth.mechanism"
            problems.append(Problem(where, "PLAIN sends the password in the clear without `tls`", "add `tls: {}`, or use SCRAM-SHA-512"))
        if problems:
            raise ConfigError.of(problems)
        return made

    def context(self) -> ssl.SSLContext | None:
        """Raises ConfigError for a file that cannot be used."""
        return None if self.tls is None else self.tls.context()

    @property
    def addresses(self) -> list[str]:
        return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.servers]

    @property
    def address(self) -> str:
        """For errors: where this cluster is looked for."""
        return ", ".join(self.addresses)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _servers(value: Any) -> tuple[tuple[str, int], ...]:
    if isinstance(value, str) or not isinstance(value, list | tuple) or not value:
        raise ValueError("a list of addresses, for example [kafka1.example.com:9092]")
    return tuple(_server(item) for item in value)


def _server(value: Any) -> tuple[str, int]:
    match = _SERVER.fullmatch(value) if isinstance(value, str) else None
    port = int(match["port"] or DEFAULT_PORT) if match else 0
    if match is None or not 0 < port < 65536:
        raise ValueError("an address is host:port")
    return match["host"].strip("[]"), port


def _tls(value: Any) -> Tls | None:
    return Tls.parse(value)


def _auth(value: Any) -> tuple[str | None, str | None, str | None]:
    if not isinstance(value, Mapping) or any(not isinstance(item, str) for item in value.values() if item is not None):
        raise ValueError("a mapping with mechanism, user and password")
    given = {key: item for key, item in value.items() if item is not None}
    if unknown := sorted(set(given) - {"mechanism", "user", "password"}):
        raise ValueError(f"a Kafka cluster takes mechanism, user and password, not {', '.join(unknown)}")
    if not given:
        return None, None, None
    if set(given) != {"mechanism", "user", "password"}:
        raise ValueError(f"mechanism ({', '.join(MECHANISMS)}), user and password belong together")
    if given["mechanism"].upper() not in MECHANISMS:
        raise ValueError(f"the mechanism is one of {', '.join(MECHANISMS)}")
    return given["mechanism"].upper(), given["user"], given["password"]


def _no_options(value: Any) -> None:
    if not isinstance(value, Mapping) or value:
        raise ValueError("no option of the client is open: each would weaken what this adapter promises")


def _replication(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 100:
        raise ValueError("a number of copies, for example 3")
    return value


def _group_id(value: Any) -> str:
    if value not in (PER_TOPIC, SHARED):
        raise ValueError(f"`{PER_TOPIC}` or `{SHARED}`")
    return str(value)


_OWN: Mapping[str, Callable[[Any], Any]] = {"replication": _replication, "group_id": _group_id}
_COMMON: Mapping[str, Callable[[Any], Any]] = {"servers": _servers, "tls": _tls, "auth": _auth, "options": _no_options}
assert set(_OWN) == {item.name for item in fields(Options)}
