"""The law of imports, read from the syntax trees: api -> core, runtime -> spi <- adapters. And what core must not touch.

Imports under `if TYPE_CHECKING:` count as well: an arrow that only types need is an arrow in the reader's head.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEAVES = ("mqsdk.errors", "mqsdk.message", "mqsdk.events", "mqsdk.units", "mqsdk.names")
CONFIG_DATA = ("mqsdk.core.actions", "mqsdk.core.retry", "mqsdk.core.stages")  # the data classes of core that configuration fills in

# folder -> the modules of this project it may import; everything else of the project is forbidden there.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "mqsdk/spi": ("mqsdk.spi", "mqsdk.errors"),
    "mqsdk/core": ("mqsdk.core", "mqsdk.spi", *LEAVES),
    "mqsdk/config": ("mqsdk.config", *CONFIG_DATA, *LEAVES),
    "mqsdk/runtime": ("mqsdk.runtime", "mqsdk.core", "mqsdk.spi", "mqsdk.config", *LEAVES),
    "mqsdk/api": ("mqsdk.api", "mqsdk.core", "mqsdk.runtime", "mqsdk.spi", "mqsdk.config", *LEAVES),
    "mqsdk/cli": ("mqsdk",),
    "mqsdk/testing": ("mqsdk",),
    "adapters/mqsdk_kafka": ("mqsdk_kafka", "mqsdk.spi"),
    "adapters/mqsdk_log": ("mqsdk_log", "mqsdk.spi"),
    "adapters/mqsdk_log/engine": ("mqsdk_log.engine",),
    "adapters/mqsdk_rabbitmq": ("mqsdk_rabbitmq", "mqsdk.spi"),
    "adapters/mqsdk_redis": ("mqsdk_redis", "mqsdk.spi"),
}
# folder -> modules of the world it may not import.
CLIENTS = ("kafka", "confluent_kafka", "pika", "redis")
IMPURE = (
    *("threading", "time", "random", "asyncio", "socket", "logging", "os", "io", "pathlib", "secrets", "queue"),
    *("concurrent", "subprocess", "tempfile", "signal", "selectors", "multiprocessing"),
)
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "mqsdk/core": (*IMPURE, *CLIENTS),
    "mqsdk/spi": (*CLIENTS, "threading", "asyncio", "socket"),
    "mqsdk/config": CLIENTS,
    "mqsdk/runtime": CLIENTS,
    "mqsdk/api": CLIENTS,
    "mqsdk/testing": (*CLIENTS, "mqsdk_kafka", "mqsdk_log", "mqsdk_rabbitmq", "mqsdk_redis"),
}
# hooks.py declares the one plugin hook; `mqsdk.spi` itself does not import it, so an import of mqsdk does not pay for pluggy.
# fromredis.py reads a configuration from Redis, which no adapter is there for yet: adapters are named by a configuration.
THIRD_PARTY_ALLOWED = {Path("mqsdk/spi/hooks.py"): "pluggy", Path("mqsdk/config/fromredis.py"): "redis"}
STANDARD_LIBRARY_ONLY = ("mqsdk/core", "mqsdk/spi", "adapters/mqsdk_log/engine")
BUILTINS_FORBIDDEN_IN_CORE = ("open", "print", "input", "id")
CALLS_FORBIDDEN_IN_CORE = ("uuid4", "uuid1", "now", "utcnow", "today", "sleep", "urandom", "monotonic", "perf_counter")


@dataclass(frozen=True)
class Import:
    module: str
    line: int


def imports(tree: ast.AST, package: str) -> Iterator[Import]:
    """Every module that a file imports, `from a import b` as `a.b`; relative imports made absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join(filter(None, [*parents, base]))
            yield from (Import(f"{base}.{alias.name}", node.lineno) for alias in node.names)


def within(module: str, allowed: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


def folder_of(path: Path) -> str | None:
    """The most specific folder of the law that holds this file."""
    inside = [folder for folder in MAY_IMPORT if path.is_relative_to(folder)]
    return max(inside, key=len, default=None)


def import_problem(path: Path, folder: str, found: Import) -> str:
    module = found.module
    if within(module, (THIRD_PARTY_ALLOWED.get(path, "-"),)):
        return ""
    ours = within(module, ("mqsdk", "mqsdk_kafka", "mqsdk_log", "mqsdk_rabbitmq", "mqsdk_redis"))
    if ours and not within(module, MAY_IMPORT[folder]):
        return f"imports {module}"
    if within(module, FORBIDDEN.get(folder, ())):
        return f"imports {module}"
    if not ours and folder in STANDARD_LIBRARY_ONLY and module.split(".")[0] not in sys.stdlib_module_names:
        return f"imports {module}, which is not of the standard library"
    return ""


def call_problems(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        builtin = getattr(node.func, "id", "")
        name = node.func.attr if isinstance(node.func, ast.Attribute) else builtin
        if builtin in BUILTINS_FORBIDDEN_IN_CORE or name in CALLS_FORBIDDEN_IN_CORE:
            yield node.lineno, f"calls {name}()"


def violations(path: Path, text: str) -> list[str]:
    """What this file (path relative to the root) does against the law, one line each."""
    folder = folder_of(path)
    if folder is None:
        return []
    tree = ast.parse(text)
    package = ".".join(path.with_suffix("").parts[1 if path.parts[0] == "adapters" else 0 : -1])
    found = [(one.line, import_problem(path, folder, one)) for one in imports(tree, package)]
    if folder == "mqsdk/core":
        found += call_problems(tree)
    return [f"{path}:{line}: {problem}" for line, problem in found if problem]


def test_no_arrow_points_the_wrong_way() -> None:
    files = [path.relative_to(ROOT) for top in ("mqsdk", "adapters") for path in sorted((ROOT / top).rglob("*.py"))]
    assert len(files) > 20
    found = [line for path in files for line in violations(path, (ROOT / path).read_text())]
    assert not found, "\n".join(found)


def test_leaves_import_nothing_above_them() -> None:
    for name in ("errors", "message", "events", "units"):
        tree = ast.parse((ROOT / "mqsdk" / f"{name}.py").read_text())
        above = [
            one.module
            for one in imports(tree, "mqsdk")
            if within(one.module, ("mqsdk",)) and not within(one.module, ("mqsdk.errors", "mqsdk.units"))
        ]
        assert not above, f"{name} imports {above}"


def test_the_distribution_of_an_adapter_is_not_a_package_named_adapters() -> None:
    assert not (ROOT / "adapters" / "__init__.py").exists()


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("mqsdk/core/lanes.py", "import threading"),
        ("mqsdk/core/lanes.py", "from time import monotonic"),
        ("mqsdk/core/lanes.py", "import random"),
        ("mqsdk/core/lanes.py", "import pydantic"),
        ("mqsdk/core/lanes.py", "from mqsdk.runtime import clock"),
        ("mqsdk/core/lanes.py", "from ..runtime import clock"),
        ("mqsdk/core/lanes.py", "moment = datetime.now(UTC)"),
        ("mqsdk/core/lanes.py", "name = uuid.uuid4()"),
        ("mqsdk/core/lanes.py", "handle = open('state')"),
        ("mqsdk/core/lanes.py", "if TYPE_CHECKING:\n    from mqsdk.api.app import App"),
        ("mqsdk/spi/backend.py", "from mqsdk.core import actions"),
        ("mqsdk/runtime/loop.py", "from mqsdk.api.app import App"),
        ("mqsdk/runtime/loop.py", "import mqsdk_log"),
        ("mqsdk/config/load.py", "from mqsdk.core.machine import Machine"),
        ("mqsdk/config/load.py", "import redis"),
        ("mqsdk/testing/app.py", "from mqsdk_log import backend"),
        ("mqsdk/api/app.py", "import kafka"),
        ("adapters/mqsdk_log/backend.py", "from mqsdk.errors import MqError"),
        ("adapters/mqsdk_log/backend.py", "from mqsdk import App"),
        ("adapters/mqsdk_log/engine/log.py", "from mqsdk.spi import Record"),
        ("adapters/mqsdk_log/engine/log.py", "from .. import backend"),
        ("adapters/mqsdk_log/engine/log.py", "import msgspec"),
        ("adapters/mqsdk_redis/consumer.py", "from mqsdk.core import machine"),
        ("adapters/mqsdk_redis/consumer.py", "import mqsdk_log"),
        ("adapters/mqsdk_kafka/consumer.py", "from mqsdk.runtime import supervisor"),
        ("adapters/mqsdk_kafka/consumer.py", "import mqsdk_redis"),
        ("adapters/mqsdk_rabbitmq/consumer.py", "import mqsdk_redis"),
    ],
)
def test_a_violation_is_seen(path: str, line: str) -> None:
    assert violations(Path(path), line), f"{line!r} in {path} passed"


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("mqsdk/core/lanes.py", "from mqsdk.spi import Record\nfrom collections import deque\nfrom mqsdk.errors import Retry"),
        ("mqsdk/runtime/loop.py", "import threading\nfrom mqsdk.core.machine import Machine\nfrom mqsdk.config.model import Configuration"),
        ("mqsdk/api/app.py", "from mqsdk.runtime.supervisor import Supervisor"),
        ("adapters/mqsdk_log/backend.py", "from mqsdk.spi import Backend\nfrom mqsdk_log.engine import log"),
        ("adapters/mqsdk_log/engine/log.py", "import os, fcntl\nfrom . import format"),
    ],
)
def test_what_the_law_allows_passes(path: str, line: str) -> None:
    assert violations(Path(path), line) == []
