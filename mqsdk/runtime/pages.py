"""The pages of a process over HTTP: `/live`, `/ready`, `/metrics`, `/consumers`. They only read, and show no payload and no secret.

A few connections at once, each bounded in time: what is asked too much or too slowly is cut off, never the process that it asks.
"""

from __future__ import annotations

import hmac
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from mqsdk.config.listening import address_of, is_loopback
from mqsdk.errors import ConfigError

LOG = logging.getLogger("mqsdk.app")

CONNECTIONS = 8
TIMEOUT_S = 5.0
LOOK_S = 0.2  # how soon a close is seen
TEXT, JSON = "text/plain; charset=utf-8", "application/json"


class Page(NamedTuple):
    """status: of HTTP."""

    status: int
    content_type: str
    body: bytes


Pages = Mapping[str, Callable[[], Page]]


class PageServer:
    """Serves `pages` at `listen`, `host:port`. token: what a caller must show now, "" = nothing; asked for at every request.

    ports: how many ports, from the given one on, are tried: several processes may share one configuration.
    """

    def __init__(self, listen: str, pages: Pages, token: Callable[[], str], ports: int = 1) -> None:
        host, port = address_of(listen)
        last: OSError | None = None
        for number in range(port, min(port + ports, 65536)):
            try:
                self._server = _Server(host, number, pages, token)
                break
            except OSError as error:
                last = error
        else:
            raise ConfigError(
                f"the pages cannot be served at {listen}: {last.strerror if last is not None else 'no port'}",
                where="observability.listen",
                fix="choose another port for this process, or remove the key; MQSDK_OBSERVABILITY__LISTEN sets it for one process",
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(LOOK_S,), name="mqsdk-pages", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        self._thread.start()
        LOG.info("pages at http://%s:%d/live /ready /metrics /consumers", self._server.host, self.port)

    def close(self) -> None:
        """Serve no more; does not wait for answers that are under way."""
        self._server.shutdown()
        self._thread.join(TIMEOUT_S)
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 16

    def __init__(self, host: str, port: int, pages: Pages, token: Callable[[], str]) -> None:
        self.host = f"[{host}]" if ":" in host else host
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.pages = pages
        self.token = token
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__((host, port), _Request)

    def server_bind(self) -> None:
        """Without the look-up of this host's name that http.server does, which may wait for a name server."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.host, self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that went away or was too slow; http.server would print a traceback."""


class _Request(BaseHTTPRequestHandler):
    timeout = TIMEOUT_S
    server: _Server

    def do_GET(self) -> None:
        self._answer(self._page())

    def do_HEAD(self) -> None:
        self._answer(self._page())

    def _page(self) -> Page:
        token = self.server.token()
        if token:
            shown = self.headers.get("Authorization", "")
            if not hmac.compare_digest(shown.encode("utf-8", "replace"), f"Bearer {token}".encode()):
                return Page(401, TEXT, b"a token is needed: Authorization: Bearer ...\n")
        elif not _names_this_host(self.headers.get("Host", "")):
            return Page(403, TEXT, b"asked for under a foreign name\n")
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            return Page(404, TEXT, f"there is {' '.join(self.server.pages)}\n".encode())
        try:
            return page()
        except Exception as error:  # a defect in a page must not look like an answer
            LOG.error("page %s failed: %s", self.path.partition("?")[0], type(error).__name__, exc_info=True)
            return Page(500, TEXT, f"{type(error).__name__}\n".encode())

    def _answer(self, page: Page) -> None:
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.send_header("Cache-Control", "no-store")
        if page.status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)

    def version_string(self) -> str:
        return "mqsdk"

    def log_message(self, format: str, *arguments: Any) -> None:
        """A line for each request would drown the rest."""


def _names_this_host(host: str) -> bool:
    """Whether a page without a token is asked for as a local one: a web site whose name leads here must not read it by the browser."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    return not name or is_loopback(name.strip("[]"))
