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
    from mqsdk.config.origin import Content, Source
    from mqsdk.config.settings import Settings
    from mqsdk.config.sources import Session
    from mqsdk.config.variables import Variables

DEFAULT_FILE = "mqsdk.yaml"


def load(
    path: str | Path | Settings | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    environment: str | None = None,
    running: bool = False,
    content: Content | None = None,
) -> Configuration:
    """The configuration that is in force here.

    path: a file, a directory of files, or the address of a remote source; `Settings` as they are; None: `$MQSDK_CONFIG`, else
    `./mqsdk.yaml`, else defaults (one embedded log in `./.mqsdk`).
    environ: variables, None: those of the process (no default of that value: help() would print it, with its secrets).
    environment: the profile, stronger than `MQSDK_ENV` and the file's key; an environment without a profile of its name is fine.
    running: for a process that has one already: a remote source is asked once, and its last good configuration is not taken in its place.
    content: what the source gave just now.
    ConfigError with every problem at once; a named file that is missing is one. SourceDown: a remote source is down and nothing is kept.
    """
    if path is not None and not isinstance(path, str | os.PathLike):
        return path.configuration()
    environ = os.environ if environ is None else environ
    file = find(path, environ)
    if file is None and not _has_overrides(environ):
        return Configuration(environment=environment or environ.get("MQSDK_ENV", ""))
    return _read(file, environ, environment, running, content).configuration()


def load_settings(path: str | Path | None, *, environ: Mapping[str, str] | None = None, environment: str | None = None) -> Settings:
    """As `load`, as the frozen model of the file."""
    environ = os.environ if environ is None else environ
    return _read(find(path, environ), environ, environment)


def find(path: str | Path | None, environ: Mapping[str, str]) -> str | None:
    """The path or address to read, None when there is none."""
    if path is not None:
        return str(path)
    named = environ.get("MQSDK_CONFIG", "")
    if named:
        return named
    return DEFAULT_FILE if os.path.lexists(DEFAULT_FILE) else None


def _has_overrides(environ: Mapping[str, str]) -> bool:
    special = ("MQSDK_CONFIG", "MQSDK_ENV", "MQSDK_STATE", "MQSDK_DISABLE_PLUGINS")
    return any(name.upper().startswith("MQSDK_") and name not in special for name in environ)


def _read(
    file: str | None, environ: Mapping[str, str], environment: str | None, running: bool = False, content: Content | None = None
) -> Settings:
    from mqsdk.config import variables
    from mqsdk.config.origin import source_of

    if file is None:
        return _settings(_session(None, environ, environment or environ.get("MQSDK_ENV", ""), variables.read(environ)))
    source = source_of(file)
    try:
        return _settings_of(source, environ, environment, running, content)
    finally:
        source.close()


def _settings_of(source: Source, environ: Mapping[str, str], environment: str | None, running: bool, content: Content | None) -> Settings:
    from mqsdk.config import document, files, lastgood, variables

    notices: list[str] = []
    fresh = content or _content(source, environ, running, notices)
    data = fresh.data if fresh is not None else files.content(str(lastgood.path_of(source.id, environ)))
    if fresh is not None and fresh.parts:
        found = document.joined(fresh.parts, source.name)
    else:
        found = document.built(data, source.name, remote=bool(source.id))
    session = _session(found, environ, environment or environ.get("MQSDK_ENV", ""), variables.read(environ))
    session.cached, session.notices = fresh is None, notices
    settings = _settings(session)
    if source.id and fresh is not None and (problem := lastgood.keep(source.id, data, environ)):
        notices.append(f"{source.name}: {problem}")
    return settings


def _content(source: Source, environ: Mapping[str, str], running: bool, notices: list[str]) -> Content | None:
    """What the source holds. None: it is down, and the last good configuration is to be taken."""
    from mqsdk.config import lastgood
    from mqsdk.config.origin import SourceDown, load_patiently

    if running or not source.id:
        return source.load()
    try:
        return load_patiently(source)
    except SourceDown as error:
        kept = lastgood.kept(source.id, environ)
        if kept is None:
            raise
        notices.append(f"{error.problems[0]}; started from its last good configuration, {kept}")
        return None


def _settings(session: Session) -> Settings:
    found, environ = session.document, session.environ
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


def _session(found: Document | None, environ: Mapping[str, str], environment: str, given: Variables | None = None) -> Session:
    """The layers of one document with one profile."""
    from mqsdk.config.problems import Finding
    from mqsdk.config.sources import Session
    from mqsdk.config.variables import Variables

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
    session = Session(environ, given or Variables(), document=found, environment=chosen, file=data, findings=findings)
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
