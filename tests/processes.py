"""Real processes for tests: `mqsdk` and Python scripts, started in a folder, read line by line, ended whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

MQSDK = (sys.executable, "-m", "mqsdk.cli")
PATIENCE_S = 60.0  # how long a test waits for what normally takes a second, on a loaded machine


def environment(folder: Path) -> dict[str, str]:
    """This process's variables without MQSDK_*, with the state folder inside `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MQSDK_")}
    return {**kept, "MQSDK_STATE": str(folder / ".state"), "PYTHONUNBUFFERED": "1"}


def run(command: Sequence[str | Path], folder: Path, *, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run to the end; the caller judges the exit code."""
    env = dict(environ) if environ is not None else environment(folder)
    return subprocess.run(
        list(command), cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=3 * PATIENCE_S
    )


def mqsdk(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run([*MQSDK, *arguments], folder)


class Running:
    """A process in the background; leaving the block kills it. A thread collects its output, stdout and stderr together."""

    def __init__(self, command: Sequence[str | Path], folder: Path, *, environ: Mapping[str, str] | None = None) -> None:
        env = dict(environ) if environ is not None else environment(folder)
        self.process = subprocess.Popen(
            list(command), cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, text: str, timeout_s: float = PATIENCE_S) -> str:
        """The first line that contains `text`; AssertionError with the whole output when it does not come."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or any(text in line for line in self.lines), timeout_s)
            found = next((line for line in self.lines if text in line), None)
        assert found is not None, f"{text!r} did not appear (exit code {self.process.poll()}) in:\n" + "\n".join(self.lines)
        return found

    def stop(self, timeout_s: float = PATIENCE_S) -> int:
        """SIGTERM, wait; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.kill()
        self._reader.join(PATIENCE_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
