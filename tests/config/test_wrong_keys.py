"""Every wrong key is named with line, column and what to write, all at once, and no value is shown."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from mqsdk.config import backends
from mqsdk.config.load import load
from mqsdk.errors import ConfigError
from tests.config.conftest import Load, ProblemsOf, Write

CANARY = "hunter2canary"


def consumer(line: str) -> str:
    return f'consumers:\n  "orders.created/billing":\n    {line}\n'


PAIR = 'consumers."orders.created/billing"'
CASES: list[tuple[str, str]] = [
    ("aap: x\n", "1:1: aap: unknown key (did you mean `app`?)"),
    ("App: x\n", "1:1: App: unknown key (did you mean `app`?)"),
    ("timeout: 3s\n", "1:1: timeout: unknown key (write defaults: {timeout: ...})"),
    ("zzz: 1\n", "1:1: zzz: unknown key (known: app, clusters, consumers, defaults"),
    ("on: true\n", "1:1: on: unknown key"),
    ("1: x\n", "1:1: a key is text (put it into quotes)"),
    ("app: [x]\n", "1:1: app: must be a name"),
    ("app: a b\n", "1:1: app: must be a name"),
    ("app: x\napp: y\n", "2:1: app: duplicate key, given before in line 1 (remove one of the two)"),
    ("drain: {timeout: 1s, timeout: 2s}\n", "1:22: drain.timeout: duplicate key, given before in line 1"),
    ("version: 2\n", "1:1: version: is not a version that this mqsdk reads"),
    ("version: true\n", "1:1: version: is not a version that this mqsdk reads"),
    ("app: x\nrequires: '~=0.1'\n", "2:1: requires: must be one or more of >= > == != <= < with a version"),
    ("app: x\nrequires: 1.4\n", "2:1: requires: must be one or more of"),
    ("app: x\nrequires:\n  version: '>=1.4,'\n", "3:3: requires.version: must be one or more of"),
    ("requires: {version: '>=0.1', action: tell}\n", "1:30: requires.action: must be one of refuse, warn"),
    ("requires: {action: warn}\n", "1:1: requires.version: is missing"),
    ("drain:\n", "1:1: drain: has no value (write one, or remove the key)"),
    ("drain: 3s\n", "1:1: drain: must be a mapping of keys"),
    ("drain: {timeout: 30}\nlimits: {payload: 0}\n", "2:10: limits.payload: must be a size from 1 to"),
    ('drain: {timeout: "30"}\n', "1:9: drain.timeout: not a duration: write a unit, for example '30s'"),
    ("drain: {timeout: -1}\n", "1:9: drain.timeout: a duration is between 0 and 100 years"),
    ("drain: {timeout: null}\n", "1:9: drain.timeout: must be a duration from"),
    ("drain: {timeout: true}\n", "1:9: drain.timeout: a duration is a timedelta"),
    ("publish: {window: {bytes: 64Mib}}\n", "1:20: publish.window.bytes: not a size"),
    ("reload: {watch: yes}\n", "1:10: reload.watch: must be true or false"),
    ("reload: {watch: 1}\n", "1:10: reload.watch: must be true or false"),
    ("reload: {wach: true}\n", "1:10: reload.wach: unknown key (did you mean `watch`?)"),
    ("observability: {log_level: LOUD}\n", "1:17: observability.log_level: must be one of DEBUG, INFO"),
    ("observability: {listen: 9464}\n", "1:17: observability.listen: must be host:port, for example 127.0.0.1:9464"),
    ("observability: {listen: '127.0.0.1:99999'}\n", "1:17: observability.listen: must be host:port"),
    ("observability: {listen: '::1:9464'}\n", "1:17: observability.listen: must be host:port"),
    ("observability: {listen: '0.0.0.0:9464'}\n", "1:17: observability.listen: can be asked from other machines, and has no token"),
    ("observability: {listen: 'mq1:9464'}\n", "1:17: observability.listen: can be asked from other machines, and has no token"),
    ("observability: {tracing: auto}\n", "1:17: observability.tracing: is not built in this version of mqsdk"),
    (consumer("conncurrency: 32"), f"3:5: {PAIR}.conncurrency: unknown key (did you mean `concurrency`?)"),
    (consumer("concurrency: 0"), f"3:5: {PAIR}.concurrency: must be a whole number from 1 to 10,000"),
    (consumer("concurrency: 1000000000"), f"3:5: {PAIR}.concurrency: must be a whole number"),
    (consumer("concurrency: 8.0"), f"3:5: {PAIR}.concurrency: must be a whole number"),
    (consumer('concurrency: "8"'), f"3:5: {PAIR}.concurrency: must be a whole number from 1 to 10,000, without quotes"),
    (consumer("retry: {attempts: '3'}"), f"3:13: {PAIR}.retry.attempts: must be a whole number from 1 to 1,000,000, without quotes"),
    (consumer('retry: {backoff: {factor: "2.5"}}'), f"3:23: {PAIR}.retry.backoff.factor: must be a number from 1 to 100, without quotes"),
    (consumer('paused: "true"'), f"3:5: {PAIR}.paused: must be true or false, without quotes"),
    ('clusters: {local: {backend: log, create: "true"}}\n', "1:34: clusters.local.create: must be true or false, without quotes"),
    ('version: "1"\n', "1:1: version: is not a version that this mqsdk reads"),
    (consumer("concurrency: true"), f"3:5: {PAIR}.concurrency: must be a whole number"),
    (consumer("concurrency: 010"), f"3:5: {PAIR}.concurrency: must be a whole number"),
    (consumer("timeout: 0s"), f"3:5: {PAIR}.timeout: must be a duration from 1ms"),
    (consumer("retry: 3"), f"3:5: {PAIR}.retry: must be a mapping of keys"),
    (consumer("retry: {attempts: 0}"), f"3:13: {PAIR}.retry.attempts: must be a whole number"),
    (consumer("retry: {backoff: {base: 1x}}"), f"3:23: {PAIR}.retry.backoff.base: not a duration"),
    (consumer("retry: {backoff: {factor: 0.5}}"), f"3:23: {PAIR}.retry.backoff.factor: must be a number from 1 to 100"),
    (consumer("retry: {backoff: {jitter: 2}}"), f"3:23: {PAIR}.retry.backoff.jitter: must be a number from 0 to 1"),
    (consumer("retry: {on_exhausted: x}"), f"3:13: {PAIR}.retry.on_exhausted: must be one of dead_letter, drop, halt_key, halt_partition"),
    (consumer("retry: {dlq_follow_key: 1}"), f"3:13: {PAIR}.retry.dlq_follow_key: must be true or false"),
    *((consumer(f"{key}: x"), f"3:5: {PAIR}.{key}: is not built in this version of mqsdk") for key in ("span",)),
    *((consumer(f"rate: {text}"), f"3:5: {PAIR}.rate: not a rate: write for example 100/s") for text in ("x", "200", "0/s", "5/d", "-1/s")),
    (consumer("rate: 2000000/s"), f"3:5: {PAIR}.rate: must be a rate of at most 1,000,000/s"),
    (consumer("inbox: x"), f"3:5: {PAIR}.inbox: must be a mapping of keys"),
    (consumer("inbox: {}"), f"3:5: {PAIR}.inbox.path: is missing"),
    (consumer("inbox: {path: a, store: redis}"), f"3:22: {PAIR}.inbox.store: must be one of sqlite"),
    (consumer("inbox: {path: a, ttl: 0s}"), f"3:22: {PAIR}.inbox.ttl: must be a duration from 1s"),
    (consumer("breaker: x"), f"3:5: {PAIR}.breaker: must be a mapping of keys"),
    (consumer("breaker: {failures: 0}"), f"3:15: {PAIR}.breaker.failures: must be a number from 0.01 to 1"),
    (consumer("breaker: {failures: 90}"), f"3:15: {PAIR}.breaker.failures: must be a number from 0.01 to 1"),
    (consumer("breaker: {min: 0}"), f"3:15: {PAIR}.breaker.min: must be a whole number from 1 to 1,000,000"),
    (consumer("breaker: {window: 2d}"), f"3:15: {PAIR}.breaker.window: must be a duration from 100ms to 1d"),
    (consumer("breaker: {probe: 0s}"), f"3:15: {PAIR}.breaker.probe: must be a duration from 100ms to 1d"),
    (consumer("breaker: {prob: 1s}"), f"3:15: {PAIR}.breaker.prob: unknown key (did you mean `probe`?)"),
    *((consumer(f"{key}: x"), f"3:5: {PAIR}.{key}: is set in the code, not in the file") for key in ("ordered", "batch", "dead_letter")),
    ("defaults: {span: {}}\n", "1:12: defaults.span: is not built in this version of mqsdk"),
    ("consumers: {billing: {}}\n", "1:13: consumers.billing: must be topic/group"),
    ('consumers: {"a/b/c": {}}\n', '1:13: consumers."a/b/c": must be topic/group'),
    ('consumers: {"*.x/g": {}, "x.*/g": {}}\n', '1:26: consumers."x.*/g": ties with `*.x/g`'),
    ('topics: {"a..*": {}, "/": {}}\n', '1:22: topics."/": must be a topic name'),
    ('topics: {"a*": {partitions: 0}}\n', '1:17: topics."a*".partitions: must be a whole number'),
    ('topics: {"a*": {groups: [a.b]}}\n', '1:26: topics."a*".groups[0]: must be a group name'),
    ('topics: {"a*": {retention: 0s}}\n', '1:17: topics."a*".retention: must be none or a duration from 1s to 3650d'),
    ('topics: {"a*": {}, "*a": {}}\n', '1:20: topics."*a": ties with `a*`'),
    ("routes: [{topics: [a], cluster: lcal}]\n", "1:24: routes[0].cluster: there is no such cluster (did you mean `local`?)"),
    ("routes: [{topics: [], cluster: local}]\n", "1:11: routes[0].topics:"),
    ("routes: [{topics: a, cluster: local}]\n", "1:11: routes[0].topics: must be a list"),
    ("routes: [{topics: [a/b], cluster: local}]\n", "1:20: routes[0].topics[0]: must be a topic name"),
    ("routes: [{topics: [a]}]\n", "1:10: routes[0].cluster: is missing"),
    (
        "routes: [{topics: [a], cluster: local, move: {to: lcal}}]\n",
        "1:47: routes[0].move.to: there is no such cluster (did you mean `local`?)",
    ),
    ("routes: [{topics: [a], cluster: local, move: {to: local}}]\n", "1:47: routes[0].move.to: is where the topics are already"),
    (
        "routes: [{topics: [a], cluster: local, move: {to: local, stage: half}}]\n",
        "1:58: routes[0].move.stage: must be one of source, read_both",
    ),
    ("routes: [{topics: [a], cluster: local, move: {to: local, epoch: 0}}]\n", "1:58: routes[0].move.epoch: must be a whole number"),
    ("routes: [{topics: [a], cluster: local, move: {}}]\n", "1:40: routes[0].move.to: is missing"),
    ("routes: {}\n", "1:1: routes: must be a list"),
    ("clusters: {}\n", "1:1: clusters: has no cluster"),
    ("clusters: {Main: {backend: log}}\n", "1:12: clusters.Main: is no name for a cluster"),
    ("clusters: {m: {path: x}}\n", "1:12: clusters.m.backend: is missing"),
    ("clusters: {m: {backend: kafka, replication: many}}\n", "1:32: clusters.m.replication: a number of copies, for example 3"),
    ("clusters: {m: {backend: kafka, pth: x}}\n", "1:32: clusters.m.pth: the backend `kafka` has no such key"),
    ("clusters: {m: {backend: rabbitmq, queues: mirrored}}\n", "1:35: clusters.m.queues: `quorum` or `classic`"),
    ("clusters: {m: {backend: redis, keep: soon}}\n", "1:32: clusters.m.keep: a duration, for example '1h'"),
    ("clusters: {m: {backend: redis, pth: x}}\n", "1:32: clusters.m.pth: the backend `redis` has no such key"),
    ("clusters: {m: {backend: lgo}}\n", "1:16: clusters.m.backend: there is no such backend (did you mean `log`?)"),
    ("clusters: {m: {backend: log, create: 1}}\n", "1:30: clusters.m.create: must be true or false"),
    ("clusters: {m: {backend: log, lease: 0s}}\n", "1:30: clusters.m.lease: must be a duration"),
    ("clusters: {a: {backend: log}, b: {backend: log}}\n", "1:1: clusters: several clusters and no `routes`"),
    (f"clusters: {{m: {{backend: log, servers: ['x://u:{CANARY}@h']}}}}\n", "1:40: clusters.m.servers[0]: holds a user name or password"),
    (
        f"clusters: {{m: {{backend: log, auth: {{pasword: {CANARY}}}}}}}\n",
        "1:37: clusters.m.auth.pasword: unknown key (did you mean `password`?)",
    ),
    ("clusters: {m: {backend: log, auth: {password: 12345}}}\n", "1:37: clusters.m.auth.password: must be text: put it into quotes"),
    ("drain: {timeout: " + "9" * 5000 + "}\n", "1:18: drain.timeout: not a number"),
    ("a: {<<: 3}\n", "1:9: a: `<<` takes mappings only"),
    ("clusters: {m: {backend: log, tls: {}}}\n", "1:30: clusters.m.tls: the backend `log` has no such key (known: "),
    ("clusters: {m: {backend: log, servers: [a]}}\n", "1:30: clusters.m.servers: the backend `log` has no such key"),
    (
        "clusters: {m: {backend: log, durabilty: none}}\n",
        "1:30: clusters.m.durabilty: the backend `log` has no such key (did you mean `durability`?)",
    ),
    ("clusters: {m: {backend: log, durability: often}}\n", "1:30: clusters.m.durability: one of none, interval, always"),
    ("clusters: {m: {backend: log, path: 3}}\n", "1:30: clusters.m.path: a path is text"),
    ("profiles: {test: {drain: {timout: 1s}}}\n", "1:27: profiles.test.drain.timout: unknown key (did you mean `timeout`?)"),
    ("profiles: {test: 3}\n", "1:12: profiles.test: must be a mapping of keys"),
    ("profiles: [test]\n", "1:1: profiles: must be a mapping of profiles"),
    ("profiles: {test: {profiles: {}}}\n", "1:19: profiles.test.profiles: cannot stand in a profile"),
]


@pytest.mark.parametrize(("text", "begin"), CASES, ids=[begin[:60] for _, begin in CASES])
def test_a_wrong_key_is_named_with_its_place(problems_of: ProblemsOf, text: str, begin: str) -> None:
    problems = [str(problem) for problem in problems_of(text)]
    assert any(problem.startswith(f"mqsdk.yaml:{begin}") for problem in problems), "\n".join(problems)


def test_every_problem_is_reported_at_once_in_the_order_of_the_file(problems_of: ProblemsOf) -> None:
    problems = problems_of("app: a b\nversion: 7\ndrian: {}\nlimits: {payload: x}\napp: c\nroutes: [{topics: [a], cluster: x}]\n")
    assert [problem.line for problem in problems] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("environment", [None, "test"])
def test_a_wrong_profile_is_reported_whether_it_is_in_use_or_not(problems_of: ProblemsOf, environment: str | None) -> None:
    text = "clusters: {local: {backend: log}}\nprofiles:\n  test:\n    routes: [{topics: [a], cluster: locl}]\n"
    assert [str(problem) for problem in problems_of(text, None, environment)] == [
        "mqsdk.yaml:4:28: profiles.test.routes[0].cluster: there is no such cluster (did you mean `local`?)"
    ]


def test_a_profile_that_is_not_in_use_may_need_variables_that_are_not_set(loaded: Load) -> None:
    text = (
        'profiles:\n  prod:\n    clusters: {main: {backend: "${env:KIND}", path: "${env:PLACE}"}}\n    drain: {timeout: "${env:DRAIN}"}\n'
    )
    assert loaded(text).drain_timeout_s == 30


def test_no_text_of_a_problem_holds_a_value(write: Write) -> None:
    """One file in which every value is the canary, in places of every kind."""
    lines = [
        *(f"{name}: {CANARY}" for name in ("version", "app/", "requires", "defaults", "consumers", "publish", "profiles", "unknown")),
        f"clusters: {{a: {{backend: {CANARY}, lease: {CANARY}, create: {CANARY}, servers: {CANARY}, tls: {CANARY},",
        f"  auth: {{password: [{CANARY}], user: {{x: {CANARY}}}}}, options: {CANARY}, accept: {CANARY}, z: '${{{CANARY}}}'}}}}",
        f"routes: [{{topics: [{CANARY}/], cluster: {CANARY}, move: {CANARY}}}, {CANARY}]",
        f"topics: {{a: {{partitions: {CANARY}, groups: [{CANARY}.]}}}}",
        f"limits: {{payload: {CANARY}}}",
        f"drain: {{timeout: {CANARY}}}",
        f"reload: {{watch: {CANARY}, every: 1{CANARY}}}",
        f"observability: {{log_level: {CANARY}}}",
    ]
    with pytest.raises(ConfigError) as caught:
        load(write("\n".join(lines) + "\n"), environ={"MQSDK_DEFAULTS__TIMEOUT": CANARY, "MQSDK_DEFAULTS__CONCURRENCY": CANARY})
    assert len(caught.value.problems) > 20
    assert CANARY not in str(caught.value)
    assert CANARY not in repr(caught.value.problems)
    assert caught.value.__cause__ is None


def test_an_adapter_that_cannot_be_imported_is_left_to_the_open(monkeypatch: pytest.MonkeyPatch, loaded: Load) -> None:
    known = {"log": backends.installed()["log"], "broken": EntryPoint("broken", "mqsdk_no_such_module", "mqsdk")}
    monkeypatch.setattr(backends, "installed", lambda: known)
    found = loaded("clusters: {m: {backend: broken, anything: 1, servers: [a]}}\n")
    assert found.clusters["m"].options == {"anything": 1, "servers": ["a"]}


def test_a_key_is_shown_short_and_without_control_characters(problems_of: ProblemsOf) -> None:
    text = str(problems_of('"a\\nb\\e[31m": 1\n' + "k" * 500 + ": 1\n")[0])
    assert "\n" not in text
    assert "\x1b" not in text
    assert all(len(str(problem)) < 400 for problem in problems_of("k" * 500 + ": 1\n"))
