"""The documentation is executed: Python blocks run, configuration blocks validate, commands and linked files exist."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mqsdk.cli.main import COMMANDS
from mqsdk.config.load import load
from tests.processes import environment, run

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*/README.md")])
NOT_EXECUTED = {"design.md"}  # for people who change mqsdk; its Python blocks are signatures

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w+)\n(?P<body>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
_PATH = re.compile(r"`((?:mqsdk|adapters|tests|docs|examples|configs|benchmarks)/[\w./-]+)`")
_TEST = re.compile(r"`((?:tests|mqsdk)/[\w./-]+\.py)::(\w+)`")
_COMMAND = re.compile(r"(?:^ *|&& |`)mqsdk ([a-z]+)\b", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int


def blocks(page: Path, *languages: str) -> Iterator[Block]:
    text = page.read_text()
    for match in _FENCE.finditer(text):
        if match["language"] in languages:
            yield Block(match["language"], textwrap.dedent(match["body"]), text.count("\n", 0, match.start()) + 1)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def with_blocks(*languages: str) -> list[Path]:
    return [page for page in PAGES if page.name not in NOT_EXECUTED and any(blocks(page, *languages))]


@pytest.mark.slow
@pytest.mark.parametrize("page", with_blocks("python"), ids=name)
def test_the_python_blocks_of_a_page_run_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    """One process a page, in an empty folder; blank lines keep the page's line numbers in a traceback."""
    script = ""
    for block in blocks(page, "python"):
        script += "\n" * (block.line - script.count("\n")) + block.text
    (tmp_path / "page.py").write_text(script)
    done = run([sys.executable, "page.py"], tmp_path, environ={**environment(tmp_path), "PYTHONWARNINGS": "error"})
    assert done.returncode == 0, f"{name(page)}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", with_blocks("yaml"), ids=name)
def test_the_configurations_of_a_page_are_valid(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(page, "yaml")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block.text)
        path.chmod(0o600)
        assert load(path, environ={}).clusters


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_a_page_points_to_exists(page: Path) -> None:
    text = page.read_text()
    links = [page.parent / target for target in _LINK.findall(text)]
    paths = [ROOT / target for target in _PATH.findall(text) if page.name not in NOT_EXECUTED]
    assert not [str(path) for path in [*links, *paths] if not path.exists()]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_tests_a_page_names_exist(page: Path) -> None:
    missing = [
        f"{path}::{test}"
        for path, test in _TEST.findall(page.read_text())
        if not (ROOT / path).exists() or not re.search(rf"def {test}\b", (ROOT / path).read_text())
    ]
    assert not missing


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in NOT_EXECUTED], ids=name)
def test_the_commands_a_page_names_exist(page: Path) -> None:
    assert set(_COMMAND.findall(page.read_text())) <= set(COMMANDS)


def test_a_broken_block_is_seen(tmp_path: Path) -> None:
    """The finders find: a page with one of each mistake."""
    page = tmp_path / "page.md"
    page.write_text("1. x\n\n   ```python\n   assert False\n   ```\n\n[a](gone.md) `tests/gone.py::test_x` `mqsdk frobnicate x`\n")
    (block,) = blocks(page, "python")
    assert (block.text, block.line) == ("assert False\n", 3)
    assert _LINK.findall(page.read_text()) == ["gone.md"]
    assert _TEST.findall(page.read_text()) == [("tests/gone.py", "test_x")]
    assert _COMMAND.findall(page.read_text()) == ["frobnicate"]
