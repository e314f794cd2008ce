"""Secrets: by reference, never shown, revealed to the adapter only."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from mqsdk.config.backends import installed
from mqsdk.config.secret import Secret, is_secret_name
from mqsdk.config.settings import Settings
from tests.config.conftest import Load, ProblemsOf, Write

CANARY = "hunter2canary"

# An adapter of somebody else, which takes the common keys and says nothing about its own.
FOREIGN = "nats"


@pytest.fixture(autouse=True)
def _foreign_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {**installed(), FOREIGN: installed()["log"]}
    monkeypatch.setattr("mqsdk.config.backends.installed", lambda: known)
    monkeypatch.setattr("mqsdk.config.backends.options_of", lambda name: None)


def cluster(block: str) -> str:
    return f"clusters:\n  main:\n    backend: {FOREIGN}\n    {block}\n"


@dataclasses.dataclass
class Holder:
    secret: Secret


def test_a_secret_shows_its_mask_everywhere_but_in_reveal() -> None:
    secret = Secret(CANARY)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>5}", "%s" % secret, repr([secret]), repr(Holder(secret))]  # noqa: UP031
    shown += [repr(dataclasses.asdict(Holder(secret))), repr(copy.deepcopy(secret)), repr(vars(Holder(secret)))]
    assert not any(CANARY in text for text in shown)
    assert secret.reveal() == CANARY
    assert (secret == Secret(CANARY), secret == Secret("x"), secret == CANARY) == (True, False, False)
    assert len({secret, Secret(CANARY)}) == 1


def test_a_secret_is_neither_pickled_nor_written_as_json() -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(Secret(CANARY), protocol)
    with pytest.raises(TypeError):
        json.dumps(Secret(CANARY))
    with pytest.raises(TypeError, match="a secret is text, not int"):
        Secret(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("password", True), ("sasl_Password", True), ("token", True), ("keyword", False), ("tokens_per_s", False), (3, False)],
)
def test_names_of_secrets_are_known(name: object, expected: bool) -> None:
    assert is_secret_name(name) is expected


def test_references_are_replaced_and_reach_the_adapter(loaded: Load, tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(f"{CANARY}\n")
    text = cluster(
        'auth: {user: shop, password: "${file:pw}", token: "a${env:T}b"}\n    servers: ["${env:HOST}:1"]\n    own: {deep: ["$${env:T}"]}'
    )
    found = loaded(text, {"T": "1", "HOST": "h"})
    assert found.clusters["main"].options == {
        "auth": {"user": "shop", "password": CANARY, "token": "a1b"},
        "servers": ["h:1"],
        "own": {"deep": ["${env:T}"]},
    }


def test_a_reference_may_stand_where_a_number_or_duration_is_wanted(loaded: Load) -> None:
    text = 'defaults: {concurrency: "${env:N}", timeout: "${env:T}", paused: "${env:P}"}\n'
    assert loaded(text, {"N": "3", "T": "2m", "P": "true"}).defaults == {"concurrency": 3, "timeout_s": 120.0, "paused": True}


def test_a_variable_may_hold_a_reference_and_replaces_a_broken_one(loaded: Load) -> None:
    text = cluster('auth: {password: "${env:GONE}"}')
    found = loaded(text, {"MQSDK_CLUSTERS__MAIN__AUTH__PASSWORD": "${env:P}", "P": CANARY})
    assert found.clusters["main"].options["auth"]["password"] == CANARY


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("${env:GONE}", "the variable GONE is not set"),
        ("${file:gone}", "the file gone cannot be read: No such file or directory"),
        ("${file:.}", "the file . cannot be read: Is a directory"),
        ("${file:large}", "the file large cannot be read: not a file with a short UTF-8 text"),
        ("${file:binary}", "the file binary cannot be read: not a file with a short UTF-8 text"),
        ("${file:pipe}", "the file pipe cannot be read: not a file"),
        (f"${{{CANARY}}}", "holds a `${` that is no reference"),
        (f"{CANARY}${{env:", "holds a `${` that is no reference"),
        ("${env:}", "holds a `${` that is no reference"),
        ("${vault:x}", "holds a `${` that is no reference"),
    ],
)
def test_a_reference_that_does_not_resolve_is_named_with_its_place(problems_of: ProblemsOf, tmp_path: Path, value: str, what: str) -> None:
    (tmp_path / "large").write_bytes(b"x" * 65 * 1024)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    os.mkfifo(tmp_path / "pipe")
    problems = problems_of(cluster(f"auth: {{user: a, password: '{value}'}}"))
    assert len(problems) == 1
    assert str(problems[0]).startswith(f"mqsdk.yaml:4:21: clusters.main.auth.password: {what}")
    assert CANARY not in str(problems[0])


def test_the_debug_log_of_pydantic_settings_shows_none(
    loaded: Load, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYDANTIC_SETTINGS_DEBUG", "1")
    with caplog.at_level(logging.DEBUG):
        loaded(cluster(f"auth: {{password: {CANARY}}}"), {"MQSDK_CLUSTERS__MAIN__AUTH__TOKEN": CANARY})
    assert "Resolving settings" in caplog.text
    assert CANARY not in caplog.text


def test_the_whole_way_shows_no_secret(write: Write, loaded: Load, caplog: pytest.LogCaptureFixture) -> None:
    blocks = [
        f'auth: {{user: "${{env:T}}", password: {CANARY}, token: "${{env:T}}"}}',
        'servers: ["${env:T}"]',
        f'options: {{x: "${{env:T}}", b_token: {CANARY}}}',
        f"own: {{password: {CANARY}}}",
    ]
    text = cluster("\n    ".join(blocks))
    environ = {"T": CANARY}
    with caplog.at_level(logging.DEBUG):
        settings = Settings.load(write(text), environ=environ)
        found = loaded(text, environ)
    shown: list[Any] = [found, settings, settings.model_dump(), settings.model_dump_json(), caplog.text]
    shown += [settings.clusters, settings.clusters["main"].auth, settings.model_dump(mode="json"), found.clusters["main"]]
    assert not [text for text in (*map(repr, shown), *map(str, shown)) if CANARY in text]
    assert "***" in repr(settings)
    assert found.masked == {"clusters.main.auth.token", "clusters.main.auth.user", "clusters.main.servers[0]", "clusters.main.options.x"}
