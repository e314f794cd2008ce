"""The same command line and application as on the embedded log, with processes that are killed."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqsdk.config.load import load
from tests.brokers.backlog import memory_stays_flat
from tests.brokers.redis import RedisServer
from tests.brokers.shop import APP, opened_in, publish
from tests.processes import MQSDK, Running, environment, mqsdk, run

DEMO = Path(__file__).resolve().parents[2] / "examples" / "02_flights" / "demo.py"
CONFIG = """
version: 1
app: shop
clusters:
  main: {{backend: redis, servers: ["{address}"], lease: 1s}}
routes: [{{topics: ["*"], cluster: main}}]
topics: {{"orders": {{partitions: 2}}}}
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "server").mkdir()
    server = RedisServer(tmp_path / "server")
    opened_in(tmp_path, CONFIG.format(address=server.address))
    yield tmp_path
    server.stop()


def test_a_killed_consumer_is_replaced_and_dead_letters_are_kept(folder: Path) -> None:
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
        assert second.stop() == 0
    listed = mqsdk(folder, "dlq", "list", "orders", "billing", "--json")
    assert [json.loads(line)["reason"] for line in listed.stdout.splitlines()] == ["exhausted"]
    lag = mqsdk(folder, "lag", "--json")
    assert lag.returncode == 0, lag.stderr
    assert mqsdk(folder, "peek", "orders", "-n", "1").returncode == 0


def test_what_publish_says_is_what_peek_shows_and_takes(folder: Path) -> None:
    """Positions are written in one way, and an epoch, which is a time here, is no figure with thousands."""
    bodies = [json.dumps({"id": number}) for number in range(3)]
    receipts = [json.loads(mqsdk(folder, "publish", "orders", body, "--key", "k", "--json").stdout) for body in bodies]
    shown = [json.loads(line) for line in mqsdk(folder, "peek", "orders", "--json").stdout.splitlines()]
    assert [one["position"] for one in shown] == [receipt["position"] for receipt in receipts] == ["1", "2", "3"]
    where = ("--partition", str(receipts[0]["partition"]), "--from", receipts[1]["position"])
    assert len(mqsdk(folder, "peek", "orders", *where, "--json").stdout.splitlines()) == 2
    with Running([*MQSDK, "run", "shop:app"], folder) as consumer:
        consumer.wait_for("billed")
        consumer.stop()
    lines = mqsdk(folder, "offsets", "show", "orders", "billing").stdout.splitlines()
    assert len(lines) > 1
    assert all(line.split()[-1].isdecimal() for line in lines[1:])


@pytest.mark.parametrize("profile", ["", "production", "sentinels"])
def test_the_shipped_configuration_is_valid_in_every_profile(profile: str, tmp_path: Path) -> None:
    shipped = Path(__file__).resolve().parents[2] / "configs" / "redis.yaml"
    (tmp_path / "mqsdk.yaml").write_text(shipped.read_text())
    (tmp_path / "mqsdk.yaml").chmod(0o600)
    found = load(tmp_path / "mqsdk.yaml", environ={"MQSDK_ENV": profile, "REDIS_PASSWORD": "secret"} if profile else {})
    (cluster,) = found.clusters.values()
    assert cluster.backend == "redis"
    assert "secret" not in repr(found)


SECURED = """
version: 1
app: shop
clusters:
  main: {{backend: redis, servers: ["{address}"], lease: 1s, auth: {{password: "{password}"}}}}
routes: [{{topics: ["*"], cluster: main}}]
topics: {{"orders": {{partitions: 2}}}}
reload: {{every: 100ms}}
publish: {{timeout: 1s}}
"""


def test_a_changed_password_needs_no_restart(tmp_path: Path) -> None:
    """The new one is accepted beside the old one, the file changes, the old one is taken away and its connections are cut."""
    (tmp_path / "server").mkdir()
    server = RedisServer(tmp_path / "server", "--requirepass", "hunter-one")
    try:
        (tmp_path / "shop.py").write_text(APP)
        config = tmp_path / "mqsdk.yaml"
        config.write_text(SECURED.format(address=server.address, password="hunter-one"))
        config.chmod(0o600)
        with Running([*MQSDK, "run", "shop:app"], tmp_path) as service:
            service.wait_for("running")
            publish(tmp_path, id=1)
            service.wait_for("billed 1 attempt 1")
            config.write_text(SECURED.format(address=server.address, password="hunter-not"))
            assert "hunter-one" not in service.wait_for("reload refused")
            publish_with(tmp_path, "hunter-one", id=2)
            service.wait_for("billed 2 attempt 1")
            server.call("ACL", "SETUSER", "default", ">hunter-two", password="hunter-one")
            config.write_text(SECURED.format(address=server.address, password="hunter-two"))
            service.wait_for("goes on with another client of cluster main")
            server.call("ACL", "SETUSER", "default", "<hunter-one", password="hunter-two")
            server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes", password="hunter-two")
            publish(tmp_path, id=3)
            service.wait_for("billed 3 attempt 1")
            assert service.stop() == 0
        text = "\n".join(service.lines)
        assert "hunter-two" not in text
        assert "hunter-not" not in text
    finally:
        server.stop()


def publish_with(folder: Path, password: str, **order: object) -> None:
    other = folder / "publisher.yaml"
    other.write_text((folder / "mqsdk.yaml").read_text().replace("hunter-not", password))
    other.chmod(0o600)
    done = mqsdk(folder, "publish", "orders", json.dumps(order), "--key", "k", "--config", str(other))
    assert done.returncode == 0, done.stderr


def test_the_demo_runs_on_redis_by_the_profile_alone(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    server = RedisServer(tmp_path / "server")
    try:
        environ = {**environment(tmp_path), "MQSDK_ENV": "redis", "MQSDK_CLUSTERS__REDIS__SERVERS": server.address}
        done = run([sys.executable, DEMO, tmp_path / "demo"], tmp_path, environ=environ)
    finally:
        server.stop()
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"lost +│ +0 │ +0 │ +0 │", done.stdout)
    assert re.search(r"out of order per aircraft │ +0 │", done.stdout)


def test_the_demo_says_what_is_wrong_without_a_server(tmp_path: Path) -> None:
    environ = {**environment(tmp_path), "MQSDK_ENV": "redis", "MQSDK_CLUSTERS__REDIS__SERVERS": "127.0.0.1:1"}
    done = run([sys.executable, DEMO, tmp_path / "demo"], tmp_path, environ=environ)
    assert done.returncode == 1
    assert "mqsdk doctor" in done.stderr
    assert "Traceback" not in done.stderr


def test_memory_stays_flat_over_a_backlog(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    server = RedisServer(tmp_path / "server")
    try:
        memory_stays_flat(tmp_path, "redis", server.address)
    finally:
        server.stop()
