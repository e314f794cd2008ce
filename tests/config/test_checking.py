"""`mqsdk check` as a function: problems, changes and routes as data."""

from __future__ import annotations

from pathlib import Path

from mqsdk.config.checking import Consumer, check
from mqsdk.errors import Problem
from tests.config.conftest import Write

FILE = 'clusters: {m: {backend: log, path: x}}\nroutes: [{topics: ["a.*"], cluster: m}]\nconsumers: {"a.b/g": {concurrency: 3}}\n'


def test_a_usable_configuration_has_no_problems_and_says_where_consumers_read(write: Write) -> None:
    report = check(write(FILE), environ={}, consumers=[Consumer("a.b", "g", {"concurrency": 9}), Consumer("a.c", "g", {"concurrency": 9})])
    assert report.problems == ()
    assert [(one.topic, one.group, one.cluster, one.line, one.tuning.concurrency) for one in report.routes] == [
        ("a.b", "g", "m", 2, 3),
        ("a.c", "g", "m", 2, 9),
    ]


def test_problems_are_data(write: Write) -> None:
    report = check(write("aap: x\ndrain: {timeout: 3}\nlimits: {payload: -1}\n"), environ={})
    assert [(problem.line, problem.key) for problem in report.problems] == [(1, "aap"), (3, "limits.payload")]
    assert report.configuration is None


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    assert [problem.what for problem in check(tmp_path / "gone.yaml", environ={}).problems] == ["there is no such file"]


def test_a_consumer_without_a_route_is_a_problem(write: Write) -> None:
    report = check(write(FILE), environ={}, consumers=[Consumer("b", "g", {}), Consumer("b", "h", {}), Consumer("a.b", "g", {})])
    assert [problem.what for problem in report.problems] == ["no route matches the topic b"]
    assert [one.topic for one in report.routes] == ["a.b"]


def test_the_callers_own_checks_run_on_a_usable_configuration_only(write: Write) -> None:
    finding = Problem(key="x", what="cannot")
    assert check(write(FILE), environ={}, examine=lambda configuration: [finding]).problems == (finding,)
    assert finding not in check(write("aap: x\n"), environ={}, examine=lambda configuration: [finding]).problems


def test_changes_are_from_the_older_file(write: Write, tmp_path: Path) -> None:
    older = tmp_path / "old.yaml"
    older.write_text(FILE.replace("concurrency: 3", "concurrency: 2").replace("path: x", "path: y"))
    older.chmod(0o644)
    report = check(write(FILE), environ={}, diff=older)
    assert [(change.key, change.old, change.new, change.applies) for change in report.changes] == [
        ("clusters.m.path", "y", "x", "restart"),
        ('consumers."a.b/g".concurrency', 2, 3, "live"),
    ]


def test_an_older_file_that_is_wrong_is_a_problem_of_its_own(write: Write, tmp_path: Path) -> None:
    older = tmp_path / "old.yaml"
    older.write_text("aap: x\n")
    older.chmod(0o644)
    report = check(write(FILE), environ={}, diff=older)
    assert [(problem.file, problem.key) for problem in report.problems] == [(str(older), "aap")]
    assert report.configuration is not None
