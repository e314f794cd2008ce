"""What a running process shows of itself: its consumers, their lag, its health. Reads, changes nothing; any thread."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from mqsdk.config.model import Cluster
from mqsdk.core import deadletter
from mqsdk.core.actions import Tuning
from mqsdk.core.view import HaltView
from mqsdk.errors import BackendError, MqError
from mqsdk.runtime.clock import Clock
from mqsdk.runtime.clusters import Clusters
from mqsdk.runtime.environment import Declared
from mqsdk.runtime.inspection import ConsumerInfo, HaltedMessage, Health, Lag, Oldest, State, progress_of
from mqsdk.runtime.loop import ConsumerLoop
from mqsdk.runtime.observe import runs_text
from mqsdk.spi import Backend, BackendHealth, Capabilities, Finding

log = logging.getLogger("mqsdk.app")


def lag(clusters: Clusters, names: Sequence[str], topic: str, group: str, clock: Clock) -> Lag:
    """Lag of a group on all these clusters; without partitions when the topic or the group does not exist. Raises MqError."""
    progress = tuple(one for name in names for one in progress_of(clusters.backend(name).admin(), topic, group))
    oldest_ms = min((one.oldest_ms for one in progress if one.oldest_ms is not None), default=None)
    seconds = 0.0 if oldest_ms is None else max(0.0, (clock.wall_ms() - oldest_ms) / 1000)
    return Lag(sum(one.messages for one in progress), seconds, progress)


def lag_or_none(clusters: Clusters, declared: Declared, cluster: str, clock: Clock) -> int | None:
    """Messages on one cluster; None when it does not answer."""
    try:
        return lag(clusters, (cluster,), declared.topic, declared.group, clock).messages
    except MqError:
        return None


def consumer(declared: Declared, loop: ConsumerLoop, tuning: Tuning, clock: Clock) -> ConsumerInfo:
    """One consumer at this moment, without its lag."""
    view = loop.view()
    settled = view.last_settled_at
    at = None if settled is None else datetime.fromtimestamp(clock.wall_ms() / 1000 - (clock.mono() - settled), UTC)
    return ConsumerInfo(
        topic=declared.topic,
        group=declared.group,
        cluster=loop.spec.cluster,
        state=_state(loop),
        concurrency=tuning.concurrency,
        in_flight=view.records,
        partitions=tuple(sorted({one.partition.number for one in view.partitions})),
        lag=None,
        paused=loop.paused or tuning.paused,
        last_settled_at=at,
        oldest=oldest(loop, clock.mono()),
        config=tuning.version,
        handled=view.handled,
        failed=view.failed,
        dead_lettered=view.dead_lettered,
        rate=tuning.rate_per_s,
        breaker=view.breaker,
        halted=tuple(_halted(one) for one in view.halted),
    )


def _halted(halt: HaltView) -> HaltedMessage:
    record = halt.record
    position = str(halt.position) if record is None else record.ref
    key = None if record is None or record.key is None else record.key.decode("utf-8", "surrogateescape")
    message_id = "" if record is None else deadletter.message_id(halt.origin, record)
    return HaltedMessage(halt.origin.partition, position, message_id, key, halt.attempts, halt.scope, halt.redriven)


def _state(loop: ConsumerLoop) -> State:
    if loop.finished.is_set():
        return "stopped"
    if loop.failure:
        return "restarting"
    return "running" if loop.joined.is_set() else "joining"


def oldest(loop: ConsumerLoop, now: float) -> Oldest | None:
    """The longest running handler of a loop."""
    running = loop.running()
    if not running:
        return None
    started, record, origin, stack = running[0]
    return Oldest(record.id or f"{origin.cluster}:{origin.topic}:{origin.partition}:{record.ref}", now - started, stack)


def health(clusters: Clusters, loops: Sequence[tuple[Declared, ConsumerLoop]], running: bool, given_up: str = "") -> Health:
    """running: the App's state is RUNNING. given_up: what the watchdog could not help, "" for nothing.

    Problems of the clusters and consumers that are in use make it unready; the rest is told.
    """
    found, problems = _reachable(clusters)
    problems += [given_up] if given_up else []
    problems += [problem for declared, loop in loops if (problem := _problem(declared, loop)) is not None]
    ready = running and not problems
    # Told, but no reason not to be ready: what nobody needs is not tried again, so it would never end.
    failed = clusters.failures()
    found |= {name: BackendHealth(ok=False) for name in failed}
    problems += [f"cluster {name} could not be opened: {what}" for name, what in failed.items()]
    names = [declared.name for declared, loop in loops if loop.view().breaker not in (None, "closed")]
    problems += [problem for declared, loop in loops if (problem := _halts(declared, loop)) is not None]
    problems += [f"the breaker of consumer {name} is open: its attempts fail, and one message at a time is tried" for name in names]
    problems += [] if running else ["no consumers are running"]
    return Health(live=not given_up, ready=ready, clusters=found, problems=tuple(problems))


def _reachable(clusters: Clusters) -> tuple[dict[str, BackendHealth], list[str]]:
    found: dict[str, BackendHealth] = {}
    problems: list[str] = []
    for name, backend in clusters.opened().items():
        try:
            found[name] = backend.health()
        except BackendError as error:
            found[name] = BackendHealth(ok=False)
            problems.append(f"cluster {name}: {error.what}")
    return found, problems


def _problem(declared: Declared, loop: ConsumerLoop) -> str | None:
    if loop.failure:
        return f"consumer {declared.name} is restarting: {loop.failure}"
    if loop.problem:
        return loop.problem
    if loop.view().stalled:
        return f"consumer {declared.name} is stalled: messages are in flight, and none has ended for `watchdog.no_progress`"
    return None if loop.joined.is_set() else f"consumer {declared.name} has not joined its group"


def _halts(declared: Declared, loop: ConsumerLoop) -> str | None:
    """Told, but no reason not to be ready: a person has to look at it, and nothing else stands still."""
    halted = loop.view().halted
    if not halted:
        return None
    partitions = runs_text(one.origin.partition for one in halted)
    what = "1 halted message" if len(halted) == 1 else f"{len(halted)} halted messages"
    fix = f"mqsdk groups release {declared.topic} {declared.group} --as retry|dead_letter|drop"
    return f"consumer {declared.name} has {what} (partitions {partitions}): {fix}"


def code_of(cluster: Cluster, finding: Finding) -> str:
    """As people write it in `accept:`."""
    return f"{cluster.backend}.{finding.code}"


def is_accepted(cluster: Cluster, finding: Finding) -> bool:
    """What keeps a cluster from being opened cannot be accepted: `open` would refuse it all the same."""
    return finding.level == "warn" and code_of(cluster, finding) in cluster.accept


def tell_what_holds(cluster: Cluster, backend: Backend) -> None:
    """What survives which failure on a cluster, and what puts it at risk: nobody runs a weaker one unknowingly."""
    try:
        lines = told_at_start(cluster, backend.health(), backend.capabilities)
    except MqError as error:
        log.warning("cluster %s: what holds there is not known: %s", cluster.name, type(error).__name__)
        return
    for level, line in lines:
        log.log(level, "%s", line)


def emulated(capabilities: Capabilities) -> tuple[Finding, ...]:
    """What a backend cannot do by itself and layer 2 does in its place."""
    if capabilities.delay != "ladder":
        return ()
    what = "delay is emulated: delayed messages wait in topics `mq.delay.*`, and processes that run consumers move them"
    return (Finding("info", "delay_emulated", what),)


def told_at_start(cluster: Cluster, health: BackendHealth, capabilities: Capabilities) -> list[tuple[int, str]]:
    """(log level, line) of what holds on a cluster, what is emulated there, and each warning that it does not accept."""
    holds = [health.guarantee] if health.guarantee else []
    lines = [(logging.INFO, f"cluster {cluster.name}: {what}") for what in (*holds, *(one.what for one in emulated(capabilities)))]
    worries = [finding for finding in health.findings if finding.level in ("warn", "refuse") and not is_accepted(cluster, finding)]
    for finding in worries:
        fix = f" ({finding.fix})" if finding.fix else ""
        lines.append((logging.WARNING, f"cluster {cluster.name}: {code_of(cluster, finding)}: {finding.what}{fix}"))
    return lines
