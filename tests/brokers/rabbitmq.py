"""A RabbitMQ server of a test's own: free ports, a folder, a node name, a cookie and an epmd of its own, ended with the test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

from tests.brokers.ports import free_port

BIN = Path("/usr/lib/rabbitmq/bin")  # the wrappers elsewhere insist on a user of their own
START_S = 90.0
STOP_S = 30.0
HINT = "rabbitmq-server is not installed: apt-get install -y rabbitmq-server (Debian, Ubuntu), as `make test` does when it runs as root"


class RabbitServer:
    """Started by the constructor; `stop` in any case. Killed and frozen by the process id of the Erlang machine itself."""

    def __init__(self, folder: Path, *settings: str) -> None:
        """settings: further lines of rabbitmq.conf."""
        assert (BIN / "rabbitmq-server").exists(), HINT
        self.folder = folder
        self.port, self._dist_port, self._epmd_port = free_port(), free_port(), free_port()
        self._node = f"t{self.port}@localhost"
        lines = [
            f"listeners.tcp.default = 127.0.0.1:{self.port}",
            "vm_memory_high_watermark.relative = 0.4",
            "disk_free_limit.absolute = 50MB",
            "log.file.level = warning",
            *settings,
        ]
        (folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (folder / "plugins").write_text("[].\n")
        # As docs/rabbitmq.md advises: what was due while a server starts is tried again after this, and not after three minutes.
        (folder / "advanced.config").write_text("[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 3000}]}].\n")
        self._shell: subprocess.Popen[bytes] | None = None
        self._machine = self._vhosts = 0
        self._epmd: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def _environment(self) -> dict[str, str]:
        folder = self.folder
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LANG": "C.UTF-8",
            "HOME": str(folder),
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            # The schedulers of an idle machine spin for a while: on two cores that is taken from the tests.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none",
        }

    # --- life ---------------------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it (again) over what its files hold, and wait until it answers a whole AMQP handshake."""
        self._start_epmd()
        with (self.folder / "out").open("ab") as out:
            self._shell = subprocess.Popen(
                [str(BIN / "rabbitmq-server")], env=self._environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.folder
            )
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self._shell.poll() is None, (self.folder / "out").read_text()[-3000:]
            assert time.monotonic() < deadline, f"rabbitmq-server does not answer on port {self.port}"
            time.sleep(0.05)
        self._machine = _machine_of(self._shell.pid)

    def _start_epmd(self) -> None:
        """The node would start one as a daemon that outlives it."""
        if self._epmd is None or self._epmd.poll() is not None:
            program = shutil.which("epmd")
            assert program is not None, HINT
            with (self.folder / "out").open("ab") as out:
                self._epmd = subprocess.Popen(
                    [program, "-port", str(self._epmd_port), "-address", "127.0.0.1"], stdin=subprocess.DEVNULL, stdout=out, stderr=out
                )

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1.0).close()
            with self.connection():
                return True
        except (AMQPError, OSError):
            return False

    def kill(self) -> None:
        """kill -9 of the Erlang machine, once it has written down which quorum queues it has.

        It does so every half a second: a younger queue is found empty, and without a leader, after its kill (3.10.8).
        """
        deadline = time.monotonic() + STOP_S
        while not self._knows_its_queues():
            assert time.monotonic() < deadline, "the server does not write down its quorum queues"
            time.sleep(0.02)
        self._end(signal.SIGKILL)

    def _knows_its_queues(self) -> bool:
        for names in self.folder.glob("mnesia/*/quorum/*/names.dets"):
            written = names.read_bytes()
            if any(folder.is_dir() and folder.name.encode() not in written for folder in names.parent.iterdir()):
                return False
        return True

    def shut_down(self) -> None:
        """In order: everything that it holds in memory is written."""
        self._end(signal.SIGTERM)

    def stop(self) -> None:
        """Ends for good; what it holds is a test's and needs no orderly end."""
        self._end(signal.SIGKILL)
        epmd, self._epmd = self._epmd, None
        if epmd is not None:
            epmd.kill()
            epmd.wait(STOP_S)

    def _end(self, how: signal.Signals) -> None:
        shell, self._shell = self._shell, None
        if shell is None:
            return
        machine, self._machine = self._machine, 0
        for pid in (machine, *([] if machine else _descendants(shell.pid))):
            if pid:
                _send(pid, signal.SIGCONT)
                _send(pid, how)
        try:
            shell.wait(STOP_S)
        except subprocess.TimeoutExpired:
            shell.kill()
            shell.wait(STOP_S)

    def freeze(self) -> None:
        os.kill(self._machine, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._machine, signal.SIGCONT)

    # --- looking and arranging ----------------------------------------------------------------------------------------------------------

    @contextmanager
    def connection(self, **how: Any) -> Iterator[pika.BlockingConnection]:
        """A plain client, as a foreign producer or an operator has one."""
        given = {"host": "127.0.0.1", "port": self.port, "socket_timeout": 5, "stack_timeout": 10, "blocked_connection_timeout": 10, **how}
        connection = pika.BlockingConnection(pika.ConnectionParameters(**given))
        try:
            yield connection
        finally:
            if connection.is_open:
                connection.close()

    @contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        with self.connection() as connection:
            yield connection.channel()

    def new_vhost(self) -> str:
        """One that is empty, for the user of these tests; its name."""
        self._vhosts += 1
        name = f"v{self._vhosts}"
        add = f'rabbit_vhost:add(<<"{name}">>, <<"test">>)'
        allow = f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>, <<".*">>, <<".*">>, <<".*">>, <<"test">>)'
        self.ctl("eval", f"{add}, {allow}.")  # one call: its start is what costs
        return name

    def ctl(self, *command: str) -> str:
        """rabbitmqctl; its start costs a second or two."""
        done = subprocess.run(
            [str(BIN / "rabbitmqctl"), "-q", "-n", self._node, *command],
            env=self._environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"rabbitmqctl {command[0]}: {done.stderr.decode(errors='replace')[-500:]}"
        return done.stdout.decode(errors="replace")


def _send(pid: int, how: signal.Signals) -> None:
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found += [int(entry.name), *_descendants(int(entry.name))]
    return found


def _machine_of(shell: int) -> int:
    """The Erlang machine under the start script, or the script itself where it became the machine."""
    for pid in (shell, *_descendants(shell)):
        if (Path("/proc") / str(pid) / "comm").read_text().startswith("beam"):
            return pid
    raise AssertionError("the Erlang machine is not among the children of the start script")
