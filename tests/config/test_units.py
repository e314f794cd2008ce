"""Rates as people write them."""

from __future__ import annotations

import pytest

from mqsdk import units


@pytest.mark.parametrize(
    ("text", "rate"), [("200/s", 200.0), ("30/m", 0.5), ("5/h", 5 / 3600), ("1/m", 1 / 60), ("7/h", 7 / 3600), ("100000/s", 1e5)]
)
def test_a_rate_is_read_and_written_the_same(text: str, rate: float) -> None:
    assert units.per_second(text) == rate
    assert units.rate_text(rate) == text


@pytest.mark.parametrize(("rate", "text"), [(2.0, "2/s"), (120 / 60, "2/s"), (0.25, "15/m"), (1.5, "90/m"), (1 / 7, "0.142857/s")])
def test_a_rate_is_written_in_the_shortest_unit_that_has_a_whole_number(rate: float, text: str) -> None:
    assert units.rate_text(rate) == text


@pytest.mark.parametrize("text", ["", "5", "/s", "5/", "5/d", "-5/s", "0/s", "0.0/h", "1e3/s", " 5/s", "5 /s", "5/s ", "٣/s", 5, None])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write for example 100/s"):
        units.per_second(text)
