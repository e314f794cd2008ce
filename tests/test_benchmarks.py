"""The benchmark runner measures and writes what it measured; the figures themselves are judged by people."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.processes import run

RUNNER = Path(__file__).resolve().parents[1] / "benchmarks" / "run.py"


def test_a_single_case_runs_in_rounds_and_is_written_as_json(tmp_path: Path) -> None:
    done = run([sys.executable, RUNNER, "--only", "raw-write", "--rounds", "2", "--json", tmp_path / "bench.json"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "raw_write" in done.stdout
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert {row["metric"] for row in rows} == {"raw_write", "raw_write_100"}
    assert all(row["low"] <= row["median"] <= row["high"] for row in rows)


def test_an_unknown_case_is_named(tmp_path: Path) -> None:
    done = run([sys.executable, RUNNER, "--only", "gone"], tmp_path)
    assert done.returncode == 2
    assert "no such case: gone" in done.stderr
