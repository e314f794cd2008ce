"""docs/conformance.md says what the generator says, and the generator reads scenarios as a run would go through them."""

from __future__ import annotations

import sys
import textwrap
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from mqsdk.spi import Backend, Capabilities
from mqsdk.testing.conformance import BackendConformance, table, verdicts
from mqsdk.testing.conformance.base import HOOKS, Stage
from mqsdk.testing.conformance.verdicts import Unreadable, Verdict, verdict_of
from mqsdk.testing.simlog import MEMORY, SimBackend, SimLog
from tests.processes import run

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "conformance.md"
COMMAND = (sys.executable, "-m", "mqsdk.testing.conformance.table", "tests/conformance")
NOTHING = Capabilities(
    settle="receipt", publish="async", ordered=False, history=False, replay=False, read_by_position=False, by_time=False,
    keeps_topic=False, attempts=False, rejects_in_order=False, exact_lag=False,
)  # fmt: skip
# Of a backend that does not delay by itself.
WHERE_LAYER_2_DELAYS = (
    "test_what_layer_2_delays_is_stored_like_any_other_and_keeps_its_due_time",
    "test_what_is_settled_may_be_trimmed_and_the_rest_is_there",
)
EVERYTHING = replace(MEMORY, broadcast=True, release=True, extend=True, delay="native", max_payload=1 << 20)


@pytest.mark.slow
def test_the_page_is_what_the_generator_prints() -> None:
    done = run(COMMAND, ROOT)
    assert done.returncode == 0, done.stderr
    assert PAGE.read_text() == done.stdout, f"make it anew: python {' '.join(COMMAND[1:])} > docs/conformance.md"


# --- as a run goes ------------------------------------------------------------------------------------------------------------------


class Bare(BackendConformance):
    """Nothing but `make_backend`: what a third party begins with. Remembers which hooks a scenario asked for in vain."""

    __test__ = False

    def __init__(self) -> None:
        self.store_of_broker = SimLog()
        self.asked: list[str] = []

    def make_backend(self) -> Backend:
        return SimBackend(self.store_of_broker)

    def gives(self, hook: str) -> bool:
        given = super().gives(hook)
        if not given:
            self.asked.append(hook)
        return given


def scenarios() -> list[str]:
    return [name for _, names in table.areas() for name in names]


@pytest.mark.parametrize("name", [name for name in scenarios() if verdict_of(Bare, name, MEMORY).kind == "no hook"])
def test_what_is_said_to_lack_a_hook_asks_for_it_and_does_nothing_without(name: str) -> None:
    stage = Bare()
    stage.set_up()
    getattr(stage, name)()
    stage.tear_down()
    assert tuple(stage.asked) == verdict_of(Bare, name, MEMORY).hooks


def test_every_hook_is_needed_by_some_scenario_and_no_other_scenario_asks_for_one() -> None:
    found = {name: verdict_of(Bare, name, EVERYTHING) for name in scenarios()}
    assert {hook for verdict in found.values() for hook in verdict.hooks} == set(HOOKS)
    asking = {name for name in scenarios() if "gives" in getattr(Bare, name).__code__.co_names}
    assert asking == {name for name, verdict in found.items() if verdict.kind == "no hook"}


def test_with_all_claims_and_hooks_everything_is_shown_but_the_refusal_of_what_is_not_claimed() -> None:
    hooks = {hook: lambda self, *given: None for hook in HOOKS}
    full = type("Full", (BackendConformance,), hooks)
    not_shown = {name for name in scenarios() if verdict_of(full, name, EVERYTHING) != Verdict("passed")}
    assert not_shown <= {"test_broadcast_is_refused_where_it_is_not_claimed", *WHERE_LAYER_2_DELAYS}


def test_scenarios_that_say_refused_in_their_name_are_refused_without_the_claim() -> None:
    said = [name for name in scenarios() if name.endswith(("_or_is_refused", "_or_refused", "_or_this_is_refused"))]
    assert len(said) >= 4
    assert {verdict_of(Bare, name, NOTHING).kind for name in said} == {"refused"}


def test_a_class_tells_its_claims_without_its_broker() -> None:
    class Remote(Stage):
        def make_backend(self) -> Backend:
            assert f"{self.server.address}" == "127.0.0.1:1"  # type: ignore[attr-defined]  # of a fixture
            return SimBackend(capabilities=NOTHING)

    assert Remote.claims() is NOTHING


# --- forms ---------------------------------------------------------------------------------------------------------------------------

LIMIT = 100


class Forms(Stage):
    @property
    def delays(self) -> bool:
        return self.caps.delay == "native"

    def guarded(self) -> None:
        """Text shows nothing."""
        if self.caps.companions:
            assert self.admin

    def guarded_by_two(self) -> None:
        if self.caps.companions and self.gives("crash"):
            assert self.admin

    def guarded_by_a_hook(self) -> None:
        if self.gives("trim"):
            assert self.admin

    def leaves_early(self) -> None:
        if not self.gives("trim"):
            return
        assert self.admin

    def leaves_without_a_limit(self) -> None:
        if self.caps.max_payload is None:
            return
        assert self.admin

    def guarded_by_a_property(self) -> None:
        if self.delays:
            assert self.admin

    def guarded_by_a_number(self) -> None:
        if self.caps.name_limit >= LIMIT:
            assert self.admin

    def otherwise(self) -> None:
        if self.caps.history:
            assert self.admin
        else:
            self.admin.topics()

    def refuses(self) -> object:
        if not self.caps.replay:
            return self.admin.topics()
        assert self.admin
        return None

    def two_ways(self) -> None:
        if self.caps.settle == "receipt":
            assert self.admin
        else:
            self.admin.topics()

    def only_a_part(self) -> None:
        assert self.admin
        if self.caps.exact_lag:
            self.admin.topics()

    def of_the_run(self) -> None:
        if self.admin.topics():
            assert self.admin

    def only_the_refusal(self) -> None:
        if not self.caps.broadcast:
            self.admin.topics()

    def inside(self) -> None:
        for _ in range(2):
            with suppress(LookupError):
                if self.gives("crash"):
                    assert self.admin


def form(name: str, claims: Capabilities, monkeypatch: pytest.MonkeyPatch) -> Verdict:
    monkeypatch.setattr(verdicts, "__package__", __name__.rpartition(".")[0])  # as if the suite were here
    return verdict_of(Forms, name, claims)


@pytest.mark.parametrize(
    ("name", "claimed", "unclaimed"),
    [
        ("guarded", "passed", "unclaimed"),
        ("guarded_by_two", "no hook", "unclaimed"),
        ("guarded_by_a_hook", "no hook", "no hook"),
        ("leaves_early", "no hook", "no hook"),
        ("leaves_without_a_limit", "passed", "unclaimed"),
        ("guarded_by_a_property", "passed", "unclaimed"),
        ("guarded_by_a_number", "passed", "unclaimed"),
        ("otherwise", "passed", "refused"),
        ("refuses", "passed", "refused"),
        ("two_ways", "passed", "passed"),
        ("only_a_part", "passed", "unclaimed"),
        ("of_the_run", "passed", "passed"),
        ("only_the_refusal", "unclaimed", "refused"),
        ("inside", "no hook", "no hook"),
    ],
)
def test_each_form_of_a_question_is_read(name: str, claimed: str, unclaimed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert form(name, EVERYTHING, monkeypatch).kind == claimed
    assert form(name, replace(NOTHING, name_limit=10), monkeypatch).kind == unclaimed


def test_a_question_that_is_not_understood_is_an_error_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(self: Stage) -> None:
        assert self.admin
        if len("name") < self.caps.name_limit:
            assert self.admin

    monkeypatch.setattr(Forms, "odd", odd, raising=False)
    with pytest.raises(Unreadable) as error:
        form("odd", NOTHING, monkeypatch)
    assert "odd" in str(error.value)
    line = int(str(error.value).split(":")[1])
    assert "self.caps.name_limit" in Path(__file__).read_text().splitlines()[line - 1]


def test_a_scenario_that_a_class_replaces_is_shown_as_its_own() -> None:
    name = "test_a_publish_is_answered_stored"
    mine = type("Mine", (BackendConformance,), {name: lambda self: None})
    getattr(mine, name).__module__ = __name__
    assert verdict_of(mine, name, MEMORY) == Verdict("own")


# --- what pytest collects -----------------------------------------------------------------------------------------------------------


def page_of(tmp_path: Path, body: str) -> str:
    text = f"""
    import pytest
    from mqsdk.testing.conformance import BackendConformance
    from mqsdk.testing.simlog import SimBackend

    class TestMine(BackendConformance):
        def make_backend(self):
            return SimBackend()
    {body}
    """
    (tmp_path / "test_mine.py").write_text(textwrap.dedent(text))
    done = run([*COMMAND[:-1], "test_mine.py"], tmp_path)
    return done.stdout if done.returncode == 0 else done.stderr


@pytest.mark.slow
def test_a_third_partys_class_gets_its_column(tmp_path: Path) -> None:
    text = page_of(tmp_path, "")
    assert "| scenario | Mine |" in text
    assert "| a publish is answered stored | ✓ |" in text
    assert "| rejected means not stored | no `fail_publish` |" in text
    assert "| a pause stops a running delivery | ✓ |" in text


@pytest.mark.slow
def test_a_skipped_scenario_is_no_page(tmp_path: Path) -> None:
    skipped = """
        @pytest.mark.skip
        def test_a_pause_stops_a_running_delivery(self): pass
    """
    assert "TestMine skips or leaves out test_a_pause_stops_a_running_delivery" in page_of(tmp_path, skipped)


@pytest.mark.slow
def test_a_folder_without_a_class_is_refused(tmp_path: Path) -> None:
    done = run([*COMMAND[:-1], str(tmp_path)], ROOT)
    assert done.returncode != 0
    assert "no conformance class in" in done.stderr
