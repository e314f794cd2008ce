"""What processes tell of a move: a document that comes back as it was, and strangers that are ignored."""

from __future__ import annotations

import pytest

from mqsdk.core.report import Report, decoded

WHOLE = Report(
    "shop@host:7", "host", 7, "a1", "orders", "read_both", 3, "billing", {"disk": 2}, {"billing": True}, 3.3, True, {"stored": 4}
)


def test_a_report_comes_back_as_it_was() -> None:
    assert decoded(WHOLE.encoded()) == WHOLE


def test_a_report_without_shadows_is_one_too() -> None:
    assert decoded(WHOLE.encoded().replace(b',"shadows":{"stored":4}', b"")) == WHOLE._replace(shadows={})


@pytest.mark.parametrize(
    "value", [b"", b"{}", b"[1]", b"\xff", b'{"v": 2}', b'{"v": 1}', b"[" * 70_000, b'{"v": 1, "held": 3}', b"9" * 5000]
)
def test_what_is_no_report_is_ignored(value: bytes) -> None:
    assert decoded(value) is None


def test_one_field_of_another_kind_makes_it_none() -> None:
    assert decoded(WHOLE.encoded().replace(b'"pid":7', b'"pid":"x"')) is None
