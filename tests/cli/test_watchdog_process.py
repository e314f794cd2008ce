"""The watchdog of a real process: a consumer that nothing helps ends it with 9, and a new process goes on where it stood."""

from __future__ import annotations

from pathlib import Path

from tests.processes import MQSDK, PATIENCE_S, Running, environment, mqsdk

CODE = """
import os, threading
from mqsdk import App
app = App()

@app.consumer("orders", group="billing", concurrency=1, timeout="200ms")
def bill(order: str) -> None:
    if not os.path.exists("healed"):
        threading.Event().wait()
    print("handled", order, flush=True)
"""
CONFIG = "version: 1\nwatchdog: {no_progress: 400ms}\ndrain: {timeout: 100ms}\n"


def service(folder: Path) -> Running:
    (folder / "shop.py").write_text(CODE)
    (folder / "mqsdk.yaml").write_text(CONFIG)
    (folder / "mqsdk.yaml").chmod(0o600)
    for order in ("first", "second"):
        assert mqsdk(folder, "publish", "orders", order).returncode == 0
    return Running([*MQSDK, "run", "shop:app"], folder, environ=environment(folder))


def test_a_consumer_that_hangs_ends_its_process_with_9_and_the_next_one_goes_on(folder: Path) -> None:
    with service(folder) as process:
        restarted = process.wait_for("orders/billing: the consumer is restarted: work waits and nothing was settled for 0.4 s")
        given_up = process.wait_for("orders/billing: given up: its restart 0.4 s ago did not help")
        process.wait_for("stopping after consumer orders/billing stands still")
        assert process.process.wait(PATIENCE_S) == 9
        assert process.lines.index(restarted) < process.lines.index(given_up)
    (folder / "healed").touch()
    with Running([*MQSDK, "run", "shop:app"], folder) as process:
        process.wait_for("handled first")
        process.wait_for("handled second")
        assert process.stop() == 0
