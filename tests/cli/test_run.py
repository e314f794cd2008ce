"""`run`, `ps`, `reload`, `stacks`: real processes and real signals on a real log."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from mqsdk.runtime import control
from tests.processes import MQSDK, PATIENCE_S, Running, environment, mqsdk

APP = """
import os, threading
from mqsdk import App
app = App()

@app.consumer("hello", group="printer")
def greet(name: str) -> None:
    os.write(1, f"hello {name} from {os.getpid()}\\n".encode())  # one write: a pipe is shared, and an unbuffered print makes several

@app.consumer("slow", group="sleeper")
def sleep(name: str) -> None:
    print("sleeping", flush=True)
    threading.Event().wait(600)
"""


@pytest.fixture
def app(folder: Path) -> Path:
    (folder / "hello.py").write_text(APP)
    return folder


def start(folder: Path, *words: str) -> Running:
    return Running([*MQSDK, "run", "hello:app", *words], folder)


def ps(folder: Path) -> list[dict[str, Any]]:
    found = json.loads(mqsdk(folder, "ps", "--json").stdout)["processes"]
    assert isinstance(found, list)
    return found


def running_pids(folder: Path, count: int) -> list[int]:
    """Pids of the running processes, once all `count` are RUNNING."""
    deadline = time.monotonic() + PATIENCE_S
    state_folder = Path(environment(folder)["MQSDK_STATE"])
    while time.monotonic() < deadline:
        replies = control.ask_all("status", state_folder)
        if [reply.document.get("state") for reply in replies] == ["RUNNING"] * count:
            return [reply.pid for reply in replies]
    raise AssertionError(f"not {count} running: {control.ask_all('status', state_folder)}")


def test_hello_runs_and_a_signal_ends_it_with_0(app: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with start(app) as consumer:
            assert mqsdk(app, "publish", "hello", f"world{int(number)}").returncode == 0
            consumer.wait_for(f"hello world{int(number)}")
            consumer.process.send_signal(number)
            assert consumer.process.wait(PATIENCE_S) == 0
    assert mqsdk(app, "lag", "hello", "printer", "--max-messages", "0").returncode == 0


def test_the_start_line_says_app_cluster_durability_and_consumers(app: Path) -> None:
    with start(app) as consumer:
        line = consumer.wait_for("consumers hello/printer, slow/sleeper")
        assert f"app app, pid {consumer.pid}" in line
        assert "cluster local (log, path ./.mqsdk, durability interval)" in line


def test_a_second_signal_ends_a_drain_that_a_handler_holds_up(app: Path) -> None:
    with start(app) as consumer:
        mqsdk(app, "publish", "slow", "x")
        consumer.wait_for("sleeping")
        consumer.process.send_signal(signal.SIGTERM)
        consumer.wait_for("stopping after SIGTERM")
        consumer.process.send_signal(signal.SIGTERM)
        assert consumer.process.wait(PATIENCE_S) == 0
        consumer.wait_for("1 handlers were cut short")
    assert mqsdk(app, "lag", "slow", "sleeper", "--max-messages", "0").returncode == 1


def test_a_signal_while_the_application_is_imported_ends_with_0(folder: Path) -> None:
    (folder / "hello.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(600)\n")
    with start(folder) as consumer:
        consumer.wait_for("importing")
        assert consumer.stop() == 0
    assert not (folder / ".mqsdk").exists()


UNWATCHED = "reload: {watch: false}\n"
HOOKED = (
    APP
    + """
@app.on_startup
def up() -> None:
    raise LookupError("nothing there")
"""
)
HOOKED_ASYNC = HOOKED.replace("def up", "async def up")


@pytest.mark.parametrize("code", [HOOKED, HOOKED_ASYNC])
@pytest.mark.parametrize("words", [(), ("--processes", "2")])
def test_an_on_startup_hook_that_fails_is_named_and_no_defect_of_mqsdk(folder: Path, code: str, words: tuple[str, ...]) -> None:
    (folder / "hello.py").write_text(code)
    done = mqsdk(folder, "run", "hello:app", *words)
    assert done.returncode == 3, done.stderr
    assert "on_startup hook `up` failed with LookupError" in done.stderr
    assert f"{folder / 'hello.py'}:" in done.stderr
    assert "defect" not in done.stderr
    assert "click" not in done.stderr


def test_the_log_is_read_as_the_page_shows_it(app: Path) -> None:
    """Milliseconds, one line for all partitions that come together, and a last line."""
    with start(app, "--only", "printer") as consumer:
        consumer.wait_for("running")
        assert consumer.stop() == 0
        consumer.wait_for("INFO mqsdk.app: stopped, 0 cut short")
    lines = [line for line in consumer.lines if "INFO" in line]
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{3} \[\d+\] INFO mqsdk\.", line) for line in lines), lines
    assert [line.partition("hello/printer: ")[2] for line in lines if "assigned" in line] == ["partitions 0-7 assigned"]


def test_a_process_that_ps_cannot_see_says_so(app: Path) -> None:
    """Without a state folder it runs, and nobody would know why it is missing from `ps`."""
    with Running([*MQSDK, "run", "hello:app"], app, environ={**environment(app), "MQSDK_STATE": str(app / "hello.py")}) as consumer:
        line = consumer.wait_for("no control socket")
        assert ("WARNING" in line, "hello.py" in line, "set MQSDK_STATE" in line) == (True, True, True)
        consumer.wait_for("running")
        assert consumer.stop() == 0


def test_only_starts_the_named_groups(app: Path) -> None:
    with start(app, "--only", "printer") as consumer:
        assert "slow/sleeper" not in consumer.wait_for("consumers hello/printer")
        consumer.wait_for("running")
        (process,) = ps(app)
        assert [one["group"] for one in process["consumers"]] == ["printer"]
        assert consumer.stop() == 0


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("run", "gone:app"), 6, "no module gone"),
        (("run", "hello:nothing"), 6, "did you mean hello:app"),
        (("run", "hello"), 2, "hello:app"),
        (("run", "hello:app", "--only", "printr"), 6, "printr"),
        (("run", "hello:app", "--only", "printr", "--processes", "2"), 6, "printr"),
        (("run", "hello:app", "--config", "gone.yaml"), 3, "gone.yaml"),
        (("run", "hello:app", "--processes", "0"), 2, "processes"),
        (("run", "hello:app", "--config", "nolog.yaml"), 4, "cluster local"),
        (("publish", "hello", "world", "--config", "nolog.yaml"), 4, ""),
        (("topics", "--config", "nolog.yaml"), 4, "cluster local"),
    ],
)
def test_what_cannot_run_ends_with_its_code_and_says_why(app: Path, words: tuple[str, ...], code: int, text: str) -> None:
    (app / "file").write_text("")
    (app / "nolog.yaml").write_text("clusters: {local: {backend: log, path: ./file/log}}\n")
    (app / "nolog.yaml").chmod(0o600)
    done = mqsdk(app, *words)
    assert (done.returncode, text in done.stderr) == (code, True), done.stderr


def test_with_json_each_log_line_is_a_document_and_stdout_is_the_applications(app: Path) -> None:
    mqsdk(app, "publish", "hello", "world")
    command = [*MQSDK, "run", "hello:app", "--json"]
    with subprocess.Popen(command, cwd=app, env=environment(app), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("hello world")
        process.send_signal(signal.SIGTERM)
        lines = [json.loads(line) for line in process.stderr.read().splitlines()]
        assert process.wait(PATIENCE_S) == 0
    assert {"time", "level", "logger", "message", "pid"} <= set(lines[0])
    assert any("consumers hello/printer" in line["message"] for line in lines)


# --- several processes -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_several_processes_share_the_work_and_a_killed_one_comes_back(app: Path) -> None:
    with start(app, "--processes", "2", "--only", "printer") as parent:
        victim, survivor = running_pids(app, 2)
        assert parent.pid not in (victim, survivor)
        os.kill(victim, signal.SIGKILL)
        parent.wait_for(f"process {victim} was killed by signal 9")
        first, second = running_pids(app, 2)
        assert survivor in (first, second)
        assert victim not in (first, second)
        subprocess.run([*MQSDK, "publish", "hello", "--lines"], cwd=app, env=environment(app), input="a\nb\nc\n", text=True, check=True)
        for name in "abc":
            parent.wait_for(f"hello {name} from")
        assert parent.stop() == 0
    assert ps(app) == []
    assert mqsdk(app, "lag", "hello", "printer", "--max-messages", "0").returncode == 0


# --- looking into processes ------------------------------------------------------------------------------------------------------


def test_ps_reload_and_stacks_reach_a_running_process(app: Path) -> None:
    (app / "mqsdk.yaml").write_text("app: shop\ndefaults: {concurrency: 2}\n" + UNWATCHED)
    (app / "mqsdk.yaml").chmod(0o600)
    mqsdk(app, "publish", "slow", "x")
    with start(app, "--only", "sleeper") as consumer:
        consumer.wait_for("sleeping")
        (process,) = ps(app)
        assert (process["pid"], process["app"], process["state"], process["config"]) == (consumer.pid, "shop", "RUNNING", 1)
        assert process["behind"] is None
        assert process["sdk"] == version("mqsdk")
        assert [(one["topic"], one["group"], one["concurrency"]) for one in process["consumers"]] == [("slow", "sleeper", 2)]
        (running,) = json.loads(mqsdk(app, "stacks", str(consumer.pid), "--json").stdout)["processes"]
        (handler,) = running["handlers"]
        assert (handler["topic"], handler["group"]) == ("slow", "sleeper")
        assert "in sleep" in handler["stack"]
        assert "hello.py" in mqsdk(app, "stacks").stdout
        (app / "mqsdk.yaml").write_text("app: shop\ndefaults: {concurrency: 4}\n" + UNWATCHED)
        shown = mqsdk(app, "reload", str(consumer.pid))
        assert (shown.returncode, "defaults.concurrency: 2 -> 4" in shown.stdout) == (0, True)
        assert ps(app)[0]["consumers"][0]["concurrency"] == 4
        (app / "mqsdk.yaml").write_text("app: other\n" + UNWATCHED)
        refused = mqsdk(app, "reload", "all", "--json")
        assert refused.returncode == 1
        error = json.loads(refused.stdout)["processes"][0]["error"]
        assert (error["type"], error["where"]) == ("ConfigError", "mqsdk.yaml")
        assert [(one["key"], one["file"]) for one in error["problems"]] == [("app", "mqsdk.yaml")]
        (process,) = ps(app)
        assert (process["config"], process["behind"]) == (2, error), "it says why it does not follow"
        (app / "mqsdk.yaml").write_text("app: shop\ndefaults:\n  conncurrency: 4\n" + UNWATCHED)
        shown = mqsdk(app, "reload")
        assert shown.stdout.splitlines() == [
            f"{consumer.pid}  refused: the configuration has 1 problem",
            "    mqsdk.yaml:3:3: defaults.conncurrency: unknown key (did you mean `concurrency`?)",
        ]
        _, row, *why = mqsdk(app, "ps").stdout.splitlines()
        assert row.split()[:5] == [str(consumer.pid), "shop", "RUNNING", "2", "(behind)"]
        assert why == [
            f"{consumer.pid} does not follow its configuration: the configuration has 1 problem",
            "    mqsdk.yaml:3:3: defaults.conncurrency: unknown key (did you mean `concurrency`?)",
        ]
        # In the log of the process each problem has a line of its own, too.
        consumer.wait_for("    mqsdk.yaml:3:3: defaults.conncurrency: unknown key")
        (app / "mqsdk.yaml").write_text("app: shop\ndefaults: {concurrency: 4}\n" + UNWATCHED)
        assert mqsdk(app, "reload").returncode == 0
        assert ps(app)[0]["behind"] is None


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_start_says_what_holds_on_each_cluster(app: Path) -> None:
    with start(app) as consumer:
        assert "survives kill -9" in consumer.wait_for("cluster local: log `interval`")
        assert consumer.stop() == 0


def test_running_processes_follow_the_file_by_themselves(app: Path) -> None:
    config = app / "mqsdk.yaml"
    config.write_text("app: shop\ndefaults: {concurrency: 2}\nreload: {every: 100ms}\n")
    config.chmod(0o600)
    with start(app, "--processes", "2") as parent:
        wait_until(lambda: len([one for one in ps(app) if one["state"] == "RUNNING"]) == 2)
        new = app / "new"
        new.write_text("app: shop\ndefaults: {concurrency: 5}\nreload: {every: 100ms}\n")
        new.chmod(0o600)
        new.rename(config)
        wait_until(lambda: all(one["concurrency"] == 5 for process in ps(app) for one in process["consumers"]))
        assert [process["config"] for process in ps(app)] == [2, 2]
        parent.wait_for("configuration: defaults.concurrency: 2 -> 5")
        config.write_text("app: [")
        parent.wait_for("reload refused")
        assert {one["state"] for one in ps(app)} == {"RUNNING"}
        assert parent.stop() == 0


def test_a_process_that_is_not_there_is_exit_6(folder: Path) -> None:
    assert mqsdk(folder, "ps").stderr == "no mqsdk process is running\n"
    assert mqsdk(folder, "reload", "99999999").returncode == 6
    assert mqsdk(folder, "stacks", "x").returncode == 2


def test_tail_follows_until_ctrl_c_which_is_0(folder: Path) -> None:
    mqsdk(folder, "publish", "hello", "before")
    with Running([*MQSDK, "tail", "hello", "--key", "k", "--body", "--json"], folder) as tail:
        deadline = time.monotonic() + PATIENCE_S
        while not tail.lines and time.monotonic() < deadline:  # published again until it follows: nothing says that it has begun
            mqsdk(folder, "publish", "hello", "after", "--key", "k")
            mqsdk(folder, "publish", "hello", "other", "--key", "other")
        line = json.loads(tail.wait_for("after"))
        assert (line["key"], line["body"]) == ("k", "after")
        tail.process.send_signal(signal.SIGINT)
        assert tail.process.wait(PATIENCE_S) == 0
        assert all(json.loads(line)["body"] == "after" for line in tail.lines)
