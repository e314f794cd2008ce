"""The table of docs/guarantees.md: what each backend does by itself, what layer 2 does for it, and what is refused, in which words.

`python -m tests.capabilities` prints it. States come from what the adapters claim; the texts from the code that refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from mqsdk.api.outlet import Outlet
from mqsdk.config.model import Cluster, Configuration, Route, TopicRule
from mqsdk.core.actions import Tuning
from mqsdk.core.retry import RetryPolicy
from mqsdk.errors import MqError
from mqsdk.runtime.clusters import Clusters
from mqsdk.runtime.environment import Declared
from mqsdk.runtime.halts import check_retries
from mqsdk.runtime.launching import check_capabilities
from mqsdk.runtime.topics import ensure_topic
from mqsdk.spi import Backend, Capabilities, NotSupported
from mqsdk.testing.stages import capabilities_of

BACKENDS = ("log", "memory", "kafka", "rabbitmq", "redis")
DELAY = "a delayed record comes at its due time and once"
HISTORY = "a late group sees the past where history is claimed"
READ = "bounds name the first and the next position"
HEAD = "| | " + " | ".join(BACKENDS) + " |"


class _Claims(Backend):
    """A backend of which nothing but its claims is asked."""

    def __init__(self, kind: str, capabilities: Capabilities) -> None:
        self.kind = kind  # type: ignore[misc]
        self.name = "main"
        self._capabilities = capabilities

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def open(self, deadline: float) -> None: ...
    def close(self, deadline: float) -> None: ...
    def producer(self, events: Any) -> Any: ...
    def consumer(self, subscription: Any) -> Any: ...
    def admin(self) -> Any: ...
    def health(self) -> Any: ...


class Row(NamedTuple):
    """state: `native` or `emulated` where it is not refused. refuse: raises what the code raises where it is.

    scenario: of the conformance suite, as docs/conformance.md names it; it shows what is native.
    """

    name: str
    state: Callable[[Capabilities], str]
    refuse: Callable[[_Claims], object] = lambda backend: None
    scenario: str = ""


def declared(**fields: Any) -> Declared:
    return Declared(topic="orders", group="billing", handler=None, **fields)  # type: ignore[arg-type]


def _declares(**fields: Any) -> Callable[[_Claims], object]:
    return lambda backend: check_capabilities(declared(**fields), backend.capabilities, backend.name)


def _retries(**policy: Any) -> Callable[[_Claims], object]:
    tuning = Tuning(retry=RetryPolicy(**policy))
    return lambda backend: check_retries(declared(ordered=True), tuning, backend.capabilities, backend.name)


def _keeps(backend: _Claims) -> object:
    if backend.capabilities.retention:
        return None
    return ensure_topic(backend, backend.name, "orders", TopicRule(pattern="orders", retention_s=60.0))


def _delays(backend: _Claims) -> None:
    configuration = Configuration(
        clusters={"main": Cluster(name="main", backend=backend.kind)}, routes=(Route(topics=("*",), cluster="main"),)
    )
    outlet = Outlet.__new__(Outlet)
    outlet._supervisor = type("Supervisor", (), {"clusters": Clusters(configuration, lambda cluster: backend)})()
    outlet._check_delay("orders")


def _claims(name: str) -> Callable[[_Claims], object]:
    def refuse(backend: _Claims) -> None:
        if not getattr(backend.capabilities, name):
            raise NotSupported(name)

    return refuse


def always(state: str) -> Callable[[Capabilities], str]:
    return lambda capabilities: state


ROWS = (
    Row("`ordered=True`: order of each key", always("native"), _declares(ordered=True), "order holds across a change of the owner"),
    Row(
        "ordered retry: the key alone waits; lanes, timeouts, batches, rate, breaker, drain, watchdog",
        always("emulated"),
    ),
    Row("progress of what ends out of order", lambda can: "native" if can.settle == "receipt" else "emulated"),
    Row("a publish that is repeated after a doubt is handled once by one owner", lambda can: "emulated" if can.copies else "native"),
    Row("failed attempts survive a crash", lambda can: "emulated" if can.attempts else "emulated, per owner"),
    Row("`crash_loop`: a message that ends its process", lambda can: "emulated" if can.sparse_bytes else "no: it is handed out again"),
    Row('`on_exhausted="halt_key"`, `"halt_partition"`', always("emulated"), _retries(on_exhausted="halt_partition")),
    Row("`dlq_follow_key=True`", always("emulated"), _retries(dlq_follow_key=True)),
    Row("dead letters, `mqsdk dlq list`, `show`, `purge`", always("emulated")),
    Row("`mqsdk dlq redrive`", always("emulated"), _claims("companions"), "a companion is taken up when the group begins in it"),
    Row("`delay=`, `at=`", lambda can: {"native": "native", "ladder": "emulated"}.get(can.delay, ""), _delays, DELAY),
    Row("`broadcast=True`", always("native"), _declares(broadcast=True), "each instance gets everything from its start on"),
    Row('`from_="earliest"`', always("native"), _declares(start="earliest"), HISTORY),
    Row("`from_=` a time", always("native"), _declares(start=datetime(2026, 1, 1, tzinfo=UTC)), "a time begins there or is refused"),
    Row("`mqsdk offsets reset`", always("native"), _claims("replay"), "progress is moved back to a position or refused"),
    Row("reading a topic by position: `mqsdk peek`, `mqsdk tail`", always("native"), _claims("read_by_position"), READ),
    Row("`topics: retention:`", always("native"), _keeps, "a topic is told how long it keeps or the backend refuses"),
)


def cell(row: Row, backend: _Claims) -> tuple[str, str]:
    """(state, text of the refusal or "")."""
    try:
        row.refuse(backend)
    except MqError as error:
        return "refused", error.what
    return row.state(backend.capabilities), ""


def table(claims: Mapping[str, Capabilities] | None = None) -> str:
    """Markdown: the table, then each refusal in the words in which it is told. claims: those of the adapters unless given."""
    known = claims or {name: capabilities_of(name) for name in BACKENDS}
    lines, notes = [HEAD, "|---|" + "---|" * len(BACKENDS)], dict[str, int]()
    for row in ROWS:
        cells = []
        for name in BACKENDS:
            state, text = cell(row, _Claims(name, known[name]))
            cells.append(f"{state} ({notes.setdefault(text, len(notes) + 1)})" if text else state)
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"{number}. {text}" for text, number in notes.items())])


if __name__ == "__main__":
    print(table())
