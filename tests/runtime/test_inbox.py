"""The inbox: what was handled is not handled again, as far as its file says; nothing more is promised."""

from __future__ import annotations

import asyncio
import logging
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mqsdk.config.model import InboxRule
from mqsdk.core.actions import Failure
from mqsdk.errors import ConfigError
from mqsdk.message import Call, Origin
from mqsdk.runtime.inbox import Inbox
from mqsdk.spi import Record
from mqsdk.testing.simlog import SimLog
from tests.runtime.test_supervisor import BOUND_S, MEMORY_ONLY, Process, Recorder

DAY_MS = 86_400_000


class Wall:
    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now


class Users:
    """A handler that notes ids and fails those that it is told to."""

    def __init__(self, is_async: bool = False, batch: bool = False) -> None:
        self.is_async, self.batch = is_async, batch
        self.bad: set[str] = set()
        self.seen: list[str] = []

    def invoke(self, call: Call) -> Failure | None:
        self.seen.append(call.record.id)
        return Failure("error", "ValueError: no") if call.record.id in self.bad else None

    async def invoke_async(self, call: Call) -> Failure | None:
        return self.invoke(call)

    def invoke_batch(self, call: Call) -> Sequence[tuple[int, Failure]]:
        self.seen += [record.id for record in call.records]
        return [(index, Failure("error", "ValueError: no")) for index, record in enumerate(call.records) if record.id in self.bad]

    async def invoke_batch_async(self, call: Call) -> Sequence[tuple[int, Failure]]:
        return self.invoke_batch(call)


def call(*ids: str | None) -> Call:
    made = Call()
    made.origin = Origin("orders", "billing", "main", 3, 1)
    made.records = [Record(position, None, b"x", id=one) for position, one in enumerate(ids)]
    made.record = made.records[0]
    return made


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Inbox]]:
    opened: list[Inbox] = []

    def open_one(consumer: str = "orders/billing", wall: Callable[[], int] | None = None, ttl_s: float = 86_400.0) -> Inbox:
        opened.append(Inbox(InboxRule(path=str(tmp_path / "inbox.db"), ttl_s=ttl_s), consumer, wall or Wall()))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


Make = Callable[..., Inbox]


def test_a_repeat_is_not_handled_again_and_a_failed_one_is(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    users = Users()
    handler = make().before(users)
    users.bad = {"m-1"}
    assert handler.invoke(call("m-1")) is not None
    users.bad = set()
    caplog.set_level(logging.INFO, "mqsdk.consumer")
    assert [handler.invoke(call("m-1")) for _ in range(3)] == [None] * 3
    assert users.seen == ["m-1", "m-1"]
    assert "message m-1 was handled before" in caplog.text


def test_each_consumer_of_a_file_has_ids_of_its_own(make: Make) -> None:
    mine, other = Users(), Users()
    make().before(mine).invoke(call("m-1"))
    make("orders/search").before(other).invoke(call("m-1"))
    assert (mine.seen, other.seen) == (["m-1"], ["m-1"])


def test_processes_that_open_the_same_file_share_it(make: Make) -> None:
    make().add(["m-1"])
    assert make().known(["m-1", "m-2"]) == {"m-1"}


def test_a_foreign_message_has_its_place_for_an_id(make: Make) -> None:
    users, inbox = Users(), make()
    inbox.before(users).invoke(call(None))
    assert inbox.known(["main:orders:3:0"]) == {"main:orders:3:0"}


def test_an_id_is_remembered_for_its_ttl_and_then_removed(make: Make, tmp_path: Path) -> None:
    wall = Wall()
    inbox = make(wall=wall)
    inbox.add(["old"])
    wall.now += DAY_MS
    assert inbox.known(["old"]) == {"old"}
    wall.now += 1
    assert inbox.known(["old"]) == set()
    inbox.add(["new"])
    with sqlite3.connect(tmp_path / "inbox.db") as file:
        assert file.execute("SELECT id FROM handled").fetchall() == [("new",)]


def test_more_ids_than_a_query_takes_are_asked_in_parts(make: Make) -> None:
    inbox, ids = make(), [f"m-{number}" for number in range(1200)]
    inbox.add(ids)
    assert inbox.known([*ids, "other"]) == set(ids)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_batch_leaves_out_what_is_known_and_failures_keep_their_places(make: Make, is_async: bool) -> None:
    users, inbox = Users(is_async=is_async, batch=True), make()
    inbox.add(["a", "c"])
    handler = inbox.before(users)
    users.bad = {"d"}
    given = call("a", "b", "c", "d")
    failures = asyncio.run(handler.invoke_batch_async(given)) if is_async else handler.invoke_batch(given)
    assert [index for index, _ in failures] == [3]
    assert users.seen == ["b", "d"]
    assert inbox.known(["b", "d"]) == {"b"}
    again = call("a", "b")
    assert list(asyncio.run(handler.invoke_batch_async(again)) if is_async else handler.invoke_batch(again)) == []
    assert users.seen == ["b", "d"]


def test_an_async_handler_is_asked_for_in_the_same_way(make: Make) -> None:
    users = Users(is_async=True)
    handler = make().before(users)
    users.bad = {"m-1"}
    assert asyncio.run(handler.invoke_async(call("m-1"))) is not None
    users.bad = set()
    assert [asyncio.run(handler.invoke_async(call("m-1"))) for _ in range(2)] == [None, None]
    assert users.seen == ["m-1", "m-1"]


@pytest.mark.parametrize(("is_async", "batch"), [(False, False), (True, False), (False, True), (True, True)])
def test_what_cannot_be_looked_up_is_a_failed_attempt_and_is_not_run(
    make: Make, is_async: bool, batch: bool, caplog: pytest.LogCaptureFixture
) -> None:
    users, inbox = Users(is_async, batch), make()
    handler = inbox.before(users)
    inbox.close()
    method = getattr(handler, "invoke" + ("_batch" if batch else "") + ("_async" if is_async else ""))
    result = asyncio.run(method(call("m-1"))) if is_async else method(call("m-1"))
    failure = result[0][1] if batch else result
    assert failure.error.startswith("InboxError: ")
    assert users.seen == []
    assert "its inbox cannot be read" in caplog.text


def test_what_cannot_be_noted_is_handled_all_the_same_and_told(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    users, inbox = Users(), make()
    monkeypatch.setattr(Inbox, "add", full)
    assert inbox.before(users).invoke(call("m-1")) is None
    assert "1 handled messages are not in its inbox: database or disk is full" in caplog.text


def test_what_was_noted_survives_kill_9(make: Make, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\nfrom mqsdk.config.model import InboxRule\nfrom mqsdk.runtime.inbox import Inbox\n"
        "inbox = Inbox(InboxRule(path=sys.argv[1], ttl_s=60), 'orders/billing', lambda: 1_700_000_000_000)\n"
        "inbox.add(['m-1'])\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "inbox.db")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert make().known(["m-1"]) == {"m-1"}


def test_two_consumers_of_a_process_do_not_take_the_file_from_each_other(tmp_path: Path) -> None:
    """Closing a descriptor of a file drops all locks that the process has on it: another process would take itself for the last one."""
    path = tmp_path / "inbox.db"
    rule = InboxRule(path=str(path), ttl_s=1e9)
    first, second = Inbox(rule, "a/b", Wall()), Inbox(rule, "c/d", Wall())
    first.add(["here"])
    script = (
        "import sys\nfrom mqsdk.config.model import InboxRule\nfrom mqsdk.runtime.inbox import Inbox\n"
        "inbox = Inbox(InboxRule(path=sys.argv[1], ttl_s=1e9), 'a/b', lambda: 1_700_000_000_000)\n"
        "assert inbox.known(['here']) == {'here'}\ninbox.add(['there'])\ninbox.close()\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert first.known(["here", "there"]) == {"here", "there"}
    first.add(["again"])
    subprocess.run([sys.executable, "-c", script.replace("'here'", "'again'"), str(path)], check=True)
    first.close()
    second.close()


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database, " * 100)
    for path in (tmp_path / "missing" / "inbox.db", tmp_path / "text.db"):
        with pytest.raises(ConfigError, match="the inbox of consumer orders/billing cannot be opened") as caught:
            Inbox(InboxRule(path=str(path), ttl_s=60), "orders/billing", Wall())
        assert caught.value.where == str(path)


def test_a_message_that_was_published_twice_is_handled_once(tmp_path: Path) -> None:
    rule = {"path": str(tmp_path / "inbox.db"), "ttl_s": 60.0}
    process = Process(SimLog(), configuration=replace(MEMORY_ONLY, defaults={"inbox": rule}))
    handler = Recorder()
    process.start(handler)
    process.publish("orders", "m-1", "m-2")
    process.wait(lambda: process.lag() == 0)
    process.supervisor.stop(BOUND_S)
    process.start(handler)
    process.publish("orders", "m-2", "m-3")
    process.wait(lambda: process.lag() == 0)
    assert sorted(handler.seen) == [(b"m-1", 1), (b"m-2", 1), (b"m-3", 1)]
    process.supervisor.close(BOUND_S)


@pytest.mark.parametrize(("spec", "what"), [({"broadcast": True}, "is a broadcast"), ({"isolation": object()}, "runs in worker processes")])
def test_who_could_not_use_an_inbox_has_none(tmp_path: Path, spec: dict[str, Any], what: str) -> None:
    rule = {"path": str(tmp_path / "inbox.db"), "ttl_s": 60.0}
    process = Process(SimLog(), configuration=replace(MEMORY_ONLY, defaults={"inbox": rule}))
    with pytest.raises(ConfigError, match=f"{what} and has an inbox"):
        process.start(Recorder(), **spec)
    process.supervisor.close(BOUND_S)
