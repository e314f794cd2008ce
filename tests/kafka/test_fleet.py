"""Publishers, consumers and brokers are killed and frozen: nothing acknowledged is lost, keys stay in order."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mqsdk_kafka.backend import KafkaBackend

from tests.brokers.kafka import KafkaBroker, KafkaCluster, known_brokers
from tests.brokers.ports import free_port
from tests.brokers.proxy import Proxy
from tests.faults.brokers import endure, outlive
from tests.faults.churn import come_and_go
from tests.faults.cuts import bear_delays, lose_replies, survive_cuts
from tests.faults.topics import serve_many_topics
from tests.kafka.stage import LEAKS, backend_at

CONFIG = """
version: 1
clusters:
  main: {{backend: kafka, servers: [{servers}], lease: 6s, replication: {copies}}}
routes: [{{topics: ["*"], cluster: main}}]
topics: {{"*": {{partitions: 4}}}}
"""

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(LEAKS)]


def test_kills_of_clients_and_broker_lose_nothing_and_keep_the_order_of_keys(tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir()
    broker = KafkaBroker(tmp_path / "broker")
    try:
        endure(tmp_path, broker, CONFIG.format(servers=f'"{broker.address}"', copies=1))
    finally:
        broker.stop()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    started = KafkaCluster(tmp_path_factory.mktemp("cluster"), "work")
    yield started
    started.stop()


def test_a_topic_that_was_made_can_be_used_at_every_broker(cluster: KafkaCluster) -> None:
    with opened(cluster) as backend:
        for number in range(10):
            backend.admin().ensure_topic(f"new-{number}", 4)
            backend.admin().ensure_group(f"new-{number}", "g")  # another broker answers
            assert len(backend.admin().progress(f"new-{number}", "g")) == 4


def test_one_broker_of_three_may_die(tmp_path: Path, cluster: KafkaCluster) -> None:
    """Its partitions go to brokers that have every acknowledged message; the bound is its session, an election and a client's next look."""
    outlive(tmp_path, cluster, CONFIG.format(servers=cluster.servers, copies=3), most_s=6.0)
    with cluster.brokers[0].admin() as admin:
        (topic,) = admin.describe_topics(["work"])
    assert {len(partition["replica_nodes"]) for partition in topic["partitions"]} == {3}


def test_a_dead_broker_holds_up_nobody_who_connects(cluster: KafkaCluster) -> None:
    first = cluster.brokers[0]
    first.kill()
    try:
        wait_until_fenced(cluster)
        began = time.monotonic()
        with opened(cluster) as backend:
            health = backend.health()
        took_s = time.monotonic() - began
    finally:
        first.launch()
        first.wait_for(3)
    print(f"\nopened and looked at in {took_s:.1f} s")
    assert health.ok
    assert [finding.code for finding in health.findings] == ["brokers"]
    assert health.guarantee.startswith("kafka, replicated: what is acknowledged survives")
    assert took_s < 9.0


@contextmanager
def opened(cluster: KafkaCluster) -> Iterator[KafkaBackend]:
    backend = backend_at([broker.address for broker in cluster.brokers], replication=3)
    backend.open(time.monotonic() + 20.0)
    try:
        yield backend
    finally:
        backend.close(time.monotonic() + 10.0)
        gc.collect()  # what the client leaks is found within the test that may leak it


def wait_until_fenced(cluster: KafkaCluster) -> None:
    deadline = time.monotonic() + 60.0
    while known_brokers(cluster.brokers[1].port) > 2:
        assert time.monotonic() < deadline, "the others do not notice"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Before a broker that tells its clients to connect to it."""
    port = free_port()
    proxy = Proxy(port)
    broker = KafkaBroker(tmp_path_factory.mktemp("broker"), port=port, advertised=proxy.port)
    yield proxy
    proxy.stop()
    broker.stop()


def test_connections_cut_in_the_middle_lose_nothing_and_keep_the_order(tmp_path: Path, proxy: Proxy) -> None:
    survive_cuts(tmp_path, proxy, at(proxy))


def test_a_publish_whose_answer_is_lost_is_handled_once(tmp_path: Path, proxy: Proxy) -> None:
    lose_replies(tmp_path, proxy, at(proxy))


def test_a_slow_line_is_no_failure(tmp_path: Path, proxy: Proxy) -> None:
    bear_delays(tmp_path, proxy, at(proxy))


def test_members_that_come_and_go_lose_and_repeat_nothing(tmp_path: Path, proxy: Proxy) -> None:
    come_and_go(tmp_path, at(proxy))


def test_one_application_serves_many_topics(tmp_path: Path, proxy: Proxy) -> None:
    serve_many_topics(tmp_path, at(proxy).replace("partitions: 4", "partitions: 1"))


def at(proxy: Proxy) -> str:
    return CONFIG.format(servers=f'"{proxy.address}"', copies=1)
