"""What the tests of the tools share: a small log with several segments, an index, groups and what is delayed, and calls of `mqsdk log`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from mqsdk_log.engine import state
from mqsdk_log.engine.errors import CorruptRange, OutOfRange
from mqsdk_log.engine.groups import Group
from mqsdk_log.engine.log import Log
from mqsdk_log.engine.partition import PartitionLog
from mqsdk_log.engine.shared import Limits

from mqsdk.cli.main import cli

NOW_MS = 1_700_000_000_000
SMALL = Limits(segment_bytes=330, min_free_bytes=0)


class Result(NamedTuple):
    """One call: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        (line,) = self.out.splitlines()
        found: dict[str, Any] = json.loads(line)
        return found

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


class Place:
    """A root with the topic `orders` of two partitions; 0 holds `values` in three segments."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = [b"value %02d" % number for number in range(12)]
        self.opened: list[Log] = []

    def fill(self, durability: Any = "interval") -> PartitionLog:
        """Batches of two records each."""
        log = self.open(durability)
        partition = log.create_topic("orders", 2).partition(0)
        for number in range(0, len(self.values), 2):
            records: Any = [(b"key", b"", value, 0, 0, 1) for value in self.values[number : number + 2]]
            partition.append(records, timestamp_ms=NOW_MS + number, producer_id=7, producer_seq=number)
        partition.sync()
        return partition

    def open(self, durability: Any = "interval", limits: Limits = SMALL) -> Log:
        log = Log.open(self.path, durability=durability, limits=limits)
        self.opened.append(log)
        return log

    def close(self) -> None:
        for log in self.opened:
            log.close()
        self.opened = []

    def group(self, name: str = "billing") -> Group:
        group = Group(self.path, name)
        group.ensure("orders", [0, 0])
        return group

    @property
    def folder(self) -> Path:
        return self.path / "topics" / "orders" / "0"

    @property
    def segments(self) -> list[Path]:
        return sorted(self.folder.glob("*.log"))

    def copy(self, to: Path) -> Place:
        """The same files in another place, as of another boot: no slot of the state page counts there."""
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.path, to, ignore=shutil.ignore_patterns("wake"))
        found = Place(to)
        found.values = self.values
        return found

    def read(self, number: int = 0) -> tuple[list[bytes], list[tuple[int, int]]]:
        """(values, gaps) as a consumer of the partition is given them."""
        log = self.open()
        reader = log.topic("orders").partition(number).reader(0)
        values: list[bytes] = []
        gaps: list[tuple[int, int]] = []
        while True:
            try:
                found = reader.read(100, 1 << 20)
            except CorruptRange as error:
                gaps.append((error.start, error.stop))
                reader.seek(error.stop)
            except OutOfRange as error:
                gaps.append((0, error.first))
                reader.seek(error.first)
            else:
                if not found:
                    break
                values += [record.value for record in found]
        reader.close()
        self.close()
        return values, gaps

    def mqsdk(self, *words: str) -> Result:
        """`mqsdk log <words> --root <path>`."""
        found = CliRunner().invoke(cli, ["log", *words, "--root", str(self.path)])
        return Result(found.exit_code, found.stdout, found.stderr)


def flip(path: Path, at: int, bits: int = 1) -> None:
    """Change one byte of a file in its place."""
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([byte[0] ^ bits]), at)


def reboot(path: Path, topic: str = "orders") -> None:
    """Make every slot of the state page invalid, as a new boot of the machine does."""
    page = path / "topics" / topic / "state"
    data = bytearray(page.read_bytes())
    for start in range(state.PAGE, len(data), state.SLOT_WORDS * 8):
        data[start + state.TAG * 8 : start + state.TAG * 8 + 8] = bytes(8)
    page.write_bytes(data)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.chdir(tmp_path)
    for name in ("MQSDK_CONFIG", "MQSDK_ENV"):
        monkeypatch.delenv(name, raising=False)
    found = Place(tmp_path / "log")
    yield found
    found.close()


@pytest.fixture
def hurt() -> Any:
    """flip, reboot: ways to hurt a log, by name, because test modules cannot import a conftest."""
    return type("Hurt", (), {"flip": staticmethod(flip), "reboot": staticmethod(reboot)})
