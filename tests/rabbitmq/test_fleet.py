"""Publishers, consumers and the server itself are killed and frozen: nothing acknowledged is lost, keys stay in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.brokers.proxy import Proxy
from tests.brokers.rabbitmq import RabbitServer
from tests.faults.brokers import endure
from tests.faults.cuts import survive_cuts

CONFIG = """
version: 1
clusters:
  main: {{backend: rabbitmq, servers: ["{address}"], lease: 3s}}
routes: [{{topics: ["*"], cluster: main}}]
topics: {{"work": {{partitions: 4, groups: [workers]}}}}
"""

pytestmark = pytest.mark.slow


def test_kills_of_clients_and_server_lose_nothing_and_keep_the_order_of_keys(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    server = RabbitServer(tmp_path / "server")
    try:
        endure(tmp_path, server, CONFIG.format(address=server.address))
    finally:
        server.stop()


def test_connections_cut_in_the_middle_lose_nothing_and_keep_the_order(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    server = RabbitServer(tmp_path / "server")
    proxy = Proxy(server.port)
    try:
        survive_cuts(tmp_path, proxy, CONFIG.format(address=proxy.address))
    finally:
        proxy.stop()
        server.stop()
