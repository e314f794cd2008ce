"""Tools that an adapter brings along: commands for what only this backend has, its files above all. Data both ways; `mqsdk.cli` draws it.

`mqsdk <backend> <tool>` is made from the Toolbox that the adapter's hook `mqsdk_tools` answers with. A tool looks (`look` gives a Report),
or it changes something (`plan` gives a Plan, and only when somebody agreed to its steps is it applied). Errors are those of the seam, and
NotThere for a thing that was named and does not exist; the command line has an exit code for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from mqsdk.errors import MqError

Row = Mapping[str, Any]


class NotThere(MqError):
    """What was named does not exist: a topic, a partition."""


class Advance(Protocol):
    """Told how far a long call is: bytes looked at, of how many in all."""

    def __call__(self, done: int, total: int, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a tool takes. name: `TOPIC` (an argument) or `--from` (an option). short: a further name such as `-p`.

    kind: text (str), number (int, not negative), flag (bool), place (int: a position; or an aware datetime). Not given: None, False.
    """

    name: str
    help: str
    kind: Literal["text", "number", "flag", "place"] = "text"
    required: bool = False
    short: str = ""

    @property
    def key(self) -> str:
        """Its name in `Call.values`: `topic`, `from`."""
        return self.name.lstrip("-").replace("-", "_").lower()


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool. cluster: the name of the cluster, empty where the toolbox's `place` was given instead.

    options: the cluster's whole block, as `mqsdk_backend` gets it. values: of the tool's parameters, by `Parameter.key`.
    """

    cluster: str
    options: Mapping[str, Any]
    values: Mapping[str, Any]
    advance: Advance


@dataclass(frozen=True, slots=True)
class Field:
    """One column of a table. figure: aligned right. show: what the value is; text for everything else."""

    key: str
    figure: bool = False
    show: Literal["text", "plain", "bytes", "seconds", "time"] = "text"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a name, the name of their list in the JSON document. fields: none: for JSON alone. empty: what people read when there is
    no row; "" for nothing."""

    name: str
    rows: Sequence[Row]
    fields: Sequence[Field]
    empty: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One result of many, shown as soon as it is there: a JSON line, or its text. wrong: it tells of something that is not right."""

    row: Row
    text: str
    wrong: bool = False


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that people should read: its kind in a word, where it is, what it is, what to do about it. JSON has it from a table."""

    kind: str
    where: str
    what: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What a tool found or did. remarks, facts: shown after the tables. lines: in place of all of them, one by one.

    wrong: something is not right, exit code 1. refused: it cannot be judged by this version, exit code 5.
    """

    tables: Sequence[Table] = ()
    remarks: Sequence[Remark] = ()
    facts: Row = field(default_factory=dict)
    lines: Iterable[Line] | None = None
    wrong: bool = False
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What a changing tool would do. steps: sentences; none: nothing is to be done. apply: does it, and says what was done.

    wrong: that there is something to do is a finding, so `--dry-run` answers with exit code 1.
    """

    steps: Sequence[str]
    apply: Callable[[Advance], Report]
    wrong: bool = False


@dataclass(frozen=True, slots=True)
class Tool:
    """help: a line, an empty line, more. Exactly one of `look` and `plan`. Called from one thread."""

    name: str
    help: str
    parameters: Sequence[Parameter] = ()
    look: Callable[[Call], Report] | None = None
    plan: Callable[[Call], Plan] | None = None


@dataclass(frozen=True, slots=True)
class Toolbox:
    """All tools of one backend. place: an option of every tool that names what to look at without a configuration; its value stands for the
    cluster's key `place_key`."""

    help: str
    tools: Sequence[Tool]
    place: Parameter | None = None
    place_key: str = ""
