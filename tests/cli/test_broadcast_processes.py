"""Broadcast with real processes: each of them gets everything from its start on, also after another was killed."""

from __future__ import annotations

import json
from pathlib import Path

from tests.processes import MQSDK, Running, mqsdk

APP = """
from mqsdk import App, Reject

app = App()

@app.consumer("news", group="screens", broadcast=True, ordered=True)
def show(payload: str) -> None:
    if payload == "bad":
        raise Reject("cannot be shown")
    print("shown " + str(payload), flush=True)  # one write: the log shares the pipe
"""


def publish(folder: Path, text: str) -> None:
    done = mqsdk(folder, "publish", "news", text, "--key", "k")
    assert done.returncode == 0, done.stderr


def shown(process: Running) -> list[str]:
    return [line.split()[-1] for line in process.lines if line.startswith("shown ")]


def test_every_process_gets_everything_from_its_start_on(shop: Path) -> None:
    (shop / "screens.py").write_text(APP)
    start = [*MQSDK, "run", "screens:app"]
    with Running(start, shop) as first, Running(start, shop) as second:
        for process in (first, second):
            process.wait_for("mqsdk.app: running")
        publish(shop, "one")
        for process in (first, second):
            process.wait_for("shown one")
        second.kill()
        publish(shop, "two")
        first.wait_for("shown two")
        with Running(start, shop) as third:
            third.wait_for("mqsdk.app: running")
            publish(shop, "bad")
            publish(shop, "three")
            for process in (first, third):
                process.wait_for("shown three")
            assert third.stop() == 0
            assert shown(third) == ["three"]
        assert first.stop() == 0
        assert (shown(first), shown(second)) == (["one", "two", "three"], ["one"])
    assert json.loads(mqsdk(shop, "groups", "news", "--json").stdout)["groups"] == []
    listed = mqsdk(shop, "dlq", "list", "news", "screens", "--json").stdout.splitlines()
    assert [json.loads(line)["reason"] for line in listed] == ["rejected", "rejected"], "one of each instance"
    missing = mqsdk(shop, "dlq", "redrive", "news", "screens", "--yes", "--json")
    assert missing.returncode == 6, "nobody of a broadcast would read what is redriven"
