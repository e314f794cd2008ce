"""The shipped files and the page about configuration say what the model says."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from mqsdk.config import backends, diff, document, reference
from mqsdk.config.keys import all_keys
from mqsdk.config.load import load
from mqsdk.config.model import Configuration
from mqsdk.config.variables import SPECIAL

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "configuration.md").read_text()


def loaded(text: str, tmp_path: Path) -> Configuration:
    file = tmp_path / "mqsdk.yaml"
    file.write_text(text)
    file.chmod(0o644)
    return load(file, environ={})


def test_the_reference_is_what_the_model_generates() -> None:
    assert (ROOT / "configs" / "reference.yaml").read_text() == reference.text()


def test_the_reference_says_exactly_what_holds_without_a_file(tmp_path: Path) -> None:
    found = loaded(reference.text(), tmp_path)
    assert found.tuning("t", "g", {}) == Configuration().tuning("t", "g", {})
    written_out = ("defaults.", *(f"clusters.local.{name}" for name, _, _ in reference.LOG_KEYS))
    assert [change for change in diff.changes(Configuration(), found) if not change.key.startswith(written_out)] == []
    assert {**found.clusters["local"].options, **Configuration().clusters["local"].options} == found.clusters["local"].options


def test_the_reference_is_valid_with_its_commented_blocks_taken_in(tmp_path: Path) -> None:
    text = re.sub(r"(?m)^(\s*)# (?=\s*(?:[a-z_]+|\"[^\"]+\"):)", r"\1", reference.text())
    (tmp_path / "mqsdk.yaml").write_text(text)
    (tmp_path / "mqsdk.yaml").chmod(0o644)
    found = document.read(tmp_path / "mqsdk.yaml")
    assert found.problems == ()
    assert found.data["clusters"]["local"]["auth"]["mechanism"] == "SCRAM-SHA-512"
    assert {"topics", "consumers"} <= set(found.data)


def test_every_key_has_one_line_of_meaning_and_says_live_or_restart() -> None:
    for key in all_keys():
        assert key.meaning, key.path
        assert "\n" not in key.meaning
        if key.model is None:
            assert key.reload in ("live", "restart"), key.path


def test_the_page_has_the_table_of_the_model() -> None:
    table = PAGE.split("--table -->\n")[1].split("<!-- /keys -->")[0]
    assert table == reference.table()


def test_the_embedded_logs_own_keys_are_in_the_reference_and_on_the_page() -> None:
    options = backends.options_of("log")
    values = {name: yaml.safe_load(value) for name, value, _ in reference.LOG_KEYS}
    assert list(values) == [field.name for field in dataclasses.fields(options)]
    assert options.parse(values, "local") == options()
    assert all(f"`{name}`" in PAGE for name in values)


def test_the_page_names_every_variable() -> None:
    for name in SPECIAL:
        assert f"`{name}`" in PAGE


def test_the_files_and_the_pages_example_load(tmp_path: Path) -> None:
    shipped = loaded((ROOT / "configs" / "log.yaml").read_text(), tmp_path)
    assert {route.cluster for route in shipped.routes} == {"local", "ledger"}
    examples = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert examples
    for example in examples:
        assert loaded(example, tmp_path).routes


@pytest.mark.parametrize("environment", [None, "test"])
def test_the_shipped_file_has_no_problem_in_any_environment(tmp_path: Path, environment: str | None) -> None:
    (tmp_path / "mqsdk.yaml").write_text((ROOT / "configs" / "log.yaml").read_text())
    (tmp_path / "mqsdk.yaml").chmod(0o644)
    found = load(tmp_path / "mqsdk.yaml", environ={}, environment=environment)
    assert found.clusters["local"].options["path"] == ("./.mqsdk-test" if environment else "./.mqsdk")
