"""A halted key over real processes: killed, started anew, released while one runs and while none does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import MQSDK, Running, mqsdk, run

APP = """
import os, pathlib
from mqsdk import App, Message, RetryPolicy
app = App()

@app.consumer("orders", group="billing", ordered=True, retry=RetryPolicy(attempts=1, on_exhausted="halt_key"))
def bill(order: str) -> None:
    if pathlib.Path(f"bad {order}").exists():
        raise ValueError(order)
    os.write(1, f"billed {order}\\n".encode())
"""
RUN = [*MQSDK, "run", "hello:app"]


def publish(folder: Path, *orders: str) -> None:
    """The first letter of an order is its key."""
    script = "import hello, sys\nwith hello.app as app: app.publish_many('orders', sys.argv[1:], key=lambda order: order[0])"
    assert run([sys.executable, "-c", script, *orders], folder).returncode == 0


def halted(folder: Path) -> list[dict[str, Any]]:
    [group] = json.loads(mqsdk(folder, "groups", "orders", "--json").stdout)["groups"]
    found = group["halted"]
    assert isinstance(found, list)
    return found


def release(folder: Path, *words: str) -> dict[str, Any]:
    answer = json.loads(mqsdk(folder, "groups", "release", "orders", "billing", "--yes", "--json", *words).stdout)
    assert isinstance(answer, dict)
    return answer


@pytest.mark.slow
@pytest.mark.parametrize("shop", ["log", "redis"], indirect=True)  # RabbitMQ refuses halts
def test_a_halted_key_outlives_its_process_and_is_released_by_name(shop: Path) -> None:
    play(shop)


@pytest.mark.slow
def test_what_is_halted_on_the_old_cluster_of_a_topic_is_found_there(tmp_path: Path) -> None:
    config = (
        "clusters: {{old: {{backend: log, path: ./old}}, new: {{backend: log, path: ./new}}}}\nroutes: [{{topics: ['*'], cluster: {}}}]\n"
    )
    file = tmp_path / "mqsdk.yaml"
    file.write_text(config.format("old"))
    file.chmod(0o600)
    (tmp_path / "hello.py").write_text(APP)
    (tmp_path / "bad a1").touch()
    publish(tmp_path, "a1")
    with Running(RUN, tmp_path) as consumer:
        consumer.wait_for("is halted after 1 attempts: ValueError at hello.py")
        file.write_text(config.format("new"))
        assert mqsdk(tmp_path, "reload").returncode == 0
        consumer.wait_for("orders/billing: reads cluster old and cluster new")
        publish(tmp_path, "a2")
        assert release(tmp_path, "--as", "drop", "--dry-run") != {}
        assert release(tmp_path, "--as", "drop", "--cluster", "old")["released"] == 1
        consumer.wait_for("billed a2")
        assert consumer.stop() == 0


def play(shop: Path) -> None:
    """Kill the owner of a halted key, start another one, release; then once more with nobody running. In a folder for processes."""
    (shop / "hello.py").write_text(APP)
    (shop / "bad a1").touch()
    publish(shop, "a1", "a2", "b1")
    with Running(RUN, shop) as consumer:
        consumer.wait_for("is halted after 1 attempts: ValueError at hello.py")
        consumer.wait_for("billed b1")
        assert "orders/billing running (1 halted)" in mqsdk(shop, "ps").stdout
        consumer.kill()

    (shop / "bad a1").unlink()
    publish(shop, "b2")
    [halt] = halted(shop)
    assert (halt["key"], halt["scope"], halt["attempts"], halt["redriven"]) == ("a", "key", 1, False)
    with Running(RUN, shop) as consumer:
        consumer.wait_for("billed b2")
        assert not any("billed a" in line for line in consumer.lines)
        assert release(shop, "--key", "z", "--as", "retry")["error"]["type"] == "NotFound"
        assert release(shop, "--key", "a", "--as", "retry") | {"topic": "orders"} == {
            "topic": "orders", "group": "billing", "as": "retry", "released": 1, "applies": "now",
        }  # fmt: skip
        consumer.wait_for("billed a2")
        assert [line for line in consumer.lines if "billed a" in line] == ["billed a1", "billed a2"]
        assert halted(shop) == []

        (shop / "bad c1").touch()
        publish(shop, "c1", "c2")
        consumer.wait_for("is halted")
        assert consumer.stop() == 0

    assert release(shop, "--as", "drop")["applies"] == "at the next start of a consumer"
    assert halted(shop) == []
    with Running(RUN, shop) as consumer:
        consumer.wait_for("billed c2")
        assert not any("billed c1" in line for line in consumer.lines)
