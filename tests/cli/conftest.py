"""Every test of the command line runs in an empty working directory of its own, with a state folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers.redis import RedisServer
from tests.cli.harness import Broker

REDIS = """
version: 1
app: shop
clusters: {{main: {{backend: redis, servers: ["{address}"]}}}}
routes: [{{topics: ["*"], cluster: main}}]
"""


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


@pytest.fixture(params=["log", "redis"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder for processes, on each backend that ships: the log needs no configuration."""
    if request.param == "log":
        yield tmp_path
        return
    (tmp_path / "server").mkdir()
    server = RedisServer(tmp_path / "server")
    (tmp_path / "mqsdk.yaml").write_text(REDIS.format(address=server.address))
    (tmp_path / "mqsdk.yaml").chmod(0o600)
    yield tmp_path
    server.stop()
