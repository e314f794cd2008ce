"""What people install: the wheel, built from the sdist, in an empty environment, used from an empty folder."""

from __future__ import annotations

import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.processes import Running, environment, run

ROOT = Path(__file__).resolve().parents[1]
HELLO = ROOT / "examples" / "01_hello" / "hello.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`python -m build` makes the sdist and builds the wheel from it; the build tools are those of this environment."""
    target = tmp_path_factory.mktemp("dist")
    built = run([sys.executable, "-m", "build", "--no-isolation", "--outdir", target, ROOT], target)
    assert built.returncode == 0, built.stdout + built.stderr
    return next(target.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel, its dependencies, and nothing of this repository."""
    folder = tmp_path_factory.mktemp("empty") / "venv"
    venv.create(folder, with_pip=True)
    done = run([folder / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", wheel], folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "bin"


def test_the_wheel_ships_mqsdk_and_its_adapters_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mqsdk", "mqsdk_kafka", "mqsdk_log", "mqsdk_rabbitmq", "mqsdk_redis"}
    assert {f"{top}/py.typed" for top in ("mqsdk", "mqsdk_kafka", "mqsdk_log", "mqsdk_rabbitmq", "mqsdk_redis")} <= set(names)
    assert "mqsdk_redis/lua/settle.lua" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    shipped = set(zipfile.ZipFile(wheel).namelist())
    for top in (ROOT / "mqsdk", *(ROOT / "adapters" / name for name in ("mqsdk_kafka", "mqsdk_log", "mqsdk_rabbitmq", "mqsdk_redis"))):
        files = {path.relative_to(top.parent).as_posix() for path in top.rglob("*") if path.is_file() and path.suffix != ".pyc"}
        assert files <= shipped


def test_hello_runs_from_the_wheel_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_bytes(HELLO.read_bytes())
    env = environment(tmp_path)
    env.pop("PYTHONPATH", None)
    with Running([installed / "mqsdk", "run", "hello:app"], tmp_path, environ=env) as consumer:
        published = run([installed / "mqsdk", "publish", "hello", "world"], tmp_path, environ=env)
        assert published.returncode == 0, published.stderr
        consumer.wait_for("hello world")
        assert consumer.stop() == 0


def test_the_adapter_is_found_by_its_entry_point(installed: Path, tmp_path: Path) -> None:
    script = "from importlib.metadata import entry_points; print([e.value for e in entry_points(group='mqsdk') if e.name == 'log'])"
    env = environment(tmp_path)
    env.pop("PYTHONPATH", None)
    assert run([installed / "python", "-c", script], tmp_path, environ=env).stdout.strip() == "['mqsdk_log']"
