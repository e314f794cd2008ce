"""What a start costs: without a file nothing but the standard library is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from mqsdk.config.load import load
configuration = load()
configuration.tuning("t", "g", {})
loaded = {name.partition(".")[0] for name in sys.modules}
heavy = sorted(loaded & {"pydantic", "pydantic_core", "pydantic_settings", "yaml", "pluggy"})
print(configuration.app, heavy)
"""


def run(directory: Path, **variables: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.upper().startswith("MQSDK_")}
    environ = {**clean, **variables, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT], cwd=directory, env=environ, capture_output=True, text=True, check=True
    ).stdout


def test_the_default_path_imports_no_pydantic(tmp_path: Path) -> None:
    assert run(tmp_path) == "app []\n"
    assert run(tmp_path, MQSDK_ENV="test", MQSDK_STATE="x", MQSDK_DISABLE_PLUGINS="y") == "app []\n"


def test_a_file_does_so_the_test_above_can_fail(tmp_path: Path) -> None:
    (tmp_path / "mqsdk.yaml").write_text("app: shop\n")
    (tmp_path / "mqsdk.yaml").chmod(0o644)
    assert "pydantic" in run(tmp_path)


@pytest.mark.parametrize("name", ["secret", "model", "load", "tuning", "diff", "problems"])
def test_the_modules_that_everybody_reads_are_light(name: str, tmp_path: Path) -> None:
    script = f"import sys, mqsdk.config.{name}; print([heavy for heavy in ('pydantic', 'yaml') if heavy in sys.modules])"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, "-P", "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True).stdout
    assert out == "[]\n"
