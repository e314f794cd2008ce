"""What differs between two configurations, and which changes a running process may take."""

from __future__ import annotations

import pytest

from mqsdk.config import diff
from mqsdk.config.keys import all_keys
from mqsdk.config.model import Configuration
from tests.config.conftest import Load

BASE = """\
app: shop
clusters:
  a: {backend: log, path: ./a}
  b: {backend: log, path: ./b}
  spare: {backend: log, path: ./c}
routes:
  - {topics: ["x.*"], cluster: a}
  - {topics: ["*"], cluster: b}
topics: {"x.*": {partitions: 4}}
consumers: {"x.y/g": {concurrency: 3, timeout: 5m}}
"""


def changed(loaded: Load, old: str, new: str, environ: dict[str, str] | None = None) -> list[str]:
    assert old in BASE
    before, after = loaded(BASE, environ), loaded(BASE.replace(old, new), environ)
    return [f"{change} ({change.applies})" for change in diff.changes(before, after)]


def test_equal_configurations_have_no_changes(loaded: Load) -> None:
    assert diff.changes(loaded(BASE), loaded(BASE)) == []
    assert diff.changes(Configuration(), Configuration(version=2)) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("concurrency: 3", "concurrency: 4", ['consumers."x.y/g".concurrency: 3 -> 4 (live)']),
        ("concurrency: 3, ", "", ['consumers."x.y/g".concurrency: 3 -> (not set) (live)']),
        ("timeout: 5m", "timeout: none", ['consumers."x.y/g".timeout: 5m -> none (live)']),
        (
            "concurrency: 3,",
            "paused: true,",
            ['consumers."x.y/g".concurrency: 3 -> (not set) (live)', 'consumers."x.y/g".paused: (not set) -> true (live)'],
        ),
        (
            "concurrency: 3,",
            "retry: {backoff: {base: 2s}}, concurrency: 3,",
            ['consumers."x.y/g".retry.backoff.base: (not set) -> 2s (live)'],
        ),
        (
            "concurrency: 3,",
            "concurrency: 3, inbox: {path: ./inbox.db, ttl: 1h},",
            [
                'consumers."x.y/g".inbox: (not set) -> set (restart)',
                'consumers."x.y/g".inbox.path: (not set) -> ./inbox.db (restart)',
                'consumers."x.y/g".inbox.ttl: (not set) -> 1h (restart)',
            ],
        ),
        ("concurrency: 3,", "concurrency: 3, rate: 30/m,", ['consumers."x.y/g".rate: (not set) -> 30/m (live)']),
        (
            "concurrency: 3,",
            "concurrency: 3, breaker: {window: 1m},",
            [
                'consumers."x.y/g".breaker: (not set) -> set (live)',
                'consumers."x.y/g".breaker.window: (not set) -> 1m (live)',
            ],
        ),
        ("concurrency: 3,", "concurrency: 3, breaker: {},", ['consumers."x.y/g".breaker: (not set) -> set (live)']),
        ("concurrency: 3,", "concurrency: 3, breaker: none,", ['consumers."x.y/g".breaker: (not set) -> none (live)']),
        ("app: shop", "app: shop\ndrain: {timeout: 5s}", ["drain.timeout: 30s -> 5s (live)"]),
        ("app: shop", "app: store", ["app: shop -> store (restart)"]),
        ("app: shop", "app: shop\nenvironment: prod", ["environment:  -> prod (restart)"]),
        ("app: shop", "app: shop\nobservability: {log_level: debug}", ["observability.log_level: INFO -> DEBUG (live)"]),
        ("app: shop", "app: shop\nobservability: {token: canary}", ["observability.token: (not set) -> *** (live)"]),
        ("app: shop", "app: shop\nobservability: {listen: 'localhost:1'}", ["observability.listen: (not set) -> localhost:1 (restart)"]),
        ("partitions: 4", "partitions: 8", ['topics."x.*".partitions: 4 -> 8 (restart)']),
        ("path: ./a", "path: ./d", ["clusters.a.path: ./a -> ./d (restart)"]),
        ("path: ./a", "path: ./a, lease: 3s", ["clusters.a.lease: 10s -> 3s (restart)"]),
        ('["x.*"], cluster: a', '["x.*"], cluster: b', ["routes[0].cluster: a -> b (live)"]),
        (
            '["x.*"], cluster: a',
            '["x.*"], cluster: a, move: {to: b, stage: read_both, epoch: 2}',
            ["routes[0].move: (not set) -> to b, read_both, epoch 2 (live)"],
        ),
        ('["x.*"], cluster: a', '["y.*"], cluster: a', ["routes: [x.* -> a, * -> b] -> [y.* -> a, * -> b] (live)"]),
        ("  spare", "  more", ["clusters.spare: log -> (not set) (restart)", "clusters.more: (not set) -> log (live)"]),
    ],
)
def test_a_change_is_named_by_its_key_with_old_new_and_when_it_applies(loaded: Load, old: str, new: str, expected: list[str]) -> None:
    assert changed(loaded, old, new) == expected


def test_a_default_that_is_written_out_is_no_change(loaded: Load) -> None:
    """A reload would refuse the file otherwise, although nothing is different."""
    without = loaded("clusters: {local: {backend: log}}\n")
    for options in ("path: ./.mqsdk", "durability: interval", "interval: 10ms", "any_filesystem: false", "create: true", "lease: 10s"):
        written = loaded(f"clusters: {{local: {{backend: log, {options}}}}}\n")
        assert (diff.changes(without, written), diff.changes(written, without)) == ([], []), options
    assert diff.changes(Configuration(), without) == []
    redis = [loaded(f"clusters: {{local: {{backend: redis, {more}}}}}\n") for more in ("tls: {}", "tls: {verify: true}, database: 0")]
    assert diff.changes(*redis) == []
    (change,) = diff.changes(without, loaded("clusters: {local: {backend: log, durability: always}}\n"))
    assert str(change) == "clusters.local.durability: interval -> always"


def test_the_backend_of_a_cluster_in_use_needs_a_restart_and_of_a_spare_one_does_not() -> None:
    assert diff.applies(("clusters", "a", "backend"), in_use=True) == "restart"
    assert diff.applies(("clusters", "a", "backend"), in_use=False) == "live"


def test_secrets_and_references_are_masked(monkeypatch: pytest.MonkeyPatch, loaded: Load) -> None:
    monkeypatch.setattr("mqsdk.config.backends.options_of", lambda name: None)
    blocks = [
        "auth: {password: %s, user: u}",
        "options: {sasl_password: %s}",
        "own: '${env:%s}'",
        "servers: ['${env:%s}:1']",
        "deep: {x: ['${env:%s}']}",
    ]
    for block in blocks:
        texts = [f"clusters: {{m: {{backend: log, {block % value}}}}}\n" for value in ("CANARYA", "CANARYB")]
        before, after = (loaded(text, {"CANARYA": "CANARYA", "CANARYB": "CANARYB"}) for text in texts)
        found = diff.changes(before, after)
        assert [(change.old, change.new) for change in found] == [("***", "***")], block
        assert "CANARY" not in repr(found)


def test_the_model_and_the_differences_agree_on_what_is_live() -> None:
    leaves = [key for key in all_keys() if key.model is None]
    assert len(leaves) > 50
    wrong = [key.path for key in leaves if key.reload != diff.applies(tuple("0" if name == "[]" else name for name in key.path))]
    assert wrong == []


@pytest.mark.parametrize(
    ("path", "reload"),
    [
        # The table of the contract, section 8, as far as this version has the keys.
        *((f"{where}.{key}", "live") for where in ("defaults", "consumers.*") for key in ("concurrency", "timeout", "paused", "rate")),
        *((f"defaults.breaker.{key}", "live") for key in ("failures", "min", "window", "probe")),
        *((f"defaults.retry.{key}", "live") for key in ("attempts", "on_exhausted", "dlq_follow_key")),
        *((f"defaults.retry.backoff.{key}", "live") for key in ("base", "factor", "max", "jitter")),
        ("defaults.in_flight.records", "live"),
        ("defaults.in_flight.bytes", "live"),
        ("routes.[].cluster", "live"),
        ("routes.[].move.to", "live"),
        ("routes.[].move.stage", "live"),
        ("routes.[].move.epoch", "live"),
        ("routes.[].move.now", "live"),
        ("routes.[].move.fence", "live"),
        ("routes.[].topics", "live"),
        ("clusters.*.servers", "live"),
        ("clusters.*.tls.ca", "live"),
        ("clusters.*.auth.password", "live"),
        ("clusters.*.options", "live"),
        ("publish.timeout", "live"),
        ("publish.window.records", "live"),
        ("limits.payload", "live"),
        ("drain.timeout", "live"),
        ("watchdog.no_progress", "live"),
        ("reload.watch", "live"),
        ("reload.settle", "live"),
        ("observability.log_level", "live"),
        ("observability.token", "live"),
        ("observability.listen", "restart"),
        *((f"{where}.inbox.{key}", "restart") for where in ("defaults", "consumers.*") for key in ("store", "path", "ttl")),
        ("clusters.*.backend", "restart"),
        ("clusters.*.create", "restart"),
        ("clusters.*.lease", "restart"),
        ("clusters.*.accept", "restart"),
        ("topics.*.partitions", "restart"),
        ("topics.*.groups", "restart"),
        ("app", "restart"),
        ("environment", "restart"),
        ("version", "restart"),
    ],
)
def test_the_table_of_live_keys_is_the_contracts(path: str, reload: str) -> None:
    found = {".".join(key.path): key.reload for key in all_keys()}
    assert found[path] == reload
