"""Retry policies: what may be declared, and how long the waits are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqsdk.core.retry import Backoff, RetryPolicy
from mqsdk.errors import DeclarationError


@given(st.integers(1, 1_000_000), st.floats(0, 1, exclude_max=True))
def test_a_wait_is_never_under_its_minimum_nor_over_its_maximum_with_jitter(attempt: int, jitter: float) -> None:
    minimum = min(0.5 * 3.0 ** min(attempt - 1, 10), 90.0)
    assert minimum <= Backoff(0.5, factor=3, max="90s", jitter=0.2).delay_s(attempt, jitter) <= minimum * 1.2


def test_ten_attempts_of_the_default_take_about_four_minutes() -> None:
    waits = [RetryPolicy().backoff.delay_s(attempt, 0.5) for attempt in range(1, 10)]
    assert 230 < sum(waits) < 280


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("attempts", {"attempts": 0}),
        ("attempts", {"attempts": True}),
        ("attempts", {"attempts": 1.5}),
        ("on_exhausted", {"on_exhausted": "explode"}),
        ("reject_on", {"reject_on": ["ValueError"]}),
        ("reject_on", {"reject_on": ValueError()}),
        ("Backoff", {"backoff": 3}),
    ],
)
def test_a_policy_that_cannot_work_is_refused_by_the_name_of_its_field(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError, match=field):
        RetryPolicy(**values)


@pytest.mark.parametrize(
    ("field", "values"), [("base", {"base": "soon"}), ("max", {"max": -1}), ("factor", {"factor": 0.5}), ("jitter", {"jitter": 2})]
)
def test_a_backoff_that_cannot_work_is_refused_by_the_name_of_its_field(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError, match=field):
        Backoff(**values)


def test_one_exception_class_may_stand_without_a_list() -> None:
    assert RetryPolicy(reject_on=KeyError).reject_on == (KeyError,)  # type: ignore[arg-type]
