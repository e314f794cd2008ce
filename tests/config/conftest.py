"""A file in an empty working directory, and what `load` says about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from mqsdk.config.load import load
from mqsdk.config.model import Configuration
from mqsdk.errors import ConfigError, Problem

Write = Callable[[str | bytes], str]
Load = Callable[..., Configuration]
ProblemsOf = Callable[..., list[Problem]]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Make `mqsdk.yaml` in the working directory of the test."""
    monkeypatch.chdir(tmp_path)

    def make(content: str | bytes) -> str:
        file = tmp_path / "mqsdk.yaml"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        file.chmod(0o644)
        return "mqsdk.yaml"

    return make


@pytest.fixture
def loaded(write: Write) -> Load:
    """The configuration of a text."""

    def read(content: str, environ: Mapping[str, str] | None = None, environment: str | None = None) -> Configuration:
        return load(write(content), environ=environ or {}, environment=environment)

    return read


@pytest.fixture
def problems_of(loaded: Load) -> ProblemsOf:
    """Every problem of a text that must be refused."""

    def read(content: str, environ: Mapping[str, str] | None = None, environment: str | None = None) -> list[Problem]:
        with pytest.raises(ConfigError) as caught:
            loaded(content, environ, environment)
        return list(caught.value.problems)

    return read
