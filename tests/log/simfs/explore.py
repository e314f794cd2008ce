"""One seed: a story, crashes at moments of it, recovery of each, and the check. The same seed does the same again, with a trace."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mqsdk_log.engine.errors import LogError

from tests.log.simfs.check import Broken, Expected, Seen, check, look
from tests.log.simfs.clock import Clock
from tests.log.simfs.disk import Disk, Image, Snapshot
from tests.log.simfs.story import Known, Setting, Story
from tests.log.simfs.system import System

CRASHES = 8  # moments of a story at which the machine goes down
SHORT = 0.2  # of the reads, in one recovery of five
IMAGES = 4  # of each moment, besides the one of a killed process


@dataclass
class Moment:
    """A disk, and what was known then."""

    at: int
    snapshot: Snapshot
    facts: int


@dataclass
class Run:
    """Counts and, when asked for, the lines of a trace."""

    seed: int
    images: int = 0
    recovered_twice: int = 0
    faults: int = 0
    trace: list[str] | None = None

    def say(self, *lines: str) -> None:
        if self.trace is not None:
            self.trace.extend(lines)


def explore(
    seed: int,
    *,
    trace: list[str] | None = None,
    crashes: int = CRASHES,
    images: int = IMAGES,
    bend: Callable[[Setting], Setting] = lambda setting: setting,
) -> Run:
    """Broken, with the seed and what a crash left, when a guarantee does not hold. bend: changes what the seed decided."""
    run = Run(seed, trace=trace)
    chance = random.Random(seed)
    setting = bend(Setting.of(chance))
    known = Known()
    run.say(f"seed {seed}: {setting}")
    moments = _play(setting, chance.getrandbits(32), known, run, crashes)
    for moment in moments:
        expected = Expected(known, moment.facts)
        for index in range(images + 1):
            killed = index == images
            dice = random.Random(f"{seed}/{moment.at}/{index}")
            image = moment.snapshot.after_kill() if killed else moment.snapshot.after_power_loss(dice)
            try:
                _recover(setting, expected, image, known, moment, dice, run, killed=killed)
            except (Broken, LogError, OSError) as error:
                where = f"seed {seed}, crash at moment {moment.at}, image {index}"
                what = str(error) if isinstance(error, Broken) else f"the log falls over: {error!r}"
                raise Broken(f"{where}: {what}\n  " + "\n  ".join(image.choices)) from error
    return run


def _play(setting: Setting, number: int, known: Known, run: Run, crashes: int) -> list[Moment]:
    """The story to its end; a first, silent time to learn how long it is."""
    length = _once(setting, number, Known(), None, set())[0]
    chance = random.Random(number)
    wanted = {chance.randint(1, length) for _ in range(crashes)}
    _, moments, system = _once(setting, number, known, run.trace, wanted)
    run.faults += len(system.struck)
    moments.append(Moment(system.moment + 1, _frozen(system), len(known.facts)))
    return moments


def _frozen(system: System) -> Snapshot:
    system.poll(all_maps=True)
    return system.disk.frozen()


def _once(setting: Setting, number: int, known: Known, trace: list[str] | None, wanted: set[int]) -> tuple[int, list[Moment], System]:
    chance = random.Random(number)
    moments: list[Moment] = []
    with folder() as path:
        system = System(path, Disk(), random.Random(number))
        system.trace = trace
        fault = setting.fault
        clock = Clock()

        def watch() -> None:
            if system.moment in wanted:
                moments.append(Moment(system.moment, _frozen(system), len(known.facts)))
                if trace is not None:
                    trace.append("       * a crash here is looked at")

        system.watch = watch
        with system.installed(), clock.installed():
            fresh = None if fault is None else replace(fault)
            story = Story(setting._replace(fault=fresh), chance, system, clock, known)
            story.run()
        return system.moment, moments, system


def _recover(
    setting: Setting, expected: Expected, image: Image, known: Known, moment: Moment, dice: random.Random, run: Run, *, killed: bool
) -> None:
    run.images += 1
    run.say("", f"--- crash at moment {moment.at}: {'; '.join(image.choices)}")
    more = Known()
    more.attempts = list(known.attempts)
    more.facts = known.facts[: moment.facts]
    again = dice.random() < 0.3
    wanted = dice.randint(1, 40) if again else 0
    snapshots: list[tuple[Snapshot, int]] = []
    with folder() as path:
        system = System(path, Disk(), dice, boot="first boot" if killed else "second boot")
        system.load(image)
        system.trace = run.trace
        system.short_reads = SHORT if dice.random() < 0.2 else 0.0

        def watch() -> None:
            if system.moment == wanted:
                snapshots.append((_frozen(system), len(more.facts)))

        if again:
            system.watch = watch
        with system.installed(), Clock().installed():
            seen = check(system, setting, expected, killed=killed, extend=more)
            run.say(f"       {_told(seen)}")
            left = _frozen(system)
    if seen is not None and dice.random() < 0.1:
        run.images += 1
        _settled(setting, left, seen, dice)
    for snapshot, facts in snapshots:
        run.images += 1
        run.recovered_twice += 1
        lives = dice.random() < 0.3
        second = snapshot.after_kill() if lives else snapshot.after_power_loss(dice)
        run.say("", f"--- and once more while it recovers: {'; '.join(second.choices)}")
        image.choices.append("then, while it recovered:")
        image.choices.extend(second.choices)
        with folder() as path:
            system = System(path, Disk(), dice, boot=system.boot if lives else "third boot")
            system.load(second)
            system.trace = run.trace
            with system.installed(), Clock().installed():
                check(system, setting, Expected(more, facts), killed=killed and lives, lives=lives)


def _settled(setting: Setting, left: Snapshot, seen: Seen | None, dice: random.Random) -> None:
    """What was recovered and synced is recovered to the same, whatever of the rest is lost."""
    with folder() as path:
        system = System(path, Disk(), dice, boot="another boot")
        system.load(left.after_power_loss(dice))
        with system.installed(), Clock().installed():
            again = look(system, setting)
    if _plain(again) != _plain(seen):
        raise Broken(f"recovered once more it is {_plain(again)}, before it was {_plain(seen)}")


def _plain(seen: Seen | None) -> tuple[list[tuple[int, bytes]], list[tuple[int, int]]] | None:
    return None if seen is None else ([(record.position, record.value[:12]) for record in seen.records], seen.gaps)


def _told(seen: Seen | None) -> str:
    return "no topic" if seen is None else f"{len(seen.records)} records, gaps {seen.gaps}"


@contextmanager
def folder() -> Iterator[Path]:
    """A directory on a file system in memory where there is one: what is synced here is simulated."""
    path = Path(tempfile.mkdtemp(prefix="mqsdk-simfs-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    try:
        yield path
    finally:
        shutil.rmtree(path)
