"""A writer that dies before or after any one of its system calls, also in the middle of a roll: others go on without loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mqsdk_log.engine import files
from mqsdk_log.engine.log import Log
from mqsdk_log.engine.shared import Limits

CALLS = (
    "flock", "lseek", "pwritev", "pwrite", "pread", "ftruncate", "rename", "replace", "sync_data", "sync_dir", "open_new",
    "open_write", "open_read", "open_append", "open_create", "append", "names", "close", "free_bytes",
)  # fmt: skip
SMALL = Limits(segment_bytes=700, min_free_bytes=0)


class Death(BaseException):
    """The process is gone: no handler for errors may run."""


class Fate:
    """Lets the process die at its n-th call; a dead process makes no further call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, moment: int, after: bool) -> None:
        self.calls = 0
        self.moment = moment
        self.after = after
        for name in CALLS:
            monkeypatch.setattr(files, name, self.wrap(getattr(files, name)))

    def wrap(self, real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == self.moment and self.after:
                real(*arguments, **options)
            if self.calls >= self.moment:
                raise Death
            return real(*arguments, **options)

        return call


def append_until_death(path: Path, durability: Any, moment: int, after: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[list[bytes], bool]:
    """(values acknowledged, whether it died)."""
    log = Log.open(path, durability=durability, limits=SMALL)
    partition = log.create_topic("orders", 1).partition(0)
    log._syncer.mark = lambda *_, **__: None  # type: ignore[method-assign, assignment]  # its thread would outlive the death
    acknowledged = []
    died = False
    with monkeypatch.context() as patch:
        Fate(patch, moment, after)
        try:
            for number in range(4):
                value = b"%d" % number * 200
                partition.append([(None, b"", value, 0, 0, 1)], timestamp_ms=number, durable=number == 1)
                acknowledged.append(value)
        except Death:
            died = True
    log._forget()  # closes its descriptors, as the kernel does, and nothing else
    return acknowledged, died


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("durability", ["none", "always"])
def test_a_writer_that_dies_at_any_system_call_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Any, after: bool
) -> None:
    moment, died = 0, True
    while died:
        moment += 1
        path = tmp_path / str(moment)
        acknowledged, died = append_until_death(path, durability, moment, after, monkeypatch)
        with Log.open(path, durability=durability, limits=SMALL) as log:
            partition = log.topic("orders").partition(0)
            base = partition.append([(None, b"", b"next" * 50, 0, 0, 1)], timestamp_ms=9)
            reader = partition.reader(0)
            found = []
            while batch := reader.read(100, 1 << 20):
                found += batch
        values = [record.value for record in found]
        assert [record.position for record in found] == list(range(base + 1)), moment
        assert values[: len(acknowledged)] == acknowledged, moment
        assert values[base] == b"next" * 50
        assert len(values) <= len(acknowledged) + 2, moment  # at most the one that nobody answered for
    assert moment > 40
    assert len(acknowledged) == 4
