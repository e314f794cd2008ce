"""The disk of the log is full, a real file system in memory: publishes are rejected, consumers go on, and all does when there is room."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mqsdk_log.backend import LogBackend
from mqsdk_log.engine.log import Log
from mqsdk_log.engine.shared import Limits
from mqsdk_log.options import Options

from mqsdk import App, PublishRejected
from mqsdk.cli.main import cli
from mqsdk.spi import AccessDenied, Assigned, Batch, NewRecord, Partition, Progress, Published, Rejected, Stored, Subscription

KIB, MIB = 1 << 10, 1 << 20
P0 = Partition("orders", 0)

Mounting = Callable[[int], Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Mounting]:
    """Makes a file system of so many bytes. Needs the right to mount."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        path = tmp_path / "disk"
        path.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"this user may not mount a file system: {done.stderr.strip()}")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "--lazy", path], check=True)


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        threading.Event().wait(0.01)


def test_an_app_rejects_handles_what_it_has_and_goes_on_when_there_is_room(disk: Mounting, monkeypatch: pytest.MonkeyPatch) -> None:
    path = disk(300 * MIB)  # the log leaves 256 MiB to others; it looks every 16 MiB or second
    monkeypatch.setenv("MQSDK_CLUSTERS__LOCAL__PATH", str(path / "log"))
    monkeypatch.chdir(path)
    app = App()
    handled: list[str] = []

    @app.consumer("orders", group="billing")
    def bill(payload: str) -> None:
        handled.append(payload)

    ballast, stored = path / "ballast", list[str]()
    ballast.write_bytes(bytes(40 * MIB))
    with app:
        app.start()
        rejected = until_rejected(app, stored)
        assert (rejected.code, rejected.retryable) == ("full", True)
        until(lambda: len(handled) == len(stored))
        until(lambda: app.lag("orders", "billing").messages == 0)
        with pytest.raises(PublishRejected):
            app.publish("orders", "delayed", delay="1h", timeout=0.1)
        ballast.unlink()
        until(lambda: os.statvfs(path).f_bavail * os.statvfs(path).f_frsize > 256 * MIB)
        app.publish("orders", "after")
        until(lambda: len(handled) == len(stored) + 1)
    assert handled == [*stored, "after"]


def until_rejected(app: App, stored: list[str]) -> PublishRejected:
    """Publish until it is refused; the refusal."""
    try:
        while len(stored) < 10_000:
            payload = f"{len(stored)}:" + "x" * 16 * KIB
            app.publish("orders", payload, key="k", timeout=1.5)
            stored.append(payload)
    except PublishRejected as rejected:
        return rejected
    raise AssertionError("the disk was never full")


class Sink:
    def __init__(self) -> None:
        self.events: list[Published] = []

    def put(self, event: Any, /) -> None:
        self.events.append(event)


def test_to_the_last_byte_nothing_is_corrupt_settles_go_on_and_what_is_delayed_comes_later(disk: Mounting) -> None:
    path = disk(4 * MIB)
    backend = LogBackend("log", Options(path=str(path / "log"), durability="always"), Limits(segment_bytes=MIB, min_free_bytes=0))
    backend.open(time.monotonic() + 5)
    backend.admin().ensure_topic("orders", 1)
    backend.admin().ensure_group("orders", "billing")
    sink, token = Sink(), iter(range(1 << 30))
    producer = backend.producer(sink)

    def publish(value: bytes, due_ms: int | None = None) -> Any:
        record = NewRecord(next(token), P0, b"k", value, "id", time.time_ns() // 1_000_000, due_ms=due_ms)
        producer.publish([record], time.monotonic() + 5)
        return sink.events[-1].outcome

    consumer = backend.consumer(Subscription(("orders",), "billing"))
    found: list[Any] = []

    def read(count: int) -> None:
        deadline = time.monotonic() + 20
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count}"
            for event in consumer.poll(1000, 0.2):
                if isinstance(event, Batch):
                    found.extend(event.records)
                    consumer.settle(Progress(P0, event.epoch, event.records[-1].position + 1, high=event.records[-1].position + 1))
                elif isinstance(event, Assigned):
                    consumer.credit(event.partition, 1 << 30, 1 << 30)

    due_ms = time.time_ns() // 1_000_000 + 1500
    assert publish(b"delayed", due_ms) == Stored()
    assert publish(b"first") == Stored(0)
    read(1)
    ballast = path / "ballast"
    ballast.write_bytes(bytes(MIB))
    stored = [b"first"]
    while isinstance(outcome := publish(value := b"%d:" % len(stored) + b"x" * 50_000), Stored):
        stored.append(value)
    assert isinstance(outcome, Rejected)
    assert (outcome.code, outcome.retryable) == ("full", True)
    while isinstance(outcome := publish(value := b"%d:" % len(stored)), Stored):  # down to the last byte
        stored.append(value)
    assert isinstance(outcome, Rejected)
    assert outcome.code == "full"
    assert isinstance(refused := publish(b"x" * 50_000, due_ms + 3_600_000), Rejected)
    assert refused.code == "full"

    read(len(stored))
    assert [record.value for record in found] == stored
    until(lambda: time.time_ns() // 1_000_000 > due_ms)
    consumer.poll(1000, 0.2)
    assert len(found) == len(stored)  # no room for it to take its place
    ballast.unlink()
    read(len(stored) + 1)
    assert found[-1].value == b"delayed"
    assert isinstance(publish(b"after"), Stored)
    read(len(stored) + 2)
    assert backend.admin().progress("orders", "billing")[0].messages == 0
    backend.close(time.monotonic() + 5)


def test_on_a_read_only_file_system_the_log_is_refused_by_name_and_the_tools_look_at_it(disk: Mounting) -> None:
    path = disk(2 * MIB)
    with Log.open(path / "log", limits=Limits(min_free_bytes=0)) as log:
        log.create_topic("orders", 1).partition(0).append([(None, b"", b"value", 0, 0, 1)], timestamp_ms=1)
    subprocess.run(["mount", "-o", "remount,ro", path], check=True)
    with pytest.raises(AccessDenied, match="Read-only file system"):
        LogBackend("local", Options(path=str(path / "log"))).open(time.monotonic() + 5)

    def mqsdk(*words: str) -> Any:
        return CliRunner().invoke(cli, ["log", *words, "--root", str(path / "log")])

    for words in (("verify",), ("ls", "orders"), ("dump", "orders"), ("repair", "orders", "--dry-run")):
        assert mqsdk(*words).exit_code == 0
    found = mqsdk("reindex", "--yes", "--json")
    assert (found.exit_code, "Read-only file system" in found.output) == (4, True)
    subprocess.run(["mount", "-o", "remount,rw", path], check=True)
    with Log.open(path / "log", limits=Limits(min_free_bytes=0)) as log:
        assert log.topic("orders").partition(0).end() == 1
