"""examples/04_write_an_adapter, used as its README says: installed as a package of its own, found by its entry point, run by `mqsdk`."""

from __future__ import annotations

import ast
import json
import os
import shutil
import sqlite3
import sys
import time
import tokenize
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest
from mqsdk_sqlite import mqsdk_backend, store
from mqsdk_sqlite.backend import SqliteBackend
from mqsdk_sqlite.consumer import SqliteConsumer

from mqsdk.spi import (
    Assigned,
    ConfigError,
    ConsumerEvent,
    NewRecord,
    Outcome,
    Partition,
    ProducerEvent,
    Published,
    Rejected,
    Stored,
    Subscription,
    Unavailable,
    Unknown,
)
from tests.processes import MQSDK, Running, environment, run

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "04_write_an_adapter"
LINES = 300  # of Python, without blank lines, comments and docstrings
LINES_OF_SUITE = 30
_NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as pip installs it, with its entry point; nothing is fetched."""
    source, target = tmp_path_factory.mktemp("source") / "adapter", tmp_path_factory.mktemp("site")
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__"))
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        target,
        source,
    ]
    done = run(pip, source)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def variables(folder: Path, site: Path) -> dict[str, str]:
    return {**environment(folder), "PYTHONPATH": os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("billing.py", "mqsdk.yaml"):
        shutil.copy(EXAMPLE / name, tmp_path)
    (tmp_path / "mqsdk.yaml").chmod(0o600)
    return tmp_path


# --- used ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_application_runs_on_it_by_one_line_of_configuration(site: Path, folder: Path) -> None:
    env = variables(folder, site)
    first = run([*MQSDK, "publish", "orders", '{"id": 7, "cents": 1250}'], folder, environ=env)
    assert first.returncode == 0, first.stderr
    with Running([*MQSDK, "run", "billing:app"], folder, environ=env) as consumer:
        consumer.wait_for("billed order 7: 12.50")
        live = run([*MQSDK, "publish", "orders", '{"id": 8, "cents": 300}'], folder, environ=env)
        assert live.returncode == 0, live.stderr
        consumer.wait_for("billed order 8: 3.00")
        assert consumer.stop() == 0
    lag = run([*MQSDK, "lag", "--json"], folder, environ=env)
    assert sum(row["messages"] for row in json.loads(lag.stdout)["lag"]) == 0
    peek = run([*MQSDK, "peek", "orders", "--body"], folder, environ=env)
    assert '{"id": 7, "cents": 1250}' in peek.stdout


@pytest.mark.slow
def test_what_it_does_not_claim_is_refused_by_name(site: Path, folder: Path) -> None:
    env = variables(folder, site)
    assert run([*MQSDK, "publish", "orders", '{"id": 7, "cents": 1250}'], folder, environ=env).returncode == 0
    refused = run([*MQSDK, "offsets", "reset", "orders", "billing", "--to", "latest", "--yes"], folder, environ=env)
    assert refused.returncode != 0
    assert "does not support `replay`" in refused.stderr


def test_an_option_that_it_does_not_know_is_refused_with_the_near_miss() -> None:
    with pytest.raises(ConfigError) as refused:
        mqsdk_backend(kind="sqlite", name="shop", options={"pth": "messages.db"})
    assert "clusters.shop.pth" in str(refused.value)
    assert "did you mean `path`?" in str(refused.value)


# --- errors -------------------------------------------------------------------------------------------------------------------------


class Sink:
    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def put(self, event: ProducerEvent, /) -> None:
        assert isinstance(event, Published)
        self.outcomes.append(event.outcome)


class FailingCommit:
    """A connection that says of its commit that it failed, whatever it did."""

    def __init__(self, db: sqlite3.Connection, *, stores: bool) -> None:
        self._db = db
        self._stores = stores

    def __enter__(self) -> sqlite3.Connection:
        return self._db

    def __exit__(self, *_: object) -> None:
        if self._stores:
            self._db.commit()
        else:
            self._db.rollback()
        raise sqlite3.OperationalError("disk I/O error at `secret`")


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqliteBackend]:
    monkeypatch.setattr(store, "PATIENCE_S", 0.05)
    made = SqliteBackend("shop", str(tmp_path / "messages.db"))
    made.open(soon())
    made.admin().ensure_topic("orders", 1)
    yield made
    made.close(soon())


def soon() -> float:
    return time.monotonic() + 1.0


def published(backend: SqliteBackend, count: int = 1, deadline_s: float = 1.0) -> list[Outcome]:
    sink = Sink()
    records = [NewRecord(number, Partition("orders", 0), None, b"secret", f"id-{number}", 0) for number in range(count)]
    backend.producer(sink).publish(records, time.monotonic() + deadline_s)
    return sink.outcomes


@pytest.mark.parametrize("stores", [True, False], ids=["stored", "lost"])
def test_a_commit_that_failed_is_unknown(backend: SqliteBackend, stores: bool) -> None:
    connection = backend.store._db
    assert connection is not None
    backend.store._db = cast(sqlite3.Connection, FailingCommit(connection, stores=stores))
    outcomes = published(backend, 2)
    backend.store._db = connection
    assert [type(outcome) for outcome in outcomes] == [Unknown, Unknown]
    assert "secret" not in str(outcomes)
    assert backend.admin().bounds("orders", 0) == (0, 2 if stores else 0)


def test_who_cannot_write_by_the_deadline_is_refused_and_may_try_again(backend: SqliteBackend, tmp_path: Path) -> None:
    consumer = backend_consumer(backend)
    with closing(sqlite3.connect(tmp_path / "messages.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        (outcome,) = published(backend, deadline_s=0.05)
        assert isinstance(outcome, Rejected)
        assert (outcome.code, outcome.retryable) == ("backend", True)
        assert "SQLITE_BUSY" in outcome.what
        with pytest.raises(Unavailable) as unavailable:
            consumer.poll(1, 0.0)
        assert unavailable.value.retryable
        assert isinstance(unavailable.value.__cause__, sqlite3.OperationalError)
    assert published(backend) == [Stored(0)]


def test_a_member_from_before_a_restart_of_the_machine_is_dead(backend: SqliteBackend) -> None:
    """The clock of leases begins anew with the machine: what it shows may lie far ahead of now."""
    first, second = backend_consumer(backend), backend_consumer(backend)
    assert owned(first.poll(10, 0.0))
    assert not owned(second.poll(10, 0.0))
    with backend.store.transaction() as db:
        db.execute("UPDATE members SET seen = seen + 1e6 WHERE id = ?", (first._id,))
    assert owned(second.poll(10, 0.0))


def test_what_is_acknowledged_has_waited_for_the_disk(backend: SqliteBackend) -> None:
    assert backend.store.rows("PRAGMA synchronous") == [(2,)]  # FULL: with a write-ahead log every commit is flushed
    assert backend.store.rows("PRAGMA journal_mode") == [("wal",)]
    assert "power loss" in backend.health().guarantee


def backend_consumer(backend: SqliteBackend) -> SqliteConsumer:
    return backend.consumer(Subscription(("orders",), "billing"))


def owned(events: Sequence[ConsumerEvent]) -> list[Partition]:
    return [event.partition for event in events if isinstance(event, Assigned)]


@pytest.mark.parametrize("text", [None, "", "{", "[1]", '[["mq-id", 7]]', '{"a": "b"}', "null"])
def test_headers_that_nobody_can_read_are_no_reason_to_lose_the_message(backend: SqliteBackend, text: str | None) -> None:
    with backend.store.transaction() as db:
        db.execute("INSERT INTO records (topic, partition, position, value, headers) VALUES ('orders', 0, 0, 'text', ?)", (text,))
    (found,) = backend.admin().read("orders", 0, 0, 10)
    assert (found.value, found.id, found.headers) == (b"text", None, ())
    assert found.timestamp_ms is not None


def test_a_folder_that_does_not_exist_and_a_file_that_is_no_database_are_named(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear database, " * 100)
    for path, name in ((tmp_path / "gone" / "messages.db", "SQLITE_CANTOPEN"), (tmp_path / "letter.txt", "SQLITE_NOTADB")):
        backend = SqliteBackend("shop", str(path))
        with pytest.raises(Unavailable) as refused:
            backend.open(soon())
        assert name in refused.value.what
        assert (str(path) in refused.value.where, refused.value.retryable) == (True, False)
        backend.close(soon())


# --- size ---------------------------------------------------------------------------------------------------------------------------


def test_it_is_as_small_as_it_says() -> None:
    sizes = {path.name: lines_of_code(path) for path in (EXAMPLE / "mqsdk_sqlite").glob("*.py")}
    assert len(sizes) == 5
    assert sum(sizes.values()) <= LINES
    assert lines_of_code(EXAMPLE / "test_conformance.py") <= LINES_OF_SUITE


def lines_of_code(path: Path) -> int:
    """Lines that hold code: no blank ones, no comments, no docstrings."""
    with path.open("rb") as file:
        tokens = [token for token in tokenize.tokenize(file.readline) if token.type not in _NO_CODE]
    held = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    return len(held - lines_of_docstrings(ast.parse(path.read_text())))


def lines_of_docstrings(tree: ast.AST) -> set[int]:
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            found.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return found
