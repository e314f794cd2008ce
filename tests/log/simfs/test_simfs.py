"""Crashes at thousands of moments, each followed by recovery and the whole check; `python -m tests.log.simfs SEED` tells one of them."""

from __future__ import annotations

import errno
import os
import random
import time

import pytest
from mqsdk_log.engine.cursors import Cursor, CursorDamaged
from mqsdk_log.engine.groups import Group
from mqsdk_log.engine.shared import Durability

from tests.log.simfs.check import Broken
from tests.log.simfs.explore import explore
from tests.log.simfs.fault import Fault
from tests.log.simfs.machine import Machine, append, values
from tests.log.simfs.mutants import MUTANTS, Mutant
from tests.log.simfs.story import Setting

SEEDS = 80  # about 50 images each
SOAK_IMAGES = 50_000
EVERY_CALL = ("open", "mkdir", "rename", "link", "unlink", "pwrite", "pwritev", "write", "fallocate", "fsync", "fdatasync", "ftruncate")


def test_whatever_a_crash_leaves_the_log_keeps_its_promises() -> None:
    runs = [explore(seed) for seed in range(SEEDS)]
    assert sum(run.images for run in runs) >= 3000
    assert sum(run.recovered_twice for run in runs) >= 300  # a second crash while the first is being recovered
    assert sum(run.faults for run in runs) >= 15  # calls made to fail


@pytest.mark.skipif("SOAK_SECONDS" not in os.environ, reason="part of `make soak`")
def test_soak() -> None:
    seed = begin = int(time.time())
    images = second = faults = 0
    while images < SOAK_IMAGES:
        run = explore(seed)
        images, second, faults, seed = images + run.images, second + run.recovered_twice, faults + run.faults, seed + 1
    print(f"simulated crashes: {images:,} images ({second:,} of a second crash), {faults} calls made to fail, seeds {begin} to {seed - 1}")


def test_a_seed_does_the_same_again() -> None:
    first: list[str] = []
    second: list[str] = []
    explore(5, trace=first)
    explore(5, trace=second)
    assert first == second
    assert any(" pwritev " in line for line in first)


@pytest.mark.parametrize(("durability", "times"), [("interval", 1), ("always", 1000)], ids=["once", "for good"])
def test_a_disk_that_is_full_at_any_call(durability: str, times: int) -> None:
    """One story, and in each run another one of its calls finds no room."""
    calls, faults = 0, 1
    while faults:
        fault = Fault(EVERY_CALL, after=calls, times=times, number=errno.ENOSPC)
        faults = explore(17, crashes=0, images=1, bend=lambda setting: _plain(setting, durability, fault)).faults  # noqa: B023
        calls += 1
    assert calls > 100


def _plain(setting: Setting, durability: str, fault: Fault) -> Setting:
    limits = setting.limits.__class__(segment_bytes=2000, min_free_bytes=0)
    return Setting(durability, limits, 14, (50, 300), True, False, fault, early=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("durability", ["none", "always"])
def test_a_write_that_ends_after_any_byte(durability: Durability) -> None:
    """The process died in it, or the machine: the batch is there as a whole or not at all, and the log goes on."""
    with Machine() as machine:
        partition = machine.partition(durability)
        append(partition, b"one", durable=True)
        before = machine.snapshot()
        file = machine.system.path / "topics/orders/0/00000000000000000000.log"
        start = file.stat().st_size
        append(partition, b"two" * 10, b"three")
        batch = file.read_bytes()[start:]
    for size in range(len(batch) + 1):
        whole = [b"two" * 10, b"three"] if size == len(batch) else []
        disk = before.disk()
        disk.file("topics/orders/0/00000000000000000000.log").write(start, batch[:size], 1_000_000)
        for image in (disk.frozen().after_kill(), disk.frozen().left("all", "all", 0, random.Random(1))):
            with Machine(image) as after:
                partition = after.open(durability).topic("orders").partition(0)
                append(partition, b"next", durable=True)
                assert values(partition) == [b"one", *whole, b"next"], size


@pytest.mark.parametrize("torn", [1, 2])
def test_torn_pages_of_a_progress_file_are_never_believed(torn: int) -> None:
    """One leaves the other slot; both may be told."""
    for seed in range(100):
        with Machine() as machine:
            machine.chance = chance = random.Random(seed)
            machine.partition("always")
            group = Group(machine.system.path, "billing")
            group.ensure("orders", [0])
            file = group.cursors("orders")
            stored = [(0, b"")]
            for number in range(1, chance.randint(2, 9)):
                stored.append((number, bytes([number]) * 600))
                file.store(0, Cursor(number, file.read(0).epoch, high=number, sparse=stored[-1][1]))
                if chance.random() < 0.3:
                    file.sync()
            file.close()
            machine.lose_power("pages", torn_progress=torn)
            try:
                found = Group(machine.system.path, "billing").progress("orders")[0]
                assert (found.watermark, found.sparse) in stored
            except CursorDamaged:
                assert torn == 2, f"seed {seed}: one torn page is not told, the other slot counts"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_simulation_finds_the_mutant(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.make(monkeypatch)
    assert first_seed_that_finds(mutant, 100) is not None, f"{mutant.name} survives"


def first_seed_that_finds(mutant: Mutant, seeds: int) -> int | None:
    for seed in range(seeds):
        try:
            explore(seed, bend=mutant.bend)
        except Broken:
            return seed
    return None
