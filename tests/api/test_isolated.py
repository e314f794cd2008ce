"""`isolation="process"` with real worker processes: what a handler that dies, hangs or is cut off costs, and that none outlives its App."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mqsdk import App, DeclarationError, RetryPolicy
from mqsdk.core.retry import Backoff
from mqsdk.events import DeadLettered, Event, Retried, Stuck
from tests.api.conftest import Opener
from tests.processes import MQSDK, PATIENCE_S, Running, environment

QUICK = RetryPolicy(attempts=2, backoff=Backoff("1ms", jitter=0))
CODE = '''
import ctypes, json, logging, os, re, signal, subprocess, sys, time
from mqsdk import Message, Reject, Retry

def note(text):
    """One write, so that processes do not mix their lines."""
    file = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{text}\\n".encode())
    os.close(file)

def work(order: dict, message: Message) -> None:
    what = order["do"]
    note(f"{what} {os.getpid()} {message.attempt}")
    if what == "die":
        os.kill(os.getpid(), getattr(signal, order["by"]))
        time.sleep(60)
    elif what == "exit":
        os._exit(order["code"])
    elif what == "hang":
        note(f"started {subprocess.Popen(['sleep', '600']).pid}")
        time.sleep(600)
    elif what == "until cancelled":
        while not message.cancelled:
            time.sleep(0.005)
        note("stopped early")
    elif what == "native":
        re.match("(a+)+$", "a" * 60 + "b")  # holds the interpreter for longer than the universe has been there
    elif what == "log":
        logging.getLogger("shop").warning("a warning of %s", message.id, extra={"mq_id": message.id})
        logging.getLogger("shop").debug("a debug line")
    elif what == "tell":
        note(json.dumps([message.id, message.key, dict(message.headers), message.topic, message.group, message.remaining]))
    elif what == "fork":
        if os.fork() == 0:
            return
        os.wait()
        note("forked")
    elif what == "step":
        note(f"begin {message.key} {order['n']}")
        if order["n"] == 3 and message.attempt == 1:
            os._exit(1)
        note(f"end {message.key} {order['n']}")

async def work_async(order: dict) -> None:
    import asyncio
    await asyncio.sleep(0.001)
    note(f"async {os.getpid()}")

def wrapped(order: dict) -> None: ...
inner, wrapped = wrapped, lambda order: inner(order)
'''


class Shop:
    """The module of handlers, an App with one of them in worker processes, and what they noted."""

    def __init__(self, module: ModuleType, notes: Path, open_app: Opener) -> None:
        self.module = module
        self.notes = notes
        self.app = App()
        self.events: list[Event] = []
        self.app.observe(self.events.append)
        self._open = open_app

    def start(self, handler: str = "work", **options: Any) -> None:
        given = {"group": "billing", "retry": QUICK, "concurrency": 2, **options}
        self.app.consumer("orders", isolation="process", **given)(getattr(self.module, handler))
        self._open(self.app)
        self.app.start()

    def do(self, what: str, key: str | None = None, **more: Any) -> str:
        return self.app.publish("orders", {"do": what, **more}, key=key, headers={"h": "1"}).id

    def lines(self, begin: str = "") -> list[list[str]]:
        """What was noted, in words; lines that begin so."""
        text = self.notes.read_text() if self.notes.exists() else ""
        return [line.split() for line in text.splitlines() if line.startswith(begin)]

    def wait(self, begin: str, count: int = 1) -> list[list[str]]:
        until(lambda: len(self.lines(begin)) >= count)
        return self.lines(begin)

    def lose_all(self) -> None:
        """Every partition is handed back while its handlers run, and assigned anew."""
        assert self.app._session is not None
        ((_, loop),) = self.app._session.supervisor.loops
        loop.exchange(time.monotonic() + 0.02, lambda: None)

    def lag(self) -> int:
        return self.app.lag("orders", "billing").messages


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "condition not met in time"
        time.sleep(0.005)


def is_running(pid: int) -> bool:
    """A zombie of somebody else is not running."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found.update(map(int, (task / "children").read_text().split()))
    return {pid for pid in found if is_running(pid)}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_app: Opener) -> Iterator[Shop]:
    name = f"shop_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    before = children()
    made = Shop(importlib.import_module(name), tmp_path / "notes", open_app)
    yield made
    made.app.stop("0s")
    made.app.close()
    del sys.modules[name]
    assert children() <= before


def test_a_handler_runs_elsewhere_and_sees_the_delivery(shop: Shop) -> None:
    shop.start(timeout="1m")
    number = shop.do("tell", key="k")
    (line,) = shop.wait("[")
    found = json.loads(" ".join(line))
    assert found[:-1] == [number, "k", {"h": "1"}, "orders", "billing"]
    assert 0 < found[-1] <= 60
    assert int(shop.lines("tell")[0][1]) != os.getpid()
    until(lambda: shop.lag() == 0)


def test_async_handlers_run_in_worker_processes_too(shop: Shop) -> None:
    shop.start("work_async")
    shop.do("a")
    shop.do("b")
    assert os.getpid() not in {int(line[1]) for line in shop.wait("async", 2)}
    until(lambda: shop.lag() == 0)


@pytest.mark.parametrize(
    ("order", "how"),
    [
        ({"do": "die", "by": "SIGSEGV"}, "was killed by SIGSEGV"),
        ({"do": "die", "by": "SIGKILL"}, "was killed by SIGKILL"),
        ({"do": "exit", "code": 0}, "ended with exit code 0"),
    ],
)
def test_a_process_that_ends_is_one_failed_attempt_and_is_replaced(shop: Shop, order: dict[str, Any], how: str) -> None:
    shop.start(concurrency=1)
    shop.app.publish("orders", order)
    shop.do("after")
    pids = [int(line[1]) for line in shop.wait("after")]
    until(lambda: any(isinstance(event, DeadLettered) for event in shop.events))
    (retried,) = [event for event in shop.events if isinstance(event, Retried)]
    (dead,) = [event for event in shop.events if isinstance(event, DeadLettered)]
    assert (retried.error, dead.error, dead.attempts) == (f"WorkerDied: the worker process {how}",) * 2 + (2,)
    assert [line[2] for line in shop.lines(order["do"])] == ["1", "2"]
    assert len(shop.lines("after")) == len(pids) == 1
    assert shop.app.health().ready


def test_a_handler_over_its_timeout_is_killed_with_what_it_started(shop: Shop) -> None:
    shop.start(timeout="1s", concurrency=1)  # time enough to start what it starts
    shop.do("hang")
    until(lambda: any(isinstance(event, DeadLettered) for event in shop.events))
    (dead,) = [event for event in shop.events if isinstance(event, DeadLettered)]
    assert dead.error.startswith("HandlerTimeout: killed after ")
    assert [line[2] for line in shop.lines("hang")] == ["1", "2"]
    started = [int(line[1]) for line in (*shop.lines("hang"), *shop.lines("started"))]
    assert len(started) == 4
    assert not any(map(is_running, started))
    stuck = [event for event in shop.events if isinstance(event, Stuck)]
    assert "in work" in stuck[0].stack.splitlines()[-1]


def test_a_handler_that_holds_the_interpreter_is_killed_too(shop: Shop) -> None:
    shop.start(timeout="300ms", concurrency=1)
    shop.do("native")
    until(lambda: any(isinstance(event, DeadLettered) for event in shop.events))
    assert [line[2] for line in shop.lines("native")] == ["1", "2"]


def test_keys_keep_their_order_while_processes_die(shop: Shop) -> None:
    shop.start(ordered=True, concurrency=3)
    for n in range(1, 6):
        for key in "abc":
            shop.do("step", key=key, n=n)
    until(lambda: shop.lag() == 0)
    for key in "abc":
        steps = [" ".join((kind, n)) for kind, of, n in (*shop.lines("begin"), *shop.lines("end")) if of == key]
        assert sorted(steps) == sorted([f"{kind} {n}" for n in range(1, 6) for kind in ("begin", "end")] + ["begin 3"])
        in_file = [(line[0], line[2]) for line in shop.lines() if line[0] in ("begin", "end") and line[1] == key]
        wanted = [("begin", "1"), ("end", "1"), ("begin", "2"), ("end", "2"), ("begin", "3"), ("begin", "3"), ("end", "3")]
        assert in_file == [*wanted, ("begin", "4"), ("end", "4"), ("begin", "5"), ("end", "5")]


def test_a_handler_is_told_when_its_partition_is_lost_and_its_outcome_is_not_taken(shop: Shop) -> None:
    shop.start(timeout=None)
    shop.do("until cancelled")
    shop.wait("until")
    shop.lose_all()
    shop.wait("stopped early")
    shop.wait("until cancelled", 2)  # it was not settled, so it comes again
    shop.lose_all()
    shop.wait("stopped early", 2)


def test_a_drain_kills_what_does_not_return(shop: Shop) -> None:
    shop.start(timeout=None)
    shop.do("hang")
    (hanging,) = [int(line[1]) for line in shop.wait("hang")]
    shop.wait("started")
    shop.app.stop("100ms")
    assert not is_running(hanging)
    assert not any(is_running(int(line[1])) for line in shop.lines("started"))
    assert shop.lag() == 1  # nothing was settled that did not end


def test_a_signal_to_the_whole_service_does_not_cut_a_handler_off(shop: Shop) -> None:
    shop.start(timeout=None)
    shop.do("until cancelled")
    pid = int(shop.wait("until")[0][2])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(pid, number)
    until(lambda: (oldest := shop.app.consumers()[0].oldest) is not None and "in work" in oldest.stack)
    assert is_running(pid)
    shop.lose_all()
    shop.wait("stopped early")


def test_a_child_that_a_handler_forks_answers_nothing(shop: Shop) -> None:
    shop.start(concurrency=1)
    shop.do("fork")
    shop.do("after")
    shop.wait("after")
    assert len(shop.lines("forked")) == 1
    until(lambda: shop.lag() == 0)
    assert not [event for event in shop.events if isinstance(event, Retried)]


def test_fewer_workers_are_fewer_processes(shop: Shop) -> None:
    before = children()
    shop.start(timeout=None, concurrency=3)
    for _ in range(3):
        shop.do("until cancelled")
    shop.wait("until", 3)
    assert len(children() - before) == 3
    shop.app.stop("50ms")
    assert children() == before


def test_what_a_handler_logs_is_written_here(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.start()
    number = shop.do("log")
    until(lambda: shop.lag() == 0)
    (record,) = [record for record in caplog.records if record.name == "shop"]
    assert (record.getMessage(), record.levelno, record.funcName) == (f"a warning of {number}", logging.WARNING, "work")
    assert vars(record)["mq_id"] == number
    assert record.process != os.getpid()


def test_a_log_handler_that_raises_costs_no_message_its_outcome(shop: Shop) -> None:
    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise RuntimeError("the disk of the logs is full")

    logger, broken = logging.getLogger("shop"), Broken()
    logger.addHandler(broken)
    try:
        shop.start(concurrency=1)
        for what in ("log", "tell", "log", "tell"):
            shop.do(what, key="k")
        until(lambda: shop.lag() == 0)
    finally:
        logger.removeHandler(broken)
    assert [event for event in shop.events if isinstance(event, Retried | DeadLettered)] == []
    assert len(shop.lines("log")) == 2


# --- refused at the start ---------------------------------------------------------------------------------------------------------


def test_a_name_that_leads_to_another_function_is_refused(shop: Shop) -> None:
    shop.app.consumer("payments", group="billing", isolation="process")(shop.module.inner)
    with pytest.raises(DeclarationError, match="the handler of payments/billing cannot be imported by name"):
        shop.start()


def test_a_middleware_or_class_without_a_name_is_refused(shop: Shop) -> None:
    def around(message: Any) -> Iterator[None]:
        yield

    shop.app.middleware(around)
    with pytest.raises(DeclarationError, match=r"a middleware of orders/billing cannot be imported by name.*around"):
        shop.start()


def test_an_application_that_cannot_be_imported_there_fails_the_start(shop: Shop, tmp_path: Path, store: Any) -> None:
    (tmp_path / f"{shop.module.__name__}.py").write_text("raise LookupError('SECRET')")
    with pytest.raises(DeclarationError, match=r"worker process of orders/billing cannot be started: LookupError\n"):
        shop.start()
    assert shop.app.groups("orders") == [] or not shop.app.groups("orders")[0].members


def test_consumers_do_not_start_in_a_worker_process(folder_of: Callable[[str], Path]) -> None:
    """A script that forgot its guard would start worker processes in worker processes, without end."""
    folder = folder_of(SCRIPT.replace('if __name__ == "__main__":\n    ', ""))
    with Running([sys.executable, "shop.py"], folder) as process:
        process.wait_for("cannot be started: StateError: consumers were started while a worker process imported the application")
        assert process.process.wait(PATIENCE_S) == 1


# --- whole programs ---------------------------------------------------------------------------------------------------------------

SCRIPT = """
import os, re
from mqsdk import App
app = App("left.yaml")

@app.consumer("orders", group="billing", isolation="process", concurrency=2, timeout=None)
def bill(order: str) -> None:
    print("billing", order, os.getpid(), flush=True)
    if order == "native":
        re.match("(a+)+$", "a" * 60 + "b")
    app.publish("done", order)

@app.consumer("done", group="printer")
def show(order: str) -> None:
    print("done", order, flush=True)

if __name__ == "__main__":
    raise SystemExit(app.run())
"""


@pytest.fixture
def folder_of(tmp_path: Path) -> Callable[[str], Path]:
    def make(code: str) -> Path:
        (tmp_path / "shop.py").write_text(code)
        for name in ("left", "right"):
            (tmp_path / f"{name}.yaml").write_text(f"version: 1\nclusters: {{local: {{backend: log, path: ./{name}}}}}\n")
            (tmp_path / f"{name}.yaml").chmod(0o600)
        return tmp_path

    return make


@pytest.mark.parametrize("command", [(sys.executable, "shop.py"), (*MQSDK, "--config", "right.yaml", "run", "shop:app")])
def test_a_handler_publishes_where_its_app_does_and_ends_with_it(folder_of: Callable[[str], Path], command: tuple[str, ...]) -> None:
    folder = folder_of(SCRIPT)
    config = "right.yaml" if "right.yaml" in command else "left.yaml"
    with Running(command, folder) as process:
        process.wait_for("running") if "run" in command else until(lambda: (folder / "left").exists())
        for order in ("first", "native"):
            done = Running([*MQSDK, "--config", config, "publish", "orders", order], folder)
            with done:
                assert done.process.wait(PATIENCE_S) == 0
        process.wait_for("done first")
        pids = {int(process.wait_for(f"billing {order}").split()[-1]) for order in ("first", "native")}
        process.kill()
        until(lambda: not any(map(is_running, pids)))
    assert (folder / config.removesuffix(".yaml")).is_dir()


def test_a_stop_that_a_process_holds_up_ends_in_time_and_leaves_none(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of(SCRIPT)
    with (folder / "left.yaml").open("a") as file:
        file.write("drain: {timeout: 100ms}\n")
    env = environment(folder)
    with Running([*MQSDK, "run", "shop:app"], folder, environ=env) as process:
        process.wait_for("running")
        with Running([*MQSDK, "--config", "left.yaml", "publish", "orders", "native"], folder) as done:
            assert done.process.wait(PATIENCE_S) == 0
        pid = int(process.wait_for("billing native").split()[-1])
        assert process.stop() == 0
        assert not is_running(pid)
        process.wait_for("1 cut short")


def test_isolated_handlers_run_in_the_process_of_a_test(shop: Shop) -> None:
    """Its recorder sees what they do, and virtual time has no other processes."""
    from mqsdk.testing import TestApp

    shop.app.consumer("orders", group="billing", isolation="process")(shop.module.work)
    with TestApp(shop.app) as t:
        shop.do("tell")
        t.drain()
        assert len(t.handled("orders", "billing")) == 1
    assert int(shop.lines("tell")[0][1]) == os.getpid()
