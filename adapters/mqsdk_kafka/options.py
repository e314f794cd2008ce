"""The options of a cluster of kind `kafka`, checked."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mqsdk.spi import ConfigError, Problem
from mqsdk.spi.options import checked_options, checked_servers, checked_texts, no_client_options
from mqsdk.spi.tls import Tls

DEFAULT_PORT = 9092
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
PER_TOPIC, SHARED = "{topic}.{group}", "{group}"


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
    return checked_servers(value, DEFAULT_PORT, "kafka1.example.com:9092")


def _auth(value: Any) -> tuple[str | None, str | None, str | None]:
    given = checked_texts(value, "mechanism, user and password")
    if unknown := sorted(set(given) - {"mechanism", "user", "password"}):
        raise ValueError(f"a Kafka cluster takes mechanism, user and password, not {', '.join(unknown)}")
    if not given:
        return None, None, None
    if set(given) != {"mechanism", "user", "password"}:
        raise ValueError(f"mechanism ({', '.join(MECHANISMS)}), user and password belong together")
    if given["mechanism"].upper() not in MECHANISMS:
        raise ValueError(f"the mechanism is one of {', '.join(MECHANISMS)}")
    return given["mechanism"].upper(), given["user"], given["password"]


def _replication(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 100:
        raise ValueError("a number of copies, for example 3")
    return value


def _group_id(value: Any) -> str:
    if value not in (PER_TOPIC, SHARED):
        raise ValueError(f"`{PER_TOPIC}` or `{SHARED}`")
    return str(value)


_OWN: Mapping[str, Callable[[Any], Any]] = {"replication": _replication, "group_id": _group_id}
_COMMON: Mapping[str, Callable[[Any], Any]] = {"servers": _servers, "tls": Tls.parse, "auth": _auth, "options": no_client_options}
assert set(_OWN) == {item.name for item in fields(Options)}
