"""docs/command-line.md: its transcripts are what the commands print, and it leaves no command and no option out."""

from __future__ import annotations

import re
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner

from mqsdk import App
from mqsdk.cli.main import COMMANDS, cli
from tests.processes import PATIENCE_S

PAGE = Path(__file__).resolve().parents[2] / "docs" / "command-line.md"
# What differs between two runs: message ids, times, ages, rates, sizes, partitions and positions of keyless messages.
VARIES = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "TIME"),
    (re.compile(r"in \d+\.\d s, [\d,]+/s"), "in AGE, RATE"),
    (re.compile(r"\b\d+(\.\d+)?(ms|s)\b"), "AGE"),
    (re.compile(r"\b[\d.]+ (B|KiB)$", re.MULTILINE), "SIZE"),
    (re.compile(r"^(partition|position) +\d+$", re.MULTILINE), r"\1 N"),
    (re.compile(r"(format 1 +)\d+\.\d$", re.MULTILINE), r"\1MS"),
    (re.compile(r"partition \d, position \d"), "partition N, position N"),
)


class Step(NamedTuple):
    command: str
    output: str


def page_steps(page: Path = PAGE) -> Iterator[Step]:
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield Step(command, output)


def normal(text: str) -> str:
    for pattern, name in VARIES:
        text = pattern.sub(name, text)
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


def execute(command: str) -> str:
    """One line of the page, in this process; a `printf ... |` before it is its stdin."""
    before, bar, after = command.partition(" | ")
    text = shlex.split(before)[1].replace("\\n", "\n") if bar else None
    words = shlex.split(after if bar else command)
    assert words[0] == "mqsdk"
    return CliRunner().invoke(cli, words[1:], input=text).output


def consume(folder: Path) -> None:
    """What `mqsdk run shop:app` does to the messages that the page has published."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (folder / "shop.py").write_text(code)
    namespace: dict[str, object] = {"__name__": "shop"}
    exec(compile(code, "shop.py", "exec"), namespace)
    app = namespace["app"]
    assert isinstance(app, App)
    handled = threading.Event()
    app.observe(lambda event: handled.set() if type(event).__name__ == "DeadLettered" else None)
    app.start()
    assert handled.wait(PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while app.lag("orders.created", "billing").messages:
        assert time.monotonic() < deadline
    app.close()


@pytest.fixture
def importable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    sys.modules.pop("shop", None)


def test_every_transcript_is_what_the_commands_print(importable: Path) -> None:
    steps = list(page_steps())
    assert len(steps) > 12
    consumed = False
    for step in steps:
        if not consumed and not step.command.startswith("mqsdk init") and "publish" not in step.command:
            consume(importable)
            consumed = True
        assert normal(execute(step.command)) == normal(step.output), step.command


def leaves() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        inner = list(command.commands.items()) if isinstance(command, click.Group) else [("", command)]
        yield from ((name, leaf) for _, leaf in inner)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_has_every_command_and_every_option_of_it(name: str) -> None:
    text = PAGE.read_text()
    section = next(part for part in re.split(r"^## ", text, flags=re.MULTILINE) if name in re.split(r"\W+", part.splitlines()[0]))
    common = text[: text.index("## init")]
    for command, leaf in leaves():
        if command != name or leaf.name == "release":
            continue
        shown = [option for one in leaf.params if isinstance(one, click.Option) and not one.hidden for option in one.opts[:1]]
        assert not [option for option in shown if f"{option}`" not in section + common and f"{option} " not in section + common], leaf.name
        if not leaf.hidden and leaf.name != name:
            assert str(leaf.name) in section


def test_the_page_names_no_option_that_does_not_exist() -> None:
    known = {option for _, leaf in leaves() for one in leaf.params for option in one.opts}
    assert set(re.findall(r"`(--[a-z-]+)", PAGE.read_text())) <= known
