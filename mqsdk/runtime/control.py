"""The control socket of a running process: `mqsdk ps`, `reload`, `stacks` and `groups release` ask over it.

One Unix socket per process in the state folder (mode 0600, the peer's user is checked), one request per connection: a line with a command,
for some followed by a JSON document, answered by one JSON document. Serving never harms what the process is for: without a usable folder
there is just no socket.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from mqsdk.config.state import private_folder, state_folder
from mqsdk.errors import ConfigError, MqError

LOG = logging.getLogger("mqsdk.app")

Answers = Mapping[str, Callable[[], Mapping[str, Any]]]
Orders = Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]]  # commands that are told something

CONNECTION_TIMEOUT_S = 1.0  # a peer that says nothing may hold the server no longer
REPLY_TIMEOUT_S = 5.0
MAX_REQUEST = 16 * 1024
MAX_REPLY = 16 * 1024 * 1024
# sun_path has 108 bytes on Linux, 104 on macOS; longer paths go through a descriptor of the folder.
MAX_PATH = 100
FOLDER = "run"
SUFFIX = ".sock"


class ControlServer:
    """Serves one process. `start` returns False where no socket can be had (no home, read-only disk): the process runs without."""

    def __init__(self, answers: Answers, folder: Path | None = None, orders: Orders | None = None) -> None:
        self._answers = answers
        self._orders = orders or {}
        self._folder = folder
        self._socket: socket.socket | None = None
        self._path: Path | None = None
        self._thread: threading.Thread | None = None
        self._stop_read, self._stop_write = -1, -1

    @property
    def path(self) -> Path | None:
        """The socket's path while it serves."""
        return self._path

    def start(self) -> bool:
        try:
            folder = private_folder((self._folder or state_folder()) / FOLDER)
            self._socket, self._path = _listen(folder)
        except (OSError, MqError, RuntimeError) as error:  # RuntimeError: no home directory can be determined
            LOG.warning(
                "no control socket (%s): `mqsdk ps`, `reload` and `stacks` do not see this process; set MQSDK_STATE", _reason(error)
            )
            return False
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._serve, name="mqsdk-control", daemon=True)
        self._thread.start()
        return True

    def close(self) -> None:
        """Stop serving and remove the socket. Idempotent."""
        if self._thread is None or self._socket is None:
            return
        os.write(self._stop_write, b"x")
        self._thread.join(CONNECTION_TIMEOUT_S * 2)
        self._thread = None
        self._socket.close()
        for descriptor in (self._stop_read, self._stop_write):
            os.close(descriptor)
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None

    def _serve(self) -> None:
        assert self._socket is not None
        with selectors.DefaultSelector() as selector:  # not `select`: it knows no descriptor above 1,023
            for each in (self._socket.fileno(), self._stop_read):
                selector.register(each, selectors.EVENT_READ)
            while self._stop_read not in {key.fd for key, _ in selector.select()}:
                self._serve_one(self._socket)

    def _serve_one(self, listening: socket.socket) -> None:
        with suppress(OSError):  # a peer that goes away harms nobody
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(CONNECTION_TIMEOUT_S)
                if _same_user(connection):
                    connection.sendall(self._reply(_line(connection)))

    def _answer(self, line: str) -> Callable[[], Mapping[str, Any]] | None:
        import json

        command, _, given = line.partition(" ")
        order = self._orders.get(command)
        return self._answers.get(line) if order is None else lambda: order(json.loads(given))

    def _reply(self, line: str) -> bytes:
        import json

        answer = self._answer(line)
        if answer is None:
            return json.dumps({"error": {"type": "StateError", "what": "unknown command", "where": "", "fix": ""}}).encode()
        try:
            return json.dumps(answer(), default=str).encode()
        except MqError as error:
            return json.dumps({"error": parts(error)}).encode()
        except Exception as error:  # a defect in an answer must not end the server; the asker is told
            return json.dumps(
                {"error": {"type": type(error).__name__, "what": "the process could not answer", "where": "", "fix": ""}}
            ).encode()


def parts(error: MqError) -> dict[str, Any]:
    """As the command line shows an error; what is wrong with a configuration is listed in `problems`, as `check` does."""
    parts: dict[str, Any] = {"type": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
    if isinstance(error, ConfigError) and error.problems:
        files = dict.fromkeys(problem.file for problem in error.problems if problem.file)
        fix = error.fix or "mend it and reload again; the process goes on with what it has"
        parts |= {"where": ", ".join(files), "fix": fix, "problems": [asdict(problem) for problem in error.problems]}
    return parts


def _reason(error: Exception) -> str:
    """With the folder that was meant, which errors of the system name and others say in `where`."""
    if isinstance(error, MqError):
        return f"{error.where}: {error.what}"
    if isinstance(error, OSError):
        return f"{error.filename or 'the state folder'}: {error.strerror or type(error).__name__}"
    return str(error)


def _listen(folder: Path) -> tuple[socket.socket, Path]:
    """A listening socket under its final name. It gets that name only once it listens: before, a client would take it for a dead one."""
    name = f"{os.getpid()}-{os.urandom(3).hex()}{SUFFIX}"
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(folder) as short:
            temporary = f"{short}/{name}.new"
            server.bind(temporary)
            os.chmod(temporary, 0o600)
            server.listen(8)
            os.rename(temporary, f"{short}/{name}")
    except OSError:
        server.close()
        raise
    return server, folder / name


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A path of the folder that leaves room for a file name within sun_path."""
    if len(os.fsencode(folder)) + 40 <= MAX_PATH:
        yield str(folder)
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _same_user(connection: socket.socket) -> bool:
    """Whether the peer runs as this user. Where the system does not tell (macOS), the modes of folder and socket stand alone."""
    if sys.platform != "linux":
        return True
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _pid, uid, _gid = struct.unpack("3i", raw)
    return bool(uid == os.getuid())


def _line(connection: socket.socket) -> str:
    received = b""
    while not received.endswith(b"\n") and len(received) < MAX_REQUEST:
        part = connection.recv(MAX_REQUEST)
        if not part:
            break
        received += part
    return received.decode("ascii", "replace").strip()


# --- asking ----------------------------------------------------------------------------------------------------------------------


class Reply(NamedTuple):
    """What one process answered. pid: from its socket's name. document: the answer, or `{"error": {...}}`."""

    pid: int
    document: Mapping[str, Any]


def ask_all(command: str, folder: Path | None = None) -> list[Reply]:
    """Ask every running process of this user, sorted by pid. Sockets of dead processes are removed."""
    run = (folder or state_folder()) / FOLDER
    if not run.is_dir():
        return []
    replies = [reply for path in run.glob(f"*{SUFFIX}") if (reply := _ask(path, command)) is not None]
    return sorted(replies, key=lambda reply: reply.pid)


def ask(pid: int, command: str, folder: Path | None = None) -> Reply | None:
    """Ask one process; None when it is not there."""
    run = (folder or state_folder()) / FOLDER
    replies = [_ask(path, command) for path in run.glob(f"{pid}-*{SUFFIX}")]
    return next((reply for reply in replies if reply is not None), None)


def _ask(path: Path, command: str) -> Reply | None:
    pid = path.name.partition("-")[0]
    if not pid.isdecimal():
        return None
    try:
        return Reply(int(pid), _exchange(path, command))
    except (ConnectionRefusedError, FileNotFoundError):
        path.unlink(missing_ok=True)  # nobody listens: its process was killed
        return None
    except (OSError, ValueError):
        problem = {"type": "StateError", "what": f"process {pid} does not answer", "where": str(path), "fix": ""}
        return Reply(int(pid), {"error": problem})


def _exchange(path: Path, command: str) -> Mapping[str, Any]:
    import json

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, _short(path.parent) as short:
        client.settimeout(REPLY_TIMEOUT_S)
        client.connect(f"{short}/{path.name}")
        if not _same_user(client):
            raise ValueError("not a process of this user")
        client.sendall(command.encode() + b"\n")
        received = bytearray()
        while part := client.recv(65536):
            received += part
            if len(received) > MAX_REPLY:
                raise ValueError("the answer is too long")
    document = json.loads(received)
    if not isinstance(document, dict):
        raise ValueError("the answer is no document")
    return document
