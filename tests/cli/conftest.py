"""Every test of the command line runs in an empty working directory of its own, with a state folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.harness import Broker


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("MQSDK_STATE", str(tmp_path / "state"))
    for name in ("MQSDK_CONFIG", "MQSDK_ENV"):
        monkeypatch.delenv(name, raising=False)
    return work


@pytest.fixture
def broker() -> Broker:
    return Broker()
