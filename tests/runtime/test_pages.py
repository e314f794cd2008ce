"""The HTTP server of a process: who may ask, and what asking too much does to it."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from mqsdk.errors import ConfigError
from mqsdk.runtime import pages
from mqsdk.runtime.pages import CONNECTIONS, TEXT, Page, PageServer

BOUND_S = 10.0


def broken() -> Page:
    raise LookupError("SECRET")


PAGES = {"/live": lambda: Page(200, TEXT, b"live\n"), "/broken": broken}
Serve = Callable[..., PageServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    made: list[PageServer] = []

    def start(token: str = "", ports: int = 1, listen: str = "127.0.0.1:0") -> PageServer:
        server = PageServer(listen, PAGES, lambda: token, ports)
        made.append(server)
        server.start()
        return server

    yield start
    for server in made:
        server.close()


def ask(server: PageServer, path: str = "/live", method: str = "GET", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=BOUND_S)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_a_page_and_what_is_none(serve: Serve) -> None:
    server = serve()
    assert ask(server) == (200, b"live\n")
    assert ask(server, "/live?verbose=1") == (200, b"live\n")
    assert ask(server, method="HEAD") == (200, b"")
    assert ask(server, "/") == (404, b"there is /live /broken\n")
    assert ask(server, method="POST")[0] == 501


def test_without_the_token_nothing_is_told(serve: Serve) -> None:
    server = serve("s3cret-token")
    for headers in ({}, {"Authorization": "Bearer s3cret-toke"}, {"Authorization": "s3cret-token"}, {"Authorization": "Bearer \xe4"}):
        for path in ("/live", "/broken", "/nothing"):
            assert ask(server, path, **headers)[0] == 401
    assert ask(server, Authorization="Bearer s3cret-token") == (200, b"live\n")


def test_a_web_site_whose_name_leads_here_is_told_nothing(serve: Serve) -> None:
    server = serve()
    assert ask(server, Host="evil.example:9464")[0] == 403
    assert ask(server, Host="10.0.0.7")[0] == 403
    for host in ("localhost:9464", "127.0.0.1", "[::1]:9464", "[::1]"):
        assert ask(server, Host=host)[0] == 200


def test_a_page_that_fails_is_an_error_without_its_text(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    assert ask(serve(), "/broken") == (500, b"LookupError\n")
    assert "page /broken failed: LookupError" in caplog.messages


def test_peers_that_say_nothing_are_bounded_in_number_and_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages._Request, "timeout", 1.0)
    server = serve()
    before = threading.active_count()
    silent = [socket.create_connection(("127.0.0.1", server.port), BOUND_S) for _ in range(CONNECTIONS + 3)]
    ended = [connection.recv(1) for connection in silent]  # each is cut off, those beyond the bound at once
    assert ended == [b""] * len(silent)
    for connection in silent:
        connection.close()
    assert threading.active_count() <= before + CONNECTIONS
    assert ask(server) == (200, b"live\n")


def test_a_port_that_is_taken_is_said_and_the_next_one_used_where_that_is_asked_for(serve: Serve) -> None:
    first = serve()
    with pytest.raises(ConfigError, match=f"cannot be served at 127.0.0.1:{first.port}: Address already in use"):
        PageServer(f"127.0.0.1:{first.port}", PAGES, lambda: "")
    second = serve(ports=20, listen=f"127.0.0.1:{first.port}")
    assert first.port < second.port < first.port + 20
    assert ask(second) == (200, b"live\n")
