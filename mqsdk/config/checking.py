"""`mqsdk check` as a function: everything that can be known about a configuration without connecting. Data in, data out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mqsdk.config import diff as differences
from mqsdk.config.diff import Change
from mqsdk.config.load import load
from mqsdk.config.model import Configuration
from mqsdk.core.actions import Tuning
from mqsdk.errors import ConfigError, Problem


@dataclass(frozen=True, slots=True)
class Routed:
    """Where one consumer of the App reads and how it is tuned. line: of the route in the file, 0 without."""

    topic: str
    group: str
    cluster: str
    line: int
    tuning: Tuning


@dataclass(frozen=True, slots=True)
class CheckReport:
    """problems: empty = usable. changes: against the older configuration. routes: one per consumer of the App that has a route."""

    problems: tuple[Problem, ...] = ()
    changes: tuple[Change, ...] = ()
    routes: tuple[Routed, ...] = ()
    configuration: Configuration | None = None


@dataclass(frozen=True, slots=True)
class Consumer:
    """What `check` needs of one declared consumer. declared: explicit tuning of the decorator, as for `Configuration.tuning`."""

    topic: str
    group: str
    declared: Mapping[str, object]


def check(
    path: str | Path | None = None,
    env: str | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    consumers: Sequence[Consumer] = (),
    examine: Callable[[Configuration], Iterable[Problem]] | None = None,
    diff: str | Path | None = None,
) -> CheckReport:
    """Look at a configuration without connecting. Never raises for what is wrong with it: problems are data.

    consumers: those of an App, to see that each has a route. examine: further checks of the caller, run on a usable configuration only
    (the command line asks the backends' capabilities). diff: an older file; `changes` are from it to `path`, read with the same variables.
    """
    try:
        configuration = load(path, environ=environ, environment=env)
    except ConfigError as error:
        return CheckReport(problems=_problems(error, path))
    problems = [*_without_route(configuration, consumers), *(examine(configuration) if examine is not None else ())]
    changes: list[Change] = []
    if diff is not None:
        try:
            changes = differences.changes(load(diff, environ=environ, environment=env), configuration)
        except ConfigError as error:
            problems += _problems(error, diff)
    return CheckReport(tuple(problems), tuple(changes), tuple(_routed(configuration, consumers)), configuration)


def _problems(error: ConfigError, path: str | Path | None) -> tuple[Problem, ...]:
    return tuple(error.problems) or (Problem(key="", what=error.what, fix=error.fix, file=str(path or "")),)


def _without_route(configuration: Configuration, consumers: Sequence[Consumer]) -> list[Problem]:
    missing = dict.fromkeys(one.topic for one in consumers if configuration.route(one.topic) is None)
    fix = 'add a route, for example a last one for "*"'
    return [Problem(key="routes", what=f"no route matches the topic {topic}", fix=fix, file=configuration.source) for topic in missing]


def _routed(configuration: Configuration, consumers: Sequence[Consumer]) -> Iterable[Routed]:
    for one in consumers:
        route = configuration.route(one.topic)
        if route is not None:
            tuning = configuration.tuning(one.topic, one.group, one.declared)
            yield Routed(one.topic, one.group, route.cluster, route.line, tuning)
