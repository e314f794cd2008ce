"""Shadow copies that stage `dual_write` of a move makes: settled unseen by their header, before anything looks at their producer."""

from __future__ import annotations

from typing import Any

import pytest

from mqsdk.core import actions as act
from mqsdk.core import sparse
from mqsdk.spi import Record
from tests.core.driving import Driver, record
from tests.core.test_copies import done, run_all


def sent(position: int, *, shadow: bool = False, **fields: Any) -> Record:
    marks: dict[str, Any] = {"extra": (("mq-shadow", "1"),), "attempt": 2} if shadow else {}
    return record(position, "k", producer="p", sequence=position, **marks, **fields)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_shadow_is_settled_and_never_handled(ordered: bool) -> None:
    made = Driver(ordered=ordered)
    made.deliver(sent(0, shadow=True), sent(1), sent(2, shadow=True), sent(3, shadow=True))
    assert run_all(made) == [1]
    assert done(made) == {0, 1, 2, 3}
    assert made.machine.view().shadows == 3


def test_a_batch_of_nothing_but_shadows_is_settled_and_more_is_read() -> None:
    made = Driver()
    assert made.deliver(*(sent(at, shadow=True) for at in range(3))) == []
    made.feed(after=1.0)
    assert done(made) == {0, 1, 2}
    assert made.machine.view().records == 0


def test_a_shadow_takes_no_cut() -> None:
    """The cut of its producer would be the end that the source has now, and its message there may be newer than that."""
    made = Driver(ordered=True, behind=(1,))
    made.deliver(sent(0, shadow=True))
    assert not [action for action in made.log if isinstance(action, act.Cut)]
    made.deliver(sent(1))
    assert len([action for action in made.log if isinstance(action, act.Cut)]) == 1


def test_a_shadow_is_no_first_of_which_a_message_is_a_copy() -> None:
    made = Driver(has_copies=True)
    first = record(0, "k", producer="p", sequence=5, id="i", extra=(("mq-shadow", "1"),), attempt=2)
    made.deliver(first, record(1, "k", producer="p", sequence=5, id="i", again=True))
    assert run_all(made) == [1]


def test_a_users_header_makes_no_shadow() -> None:
    made = Driver()
    made.deliver(record(0, "k", headers=(("mq-shadow", "1"), ("x", "mq-shadow")), attempt=2))
    assert run_all(made) == [0]


def test_a_shadow_among_messages_that_failed_before_is_told_from_them() -> None:
    made = Driver()
    made.deliver(sent(0, attempt=2), sent(1, shadow=True), sent(2))
    assert run_all(made) == [0, 1, 2][::2]
    assert done(made) == {0, 1, 2}


def test_a_shadow_leaves_nothing_to_its_next_owner() -> None:
    made = Driver(sparse_bytes=4000)
    made.deliver(sent(0), sent(1, shadow=True))
    assert made.feed(after=1.0) is not None
    settles = [action.progress for action in made.log if isinstance(action, act.Settle)]
    assert sparse.decode(settles[-1].sparse, settles[-1].watermark).attempts == {}
