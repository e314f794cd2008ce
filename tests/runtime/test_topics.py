"""Making a topic as `topics:` of the configuration wants it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from mqsdk import App
from mqsdk.config.model import TopicRule
from mqsdk.errors import ConfigError
from mqsdk.runtime.topics import ensure_topic, ensure_with_groups
from mqsdk.testing.simlog import MEMORY, SimBackend


def test_a_retention_is_told_where_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[tuple[str, float]] = []
    backend = SimBackend()
    backend.open(0.0)
    monkeypatch.setattr(type(backend.admin()), "keep", lambda self, topic, seconds: kept.append((topic, seconds)))
    assert ensure_topic(backend, "local", "orders", TopicRule(pattern="orders*", retention_s=60.0)) == 8
    assert ensure_topic(backend, "local", "orders", TopicRule(pattern="orders*")) == 8
    assert kept == [("orders", 60.0)]


def test_a_groups_retry_topic_is_as_wide_as_its_topic_and_has_the_group() -> None:
    backend = SimBackend()
    backend.open(0.0)
    backend.admin().ensure_topic("orders", 3)
    assert ensure_with_groups(backend, "local", "orders.billing.retry", TopicRule(pattern="*", partitions=5, groups=("search",))) == 3
    assert [one.group for one in backend.admin().groups("orders.billing.retry")] == ["billing"]


def test_a_backend_that_goes_by_its_own_refuses_before_anything_is_made() -> None:
    backend = SimBackend(capabilities=replace(MEMORY, retention=False))
    backend.open(0.0)
    with pytest.raises(ConfigError, match=r"topics.'orders\*'.retention: cluster local \(memory\) cannot be told"):
        ensure_topic(backend, "local", "orders", TopicRule(pattern="orders*", retention_s=math.inf))
    assert backend.admin().partitions("orders") is None


@pytest.mark.parametrize(("given", "noted"), [("2d", 172800.0), ("none", "inf")])
def test_the_key_in_the_file_reaches_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, noted: object) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mqsdk.yaml").write_text(f"version: 1\ntopics: {{orders: {{retention: {given}}}}}\n")
    with App(config=tmp_path / "mqsdk.yaml") as app:
        app.publish("orders", "x")
        app.publish("invoices", "x")
    settings = {name: json.loads((tmp_path / ".mqsdk" / "topics" / name / "topic.json").read_text()) for name in ("orders", "invoices")}
    assert settings["orders"]["retention_s"] == noted
    assert "retention_s" not in settings["invoices"]
