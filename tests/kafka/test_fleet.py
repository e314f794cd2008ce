"""Publishers, consumers and the broker itself are killed and frozen: nothing acknowledged is lost, keys stay in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.brokers.kafka import KafkaBroker
from tests.faults.brokers import endure

CONFIG = """
version: 1
clusters:
  main: {{backend: kafka, servers: ["{address}"], lease: 6s}}
routes: [{{topics: ["*"], cluster: main}}]
topics: {{"work": {{partitions: 4}}}}
"""

pytestmark = pytest.mark.slow


def test_kills_of_clients_and_broker_lose_nothing_and_keep_the_order_of_keys(tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir()
    broker = KafkaBroker(tmp_path / "broker")
    try:
        endure(tmp_path, broker, CONFIG.format(address=broker.address))
    finally:
        broker.stop()
