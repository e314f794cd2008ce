"""What an App tells over HTTP while its consumers run: liveness, readiness, metrics, consumers."""

from __future__ import annotations

import http.client
import json
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mqsdk import App, InvalidMessage, Message, Reject, Retry, RetryPolicy
from mqsdk.config.model import Observability
from mqsdk.core.retry import Backoff
from mqsdk.errors import ConfigError, PublishRejected
from mqsdk.events import Reloaded
from mqsdk.runtime import lags
from mqsdk.runtime.changing import Prepared
from tests.api.conftest import BOUND_S, MEMORY_ONLY, Opener

QUICK = RetryPolicy(attempts=2, backoff=Backoff("1ms", jitter=0))
LISTENING = replace(MEMORY_ONLY, observability=Observability(listen="127.0.0.1:0"))
SECRET = "payload-and-key-that-nobody-sees"


def port(app: App) -> int:
    found = app._doors.port
    assert found is not None
    return found


def ask(app: App, path: str, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port(app), timeout=BOUND_S)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


def metrics(app: App) -> dict[str, float]:
    """`name{labels}` -> value."""
    status, text = ask(app, "/metrics")
    assert status == 200
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


@pytest.fixture
def told(open_app: Opener, monkeypatch: pytest.MonkeyPatch) -> App:
    """An App that runs one handler of every outcome, and two that succeed."""
    monkeypatch.setattr(lags, "EVERY_S", 0.02)
    app = App(name="shop")

    @app.consumer("orders", group="billing", retry=QUICK)
    def bill(order: str, message: Message) -> None:
        if order == "retried" and message.attempt == 1:
            raise Retry
        if order == "rejected":
            raise Reject(SECRET)
        if order == "exhausted":
            raise ValueError(SECRET)

    open_app(app, LISTENING)
    app.start()
    return app


def sample(name: str, **more: str) -> str:
    """One line's name, as prometheus-client writes it: labels by name."""
    labels = {"topic": "orders", "group": "billing", "cluster": "local", **more}
    shown = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    return f"{name}{{{shown}}}"


def test_every_number_of_the_contract(told: App, until: Callable[[Callable[[], bool]], None]) -> None:
    for order in ("fine", "retried", "rejected", "exhausted", "fine"):
        told.publish("orders", order, key=SECRET, headers={"h": SECRET})
    with pytest.raises(InvalidMessage):
        told.publish("orders", None)
    with pytest.raises(PublishRejected):
        told.publish("nowhere", "x")
    until(lambda: told.lag("orders", "billing").messages == 0)
    until(lambda: metrics(told).get(sample("mqsdk_lag_messages")) == 0)
    found = metrics(told)
    for outcome, count in {"handled": 3, "retried": 2, "dead_lettered": 2, "dropped": 0}.items():
        assert found[sample("mqsdk_handled_total", outcome=outcome)] == count
    assert found['mqsdk_published_total{cluster="local",outcome="stored",topic="orders"}'] == 5
    assert found['mqsdk_published_total{cluster="local",outcome="rejected",topic="orders"}'] == 0
    assert found['mqsdk_published_total{cluster="local",outcome="unknown",topic="orders"}'] == 0
    assert found[sample("mqsdk_dead_letters_total", reason="rejected")] == 1
    assert found[sample("mqsdk_dead_letters_total", reason="exhausted")] == 1
    assert found[sample("mqsdk_handler_seconds_count")] == found[sample("mqsdk_handler_seconds_bucket", le="+Inf")] == 7
    assert 0 < found[sample("mqsdk_handler_seconds_sum")] < BOUND_S
    assert [found[sample(f"mqsdk_{name}")] for name in ("in_flight", "lag_seconds", "stalled_seconds", "gap_messages_total")] == [0] * 4
    assert found['mqsdk_link_up{cluster="local"}'] == 1
    assert [name for name in found if name.startswith("mqsdk_info{") and 'config="1"' in name]


def test_what_runs_is_in_flight_and_counts_to_the_lag(told: App, open_app: Opener, until: Callable[[Callable[[], bool]], None]) -> None:
    go, app = threading.Event(), App()

    @app.consumer("payments", group="billing", batch=5)
    def pay(payments: list[str]) -> None:
        assert go.wait(BOUND_S)

    open_app(app, LISTENING)
    app.start()
    app.publish_many("payments", ["a", "b", "c"], key="k")
    labels = {"topic": "payments"}
    until(lambda: metrics(app).get(sample("mqsdk_lag_messages", **labels)) == 3 and metrics(app)[sample("mqsdk_in_flight", **labels)] == 3)
    go.set()
    until(lambda: metrics(app).get(sample("mqsdk_lag_messages", **labels)) == 0)
    found = metrics(app)
    assert 1 <= found[sample("mqsdk_handler_seconds_count", **labels)] <= 3  # calls, not messages
    assert found['mqsdk_published_total{cluster="local",outcome="stored",topic="payments"}'] == 3


def test_a_backend_that_does_not_answer_keeps_no_scrape_waiting(told: App, monkeypatch: pytest.MonkeyPatch) -> None:
    from mqsdk.testing.simadmin import SimAdmin

    go = threading.Event()
    monkeypatch.setattr(SimAdmin, "progress", lambda admin, topic, group: go.wait(BOUND_S) and [])
    try:
        assert sample("mqsdk_in_flight") in metrics(told)
        assert ask(told, "/live")[0] == 200
    finally:
        go.set()


def test_reloads_and_links_are_counted_as_they_are_told(told: App) -> None:
    assert told._session is not None
    observe = told._session.supervisor.environment.observe
    for outcome in ("applied", "refused", "applied"):
        observe(Reloaded(outcome, 1))
    found = metrics(told)
    assert found['mqsdk_reloads_total{outcome="applied"}'] == 2
    assert found['mqsdk_reloads_total{outcome="refused"}'] == 1


def test_live_until_given_up_and_ready_while_running(told: App) -> None:
    assert (ask(told, "/live"), ask(told, "/ready")) == (
        (200, '{"live": true, "problems": []}\n'),
        (200, '{"ready": true, "problems": []}\n'),
    )
    assert told._session is not None
    told._session.supervisor.guard.given_up = "consumer orders/billing stands still"
    assert ask(told, "/live") == (503, '{"live": false, "problems": ["consumer orders/billing stands still"]}\n')
    status, body = ask(told, "/ready")
    assert (status, json.loads(body)["ready"]) == (503, False)


def test_the_consumers_are_told_without_stacks(told: App, until: Callable[[Callable[[], bool]], None]) -> None:
    told.publish("orders", "fine")
    until(lambda: told.consumers()[0].handled == 1)
    until(lambda: json.loads(ask(told, "/consumers")[1])["consumers"][0]["lag"] == {"messages": 0, "seconds": 0.0})
    document: dict[str, Any] = json.loads(ask(told, "/consumers")[1])
    (one,) = document["consumers"]
    assert (document["app"], document["state"], one["topic"], one["group"], one["state"]) == (
        "shop",
        "RUNNING",
        "orders",
        "billing",
        "running",
    )
    assert (one["handled"], one["failed"], one["dead_lettered"], one["oldest"], one["cluster"]) == (1, 0, 0, None, "local")


def test_no_page_shows_a_payload_a_key_or_a_secret(told: App, until: Callable[[Callable[[], bool]], None]) -> None:
    for order in ("rejected", "exhausted"):
        told.publish("orders", order, key=SECRET, headers={"h": SECRET})
    until(lambda: told.lag("orders", "billing").messages == 0)
    for path in ("/live", "/ready", "/metrics", "/consumers"):
        assert SECRET not in ask(told, path)[1]


def test_a_halted_message_is_shown_without_its_key(open_app: Opener, until: Callable[[Callable[[], bool]], None]) -> None:
    app = App()

    @app.consumer("orders", group="billing", ordered=True, retry=RetryPolicy(attempts=1, on_exhausted="halt_key"))
    def bill(order: str) -> None:
        raise ValueError(SECRET)

    open_app(app, LISTENING)
    app.start()
    receipt = app.publish("orders", "x", key=SECRET)
    until(lambda: bool(app.consumers()[0].halted))
    _, page = ask(app, "/consumers")
    assert SECRET not in page
    assert [one["id"] for one in json.loads(page)["consumers"][0]["halted"]] == [receipt.id]


def test_the_token_is_asked_for_and_may_change(open_app: Opener, store: Any) -> None:
    app = open_app(App(), replace(MEMORY_ONLY, observability=Observability(listen="127.0.0.1:0", token="first")))
    app.start()
    assert app._session is not None
    assert ask(app, "/live")[0] == 401
    assert ask(app, "/live", Authorization="Bearer first")[0] == 200
    second = Observability(listen="127.0.0.1:0", token="second")
    app._session.apply(replace(app._session.configuration, observability=second), {}, Prepared())
    assert ask(app, "/live", Authorization="Bearer first")[0] == 401
    assert ask(app, "/live", Authorization="Bearer second")[0] == 200


def test_without_the_library_the_page_says_what_to_install(open_app: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    app = open_app(App(), LISTENING)
    app.start()
    assert ask(app, "/metrics") == (501, "the extra `metrics` is not installed: pip install 'mqsdk[metrics]'\n")
    assert ask(app, "/live")[0] == 200


def test_nothing_listens_before_the_start_or_after_the_stop_and_a_taken_port_fails_the_start(open_app: Opener) -> None:
    app = open_app(App(), LISTENING)
    assert app._doors.port is None
    app.start()
    taken = port(app)
    other = open_app(App(), replace(MEMORY_ONLY, observability=Observability(listen=f"127.0.0.1:{taken}")))
    with pytest.raises(ConfigError, match=re.escape(f"127.0.0.1:{taken}: Address already in use")):
        other.start()
    assert other.state == "OPEN"
    app.stop()
    assert app._doors.port is None
    other.start()
    assert ask(other, "/live")[0] == 200
