"""`backend: sqlite`: a SQLite file as a backend of mqsdk. Only the hook; the rest is imported when a cluster of this kind is made."""

from collections.abc import Mapping
from typing import Any

from mqsdk import spi
from mqsdk.spi.options import checked_options


@spi.hookimpl
def mqsdk_backend(kind: str, name: str, options: Mapping[str, Any]) -> spi.Backend | None:
    if kind != "sqlite":
        return None
    values, problems = checked_options(options, {"path": str}, name, "the SQLite adapter")
    if problems:
        raise spi.ConfigError.of(problems)
    from mqsdk_sqlite.backend import SqliteBackend

    return SqliteBackend(name, values.get("path", "messages.db"))
