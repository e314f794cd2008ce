"""The states of an App, and what refuses calls that do not fit them."""

from __future__ import annotations

from contextvars import ContextVar
from enum import StrEnum

# Set around what runs inside a consumer without being the handler of a single message: "topic/group" in a batch call, the App's mark in
# its observers. To wait there for the consumer's end is to wait for oneself.
INSIDE: ContextVar[str] = ContextVar("mqsdk_inside", default="")


class State(StrEnum):
    """`NEW -> OPEN -> RUNNING -> DRAINING -> OPEN | CLOSED`."""

    NEW = "NEW"
    OPEN = "OPEN"
    RUNNING = "RUNNING"
    DRAINING = "DRAINING"
    CLOSED = "CLOSED"
