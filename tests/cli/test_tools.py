"""`mqsdk <backend> <tool>`: commands of an adapter, made from data. A third party's plugin adds some without a change of mqsdk."""

from __future__ import annotations

import sys
from datetime import datetime
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest
from click.testing import CliRunner

from mqsdk.cli import tools
from mqsdk.cli.main import cli
from mqsdk.cli.session import Session
from mqsdk.runtime import plugins
from mqsdk.spi import StateError, hookimpl
from mqsdk.spi.tools import Call, Field, Line, NotThere, Parameter, Plan, Remark, Report, Table, Tool, Toolbox
from tests.cli.harness import Result


def look(call: Call) -> Report:
    call.advance(1, 2)
    facts = {"cluster": call.cluster, "path": call.options.get("path")}
    rows = [{"name": name, "value": str(value), "size": 2048} for name, value in sorted(call.values.items())]
    table = Table("values", rows, [Field("name"), Field("value"), Field("size", True, "bytes")], "no values")
    remarks = [Remark("note", "reel 1", "it is long", "cut it")]
    return Report([table, Table("more", [{"x": 1}], ())], remarks, facts, wrong=call.values["wrong"])


def stream(call: Call) -> Report:
    return Report(lines=(Line({"n": number}, f"line {number}\x1b", wrong=number == 1) for number in range(2)))


def plan(call: Call) -> Plan:
    if call.values["topic"] == "nothing":
        return Plan((), lambda _advance: Report(facts={"done": 0}))
    return Plan((f"cut {call.values['topic']}",), lambda _advance: Report(facts={"done": 1}), wrong=True)


def fail(call: Call) -> Report:
    raise {"missing": NotThere("no such reel"), "busy": StateError("it runs", state="active")}[call.values["how"]]


BOX = Toolbox(
    "Tapes.",
    [
        Tool(
            "look",
            "Look.",
            [
                Parameter("TOPIC", "x"),
                Parameter("--from", "x", "place"),
                Parameter("--count", "x", "number", short="-c"),
                Parameter("--wrong", "x", "flag"),
            ],
            look=look,
        ),
        Tool("stream", "Stream.", look=stream),
        Tool("cut", "Cut.", [Parameter("TOPIC", "x", required=True)], plan=plan),
        Tool("fail", "Fail.", [Parameter("HOW", "x", required=True)], look=fail),
    ],
    place=Parameter("--reel", "A reel."),
    place_key="path",
)


@pytest.fixture(autouse=True)
def tape(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed plugin `tape` of somebody else, and one without tools."""

    @hookimpl
    def mqsdk_tools(kind: str) -> Toolbox | None:
        return BOX if kind == "tape" else None

    plugin = ModuleType("their_tape")
    plugin.__dict__["mqsdk_tools"] = mqsdk_tools
    monkeypatch.setitem(sys.modules, "their_tape", plugin)
    monkeypatch.setitem(sys.modules, "their_disk", ModuleType("their_disk"))
    points = {name: [EntryPoint(name, f"their_{name}", "mqsdk")] for name in ("tape", "disk")}
    known = plugins.known_backends()
    monkeypatch.setattr(plugins, "known_backends", lambda: known | points)


def mqsdk(*words: str) -> Result:
    found = CliRunner().invoke(cli, list(words))
    return Result(found.exit_code, found.stdout, found.stderr)


def test_what_is_given_reaches_the_tool_and_what_it_answers_is_shown() -> None:
    found = mqsdk("tape", "look", "orders", "--from", "7", "-c", "3", "--reel", "r1", "--json")
    assert found.code == 0
    values = {row["name"]: row["value"] for row in found.document["values"]}
    assert values == {"count": "3", "from": "7", "topic": "orders", "wrong": "False"}
    assert (found.document["cluster"], found.document["path"], found.document["more"]) == ("", "r1", [{"x": 1}])
    text = mqsdk("tape", "look", "orders", "--reel", "r1").out
    assert "2.0 KiB" in text
    assert "\n\nx" not in text
    assert "  note     reel 1: it is long\n           fix: cut it\n" in text


def test_a_place_is_a_position_or_a_time() -> None:
    values = {row["name"]: row["value"] for row in mqsdk("tape", "look", "--from", "15m", "--reel", "r", "--json").document["values"]}
    assert datetime.fromisoformat(values["from"]).tzinfo is not None
    assert mqsdk("tape", "look", "--from", "noon", "--reel", "r").code == 2


def test_a_finding_is_exit_code_1_and_lines_come_one_by_one() -> None:
    assert mqsdk("tape", "look", "--wrong", "--reel", "r").code == 1
    found = mqsdk("tape", "stream", "--reel", "r")
    assert (found.code, found.out) == (1, "line 0\\x1b\nline 1\\x1b\n")
    assert mqsdk("tape", "stream", "--reel", "r", "--json").lines == [{"n": 0}, {"n": 1}]


def test_a_change_asks_and_its_plan_can_be_seen() -> None:
    assert mqsdk("tape", "cut", "x", "--reel", "r").code == 5
    found = mqsdk("tape", "cut", "x", "--reel", "r", "--dry-run", "--json")
    assert (found.code, found.document) == (1, {"plan": ["cut x"]})
    assert mqsdk("tape", "cut", "x", "--reel", "r", "--yes", "--json").document == {"done": 1}
    assert mqsdk("tape", "cut", "nothing", "--reel", "r", "--json").document == {"done": 0}
    assert mqsdk("tape", "cut", "nothing", "--reel", "r", "--dry-run").code == 0


def test_errors_of_a_tool_have_the_exit_codes_of_every_command() -> None:
    assert (mqsdk("tape", "fail", "missing", "--reel", "r").code, mqsdk("tape", "fail", "busy", "--reel", "r").code) == (6, 5)


def test_without_a_place_the_configuration_has_to_name_one() -> None:
    found = mqsdk("tape", "look", "--json")
    assert (found.code, "no cluster is of kind tape" in found.document["error"]["what"]) == (3, True)
    assert mqsdk("tape", "look", "--cluster", "local").code == 3
    assert mqsdk("tape", "look", "--cluster", "local", "--reel", "r").code == 2


def test_a_backend_without_tools_is_no_command_and_one_that_is_blocked_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("disk", "kafka", "nowhere"):
        found = mqsdk(name, "look", "--json")
        assert (found.code, "there is no command" in found.document["error"]["what"]) == (2, True)
    monkeypatch.setenv("MQSDK_DISABLE_PLUGINS", "tape")
    assert mqsdk("tape", "look", "--json").code in (2, 3)


def test_a_long_call_draws_a_bar_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    session = Session()
    with tools._bar(session, "look") as advance:
        advance(1, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with tools._bar(session, "look") as advance:
        advance(512, 1024)
        advance(1024, 1024)
    shown = capsys.readouterr()
    assert "look" in shown.err
    assert shown.out == ""
    session.out.json = True
    with tools._bar(session, "look") as advance:
        advance(1, 2)
    assert capsys.readouterr().err == ""
