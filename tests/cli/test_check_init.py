"""`check` and `init`."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from mqsdk.config.load import load
from mqsdk.config.model import Configuration
from tests.cli.harness import Broker
from tests.processes import MQSDK, Running, mqsdk


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


APP = """
from datetime import UTC, datetime
from mqsdk import App, Message
app = App()

@app.consumer("orders", group="billing", ordered=True, from_="earliest")
def bill(order: dict) -> None: ...

@app.consumer("users", group="mail", from_=datetime(2026, 1, 1, tzinfo=UTC))
def mail(user: dict) -> None: ...
"""


# --- check -----------------------------------------------------------------------------------------------------------------------


def test_without_a_file_the_defaults_are_valid(broker: Broker) -> None:
    found = broker.mqsdk("check")
    assert (found.code, found.out) == (0, "")
    assert "valid" in found.err
    assert broker.mqsdk("check", "--json").document == {"problems": [], "changes": []}


def test_every_problem_is_reported_with_its_place(broker: Broker, folder: Path) -> None:
    write(folder / "bad.yaml", 'app: shop\ndefaults:\n  conncurrency: 3\n  timeout: "30"\n')
    found = broker.mqsdk("check", "bad.yaml")
    assert found.code == 3
    first, second = found.out.splitlines()
    assert first.startswith("bad.yaml:3:3: defaults.conncurrency: ")
    assert "concurrency" in first
    assert second.startswith("bad.yaml:4:")
    problems = broker.mqsdk("check", "bad.yaml", "--json").document["problems"]
    assert [set(one) for one in problems] == [{"key", "file", "line", "column", "what", "fix"}] * 2
    assert (problems[0]["key"], problems[0]["line"], problems[0]["column"]) == ("defaults.conncurrency", 3, 3)


def test_a_file_that_is_missing_is_exit_3(broker: Broker) -> None:
    assert broker.mqsdk("check", "gone.yaml", "--json").code == 3


def test_diff_tells_what_a_reload_would_take(broker: Broker, folder: Path) -> None:
    write(folder / "old.yaml", "app: shop\ndefaults: {concurrency: 8}\n")
    write(folder / "new.yaml", "app: shop2\ndefaults: {concurrency: 16}\n")
    changes = broker.mqsdk("check", "new.yaml", "--diff", "old.yaml", "--json").document["changes"]
    assert {(one["key"], one["old"], one["new"], one["applies"]) for one in changes} == {
        ("app", "shop", "shop2", "restart"),
        ("defaults.concurrency", 8, 16, "live"),
    }
    assert "live     defaults.concurrency: 8 -> 16" in broker.mqsdk("check", "new.yaml", "--diff", "old.yaml").out


def test_the_consumers_of_an_application_are_checked_against_their_backends(broker: Broker, folder: Path) -> None:
    (folder / "shop1.py").write_text(APP)
    document = broker.mqsdk("check", "--app", "shop1:app", "--json").document
    assert document["problems"] == []
    here = {"cluster": "local", "route": "routes[0]", "file": "", "line": 0}
    assert document["consumers"] == [
        {"topic": "orders", "group": "billing", **here, "needs": ["ordered", "history"]},
        {"topic": "users", "group": "mail", **here, "needs": ["by_time"]},
    ]
    assert document["topics"] == []
    assert broker.mqsdk("check", "--app", "shop1:app").out.splitlines()[1].split() == [
        *("orders", "billing", "local", "(default)", "ordered,", "history"),
    ]


ROUTED = """clusters:
  local: {backend: log}
  other: {backend: log, path: ./other}
routes:
  - {topics: ["users*"], cluster: other}
  - {topics: ["orders*"], cluster: local}
topics: {"users.seen": {}, "orders.*": {}}
profiles:
  test:
    routes: [{topics: ["*"], cluster: other}]
"""


def test_where_each_topic_goes_is_shown_with_the_line_that_says_so(broker: Broker, folder: Path) -> None:
    write(folder / "mqsdk.yaml", ROUTED)
    (folder / "shop10.py").write_text(APP.replace("ordered=True", 'dead_letter="orders.bad"'))
    document = broker.mqsdk("check", "--app", "shop10:app", "--json").document
    places = {
        row["topic"]: (row["cluster"], row["route"], row["file"], row["line"]) for row in [*document["consumers"], *document["topics"]]
    }
    assert places == {
        "orders": ("local", "routes[1]", "mqsdk.yaml", 6),
        "users": ("other", "routes[0]", "mqsdk.yaml", 5),
        "orders.bad": ("local", "routes[1]", "mqsdk.yaml", 6),
        "users.seen": ("other", "routes[0]", "mqsdk.yaml", 5),
    }
    shown = [line.split() for line in broker.mqsdk("check", "--app", "shop10:app").out.splitlines()]
    assert ["orders", "billing", "local", "mqsdk.yaml:6", "history"] in shown
    assert ["users.seen", "other", "mqsdk.yaml:5"] in shown
    in_test = broker.mqsdk("check", "--app", "shop10:app", "--env", "test", "--json").document
    assert {(row["cluster"], row["line"]) for row in [*in_test["consumers"], *in_test["topics"]]} == {("other", 10)}


def test_a_topic_that_no_route_matches_is_a_problem_whoever_names_it(broker: Broker, folder: Path) -> None:
    write(folder / "mqsdk.yaml", ROUTED.replace('"users.seen"', '"seen"'))
    (folder / "shop11.py").write_text(APP.replace("ordered=True", 'dead_letter="bad"'))
    found = broker.mqsdk("check", "--app", "shop11:app", "--json")
    assert found.code == 3
    assert [(one["key"], one["what"]) for one in found.document["problems"]] == [
        ("orders/billing", "no route matches topic bad"),
        ("topics", "no route matches topic seen"),
    ]


def test_what_a_consumer_cannot_have_is_a_problem_each(broker: Broker, folder: Path) -> None:
    write(folder / "mqsdk.yaml", 'routes: [{topics: ["orders"], cluster: local}]\n')
    (folder / "shop2.py").write_text(APP.replace("order: dict", "order: 'NoSuchType'"))
    found = broker.mqsdk("check", "--app", "shop2:app", "--json")
    assert found.code == 3
    assert [one["key"] for one in found.document["problems"]] == ["orders/billing", "users/mail"]


@pytest.mark.parametrize(
    ("target", "text", "code"),
    [
        ("gone:app", None, 6),
        ("shop3:nothing", APP, 6),
        ("shop4:bill", APP, 6),
        ("shop5", APP, 2),
        ("shop6:app", "import gone_too", 3),
        ("shop7:app", "1 / 0", 3),
        ("shop8:app", "raise SystemExit(0)", 3),
        ("shop9:app", APP.replace('"orders"', '"or/ders"'), 3),
    ],
)
def test_an_application_that_cannot_be_had_says_why(broker: Broker, folder: Path, target: str, text: str | None, code: int) -> None:
    if text is not None:
        (folder / f"{target.partition(':')[0]}.py").write_text(text)
    assert broker.mqsdk("check", "--app", target, "--json").code == code


# --- init ------------------------------------------------------------------------------------------------------------------------


def test_init_writes_two_files_that_are_valid(broker: Broker, folder: Path) -> None:
    assert broker.mqsdk("init", "shop", "--json").document == {"written": ["shop/mqsdk.yaml", "shop/app.py"]}
    assert stat.S_IMODE((folder / "shop" / "mqsdk.yaml").stat().st_mode) == 0o644
    found = broker.mqsdk("check", "shop/mqsdk.yaml", "--json")
    assert (found.code, found.document["problems"]) == (0, [])


def test_init_says_what_the_defaults_are_and_changes_none(broker: Broker, folder: Path) -> None:
    """The comment in the file says that mqsdk uses exactly these values without it."""
    broker.mqsdk("init")
    written, built_in = load("mqsdk.yaml", environ={}), Configuration()
    assert written.tuning("t", "g", {}) == built_in.tuning("t", "g", {})
    assert (written.publish, written.drain_timeout_s) == (built_in.publish, built_in.drain_timeout_s)
    assert [(one.topics, one.cluster) for one in written.routes] == [(one.topics, one.cluster) for one in built_in.routes]
    assert {name: (one.backend, dict(one.options)) for name, one in written.clusters.items()} == {
        name: (one.backend, dict(one.options)) for name, one in built_in.clusters.items()
    }


def test_init_says_of_the_log_what_is_true(broker: Broker, folder: Path) -> None:
    """As docs/configuration.md and docs/guarantees.md do: relative to the working directory, and 10 ms."""
    broker.mqsdk("init", "shop")
    text = (folder / "shop" / "mqsdk.yaml").read_text()
    assert "A relative path is taken from the" in text
    assert "a power cut takes the last 10 ms" in text
    assert "these values, and `app` as the name" in text
    assert load("shop/mqsdk.yaml", environ={}).app != Configuration().app


@pytest.mark.parametrize("name", ["mqsdk.yaml", "app.py"])
def test_init_never_touches_a_file_that_exists(broker: Broker, folder: Path, name: str) -> None:
    (folder / name).write_text("mine")
    found = broker.mqsdk("init", "--json")
    assert (found.code, found.error["type"]) == (5, "Refused")
    assert [path.name for path in folder.iterdir()] == [name]
    assert (folder / name).read_text() == "mine"


def test_what_init_wrote_runs_as_it_is(folder: Path) -> None:
    assert mqsdk(folder, "init").returncode == 0
    with Running([*MQSDK, "run", "app:app"], folder) as consumer:
        assert mqsdk(folder, "publish", "hello", "world").returncode == 0
        consumer.wait_for("hello world")
        assert consumer.stop() == 0


@pytest.mark.parametrize("target", ["shop/main.py:app", "./shop/main.py:app", "shop/main:app", "shop.main.py:app"])
def test_a_file_in_place_of_a_module_is_told_the_module(broker: Broker, target: str) -> None:
    for command in (("run", target), ("check", "--app", target)):
        found = broker.mqsdk(*command, "--json")
        assert (found.code, "write shop.main:app" in found.error["what"]) == (2, True)


def test_what_is_no_app_is_named_by_its_type(broker: Broker, folder: Path) -> None:
    (folder / "noapp.py").write_text("app = 3\n")
    assert broker.mqsdk("check", "--app", "noapp:app", "--json").error["what"] == "noapp:app is not an App, but of type int"
