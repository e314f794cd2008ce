"""Very many topics on the embedded log; the brokers' own tests do the same (`tests/*/test_fleet.py`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.topics import serve_many_topics

CONFIG = """
version: 1
topics: {"*": {partitions: 1}}
"""

pytestmark = pytest.mark.slow


def test_one_application_serves_many_topics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    serve_many_topics(tmp_path, CONFIG)
