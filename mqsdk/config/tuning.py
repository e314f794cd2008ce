"""How strong a key is for one consumer: `consumers.<topic/group>`, decorator, `defaults`, built in. Pure, standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mqsdk.config.model import literal_length, pattern
from mqsdk.core.actions import BreakerPolicy, Tuning
from mqsdk.core.retry import Backoff, RetryPolicy

if TYPE_CHECKING:
    from mqsdk.config.model import Configuration


def resolve(configuration: Configuration, topic: str, group: str, declared: Mapping[str, Any]) -> Tuning:
    """The Tuning of one consumer.

    declared: what the decorator was given explicitly, by the names of Tuning: `concurrency`, `timeout_s`, `retry` (a RetryPolicy).
    Each key is decided by itself. Of `retry` also each sub-key, so `retry: {attempts: 3}` in the file leaves the decorator's backoff;
    a policy in the decorator counts as given whole. Of `breaker` each sub-key too; `breaker: none` takes a weaker one away.
    """
    layers = (configuration.defaults, declared, rule_values(configuration, f"{topic}/{group}"))
    chosen: dict[str, Any] = {}
    policy, breaker = RetryPolicy(), None
    for layer in layers:
        chosen.update({name: value for name, value in layer.items() if name not in ("retry", "breaker", "inbox")})
        policy = merged_policy(policy, layer.get("retry"))
        breaker = merged_breaker(breaker, layer["breaker"]) if "breaker" in layer else breaker
    return Tuning(**chosen, retry=policy, breaker=breaker, stuck_after_s=configuration.no_progress_s, version=configuration.version)


def rule_values(configuration: Configuration, pair: str) -> Mapping[str, Any]:
    """What `consumers` says for a "topic/group" pair: the matching entry with most literal characters; a tie is an error at load."""
    matching = [rule for rule in configuration.consumers if pattern(rule.pattern).fullmatch(pair)]
    best = max(matching, key=lambda rule: literal_length(rule.pattern), default=None)
    return best.values if best is not None else {}


def merged_breaker(policy: BreakerPolicy | None, given: Mapping[str, Any] | None) -> BreakerPolicy | None:
    """`policy` with the file's sub-keys over it; None takes it away."""
    return None if given is None else replace(policy or BreakerPolicy(), **given)


def merged_policy(policy: RetryPolicy, given: RetryPolicy | Mapping[str, Any] | None) -> RetryPolicy:
    """`policy` with what is given over it: a whole policy, or the file's sub-keys."""
    if given is None:
        return policy
    if isinstance(given, RetryPolicy):
        return given
    return RetryPolicy(
        attempts=given.get("attempts", policy.attempts),
        backoff=_merged_backoff(policy.backoff, given.get("backoff", {})),
        on_exhausted=given.get("on_exhausted", policy.on_exhausted),
        reject_on=policy.reject_on,
        dlq_follow_key=given.get("dlq_follow_key", policy.dlq_follow_key),
    )


def _merged_backoff(backoff: Backoff, given: Mapping[str, Any]) -> Backoff:
    """A `base` that is longer than a `max` from a weaker place raises it; a `max` that is given bounds every wait, the first too."""
    base_s, max_s = given.get("base_s", backoff.base_s), given.get("max_s", backoff.max_s)
    if "max_s" in given:
        base_s = min(base_s, max_s)
    return Backoff(
        base=base_s, factor=given.get("factor", backoff.factor), max=max(base_s, max_s), jitter=given.get("jitter", backoff.jitter)
    )
