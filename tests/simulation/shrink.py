"""A failing plan made smaller: fewer faults, processes, messages, as long as the same rule is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from tests.simulation import fleet
from tests.simulation.broken import Broken
from tests.simulation.plan import Plan

ROUNDS = 20


def broken_rule(plan: Plan) -> str | None:
    """What a plan breaks, by the name of the rule; None when it passes."""
    try:
        fleet.run(plan.seed, plan)
    except Broken as error:
        return rule_of(str(error))
    return None


def rule_of(text: str) -> str:
    """The rule in `seed 5: I2 OVERLAP: ...` or `seed 5: LOST g0 ...`."""
    return text.partition(": ")[2].partition(" ")[0].rstrip(":")


def smaller(plan: Plan) -> Iterator[Plan]:
    """One step smaller, the boldest steps first."""
    for fault in plan.faults:
        yield plan.without(fault)
    for extra in ("switch", "late", "lethal", "redrive"):
        if getattr(plan, extra):
            changes: dict[str, Any] = {extra: False} | ({"late": False} if extra == "switch" else {})
            yield replace(plan, **changes)
    if plan.delay == "ladder":
        yield replace(plan, delay="native")
    if plan.delayed:
        yield replace(plan, delayed=0.0)
    if len(plan.consumers) > 1:
        yield from (replace(plan, consumers=(one,)) for one in plan.consumers)
    for name, least in (("members", 2 if plan.late else 1), ("messages", 1), ("keys", 1), ("partitions", 1)):
        value = getattr(plan, name)
        smaller_values: list[dict[str, Any]] = [{name: less} for less in dict.fromkeys((value // 2, value - 1)) if less >= least]
        yield from (replace(plan, **values) for values in smaller_values)
    for name, times in plan.times:
        if times > 1:
            yield replace(plan, times=tuple((one, times - 1 if one == name else count) for one, count in plan.times))


def shrink(plan: Plan, tell: Callable[[str], None] = lambda text: None) -> Plan:
    """The smallest plan found that breaks the same rule. A plan that breaks none comes back as it is."""
    rule = broken_rule(plan)
    for _ in range(ROUNDS if rule is not None else 0):
        found = next((one for one in smaller(plan) if broken_rule(one) == rule), None)
        if found is None:
            break
        plan = found
        tell(f"{rule} with {plan.members} processes, {plan.messages} messages, {len(plan.faults)} faults")
    return plan
