"""A directory of files as one configuration: what is put together, what is refused, and a mounted map that is swapped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mqsdk import ConfigError
from mqsdk.config import files, folder
from mqsdk.config.load import load
from mqsdk.config.model import Configuration
from mqsdk.errors import Problem
from mqsdk.runtime.watch import Watch

CLUSTERS = "clusters:\n  main: {backend: log, path: ./main}\n  other: {backend: log, path: ./other}\n"
ROUTES = 'routes:\n  - {topics: ["orders.*"], cluster: other}\n  - {topics: ["*"], cluster: main}\n'
BILLING = 'consumers:\n  "orders.created/billing": {concurrency: 3}\n'
SEARCH = 'consumers:\n  "orders.created/search": {concurrency: 5}\n'


def write(place: Path, **files: str) -> Path:
    """files: content by name, without `.yaml`."""
    place.mkdir(exist_ok=True)
    place.chmod(0o755)
    for name, text in files.items():
        (place / f"{name}.yaml").write_text(text)
        (place / f"{name}.yaml").chmod(0o644)
    return place


def loaded(place: Path) -> Configuration:
    return load(place, environ={})


def problems(place: Path) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        loaded(place)
    return list(caught.value.problems)


class Mounted:
    """As an orchestrator mounts a map: links through `..data`, which is swapped for each version."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.place.mkdir()
        self.place.chmod(0o755)
        self._versions = 0

    def put(self, **files: str) -> None:
        self._versions += 1
        version = write(self.place / f"..v{self._versions}", **files)
        (self.place / "..data_tmp").symlink_to(version.name)
        (self.place / "..data_tmp").rename(self.place / "..data")
        for name in files:
            if not os.path.lexists(self.place / f"{name}.yaml"):
                (self.place / f"{name}.yaml").symlink_to(f"..data/{name}.yaml")


def test_the_parts_are_put_together_in_whatever_file_they_stand(tmp_path: Path) -> None:
    place = write(tmp_path / "shop", clusters=CLUSTERS, routes=ROUTES, billing=BILLING, search=SEARCH, empty="# nothing yet\n")
    found = loaded(place)
    assert {rule.pattern: rule.values["concurrency"] for rule in found.consumers} == {
        "orders.created/billing": 3,
        "orders.created/search": 5,
    }
    assert [(route.cluster, route.file, route.line) for route in found.routes] == [
        ("other", f"{place}/routes.yaml", 2),
        ("main", f"{place}/routes.yaml", 3),
    ]
    assert found.source == str(place)


def test_what_two_files_give_is_a_problem_with_both_places(tmp_path: Path) -> None:
    place = write(tmp_path / "shop", a=CLUSTERS + ROUTES, b='app: shop\nroutes: [{topics: ["*"], cluster: main}]\n', c="app: store\n")
    assert [str(problem) for problem in problems(place)] == [
        f"{place}/c.yaml:1:1: app: is given in {place}/b.yaml:1 too (remove one of the two)",
        f"{place}/b.yaml:2:1: routes: is given in {place}/a.yaml:4 too (remove one of the two)",
    ]
    same = write(tmp_path / "same", a=BILLING, b=BILLING.replace("3", "4"))
    (problem,) = problems(same)
    assert problem.key == 'consumers."orders.created/billing".concurrency'
    assert (problem.file, problem.line) == (f"{same}/b.yaml", 2)


def test_a_problem_names_the_file_that_it_stands_in(tmp_path: Path) -> None:
    place = write(tmp_path / "shop", a="defaults: {concurrency: many}\n", b='\nconsumers:\n  "x/y": {conncurrency: 3}\n')
    found = [(problem.file, problem.line, problem.key) for problem in problems(place)]
    assert found == [(f"{place}/a.yaml", 1, "defaults.concurrency"), (f"{place}/b.yaml", 3, 'consumers."x/y".conncurrency')]
    (broken,) = problems(write(place, c="app: ["))
    assert (broken.file, broken.what[:14]) == (f"{place}/c.yaml", "not valid YAML")


def test_what_is_hidden_or_no_yaml_is_no_part(tmp_path: Path) -> None:
    place = write(tmp_path / "shop", app="app: shop\n")
    for name in (".app.yaml", "README.md", "app.yaml~", "#app.yaml#"):
        (place / name).write_text("app: other\n")
    write(place / "more", app="app: other\n")
    assert loaded(place).app == "shop"


def refused_group(place: Path) -> None:
    write(place, a="app: shop\n").chmod(0o775)


def refused_link(place: Path) -> None:
    mounted = Mounted(place)
    mounted.put(a="app: shop\n")
    place.chmod(0o777)


def refused_file(place: Path) -> None:
    (write(place, a="app: shop\n") / "a.yaml").chmod(0o664)


def doubling(depth: int) -> str:
    """Mappings of which each refers to the one before it twice."""
    return "l0: &l0 {k: 1}\n" + "".join(f"l{at}: &l{at} {{a: *l{at - 1}, b: *l{at - 1}}}\n" for at in range(1, depth))


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (write, "is a directory without a configuration"),
    "others may add files": (refused_group, "is a directory that others may write to"),
    "others may swap the version": (refused_link, "is a directory that others may write to"),
    "a file that others may write": (refused_file, "can be written by its group"),
    "too large together": (lambda place: write(place, a="#" * 700_000, b="#" * 700_000), "is larger than 1 MiB"),
    "aliases that double": (lambda place: write(place, a=doubling(40), b=doubling(40)), "aliases expand to more than 20,000 values"),
    "an alias of itself": (lambda place: write(place, a="x: &x {y: *x}\n", b="x: &x {y: *x}\n"), "is nested deeper than 50 levels"),
    "too many": (lambda place: write(place, **{f"f{number}": "" for number in range(101)}), "holds more than 100 files"),
}


@pytest.mark.parametrize(("make", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused(tmp_path: Path, make: Callable[[Path], object], why: str) -> None:
    make(tmp_path / "shop")
    (problem,) = problems(tmp_path / "shop")
    assert why in problem.what
    assert problem.file.startswith(str(tmp_path / "shop"))


def test_a_mounted_map_is_followed_through_every_swap(tmp_path: Path) -> None:
    """Files that are written and gone with a version, too; and each swap is one change."""
    mounted, apps = Mounted(tmp_path / "shop"), list[str]()
    mounted.put(app="app: shop0\n")
    watch = Watch(str(mounted.place), lambda: apps.append(loaded(mounted.place).app), lambda seconds: None)
    assert loaded(mounted.place).app == "shop0"
    for number in range(1, 4):
        mounted.put(**{f"part{number}": f"app: shop{number}\n"})
        for _ in range(3):
            watch.look()
    assert apps == ["shop1", "shop2", "shop3"]
    assert problems_file(mounted, "app: [") == f"{mounted.place}/app.yaml", "the version is nothing for people"


def problems_file(mounted: Mounted, text: str) -> str:
    mounted.put(app=text)
    return problems(mounted.place)[0].file


def test_all_parts_are_of_one_version_when_it_is_swapped_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = Mounted(tmp_path / "shop")
    mounted.put(a="app: shop\n", b="defaults: {concurrency: 1}\n")
    content = files.content

    def swapped(path: str, shown: str = "") -> bytes:
        if path.endswith("..v1/b.yaml"):
            mounted.put(a="app: store\n", b="defaults: {concurrency: 2}\n")
            for name in ("a", "b"):
                (mounted.place / "..v1" / f"{name}.yaml").unlink()
        return content(path, shown)

    monkeypatch.setattr(files, "content", swapped)
    found = loaded(mounted.place)
    assert (found.app, found.defaults["concurrency"]) == ("store", 2)


@pytest.mark.parametrize("look", range(1, 4))
def test_a_version_that_goes_at_any_moment_is_read_anew(look: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """look: of the looks at where the version is, the one behind which it is swapped and removed."""
    mounted, looks = Mounted(tmp_path / "shop"), list[str]()
    mounted.put(a="app: shop\n")
    version_of = folder.version_of

    def swapped(place: str) -> str:
        found = version_of(place)
        looks.append(found)
        if len(looks) == look:
            mounted.put(a="app: store\n")
            shutil.rmtree(mounted.place / "..v1")
        return found

    monkeypatch.setattr(folder, "version_of", swapped)
    assert loaded(mounted.place).app == ("store" if (mounted.place / "..v2").exists() else "shop")


def test_a_file_in_a_plain_directory_that_changes_comes_or_goes_is_a_change(tmp_path: Path) -> None:
    place, reloads = write(tmp_path / "shop", a="app: shop\n"), list[int]()
    watch = Watch(str(place), lambda: reloads.append(1), lambda seconds: None)
    steps: list[Callable[[], object]] = [
        lambda: write(place, a="app: store\n"),
        lambda: write(place, b=BILLING),
        lambda: (place / "b.yaml").rename(place / "c.yaml"),
        lambda: (place / "a.yaml").unlink(),
    ]
    for count, step in enumerate(steps, 1):
        step()
        for _ in range(2):
            watch.look()
        assert len(reloads) == count
    (place / "notes.txt").write_text("x")
    watch.look()
    assert len(reloads) == len(steps)


def test_a_directory_that_nothing_can_read_is_refused_by_name(tmp_path: Path) -> None:
    gone = folder.FolderSource(str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match="cannot be read"):
        gone.load()
