"""`MQSDK_*`: every key of the file that is no list of names, and no other."""

from __future__ import annotations

import pytest

from mqsdk.config.load import load
from mqsdk.errors import ConfigError


def problem(environ: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        load(environ=environ)
    return "\n".join(str(problem) for problem in caught.value.problems)


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MQSDK_DEFAULTS__CONCURENCY", "unknown variable (did you mean MQSDK_DEFAULTS__CONCURRENCY?)"),
        ("MQSDK_CLUSTERS__MAIN__AUTH__PASWORD", "unknown variable (did you mean MQSDK_CLUSTERS__MAIN__AUTH__PASSWORD?)"),
        ("MQSDK_CONFGI", "unknown variable (did you mean MQSDK_CONFIG?)"),
        ("mqsdk_env", "unknown variable (did you mean MQSDK_ENV?)"),
        ("MQSDK_", "unknown variable"),
        ("MQSDK_ZZZ", "unknown variable (variables are MQSDK_CONFIG"),
        ("MQSDK_DRAIN__", "unknown variable"),
        ("MQSDK_DRAIN__TIMEOUT__X", "unknown variable (did you mean MQSDK_DRAIN__TIMEOUT?)"),
        ("MQSDK_DRAIN", "names a block, not a key (for example MQSDK_DRAIN__TIMEOUT)"),
        ("MQSDK_CLUSTERS__LOCAL", "names a block, not a key (for example MQSDK_CLUSTERS__LOCAL__BACKEND)"),
        ("MQSDK_ENVIRONMENT", "is not the variable for the environment (set MQSDK_ENV)"),
        *(
            (f"MQSDK_{name.upper()}__X", f"cannot be set by a variable (set `{name}` in the file)")
            for name in ("consumers", "topics", "routes")
        ),
        ("MQSDK_PROFILES__TEST__APP", "cannot be set by a variable (set `profiles` in the file)"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest_one(name: str, text: str) -> None:
    assert problem({name: "1"}).startswith(f"{name}: {text}")


def test_case_makes_no_difference_and_two_spellings_collide() -> None:
    assert load(environ={"mqsdk_Defaults__concurrency": "3"}).defaults == {"concurrency": 3}
    assert "also given as MQSDK_APP: case makes no difference" in problem({"MQSDK_APP": "a", "mqsdk_app": "b"})


def test_a_wrong_value_names_the_variable_and_not_the_value() -> None:
    text = problem({"MQSDK_DEFAULTS__CONCURRENCY": "hunter2canary", "MQSDK_DRAIN__TIMEOUT": "30", "MQSDK_RELOAD__WATCH": "yes"})
    assert text.splitlines() == [
        "MQSDK_DEFAULTS__CONCURRENCY: defaults.concurrency: must be a whole number from 1 to 10,000",
        "MQSDK_DRAIN__TIMEOUT: drain.timeout: not a duration: write a unit, for example '30s'",
        "MQSDK_RELOAD__WATCH: reload.watch: must be true or false",
    ]


def test_values_are_read_as_their_key_wants_them() -> None:
    found = load(
        environ={
            "MQSDK_DEFAULTS__CONCURRENCY": "32",
            "MQSDK_DEFAULTS__TIMEOUT": "none",
            "MQSDK_DEFAULTS__PAUSED": "true",
            "MQSDK_DEFAULTS__RETRY__BACKOFF__JITTER": "0.5",
            "MQSDK_PUBLISH__WINDOW__BYTES": "2MiB",
            "MQSDK_RELOAD__WATCH": "false",
            "MQSDK_OBSERVABILITY__LOG_LEVEL": "debug",
        }
    )
    assert found.defaults == {"concurrency": 32, "timeout_s": None, "paused": True, "retry": {"backoff": {"jitter": 0.5}}}
    assert (found.publish.window_bytes, found.reload.watch, found.observability.log_level) == (2 * 1024 * 1024, False, "DEBUG")


@pytest.mark.parametrize("text", ["a,b", " a , b ,", '["a", "b"]'])
def test_a_list_is_json_or_has_commas(text: str) -> None:
    assert load(environ={"MQSDK_CLUSTERS__LOCAL__ACCEPT": text}).clusters["local"].accept == ("a", "b")


def test_a_list_that_is_no_json_names_its_variable() -> None:
    assert problem({"MQSDK_CLUSTERS__LOCAL__ACCEPT": '["a'}) == 'MQSDK_CLUSTERS__LOCAL__ACCEPT: must be a list (write a,b or ["a", "b"])'
    text = problem({"MQSDK_CLUSTERS__LOCAL__ACCEPT": '["a", 3]'})
    assert text == "MQSDK_CLUSTERS__LOCAL__ACCEPT: clusters.local.accept[1]: must be text, not empty"


def test_an_adapters_own_key_gets_what_the_file_would_have_given() -> None:
    found = load(environ={"MQSDK_CLUSTERS__LOCAL__ANY_FILESYSTEM": "true", "MQSDK_CLUSTERS__LOCAL__INTERVAL": "5ms"})
    assert found.clusters["local"].options == {"path": "./.mqsdk", "durability": "interval", "any_filesystem": True, "interval": "5ms"}
    text = problem({"MQSDK_CLUSTERS__LOCAL__DURABILTY": "none"})
    assert (
        text == "MQSDK_CLUSTERS__LOCAL__DURABILTY: clusters.local.durabilty: the backend `log` has no such key (did you mean `durability`?)"
    )


def test_variables_may_add_a_cluster() -> None:
    found = load(environ={"MQSDK_CLUSTERS__OTHER__BACKEND": "log", "MQSDK_CLUSTERS__OTHER__PATH": "/x"})
    assert list(found.clusters) == ["local", "other"]
    assert found.route("any") == found.routes[0]
