"""Tools for the tests of users and of adapters: TestApp, the in-memory log, the virtual clock, and `mqsdk.testing.conformance`."""

from typing import TYPE_CHECKING, Any

from mqsdk.testing.clock import VirtualClock
from mqsdk.testing.simlog import SimBackend, SimLog

if TYPE_CHECKING:
    from mqsdk.testing.app import DrainResult, TestApp
    from mqsdk.testing.recorder import Messages

__all__ = ["DrainResult", "Messages", "SimBackend", "SimLog", "TestApp", "VirtualClock"]


def __getattr__(name: str) -> Any:
    # TestApp brings the API and asyncio with it, which an adapter's tests have no use for.
    if name in ("DrainResult", "TestApp"):
        from mqsdk.testing import app

        return getattr(app, name)
    if name == "Messages":
        from mqsdk.testing.recorder import Messages

        return Messages
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
