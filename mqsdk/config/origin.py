"""Where a configuration comes from: a file, a directory of files, a key of Redis, an address of HTTP(S).

One small interface, and what they have in common.

A source that is not a file is remote: who writes it need not be trusted with the host, so what it may refer to is bounded (`references`),
and what it gave last is kept on disk (`lastgood`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mqsdk.errors import ConfigError, Problem

if TYPE_CHECKING:
    from urllib.parse import SplitResult

SCHEMES = ("redis", "rediss", "https", "http", "http+insecure")
MAX_BYTES = 1024 * 1024  # as of a file
ANSWER_S = 2.0  # one attempt may wait so long for a connection, and so long for each answer
START_WAIT_S = 5.0  # so long a start tries to reach a source
AGAIN_S = 0.25  # between two attempts of a start
YAML = "application/yaml"
_FORMS = "write redis://host:port/db?key=NAME or https://host/path, and / ? # @ : of a user or password as %2F %3F %23 %40 %3A"


class Content(NamedTuple):
    """What a source holds. version: another one when the content may be another. type: media type, as far as the source tells it.

    parts: (file, its content) of a configuration in several files; `data` is all of them then.
    """

    version: str
    data: bytes
    type: str = YAML
    parts: tuple[tuple[str, bytes], ...] = ()


class SourceDown(ConfigError):
    """A remote source cannot be reached, or answers that it cannot answer now. Later it may."""


class Source(Protocol):
    """name: for people, without user, password or query. id: tells sources apart, is never shown; "" for a file."""

    name: str
    id: str

    def load(self, timeout_s: float = ANSWER_S) -> Content:
        """What it holds now. Raises ConfigError for what cannot be a configuration, SourceDown when there is no answer."""

    def watch(self, changed: Callable[[], object]) -> Callable[[], None] | None:
        """Call `changed` from any thread when the content has probably changed; the result ends that. None: it can only be asked."""

    def close(self) -> None:
        """Give up connections. `load` makes new ones."""


class FileSource:
    """A file of this host. Its changes are seen by `runtime.watch`, which asks the file system first."""

    id = ""

    def __init__(self, path: str) -> None:
        self.name = path

    def load(self, timeout_s: float = ANSWER_S) -> Content:
        from mqsdk.config import files

        data = files.content(self.name)
        return Content(digest(data), data)

    def watch(self, changed: Callable[[], object]) -> None:
        return None

    def close(self) -> None:
        return None


def is_remote(place: str) -> bool:
    """Whether this names a remote source, not a file."""
    return "://" in place


def source_of(place: str) -> Source:
    """The source that a path or an address names. Connects to nothing. Raises ConfigError for an address that none has."""
    if not is_remote(place):
        if os.path.isdir(place):
            from mqsdk.config.folder import FolderSource

            return FolderSource(place)
        return FileSource(place)
    address = _split(place)
    if address.scheme in ("redis", "rediss"):
        from mqsdk.config.fromredis import RedisSource

        return RedisSource(address)
    from mqsdk.config.fromhttp import HttpSource

    return HttpSource(address)


def _split(place: str) -> SplitResult:
    """The parts of an address with a usable host and port."""
    from urllib.parse import urlsplit

    try:
        found = urlsplit(place)
        (found.hostname or "").encode("idna")  # what a resolver would refuse with an exception of its own
        # An `@` behind the host is one of a password that holds a `/`, `?` or `#`: what stands before it would be shown as the host.
        hidden = "@" in f"{found.path}{found.query}{found.fragment}"
        usable = bool(found.hostname) and found.port != 0 and place.isprintable() and not hidden
    except ValueError:  # its text may quote the address
        usable = False
    if not usable:
        raise refused("the address of the configuration", "is not usable", _FORMS)
    if found.scheme not in SCHEMES:
        known = "a path, redis://, rediss://, https://, or http:// to this host"
        raise refused(shown(found), f"`{found.scheme}` is no kind of source", f"give {known}")
    return found


def shown(address: SplitResult, query: str = "") -> str:
    """An address for people: no user, no password, and of the query only what is given here."""
    host = f"[{address.hostname}]" if ":" in (address.hostname or "") else address.hostname
    port = f":{address.port}" if address.port is not None else ""
    return f"{address.scheme}://{host}{port}{address.path}{query}"


def secrets_of(address: SplitResult) -> tuple[str | None, str | None]:
    """(user, password) of an address."""
    from urllib.parse import unquote

    user, password = address.username, address.password
    return (unquote(user) if user else None), (unquote(password) if password is not None else None)


def digest(data: bytes) -> str:
    import hashlib  # 2 ms, which a start without any configuration does not need

    return hashlib.sha256(data).hexdigest()[:16]


def refused(name: str, what: str, fix: str = "") -> ConfigError:
    return ConfigError.of([Problem(key="", what=what, fix=fix, file=name)])


def down(name: str, why: str) -> SourceDown:
    error = SourceDown.of([Problem(key="", what=f"cannot be reached: {why}", fix="check the address and the network", file=name)])
    assert isinstance(error, SourceDown)
    return error


def untrusted(name: str) -> ConfigError:
    fix = "trust its authority on this host, or name the authority's file in the variable SSL_CERT_FILE"
    return refused(name, "has a certificate that is not trusted", fix)


def too_large(name: str) -> ConfigError:
    return refused(name, "is larger than 1 MiB", "a configuration holds settings only; check the address")


def load_patiently(source: Source, wait_s: float = START_WAIT_S) -> Content:
    """What it holds, asked again and again for `wait_s` while it is down. Raises as `Source.load`."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return source.load(max(AGAIN_S, min(ANSWER_S, deadline - time.monotonic())))
        except SourceDown:
            if time.monotonic() + AGAIN_S >= deadline:
                raise
        time.sleep(AGAIN_S)
