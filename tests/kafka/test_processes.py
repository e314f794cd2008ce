"""The same command line and application as on the embedded log, with processes that are killed."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from mqsdk.config.load import load
from tests.brokers.backlog import memory_stays_flat
from tests.brokers.kafka import KafkaBroker
from tests.cli import test_halt_processes
from tests.processes import MQSDK, Running, mqsdk

APP = """
import time
from mqsdk import App, Backoff, Message, RetryPolicy
app = App()

@app.consumer("{topic}", group="billing", ordered=True, retry=RetryPolicy(attempts=2, backoff=Backoff("10ms")))
def bill(order: dict, message: Message) -> None:
    if order.get("bad"):
        raise ValueError("cannot be billed")
    print("billed %s attempt %s" % (order["id"], message.attempt), flush=True)  # one write: the log shares the pipe
    if order.get("stuck"):
        time.sleep(600)
"""
CONFIG = """
version: 1
app: shop
clusters:
  main: {{backend: kafka, servers: ["{address}"], lease: 2s}}
routes: [{{topics: ["*"], cluster: main}}]
topics: {{"{topic}": {{partitions: 2}}}}
"""

HALTS = """
version: 1
app: shop
clusters: {{main: {{backend: kafka, servers: ["{address}"], lease: 2s}}}}
routes: [{{topics: ["*"], cluster: main}}]
topics: {{"*": {{partitions: 2}}}}
"""

pytestmark = pytest.mark.slow


def test_a_halted_key_outlives_its_process_and_is_released_by_name(tmp_path: Path, kafka_broker: KafkaBroker) -> None:
    (tmp_path / "mqsdk.yaml").write_text(HALTS.format(address=kafka_broker.address))
    (tmp_path / "mqsdk.yaml").chmod(0o600)
    test_halt_processes.play(tmp_path)


class Shop:
    """An application in a folder, its own topic on the run's broker."""

    def __init__(self, folder: Path, broker: KafkaBroker) -> None:
        self.folder = folder
        self.topic = f"orders-{uuid.uuid4().hex[:8]}"
        self.write("600")
        (folder / "mqsdk.yaml").write_text(CONFIG.format(address=broker.address, topic=self.topic))
        (folder / "mqsdk.yaml").chmod(0o600)

    def write(self, stuck_s: str) -> None:
        (self.folder / "shop.py").write_text(APP.format(topic=self.topic).replace("600", stuck_s))

    def publish(self, key: str, **order: object) -> None:
        done = mqsdk(self.folder, "publish", self.topic, json.dumps(order), "--key", key)
        assert done.returncode == 0, done.stderr

    def run(self) -> Running:
        return Running([*MQSDK, "run", "shop:app"], self.folder)


@pytest.fixture
def shop(tmp_path: Path, kafka_broker: KafkaBroker) -> Shop:
    return Shop(tmp_path, kafka_broker)


def test_a_killed_consumer_is_replaced_and_dead_letters_are_kept(shop: Shop) -> None:
    with shop.run() as first:
        shop.publish("k", id=1)
        first.wait_for("billed 1 attempt 1")
        shop.publish("k", id=2, stuck=True)
        shop.publish("k", id=3, bad=True)
        shop.publish("k", id=4)
        first.wait_for("billed 2")
        first.kill()
    shop.write("0")
    with shop.run() as second:
        second.wait_for("billed 2")
        second.wait_for("billed 4")
        assert not [line for line in second.lines if "billed 1" in line]
        assert second.stop() == 0
    listed = mqsdk(shop.folder, "dlq", "list", shop.topic, "billing", "--json")
    assert [json.loads(line)["reason"] for line in listed.stdout.splitlines()] == ["exhausted"]
    lag = mqsdk(shop.folder, "lag", "--json")
    assert lag.returncode == 0, lag.stderr
    assert mqsdk(shop.folder, "peek", shop.topic, "-n", "1").returncode == 0


def test_after_a_kill_only_what_was_unfinished_runs_again(shop: Shop) -> None:
    """The watermark stands below the stuck message; what was settled above it stands beside the offset."""
    with shop.run() as first:
        shop.publish("stuck", id=0, stuck=True)
        first.wait_for("billed 0")
        for number in range(1, 9):
            shop.publish(f"key-{number}", id=number)
        for number in range(1, 9):
            first.wait_for(f"billed {number} ")
        shop.publish("last", id=9)
        first.wait_for("billed 9 ")
        lag = mqsdk(shop.folder, "lag", "--json")
        assert lag.returncode == 0
        first.kill()
    shop.write("0")
    with shop.run() as second:
        second.wait_for("billed 0")
        shop.publish("new", id=10)
        second.wait_for("billed 10")
        repeated = {int(line.split()[1]) for line in second.lines if line.startswith("billed")}
        # What was settled last may not have been committed when it was killed.
        assert repeated <= {0, 8, 9, 10}, second.lines
        assert second.stop() == 0


@pytest.mark.parametrize("profile", ["", "production", "migrated"])
def test_the_shipped_configuration_is_valid_in_every_profile(profile: str, tmp_path: Path) -> None:
    shipped = Path(__file__).resolve().parents[2] / "configs" / "kafka.yaml"
    (tmp_path / "mqsdk.yaml").write_text(shipped.read_text())
    (tmp_path / "mqsdk.yaml").chmod(0o600)
    found = load(tmp_path / "mqsdk.yaml", environ={"MQSDK_ENV": profile, "KAFKA_PASSWORD": "secret"} if profile else {})
    (cluster,) = found.clusters.values()
    assert cluster.backend == "kafka"
    assert "secret" not in repr(found)


def test_memory_stays_flat_over_a_backlog(tmp_path: Path, kafka_broker: KafkaBroker) -> None:
    memory_stays_flat(tmp_path, "kafka", kafka_broker.address)
