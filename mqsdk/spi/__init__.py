"""The seam between layer 2 and the adapters. An adapter imports this package and nothing else of mqsdk."""

from typing import TYPE_CHECKING, Any

from mqsdk.errors import (
    AccessDenied,
    BackendError,
    CapabilityError,
    ConfigError,
    Corrupt,
    MissingExtra,
    Problem,
    StateError,
    Unavailable,
    UnsafeBackend,
    UnsupportedFormat,
)
from mqsdk.spi.backend import Admin, Backend, Consumer, EventSink, NotSupported, Producer
from mqsdk.spi.capabilities import Capabilities
from mqsdk.spi.envelope import Envelope, decode_headers, encode_headers
from mqsdk.spi.events import (
    Assigned,
    BackendHealth,
    Batch,
    ConsumerEvent,
    Finding,
    Flow,
    Gap,
    GroupInfo,
    Link,
    Lost,
    Member,
    NewRecord,
    Outcome,
    Partition,
    PartitionProgress,
    ProducerEvent,
    Progress,
    Published,
    Record,
    Rejected,
    Renewed,
    Revoking,
    SavedProgress,
    Settled,
    Start,
    Stored,
    Subscription,
    TopicInfo,
    Unknown,
)

__all__ = [
    "AccessDenied", "Admin", "Assigned", "Backend", "BackendError", "BackendHealth", "Batch", "Capabilities", "CapabilityError",
    "ConfigError", "Consumer", "ConsumerEvent", "Corrupt", "Envelope", "EventSink", "Finding", "Flow", "Gap", "GroupInfo", "Link",
    "Lost", "Member", "MissingExtra", "NewRecord", "NotSupported", "Outcome", "Partition", "PartitionProgress", "Problem", "Producer",
    "ProducerEvent", "Progress", "Published", "Record", "Rejected", "Renewed", "Revoking", "SavedProgress", "Settled", "Start",
    "StateError", "Stored", "Subscription", "TopicInfo", "Unavailable", "Unknown", "UnsafeBackend", "UnsupportedFormat",
    "decode_headers", "encode_headers", "hookimpl",
]  # fmt: skip

if TYPE_CHECKING:
    from mqsdk.spi.hooks import hookimpl


def __getattr__(name: str) -> Any:
    # pluggy costs 30 ms to import; only an adapter that is being loaded needs it.
    if name == "hookimpl":
        from mqsdk.spi.hooks import hookimpl

        return hookimpl
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
