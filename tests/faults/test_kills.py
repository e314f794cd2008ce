"""Random kill -9 of publishers and consumers: nothing acknowledged is lost, keys stay in order, repeats only where a kill explains them.

Four publishing and four consuming processes share one embedded log. The short form takes some seconds; `make soak` runs a minute
(variable SOAK_SECONDS) with a fresh seed. A failing seed is printed: SOAK_SEED=<seed> repeats its schedule of kills.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from mqsdk.testing.journal import RECORD_BYTES, SUFFIX, Outcome, read_journals
from tests.faults.fleet import MEMBERS, Fleet, drained, judged, prepare
from tests.processes import MQSDK, PATIENCE_S, Running, run

SECONDS = float(os.environ.get("SOAK_SECONDS", "8"))
ENOUGH = 1000  # messages, also on a machine so busy that they take longer
SEED = int(os.environ.get("SOAK_SEED", "0")) or (int(time.time()) if "SOAK_SECONDS" in os.environ else 20260101)

pytestmark = pytest.mark.slow


def kill_at_random(fleet: Fleet, folder: Path, seed: int) -> None:
    """Until the time is over and enough was published; consumers die more often. The waits give the processes time to work."""
    dice = random.Random(seed)
    began = time.monotonic()
    while time.monotonic() < began + SECONDS or (published(folder) < ENOUGH and time.monotonic() < began + PATIENCE_S):
        time.sleep(dice.uniform(0.3, 1.2))
        fleet.kill(dice.choices(("publisher", "consumer"), weights=(1, 2))[0], dice.randrange(MEMBERS))


def published(folder: Path) -> int:
    """Two records a message: before and after the publish."""
    return sum(path.stat().st_size for path in folder.glob(f"publisher-*{SUFFIX}")) // (2 * RECORD_BYTES)


def test_kill_9_loses_nothing_and_keeps_the_order_of_keys(tmp_path: Path) -> None:
    prepare(tmp_path)
    fleet = Fleet(tmp_path)
    try:
        fleet.start_all()
        kill_at_random(fleet, tmp_path, SEED)
        publishers = fleet.stop("publisher")
        complete = drained(tmp_path)
        consumers = fleet.stop("consumer")
    finally:
        fleet.end()
    verdict = judged(tmp_path, complete=complete)
    told = f"seed {SEED}, kills {fleet.kills}\n{verdict}"
    print(f"\n{told}")
    assert verdict.ok, f"{told}\n{fleet.output()}"
    assert set(publishers) <= {0, -signal.SIGTERM}, told  # one that was started a moment ago dies of it before it can arrange to stop
    assert consumers == [0] * MEMBERS, f"{told}\n{fleet.output()}"
    assert min(fleet.kills.values()) >= 1
    assert verdict.stored > ENOUGH // 2


def test_a_run_without_faults_has_no_repeat_at_all(tmp_path: Path) -> None:
    prepare(tmp_path)
    with Running([*MQSDK, "run", "consumer:app"], tmp_path) as consumer:
        done = run([sys.executable, "publisher.py", "0", "1000"], tmp_path)
        assert done.returncode == 0, done.stderr
        complete = drained(tmp_path)
        assert consumer.stop() == 0
    verdict = judged(tmp_path, complete=complete)
    assert verdict.ok, str(verdict)
    assert verdict.duplicates == {}
    assert sum(entry.outcome is Outcome.OK for entry in read_journals(tmp_path)) == 1000
