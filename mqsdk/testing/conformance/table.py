"""A page with every scenario and what it shows on every backend: `python -m mqsdk.testing.conformance.table TESTS > PAGE`.

TESTS is a folder or file of conformance classes; all that pytest collects there are taken, a column each. Nothing is run: the page says
what a run checks, and that it passes is what the run says.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields

import pytest

from mqsdk.spi import Capabilities
from mqsdk.testing.conformance import BackendConformance
from mqsdk.testing.conformance.base import HOOKS, Stage
from mqsdk.testing.conformance.verdicts import Kind, Verdict, verdict_of

LEGEND: Mapping[Kind, str] = {
    "passed": "claimed, and shown in full",
    "refused": "not claimed: the scenario asserts that it is refused, or what holds in its place",
    "unclaimed": "not claimed: nothing is left to show",
    "no hook": "the test class lacks the hook that the scenario needs; it is named in place of the word",
    "own": "the test class has replaced the scenario by one of its own",
}
SHORT: Mapping[Kind, str] = {"passed": "✓", "refused": "refused", "unclaimed": "–", "no hook": "no hook", "own": "own"}
INTRODUCTION = """\
# Conformance

<!-- Made by `{command}`; a test holds it to that. -->

Every scenario of `mqsdk.testing.conformance`, and what it shows on each backend. `make test` runs all of them, on real servers where there
are servers; one that fails fails the build, and none is skipped. What a backend claims is data
([writing an adapter](writing-an-adapter.md)), and a scenario follows it:
"""


@dataclass(frozen=True, slots=True)
class Column:
    """One conformance class. skipped: scenarios that carry a mark with which pytest would not run or not heed them."""

    name: str
    suite: type[Stage]
    claims: Capabilities
    skipped: frozenset[str] = field(default_factory=frozenset)

    @property
    def missing_hooks(self) -> list[str]:
        return [hook for hook in HOOKS if getattr(self.suite, hook) is getattr(Stage, hook)]


class Collected:
    """A pytest plugin that keeps what was collected."""

    def __init__(self) -> None:
        self.suites: dict[type[Stage], set[str]] = {}
        self.skipped: dict[type[Stage], set[str]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            suite = getattr(item, "cls", None)
            if isinstance(item, pytest.Function) and isinstance(suite, type) and issubclass(suite, BackendConformance):
                self.suites.setdefault(suite, set()).add(item.originalname)
                if any(item.get_closest_marker(mark) for mark in ("skip", "skipif", "xfail")):
                    self.skipped.setdefault(suite, set()).add(item.originalname)


def collected(tests: str) -> list[Column]:
    """A column for each conformance class that pytest finds there, by name. Raises SystemExit with pytest's words when it finds none."""
    found, said = Collected(), io.StringIO()
    with contextlib.redirect_stdout(said):
        code = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", tests], plugins=[found])
    if code != pytest.ExitCode.OK or not found.suites:
        raise SystemExit(f"no conformance class in {tests}\n{said.getvalue()}")
    columns = []
    for suite, names in found.suites.items():
        skipped = found.skipped.get(suite, set()) | ({name for _, scenarios in areas() for name in scenarios} - names)
        columns.append(Column(suite.__name__.removeprefix("Test"), suite, suite.claims(), frozenset(skipped)))
    return sorted(columns, key=lambda column: column.name)


def areas() -> Iterator[tuple[str, list[str]]]:
    """The suite's parts in order: what the part is about, and its scenarios."""
    for part in BackendConformance.__bases__:
        about = (sys.modules[part.__module__].__doc__ or "").strip().splitlines()[0]
        yield about, [name for name in vars(part) if name.startswith("test_")]


# --- the page -------------------------------------------------------------------------------------------------------------------------


def page(columns: Sequence[Column], command: str) -> str:
    """The whole page. Raises Unreadable for a scenario that cannot be read, ValueError for one that would be skipped."""
    for column in columns:
        if column.skipped:
            raise ValueError(
                f"{column.suite.__name__} skips or leaves out {', '.join(sorted(column.skipped))}; scenarios are run or failed"
            )
    verdicts = [{name: verdict_of(one.suite, name, one.claims) for _, names in areas() for name in names} for one in columns]
    parts = [INTRODUCTION.format(command=command), _legend(verdicts), "## By backend\n", _summary(columns, verdicts)]
    for about, names in areas():
        rows = [[_words(name), *(_cell(found[name]) for found in verdicts)] for name in names]
        parts += [f"## {about.partition(':')[0]}\n", _sentence(about), _grid(["scenario", *(one.name for one in columns)], rows)]
    return "\n".join(parts)


def _legend(verdicts: Sequence[Mapping[str, Verdict]]) -> str:
    used = {verdict.kind for found in verdicts for verdict in found.values()}
    return _grid(["cell", "meaning"], [[SHORT[kind], meaning] for kind, meaning in LEGEND.items() if kind in used])


def _summary(columns: Sequence[Column], verdicts: Sequence[Mapping[str, Verdict]]) -> str:
    rows = []
    for column, found in zip(columns, verdicts, strict=True):
        counts = Counter(verdict.kind for verdict in found.values())
        figures = [str(counts[kind]) for kind in LEGEND if any(v.kind == kind for each in verdicts for v in each.values())]
        rows.append([column.name, *figures, ", ".join(_unclaimed(column.claims)) or "-", ", ".join(column.missing_hooks) or "-"])
    kinds = [SHORT[kind] for kind in LEGEND if any(v.kind == kind for each in verdicts for v in each.values())]
    return _grid(["backend", *kinds, "not claimed", "hooks not given"], rows)


def _unclaimed(claims: Capabilities) -> list[str]:
    """Names of the claims that are not made; the choices `settle` and `publish` are none."""
    named = [one.name for one in fields(claims) if one.name not in ("settle", "publish")]
    return [name for name in named if getattr(claims, name) in (False, 0, "none")]


def _cell(verdict: Verdict) -> str:
    return ", ".join(f"no `{hook}`" for hook in verdict.hooks) or SHORT[verdict.kind]


def _words(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ")


def _sentence(about: str) -> str:
    text = about.partition(":")[2].strip()
    return f"{text[:1].upper()}{text[1:]}\n" if text else ""


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Print the page of the tests that the one argument names."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m mqsdk.testing.conformance.table TESTS > PAGE")
    tests = sys.argv[1]
    print(page(collected(tests), f"python -m mqsdk.testing.conformance.table {tests}"), end="")


if __name__ == "__main__":
    main()
