"""Whatever stands in a file or a variable: a configuration or a ConfigError, never another exception, never a value in its text."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mqsdk.config.keys import all_keys
from mqsdk.config.load import load
from mqsdk.errors import ConfigError

CANARY = "hunter2canary"
BOUNDED = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])

SCALARS = [None, True, False, 0, -1, 3, 1.5, 10**30, "", "*", "a", "a/b", "3", "30s", "1MiB", "true", "log", "local", "kafka", CANARY]
REFERENCES = ["${env:A}", "${env:GONE}", "$${x}", f"${{{CANARY}}}", "x://u:p@h"]
BLOCKS = [[], {}, [[]], [{}], {"*": {}}, {"a/b": {}}, {"x": CANARY}]
LEAVES = st.sampled_from([*SCALARS, *REFERENCES, *BLOCKS])
VALUES: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "topics", "cluster", "x"]), inner, max_size=3),
    max_leaves=5,
)
PATHS = st.sampled_from(
    [key.path for key in all_keys()] + [("profiles", "*"), ("profiles", "test", "*"), ("clusters", "local", "durability")]
)
USER_NAMES = st.sampled_from(["local", "a", "a/b", "*/b", "test", "A b", ""])
# Pieces that mean something to YAML, in any order.
TEXT = st.lists(
    st.sampled_from(
        [
            "a",
            ":",
            " ",
            "\n",
            "- ",
            "{",
            "}",
            "[",
            "]",
            "&a ",
            "*a",
            "!",
            "|",
            ">",
            "'",
            '"',
            "#",
            "? ",
            "<<: ",
            "---",
            "\t",
            "%",
            "@",
            "app",
            "\\",
            "é",
            "\x00",
        ]
    ),
    max_size=30,
).map("".join)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mqsdk.yaml"
    path.touch()
    path.chmod(0o644)
    return path


def outcome(read: Callable[[], object]) -> str:
    """The text of the ConfigError, "" when there is none."""
    try:
        read()
    except ConfigError as error:
        return "\n".join(str(problem) for problem in error.problems) or pytest.fail("a ConfigError without problems")
    return ""


@BOUNDED
@given(st.binary(max_size=200) | TEXT.map(str.encode))
def test_any_bytes_are_a_configuration_or_a_config_error(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    outcome(partial(load, file, environ={}))


@BOUNDED
@given(st.lists(st.tuples(PATHS, USER_NAMES, VALUES), min_size=1, max_size=6))
def test_any_values_at_the_keys_of_the_model_do_so_too(file: Path, items: list[tuple[tuple[str, ...], str, Any]]) -> None:
    root: dict[str, Any] = {}
    for path, name, value in items:
        put(root, path, name, value)
    file.write_text(json.dumps(root))
    for environment in ("test", None):
        assert CANARY not in outcome(partial(load, file, environ={"A": CANARY}, environment=environment))


@BOUNDED
@given(st.dictionaries(PATHS.map(lambda path: "MQSDK_" + "__".join(path).upper().replace("*", "local")), VALUES.map(str), max_size=4))
def test_any_variables_do_so_too(file: Path, environ: dict[str, str]) -> None:
    text = outcome(partial(load, file, environ=environ))
    assert CANARY not in text


def put(root: dict[str, Any], path: tuple[str, ...], name: str, value: Any) -> None:
    """Put the value at the path: `*` becomes the name, `[]` a list of one."""
    here: Any = root
    steps = [name if step == "*" else step for step in path]
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if following is None or not isinstance(here, dict):
            break
        if following == "[]":
            inner: dict[str, Any] = {}
            here[step] = [inner]
            here = inner
        elif step != "[]":
            here = here.setdefault(step, {})
    if isinstance(here, dict):
        here[steps[-1]] = value
