"""Random kill -9 of publishers and consumers: nothing acknowledged is lost, keys stay in order, repeats only where a kill explains them.

Four publishing and four consuming processes share one embedded log. The short form takes some seconds; `make soak` runs a minute
(variable SOAK_SECONDS) with a fresh seed. A failing seed is printed: SOAK_SEED=<seed> repeats its schedule of kills.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from mqsdk.testing.checker import KILL, Verdict, judge
from mqsdk.testing.journal import Journal, Outcome, read_journals
from tests.processes import MQSDK, PATIENCE_S, Running, environment, mqsdk, run

HERE = Path(__file__).resolve().parent
PUBLISHERS = CONSUMERS = 4
SECONDS = float(os.environ.get("SOAK_SECONDS", "8"))
SEED = int(os.environ.get("SOAK_SEED", "0")) or (int(time.time()) if "SOAK_SECONDS" in os.environ else 20260101)

pytestmark = pytest.mark.slow


class Fleet:
    """The processes of the run; a killed one is started again under the same number."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._journal = Journal.in_folder(folder, "faults")
        self._members: dict[tuple[str, int], Running] = {}
        self.kills = {"publisher": 0, "consumer": 0}

    def start(self, role: str, number: int) -> None:
        command: list[str | Path] = (
            [sys.executable, "publisher.py", str(number)] if role == "publisher" else [*MQSDK, "run", "consumer:app"]
        )
        self._members[role, number] = Running(command, self._folder, environ=environment(self._folder))

    def start_all(self) -> None:
        for number in range(CONSUMERS):
            self.start("consumer", number)
        for number in range(PUBLISHERS):
            self.start("publisher", number)

    def kill(self, role: str, number: int) -> None:
        victim = self._members[role, number]
        self._journal.fault(KILL, on=True, pid=victim.pid)
        with victim:
            victim.kill()
        self._journal.fault(KILL, on=False, pid=victim.pid)
        self.kills[role] += 1
        self.start(role, number)

    def stop(self, role: str) -> list[int]:
        """SIGTERM to every process of a role; their exit codes."""
        members = [member for (name, _), member in self._members.items() if name == role]
        for member in members:
            member.process.terminate()
        return [member.process.wait(PATIENCE_S) for member in members]

    def output(self) -> str:
        return "\n".join(f"{role} {number}: {line}" for (role, number), member in self._members.items() for line in member.lines[-5:])

    def end(self) -> None:
        for member in self._members.values():
            with member:
                pass


def kill_at_random(fleet: Fleet, seed: int, seconds: float) -> None:
    """Consumers die more often than publishers. The waits are the fault's own: time for the processes to get some work done."""
    dice = random.Random(seed)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(dice.uniform(0.3, 1.2))
        role = dice.choices(("publisher", "consumer"), weights=(1, 2))[0]
        fleet.kill(role, dice.randrange(PUBLISHERS if role == "publisher" else CONSUMERS))


def drained(folder: Path) -> bool:
    """`mqsdk lag` over its limit exits with 1; 0 = nothing waits any more."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if mqsdk(folder, "lag", "work", "workers", "--max-messages", "0").returncode == 0:
            return True
    return False


def judged(folder: Path, *, complete: bool) -> Verdict:
    return judge(read_journals(folder), ("workers",), ordered=("workers",), drained=complete)


def test_kill_9_loses_nothing_and_keeps_the_order_of_keys(tmp_path: Path) -> None:
    for script in ("publisher.py", "consumer.py"):
        shutil.copy(HERE / script, tmp_path)
    ensured = mqsdk(tmp_path, "groups", "ensure", "work", "workers", "--yes")
    assert ensured.returncode == 0, ensured.stderr
    fleet = Fleet(tmp_path)
    try:
        fleet.start_all()
        kill_at_random(fleet, SEED, SECONDS)
        publishers = fleet.stop("publisher")
        complete = drained(tmp_path)
        consumers = fleet.stop("consumer")
        told = f"seed {SEED}, {fleet.kills}\n{fleet.output()}"
    finally:
        fleet.end()
    verdict = judged(tmp_path, complete=complete)
    print(f"\nseed {SEED}, kills {fleet.kills}\n{verdict}")
    assert verdict.ok, f"{verdict}\n{told}"
    assert set(publishers) <= {0, -signal.SIGTERM}, told  # one that was started a moment ago dies of it before it can arrange to stop
    assert consumers == [0] * CONSUMERS, told
    assert min(fleet.kills.values()) >= 1
    assert verdict.stored > 1000


def test_a_run_without_faults_has_no_repeat_at_all(tmp_path: Path) -> None:
    for script in ("publisher.py", "consumer.py"):
        shutil.copy(HERE / script, tmp_path)
    assert mqsdk(tmp_path, "groups", "ensure", "work", "workers", "--yes").returncode == 0
    with Running([*MQSDK, "run", "consumer:app"], tmp_path) as consumer:
        done = run([sys.executable, "publisher.py", "0", "2000"], tmp_path)
        assert done.returncode == 0, done.stderr
        complete = drained(tmp_path)
        assert consumer.stop() == 0
    verdict = judged(tmp_path, complete=complete)
    assert verdict.ok, str(verdict)
    assert verdict.duplicates == {}
    assert sum(entry.outcome is Outcome.OK for entry in read_journals(tmp_path)) == 2000
