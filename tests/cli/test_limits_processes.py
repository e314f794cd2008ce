"""A rate and a breaker in a real process that follows its file."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import MQSDK, PATIENCE_S, Running, environment, mqsdk

APP = """
import os, pathlib
from mqsdk import App
app = App()

@app.consumer("orders", group="billing", retry=3)
def bill(order: str) -> None:
    if pathlib.Path("down").exists():
        raise ConnectionError("the bank is closed")
    os.write(1, f"billed {order}\\n".encode())
"""


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def publish(folder: Path, count: int) -> None:
    lines = "".join(f"{number}\n" for number in range(count))
    subprocess.run([*MQSDK, "publish", "orders", "--lines"], cwd=folder, env=environment(folder), input=lines, text=True, check=True)


def billed(consumer: Running) -> int:
    return sum("billed" in line for line in consumer.lines)


@pytest.mark.slow
def test_a_running_process_takes_a_rate_and_a_breaker_and_lets_them_go(folder: Path) -> None:
    (folder / "hello.py").write_text(APP)
    config = folder / "mqsdk.yaml"

    def write(keys: str) -> None:
        config.write_text(f'reload: {{watch: false}}\nconsumers: {{"orders/billing": {{{keys}}}}}\n')
        config.chmod(0o600)

    def info() -> dict[str, Any]:
        [process] = json.loads(mqsdk(folder, "ps", "--json").stdout)["processes"]
        [consumer] = process["consumers"]
        assert isinstance(consumer, dict)
        return consumer

    write("rate: 5/s")
    publish(folder, 100)
    with Running([*MQSDK, "run", "hello:app"], folder) as consumer:
        consumer.wait_for("billed")
        began = time.monotonic()
        wait_until(lambda: billed(consumer) >= 6)
        assert time.monotonic() - began > 0.7
        assert billed(consumer) <= 2 + 5 * (time.monotonic() - began)
        assert (info()["rate"], info()["breaker"]) == (5.0, None)

        write("breaker: {failures: 0.05, min: 5, window: 1s, probe: 200ms}")
        shown = mqsdk(folder, "reload").stdout
        assert 'consumers."orders/billing".rate: 5/s -> None' in shown
        assert 'consumers."orders/billing".breaker.failures: None -> 0.05' in shown
        wait_until(lambda: billed(consumer) == 100)

        (folder / "down").touch()
        publish(folder, 1000)
        consumer.wait_for("orders/billing: the breaker is open, nothing starts")
        assert info()["breaker"] in ("open", "probing")
        wait_until(lambda: "orders/billing running (breaker " in mqsdk(folder, "ps").stdout)
        wait_until(lambda: sum("tries one message" in line for line in consumer.lines) > 3)
        (folder / "down").unlink()
        consumer.wait_for("orders/billing: the breaker is closed, messages start again")
        wait_until(lambda: billed(consumer) == 1100)
        assert info()["breaker"] == "closed"
        assert consumer.stop() == 0
    assert not [line for line in consumer.lines if "dead-lettered" in line]
    assert mqsdk(folder, "lag", "orders", "billing", "--max-messages", "0").returncode == 0
