"""What a scenario shows on a backend, read from its source: in full, the refusal, nothing for want of a claim, nothing for want of a hook.

Scenarios ask for claims and hooks in plain `if`s. Those are followed here with the claims and hooks of one conformance class, so that a
table needs no broker; every other condition is of the run and is taken both ways. A question that cannot be answered is an error, never
a guess.
"""

from __future__ import annotations

import ast
import inspect
import operator
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Literal

from mqsdk.spi import Capabilities
from mqsdk.testing.conformance.base import Stage

Kind = Literal["passed", "refused", "unclaimed", "no hook", "own"]
KINDS_OF_CHOICE = ("settle", "publish")  # either way is right: no claim
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """kind: "own" is a scenario that the class has replaced. hooks: the missing ones."""

    kind: Kind
    hooks: tuple[str, ...] = ()


class Unreadable(ValueError):
    """A scenario asks for a claim or hook in a form that is not understood here."""


def verdict_of(suite: type[Stage], name: str, claims: Capabilities) -> Verdict:
    """What the scenario `name` shows with the claims and hooks of `suite`. Raises Unreadable, naming the scenario and the line."""
    function = getattr(suite, name)
    if not function.__module__.startswith(__package__ + "."):
        return Verdict("own")
    return _Reading(suite, function, claims).verdict()


@dataclass(slots=True)
class _Answer:
    """value: None where only a run can tell. unclaimed: a claim that it asks for is not made. hooks: those that are missing."""

    value: bool | None
    asks: bool = False
    unclaimed: bool = False
    hooks: tuple[str, ...] = ()


class _Reading:
    def __init__(self, suite: type[Stage], function: FunctionType, claims: Capabilities) -> None:
        self._suite = suite
        self._function = function
        self._claims = claims
        self._hooks: list[str] = []
        self._unclaimed = self._instead = self._shown = False

    def verdict(self) -> Verdict:
        self._follow(_definition(self._function).body)
        if self._hooks:
            return Verdict("no hook", tuple(dict.fromkeys(self._hooks)))
        if self._instead:
            return Verdict("refused")
        return Verdict("passed" if self._shown and not self._unclaimed else "unclaimed")

    # --- statements ----------------------------------------------------------------------------------------------------------------

    def _follow(self, statements: Sequence[ast.stmt]) -> bool:
        """Go through what would run; True when it returns."""
        for statement in statements:
            if isinstance(statement, ast.If):
                if self._branch(statement):
                    return True
            elif isinstance(statement, ast.Return):
                self._shown = self._shown or statement.value is not None
                return True
            elif isinstance(statement, ast.For | ast.While | ast.With):
                self._shown = True
                if self._follow(statement.body):
                    return True
            elif not _is_text(statement):
                self._shown = True
        return False

    def _branch(self, statement: ast.If) -> bool:
        answer = self._ask(statement.test)
        if answer.value is None:
            if answer.asks:
                raise Unreadable(f"{self._place(statement)}: `{ast.unparse(statement.test)}` asks for a claim or hook in an unknown form")
            returns = [self._follow(statement.body), self._follow(statement.orelse)]
            return all(returns)
        taken = statement.body if answer.value else statement.orelse
        if answer.unclaimed:
            self._instead = self._instead or any(not _is_bare_return(one) for one in taken)
            self._unclaimed = self._unclaimed or not taken or all(map(_is_bare_return, taken))
        self._hooks += answer.hooks
        return self._follow(taken)

    def _place(self, node: ast.stmt) -> str:
        first = self._function.__code__.co_firstlineno
        return f"{self._function.__qualname__}, {self._function.__code__.co_filename}:{first + node.lineno - 1}"

    # --- questions -----------------------------------------------------------------------------------------------------------------

    def _ask(self, test: ast.expr) -> _Answer:
        if isinstance(test, ast.BoolOp):
            return _joined(isinstance(test.op, ast.And), [self._ask(part) for part in test.values])
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            answer = self._ask(test.operand)
            return _Answer(None if answer.value is None else not answer.value, answer.asks, answer.unclaimed, answer.hooks)
        hook = _hook_of(test)
        if hook is not None:
            gives = getattr(self._suite, hook) is not getattr(Stage, hook)
            return _Answer(gives, True, hooks=() if gives else (hook,))
        return self._of_claim(test)

    def _of_claim(self, test: ast.expr) -> _Answer:
        claim = _claim_of(test)
        if claim is not None:
            value = bool(getattr(self._claims, claim))
            return _Answer(value, True, unclaimed=not value)
        made = self._property(test)
        if made is not None:
            return self._ask(made)
        if isinstance(test, ast.Compare) and (claim := _claim_of(test.left)) is not None and len(test.ops) == 1:
            return self._compared(test, claim)
        return _Answer(None, asks=_asks(test))

    def _compared(self, test: ast.Compare, claim: str) -> _Answer:
        right, compare = test.comparators[0], _COMPARE.get(type(test.ops[0]))
        if isinstance(right, ast.Name) and right.id in self._function.__globals__:
            other = self._function.__globals__[right.id]
        elif isinstance(right, ast.Constant):
            other = right.value
        else:
            return _Answer(None, asks=True)
        if compare is None:
            return _Answer(None, asks=True)
        held = getattr(self._claims, claim)
        value = bool(compare(held, other))
        is_less = held is None if other is None else not value
        return _Answer(value, True, unclaimed=claim not in KINDS_OF_CHOICE and is_less)

    def _property(self, test: ast.expr) -> ast.expr | None:
        """The expression that a property of the scenario class returns."""
        if not (isinstance(test, ast.Attribute) and isinstance(test.value, ast.Name) and test.value.id == "self"):
            return None
        found = getattr(self._suite, test.attr, None)
        if not isinstance(found, property) or not isinstance(found.fget, FunctionType):
            return None
        last = _definition(found.fget).body[-1]
        return last.value if isinstance(last, ast.Return) else None


def _joined(is_and: bool, answers: Sequence[_Answer]) -> _Answer:
    """Decided by the first that decides: what it lacks is what the whole lacks. A missing claim counts before a missing hook."""
    asks = any(answer.asks for answer in answers)
    deciding = [answer for answer in answers if answer.value is not None and answer.value is not is_and]
    if deciding:
        first = next((answer for answer in deciding if answer.unclaimed), deciding[0])
        return _Answer(first.value, asks, first.unclaimed, () if first.unclaimed else first.hooks)
    if all(answer.value is is_and for answer in answers):
        return _Answer(is_and, asks, any(answer.unclaimed for answer in answers), sum((answer.hooks for answer in answers), ()))
    return _Answer(None, asks and any(answer.asks and answer.value is None for answer in answers))


# --- syntax ---------------------------------------------------------------------------------------------------------------------------


def _definition(function: FunctionType) -> ast.FunctionDef:
    (found,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(found, ast.FunctionDef)
    return found


def _claim_of(node: ast.expr) -> str | None:
    """X of `self.caps.X`."""
    is_claim = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == "caps"
    return node.attr if is_claim and isinstance(node, ast.Attribute) else None


def _hook_of(node: ast.expr) -> str | None:
    """The hook of `self.gives("hook")`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "gives":
        (given,) = node.args
        return str(given.value) if isinstance(given, ast.Constant) else None
    return None


def _asks(node: ast.AST) -> bool:
    return any(isinstance(one, ast.Attribute) and one.attr in ("caps", "gives") for one in ast.walk(node))


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _is_bare_return(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass) or (isinstance(statement, ast.Return) and statement.value is None)
