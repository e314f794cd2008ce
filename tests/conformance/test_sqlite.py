"""The adapter of examples/04_write_an_adapter passes the suite with the one file that it ships."""

from __future__ import annotations

import test_conformance  # of the example


class TestSqlite(test_conformance.TestSqlite):
    """As it stands there."""
