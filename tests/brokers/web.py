"""A web server of a test's own on a free port: one document, with its ETag."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from types import TracebackType
from typing import Any, Self


class WebServer:
    """Serves `content` at every path. What a test sets counts for the next request; `requests` has (path, headers) of all of them."""

    def __init__(self, content: str = "", *, port: int = 0, context: SSLContext | None = None) -> None:
        self.content = content.encode()
        self.status = 200
        self.headers: dict[str, str] = {"Content-Type": "application/yaml"}
        self.tagged = True
        self.cut = 0  # so many bytes at the end are promised and not sent
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.answers: list[int] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def put(self, content: str) -> None:
        self.content = content.encode()

    def url(self, path: str = "/shop.yaml", scheme: str = "http", user: str = "") -> str:
        return f"{scheme}://{user}127.0.0.1:{self.port}{path}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def _handler(server: WebServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content, etag = server.content, f'"{hashlib.sha256(server.content).hexdigest()[:12]}"'
            known = server.tagged and self.headers.get("If-None-Match") == etag
            status = 304 if known and server.status == 200 else server.status
            server.requests.append((self.path, dict(self.headers)))
            server.answers.append(status)
            self.send_response(status)
            for name, value in {**server.headers, **({"ETag": etag} if server.tagged else {})}.items():
                self.send_header(name, value)
            if status != 304:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if status != 304:
                self.wfile.write(content[: len(content) - server.cut])

        def log_message(self, format: str, *args: Any) -> None:
            """Not to stderr."""

    return Handler
