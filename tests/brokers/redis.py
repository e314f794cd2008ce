"""A Redis server of a test's own: a free port, a folder of its own, ended with the test."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import redis

from tests.brokers.ports import free_port

START_S = 15.0

HINT = "redis-server is not installed: apt-get install -y redis-server (Debian, Ubuntu), as `make test` does when it runs as root"


class RedisServer:
    """Started by the constructor; `stop` in any case. Frozen and killed by its own pid."""

    def __init__(self, folder: Path, *options: str, fsync: str = "everysec") -> None:
        program = installed()
        self.folder = folder
        self.port = free_port()
        self._command = [
            *(program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--daemonize", "no"),
            *("--appendonly", "yes", "--appendfsync", fsync, "--maxmemory-policy", "noeviction", *options),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @classmethod
    def sentinel(cls, folder: Path, settings: Path) -> RedisServer:
        """A sentinel instead of a server."""
        found = cls.__new__(cls)
        found.folder, found.port, found._process = folder, free_port(), None
        found._command = [installed(), str(settings), "--port", str(found.port), "--bind", "127.0.0.1", "--sentinel"]
        found.start()
        return found

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it (again) over what its files hold, and wait until it answers."""
        folder = self.folder
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, f"redis-server does not answer on port {self.port}"
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as raw:
                raw.settimeout(1.0)
                raw.sendall(b"PING\r\n")
                return raw.recv(64).startswith((b"+PONG", b"-NOAUTH", b"-WRONGPASS"))
        except OSError:
            return False

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(how)
        try:
            process.wait(START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(START_S)

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def client(self, **how: object) -> redis.Redis:
        """A plain client, as a foreign producer or an operator has one."""
        return redis.Redis(host="127.0.0.1", port=self.port, **how)  # type: ignore[arg-type]

    def call(self, *command: object, password: str | None = None) -> object:
        with self.client(password=password) as client:
            return client.execute_command(*command)


def installed() -> str:
    program = shutil.which("redis-server")
    assert program is not None, HINT
    return program
