"""Redrive with real processes on the backends of `shop`: the consumer runs on, the redrive is killed in the middle and repeated."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.processes import MQSDK, PATIENCE_S, Running, environment, mqsdk

COUNT = 400  # two seconds of redrive: a consumer on Redis takes the retry topic up within one
IN_FLIGHT = 20  # letters of one chunk at 200/s
APP = """
import os
from pathlib import Path
from mqsdk import App, Message, Reject

app = App()
handled = os.open("handled", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

@app.consumer("orders", group="billing", ordered=True)
def bill(payload: str, message: Message) -> None:
    if Path("broken").exists():
        raise Reject("the service is down")
    os.write(handled, f"{payload} {message.topic} {message.attempt}\\n".encode())
"""


def call(folder: Path, *words: str) -> dict[str, Any]:
    done = mqsdk(folder, *words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def letters(folder: Path) -> int:
    return len(mqsdk(folder, "dlq", "list", "orders", "billing", "--json").stdout.splitlines())


def lag(folder: Path) -> int:
    return sum(int(row["messages"]) for row in call(folder, "lag", "orders", "billing")["lag"])


def handled(folder: Path) -> Counter[str]:
    return Counter((folder / "handled").read_text().splitlines())


def wait(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        threading.Event().wait(0.01)


def test_a_redrive_that_is_killed_loses_nothing_and_doubles_one_chunk_at_most(shop: Path) -> None:
    folder = shop
    (folder / "billing.py").write_text(APP)
    (folder / "broken").touch()
    with Running([*MQSDK, "run", "billing:app"], folder) as consumer:
        consumer.wait_for("orders/billing")
        lines = "".join(f"m{number}\n" for number in range(COUNT))
        publish = [*MQSDK, "publish", "orders", "--lines", "--key", "k", "-q"]
        subprocess.run(publish, cwd=folder, env=environment(folder), input=lines, text=True, check=True, timeout=PATIENCE_S)
        wait(lambda: lag(folder) == 0, "everything is dead-lettered")
        assert letters(folder) == COUNT
        (folder / "broken").unlink()
        with Running([*MQSDK, "dlq", "redrive", "orders", "billing", "--rate", "200/s", "--yes"], folder) as redrive:
            wait(lambda: sum(handled(folder).values()) >= IN_FLIGHT, "the consumer that runs handles what is redriven")
            redrive.kill()
        assert letters(folder) > 0, "it was to be killed in the middle"
        second = call(folder, "dlq", "redrive", "orders", "billing", "--yes")
        assert (second["skipped"], second["failed"]) == (0, 0)
        wait(lambda: len(handled(folder)) == COUNT and lag(folder) == 0, "all are handled")
        assert consumer.stop() == 0
    found = handled(folder)
    assert set(found) == {f"m{number} orders 1" for number in range(COUNT)}
    assert sum(found.values()) - COUNT <= IN_FLIGHT
    assert letters(folder) == 0
