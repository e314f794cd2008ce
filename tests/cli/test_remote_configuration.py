"""Running processes whose configuration comes from Redis or from a web server: they follow it, and live without it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.brokers.redis import RedisServer
from tests.brokers.web import WebServer
from tests.processes import MQSDK, PATIENCE_S, Running, environment, run

APP = """
from mqsdk import App
app = App()

@app.consumer("hello", group="printer")
def greet(name: str) -> None:
    print("hello " + name, flush=True)  # one write: the log shares the pipe
"""


class Service:
    """A folder with an application that is configured by an address."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        (folder / "hello.py").write_text(APP)
        self.environ = {**environment(folder), "MQSDK_CONFIG": address}

    def start(self, *words: str) -> Running:
        return Running([*MQSDK, "run", "hello:app", *words], self.folder, environ=self.environ)

    def mqsdk(self, *words: str) -> tuple[int, str]:
        done = run([*MQSDK, *words], self.folder, environ=self.environ)
        return done.returncode, done.stdout + done.stderr

    def ps(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.mqsdk("ps", "--json")[1])["processes"]
        return found

    def wait_for_concurrency(self, wanted: int, processes: int = 1) -> None:
        wait_until(lambda: [one["concurrency"] for process in self.ps() for one in process["consumers"]] == [wanted] * processes)


def text(concurrency: object, every: str = "100ms") -> str:
    return f"app: shop\ndefaults: {{concurrency: {concurrency}}}\nreload: {{every: {every}}}\n"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis", "--requirepass", "geheim", fsync="always")
    yield server
    server.stop()


def put(server: RedisServer, content: str) -> None:
    server.call("SET", "shop", content, password="geheim")


def test_processes_follow_a_key_of_redis_and_live_without_the_server(tmp_path: Path, server: RedisServer) -> None:
    service = Service(tmp_path, f"redis://:geheim@{server.address}/0?key=shop")
    put(server, text(2))
    with service.start("--processes", "2") as parent:
        service.wait_for_concurrency(2, processes=2)
        put(server, text(3))
        service.wait_for_concurrency(3, processes=2)
        put(server, text("many"))
        refused = parent.wait_for("defaults.concurrency: must be")
        assert f"redis://{server.address}/0?key=shop:2:12: " in refused
        server.kill()
        parent.wait_for("the configuration stays as it is")
        assert service.mqsdk("publish", "hello", "meanwhile")[0] == 0
        parent.wait_for("hello meanwhile")
        with service.start() as late:
            late.wait_for("started from its last good configuration")
            service.wait_for_concurrency(3, processes=3)
            server.start()
            put(server, text(5))
            service.wait_for_concurrency(5, processes=3)
            assert late.stop() == 0
            assert told(late, "cannot be reached") == 1
        assert parent.stop() == 0
        assert told(parent, "cannot be reached") == 2  # once in each of the two
        assert "geheim" not in "\n".join(parent.lines + late.lines)


def told(process: Running, what: str) -> int:
    return sum(what in line for line in process.lines)


def test_a_message_on_the_channel_makes_a_process_look_at_once(tmp_path: Path, server: RedisServer) -> None:
    """It would look every hour; who publishes again until it is heard need not know whether it listens yet."""
    service = Service(tmp_path, f"redis://:geheim@{server.address}/0?key=shop")
    put(server, text(2, every="1h"))
    with service.start() as process:
        service.wait_for_concurrency(2)
        put(server, text(4, every="1h"))
        wait_until(lambda: server.call("PUBLISH", "shop", "x", password="geheim") == 1)
        service.wait_for_concurrency(4)
        assert process.stop() == 0


def test_a_process_follows_a_web_server(tmp_path: Path) -> None:
    with WebServer(text(2)) as web:
        service = Service(tmp_path, web.url("/shop.yaml?token=geheim", user="me:geheim@"))
        with service.start() as process:
            service.wait_for_concurrency(2)
            wait_until(lambda: web.answers.count(304) > 3)
            web.put(text(4))
            service.wait_for_concurrency(4)
            web.status = 404
            process.wait_for(f"{web.url()}: answers with status 404")
            web.status = 500
            process.wait_for("cannot be reached: the server answers with status 500")
            asked = len(web.requests)
            wait_until(lambda: len(web.requests) > asked + 5)
            code, shown = service.mqsdk("reload")
            assert (code, "the server answers with status 500" in shown) == (1, True)
            web.status = 200
            process.wait_for("answers again")
            assert (service.ps()[0]["state"], process.stop()) == ("RUNNING", 0)
        assert told(process, "stays as it is") == 2
        assert "geheim" not in "\n".join(process.lines)


def test_without_its_source_and_without_a_kept_one_a_process_ends_with_4_a_bad_one_with_3(tmp_path: Path) -> None:
    with WebServer(text(2)) as web:
        service = Service(tmp_path, web.url(user="me:geheim@"))
        web.status = 500
        code, shown = service.mqsdk("topics")
        assert (code, f"{web.url()}: cannot be reached" in shown, "geheim" in shown) == (4, True, False)
        web.status = 404
        code, shown = service.mqsdk("run", "hello:app")
        assert (code, f"{web.url()}: answers with status 404" in shown, "geheim" in shown) == (3, True, False)
        web.status = 200
        code, shown = service.mqsdk("check")
        assert (code, f"{web.url()}: valid" in shown, "geheim" in shown) == (0, True, False)
        web.put("app: shop\ndrain: {timeout: soon}\n")
        code, shown = service.mqsdk("check")
        assert (code, f"{web.url()}:2:9: drain.timeout" in shown) == (3, True)


def test_an_address_without_use_is_3_and_shows_no_secret(tmp_path: Path) -> None:
    for address in (
        "redis://me:geheim@127.0.0.1/0",
        "http://me:geheim@example.com/x",
        "redis://me:1/geheim@h/0?key=k",
        "s3://me:geheim@h/x",
    ):
        for words in (("check",), ("run", "hello:app"), ("topics",)):
            code, shown = Service(tmp_path, address).mqsdk(*words)
            assert (code, "geheim" in shown, "Traceback" in shown) == (3, False, False)
