"""How long a process may publish by the route that it knows."""

from __future__ import annotations

from mqsdk.core.proof import Proof


def moving(now: float) -> Proof:
    proof = Proof(now)
    proof.fence_s = 10.0
    return proof


def test_what_does_not_move_needs_no_proof() -> None:
    assert Proof(0.0).holds(1e9)


def test_a_look_or_a_stored_report_holds_for_half_the_fence_time() -> None:
    proof = moving(0.0)
    assert proof.holds(5.0)
    assert not proof.holds(5.1)
    proof.reported(4.0)
    assert proof.holds(9.0)
    proof.looked(20.0)
    assert proof.holds(25.0)


def test_a_report_that_comes_too_late_proves_nothing() -> None:
    """It was frozen, and whoever watches may have gone on without it."""
    proof = moving(0.0)
    proof.reported(11.0)
    assert not proof.holds(11.0)
    proof.looked(12.0)
    proof.reported(13.0)
    assert proof.holds(18.0)


def test_an_answer_that_comes_late_counts_from_when_it_was_asked() -> None:
    proof = moving(0.0)
    proof.reported(4.0)
    proof.reported(2.0)
    assert proof.holds(9.0)
