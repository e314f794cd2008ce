"""Tools for the tests of users and of adapters: the in-memory log, the virtual clock, and `mqsdk.testing.conformance`."""

from mqsdk.testing.clock import VirtualClock
from mqsdk.testing.simlog import SimBackend, SimLog

__all__ = ["SimBackend", "SimLog", "VirtualClock"]
