"""One service under load whose configuration is edited three times while it runs: threads, retries, and at last the cluster itself.

    python hot_reload.py [SECONDS]          how long each of the four stages runs, 2 by default

Everything is in this folder: `mqsdk.yaml`, which the script writes and the App follows, and two embedded logs below `.mqsdk`. In another
terminal `mqsdk ps` and `mqsdk lag orders billing -v` show the same, and whoever edits `mqsdk.yaml` by hand joins in.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from mqsdk import App, Message
from mqsdk.events import ClusterChanged, Event, Reloaded

FILE = Path("mqsdk.yaml")
KEYS = 8
WORK_S = 0.005  # what a handler takes
PATIENCE_S = 60.0


def write(*, concurrency: int, wait: str, cluster: str) -> None:
    """As an editor would: the new file takes the place of the old one at once."""
    new = FILE.with_suffix(".new")
    new.write_text(f"""\
app: hot_reload
clusters:
  old: {{backend: log, path: ./.mqsdk/old}}
  new: {{backend: log, path: ./.mqsdk/new}}
routes: [{{topics: ["*"], cluster: {cluster}}}]
defaults: {{concurrency: {concurrency}, retry: {{attempts: 20, backoff: {{base: {wait}, factor: 1}}}}}}
reload: {{every: 100ms, settle: 1s}}
""")
    new.chmod(0o600)
    new.replace(FILE)


class Shop:
    """What was published and handled, per key; the first attempt at every tenth message fails."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.sent: dict[str, list[int]] = {str(key): [] for key in range(KEYS)}
        self.handled: dict[str, list[int]] = {key: [] for key in self.sent}
        self.stopping = threading.Event()
        app.consumer("orders", group="billing", ordered=True)(self.bill)
        app.observe(self.tell)

    def bill(self, number: int, message: Message[int]) -> None:
        time.sleep(WORK_S)
        if number % 10 == 0 and message.attempt == 1:
            raise ConnectionError("the bank does not answer")
        self.handled[str(message.key)].append(number)

    def tell(self, event: Event) -> None:
        if isinstance(event, Reloaded):
            for key, old, new in event.changes:
                print(f"    {key}: {old} -> {new}", flush=True)
        if isinstance(event, ClusterChanged):
            print(f"    {event.group or 'publishers'}: {event.step} ({event.source} -> {event.target})", flush=True)

    def publish(self) -> None:
        for number in itertools.count():
            if self.stopping.wait(0.001):
                return
            key = str(number % KEYS)
            self.app.publish("orders", number, key=key)
            self.sent[key].append(number)

    def count(self) -> int:
        return sum(map(len, self.handled.values()))


def stage(shop: Shop, what: str, seconds: float) -> None:
    before, began = shop.count(), time.monotonic()
    time.sleep(seconds)
    print(f"{what}: {(shop.count() - before) / (time.monotonic() - began):,.0f} messages a second", flush=True)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("not in time")
        time.sleep(0.05)


def main(seconds: float) -> None:
    write(concurrency=1, wait="500ms", cluster="old")
    shop = Shop(App(FILE))
    with shop.app as app:
        app.start()
        publisher = threading.Thread(target=shop.publish)
        publisher.start()
        stage(shop, "1 thread, 500 ms before a retry", seconds)
        write(concurrency=8, wait="500ms", cluster="old")
        stage(shop, "8 threads", seconds)
        write(concurrency=8, wait="5ms", cluster="old")
        stage(shop, "5 ms before a retry", seconds)
        write(concurrency=8, wait="5ms", cluster="new")
        stage(shop, "another cluster", seconds)
        until(lambda: any(info.cluster == "new" for info in app.consumers()))
        shop.stopping.set()
        publisher.join()
        until(lambda: [info.cluster for info in app.consumers()] == ["new"] and app.lag("orders", "billing").messages == 0)
    if shop.handled != shop.sent:
        raise SystemExit("a message was lost, repeated or out of order")
    print(f"{shop.count():,} messages, each handled once and in the order of its key")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 2.0)
