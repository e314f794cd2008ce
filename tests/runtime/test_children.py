"""`run --processes N`: the parent starts, restarts, stops and counts its children."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mqsdk.runtime import children
from tests.processes import PATIENCE_S, Running

# A child says `up <pid>`, then does what its code says; the parent runs two of them and ends with their exit code.
PARENT = """
import os, sys
from mqsdk.runtime import children
children.FIRST_DELAY_S = 0.05
code = open("child.py").read()
def say(text): os.write(1, f"{text}\\n".encode())  # one write: all share the pipe, and an unbuffered print makes several
def report(line): say(f"report: {line}")
answer = children.Children(lambda fd: [sys.executable, "child.py", str(fd)], 2, report).run()
say(f"answer {answer}")
sys.exit(answer)
"""
WAITS = """
import os, signal, sys, threading
from mqsdk.runtime.children import stop_when_parent_dies
stopped = threading.Event()
signals = []
def handle(number, frame):
    signals.append(number)
    os.write(1, b"signal %d\\n" % len(signals))  # a print may be interrupted by a signal, but not begun again within itself
    stopped.set()
signal.signal(signal.SIGTERM, handle)
signal.signal(signal.SIGHUP, lambda *_: os.write(1, b"hup\\n"))
stop_when_parent_dies(int(sys.argv[1]))
os.write(1, b"up %d\\n" % os.getpid())
while not stopped.wait(0.1):
    pass
"""


class Parent(Running):
    """The parent process and what it and its children print."""

    def starts(self, count: int) -> list[int]:
        """Pids of the children, once `count` have been started."""
        return [int(line.split()[1]) for line in self.said("up ", count)]

    def said(self, text: str, count: int) -> list[str]:
        """The lines that begin with `text`, once there are `count`."""

        def found() -> list[str]:
            return [line for line in self.lines if line.startswith(text)]

        with self._changed:
            assert self._changed.wait_for(lambda: self._ended or len(found()) >= count, PATIENCE_S)
            assert len(found()) >= count, self.lines
            return found()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def answer(self) -> int:
        return self.process.wait(PATIENCE_S)


Start = Callable[[str], Parent]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(child: str) -> Parent:
            (tmp_path / "child.py").write_text(child)
            (tmp_path / "parent.py").write_text(PARENT)
            return stack.enter_context(Parent([sys.executable, "parent.py"], tmp_path, environ=dict(os.environ)))

        yield start


def test_a_first_signal_stops_all_children_and_the_answer_is_0(start: Start) -> None:
    parent = start(WAITS)
    parent.starts(2)
    parent.send(signal.SIGTERM)
    assert parent.answer() == 0
    assert len(parent.said("signal 1", 2)) == 2


def test_a_ctrl_c_reaches_each_child_once(start: Start) -> None:
    """A terminal sends it to the whole group in the foreground; twice would end the drain at once."""
    parent = start(WAITS)
    first, second = parent.starts(2)
    groups = {os.getpgid(first), os.getpgid(second), os.getpgid(parent.pid)}
    assert len(groups) == 3
    parent.send(signal.SIGINT)
    assert parent.answer() == 0
    assert len(parent.said("signal ", 2)) == 2


def test_a_child_that_is_killed_is_started_again(start: Start) -> None:
    parent = start(WAITS)
    victim, _ = parent.starts(2)
    os.kill(victim, signal.SIGKILL)
    assert len(set(parent.starts(3))) == 3
    assert parent.said(f"report: process {victim} was killed by signal 9", 1)
    parent.send(signal.SIGTERM)
    assert parent.answer() == 0


def test_a_hangup_is_passed_on_and_stops_nothing(start: Start) -> None:
    parent = start(WAITS)
    parent.starts(2)
    parent.send(signal.SIGHUP)
    parent.said("hup", 2)
    parent.send(signal.SIGTERM)
    assert parent.answer() == 0


def test_a_second_signal_is_passed_on_and_a_third_kills(start: Start) -> None:
    parent = start(WAITS.replace("stopped.set()", "len(signals)"))
    parent.starts(2)
    parent.send(signal.SIGTERM)
    parent.said("signal 1", 2)
    parent.send(signal.SIGTERM)
    parent.said("signal 2", 2)
    parent.send(signal.SIGTERM)
    assert parent.answer() == children.NOT_CLEAN


@pytest.mark.parametrize("code", sorted(children.FINAL))
def test_an_end_that_a_restart_does_not_change_stops_all(start: Start, code: int) -> None:
    parent = start(f"import sys; print('up 0', flush=True); sys.exit({code})")
    assert parent.answer() == code


def test_the_gravest_code_of_the_children_is_the_answer(start: Start) -> None:
    parent = start(WAITS + "try:\n    open('first', 'x')\nexcept FileExistsError:\n    sys.exit(0)\nsys.exit(8)")
    parent.starts(2)
    parent.send(signal.SIGTERM)
    assert parent.answer() == children.NOT_CLEAN


def test_the_watchdogs_code_three_times_in_a_row_is_the_answer(start: Start) -> None:
    parent = start(f"import sys; print('up 0', flush=True); sys.exit({children.WATCHDOG})")
    assert parent.answer() == children.WATCHDOG


def test_children_end_when_their_parent_is_killed(start: Start) -> None:
    parent = start(WAITS)
    parent.starts(2)
    parent.kill()
    assert len(parent.said("signal 1", 2)) == 2


def test_the_wait_before_a_restart_doubles_up_to_its_bound() -> None:
    assert [children.restart_delay(failures) for failures in (1, 2, 3, 6, 100)] == [1.0, 2.0, 4.0, 30.0, 30.0]
