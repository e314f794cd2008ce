"""A stop ends, whatever hangs: hooks, handlers that swallow their cancellation. Real processes, real signals."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from mqsdk.api.running import GRACE_S, HURRY_S
from tests.processes import MQSDK, Running

DRAIN_S = 1.0
HEAD = """
import asyncio, threading, time
from mqsdk import App
app = App()

@app.consumer("orders", group="billing")
def bill(payload: str) -> None:
    pass
"""
HANGS_AT_START = """
@app.on_startup
def connect() -> None:
    print("in the hook", flush=True)
    threading.Event().wait()
"""
HANGS_AT_STOP = """
@app.on_shutdown
def disconnect() -> None:
    print("in the hook", flush=True)
    threading.Event().wait()
"""
SWALLOWS = """
@app.on_startup
def fill() -> None:
    app.publish("slow", "x")

@app.consumer("slow", group="g")
async def stubborn(payload: str) -> None:
    print("in the handler", flush=True)
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
"""


def service(folder: Path, body: str) -> Running:
    (folder / "service.py").write_text(HEAD + body)
    (folder / "mqsdk.yaml").write_text(f"version: 1\ndrain: {{timeout: {DRAIN_S:g}s}}\n")
    return Running([*MQSDK, "run", "service:app"], folder)


def seconds_to_end(running: Running) -> float:
    began = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    running.process.wait(60)
    return time.monotonic() - began


def test_a_shutdown_hook_that_hangs_is_named_and_left(tmp_path: Path) -> None:
    with service(tmp_path, HANGS_AT_STOP) as running:
        running.wait_for("running")
        assert seconds_to_end(running) < 3 * (DRAIN_S + GRACE_S)
        assert running.process.returncode == 8
        assert "disconnect" in running.wait_for("did not end in time")


def test_a_second_signal_ends_a_stop_that_hangs_in_a_hook(tmp_path: Path) -> None:
    with service(tmp_path, HANGS_AT_STOP) as running:
        running.wait_for("running")
        running.process.send_signal(signal.SIGTERM)
        running.wait_for("in the hook")
        assert seconds_to_end(running) < 3 * HURRY_S
        assert running.process.returncode == 8


def test_a_second_signal_ends_a_start_that_hangs_in_a_hook(tmp_path: Path) -> None:
    with service(tmp_path, HANGS_AT_START) as running:
        running.wait_for("in the hook")
        began = time.monotonic()
        while not any("ending at once" in line for line in running.lines):  # two at the same moment are one to the kernel
            assert time.monotonic() - began < 6 * HURRY_S
            running.process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        running.process.wait(60)
        assert running.process.returncode == 0  # nothing was consumed, all is closed


def test_a_handler_that_swallows_its_cancellation_takes_the_drain_once(tmp_path: Path) -> None:
    with service(tmp_path, SWALLOWS) as running:
        running.wait_for("in the handler")
        assert seconds_to_end(running) < 3 * (DRAIN_S + GRACE_S)
        assert running.wait_for("cut short")
