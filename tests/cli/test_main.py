"""The command itself: options, exit codes, errors, and what it does not load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mqsdk import errors
from mqsdk.cli import exits, main
from mqsdk.cli.main import COMMANDS, LATER, cli
from mqsdk.cli.session import Session
from mqsdk.errors import MqError
from tests.cli.harness import Broker
from tests.processes import MQSDK, environment, mqsdk


def rejected() -> errors.PublishRejected:
    return errors.PublishRejected("no", code="full")


def because(cause: errors.BackendError) -> errors.PublishRejected:
    error = rejected()
    error.__cause__ = cause
    return error


EXITS: list[tuple[MqError, int]] = [
    (exits.NotFound("x"), 6),
    (exits.Refused("x"), 5),
    (errors.ConfigError("x"), 3),
    (errors.MissingExtra("kafka"), 3),
    (errors.DeclarationError("x"), 3),
    (errors.Unavailable("x"), 4),
    (errors.AccessDenied("x"), 4),
    (errors.BackendError("x"), 4),
    (errors.CapabilityError("x"), 5),
    (errors.StateError("x"), 5),
    (errors.UnsafeBackend("x", finding="partitions"), 5),
    (errors.Corrupt("x"), 1),
    (rejected(), 1),
    (errors.PublishRejected("x", code="no_route"), 3),
    (errors.PublishManyFailed("x", outcomes=[errors.PublishRejected("x", code="no_route")] * 2), 3),
    (errors.PublishManyFailed("x", outcomes=[errors.PublishRejected("x", code="no_route"), rejected()]), 1),
    (because(errors.Unavailable("x")), 4),
    (because(errors.UnsafeBackend("x", finding="root")), 5),
    (errors.InvalidMessage("x", field="key"), 1),
    (errors.PublishUnknown("x"), 7),
    (errors.PublishManyFailed("x", outcomes=[rejected()]), 1),
    (errors.PublishManyFailed("x", outcomes=[rejected(), errors.PublishUnknown("x")]), 7),
]


@pytest.mark.parametrize(("error", "code"), EXITS, ids=lambda value: type(value).__name__ if isinstance(value, MqError) else str(value))
def test_every_kind_of_error_has_its_exit_code(error: MqError, code: int) -> None:
    assert exits.exit_code(error) == code


def raising(error: BaseException) -> tuple[int, str, str]:
    """What a command that raises this ends with, and prints."""
    session = Session()

    def fail() -> None:
        raise error

    code = main._guarded(session, [], fail)
    return code, "", ""


def test_an_error_has_its_three_parts_on_stderr(broker: Broker) -> None:
    found = broker.mqsdk("peek", "nothing")
    assert found.out == ""
    assert found.err == "error: there is no topic nothing\n  cluster local\n  none exists yet\n"


def test_with_json_an_error_is_the_one_document_on_stdout(broker: Broker) -> None:
    found = broker.mqsdk("peek", "nothing", "--json")
    assert found.err == ""
    assert found.error == {"type": "NotFound", "what": "there is no topic nothing", "where": "cluster local", "fix": "none exists yet"}


@pytest.mark.parametrize("words", [("--json", "topics"), ("topics", "--json"), ("--json", "topics", "--json"), ("topics", "--json", "o*")])
def test_common_options_work_before_and_after_the_command(broker: Broker, words: tuple[str, ...]) -> None:
    assert broker.mqsdk(*words).document == {"topics": []}


def test_the_later_of_two_common_options_wins(broker: Broker, folder: Path) -> None:
    (folder / "good.yaml").write_text("app: shop\n")
    (folder / "good.yaml").chmod(0o600)
    assert broker.mqsdk("--config", "missing.yaml", "topics", "--config", "good.yaml", "--json").code == 0
    assert broker.mqsdk("--config", "good.yaml", "topics", "--config", "missing.yaml", "--json").code == 3


def test_an_environment_selects_its_profile(broker: Broker, folder: Path) -> None:
    (folder / "mqsdk.yaml").write_text('profiles: {test: {routes: [{topics: ["only"], cluster: local}]}}\n')
    (folder / "mqsdk.yaml").chmod(0o600)
    assert broker.mqsdk("publish", "other", "x").code == 0
    assert broker.mqsdk("--env", "test", "publish", "other", "x", "--json").error["type"] == "PublishRejected"


@pytest.mark.parametrize("words", [("frobnicate",), ("topics", "--frobnicate"), ("lag", "--max-age", "30"), ("peek",), ("--timeout", "x")])
def test_a_wrong_call_is_exit_2_also_as_json(broker: Broker, words: tuple[str, ...]) -> None:
    assert broker.mqsdk(*words).code == 2
    found = broker.mqsdk(*words, "--json")
    assert found.code == 2
    assert found.error["what"]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("pubish", "t", "x"), "there is no command `pubish`, did you mean publish?"),
        (("xyzzy",), "there is no command `xyzzy`"),
        (("topics", "--bogus"), "there is no option --bogus"),
        (("peek", "t", "--parttion", "1"), "there is no option --parttion, did you mean --partition?"),
        (("--vrebose", "topics"), "there is no option --vrebose, did you mean --verbose?"),
    ],
)
def test_a_name_that_is_near_is_offered_and_no_other(broker: Broker, words: tuple[str, ...], what: str) -> None:
    assert broker.mqsdk(*words, "--json").error["what"] == what


def test_without_a_command_the_help_is_shown_and_the_call_was_wrong(broker: Broker) -> None:
    found = broker.mqsdk()
    assert found.code == 2
    assert "Commands:" in found.err


@pytest.mark.parametrize("name", LATER)
def test_commands_of_later_versions_are_refused_not_listed(broker: Broker, name: str) -> None:
    found = broker.mqsdk(name, "--json")
    assert (found.code, "not in this version" in found.error["what"]) == (5, True)
    assert f"\n  {name} " not in broker.mqsdk("--help").out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_has_help_and_takes_the_common_options(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.help
    leaves = list(command.commands.values()) if isinstance(command, click.Group) else [command]
    for leaf in [command, *leaves]:
        options = {option for parameter in leaf.params for option in parameter.opts}
        if leaf.name != "release":
            assert {"--config", "--env", "--json", "--timeout", "-q", "-v"} <= options, leaf.name


def test_help_lists_each_command_with_one_line(broker: Broker) -> None:
    shown = broker.mqsdk("--help")
    assert shown.code == 0
    assert [line.split()[0] for line in shown.out.partition("Commands:\n")[2].splitlines() if line] == list(COMMANDS)


def test_a_defect_is_said_with_its_traceback_and_no_exit_code_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, _ = raising(RuntimeError("x"))
    assert code == exits.DEFECT
    assert "RuntimeError" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_ctrl_c_is_130(error: BaseException) -> None:
    assert raising(error)[0] == exits.INTERRUPTED


# --- as a process ----------------------------------------------------------------------------------------------------------------


def test_a_reader_that_leaves_is_no_error(folder: Path) -> None:
    lines = "\n".join(f"line {number}" for number in range(20_000))
    published = subprocess.run(
        [*MQSDK, "publish", "t", "--lines"], cwd=folder, env=environment(folder), input=lines, text=True, check=False
    )
    assert published.returncode == 0
    command = f"{' '.join(MQSDK)} peek t -n 20000 --json | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["topic"] == "t"


def test_piped_output_never_loads_rich_and_looking_never_loads_the_app_of_a_user(folder: Path) -> None:
    assert mqsdk(folder, "publish", "t", "x").returncode == 0
    script = (
        "import sys\n"
        "from mqsdk.cli.main import cli\n"
        "try:\n    cli.main(sys.argv[1:])\nfinally:\n"
        "    print([name for name in ('rich', 'asyncio', 'pydantic') if name in sys.modules], file=sys.stderr)\n"
    )
    for words in (["topics"], ["topics", "--json"], ["peek", "t"], ["publish", "t", "--lines"], ["lag"]):
        done = subprocess.run(
            [sys.executable, "-c", script, *words],
            cwd=folder,
            env=environment(folder),
            input="a\n",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-1] == "[]", words


def test_help_takes_less_than_100_ms_of_processor_time(folder: Path) -> None:
    """Measured in processor time, because the wall clock of a loaded machine says nothing; three times the bound of the product."""
    used = []
    for _ in range(3):
        process = subprocess.Popen([*MQSDK, "--help"], cwd=folder, env=environment(folder), stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        used.append(usage.ru_utime + usage.ru_stime)
    assert min(used) < 0.3


def test_the_terminal_gets_a_table_drawn_by_rich(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.topic("orders")
    monkeypatch.setattr("mqsdk.cli.output.Output.draws", True)
    drawn = broker.mqsdk("topics").out
    assert "orders" in drawn
    assert "─" in drawn


def test_help_of_the_runner_is_the_same_as_of_the_process() -> None:
    assert CliRunner().invoke(cli, ["--help"]).output.startswith("Usage: mqsdk")


APP = """
from mqsdk import App
app = App()

@app.consumer("orders", group="billing")
def bill(order: str) -> None: ...
"""


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ('routes: [{topics: ["other"], cluster: local}]', 3),
        ("clusters: {local: {backend: log, path: ./file}}", 4),
        ("clusters: {local: {backend: log, path: ./file/log}}", 4),
        ("clusters: {local: {backend: log, path: ./link}}", 5),
    ],
)
def test_one_cause_has_one_exit_code_whatever_command_meets_it(folder: Path, config: str, code: int) -> None:
    (folder / "mqsdk.yaml").write_text(config + "\n")
    (folder / "mqsdk.yaml").chmod(0o600)
    (folder / "shop.py").write_text(APP)
    (folder / "file").write_text("")
    (folder / "link").symlink_to(folder / "elsewhere", target_is_directory=True)
    (folder / "elsewhere").mkdir()
    calls: list[tuple[tuple[str, ...], str]] = [
        (("publish", "orders", "x"), ""),
        (("publish", "orders", "--lines"), "a\nb\n"),
        (("lag", "orders"), ""),
        (("peek", "orders"), ""),
        (("groups", "ensure", "orders", "billing", "--yes"), ""),
        (("dlq", "list", "orders", "billing"), ""),
        (("run", "shop:app"), ""),
        *([(("check", "--app", "shop:app"), "")] if code == 3 else [(("topics",), "")]),
    ]
    for words, given in calls:
        done = subprocess.run(
            [*MQSDK, *words], cwd=folder, env=environment(folder), input=given, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, (words, done.stderr)


@pytest.mark.parametrize(
    ("path", "what", "fix"),
    [
        ("./file/log", "a file is in its place or above it", "another `path`"),
        ("./file", "a file is in its place or above it", "another `path`"),
        ("/proc/log", "No such file or directory", "another `path`"),
        ("/sys", "cannot be used", "check owner and mode"),
    ],
)
def test_a_folder_that_cannot_hold_a_log_is_named_with_a_fix(folder: Path, path: str, what: str, fix: str) -> None:
    (folder / "mqsdk.yaml").write_text(f"clusters: {{local: {{backend: log, path: {path}}}}}\n")
    (folder / "mqsdk.yaml").chmod(0o600)
    (folder / "file").write_text("")
    error = json.loads(mqsdk(folder, "topics", "--json").stdout)["error"]
    assert (what in error["what"], fix in error["fix"]) == (True, True), error
    assert error["where"] == f"cluster local (log), {(folder / path).absolute()}"
