"""`requires`: which versions of mqsdk a configuration lets start."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from mqsdk import App, ConfigError, Settings
from mqsdk.config import requirement
from mqsdk.config.diff import changes
from mqsdk.config.requirement import Requirement
from mqsdk.events import Reloaded
from mqsdk.runtime.environment import Environment
from mqsdk.testing.simlog import SimBackend, SimLog
from tests.config.conftest import Load, ProblemsOf
from tests.processes import mqsdk

FITS = [
    (">=1.4", "1.4"),
    (">=1.4", "1.4.0"),
    (">=1.4.0", "1.4"),
    (">=1.4", "1.10"),
    (">1.4", "1.4.1"),
    (">1.4", "1.4.post1"),
    ("==1.4", "1.4.0"),
    ("==1.4", "1.4+local.3"),
    ("!=1.4.2", "1.4.1"),
    ("<2", "2.0rc1"),
    ("<=2", "2.0.dev3"),
    (">= 1.4 , < 2", "1.9.9"),
]
FITS_NOT = [
    (">=1.4", "1.3.9"),
    (">=1.4", "1.4rc1"),
    (">=1.4", "1.4.dev1"),
    (">=1.10", "1.9"),
    (">1.4", "1.4.0"),
    ("==1.4", "1.4.1"),
    ("!=1.4", "1.4.0"),
    ("<2", "2"),
    ("<=2", "2.0.1"),
    (">=1.4, <2", "2.1"),
    (">=0.1", "unheard of"),
    (">=0.1", ""),
]


@pytest.mark.parametrize(("specifier", "version"), FITS)
def test_a_version_that_fits(specifier: str, version: str) -> None:
    assert Requirement(specifier).unmet(version) == ""


@pytest.mark.parametrize(("specifier", "version"), FITS_NOT)
def test_a_version_that_does_not_fit_is_told_with_what_is_needed(specifier: str, version: str) -> None:
    assert Requirement(specifier).unmet(version).startswith(f"needs mqsdk {specifier}, ")


def test_the_stages_of_a_version_have_their_order() -> None:
    rising = ["1.4.dev1", "1.4a1.dev2", "1.4a1", "1.4a2", "1.4b1", "1.4rc1", "1.4", "1.4.post1", "1.4.1.dev1", "1.4.1"]
    assert sorted(rising, key=requirement._age) == rising


@pytest.mark.parametrize(
    "text", ["", "1.4", "~=1.4", ">=", ">=1.x", ">=1.4.*", ">=1.4;<2", "=1.4", "===1.4", ">=1.4,", ">=v1", ">=1.4rc1", ">=-1"]
)
def test_any_other_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be one or more of >= > == != <= <"):
        requirement.clauses(text)


def test_an_sdk_that_is_too_old_is_refused_and_nothing_else_is_told(problems_of: ProblemsOf) -> None:
    """What it does not know is of the later version that the file is for."""
    (problem,) = problems_of("app: x\nrequires: '>=99'\nteleport: {speed: 9}\nversion: 2\nprofiles: {a: {teleport: 1}}\n")
    assert (problem.line, problem.column, problem.key) == (2, 1, "requires")
    assert problem.what == f"needs mqsdk >=99, this is {requirement.sdk_version()}"
    assert problem.fix == "pip install 'mqsdk>=99'"


def test_a_profile_may_ask_for_more(loaded: Load, problems_of: ProblemsOf) -> None:
    text = "requires: '>=0.1'\nprofiles:\n  new:\n    requires: '>=99'\n"
    assert loaded(text).requires == ">=0.1"
    (problem,) = problems_of(text, {}, "new")
    assert (problem.line, problem.key) == (4, "profiles.new.requires")


def test_warn_lets_it_start_with_a_notice(loaded: Load) -> None:
    found = loaded("requires: {version: '>=99', action: warn}\n")
    assert found.notices == (f"mqsdk.yaml:1:1: requires: needs mqsdk >=99, this is {requirement.sdk_version()}",)
    assert loaded("requires: {version: '>=0.1', action: warn}\n").notices == ()


def test_settings_in_code_are_checked_too() -> None:
    with pytest.raises(ConfigError, match="needs mqsdk >=99"):
        Settings(requires=">=99")
    assert Settings(requires=">=0.1").requires is not None


def test_a_changed_requirement_is_a_live_change(loaded: Load) -> None:
    (change,) = changes(loaded("requires: '>=0.1'\n"), loaded("requires: {version: '>=0.0.1', action: warn}\n"))
    assert (str(change), change.applies) == ("requires: >=0.1 -> >=0.0.1 (warn)", "live")


def test_it_is_checked_at_start_and_at_reload(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "mqsdk.yaml"

    def write(text: str) -> None:
        file.write_text(f"{text}\nreload: {{watch: false}}\n")
        file.chmod(0o600)

    caplog.set_level(logging.WARNING, logger="mqsdk.config")
    write("requires: {version: '>=98', action: warn}")
    app, store = App(file), SimLog()
    events: list[Reloaded] = []
    app.observe(lambda event: events.append(event) if isinstance(event, Reloaded) else None)
    app._open(environment=Environment(make_backend=lambda cluster: SimBackend(store, name=cluster.name)))
    try:
        assert "needs mqsdk >=98" in caplog.text
        write("requires: {version: '>=97', action: warn}")
        app.reload()
        assert "needs mqsdk >=97" in caplog.text
        write("requires: '>=99'")
        with pytest.raises(ConfigError, match="needs mqsdk >=99"):
            app.reload()
        assert [event.outcome for event in events] == ["applied", "refused"]
    finally:
        app.close()


def test_the_command_line_refuses_with_3_and_warns(tmp_path: Path) -> None:
    file = tmp_path / "mqsdk.yaml"
    file.write_text("requires: '>=99'\n")
    file.chmod(0o600)
    (tmp_path / "hello.py").write_text("from mqsdk import App\napp = App()\n")
    for words in (("run", "hello:app"), ("check",), ("topics",)):
        done = mqsdk(tmp_path, *words)
        assert done.returncode == 3
        assert "mqsdk.yaml:1:1: requires: needs mqsdk >=99, this is" in done.stdout + done.stderr
    file.write_text("requires: {version: '>=99', action: warn}\n")
    done = mqsdk(tmp_path, "check")
    assert (done.returncode, "needs mqsdk >=99" in done.stderr) == (0, True)
