"""Members come and go on the embedded log; the brokers' own tests do the same (`tests/*/test_fleet.py`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.churn import come_and_go

pytestmark = pytest.mark.slow


def test_members_that_come_and_go_lose_and_repeat_nothing(tmp_path: Path) -> None:
    come_and_go(tmp_path)
