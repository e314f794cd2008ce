"""What `@app.consumer` and `@router.consumer` record: explicit values only, nothing opened. Every refusal of a declaration is here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal, Required, TypedDict

from mqsdk import names
from mqsdk.api import naming, signature
from mqsdk.api.signature import Shape, Signature
from mqsdk.core.retry import RetryPolicy
from mqsdk.errors import DeclarationError, Duration, duration_s

MAX_CONCURRENCY = 10_000
MAX_BATCH = 10_000


@dataclass(frozen=True, slots=True, init=False)
class Batch:
    """Messages per call of a batch handler. size: at most, 1..10,000. wait: how long a batch may fill; `wait_s` in seconds."""

    size: int
    wait_s: float

    def __init__(self, size: int = 100, wait: Duration = "0s") -> None:
        object.__setattr__(self, "size", _whole("batch size", size, 1, MAX_BATCH, "Batch"))
        object.__setattr__(self, "wait_s", duration_s(wait, "wait", "Batch"))


class ConsumerOptions(TypedDict, total=False):
    """Keyword arguments of `@consumer`.

    group: required; messages are shared by all consumers of one group. ordered: one running handler per key, in publish order.
    concurrency: handlers at once in this process (8). timeout: per call ("5m"), None = none. retry: RetryPolicy or attempts in total (10).
    batch: int or Batch; the first parameter is then list[T]. from_: where a new group begins: None, "earliest", "latest", aware datetime.
    dead_letter: a topic in place of `<topic>.<group>.dlq`. broadcast: every running instance gets every message from its start on, nothing
    of its progress is kept. isolation: "process" runs the handler in worker processes, `concurrency` of them.
    """

    group: Required[str]
    ordered: bool
    concurrency: int
    timeout: Duration | None
    retry: RetryPolicy | int
    batch: int | Batch | None
    broadcast: bool
    isolation: Literal["thread", "process"]
    from_: Literal["earliest", "latest"] | datetime | None
    dead_letter: str | None


@dataclass(frozen=True, kw_only=True)
class ConsumerDeclaration:
    """One declared consumer. tuning: explicit values by the names of `core.actions.Tuning`, so that configuration can be stronger."""

    topic: str
    group: str
    signature: Signature
    ordered: bool = False
    batch: int | None = None
    batch_wait_s: float = 0.0
    start: Literal["earliest", "latest"] | datetime | None = None
    dead_letter: str | None = None
    broadcast: bool = False
    isolated: bool = False
    tuning: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    early_shape: Shape | None = None

    @property
    def name(self) -> str:
        return f"{self.topic}/{self.group}"

    @property
    def reject_on(self) -> tuple[type[BaseException], ...]:
        retry = self.tuning.get("retry")
        return retry.reject_on if isinstance(retry, RetryPolicy) else ()

    def shape(self) -> Shape:
        """How the handler is called. Raises DeclarationError when an annotation still cannot be resolved."""
        if self.early_shape is not None:
            return self.early_shape
        try:
            return signature.shape(self.signature)
        except (NameError, AttributeError) as error:
            raise DeclarationError(
                f"an annotation of the handler cannot be resolved: {error}",
                where=self.signature.where,
                fix="define the class at module level, or above the handler",
            ) from error


def declare(
    checked: Mapping[str, Any], options: Mapping[str, Any], function: Callable[..., Any], namespace: Mapping[str, Any]
) -> ConsumerDeclaration:
    """Check the function for options that passed `check_options`, and record the consumer.

    namespace: local names where the decorator stands. Raises DeclarationError.
    """
    signed = signature.check(function, batch=checked["batch"] is not None)
    _check_isolation(checked["isolated"], function, signed.where)
    try:
        shape = signature.shape(signed, namespace)
    except (NameError, AttributeError):  # a forward reference; asked again at start
        shape = None
    return ConsumerDeclaration(signature=signed, early_shape=shape, **checked)


def check_options(topic: object, options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The arguments of the decorator as fields of ConsumerDeclaration. Raises DeclarationError."""
    _check_known(topic, options, where)
    problem = names.topic_problem(topic, reading=True) or names.group_problem(options["group"])
    problem = problem or names.pair_problem(str(topic), options["group"])
    if problem is not None:
        raise DeclarationError(problem, where=where)
    size, wait_s = _batch(options.get("batch"), where)
    _check_isolation_name(options, where)
    _check_policy(options, where)
    return {
        "topic": topic,
        "group": options["group"],
        "ordered": _flag(options, "ordered", where),
        "batch": size,
        "batch_wait_s": wait_s,
        "start": _start(options.get("from_"), where),
        "dead_letter": _dead_letter(options.get("dead_letter"), str(topic), where),
        "broadcast": _broadcast(options, where),
        "isolated": options.get("isolation") == "process",
        "tuning": MappingProxyType(_tuning(options, where)),
    }


def _check_known(topic: object, options: Mapping[str, Any], where: str) -> None:
    if callable(topic):
        raise no_topic(signature.place_of(topic))
    known = list(ConsumerOptions.__annotations__)
    for name in options:
        if name not in known:
            import difflib  # 2 ms of every `import mqsdk`, needed for a mistake only

            near = difflib.get_close_matches(name, known, 1)
            raise DeclarationError(
                f"`@consumer` has no argument `{name}`",
                where=where,
                fix=f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known)}",
            )
    if "group" not in options:
        raise DeclarationError(
            "`@consumer` needs `group=`: consumers of one group share the messages, every other group gets its own copy",
            where=where,
            fix='name the service, for example group="billing"',
        )


def no_topic(where: str) -> DeclarationError:
    return DeclarationError("`@consumer` needs a topic and a group", where=where, fix='@app.consumer("topic", group="group")')


def _tuning(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "concurrency" in options:
        found["concurrency"] = _whole("concurrency", options["concurrency"], 1, MAX_CONCURRENCY, where)
    if "timeout" in options:
        found["timeout_s"] = None if options["timeout"] is None else duration_s(options["timeout"], "timeout", where)
        if found["timeout_s"] == 0:
            raise DeclarationError("`timeout` is longer than 0; None means no timeout", where=where)
    if "retry" in options:
        found["retry"] = _retry(options["retry"], where)
    return found


def _retry(value: object, where: str) -> RetryPolicy:
    if isinstance(value, int) and not isinstance(value, bool):
        return RetryPolicy(attempts=value)
    if not isinstance(value, RetryPolicy):
        raise DeclarationError(f"`retry` is a RetryPolicy or the attempts in total, not {type(value).__name__}", where=where)
    return value


def _check_policy(options: Mapping[str, Any], where: str) -> None:
    retry = options.get("retry")
    if not isinstance(retry, RetryPolicy):
        return
    if retry.dlq_follow_key:
        _check_following(options, where)
    if not retry.halts:
        return
    name = f'on_exhausted="{retry.on_exhausted}"'
    if options.get("broadcast"):
        raise DeclarationError(f"{name}: a broadcast keeps no progress, so nothing would remember the halt", where=where)
    if retry.on_exhausted == "halt_key" and not options.get("ordered"):
        raise DeclarationError(
            f"{name} needs `ordered=True`: without it no message waits for its key",
            where=where,
            fix='add ordered=True, or use "halt_partition" or "dead_letter"',
        )


def _check_following(options: Mapping[str, Any], where: str) -> None:
    wanted = (
        (not options.get("ordered"), "needs `ordered=True`: without it no message waits for its key"),
        (options.get("broadcast"), "is not for a broadcast, whose dead letters are of all instances"),
        (options.get("dead_letter"), "needs the group's own topic of dead letters: nobody redrives or purges those of `dead_letter=`"),
    )
    for wrong, reason in wanted:
        if wrong:
            raise DeclarationError(f"dlq_follow_key=True {reason}", where=where)


def _broadcast(options: Mapping[str, Any], where: str) -> bool:
    wanted = _flag(options, "broadcast", where)
    if wanted and options.get("from_") not in (None, "latest"):
        raise DeclarationError("a broadcast begins with its instance: `from_` has no meaning there", where=where, fix="leave it out")
    return wanted


def _check_isolation_name(options: Mapping[str, Any], where: str) -> None:
    isolation = options.get("isolation", "thread")
    if isolation not in ("thread", "process"):
        raise DeclarationError('`isolation` is "thread" or "process"', where=where)


def _check_isolation(isolated: bool, function: Callable[..., Any], where: str) -> None:
    """That its module holds it under this name is seen at start: while a module is being imported the name is not bound yet."""
    if isolated and naming.name_of(function) is None:
        raise DeclarationError(
            'isolation="process" needs a handler that can be imported by name', where=where, fix="define it at module level"
        )


def _batch(value: object, where: str) -> tuple[int | None, float]:
    if value is None:
        return None, 0.0
    if isinstance(value, Batch):
        return value.size, value.wait_s
    return _whole("batch", value, 1, MAX_BATCH, where), 0.0


def _start(value: object, where: str) -> Any:
    if value is None or value in ("earliest", "latest"):
        return value
    if not isinstance(value, datetime):
        raise DeclarationError('`from_` is None, "earliest", "latest" or an aware datetime', where=where)
    if value.tzinfo is None or value.utcoffset() is None:
        raise DeclarationError("`from_` is a datetime with a time zone", where=where, fix="for example datetime.now(UTC)")
    return value


def _dead_letter(value: object, topic: str, where: str) -> str | None:
    if value is None:
        return None
    if value is False:
        raise DeclarationError(
            "`dead_letter` is a topic", where=where, fix='to drop failed messages write RetryPolicy(on_exhausted="drop")'
        )
    problem = names.topic_problem(value)
    if problem is None and value == topic:
        problem = "a consumer's dead letters cannot go to the topic it reads"
    if problem is not None:
        raise DeclarationError(f"`dead_letter`: {problem}", where=where)
    return str(value)


def _flag(options: Mapping[str, Any], name: str, where: str) -> bool:
    value = options.get(name, False)
    if not isinstance(value, bool):
        raise DeclarationError(f"`{name}` is True or False, not {type(value).__name__}", where=where)
    return value


def _whole(name: str, value: object, low: int, high: int, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise DeclarationError(f"`{name}` is a whole number from {low} to {high:,}", where=where)
    return value
