"""Which file is read, and which of several values for one key holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqsdk.config import model
from mqsdk.config.load import load
from mqsdk.config.settings import Settings
from mqsdk.errors import ConfigError
from tests.config.conftest import Load, Write

PROFILED = """\
app: shop
environment: dev
clusters:
  a: {backend: log, path: ./a}
  b: {backend: log, path: ./b}
routes:
  - {topics: ["x.*"], cluster: a}
  - {topics: ["*"], cluster: b}
drain: {timeout: 10s}
publish: {timeout: 3s, window: {records: 7}}
profiles:
  dev: {drain: {timeout: 11s}}
  test:
    clusters: {b: {path: ./t}}
    routes: [{topics: ["*"], cluster: b}]
    publish: {window: {bytes: 2MiB}}
"""


def test_without_file_and_variables_everything_has_its_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(environ={}) == model.Configuration()
    assert load(environ={"MQSDK_ENV": "prod", "MQSDK_STATE": "/x", "OTHER": "y"}) == model.Configuration(environment="prod")


def test_the_named_file_wins_over_the_variable_and_that_over_the_one_in_the_directory(write: Write, tmp_path: Path) -> None:
    write("app: here\n")
    for name in ("named", "variable"):
        (tmp_path / f"{name}.yaml").write_text(f"app: {name}\n")
        (tmp_path / f"{name}.yaml").chmod(0o644)
    environ = {"MQSDK_CONFIG": "variable.yaml"}
    assert load("named.yaml", environ=environ).app == "named"
    assert load(environ=environ).app == "variable"
    assert load(environ={"MQSDK_CONFIG": ""}).app == "here"
    assert (load(environ={}).app, load(environ={}).source) == ("here", "mqsdk.yaml")


def test_a_file_that_the_variable_names_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"gone\.yaml: there is no such file"):
        load(environ={"MQSDK_CONFIG": "gone.yaml"})
    (tmp_path / "mqsdk.yaml").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"mqsdk\.yaml: there is no such file"):
        load(environ={})


def test_a_profile_is_merged_deeply_and_replaces_lists(loaded: Load) -> None:
    test = loaded(PROFILED, environment="test")
    assert test.environment == "test"
    assert [route.topics for route in test.routes] == [("*",)]
    assert test.clusters["b"].options == {"path": "./t"}
    assert test.clusters["a"].options == {"path": "./a"}
    assert test.publish == model.PublishLimits(timeout_s=3, window_records=7, window_bytes=2 * 1024 * 1024)
    assert test.drain_timeout_s == 10


def test_the_environment_is_chosen_by_argument_then_variable_then_file(loaded: Load) -> None:
    assert loaded(PROFILED).drain_timeout_s == 11
    assert loaded(PROFILED, {"MQSDK_ENV": "test"}).drain_timeout_s == 10
    assert loaded(PROFILED, {"MQSDK_ENV": "test"}, "dev").drain_timeout_s == 11
    assert loaded(PROFILED, {}, "stage").environment == "stage"


def test_a_variable_wins_over_the_profile_and_an_argument_over_both(loaded: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    assert loaded(PROFILED, {"MQSDK_DRAIN__TIMEOUT": "12s"}).drain_timeout_s == 12
    monkeypatch.setenv("MQSDK_DRAIN__TIMEOUT", "12s")
    monkeypatch.setenv("MQSDK_APP", "var")
    found = Settings(drain={"timeout": "13s"})
    assert (found.drain.timeout, found.app) == (13, "var")


def test_routes_carry_the_line_they_stand_on(loaded: Load) -> None:
    assert [route.line for route in loaded(PROFILED).routes] == [7, 8]
    assert [route.line for route in loaded(PROFILED, environment="test").routes] == [15]


def test_a_file_without_routes_sends_everything_to_its_only_cluster(loaded: Load) -> None:
    assert loaded("clusters: {main: {backend: log, path: x}}\n").routes == (model.Route(topics=("*",), cluster="main"),)
    assert loaded("app: x\n").routes == (model.Route(topics=("*",), cluster="local"),)
    assert loaded("routes: []\n").routes == ()


def test_a_pattern_of_topics_does_not_reach_the_sdks_own_topics(loaded: Load) -> None:
    """Groups made on dead letters are read by nobody: their lag could never fall."""
    found = loaded('topics: {"orders.*": {partitions: 4, groups: [audit]}, "orders.x.g.dlq": {groups: [clerk]}}\n')
    assert found.topic_rule("orders.created").groups == ("audit",)
    assert found.topic_rule("orders.created.billing.dlq") == model.TopicRule(pattern="orders.created.billing.dlq")
    assert found.topic_rule("orders.created.billing.retry").groups == ()
    assert found.topic_rule("orders.x.g.dlq").groups == ("clerk",)


def test_a_topic_that_no_route_matches_has_none(loaded: Load) -> None:
    found = loaded('routes: [{topics: ["orders.*"], cluster: local}]\n')
    assert found.route("orders.created.eu") is not None
    assert found.route("orders") is None


def test_the_first_route_that_matches_wins(loaded: Load) -> None:
    found = loaded(PROFILED)
    assert [route.cluster for topic in ("x.1", "y", "x.") if (route := found.route(topic))] == ["a", "b", "a"]


def test_the_embedded_log_stays_under_variables_when_no_file_names_clusters(loaded: Load) -> None:
    found = loaded("", {"MQSDK_CLUSTERS__LOCAL__PATH": "/tmp/x"})
    assert found.clusters["local"].options == {"path": "/tmp/x", "durability": "interval"}
    assert found.routes == (model.Route(topics=("*",), cluster="local"),)


def test_settings_give_the_same_configuration_as_load(write: Write) -> None:
    path = write(PROFILED)
    settings = Settings.load(path, env="test", environ={})
    assert settings.configuration() == load(path, environ={}, environment="test")
    assert load(settings) == settings.configuration()


def test_settings_are_frozen_and_refuse_with_every_problem() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().app = "x"
    with pytest.raises(ConfigError) as caught:
        Settings(aap="x", drain={"timeout": "30"}, clusters={"m": {"backend": "lgo"}})
    assert [problem.key for problem in caught.value.problems] == ["clusters.m.backend", "drain.timeout", "aap"]
