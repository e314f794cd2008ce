"""The embedded log as a backend of mqsdk: `backend: log`. Only the hooks; the rest is imported when a cluster of this kind is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mqsdk.spi import hookimpl
from mqsdk_log.options import Options

if TYPE_CHECKING:
    from mqsdk.spi import Backend
    from mqsdk.spi.tools import Toolbox

__all__ = ["Options", "mqsdk_backend", "mqsdk_tools"]


@hookimpl
def mqsdk_backend(kind: str, name: str, options: Mapping[str, Any]) -> Backend | None:
    """Make the backend of a cluster whose kind is `log`. Raises ConfigError for an option it does not know or cannot use."""
    if kind != "log":
        return None
    from mqsdk_log.backend import LogBackend

    return LogBackend(name, Options.parse(options, name))


@hookimpl
def mqsdk_tools(kind: str) -> Toolbox | None:
    """The commands `mqsdk log ...`."""
    if kind != "log":
        return None
    from mqsdk_log.tools.toolbox import TOOLBOX

    return TOOLBOX
