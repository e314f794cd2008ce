"""The move of a topic written into a file: the route changes, the rest of the text stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mqsdk.config import editing
from mqsdk.config.editing import File
from mqsdk.config.load import load
from mqsdk.config.model import Configuration, MoveRule, Route
from mqsdk.errors import ConfigError, StateError

HEAD = """\
# ours
clusters:
  a: {backend: log, path: ./a}
  b: {backend: log, path: ./b}   # the new one
"""
MOVE = MoveRule(to="b", stage="read_both", epoch=3)
TEXT = "move: {to: b, stage: read_both, epoch: 3}"


def wanted(move: MoveRule | None = MOVE, cluster: str = "a") -> Route:
    return Route(topics=("orders",), cluster=cluster, move=move)


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path / "mqsdk.yaml"
        self.environ = {"MQSDK_STATE": str(path / "state")}

    def write(self, routes: str, tail: str = "") -> File:
        self.path.write_text(HEAD + routes + tail)
        self.path.chmod(0o640)
        return self.file()

    def file(self) -> File:
        return File(load(str(self.path), environ=self.environ), self.environ)

    @property
    def routes(self) -> str:
        return self.path.read_text().removeprefix(HEAD)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def change(file: File, route: Route) -> Configuration:
    return file.write(file.read()[1], "orders", route)


CASES = [
    ("routes: [{topics: [orders], cluster: a}]\n", f"routes: [{{topics: [orders], cluster: a, {TEXT}}}]\n"),
    ("routes:\n  - {topics: [orders], cluster: a}  # first\n", f"routes:\n  - {{topics: [orders], cluster: a, {TEXT}}}  # first\n"),
    (
        "routes:\n  - topics: [orders]\n    cluster: a   # here\n\n# end\n",
        f"routes:\n  - topics: [orders]\n    cluster: a\n    {TEXT}   # here\n\n# end\n",
    ),
    (
        "routes:\n- topics:\n  - orders\n  move:\n    to: b\n    stage: source\n  cluster: a\n",
        f"routes:\n- topics:\n  - orders\n  {TEXT}\n  cluster: a\n",
    ),
    (
        'routes:\n  - {topics: ["*"], cluster: a}\n',
        f'routes:\n  - {{topics: [orders], cluster: a, {TEXT}}}\n  - {{topics: ["*"], cluster: a}}\n',
    ),
    (
        'routes:\n    # all\n    - topics: ["orders*", x]\n      cluster: a\n',
        f'routes:\n    # all\n    - {{topics: [orders], cluster: a, {TEXT}}}\n    - topics: ["orders*", x]\n      cluster: a\n',
    ),
    ('routes: [{topics: ["*"], cluster: a}]', f'routes: [{{topics: [orders], cluster: a, {TEXT}}}, {{topics: ["*"], cluster: a}}]'),
    (
        "routes: [{topics: [orders], cluster: a, move: {to: b, stage: source, epoch: 2}}]\n",
        f"routes: [{{topics: [orders], cluster: a, {TEXT}}}]\n",
    ),
]


@pytest.mark.parametrize(("before", "after"), CASES, ids=range(len(CASES)))
def test_the_move_is_written_where_the_route_is_and_the_rest_stays(folder: Folder, before: str, after: str) -> None:
    found = change(folder.write(before), wanted())
    assert folder.routes == after
    assert found.route("orders") == replace(wanted(), line=found.route("orders").line)  # type: ignore[union-attr]
    assert oct(folder.path.stat().st_mode & 0o777) == "0o640"


ENDS = [
    ("routes: [{topics: [orders], cluster: a, move: {to: b}}]\n", "routes: [{topics: [orders], cluster: b}]\n"),
    ("routes: [{topics: [orders], move: {to: b}, cluster: a}]\n", "routes: [{topics: [orders], cluster: b}]\n"),
    ("routes: [{move: {to: b}, topics: [orders], cluster: a}]\n", "routes: [{topics: [orders], cluster: b}]\n"),
    (
        "routes:\n  - topics: [orders]\n    cluster: a # x\n    move: {to: b}\n# end\n",
        "routes:\n  - topics: [orders]\n    cluster: b # x\n# end\n",
    ),
    (
        "routes:\n  - topics: [orders]\n    move:\n      to: b\n    cluster: a\n",
        "routes:\n  - topics: [orders]\n    cluster: b\n",
    ),
]


@pytest.mark.parametrize(("before", "after"), ENDS, ids=range(len(ENDS)))
def test_the_end_of_a_move_takes_the_key_away(folder: Folder, before: str, after: str) -> None:
    change(folder.write(before), wanted(None, "b"))
    assert folder.routes == after


def test_the_routes_of_the_profile_in_force_are_meant(folder: Folder) -> None:
    before = "routes: [{topics: [orders], cluster: b}]\nprofiles:\n  live:\n    routes: [{topics: [orders], cluster: a}]\n"
    folder.environ["MQSDK_ENV"] = "live"
    change(folder.write(before), wanted())
    assert folder.routes == before.replace("cluster: a}", f"cluster: a, {TEXT}}}")


def test_a_file_that_somebody_else_has_changed_meanwhile_is_left_alone(folder: Folder) -> None:
    file = folder.write("routes: [{topics: [orders], cluster: a}]\n")
    seen = file.read()[1]
    change(folder.file(), wanted())
    with pytest.raises(StateError, match="changed by somebody else"):
        file.write(seen, "orders", wanted(replace(MOVE, epoch=4)))
    assert "epoch: 3" in folder.routes


def test_a_route_that_is_an_alias_of_another_is_refused(folder: Folder) -> None:
    file = folder.write("routes:\n  - &one {topics: [orders, x], cluster: a}\n  - *one\n")
    text = folder.path.read_text()
    change(file, wanted())  # a route of its own comes before them
    assert folder.path.read_text() == text.replace("  - &one", f"  - {{topics: [orders], cluster: a, {TEXT}}}\n  - &one")


def test_what_is_written_so_that_it_is_not_understood_is_refused_and_stays(folder: Folder) -> None:
    file = folder.write("routes:\n  - &one {topics: [orders], cluster: &c a}\n  - {topics: [x], cluster: *c}\n")
    text = folder.path.read_text()
    with pytest.raises(ConfigError, match="is not understood") as refused:
        change(file, wanted(None, "b"))
    assert "cluster: b" in refused.value.fix
    assert folder.path.read_text() == text


def test_a_remote_source_cannot_be_edited(folder: Folder) -> None:
    file = File(Configuration(source="redis://h:1/0?key=x"), folder.environ)
    with pytest.raises(StateError, match="remote source") as refused:
        file.write("", "orders", wanted())
    assert f"cluster: a, {TEXT}" in refused.value.fix


def test_a_move_reads_back_as_it_was_written() -> None:
    rule = MoveRule(to="b", stage="read_both", epoch=7, now=True, fence_s=2.5)
    assert editing.flow(rule) == "{to: b, stage: read_both, epoch: 7, now: true, fence: 2.5s}"
