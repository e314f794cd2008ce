"""What the simulation raises."""

from __future__ import annotations


class Broken(AssertionError):
    """A rule of the guarantees does not hold."""
