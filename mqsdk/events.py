"""What `@app.observe` receives: frozen facts, one class each. A new field breaks nobody. A leaf: imports nothing of mqsdk."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all observer events."""


@dataclass(frozen=True, slots=True)
class Retried(Event):
    """An attempt failed and another one will run `delay_s` seconds later. place: `file.py:12 in bill`, "" when not known."""

    topic: str
    group: str
    cluster: str
    message_id: str
    attempt: int
    delay_s: float
    error: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class DeadLettered(Event):
    """A message is stored in the dead letters of its group. reason: exhausted, rejected, undecodable or crash_loop."""

    topic: str
    group: str
    cluster: str
    message_id: str
    attempts: int
    reason: str
    error: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class Dropped(Event):
    """A message used up its attempts and `on_exhausted="drop"` let it go."""

    topic: str
    group: str
    cluster: str
    message_id: str
    attempts: int
    error: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class DeadLetterDelayed(Event):
    """The copy of a dead letter could not be stored; the original stays unsettled and the copy is tried again."""

    topic: str
    group: str
    cluster: str
    message_id: str
    error: str


@dataclass(frozen=True, slots=True)
class GapSeen(Event):
    """Messages that this group had not read are gone: positions start (included) to stop (excluded)."""

    topic: str
    group: str
    cluster: str
    partition: int
    start: int
    stop: int
    reason: str


@dataclass(frozen=True, slots=True)
class Stuck(Event):
    """A handler runs longer than its timeout or than the watchdog allows. `stack` holds code places only, no values."""

    topic: str
    group: str
    cluster: str
    message_id: str
    attempt: int
    age_s: float
    stack: str


@dataclass(frozen=True, slots=True)
class SpanExceeded(Event):
    """Too much waits behind blocked keys of a partition: reading from it is paused until they move on."""

    topic: str
    group: str
    cluster: str
    partition: int
    records: int
    bytes: int
    age_s: float


@dataclass(frozen=True, slots=True)
class Stalled(Event):
    """Assigned, backlog waiting, nothing settled for `seconds`."""

    topic: str
    group: str
    cluster: str
    seconds: float


@dataclass(frozen=True, slots=True)
class OwnershipChanged(Event):
    """A partition was assigned, revoked or lost."""

    topic: str
    group: str
    cluster: str
    partition: int
    epoch: int
    change: str


@dataclass(frozen=True, slots=True)
class LinkChanged(Event):
    """The connection to a cluster went up or down."""

    cluster: str
    up: bool
    error: str


@dataclass(frozen=True, slots=True)
class Reloaded(Event):
    """A reload ended: `outcome` is applied, unchanged or refused; `changes` lists (key, old, new), secrets masked."""

    outcome: str
    version: int
    changes: tuple[tuple[str, str, str], ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class MoveAdvanced(Event):
    """A live move reached another stage."""

    topic: str
    stage: str
    source: str
    target: str
