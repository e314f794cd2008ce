"""Brokers of the benchmarks' own: started when the first case needs one, on free ports, in a folder that goes with them."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ADDRESS = "BENCH_ADDRESS"  # where a case finds the address of its broker


def address() -> str:
    return os.environ[ADDRESS]


def start(kind: str, folder: Path) -> Any:
    """redis: AOF, everysec."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    if kind == "redis":
        from tests.brokers.redis import RedisServer

        return RedisServer(folder)
    if kind == "rabbitmq":
        from tests.brokers.rabbitmq import RabbitServer

        return RabbitServer(folder)
    from tests.brokers.kafka import FAST, KafkaBroker

    return KafkaBroker(folder, jvm=FAST)


class Brokers:
    """One of each kind at most. A context: all of them end with it."""

    def __init__(self) -> None:
        self._running: dict[str, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def environment(self, kind: str) -> dict[str, str]:
        """What a case of this kind is to find in its environment."""
        if not kind:
            return {}
        if kind not in self._running:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            self._running[kind] = start(kind, Path(folder))
            self._stack.callback(self._running[kind].stop)
        return {ADDRESS: self._running[kind].address}
