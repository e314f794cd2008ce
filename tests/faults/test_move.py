"""A topic moves to another cluster and back under load by `mqsdk move`, with processes killed in every stage: nothing is lost, keys stay in
order."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.faults.fleet import drained, judged
from tests.faults.test_cluster_change import IS_SOAK, MEMBERS, Run, served
from tests.processes import mqsdk

pytestmark = pytest.mark.slow

CONFIG = """
version: 1
clusters:
  old: {{backend: log, path: ./data, lease: 3s}}
{others}
routes:
  - {{topics: [work], cluster: CLUSTER, move: {{to: TARGET, fence: 2s}}}}
  - {{topics: ["*"], cluster: old}}
topics: {{"work": {{partitions: 4}}}}
reload: {{every: 300ms, settle: 1s}}
"""
PATIENCE = "60s"

AHEAD = [("advance", "read_both"), ("advance", "switch_write"), ("advance", "target")]
BACK = [("rollback", "read_back"), ("rollback", "switch_back"), ("rollback", "source")]
DOUBLED = [AHEAD[0], ("advance", "dual_write"), *AHEAD[1:]]
SHORT = [*DOUBLED[:3], *BACK]
# The way back is taken from every stage.
LONG = [*DOUBLED[:2], ("rollback", "read_both"), BACK[2], *AHEAD[:2], *BACK, *AHEAD, *BACK[:2], ("rollback", "read_both"), *AHEAD[1:]]

UNORDERED = [*AHEAD[:2], ("rollback", "read_both"), *AHEAD[1:]]  # back in one step

CHANGES = {"redis": ("redis", SHORT)}
if IS_SOAK:
    # Ordered consumers cannot come back from RabbitMQ: it cannot tell how far a group is.
    CHANGES |= {"redis, all": ("redis", LONG), "kafka": ("kafka", LONG), "rabbitmq": ("rabbitmq", DOUBLED)}
    CHANGES |= {f"{backend}, unordered": (backend, UNORDERED) for backend in ("redis", "rabbitmq")}


def step(run: Run, command: str, stage: str) -> None:
    more = ["--to-stage", stage] if command == "rollback" else ["--dual-write"] if stage == "dual_write" else []
    done = mqsdk(run.folder, "move", command, "work", *more, "--yes", "--timeout", PATIENCE)
    assert done.returncode == 0, f"{command} to {stage}:\n{done.stderr}\n{run.fleet.output()}"
    assert f"stage: {stage}" in (run.folder / "mqsdk.yaml").read_text()


@pytest.mark.parametrize(("backend", "steps"), CHANGES.values(), ids=CHANGES.keys())
def test_there_and_back_with_a_kill_in_every_stage(tmp_path: Path, backend: str, steps: list[tuple[str, str]]) -> None:
    with served(tmp_path, backend) as others:
        run = Run(tmp_path, others, ordered=steps is not UNORDERED, config=CONFIG.replace("TARGET", backend))
        fleet = run.fleet
        fleet.variables.pop(("publisher", 1))
        try:
            fleet.start_all(MEMBERS)
            run.reads("old")
            for number, (command, stage) in enumerate(steps):
                fleet.kill("consumer", number % MEMBERS)
                fleet.kill("publisher", number % MEMBERS)
                step(run, command, stage)
                run.carries()
                if stage == "dual_write":
                    run.wait(lambda: is_compared(run, backend))
            last, stage = steps[-1]
            ended = mqsdk(tmp_path, "move", last, "work", "--yes", "--timeout", PATIENCE)
            assert ended.returncode == 0, ended.stderr
            run.reads("old" if stage == "source" else backend)
            publishers = fleet.stop("publisher")
            complete = drained(tmp_path)
            consumers = fleet.stop("consumer")
        finally:
            fleet.end()
    verdict = judged(tmp_path, complete=complete, ordered=run.ordered)
    print(f"\nkills {fleet.kills}\n{verdict}")
    assert verdict.ok, f"{verdict}\n{fleet.output()}"
    assert "move" not in (tmp_path / "mqsdk.yaml").read_text()
    assert set(publishers) <= {0, -signal.SIGTERM}
    assert consumers == [0] * MEMBERS, fleet.output()


def is_compared(run: Run, backend: str) -> bool:
    """Whether the target has shadows, and each has its message on the source. A publisher that was killed may leave messages without."""
    found = json.loads(mqsdk(run.folder, "move", "status", "work", "--timeout", "2s", "--json").stdout)["shadows"]
    if backend == "rabbitmq":
        return "cannot be read by position" in str(found["trouble"])
    assert found["trouble"] == ""
    assert not [one for one in found["minutes"] if one["extra_count"]], found
    return any(one["target"] for one in found["minutes"])


def on_old(run: Run) -> int:
    """Messages of the topic on the old cluster."""
    found = json.loads(mqsdk(run.folder, "topics", "work", "--json").stdout)["topics"]
    return next(int(one["messages"]) for one in found if one["cluster"] == "old")


if IS_SOAK:  # in one process and quicker: tests/switch/test_proof.py

    def test_a_publisher_that_stood_still_publishes_where_the_topic_is_now(tmp_path: Path) -> None:
        """It was frozen in `read_both`, taken for gone, and goes on in `target`."""
        with served(tmp_path, "redis") as others:
            run = Run(tmp_path, others, config=CONFIG.replace("TARGET", "redis"))
            fleet = run.fleet
            fleet.variables.clear()
            try:
                fleet.start_all(MEMBERS)
                run.reads("old")
                step(run, *AHEAD[0])
                run.carries()
                fleet.freeze("publisher", 0)
                for command, stage in AHEAD[1:]:
                    step(run, command, stage)
                before = on_old(run)
                fleet.thaw("publisher", 0)
                run.carries()
                stray = on_old(run) - before
                fleet.stop("publisher")
                complete = drained(tmp_path)
                consumers = fleet.stop("consumer")
            finally:
                fleet.end()
        verdict = judged(tmp_path, complete=complete)
        print(f"\nstray {stray}\n{verdict}")
        assert stray <= 1  # the one that it was about to store when it was stopped
        assert verdict.ok, f"{verdict}\n{fleet.output()}"
        assert consumers == [0] * MEMBERS, fleet.output()
