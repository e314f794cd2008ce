"""One call of the command line: its common options, the configuration and clusters they name, and the question before a change.

Common options work before and after the command name; the later one wins. Nothing is read or opened before a command asks for it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from mqsdk.cli.exits import NotFound, Refused
from mqsdk.cli.output import Output
from mqsdk.errors import BackendError

if TYPE_CHECKING:
    from mqsdk.config.model import Cluster, Configuration
    from mqsdk.runtime.clock import Clock
    from mqsdk.runtime.clusters import Clusters
    from mqsdk.spi import Admin, Backend

OPEN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0


class Place(NamedTuple):
    """Where a topic lives."""

    cluster: str
    admin: Admin
    partitions: int


class Session:
    """State of one call. `make_backend`, `terminal`, `clock_ms` and `clock` are replaced by tests."""

    def __init__(
        self,
        make_backend: Callable[[Cluster], Backend] | None = None,
        terminal: Callable[[], bool] | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Clock | None = None,
    ) -> None:
        self.out = Output()
        self.config: str | None = None
        self.environment: str | None = None
        self.timeout_s: float | None = None
        self.clock_ms = clock_ms
        self._clock = clock
        self.make_backend = make_backend
        self._terminal = terminal or (lambda: sys.stdin.isatty() and sys.stderr.isatty())
        self._clusters: Clusters | None = None
        self.unreachable: list[BackendError] = []  # of the clusters that a command over all of them looked at

    @property
    def clock(self) -> Clock:
        from mqsdk.runtime.clock import SystemClock

        return self._clock or SystemClock()

    def configuration(self) -> Configuration:
        """The configuration that the options name. Raises ConfigError."""
        from mqsdk.config.load import load

        return load(self.config, environment=self.environment)

    @property
    def clusters(self) -> Clusters:
        if self._clusters is None:
            from mqsdk.runtime import plugins
            from mqsdk.runtime.clusters import Clusters

            self._clusters = Clusters(self.configuration(), make_backend=self.make_backend or plugins.make_backend)
        return self._clusters

    def backend(self, cluster: str) -> Backend:
        return self.clusters.backend(cluster, self.timeout_s or OPEN_TIMEOUT_S)

    def each_admin(self) -> Iterator[tuple[str, Admin]]:
        """Every configured cluster that can be opened. One that cannot hides no other: it is told on stderr, kept in `unreachable`, and
        decides the exit code. Raises BackendError when none can."""
        names = list(self.clusters.configuration.clusters)
        for name in names:
            try:
                admin = self.backend(name).admin()
            except BackendError as error:
                self.unreachable.append(error)
                if len(self.unreachable) == len(names):
                    raise self.unreachable[0] from None
                if not self.out.json:
                    self.out.failure(error)
                continue
            yield name, admin

    def told(self) -> dict[str, Any]:
        """Field of a JSON document for the clusters that could not be looked at; none when all could."""
        problems = [{"cluster": error.cluster, "what": error.what, "fix": error.fix} for error in self.unreachable]
        return {"unreachable": problems} if problems else {}

    def place(self, topic: str, cluster: str | None = None) -> Place:
        """Cluster and admin of an existing topic, by its route unless a cluster is named. Raises NotFound."""
        check_names(topic)
        name = cluster or self.cluster_of(topic)
        admin = self.backend(name).admin()
        partitions = admin.partitions(topic)
        if partitions is None:
            raise NotFound(f"there is no topic {topic}", where=f"cluster {name}", fix=_nearest(topic, [one.name for one in admin.topics()]))
        return Place(name, admin, partitions)

    def older(self, topic: str) -> Iterator[tuple[str, Admin]]:
        """Clusters where the topic was within the last day, as processes of this host and user have written down. One that cannot be opened
        is told as in `each_admin`."""
        from mqsdk.runtime.unfinished import OnDisk

        configuration, now = self.clusters.configuration, self.cluster_of(topic)
        entry = OnDisk(configuration.app, configuration.source).entries(self.clock_ms()).get(topic)
        for place in [] if entry is None else [*entry.older, entry.target]:
            if place.cluster == now or place.cluster not in configuration.clusters:
                continue
            try:
                yield place.cluster, self.backend(place.cluster).admin()
            except BackendError as error:
                self.unreachable.append(error)
                if not self.out.json:
                    self.out.failure(error)

    def cluster_of(self, topic: str) -> str:
        """The cluster of a topic by its route. Raises ConfigError when there is none."""
        from mqsdk.errors import ConfigError, PublishRejected

        try:
            return self.clusters.name_of(topic)
        except PublishRejected as error:
            raise ConfigError(error.what, where=self.clusters.configuration.source, fix=error.fix) from error

    def group(self, topic: str, group: str, cluster: str | None = None) -> Place:
        """The place of a topic that has this group. Raises NotFound."""
        check_names(topic, group)
        place = self.place(topic, cluster)
        known = [one.group for one in place.admin.groups(topic)]
        if group not in known:
            raise NotFound(f"topic {topic} has no group {group}", where=f"cluster {place.cluster}", fix=_nearest(group, known))
        return place

    def confirmed(self, plan: Sequence[str], yes: bool, dry_run: bool) -> bool:
        """Whether to go on with the plan: False after `--dry-run` showed it. Raises Refused when nobody agreed."""
        if dry_run:
            self.out.plan(plan)
            return False
        if yes:
            return True
        if self.out.json or not self._terminal():
            raise Refused("this command changes what is stored and was not confirmed", where="; ".join(plan), fix="add --yes, or --dry-run")
        for step in plan:
            self.out.warn(step)
        if not click.confirm("Go on?", err=True):
            raise Refused("not confirmed, nothing was changed")
        return True

    def close(self) -> None:
        if self._clusters is not None:
            self._clusters.close(time.monotonic() + CLOSE_TIMEOUT_S)
            self._clusters = None


def check_names(topic: str, group: str | None = None) -> None:
    """Names from outside, before any backend makes paths of them. A `.dlq` or `.retry` is judged by the pair that it belongs to."""
    from mqsdk import names

    stem, _, last = topic.rpartition(".")
    owner, _, owner_group = stem.rpartition(".")
    if f".{last}" in (names.DEAD_LETTERS, names.RETRIES) and owner:
        problem = names.topic_problem(owner) or names.group_problem(owner_group)
    else:
        problem = names.topic_problem(topic)
    if problem is None and group is not None:
        problem = names.group_problem(group) or names.pair_problem(topic, group)
    if problem is not None:
        raise click.BadParameter(problem, param_hint="TOPIC" if group is None else "TOPIC GROUP")


def _nearest(name: str, known: Sequence[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, 1)
    if close:
        return f"did you mean {close[0]}?"
    return f"known: {', '.join(sorted(known)[:10])}" if known else "none exists yet"


# --- options ---------------------------------------------------------------------------------------------------------------------


def duration(text: str) -> float:
    """A duration as everywhere in mqsdk, in seconds. An option type of click."""
    from mqsdk.units import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _remember(attribute: str, of_output: bool = False) -> Callable[[click.Context, click.Parameter, Any], None]:
    """A callback that writes a given option into the session; an absent one leaves what was written before it."""

    def callback(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
        if value:
            session = ctx.ensure_object(Session)
            setattr(session.out if of_output else session, attribute, value)

    return callback


def common_options() -> list[click.Parameter]:
    return [
        click.Option(["--config"], metavar="FILE", expose_value=False, callback=_remember("config"), help="Configuration file."),
        click.Option(["--env"], metavar="NAME", expose_value=False, callback=_remember("environment"), help="Environment: its profile."),
        click.Option(["--json"], is_flag=True, expose_value=False, callback=_remember("json", True), help="JSON on stdout."),
        click.Option(
            ["--timeout"], type=duration, metavar="D", expose_value=False, callback=_remember("timeout_s"), help="Longest wait, as 10s."
        ),
        click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=_remember("quiet", True), help="Results only."),
        click.Option(["-v", "--verbose"], count=True, expose_value=False, callback=_remember("verbose", True), help="Say more."),
    ]


class Command(click.Command):
    """A command that takes the common options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += common_options()


class Listing(click.Group):
    """A command that lists when no sub-command is named: `topics`, `topics 'orders.*'`, `topics delete orders`."""

    command_class = Command
    DEFAULT = "list"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "invoke_without_command": True})
        self.params += common_options()

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands:
            return self.DEFAULT, self.commands[self.DEFAULT], args
        return super().resolve_command(ctx, args)

    def list(self, ctx: click.Context) -> Any:
        """For the group's own callback: lists when nothing follows the command's name."""
        return None if ctx.invoked_subcommand else ctx.invoke(self.commands[self.DEFAULT])


class Family(click.Group):
    """A command that needs a sub-command: `offsets show`."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += common_options()


F = TypeVar("F", bound=Callable[..., Any])


def changing(function: F) -> F:
    """Adds `--yes` and `--dry-run` to a command that changes something."""
    function = click.option("--dry-run", is_flag=True, help="Print the plan, change nothing.")(function)
    return click.option("--yes", is_flag=True, help="Do not ask.")(function)


pass_session = click.make_pass_decorator(Session, ensure=True)
