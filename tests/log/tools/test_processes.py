"""The tools beside real processes: writers that are killed, and an application that runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mqsdk_log.tools import verify

WORKER = Path(__file__).resolve().parents[1] / "engine" / "worker.py"


def writer(path: Path, name: str, size: int) -> subprocess.Popen[str]:
    """Appends runs of 20 records until it is killed; a line for each that is answered."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    command = [sys.executable, str(WORKER), "append", str(path), name, "none", "20", str(size), "0", "2000000"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
def test_writers_that_are_killed_leave_nothing_that_is_called_damage(place: Any) -> None:
    """Some leave a torn batch, for the next append to cut off; what they were told is stored is all there."""
    place.open("none").create_topic("orders", 1)
    place.close()
    answered = 0
    for number in range(4):
        processes = [writer(place.path, f"{number}-{one}", (100, 3_000)[one]) for one in range(2)]
        for process in processes:
            assert process.stdout is not None
            for _ in range(5 + 5 * number):
                assert process.stdout.readline()
        running = place.mqsdk("verify", "--json")
        assert [one for one in running.document["findings"] if one["kind"] in verify.WRONG] == []
        for process in processes:
            process.kill()
        for process in processes:
            assert process.stdout is not None
            answered += 20 * (5 + 5 * number + len(process.stdout.readlines()))
            process.wait()
            process.stdout.close()
        found = place.mqsdk("verify", "--json")
        assert {one["kind"] for one in found.document["findings"]} <= {"torn"}
        assert (found.code, found.document["records"] >= answered) == (0, True)
    assert place.mqsdk("repair", "orders", "--yes").code == 0
    assert place.mqsdk("verify", "--json").document["findings"] == []


@pytest.mark.slow
def test_a_running_application_is_named_and_not_disturbed(place: Any, hurt: Any) -> None:
    place.open("none").create_topic("orders", 1).partition(0).append([(None, b"", b"damaged", 0, 0, 1)], timestamp_ms=1)
    place.close()
    hurt.flip(place.segments[0], 64 + 64 + 22)
    process = writer(place.path, "app", 100)
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        found = place.mqsdk("repair", "orders", "--yes", "--json")
        assert (found.code, f"process {process.pid}" in found.document["error"]["what"]) == (5, True)
        assert place.mqsdk("reindex", "--yes").code == 0
        for _ in range(50):
            assert process.stdout.readline()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
    assert place.mqsdk("repair", "orders", "--yes").code == 0
