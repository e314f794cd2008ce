"""Every test of the command line runs in an empty working directory of its own, with a state folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers.rabbitmq import RabbitServer
from tests.brokers.redis import RedisServer
from tests.cli.harness import Broker

CONFIG = """
version: 1
app: shop
clusters: {{main: {{backend: {backend}, servers: ["{address}"]{more}}}}}
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


@pytest.fixture(params=["log", "redis", "rabbitmq"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder for processes, on a backend: the log needs no configuration."""
    if request.param == "log":
        yield tmp_path
        return
    if request.param == "rabbitmq":
        rabbitmq: RabbitServer = request.getfixturevalue("rabbitmq")
        configure(tmp_path, "rabbitmq", rabbitmq.address, f", vhost: {rabbitmq.new_vhost()}")
        yield tmp_path
        return
    (tmp_path / "server").mkdir()
    server = RedisServer(tmp_path / "server")
    configure(tmp_path, "redis", server.address)
    yield tmp_path
    server.stop()


def configure(folder: Path, backend: str, address: str, more: str = "") -> None:
    (folder / "mqsdk.yaml").write_text(CONFIG.format(backend=backend, address=address, more=more))
    (folder / "mqsdk.yaml").chmod(0o600)
