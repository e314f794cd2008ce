"""A file that is rewritten a hundred times a second, half of it wrong, under load: every message once and in order, the last file holds.

`make soak` runs it for SOAK_SECONDS with a fresh seed; a failing one is printed, SOAK_SEED=<seed> repeats its edits.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from mqsdk import App, ConfigError, Message
from mqsdk.events import Event, Reloaded

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("SOAK_SECONDS", "4"))
SEED = int(os.environ.get("SOAK_SEED", "0")) or (int(time.time()) if "SOAK_SECONDS" in os.environ else 20261130)
EDITS_PER_S = 100
KEYS = 16
FILE = """
clusters: {{local: {{backend: log, path: {path}}}}}
consumers:
  "orders/billing": {{concurrency: {concurrency}, timeout: {timeout}, rate: {rate}, paused: {paused}, in_flight: {{records: {records}}},
                      breaker: {breaker}, retry: {{attempts: {attempts}, backoff: {{base: {base}}}}}}}
reload: {{every: 100ms}}
"""


class Shop:
    """An App on a real log whose handler fails now and then, and what it has seen."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "mqsdk.yaml"
        self._data = folder / "data"
        self.save(self.valid(random.Random(0)))
        self.handled: Counter[int] = Counter()
        self.out_of_order: list[tuple[int, int]] = []
        self.reports: list[Reloaded] = []
        self._last: dict[str, int] = {}
        self.app = App(str(self.file))
        self.app.observe(self._observe)
        self.app.consumer("orders", group="billing", ordered=True)(self._bill)

    def valid(self, draw: random.Random, *, last: bool = False) -> str:
        return FILE.format(
            path=self._data,
            concurrency=7 if last else draw.randint(1, 32),
            timeout=draw.choice(["30s", "1m", "none"]),
            rate="none" if last else draw.choice(["none", "500/s", "5000/s"]),
            paused="false" if last else draw.choice(["true", "false", "false"]),
            records=draw.choice([1, 10, 1000]),
            breaker=draw.choice(["none", "{failures: 0.9, min: 50}"]),
            attempts=draw.choice([50, 100]),
            base=draw.choice(["1ms", "20ms"]),
        )

    def save(self, text: str) -> None:
        self.file.write_text(text)
        self.file.chmod(0o600)

    def _bill(self, number: int, message: Message) -> None:
        key = str(message.key)  # one handler of a key at a time: its entry needs no lock
        if number % 97 == 0 and message.attempt == 1:
            raise OSError("the bank is closed for a moment")
        if number <= self._last.get(key, -1):
            self.out_of_order.append((self._last[key], number))
        self._last[key] = number
        self.handled[number] += 1

    def _observe(self, event: Event) -> None:
        if isinstance(event, Reloaded):
            self.reports.append(event)


def edit(shop: Shop, draw: random.Random) -> None:
    """One of the ways a file is changed, the wrong ones too; now and then somebody asks for a reload at the same time."""
    text = shop.valid(draw)
    match draw.randrange(8):
        case 0:
            shop.save(text[: draw.randrange(len(text))])
        case 1:
            shop.save(text.replace("concurrency", "conncurrency"))
        case 2:
            shop.save(text.replace("backend: log", "backend: redis"))  # valid, and nothing a running process can take
        case 3:
            shop.file.unlink(missing_ok=True)
        case 4:
            aside = shop.file.with_suffix(".next")
            aside.write_text(text)
            aside.chmod(0o600)
            aside.replace(shop.file)
        case 5:
            with suppress(ConfigError):
                shop.app.reload()
        case _:
            shop.save(text)


def publish_until(shop: Shop, stop: threading.Event, published: list[int]) -> None:
    while not stop.is_set():
        start = published[0]
        shop.app.publish_many("orders", list(range(start, start + 20)), key=lambda number: number % KEYS)
        published[0] += 20
        stop.wait(0.01)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_file_in_a_storm_loses_nothing_and_the_last_one_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw, shop = random.Random(SEED), Shop(tmp_path)
    stop, published, edits = threading.Event(), [0], 0
    with shop.app:
        shop.app.start()
        publisher = threading.Thread(target=publish_until, args=(shop, stop, published))
        publisher.start()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            edit(shop, draw)
            edits += 1
            time.sleep(1 / EDITS_PER_S)
        stop.set()
        publisher.join()
        shop.save(shop.valid(draw, last=True))
        wait_until(lambda: shop.app.consumers()[0].concurrency == 7)
        wait_until(lambda: len(shop.handled) == published[0])
    with capsys.disabled():
        print(f"\nseed {SEED}: {edits} edits, {published[0]} messages, {len(shop.reports)} reports of a reload")
    assert shop.handled == Counter(range(published[0]))
    assert shop.out_of_order == []
    outcomes = Counter(report.outcome for report in shop.reports)
    assert outcomes["applied"] > 3, "the storm was followed while it lasted"
    assert outcomes["refused"] > 1
