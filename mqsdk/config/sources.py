"""One load under way: the layers that make the configuration, what was found wrong, and where each finding stands.

The session is in a context variable only while `Settings` is being built, because pydantic-settings builds sources in a class method.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mqsdk.config import requirement, rules, variables
from mqsdk.config.problems import Finding, Path, dotted, findings_of
from mqsdk.config.references import Resolver
from mqsdk.config.variables import Variables
from mqsdk.errors import ConfigError, Problem

if TYPE_CHECKING:
    from mqsdk.config.document import Document

_current: ContextVar[Session | None] = ContextVar("mqsdk_config_session", default=None)

DEFAULT_CLUSTERS = {"local": {"backend": "log", "path": "./.mqsdk", "durability": "interval"}}


def current() -> Session | None:
    return _current.get()


@contextmanager
def using(session: Session) -> Iterator[None]:
    """Let `Settings` that are built inside read this session."""
    token = _current.set(session)
    try:
        yield
    finally:
        _current.reset(token)


@dataclass
class Session:
    """environment: the effective one. file: the document's data without profiles. profile: the data of the active profile.

    explicit: sections given as arguments of `Settings`.
    too_old: this mqsdk may not start with the file: then nothing else is told, for what it does not know is of a later version.
    cached: the document is the kept one of a source that is down. notices: what to warn of.
    lenient: look for what is wrong in a profile that is not in use; references are not read.
    """

    environ: Mapping[str, str]
    variables: Variables = field(default_factory=Variables)
    document: Document | None = None
    environment: str = ""
    file: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, Any] = field(default_factory=dict)
    lenient: bool = False
    findings: list[Finding] = field(default_factory=list)
    data: Mapping[str, Any] = field(default_factory=dict)
    masked: frozenset[Path] = frozenset()
    dropped: set[Path] = field(default_factory=set)
    explicit: frozenset[str] = frozenset()
    too_old: Finding | None = None
    cached: bool = False
    notices: list[str] = field(default_factory=list)

    @classmethod
    def of_variables(cls, environ: Mapping[str, str]) -> Session:
        """Without a file: explicit values over `MQSDK_*`."""
        return cls(environ, variables.read(environ), environment=environ.get("MQSDK_ENV", ""))

    def layers(self) -> tuple[Mapping[str, Any], ...]:
        """Beneath explicit values, strongest first."""
        chosen = {"environment": self.environment} if self.environment else {}
        return (chosen, self.variables.data, self.profile, self.file)

    def resolved(self, merged: dict[str, Any]) -> dict[str, Any]:
        """The merged data as pydantic shall see it: default cluster and route filled in, references replaced."""
        resolver = Resolver(self.environ, self.lenient, self._is_remote)
        self.data = resolver.resolve(self._completed(merged))
        self.masked = frozenset(resolver.masked)
        self.too_old = None if self.lenient else requirement.refusal(self.data)
        self.findings += resolver.findings
        self.findings += rules.findings(self.data, lenient=self.lenient)
        self.dropped = resolver.dropped
        return dict(self.data)

    def _is_remote(self, path: Path) -> bool:
        """Whether the value at this path is the remote source's. Of a mapping, variables may give a part only."""
        if self.document is None or not self.document.remote:
            return False
        given: Any = self.variables.data
        for part in path:
            held = part in given if isinstance(given, Mapping) else isinstance(given, list) and isinstance(part, int) and part < len(given)
            if not held:
                return True
            given = given[part]
        return False

    def _completed(self, merged: dict[str, Any]) -> dict[str, Any]:
        """With the cluster and the route that stand behind everything.

        Where nobody gives clusters there is the embedded log, of which variables may still change keys. Without routes everything goes
        to it, or to the only cluster that is given.
        """
        clusters = merged.get("clusters", {})
        if not isinstance(clusters, Mapping):
            return merged
        default = next(iter(clusters)) if len(clusters) == 1 else None
        if not self._is_given("clusters"):
            clusters = {**DEFAULT_CLUSTERS, **clusters}
            clusters["local"] = {**DEFAULT_CLUSTERS["local"], **clusters["local"]}
            default = "local"
        routes = merged.get("routes", [{"topics": ["*"], "cluster": default}] if default else None)
        completed = {**merged, "clusters": clusters, "routes": routes}
        return completed if routes is not None else {name: value for name, value in completed.items() if name != "routes"}

    def _is_given(self, section: str) -> bool:
        return section in self.explicit or section in self.profile or section in self.file

    def rejected(self, errors: Iterable[Mapping[str, Any]]) -> None:
        """Take pydantic's errors, but for keys that are missing because their reference failed."""
        from mqsdk.config import keys

        found = (rules.refined(finding) for finding in findings_of(errors, keys.known_at))
        self.findings += [finding for finding in found if finding.path not in self.dropped]

    def raise_problems(self) -> None:
        """ConfigError with everything found, in the order of the file."""
        problems = self.problems()
        if problems:
            raise ConfigError.of(problems)

    def problems(self) -> list[Problem]:
        if self.too_old is not None:
            return [self.located(self.too_old)]
        found = [self.located(finding) for finding in self.findings]
        built = self.document.problems if self.document is not None else ()
        unique = dict.fromkeys((*built, *self.variables.problems, *found))
        return sorted(unique, key=lambda problem: (problem.line == 0, problem.line, problem.column))

    def located(self, finding: Finding) -> Problem:
        """The finding with the place that its value came from: a variable, the profile, or the file itself."""
        path, key = finding.path, dotted(finding.path)
        variable = self.variables.name_at(path)
        if variable is not None:
            return Problem(key, finding.what, finding.fix, variable)
        if self.document is None:
            return Problem(key, finding.what, finding.fix)
        profiled: Path = ("profiles", self.environment, *path)
        if self.document.has(profiled):
            path = profiled
            key = dotted(path)
        return Problem(key, finding.what, finding.fix, *self.document.place(path))
