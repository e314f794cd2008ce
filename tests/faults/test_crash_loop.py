"""A message whose handler ends the process: the others of its partition are handled, and in the end it is a dead letter. Real processes."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from mqsdk import App
from tests.processes import MQSDK, PATIENCE_S, Running, mqsdk

APP = """
import os, signal, time
from mqsdk import App, Message

app = App()
handled = os.open("handled", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

@app.consumer("orders", group="billing", ordered={ordered}, concurrency=4)
def bill(payload: str, message: Message) -> None:
    os.write(handled, f"{{payload}} {{message.redelivered}}\\n".encode())
    if payload == "poison":
        time.sleep(0.05)  # so that others are running beside it
        os.kill(os.getpid(), signal.SIGKILL)
"""
CONFIG = """
version: 1
topics: {"orders": {partitions: 1}}
"""


@pytest.mark.parametrize("ordered", [True, False])
def test_it_runs_alone_and_then_is_a_dead_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ordered: bool) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "service.py").write_text(APP.format(ordered=ordered))
    (tmp_path / "mqsdk.yaml").write_text(CONFIG)
    assert mqsdk(tmp_path, "groups", "ensure", "orders", "billing", "--yes").returncode == 0
    with App(config=tmp_path / "mqsdk.yaml") as app:
        app.publish_many("orders", [*"abcdefgh", "poison", *"ijklmnop"], key=lambda payload: payload)
    ends = 0
    while not letters(tmp_path):
        with Running([*MQSDK, "run", "service:app"], tmp_path) as service:
            until(lambda: service.process.poll() is not None or bool(letters(tmp_path)))
        ends += service.process.returncode == -signal.SIGKILL and not letters(tmp_path)
        assert ends <= 6, "the poison is never given up"
    calls = Counter(line.split()[0] for line in (tmp_path / "handled").read_text().splitlines())
    assert ends == calls["poison"] >= 4
    with Running([*MQSDK, "run", "service:app"], tmp_path) as service:
        service.wait_for("running")
        until(lambda: set("abcdefghijklmnop") <= handled(tmp_path))
        assert service.stop() == 0
    (letter,) = letters(tmp_path)
    assert letter["reason"] == "crash_loop"
    assert f"ended {ends} times" in letter["error"]
    flags = [line.split()[1] for line in (tmp_path / "handled").read_text().splitlines() if line.startswith("poison")]
    assert flags == ["False", *["True"] * (ends - 1)]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def handled(folder: Path) -> set[str]:
    return {line.split()[0] for line in (folder / "handled").read_text().splitlines()}


def letters(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in mqsdk(folder, "dlq", "list", "orders", "billing", "--json").stdout.splitlines()]
