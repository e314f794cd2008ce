"""`dlq_follow_key` over a whole App in virtual time, on the capabilities of every backend that can."""

from __future__ import annotations

import pytest

from mqsdk import App, CapabilityError, DeclarationError, RetryPolicy
from mqsdk.testing import TestApp

FOLLOW = RetryPolicy(1, dlq_follow_key=True)


@pytest.mark.parametrize("like", [None, "log", "kafka", "redis"])
def test_a_key_follows_its_dead_letter_over_a_crash(like: str | None) -> None:
    app, seen = App(), []

    @app.consumer("orders", group="billing", ordered=True, retry=FOLLOW)
    def bill(order: str) -> None:
        seen.append(order)
        if order == "a1":
            raise ValueError(order)

    with TestApp(app, like=like) as t:
        app.publish_many("orders", ["a1", "a2", "b1"], key=lambda order: order[0])
        t.drain(raise_failures=False)
        t.crash()
        app.publish_many("orders", ["a3", "b2"], key=lambda order: order[0])
        t.drain()
        assert sorted(seen) == ["a1", "b1", "b2"]
        assert t.dead_letters("orders", "billing").payloads == ["a1", "a2", "a3"]


def test_a_backend_that_cannot_show_its_letters_refuses_at_the_start() -> None:
    app = App()
    app.consumer("orders", group="billing", ordered=True, retry=FOLLOW)(lambda order: None)
    with pytest.raises(CapabilityError, match="dlq_follow_key"), TestApp(app, like="rabbitmq"):
        pass


@pytest.mark.parametrize("options", [{}, {"ordered": True, "broadcast": True}, {"ordered": True, "dead_letter": "failed"}])
def test_it_is_for_ordered_groups_with_letters_of_their_own(options: dict[str, object]) -> None:
    with pytest.raises(DeclarationError, match="dlq_follow_key=True"):
        App().consumer("orders", group="billing", retry=FOLLOW, **options)(lambda order: None)  # type: ignore[arg-type]
