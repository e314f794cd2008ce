"""A file that is rewritten a hundred times a second, half of it wrong, under load: every message once and in order, the last file holds.

On every backend, and it costs no throughput and leaves nothing behind. `make soak` runs it for SOAK_SECONDS with a fresh seed; a failing
one is printed, SOAK_SEED=<seed> repeats its edits.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from mqsdk import App, ConfigError, Message
from mqsdk.events import Event, Reloaded
from tests.brokers.kafka import KafkaBroker
from tests.brokers.rabbitmq import RabbitServer
from tests.brokers.redis import RedisServer

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("SOAK_SECONDS", "4"))
SEED = int(os.environ.get("SOAK_SEED", "0")) or (int(time.time()) if "SOAK_SECONDS" in os.environ else 20261130)
EDITS_PER_S = 100
KEYS = 16
CONCURRENCY = 7  # of the last file
EXCHANGES = 6  # of the clients, by another name of the server
WINDOWS = 4  # with edits and without, in turns
RATE = 400  # messages a second: less than any backend can do
FILE = """
clusters: {{main: {{{cluster}, lease: 10s}}}}
topics: {{"{topic}": {{partitions: 4}}}}
consumers:
  "*/billing": {{concurrency: {concurrency}, timeout: {timeout}, rate: {rate}, paused: {paused}, in_flight: {{records: {records}}},
                 breaker: {breaker}, retry: {{attempts: {attempts}, backoff: {{base: {base}}}}}}}
publish: {{timeout: 5s}}
reload: {{every: 100ms}}
"""


class Shop:
    """An App whose handler fails now and then, and what it has seen. cluster: its block in the file.

    throttles: valid files may pause the consumer or bound its rate.
    """

    def __init__(self, folder: Path, cluster: str, topic: str = "orders", *, throttles: bool = False) -> None:
        self.file = folder / "mqsdk.yaml"
        self.cluster = cluster
        self.topic = topic
        self._throttles = throttles
        self.save(self.valid(random.Random(0), last=True))
        self.handled: Counter[int] = Counter()
        self.out_of_order: list[tuple[int, int]] = []
        self.reports: list[Reloaded] = []
        self._last: dict[str, int] = {}
        self.app = App(str(self.file))
        self.app.observe(self._observe)
        self.app.consumer(topic, group="billing", ordered=True)(self._bill)

    def valid(self, draw: random.Random, *, last: bool = False) -> str:
        throttles = self._throttles and not last
        return FILE.format(
            cluster=self.cluster,
            topic=self.topic,
            concurrency=CONCURRENCY if last else draw.randint(1, 32),
            timeout=draw.choice(["30s", "1m", "none"]),
            rate=draw.choice(["none", "500/s", "5000/s"]) if throttles else "none",
            paused=draw.choice(["true", "false", "false"]) if throttles else "false",
            records=draw.choice([1, 10, 1000]) if throttles else 1000,
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
            shop.save(text.replace("lease: 10s", "lease: 9s"))  # valid, and nothing a running process can take
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


class Load(threading.Thread):
    """Publishes the next `seconds` worth of messages, by the clock: what did not go out in time is caught up. `published` counts all."""

    def __init__(self, shop: Shop, published: int, seconds: float) -> None:
        super().__init__(name="load", daemon=True)
        self.published = published
        self._end = published + round(seconds * RATE)
        self._shop = shop
        self.start()

    def run(self) -> None:
        first, began = self.published, time.monotonic()
        while self.published < self._end:
            due = min(self._end, first + round((time.monotonic() - began) * RATE))
            if due > self.published:
                self._shop.app.publish_many(self._shop.topic, list(range(self.published, due)), key=lambda number: number % KEYS)
                self.published = due
            time.sleep(0.01)

    @property
    def is_handled(self) -> bool:
        return len(self._shop.handled) >= self._end


def wait_until(holds: Callable[[], bool], told: Callable[[], object] = str) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, told()
        time.sleep(0.02)


def storm(shop: Shop, draw: random.Random, load: Load) -> int:
    """Edits while the load lasts, and until it is handled; how many."""
    edits = 0
    while not load.is_handled and edits < 60 * EDITS_PER_S + SECONDS * EDITS_PER_S:
        edit(shop, draw)
        edits += 1
        time.sleep(1 / EDITS_PER_S)
    return edits


def settled(shop: Shop, draw: random.Random, load: Load) -> None:
    """The last file holds, and everything is handled."""
    shop.save(shop.valid(draw, last=True))
    wait_until(lambda: shop.app.consumers()[0].concurrency == CONCURRENCY, shop.app.consumers)
    wait_until(lambda: load.is_handled, lambda: (len(shop.handled), load.published, shop.app.consumers()))


def judged(shop: Shop, load: Load, edits: int, more: str = "") -> str:
    """What is to be said of the run; AssertionError when something is lost, repeated or out of order."""
    assert shop.handled == Counter(range(load.published))
    assert shop.out_of_order == []
    outcomes = Counter(report.outcome for report in shop.reports)
    assert outcomes["applied"] > 3, "the storm was followed while it lasted"
    assert outcomes["refused"] > 1
    return f"seed {SEED}: {edits} edits, {load.published} messages, {len(shop.reports)} reports of a reload{more}"


def test_a_file_in_a_storm_loses_nothing_and_the_last_one_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw, shop = random.Random(SEED), Shop(tmp_path, f"backend: log, path: {tmp_path / 'data'}", throttles=True)
    with shop.app:
        shop.app.start()
        load = Load(shop, 0, SECONDS)
        edits = storm(shop, draw, load)
        settled(shop, draw, load)
    told = judged(shop, load, edits)
    with capsys.disabled():
        print(f"\n{told}")


def open_files() -> Iterator[str]:
    """Files and connections of this process."""
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            yield os.readlink(f"/proc/self/fd/{number}")


class Held(NamedTuple):
    """What this process holds: its threads by name without number, its open files and connections, but for the indexes of the log's
    segments, which are opened when a segment has grown."""

    threads: Counter[str]
    descriptors: int

    @classmethod
    def now(cls) -> Held:
        threads = Counter(thread.name.rstrip("0123456789") for thread in threading.enumerate())
        return cls(threads, sum(not name.endswith(".idx") for name in open_files()))

    def most(self, other: Held) -> Held:
        return Held(self.threads | other.threads, max(self.descriptors, other.descriptors))

    def covers(self, other: Held) -> bool:
        """A client's pool may have a connection more by chance; one left behind by each exchange would be as many as those."""
        return other.threads <= self.threads and other.descriptors < self.descriptors + EXCHANGES // 2


@pytest.fixture(params=["log", "redis", "rabbitmq", "kafka"])
def clusters(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The block of a cluster, and the same place by another name, for which a new client is made."""
    if request.param == "log":
        yield (f"backend: log, path: {tmp_path / 'data'}",) * 2
        return
    with address_of(request, tmp_path) as (address, more):
        names = (address, address.replace("127.0.0.1", "localhost"))
        one, other = (f'backend: {request.param}, servers: ["{name}"]{more}' for name in names)
        yield one, other


@contextmanager
def address_of(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[str, str]]:
    """(address of a server, further keys of its cluster)."""
    if request.param == "rabbitmq":
        rabbitmq: RabbitServer = request.getfixturevalue("rabbitmq")
        yield rabbitmq.address, f", vhost: {rabbitmq.new_vhost()}"
    elif request.param == "kafka":
        kafka: KafkaBroker = request.getfixturevalue("kafka_broker")
        yield kafka.address, ""
    else:
        (folder / "server").mkdir()
        redis = RedisServer(folder / "server")
        yield redis.address, ""
        redis.stop()


def usual(shop: Shop, load: Load) -> Held:
    """The most that is held at once under this load, without any change. Workers: as many as have been needed, and no more than may be."""
    looks = [Held(Counter({f"mqsdk-{shop.topic}/billing-": CONCURRENCY}), 0)]

    def looked() -> bool:
        looks.append(looks[-1].most(Held.now()))
        return load.is_handled

    wait_until(looked)
    return looks[-1]


def test_a_storm_costs_no_throughput_and_leaves_nothing_behind(
    tmp_path: Path, clusters: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    draw, shop = random.Random(SEED), Shop(tmp_path, clusters[0], topic="reload.storm")
    seconds = {"calm": 0.0, "storm": 0.0}
    with shop.app:
        shop.app.start(timeout="60s")
        load = Load(shop, 0, SECONDS / WINDOWS)
        edits = storm(shop, draw, load)  # what is opened on first need is open then
        settled(shop, draw, load)
        before = usual(shop, load := Load(shop, load.published, SECONDS / WINDOWS))
        for kind in ("calm", "storm") * WINDOWS:
            load, began = Load(shop, load.published, SECONDS / WINDOWS), time.monotonic()
            edits += storm(shop, draw, load) if kind == "storm" else 0
            wait_until(lambda load=load: load.is_handled)  # type: ignore[misc]
            seconds[kind] += time.monotonic() - began
        for cluster in tuple(reversed(clusters)) * (EXCHANGES // 2):
            shop.cluster = cluster
            load = Load(shop, load.published, 0.3)
            settled(shop, draw, load)
        wait_until(lambda: before.covers(Held.now()), lambda: (before, Held.now()))
    calm, stormy = (SECONDS * RATE / seconds[kind] for kind in ("calm", "storm"))
    told = judged(shop, load, edits, f"; {calm:.0f}/s handled, in the storm {stormy:.0f}/s")
    with capsys.disabled():
        print(f"\n{told}")
    assert stormy >= 0.9 * calm, told
