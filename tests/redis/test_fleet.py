"""Publishers, consumers and the server itself are killed and frozen: nothing acknowledged is lost, keys stay in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers.proxy import Proxy
from tests.brokers.redis import RedisServer
from tests.faults.brokers import endure
from tests.faults.churn import come_and_go
from tests.faults.cuts import bear_delays, lose_replies, send_again, survive_cuts
from tests.faults.topics import serve_many_topics

CONFIG = """
version: 1
clusters:
  main: {{backend: redis, servers: ["{address}"], lease: 3s}}
routes: [{{topics: ["*"], cluster: main}}]
topics: {{"*": {{partitions: 4}}}}
"""

pytestmark = pytest.mark.slow


def test_kills_of_clients_and_server_lose_nothing_and_keep_the_order_of_keys(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    server = RedisServer(tmp_path / "server", fsync="always")
    try:
        endure(tmp_path, server, CONFIG.format(address=server.address))
    finally:
        server.stop()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Before a server of its own, the same for all tests of this file that need one."""
    server = RedisServer(tmp_path_factory.mktemp("server"))
    proxy = Proxy(server.port)
    yield proxy
    proxy.stop()
    server.stop()


def test_connections_cut_in_the_middle_lose_nothing_and_keep_the_order(tmp_path: Path, proxy: Proxy) -> None:
    survive_cuts(tmp_path, proxy, CONFIG.format(address=proxy.address))


def test_a_publish_whose_answer_is_lost_is_handled_once(tmp_path: Path, proxy: Proxy) -> None:
    lose_replies(tmp_path, proxy, CONFIG.format(address=proxy.address))


def test_a_publish_that_is_sent_again_is_handled_once(tmp_path: Path, proxy: Proxy) -> None:
    send_again(tmp_path, proxy, CONFIG.format(address=proxy.address), CONFIG.format(address=f"127.0.0.1:{proxy.server_port}"))


def test_a_slow_line_is_no_failure(tmp_path: Path, proxy: Proxy) -> None:
    bear_delays(tmp_path, proxy, CONFIG.format(address=proxy.address))


def test_members_that_come_and_go_lose_and_repeat_nothing(tmp_path: Path, proxy: Proxy) -> None:
    come_and_go(tmp_path, CONFIG.format(address=proxy.address))


def test_one_application_serves_many_topics(tmp_path: Path, proxy: Proxy) -> None:
    config = CONFIG.format(address=proxy.address).replace("partitions: 4", "partitions: 1")
    serve_many_topics(tmp_path, config)
