"""RabbitMQ as a backend of mqsdk: `backend: rabbitmq`. Only the hook; the client is imported when a cluster of this kind is opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mqsdk.spi import hookimpl
from mqsdk_rabbitmq.options import Options

if TYPE_CHECKING:
    from mqsdk.spi import Backend

__all__ = ["Options", "mqsdk_backend"]


@hookimpl
def mqsdk_backend(kind: str, name: str, options: Mapping[str, Any]) -> Backend | None:
    """Make the backend of a cluster whose kind is `rabbitmq`. Raises ConfigError for an option it does not know or cannot use."""
    if kind != "rabbitmq":
        return None
    from mqsdk_rabbitmq.backend import RabbitBackend
    from mqsdk_rabbitmq.options import Settings

    return RabbitBackend(name, Settings.parse(options, name))
