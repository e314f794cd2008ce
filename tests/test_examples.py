"""Every example is executed as its README says, with real processes on the embedded log."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from starlette.testclient import TestClient

from tests.processes import MQSDK, Running, environment, mqsdk, run

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

pytestmark = pytest.mark.slow


def copied(example: str, target: Path) -> Path:
    shutil.copytree(EXAMPLES / example, target, dirs_exist_ok=True)
    for config in target.glob("*.yaml"):
        config.chmod(0o600)
    return target


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where dataclasses look for their own module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[path.stem]
    return module


def test_hello_is_the_five_lines_of_the_readme() -> None:
    lines = (EXAMPLES / "01_hello" / "hello.py").read_text()
    assert lines in (EXAMPLES.parent / "README.md").read_text()


def test_hello_greets_across_two_processes(tmp_path: Path) -> None:
    folder = copied("01_hello", tmp_path)
    with Running([*MQSDK, "run", "hello:app"], folder) as consumer:
        published = mqsdk(folder, "publish", "hello", "world")
        assert published.returncode == 0, published.stderr
        consumer.wait_for("hello world")
        assert consumer.stop() == 0


def test_the_web_service_publishes_from_sync_and_async_handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied("03_web", tmp_path)
    monkeypatch.chdir(folder)
    for name, value in environment(folder).items():
        monkeypatch.setenv(name, value)
    service = load(folder / "web.py")
    with TestClient(service.web) as client:
        assert client.put("/orders/7?cents=1250").status_code == 202
        assert client.post("/orders", json={"id": "8", "cents": 300}).status_code == 202
        refused = client.post("/orders", json={"id": "x" * 2000, "cents": 1})
        assert refused.status_code == 422
        assert "xxx" not in refused.text
    with Running([*MQSDK, "run", "web:app"], folder) as consumer:
        consumer.wait_for("billed order 7: 12.50")
        consumer.wait_for("billed order 8: 3.00")
        assert consumer.stop() == 0


def test_the_demo_keeps_a_carrier_and_its_minutes_on_one_line() -> None:
    summary = load(EXAMPLES / "02_flights" / "summary.py")
    delays = [(name, 10.0, 200) for name in ("EV", "MQ", "WN", "9E", "OO", "YV", "B6", "FL", "AA", "UA")]
    for width in range(30, 120):
        lines = summary.delays_text(delays, width).splitlines()
        assert not [line for line in lines if line.split()[-1] in {name for name, _, _ in delays}]


def test_the_demo_loses_nothing_and_explains_its_repeats(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = run([sys.executable, EXAMPLES / "02_flights" / "demo.py", folder], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kill -9 of consumer 2" in done.stdout
    assert [line for line in done.stdout.splitlines() if line != line.rstrip()] == []
    assert "failed on purpose" in done.stdout
    listed = mqsdk(folder, "dlq", "list", "flights", "alerts", "--json")
    reasons = {json.loads(line)["reason"] for line in listed.stdout.splitlines()}
    assert reasons == {"exhausted"}


def test_a_topic_moves_there_and_back_under_load(tmp_path: Path) -> None:
    folder = copied("07_move", tmp_path)
    done = run([sys.executable, "move.py", "0.5"], folder)
    assert done.returncode == 0, done.stdout + done.stderr
    for step in (
        "read_both -> switch_write",
        "switch_write -> read_back",
        "read_back -> switch_back",
        "switch_back -> source",
        "switch_write -> target",
    ):
        assert f"topic orders: {step}" in done.stdout
    assert "none lost, each key in order" in done.stdout
    assert "handled from `old`, o from `new`" in done.stdout or (folder / "move.png").stat().st_size > 10_000
    assert "{topics: [orders], cluster: new}" in (folder / "mqsdk.yaml").read_text()


def test_a_service_under_load_follows_its_configuration_to_another_cluster(tmp_path: Path) -> None:
    folder = copied("05_hot_reload", tmp_path)
    done = run([sys.executable, "hot_reload.py", "0.5"], folder)
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    for change in (
        "defaults.concurrency: 1 -> 8",
        "defaults.retry.backoff.base: 500ms -> 5ms",
        "routes[0].cluster: old -> new",
        "billing: reading (old -> new)",
        "publishers: writing (old -> new)",
        "billing: closed (old -> new)",
    ):
        assert change in lines, done.stdout
    assert lines[-1].endswith("messages, each handled once and in the order of its key")
