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


def test_the_targets_of_the_log_are_measured_beside_their_limits_and_along_the_backlog(tmp_path: Path) -> None:
    """A tiny form: whether every figure is there, none of them means anything. What needs the dependency group `bench` is left out."""
    cases = "log-backlog,log-backlog-sqlite,log-recovery"
    options = ["--only", cases, "--rounds", "1", "--scale", "0.0005", "--json", str(tmp_path / "log.json")]
    done = run([sys.executable, RUNNER, *options], tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {row["metric"]: row for row in json.loads((tmp_path / "log.json").read_text())["rows"]}
    assert all(row["median"] > 0 for row in rows.values()), rows
    assert rows["publish_p50_full"]["musts"] == {"publish_p50_empty": 1.05}
    assert set(rows["publish_p50_full"]["ratios"]) == {"publish_p50_empty"}
    assert {f"{who}_{what}@0" for who in ("log", "sqlite") for what in ("publish", "take")} <= set(rows)
    assert "log_take@10000000" in rows
    assert "sqlite_take@1000000" in rows
    assert "publish_p50_full" in done.stdout
    assert "log_take@" not in done.stdout


def test_an_unknown_case_is_named(tmp_path: Path) -> None:
    done = run([sys.executable, RUNNER, "--only", "gone"], tmp_path)
    assert done.returncode == 2
    assert "no such case: gone" in done.stderr


def test_a_configuration_is_followed_in_time_and_costs_nothing(tmp_path: Path) -> None:
    """The promised bounds, with three times the time; of the rate a loss by chance is left to a machine that does other things beside."""
    done = run([sys.executable, RUNNER, "--only", "reload", "--rounds", "1", "--json", tmp_path / "bench.json"], tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {row["metric"]: row for row in json.loads((tmp_path / "bench.json").read_text())["rows"]}
    assert {name for name, row in rows.items() if row["target"]} == {"reload_saved_max", "reload_asked", "watch_cpu", "reload_concurrency"}
    for name, row in rows.items():
        if row["at_most"]:
            assert row["median"] <= 3 * row["target"], name
    assert rows["reload_concurrency"]["median"] > 0.8
