"""What `@app.observe` receives: frozen facts, one class each. A new field breaks nobody. `isinstance(event, Event)` holds for all.

A leaf: imports nothing of mqsdk."""

from __future__ import annotations

from typing import NamedTuple


class Retried(NamedTuple):
    """An attempt failed and another one will run `delay_s` seconds later. place: `file.py:12 in bill`, "" when not known."""

    topic: str
    group: str
    cluster: str
    message_id: str
    attempt: int
    delay_s: float
    error: str
    place: str = ""


class DeadLettered(NamedTuple):
    """A message is stored in the dead letters of its group. reason: exhausted, rejected, undecodable, crash_loop or followed.

    Of a delayed message that its topic refuses for good: group `delay`, no attempts, and the code of the refusal as the reason.
    """

    topic: str
    group: str
    cluster: str
    message_id: str
    attempts: int
    reason: str
    error: str
    place: str = ""


class Dropped(NamedTuple):
    """A message used up its attempts and `on_exhausted="drop"` let it go."""

    topic: str
    group: str
    cluster: str
    message_id: str
    attempts: int
    error: str
    place: str = ""


class Halted(NamedTuple):
    """A message used up its attempts and stays unsettled. scope: what stands still with it until `mqsdk groups release`, key or partition.

    redriven: it is a copy in the group's retry topic, and `position` its place there.
    """

    topic: str
    group: str
    cluster: str
    message_id: str
    partition: int
    position: int
    scope: str
    attempts: int
    error: str
    place: str = ""
    redriven: bool = False


class Freed(NamedTuple):
    """A halted message was released: it runs again (retry), becomes a dead letter (dead_letter) or is let go (drop).

    message_id: "" for one that an earlier owner halted and this one has not read yet. redriven: as in Halted.
    """

    topic: str
    group: str
    cluster: str
    message_id: str
    partition: int
    position: int
    outcome: str
    redriven: bool = False


class DeadLetterDelayed(NamedTuple):
    """The copy of a dead letter could not be stored; the original stays unsettled and the copy is tried again."""

    topic: str
    group: str
    cluster: str
    message_id: str
    error: str


class GapSeen(NamedTuple):
    """Messages that this group had not read are gone: positions start (included) to stop (excluded)."""

    topic: str
    group: str
    cluster: str
    partition: int
    start: int
    stop: int
    reason: str


class Stuck(NamedTuple):
    """A handler runs longer than its timeout or than the watchdog allows. `stack` holds code places only, no values."""

    topic: str
    group: str
    cluster: str
    message_id: str
    attempt: int
    age_s: float
    stack: str


class SpanExceeded(NamedTuple):
    """Too much waits behind blocked keys of a partition: reading from it is paused until they move on."""

    topic: str
    group: str
    cluster: str
    partition: int
    records: int
    bytes: int
    age_s: float


class Stalled(NamedTuple):
    """Assigned, backlog waiting, nothing settled for `seconds`."""

    topic: str
    group: str
    cluster: str
    seconds: float


class BreakerChanged(NamedTuple):
    """The breaker of a consumer is now `open` (nothing starts), `probing` (one message is tried) or `closed`.

    failed, attempts: what made it so; of the window, or of the probe. probe_s: seconds from `open` to the next probe.
    """

    topic: str
    group: str
    cluster: str
    state: str
    failed: int
    attempts: int
    probe_s: float


class OwnershipChanged(NamedTuple):
    """A partition was assigned, revoked or lost."""

    topic: str
    group: str
    cluster: str
    partition: int
    epoch: int
    change: str


class LinkChanged(NamedTuple):
    """The connection to a cluster went up or down."""

    cluster: str
    up: bool
    error: str


class FlowChanged(NamedTuple):
    """A cluster takes no publishes (its memory or disk is short), or takes them again: until then they wait, or are rejected as `full`."""

    cluster: str
    blocked: bool
    reason: str


class SettingChanged(NamedTuple):
    """A reload changed one key of the configuration: one event for each, before the `Reloaded` of version `version`. Secrets are masked."""

    key: str
    old: str
    new: str
    version: int


class Reloaded(NamedTuple):
    """A reload ended: `outcome` is applied, unchanged or refused; `changes` lists (key, old, new), secrets masked.

    Refused too, once per outage: a remote source that gives nothing.
    """

    outcome: str
    version: int
    changes: tuple[tuple[str, str, str], ...] = ()
    problem: str = ""


class ClusterChanged(NamedTuple):
    """A step of a topic whose route was given another cluster, from `source` to `target`, in this process.

    step: `writing` (group "": publishes go to the target from now on), and of each consumer `reading` (both are read), `closed` (nothing
    was left on the source for `reload.settle`; it is watched for a day), `reopened` (something is there again), `over`.
    """

    topic: str
    group: str
    source: str
    target: str
    step: str


class MoveAdvanced(NamedTuple):
    """A live move reached another stage."""

    topic: str
    stage: str
    source: str
    target: str


Event = (
    Retried
    | DeadLettered
    | Dropped
    | Halted
    | Freed
    | DeadLetterDelayed
    | GapSeen
    | Stuck
    | SpanExceeded
    | Stalled
    | BreakerChanged
    | OwnershipChanged
    | LinkChanged
    | FlowChanged
    | SettingChanged
    | Reloaded
    | ClusterChanged
    | MoveAdvanced
)
