"""docs/native-log.md: its transcripts are what the tools print, its tables of tools and kinds leave none out."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from mqsdk_log.tools import verify
from mqsdk_log.tools.toolbox import TOOLBOX

from mqsdk.cli.main import cli
from tests.cli.test_command_line_page import normal, page_steps

PAGE = Path(__file__).resolve().parents[3] / "docs" / "native-log.md"
VARIES = (
    (re.compile(r"producer=[0-9a-f]{16}"), "producer=N"),
    (re.compile(r"uuid +[0-9a-f]{32}"), "uuid N"),
    (re.compile(r"^root .*\.mqsdk$", re.MULTILINE), "root"),
)


def plain(text: str) -> str:
    text = normal(text)
    for pattern, name in VARIES:
        text = pattern.sub(name, text)
    return text


def test_every_transcript_is_what_the_tools_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MQSDK_STATE", str(tmp_path / "state"))
    (configuration,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "mqsdk.yaml").write_text(configuration)
    (tmp_path / "mqsdk.yaml").chmod(0o600)
    steps = list(page_steps(PAGE))
    assert len(steps) > 12
    for step in steps:
        if step.command.startswith("mqsdk "):
            printed = CliRunner().invoke(cli, shlex.split(step.command)[1:]).output
        else:
            printed = subprocess.run(step.command, shell=True, check=True, text=True, capture_output=True).stdout
        assert plain(printed) == plain(step.output), step.command


def test_the_page_has_every_tool_and_every_kind_of_finding() -> None:
    text = PAGE.read_text()
    sections = set(re.findall(r"^### (\w+)$", text, re.MULTILINE))
    assert {tool.name for tool in TOOLBOX.tools} <= sections
    kinds = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", text[text.index("| kind |") :], re.MULTILINE))))
    assert {*verify.WRONG, "known", "torn", "time", "stray", "note"} <= kinds


@pytest.mark.parametrize("tool", TOOLBOX.tools, ids=lambda tool: tool.name)
def test_each_tool_looks_or_plans_and_has_help(tool: object) -> None:
    command = cli.get_command(click.Context(cli), "log")
    assert isinstance(command, click.Group)
    found = next(one for one in TOOLBOX.tools if one is tool)
    assert (found.look is None) != (found.plan is None)
    assert command.commands[found.name].help
