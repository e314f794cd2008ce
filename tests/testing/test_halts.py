"""`halt_key` and `halt_partition` over a whole App in virtual time, on the capabilities of every backend."""

from __future__ import annotations

import pytest

from mqsdk import App, CapabilityError, RetryPolicy
from mqsdk.core.retry import OnExhausted
from mqsdk.testing import TestApp


class Shop:
    def __init__(self, halt: OnExhausted) -> None:
        self.app = App()
        self.broken = True
        self.seen: list[str] = []
        self.app.consumer("orders", group="billing", ordered=True, retry=RetryPolicy(2, on_exhausted=halt))(self.bill)

    def bill(self, order: str) -> None:
        if self.broken and order == "a1":
            raise ValueError(order)
        self.seen.append(order)


@pytest.mark.parametrize("like", [None, "log", "kafka", "redis"])
@pytest.mark.parametrize(("halt", "seen"), [("halt_key", ["b1"]), ("halt_partition", ["b1"])])
def test_it_stands_still_over_a_crash(like: str | None, halt: OnExhausted, seen: list[str]) -> None:
    shop = Shop(halt)
    with TestApp(shop.app, like=like) as t:
        shop.app.publish_many("orders", ["a1", "a2", "b1"], key=lambda order: order[0])
        t.drain(raise_failures=False)
        t.advance("1h")
        assert shop.seen == seen
        shop.broken = False
        t.crash()
        t.advance("1h")
        assert shop.seen == seen
        assert t.dead_letters("orders", "billing") == []
        [halted] = shop.app.consumers()[0].halted
        assert (halted.key, halted.scope) == ("a", halt.removeprefix("halt_"))


def test_a_backend_that_would_forget_it_refuses_at_the_start() -> None:
    with pytest.raises(CapabilityError, match="halt_key") as caught, TestApp(Shop("halt_key").app, like="rabbitmq"):
        pass
    assert caught.value.capability == "attempts"
