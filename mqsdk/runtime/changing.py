"""Before a topic in use is given another cluster: everything that can be refused, and what has to exist there first."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from mqsdk.config.backends import effective
from mqsdk.config.model import Cluster, Configuration
from mqsdk.core.stages import View
from mqsdk.errors import BackendError, CapabilityError, ConfigError, Problem
from mqsdk.runtime.clusters import view_in
from mqsdk.runtime.environment import Declared
from mqsdk.runtime.halts import check_retries
from mqsdk.runtime.launching import check_capabilities
from mqsdk.runtime.topics import check_retention, ensure_topic
from mqsdk.runtime.unfinished import Place
from mqsdk.spi import Backend

if TYPE_CHECKING:
    from mqsdk.runtime.supervisor import Supervisor

FIX = "undo the change, or restart"
LATER_FIX = "leave it: it is taken when `mqsdk ps` shows one cluster, by itself with `reload.watch`, else by `mqsdk reload`; or undo it"


# What says where a cluster is, whatever its adapter: the rest of its options says how to use it.
LOCATION = ("servers", "path", "vhost", "database", "sentinel")


class Change(NamedTuple):
    """A topic, what was done with it, and what is to be done. places: partitions by cluster, of those that were asked."""

    topic: str
    before: View
    after: View
    places: Mapping[str, Place]

    @property
    def is_written_elsewhere(self) -> bool:
        return self.before.writes != self.after.writes


class Prepared(NamedTuple):
    """Changes that nothing stands in the way of. opened: clients of clusters that were not in use before."""

    changes: tuple[Change, ...] = ()
    opened: Mapping[str, Backend] = {}


class Refusal(Exception):
    """Why this topic cannot go there now."""


class Unfinished(Refusal):
    """An earlier change of this topic has to end first."""


class NotYet(ConfigError):
    """Nothing but earlier changes of these topics stands in the way: once they have ended the same configuration can be taken."""

    topics: tuple[str, ...] = ()


class Preparation:
    """One reload. opened: clients that this reload has made anew, by cluster. unfinished: of a topic, clusters that an earlier change has
    left and that are still read. known: of a topic and cluster, what running consumers know of it.
    """

    def __init__(
        self,
        owner: Supervisor,
        new: Configuration,
        opened: Mapping[str, Backend],
        unfinished: Callable[[str], Collection[str]],
        known: Callable[[str, str], Place | None],
    ) -> None:
        self._owner = owner
        self._new = new
        self._given = opened
        self._unfinished = unfinished
        self._known = known
        self._opened: dict[str, Backend] = {}

    def run(self, topics: Sequence[str]) -> Prepared:
        """topics: those that consumers and publishers of this process use.

        Raises ConfigError with a problem for each topic that cannot follow; nothing is changed then but for topics and groups that exist
        now on a cluster where they did not.
        """
        changes: list[Change] = []
        problems: list[Problem] = []
        unfinished: list[str] = []
        old = self._owner.configuration
        for topic in topics:
            before, after = view_in(old, topic), view_in(self._new, topic)
            if before is None or before == after:
                continue
            try:
                changes.append(self._change(topic, before, after))
            except (Refusal, BackendError, CapabilityError, ConfigError) as error:
                what = f"topic {topic} cannot go {_way(before, after)} while in use: "
                text, fix = (error.what, error.fix) if not isinstance(error, Refusal) else (str(error), "")
                fix, unfinished = (LATER_FIX, [*unfinished, topic]) if isinstance(error, Unfinished) else (fix, unfinished)
                problems.append(Problem("routes", what + text, fix or FIX, self._new.source))
        if problems:
            self._owner.discard(self._opened)
            raise _refusal(problems, unfinished)
        return Prepared(tuple(changes), self._opened)

    def _change(self, topic: str, before: View, after: View | None) -> Change:
        if after is None:
            raise Refusal("no route matches it any more")
        clusters = list(dict.fromkeys((*before.reads, *after.reads)))
        self._check_places(clusters)
        running = {declared.group: declared for declared, _ in self._owner.loops if declared.topic == topic}
        added = [cluster for cluster in after.reads if cluster not in before.reads]
        if any(declared.ordered for declared in running.values()):
            self._check_order(topic, before, after, list(running.values()))  # first: it needs no client of a new cluster
        for cluster in added:
            self._check_able(list(running.values()), cluster)
        places = {place.cluster: place for cluster in clusters if (place := self._known(topic, cluster)) is not None}
        for cluster in added:
            places |= self._ensure(topic, before.writes, cluster)
        for cluster in [cluster for cluster in after.reads[:-1] if running and cluster not in places]:
            places[cluster] = Place(cluster, self._backend(cluster).admin().partitions(topic) or 0)
        return Change(topic, before, after, places)

    def _check_places(self, clusters: Sequence[str]) -> None:
        places = [_location(self._new.clusters.get(name) or self._owner.clusters.cluster(name)) for name in clusters]
        if len(set(places)) < len(places):
            raise Refusal("the two are one place under two names, where nothing could wait for the other")

    def _check_able(self, readers: Sequence[Declared], cluster: str) -> None:
        for declared in readers:
            capabilities = self._backend(cluster).capabilities
            check_capabilities(declared, capabilities, cluster)
            check_retries(declared, self._new.tuning(declared.topic, declared.group, declared.tuning), capabilities, cluster)

    def _check_order(self, topic: str, before: View, after: View, readers: Sequence[Declared]) -> None:
        is_rewritten = before.writes != after.writes
        older = {*after.reads[:-1], *(before.reads if is_rewritten else ())} - {after.reads[-1]}
        for cluster in sorted(older):
            backend = self._backend(cluster)
            if not backend.capabilities.read_by_position:
                raise Refusal(f"its consumers are ordered, and cluster {cluster} ({backend.kind}) cannot tell how far a group is")
        if any(declared.ordered and declared.broadcast for declared in readers):
            raise Refusal("it has an ordered broadcast, which keeps no progress to wait for")
        if is_rewritten and [cluster for cluster in self._unfinished(topic) if cluster not in before.reads]:
            raise Unfinished("its consumers are ordered, and an earlier change is unfinished: they still read the cluster before that")
        if is_rewritten and len(before.reads) > 1 and after.writes == before.reads[0] and not self._gives_up_order(topic):
            raise Refusal(
                "its consumers are ordered, and what was published last has to be read first: "
                "`mqsdk move rollback` goes by read_back and switch_back; `now: true` in `move` gives up the order"
            )

    def _gives_up_order(self, topic: str) -> bool:
        route = self._new.route(topic)
        return route is not None and route.move is not None and route.move.now

    def _backend(self, cluster: str) -> Backend:
        known = self._given.get(cluster) or self._opened.get(cluster) or self._owner.clusters.opened().get(cluster)
        if known is None:
            known = self._opened[cluster] = self._owner.clusters.opened_anew(self._new.clusters[cluster])
        return known

    def _ensure(self, topic: str, source: str, cluster: str) -> dict[str, Place]:
        """Partitions of the topic where it was published to (0: nobody has used it there) and on the added cluster.

        Every group of the old one exists on the new one afterwards, so that none misses a message.
        """
        old, target = self._backend(source).admin(), self._backend(cluster)
        admin, count = target.admin(), old.partitions(topic)
        creates, rule = self._new.clusters[cluster].create, self._new.topic_rule(topic)
        if creates:
            check_retention(target, cluster, topic, rule)
        known = admin.partitions(topic)
        if count is None:
            return {source: Place(source, 0), cluster: Place(cluster, known or 0)}
        groups = [info.group for info in old.groups(topic)]
        if creates:
            made = ensure_topic(target, cluster, topic, replace(rule, partitions=rule.partitions or (count if known is None else None)))
            for group in groups:
                admin.ensure_group(topic, group, "latest")  # what a new group is owed there begins with the change
            return {source: Place(source, count), cluster: Place(cluster, made)}
        existing = set() if known is None else {info.group for info in admin.groups(topic)}
        missing = [group for group in groups if group not in existing]
        if missing or known is None:
            what = f"its groups {', '.join(missing)} do" if missing else "it does"
            raise Refusal(f"{what} not exist there and `create` is false (mqsdk groups ensure)")
        return {source: Place(source, count), cluster: Place(cluster, known)}


def _way(before: View, after: View | None) -> str:
    if after is None:
        return f"from {before.writes} to no cluster"
    if before.writes != after.writes:
        return f"from {before.writes} to {after.writes}"
    return f"from reading {' and '.join(before.reads)} to reading {' and '.join(after.reads)}"


def _refusal(problems: Sequence[Problem], unfinished: Sequence[str]) -> ConfigError:
    if len(unfinished) < len(problems):
        return ConfigError.of(problems)
    error = NotYet.of(problems)
    assert isinstance(error, NotYet)
    error.topics, error.fix = tuple(unfinished), LATER_FIX
    return error


def _location(cluster: Cluster) -> tuple[object, ...]:
    options = effective(cluster.backend, cluster.name, cluster.options)
    values = {key: options.get(key) for key in LOCATION}
    if isinstance(values["path"], str):
        values["path"] = os.path.realpath(values["path"])
    if isinstance(values["servers"], Sequence):
        values["servers"] = tuple(sorted(map(str, values["servers"])))
    return cluster.backend, *values.values()
