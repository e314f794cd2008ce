"""The file as a frozen model. Each key carries its default, one line of meaning, its unit, and whether a running process takes a change.

`mqsdk.Settings`. Only here and in `kinds` is pydantic used; everything else reads `mqsdk.config.model.Configuration`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_serializer, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from mqsdk import names
from mqsdk.config import kinds, sources
from mqsdk.config.model import LIVE, RESTART
from mqsdk.config.references import masked
from mqsdk.config.secret import Secret
from mqsdk.core.stages import FENCE_S, STAGES

if TYPE_CHECKING:
    from mqsdk.config.model import Configuration

_MIB = 1024 * 1024
_DAY = 86_400.0
_NAME = kinds.text(names.APP, f"a name: {names.APP_RULE}")
_ENVIRONMENT = kinds.text(r"[A-Za-z0-9._-]{0,64}", "a name: letters, digits, `.`, `_`, `-`")
_ANY_TEXT = kinds.text(r"(?s).{1,4096}", "text, not empty")

Text = Annotated[str, _ANY_TEXT]
# An address, a path or a user name may come by reference, and is not shown then.
Hidden = Annotated[str | Secret, kinds.text(r"(?s).{1,4096}", "text, not empty", hidden=True)]
Flag = Annotated[bool, kinds.flag()]


def live(default: Any, meaning: str, unit: str = "") -> Any:
    """A key that a reload applies at once."""
    return Field(default, description=meaning, json_schema_extra={**LIVE, "unit": unit})


def restart(default: Any, meaning: str, unit: str = "") -> Any:
    """A key that a running process refuses to change."""
    return Field(default, description=meaning, json_schema_extra={**RESTART, "unit": unit})


def block(model: type[BaseModel]) -> Any:
    return Field(default_factory=model)


class Block(BaseModel):
    """A mapping of known keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Tls(Block):
    """One TLS block for every kind of backend."""

    ca: Hidden | None = live(None, "file with the certificates that are trusted; default: the system's")
    cert: Hidden | None = live(None, "file with the client's certificate")
    key: Hidden | None = live(None, "file with the client's private key")
    verify: Flag = live(True, "false: the server's certificate is not checked, a loud warning at each start")


class Auth(Block):
    """Credentials of one cluster."""

    mechanism: Hidden | None = live(None, "SASL mechanism, for example SCRAM-SHA-512")
    user: Hidden | None = live(None, "user name")
    password: Secret | None = live(None, "secret; best by reference: `${file:/run/secrets/name}` or `${env:NAME}`")
    token: Secret | None = live(None, "secret, in place of user and password")


class ClusterKeys(BaseModel):
    """One backend. Keys beyond these are the adapter's own and are checked against its `Options`."""

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    backend: Text = restart(..., "kind of backend: the name of an installed adapter; `log` is the embedded one")
    servers: list[Hidden] | None = live(None, "addresses host:port")
    tls: Tls | None = live(None, "encrypt: {} with defaults, or ca, cert, key, verify")
    auth: Auth | None = live(None, "mechanism, user, password, token")
    options: dict[str, Any] | None = live(None, "to the client library as they are")
    create: Flag = restart(True, "missing topics and groups are created at start; false: they are refused by name")
    lease: Annotated[float, kinds.duration(0.1, 3600)] = restart(
        10.0, "a frozen or dead consumer loses its partitions after this time", "duration"
    )
    accept: list[Text] = restart([], "findings about the backend's settings that this cluster may have, by code")

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield from self._masked().items()

    @model_serializer(mode="plain")
    def _masked(self) -> dict[str, Any]:
        """For people and dumps: the keys of the adapter's own may hold secrets at any depth."""
        names = (*type(self).model_fields, *(self.model_extra or {}))
        return {name: masked(getattr(self, name)) for name in names}


class BackoffKeys(Block):
    """The wait before the next attempt."""

    base: Annotated[float, kinds.duration(0, _DAY)] = live(1.0, "wait after the first failed attempt", "duration")
    factor: Annotated[float, kinds.number(1, 100)] = live(2.0, "each further wait is longer by this factor")
    max: Annotated[float, kinds.duration(0, 30 * _DAY)] = live(60.0, "longest wait", "duration")
    jitter: Annotated[float, kinds.number(0, 1)] = live(0.2, "a wait is up to this share longer, by chance")


class RetryKeys(Block):
    """How often and when a failed message runs again, and what then."""

    attempts: Annotated[int, kinds.whole(1, 1_000_000)] = live(10, "attempts in total, the first one included")
    backoff: BackoffKeys = block(BackoffKeys)
    on_exhausted: Annotated[str, kinds.choice("dead_letter", "drop", "halt_key", "halt_partition")] = live(
        "dead_letter", "after the last attempt: dead_letter, drop, halt_key (ordered consumers) or halt_partition"
    )
    dlq_follow_key: Flag = live(False, "ordered consumers: later messages of a key that has dead letters follow them")


class InFlightKeys(Block):
    """How much of a consumer may be fetched and not yet settled."""

    records: Annotated[int, kinds.whole(1, 1_000_000)] = live(1000, "messages held at once per consumer")
    bytes: Annotated[int, kinds.size(1024, 4096 * _MIB)] = live(64 * _MIB, "bytes held at once per consumer", "size")


class BreakerKeys(Block):
    """Pauses a consumer whose attempts fail. Off unless the block is given; {} takes these values, none takes it away."""

    failures: Annotated[float, kinds.number(0.01, 1)] = live(
        0.9, "only with a `breaker` block: share of failed attempts in the window that opens it"
    )
    min: Annotated[int, kinds.whole(1, 1_000_000)] = live(20, "attempts in the window without which it stays closed")
    window: Annotated[float, kinds.duration(0.1, _DAY)] = live(30.0, "how long an attempt counts", "duration")
    probe: Annotated[float, kinds.duration(0.1, _DAY)] = live(10.0, "while open, wait before one message is tried", "duration")


class InboxKeys(Block):
    """Ids of handled messages, so that a repeat is not handled again. Off unless the block is given; none takes it away."""

    store: Annotated[str, kinds.choice("sqlite")] = restart("sqlite", "only with an `inbox` block: where the ids are, a SQLite file")
    path: Text = restart(..., "the file; processes that are to share it name the same one")
    ttl: Annotated[float, kinds.duration(1, 365 * _DAY)] = restart(86400.0, "how long an id is remembered", "duration")


class ConsumerKeys(Block):
    """Settings of consumers; in `defaults` for all, in `consumers` for a pair of topic and group."""

    concurrency: Annotated[int, kinds.whole(1, 10_000)] = live(8, "handlers at once in one process")
    timeout: Annotated[float | None, kinds.duration(0.001, 365 * _DAY, none=True)] = live(
        300.0, "time for one call of the handler; none: no limit", "duration"
    )
    retry: RetryKeys = block(RetryKeys)
    paused: Flag = live(False, "true: fetch nothing, keep the place")
    in_flight: InFlightKeys = block(InFlightKeys)
    rate: Annotated[float | None, kinds.rate(1_000_000)] = live(
        None, "messages that may start, per consumer and process: 200/s, 30/m, 5/h; none: any number"
    )
    breaker: Annotated[BreakerKeys | None, kinds.optional_block()] = Field(None)
    inbox: Annotated[InboxKeys | None, kinds.optional_block()] = Field(None)


_PATTERNS = kinds.text(r"[A-Za-z0-9*][A-Za-z0-9._*-]{0,119}", "a topic name, `*` for any run of characters")


class MoveKeys(Block):
    """A move of the route's topics to another cluster that is under way; `mqsdk move` writes it."""

    to: Text = live(..., "name of the cluster where they go")
    stage: Annotated[str, kinds.choice(*STAGES)] = live("source", f"how far it is: {', '.join(STAGES)}")
    epoch: Annotated[int, kinds.whole(1, 1_000_000_000)] = live(1, "counts the steps; add one with each that is made by hand")
    now: Flag = live(False, "go back although the last messages of ordered consumers are not handled yet: their order is given up")
    fence: Annotated[float, kinds.duration(0.5, 3600)] = live(FENCE_S, "a process that is not heard of for so long is gone", "duration")


class RouteKeys(Block):
    """Topics and the cluster that holds them."""

    topics: Annotated[list[Annotated[str, _PATTERNS]], Field(min_length=1)] = live(..., "topic names, `*` is any run of characters")
    cluster: Text = live(..., "name of a cluster")
    move: MoveKeys | None = live(None, "a move to another cluster: to, stage, epoch, fence")


_GROUP = kinds.text(r"[A-Za-z0-9][A-Za-z0-9_-]{0,119}", "a group name: letters, digits, `_`, `-`, at most 120")


class TopicKeys(Block):
    """What must exist for the topics of a pattern."""

    partitions: Annotated[int | None, kinds.whole(1, 10_000)] = restart(None, "partitions of a new topic; default: the backend's (8)")
    retention: Annotated[float | None, kinds.endless(1.0, 3650 * 86400.0)] = restart(
        None, "how long a message stays that no group waits for; none: for ever; default: the backend's (log: 7d)", "duration"
    )
    groups: list[Annotated[str, _GROUP]] = restart([], "groups that are created ahead of their first consumer")


class WindowKeys(Block):
    """What `publish_nowait` and `publish_async` may have under way."""

    records: Annotated[int, kinds.whole(1, 1_000_000)] = live(10_000, "messages under way")
    bytes: Annotated[int, kinds.size(1024, 4096 * _MIB)] = live(64 * _MIB, "bytes under way", "size")


class PublishKeys(Block):
    """Publishing."""

    timeout: Annotated[float, kinds.duration(0.001, 3600)] = live(10.0, "time for one publish, repeats included", "duration")
    window: WindowKeys = block(WindowKeys)


class LimitsKeys(Block):
    """Limits of a message."""

    # The embedded log stores records of up to 8 MiB, key and headers included.
    payload: Annotated[int, kinds.size(1, 7 * _MIB)] = live(_MIB, "largest payload", "size")


class DrainKeys(Block):
    """Stopping."""

    timeout: Annotated[float, kinds.duration(0, _DAY)] = live(30.0, "time for running handlers to end at a stop", "duration")


class WatchdogKeys(Block):
    """Finding out that nothing moves."""

    no_progress: Annotated[float, kinds.duration(0.1, 30 * _DAY)] = live(
        120.0,
        "a handler that runs longer is reported; a consumer with work and no progress for so long is restarted, then given up",
        "duration",
    )


class ReloadKeys(Block):
    """Taking a changed file while running."""

    watch: Flag = live(True, "look at the file by itself")
    every: Annotated[float, kinds.duration(0.1, _DAY)] = live(1.0, "how often", "duration")
    settle: Annotated[float, kinds.duration(0, 30 * _DAY)] = live(
        60.0, "after a route changed its cluster, how long the old one must stay empty", "duration"
    )


class ObservabilityKeys(Block):
    """What is told about the process."""

    listen: Annotated[str | None, kinds.address()] = restart(
        None, "host:port of the pages /live /ready /metrics /consumers while consumers run; not a loopback address: needs `token`"
    )
    token: Secret | None = live(None, "secret that whoever asks for a page must show; best by reference")
    log_level: Annotated[str, kinds.choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")] = live(
        "INFO", "lowest level that `mqsdk run` logs: DEBUG, INFO, WARNING, ERROR, CRITICAL"
    )


class RequiresKeys(Block):
    """The versions of mqsdk that may start; `requires: ">=0.1"` is short for its `version`."""

    version: Annotated[str, kinds.versions()] = live(..., "one or more of >= > == != <= < with a version, and commas between")
    action: Annotated[str, kinds.choice("refuse", "warn")] = live("refuse", "for a version that does not fit: refuse, or warn and go on")


def _known_version(value: object) -> object:
    if value != 1 or isinstance(value, bool):
        raise ValueError("is not a version that this mqsdk reads: it reads version 1")
    return 1


class Settings(BaseSettings):
    """The whole configuration as a frozen model. `Settings.load(path, env=)` reads a file; `Settings(app=..., clusters=...)` takes values.

    Beneath explicit values stand the variables `MQSDK_*`, the profile, the file and the defaults. Raises ConfigError with every problem.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=False)

    version: Annotated[int, kinds.BeforeValidator(_known_version)] = restart(1, "version of this file's format")
    app: Annotated[str, _NAME] = restart("app", "name of the application, in client ids and metrics")
    environment: Annotated[str, _ENVIRONMENT] = restart("", "selects profiles.<name>; MQSDK_ENV and --env are stronger")
    requires: Annotated[RequiresKeys | None, kinds.versions("version")] = None
    clusters: dict[str, ClusterKeys] = Field(default_factory=dict)
    routes: list[RouteKeys] = Field(default_factory=list)
    topics: dict[str, TopicKeys] = Field(default_factory=dict)
    defaults: ConsumerKeys = block(ConsumerKeys)
    consumers: dict[str, ConsumerKeys] = Field(default_factory=dict)
    publish: PublishKeys = block(PublishKeys)
    limits: LimitsKeys = block(LimitsKeys)
    drain: DrainKeys = block(DrainKeys)
    watchdog: WatchdogKeys = block(WatchdogKeys)
    reload: ReloadKeys = block(ReloadKeys)
    observability: ObservabilityKeys = block(ObservabilityKeys)

    _session: sources.Session = PrivateAttr()

    def __init__(self, **values: Any) -> None:
        session = sources.current() or sources.Session.of_variables(os.environ)
        session.explicit = frozenset(values)
        with sources.using(session):
            try:
                super().__init__(**values)
            except ValidationError as error:
                session.rejected(error.errors(include_input=False, include_url=False))
        session.raise_problems()
        self._session = session

    @classmethod
    def load(cls, path: str | Path | None = None, env: str | None = None, *, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the file and what stands over it. path None: `$MQSDK_CONFIG`, else `./mqsdk.yaml`, else defaults.

        env: the environment, stronger than `MQSDK_ENV` and the file. environ: variables, None: those of the process.
        Raises ConfigError with every problem.
        """
        from mqsdk.config.load import load_settings

        return load_settings(path, environ=environ, environment=env)

    def configuration(self) -> Configuration:
        """The snapshot that the runtime reads."""
        from mqsdk.config.convert import configuration_of

        return configuration_of(self, self._session)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Strongest first. pydantic-settings merges mappings deeply and replaces lists.

        Its own source for variables is not used: it ignores unknown names, and a list that is no JSON fails without naming the key.
        """
        session = sources.current()
        layers = session.layers() if session is not None else ()
        return (init_settings, *(Layer(settings_cls, data) for data in layers))

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, data: Any) -> Any:
        session = sources.current()
        return session.resolved(data) if session is not None and isinstance(data, dict) else data


class _Unshown(dict[str, Any]):
    """A mapping that is not printed: with PYDANTIC_SETTINGS_DEBUG pydantic-settings logs what each source gave, passwords too."""

    def __repr__(self) -> str:
        return "{...}"


class Layer(PydanticBaseSettingsSource):
    """One mapping as a source."""

    def __init__(self, settings_cls: type[BaseSettings], data: Mapping[str, Any]) -> None:
        super().__init__(settings_cls)
        self._data = data

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self._data.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return _Unshown(self._data)
