"""From a path and the environment to one `Configuration`. Strongest first: arguments, `MQSDK_*`, profile, file, defaults.

Without a file and without overrides nothing but the standard library is imported: pydantic costs a fifth of a process start.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mqsdk.config.model import Configuration
from mqsdk.errors import ConfigError, Problem

if TYPE_CHECKING:
    from pathlib import Path

    from mqsdk.config.document import Document
    from mqsdk.config.settings import Settings
    from mqsdk.config.sources import Session

DEFAULT_FILE = "mqsdk.yaml"


def load(
    path: str | Path | Settings | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    environment: str | None = None,
) -> Configuration:
    """The configuration that is in force here.

    path: a file; `Settings` as they are; None: `$MQSDK_CONFIG`, else `./mqsdk.yaml`, else defaults (one embedded log in `./.mqsdk`).
    environ: variables, None: those of the process (no default of that value: help() would print it, with its secrets).
    environment: the profile, stronger than `MQSDK_ENV` and the file's key; an environment without a profile of its name is fine.
    ConfigError with every problem at once; a named file that is missing is one.
    """
    if path is not None and not isinstance(path, str | os.PathLike):
        return path.configuration()
    environ = os.environ if environ is None else environ
    file = find(path, environ)
    if file is None and not _has_overrides(environ):
        return Configuration(environment=environment or environ.get("MQSDK_ENV", ""))
    return _read(file, environ, environment).configuration()


def load_settings(path: str | Path | None, *, environ: Mapping[str, str] | None = None, environment: str | None = None) -> Settings:
    """As `load`, as the frozen model of the file."""
    environ = os.environ if environ is None else environ
    return _read(find(path, environ), environ, environment)


def find(path: str | Path | None, environ: Mapping[str, str]) -> str | None:
    """The file to read, None when there is none. ConfigError for an address of a remote source, which this version does not read."""
    if path is not None:
        return str(path)
    named = environ.get("MQSDK_CONFIG", "")
    if "://" in named:
        what = "MQSDK_CONFIG is an address; remote sources are not built in this version of mqsdk"
        raise ConfigError.of([Problem(key="", what=what, fix="give the path of a file", file="MQSDK_CONFIG")])
    if named:
        return named
    return DEFAULT_FILE if os.path.lexists(DEFAULT_FILE) else None


def _has_overrides(environ: Mapping[str, str]) -> bool:
    special = ("MQSDK_CONFIG", "MQSDK_ENV", "MQSDK_STATE", "MQSDK_DISABLE_PLUGINS")
    return any(name.upper().startswith("MQSDK_") and name not in special for name in environ)


def _read(file: str | None, environ: Mapping[str, str], environment: str | None) -> Settings:
    from mqsdk.config import document, variables

    found = document.read(file) if file is not None else None
    given = variables.read(environ)
    session = _session(found, environ, environment or environ.get("MQSDK_ENV", ""))
    session.variables = given
    problems: list[Problem] = []
    settings = None
    try:
        settings = _build(session)
    except ConfigError as error:
        problems += error.problems
    if session.too_old is None:
        problems += [problem for problem in _unused_profiles(found, environ, session.environment) if problem not in problems]
    if settings is None or problems:
        raise ConfigError.of(sorted(problems, key=lambda problem: (problem.line == 0, problem.line, problem.column)))
    return settings


def _build(session: Session) -> Settings:
    from mqsdk.config import sources
    from mqsdk.config.settings import Settings

    with sources.using(session):
        return Settings()


def _session(found: Document | None, environ: Mapping[str, str], environment: str) -> Session:
    """The layers of one document with one profile."""
    from mqsdk.config.problems import Finding
    from mqsdk.config.sources import Session

    data: dict[str, Any] = dict(found.data) if found is not None else {}
    profiles = data.pop("profiles", {})
    own = data.get("environment")
    chosen = environment or (own if isinstance(own, str) else "")
    findings: list[Finding] = []
    if not isinstance(profiles, Mapping):
        findings.append(Finding(("profiles",), "must be a mapping of profiles", 'for example test: {app: "shop-test"}'))
        profiles = {}
    for name, profile in profiles.items():
        if not isinstance(profile, Mapping):
            findings.append(Finding(("profiles", name), "must be a mapping of keys", "write the keys that differ"))
            continue
        for key in ("profiles", "environment", "version"):
            if key in profile:
                findings.append(Finding(("profiles", name, key), "cannot stand in a profile", "put it at the top of the file"))
    profile = profiles.get(chosen, {})
    session = Session(environ, document=found, environment=chosen, file=data, findings=findings)
    session.profile = (
        {key: value for key, value in profile.items() if key not in ("profiles", "environment", "version")}
        if isinstance(profile, Mapping)
        else {}
    )
    return session


def _unused_profiles(found: Document | None, environ: Mapping[str, str], active: str) -> list[Problem]:
    """What is wrong in profiles that are not in use: found now, not on the day they are."""
    profiles = found.data.get("profiles") if found is not None else None
    problems: list[Problem] = []
    for name in profiles if isinstance(profiles, Mapping) else ():
        if name == active or found is None:
            continue
        session = _session(found, environ, name)
        session.lenient = True
        try:
            _build(session)
        except ConfigError:
            inside = [finding for finding in session.findings if _stands_in(found, name, finding.path)]
            problems += [session.located(finding) for finding in inside]
    return problems


def _stands_in(found: Document, profile: str, path: tuple[str | int, ...]) -> bool:
    return found.has(("profiles", profile, *path))
