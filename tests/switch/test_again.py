"""A second change of cluster that had to wait for the first is taken by the process itself, and said once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mqsdk import App, Message
from mqsdk.api.behind import Behind
from mqsdk.api.controlling import status
from mqsdk.events import Event, Reloaded
from tests.switch.stage import FILE, Service, Stores, until

WATCHED = FILE.replace("watch: false, settle: 2s", "every: 100ms, settle: 200ms")


class Shop:
    """One process that watches its file; its consumer waits for the first message to be `paid`."""

    def __init__(self) -> None:
        self.paid = threading.Event()
        self.seen: list[int] = []
        self.reloads: list[Reloaded] = []

    def declare(self, app: App) -> None:
        app.observe(self._note)

        @app.consumer("orders", group="billing", ordered=True)
        def bill(number: int, message: Message[int]) -> None:
            self.paid.wait(30)
            self.seen.append(number)

    def _note(self, event: Event) -> None:
        if isinstance(event, Reloaded):
            self.reloads.append(event)

    @property
    def outcomes(self) -> list[str]:
        return [event.outcome for event in self.reloads]


def test_it_is_taken_when_the_first_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    looks: list[bool] = []
    is_due = Behind.is_due

    def counted(behind: Behind) -> bool:
        looks.append(bool(is_due.__get__(behind)))
        return looks[-1]

    monkeypatch.setattr(Behind, "is_due", property(counted))
    shop = Shop()
    service = Service(tmp_path, Stores(), shop.declare, virtual=False, file=WATCHED)
    app = service.app
    try:
        app.start()
        app.publish("orders", 0, key="k")
        service.route("b", file=WATCHED)
        until(lambda: shop.outcomes == ["applied"])
        app.publish("orders", 1, key="k")
        service.route("c", file=WATCHED)
        until(lambda: shop.outcomes == ["applied", "refused"])
        assert status(app)["behind"]["problems"][0]["key"] == "routes"
        since = len(looks)
        until(lambda: len(looks) > since + 3)
        assert shop.outcomes == ["applied", "refused"], "said once"
        shop.paid.set()
        until(lambda: shop.outcomes == ["applied", "refused", "applied"])
        assert shop.reloads[-1].changes == (("routes[0].cluster", "b", "c"),)
        assert status(app)["behind"] is None
        assert app.publish("orders", 2, key="k").cluster == "c"
        until(lambda: shop.seen == [0, 1, 2])
    finally:
        shop.paid.set()
        app.close()
    assert sum("earlier change is unfinished" in message for message in caplog.messages) == 1
