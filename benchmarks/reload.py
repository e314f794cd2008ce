"""Following the configuration: from a saved file to its effect, from `mqsdk reload` to it, what looking costs, and what a change costs."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from handlers import filled
from harness import Case, Counter, Metric

SAVES, COMMANDS, IDLE_S = 7, 7, 10.0
WINDOWS, WINDOW_S = 5, 0.9  # of each kind
STEADY, CHANGES = (8,), (9, 7, 8)  # concurrency in the equal parts of a window
# Who handles prints when a configuration has taken effect: it is told after running consumers have it.
FOLLOWER = """
import time
from mqsdk import App
from mqsdk.events import Reloaded
app = App()
@app.consumer("bench", group="follower")
def handle(payload: bytes) -> None: ...
@app.observe
def told(event: object) -> None:
    if isinstance(event, Reloaded):
        print(time.monotonic(), event.outcome, flush=True)
@app.on_startup
def ready() -> None:
    print("ready", flush=True)
"""
MQSDK = [sys.executable, "-m", "mqsdk.cli"]


def save(text: str) -> None:
    """As an editor does: whole, under another name, then renamed."""
    new = Path("mqsdk.next")
    new.write_text(text)
    new.chmod(0o600)
    os.replace(new, "mqsdk.yaml")


@contextmanager
def following(reload: str) -> Iterator[Callable[[int], float]]:
    """A process that follows a file. Yields a function that waits until it has taken `concurrency` so and gives the moment."""
    save(f"reload: {{{reload}}}\n")
    Path("follower.py").write_text(FOLLOWER)
    process = subprocess.Popen([*MQSDK, "run", "follower:app"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    lines = iter(process.stdout)
    next(line for line in lines if line == "ready\n")
    time.sleep(1.0)  # it has joined, and looked for the first time

    def applied(concurrency: int) -> float:
        moment, outcome = next(lines).split()
        assert outcome == "applied", outcome
        return float(moment)

    try:
        yield applied
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def saved() -> dict[str, float]:
    dice = random.Random(7)
    waits = []
    with following("watch: true") as applied:
        for concurrency in range(9, 9 + SAVES):
            time.sleep(dice.uniform(0.0, 1.0))  # at any moment between two looks
            began = time.monotonic()
            save(f"defaults: {{concurrency: {concurrency}}}\n")
            waits.append((applied(concurrency) - began) * 1000)
    return {"reload_saved_p50": statistics.median(waits), "reload_saved_max": max(waits)}


def asked() -> dict[str, float]:
    """From the start of the command's process: an operator waits for that, too."""
    waits = []
    with following("watch: false") as applied:
        for concurrency in range(9, 9 + COMMANDS):
            save(f"reload: {{watch: false}}\ndefaults: {{concurrency: {concurrency}}}\n")
            began = time.monotonic()
            subprocess.run([*MQSDK, "reload"], check=True, stdout=subprocess.DEVNULL)
            waits.append((applied(concurrency) - began) * 1000)
    return {"reload_asked": statistics.median(waits)}


def watching() -> dict[str, float]:
    """Processor time of the thread that looks, of an App that only publishes."""
    from mqsdk import App

    save("app: shop\n")
    with App() as app:
        app.publish("bench", b"x")
        (thread,) = (one for one in threading.enumerate() if one.name == "mqsdk-watch")
        assert thread.ident is not None
        clock = time.pthread_getcpuclockid(thread.ident)
        time.sleep(1.5)
        before, began = time.clock_gettime(clock), time.monotonic()
        time.sleep(IDLE_S)
        used, seconds = time.clock_gettime(clock) - before, time.monotonic() - began
    return {"watch_cpu": 100 * used / seconds}


def changing() -> dict[str, float]:
    """Handlers that wait a millisecond, in windows without and with changes of `concurrency`, in turns: the ratio of what they carry."""
    from mqsdk import App

    text = "reload: {{watch: false}}\ndefaults: {{concurrency: {}}}\n"
    save(text.format(8))
    filled(round(2.2 * WINDOWS * WINDOW_S * 8_000))
    app, counter = App(), Counter()

    @app.consumer("bench", group="sleepers")
    def handle(payload: bytes) -> None:
        time.sleep(0.001)
        counter.tick()

    def carried(parts: tuple[int, ...]) -> float:
        before, began = counter.value, time.perf_counter()
        for number, concurrency in enumerate(parts, 1):
            if parts != STEADY:
                save(text.format(concurrency))
                assert app.reload()
            time.sleep(max(0.0, number * WINDOW_S / len(parts) - (time.perf_counter() - began)))
        return (counter.value - before) / (time.perf_counter() - began)

    rates: dict[tuple[int, ...], list[float]] = {STEADY: [], CHANGES: []}
    with app:
        app.start()
        time.sleep(0.5)
        for _ in range(WINDOWS):
            for parts, found in rates.items():
                found.append(carried(parts))
    return {"reload_concurrency": statistics.median(rates[CHANGES]) / statistics.median(rates[STEADY])}


CASES = (
    Case("reload-saved", saved, (Metric("reload_saved_p50", "ms"), Metric("reload_saved_max", "ms", 2_000, at_most=True))),
    Case("reload-asked", asked, (Metric("reload_asked", "ms", 200, at_most=True),)),
    Case("reload-watching", watching, (Metric("watch_cpu", "%", 0.1, at_most=True),)),
    Case("reload-changing", changing, (Metric("reload_concurrency", "of it", 0.97),)),
)
