"""A started App answers over its control socket; one that only publishes, or has stopped, does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mqsdk import App
from mqsdk.runtime.control import ask_all
from tests.api.conftest import Opener


@pytest.fixture(autouse=True)
def own_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQSDK_STATE", str(tmp_path))


def test_a_started_app_is_seen_until_it_stops(open_app: Opener) -> None:
    app = App(name="shop")

    @app.consumer("orders", group="billing")
    def bill(order: str) -> None: ...

    open_app(app)
    assert ask_all("status") == []
    app.start()
    (reply,) = ask_all("status")
    assert (reply.pid, reply.document["app"], reply.document["state"]) == (os.getpid(), "shop", "RUNNING")
    assert [(one["topic"], one["group"]) for one in reply.document["consumers"]] == [("orders", "billing")]
    app.stop()
    assert ask_all("status") == []
    app.start()
    assert len(ask_all("status")) == 1
    app.close()
    assert ask_all("status") == []
