"""Message handlers by topic and group; the broker is one line of configuration."""

import logging
from typing import TYPE_CHECKING, Any

from mqsdk.api.app import App
from mqsdk.api.consumer import Batch
from mqsdk.api.router import Router
from mqsdk.config.secret import Secret
from mqsdk.core.retry import Backoff, RetryPolicy
from mqsdk.errors import (
    BatchFailure,
    CapabilityError,
    ConfigError,
    DeclarationError,
    InvalidMessage,
    MqError,
    PublishError,
    PublishRejected,
    PublishUnknown,
    Reject,
    Retry,
    StateError,
)
from mqsdk.message import Message, Outgoing, Receipt, current_message

if TYPE_CHECKING:
    from mqsdk.config.settings import Settings

__all__ = [
    "App", "Backoff", "Batch", "BatchFailure", "CapabilityError", "ConfigError", "DeclarationError", "InvalidMessage", "Message", "MqError",
    "Outgoing", "PublishError", "PublishRejected", "PublishUnknown", "Receipt", "Reject", "Retry", "RetryPolicy", "Router", "Secret",
    "Settings", "StateError", "current_message",
]  # fmt: skip

# A library says nothing unless its application asks for it.
logging.getLogger("mqsdk").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    # The model of the configuration file costs 100 ms (pydantic), the version of the package 10; whoever names one pays.
    if name == "Settings":
        from mqsdk.config.settings import Settings

        return Settings
    if name == "__version__":
        from importlib.metadata import version

        return version("mqsdk")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
