"""Strength of the keys of one consumer, key by key."""

from __future__ import annotations

import pytest

from mqsdk.config.model import Configuration, InboxRule
from mqsdk.config.rules import overlap
from mqsdk.config.settings import BreakerKeys
from mqsdk.core.actions import BreakerPolicy, Tuning
from mqsdk.core.retry import Backoff, RetryPolicy
from tests.config.conftest import Load

FILE = """\
defaults: {concurrency: 2, timeout: 20s, paused: true, retry: {attempts: 4, backoff: {base: 4s, max: 40s}}}
watchdog: {no_progress: 7s}
consumers:
  "orders.*/*": {concurrency: 3}
  "orders.created/billing":
    concurrency: 4
    retry: {attempts: 5, backoff: {factor: 5}}
    in_flight: {records: 9}
  "payments.*/billing": {timeout: none}
"""


def test_without_anything_the_built_in_values_hold() -> None:
    assert Configuration().tuning("t", "g", {}) == Tuning()


def test_the_decorator_wins_over_the_defaults_and_the_entry_over_both(loaded: Load) -> None:
    found = loaded(FILE)
    assert found.tuning("t", "g", {}).concurrency == 2
    assert found.tuning("t", "g", {"concurrency": 7}).concurrency == 7
    assert found.tuning("orders.created", "billing", {"concurrency": 7}).concurrency == 4


def test_each_key_is_decided_by_itself(loaded: Load) -> None:
    found = loaded(FILE).tuning("orders.created", "billing", {"timeout_s": 30.0})
    assert (found.concurrency, found.timeout_s, found.paused, found.in_flight_records) == (4, 30.0, True, 9)
    assert found.in_flight_bytes == Tuning().in_flight_bytes
    assert (found.stuck_after_s, found.version) == (7.0, 1)


def test_retry_is_merged_by_sub_key_over_the_decorators_policy(loaded: Load) -> None:
    declared = RetryPolicy(attempts=8, backoff=Backoff("3s", factor=3, max="33s", jitter=0), on_exhausted="drop", reject_on=(KeyError,))
    found = loaded(FILE).tuning("orders.created", "billing", {"retry": declared}).retry
    assert (found.attempts, found.on_exhausted, found.reject_on) == (5, "drop", (KeyError,))
    assert found.backoff == Backoff("3s", factor=5, max="33s", jitter=0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("base: 2m", Backoff("2m", max="2m")),  # over the built-in max of a minute
        ("max: 500ms", Backoff("500ms", max="500ms")),  # below the built-in base of a second
        ("base: 2m, max: 1m", Backoff("1m", max="1m")),
    ],
)
def test_a_base_raises_a_weaker_max_and_a_max_bounds_every_wait(loaded: Load, given: str, expected: Backoff) -> None:
    """No file may make a Backoff that code would be refused: it is built at start and at a reload, far from who wrote it."""
    found = loaded(f"defaults: {{retry: {{backoff: {{{given}}}}}}}\n")
    assert found.tuning("t", "g", {}).retry.backoff == expected


LIMITS = """\
defaults: {rate: 30/m, breaker: {failures: 0.5, probe: 5s}}
consumers:
  "orders/billing": {rate: 200/s, breaker: {min: 7, window: 2m}}
  "orders/search": {rate: none, breaker: none}
  "orders/plain": {breaker: {}}
"""


def test_without_a_breaker_block_there_is_none_and_an_empty_one_has_the_defaults(loaded: Load) -> None:
    found = loaded('consumers: {"orders/plain": {breaker: {}}}\n')
    assert found.tuning("orders", "plain", {}).breaker == BreakerPolicy(0.9, 20, 30.0, 10.0)
    assert found.tuning("orders", "other", {}).breaker is None
    assert loaded("", {"MQSDK_DEFAULTS__BREAKER__MIN": "3"}).tuning("t", "g", {}).breaker == BreakerPolicy(minimum=3)


def test_the_breaker_is_merged_by_sub_key_and_none_takes_away_what_is_weaker(loaded: Load) -> None:
    found = loaded(LIMITS)
    assert found.tuning("t", "g", {}).breaker == BreakerPolicy(failures=0.5, probe_s=5.0)
    assert found.tuning("orders", "billing", {}).breaker == BreakerPolicy(0.5, 7, 120.0, 5.0)
    assert found.tuning("orders", "plain", {}).breaker == BreakerPolicy(failures=0.5, probe_s=5.0)
    assert found.tuning("orders", "search", {}).breaker is None


def test_a_rate_is_messages_per_second(loaded: Load) -> None:
    found = loaded(LIMITS)
    rates = [found.tuning("orders", group, {}).rate_per_s for group in ("other", "billing", "search")]
    assert rates == [0.5, 200.0, None]
    assert loaded("", {"MQSDK_DEFAULTS__RATE": "5/h"}).tuning("t", "g", {}).rate_per_s == 5 / 3600


def test_the_reference_and_the_core_have_one_set_of_defaults() -> None:
    keys = BreakerKeys()
    assert BreakerPolicy(keys.failures, keys.min, keys.window, keys.probe) == BreakerPolicy()


def test_a_policy_in_the_decorator_counts_as_given_whole(loaded: Load) -> None:
    assert loaded(FILE).tuning("t", "g", {"retry": RetryPolicy(attempts=8)}).retry == RetryPolicy(attempts=8)
    assert loaded(FILE).tuning("t", "g", {}).retry == RetryPolicy(attempts=4, backoff=Backoff("4s", max="40s"))


def test_only_the_entry_with_most_literal_characters_applies(loaded: Load) -> None:
    found = loaded(FILE)
    assert found.tuning("orders.x", "billing", {}).concurrency == 3
    assert found.tuning("orders.created", "billing", {}).in_flight_records == 9
    assert found.tuning("orders.created", "search", {}).in_flight_records == 1000
    assert found.tuning("payments.in", "billing", {"timeout_s": 5.0}).timeout_s is None


def test_the_rule_of_a_topic_is_the_entry_with_most_literal_characters(loaded: Load) -> None:
    found = loaded('topics: {"*": {partitions: 2}, "orders.*": {partitions: 4, groups: [billing]}}\n')
    assert (found.topic_rule("orders.x").partitions, found.topic_rule("orders.x").groups) == (4, ("billing",))
    assert found.topic_rule("other").partitions == 2
    assert Configuration().topic_rule("t").partitions is None


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("a", "a", True),
        ("a*", "*a", True),
        ("a*", "b*", False),
        ("*a*", "*b*", True),
        ("a*c", "ab*", True),
        ("a*c", "a*d", False),
        ("*", "", True),
        ("a.b/*", "a.*/g", True),
        ("a.b/h", "a.b/g", False),
        ("*" * 20 + "a", "*" * 20 + "b", False),
        ("ab", "a", False),
    ],
)
def test_two_patterns_tie_only_when_a_name_matches_both(first: str, second: str, expected: bool) -> None:
    assert overlap(first, second) is expected
    assert overlap(second, first) is expected


def test_an_inbox_is_that_of_the_consumer_else_of_the_defaults(loaded: Load) -> None:
    found = loaded(
        """
defaults: {inbox: {path: ./all.db}}
consumers:
  "orders/billing": {inbox: {path: ./billing.db, ttl: 1h}}
  "orders/search": {inbox: none}
  "orders/mail": {concurrency: 2}
"""
    )
    assert found.inbox("orders", "billing") == InboxRule(path="./billing.db", ttl_s=3600.0)
    assert found.inbox("orders", "search") is None
    assert found.inbox("orders", "mail") == found.inbox("other", "mail") == InboxRule(path="./all.db", ttl_s=86400.0)
    assert Configuration().inbox("orders", "billing") is None
    assert found.tuning("orders", "billing", {}) == Configuration().tuning("orders", "billing", {})
