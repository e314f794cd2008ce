"""A process that forks inside of any of its calls on files: the child is told, takes nothing along and frees nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from mqsdk_log.engine import files
from mqsdk_log.engine.errors import LogError, StaleHandle
from mqsdk_log.engine.log import Log

from tests.log.simfs.machine import SMALL, Machine, append, values


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_in_the_middle_of_any_call_harms_neither_the_parent_nor_the_child() -> None:
    with Machine() as machine:
        log = machine.open("always")
        partition: Any = log.create_topic("orders", 1).partition(0)
        append(partition, b"first")
        told: list[str] = []
        machine.system.watch = lambda: told.append(_in_child(lambda: _child(machine, partition)))
        sent = [bytes([65 + number]) * 200 for number in range(5)]
        for value in sent:
            append(partition, value, durable=True)
        partition.remove_before(3)
        machine.system.watch = None
        assert len(told) > 30
        assert set(told) == {"stale, locked", "stale, free"}  # with the parent's lock held, and without
        assert values(partition) == [b"first", *sent][-len(values(partition)) :]
        assert append(partition, b"last") == 6


def _child(machine: Machine, partition: Any) -> str:
    """It has the parent's handles, which are dead, and opens the log anew."""
    machine.system.watch = None
    try:
        append(partition, b"child")
        return "the parent's handle lives"
    except StaleHandle:
        pass
    log = Log.open(machine.system.path, durability="always", limits=SMALL)
    mine = log.topic("orders").partition(0)
    values(mine)
    try:
        files.flock(mine._lock_fd, files.LOCK_EX | files.LOCK_NB)
    except BlockingIOError:
        return "stale, locked"
    return "stale, free"


def _in_child(body: Callable[[], str]) -> str:
    receiver, sender = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            text = body()
        except (LogError, OSError, AssertionError) as error:
            text = repr(error)
        finally:
            os.write(sender, text.encode())
            os._exit(0)
    os.close(sender)
    with os.fdopen(receiver) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return text
