"""The same command line and application as on the embedded log, with processes that are killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mqsdk_rabbitmq import names

from mqsdk import App
from mqsdk.config.load import load
from mqsdk.errors import CapabilityError
from mqsdk.spi import Partition
from mqsdk.testing import TestApp
from tests.brokers.backlog import memory_stays_flat
from tests.brokers.rabbitmq import RabbitServer
from tests.brokers.shop import APP, opened_in, publish
from tests.processes import MQSDK, Running, mqsdk

CONFIG = """
version: 1
app: shop
clusters:
  main: {{backend: rabbitmq, servers: ["{address}"], lease: 3s}}
routes: [{{topics: ["*"], cluster: main}}]
topics: {{"orders": {{partitions: 2, groups: [billing]}}}}
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path, rabbitmq: RabbitServer) -> Path:
    opened_in(tmp_path, CONFIG.format(address=rabbitmq.address))
    return tmp_path


def test_a_killed_consumer_is_replaced_and_dead_letters_are_kept(folder: Path, rabbitmq: RabbitServer) -> None:
    with Running([*MQSDK, "run", "shop:app"], folder) as first:
        publish(folder, id=1)
        first.wait_for("billed 1 attempt 1")
        publish(folder, id=2, stuck=True)
        publish(folder, id=3, bad=True)
        publish(folder, id=4)
        first.wait_for("billed 2")
        first.kill()
    (folder / "shop.py").write_text(APP.replace("sleep(600)", "sleep(0)"))
    with Running([*MQSDK, "run", "shop:app"], folder) as second:
        second.wait_for("billed 2")
        second.wait_for("billed 4")
        assert not [line for line in second.lines if "billed 1" in line]
        delayed = mqsdk(folder, "publish", "orders", '{"id": 5}', "--key", "k", "--delay", "200ms")
        assert delayed.returncode == 0, delayed.stderr
        second.wait_for("billed 5")
        assert second.stop() == 0
    lag = mqsdk(folder, "lag", "--json")
    assert lag.returncode == 0, lag.stderr
    letters = 0
    with rabbitmq.channel() as channel:
        for number in range(2):
            queue = names.queue(Partition("orders.billing.dlq", number), "kept")
            letters += channel.queue_declare(queue, passive=True).method.message_count
    assert letters == 1
    listed = mqsdk(folder, "dlq", "list", "orders", "billing", "--json")
    assert [json.loads(line)["reason"] for line in listed.stdout.splitlines()] == ["exhausted"], listed.stderr
    refused = mqsdk(folder, "peek", "orders", "-n", "1")
    assert refused.returncode != 0
    assert "read_by_position" in refused.stderr


def test_an_application_of_tests_is_refused_what_rabbitmq_cannot_do() -> None:
    app = App()

    @app.consumer("orders", group="billing", from_="earliest")
    def bill(order: dict[str, object]) -> None:
        raise AssertionError(order)

    with pytest.raises(CapabilityError, match="history"), TestApp(app, like="rabbitmq"):
        pass


@pytest.mark.parametrize("profile", ["", "production"])
def test_the_shipped_configuration_is_valid_in_every_profile(profile: str, tmp_path: Path) -> None:
    shipped = Path(__file__).resolve().parents[2] / "configs" / "rabbitmq.yaml"
    (tmp_path / "mqsdk.yaml").write_text(shipped.read_text())
    (tmp_path / "mqsdk.yaml").chmod(0o600)
    found = load(tmp_path / "mqsdk.yaml", environ={"MQSDK_ENV": profile, "RABBITMQ_PASSWORD": "secret"} if profile else {})
    (cluster,) = found.clusters.values()
    assert cluster.backend == "rabbitmq"
    assert "secret" not in repr(found)


def test_memory_stays_flat_over_a_backlog(tmp_path: Path, rabbitmq: RabbitServer) -> None:
    memory_stays_flat(tmp_path, "rabbitmq", rabbitmq.address)
