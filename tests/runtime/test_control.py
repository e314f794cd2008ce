"""Control sockets: one per process, for the same user, never in the way of the process."""

from __future__ import annotations

import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mqsdk.config import state
from mqsdk.errors import ConfigError
from mqsdk.runtime import control
from mqsdk.runtime.control import ControlServer, ask, ask_all

PID = os.getpid()


def status() -> Mapping[str, Any]:
    return {"pid": PID, "app": "shop", "state": "RUNNING"}


def refuse() -> Mapping[str, Any]:
    raise ConfigError("the file is wrong", where="mqsdk.yaml", fix="correct it")


def fail() -> Mapping[str, Any]:
    raise KeyError("secret detail")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ControlServer]:
    server = ControlServer({"status": status, "reload": refuse, "stacks": fail}, tmp_path)
    assert server.start()
    yield server
    server.close()


def test_a_process_answers_over_its_socket(server: ControlServer, tmp_path: Path) -> None:
    (reply,) = ask_all("status", tmp_path)
    assert (reply.pid, dict(reply.document)) == (PID, dict(status()))
    one = ask(PID, "status", tmp_path)
    assert one is not None
    assert one.document["app"] == "shop"
    assert ask(PID + 1, "status", tmp_path) is None


def test_it_answers_in_a_process_with_more_than_a_thousand_open_files(tmp_path: Path) -> None:
    """From outside: an application with a hundred topics was not to be seen by `mqsdk ps`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    held = [os.open(os.devnull, os.O_RDONLY)]
    server = ControlServer({"status": status}, tmp_path)
    try:
        while held[-1] < 1024:
            held.append(os.dup(held[0]))
        assert server.start()
        assert len(ask_all("status", tmp_path)) == 1
    finally:
        for descriptor in held:
            os.close(descriptor)
        server.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_folder_and_socket_are_private(server: ControlServer, tmp_path: Path) -> None:
    assert server.path is not None
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.path.parent.stat().st_mode) == 0o700
    assert [path.name for path in server.path.parent.iterdir()] == [server.path.name]  # nothing temporary is left


def test_a_refusal_comes_back_with_its_parts(server: ControlServer, tmp_path: Path) -> None:
    (reply,) = ask_all("reload", tmp_path)
    assert reply.document["error"] == {"type": "ConfigError", "what": "the file is wrong", "where": "mqsdk.yaml", "fix": "correct it"}


def test_a_defect_in_an_answer_ends_neither_server_nor_tells_its_text(server: ControlServer, tmp_path: Path) -> None:
    (reply,) = ask_all("stacks", tmp_path)
    assert reply.document["error"]["type"] == "KeyError"
    assert "secret" not in str(reply.document)
    assert ask_all("nonsense", tmp_path)[0].document["error"]["what"] == "unknown command"
    assert ask_all("status", tmp_path)[0].document["app"] == "shop"


def test_a_peer_that_says_nothing_or_leaves_does_not_hold_the_server(server: ControlServer, tmp_path: Path) -> None:
    assert server.path is not None
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(str(server.path))
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(server.path))
        assert ask_all("status", tmp_path)[0].document["app"] == "shop"  # after the silent one's second


def test_closing_removes_the_socket_and_ends_the_thread(tmp_path: Path) -> None:
    server = ControlServer({"status": status}, tmp_path)
    assert server.start()
    path = server.path
    server.close()
    server.close()
    assert path is not None
    assert not path.exists()
    assert not [thread for thread in threading.enumerate() if thread.name == "mqsdk-control"]
    assert ask_all("status", tmp_path) == []


def test_the_socket_of_a_killed_process_is_cleaned_up(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib\n"
        "from mqsdk.runtime.control import ControlServer\n"
        "server = ControlServer({'status': dict}, pathlib.Path(sys.argv[1])); server.start()\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert [reply.pid for reply in ask_all("status", tmp_path)] == [process.pid]
        process.send_signal(signal.SIGKILL)
    assert ask_all("status", tmp_path) == []
    assert list((tmp_path / control.FOLDER).iterdir()) == []


def test_a_path_longer_than_a_socket_address_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    server = ControlServer({"status": status}, deep)
    assert server.start()
    assert [reply.pid for reply in ask_all("status", deep)] == [PID]
    server.close()


def test_without_a_usable_folder_the_process_runs_without_a_socket(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    server = ControlServer({"status": status}, blocked)
    assert not server.start()
    server.close()


def test_what_is_no_socket_of_ours_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / control.FOLDER
    folder.mkdir()
    (folder / "notes.sock").write_text("mine")
    assert ask_all("status", tmp_path) == []
    assert (folder / "notes.sock").exists()


# --- the state folder ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"MQSDK_STATE": "/a", "XDG_STATE_HOME": "/b"}, "/a"),
        ({"XDG_STATE_HOME": "/b"}, "/b/mqsdk"),
        ({"XDG_STATE_HOME": "relative"}, str(Path.home() / ".local/state/mqsdk")),
        ({}, str(Path.home() / ".local/state/mqsdk")),
    ],
)
def test_the_state_folder_follows_its_variables(environ: dict[str, str], expected: str) -> None:
    assert str(state.state_folder(environ)) == expected


def test_a_folder_that_others_may_enter_is_closed_to_them(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o755)
    assert stat.S_IMODE(state.private_folder(folder).stat().st_mode) == 0o700
