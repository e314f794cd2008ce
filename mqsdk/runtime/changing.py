"""Before a topic in use is given another cluster: everything that can be refused, and what has to exist there first."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from mqsdk.config.backends import effective
from mqsdk.config.model import Cluster, Configuration
from mqsdk.errors import BackendError, CapabilityError, ConfigError, Problem
from mqsdk.runtime.clusters import cluster_in
from mqsdk.runtime.environment import Declared
from mqsdk.runtime.halts import check_retries
from mqsdk.runtime.launching import check_capabilities
from mqsdk.runtime.topics import check_retention, ensure_topic
from mqsdk.runtime.unfinished import Place
from mqsdk.spi import Admin, Backend

if TYPE_CHECKING:
    from mqsdk.runtime.supervisor import Supervisor

FIX = "undo the change, or restart"
LATER_FIX = "leave it: it is taken when `mqsdk ps` shows one cluster, by itself with `reload.watch`, else by `mqsdk reload`; or undo it"


# What says where a cluster is, whatever its adapter: the rest of its options says how to use it.
LOCATION = ("servers", "path", "vhost", "database", "sentinel")


class Change(NamedTuple):
    """A topic, where it was, and where it goes."""

    topic: str
    older: Place
    target: Place


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
    """One reload. opened: clients that this reload has made anew, by cluster. is_unfinished: of a topic, an earlier change."""

    def __init__(self, owner: Supervisor, new: Configuration, opened: Mapping[str, Backend], is_unfinished: Callable[[str], bool]) -> None:
        self._owner = owner
        self._new = new
        self._given = opened
        self._is_unfinished = is_unfinished
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
            before, after = cluster_in(old, topic), cluster_in(self._new, topic)
            if before is None or before == after:
                continue
            try:
                changes.append(self._change(topic, before, after))
            except (Refusal, BackendError, CapabilityError, ConfigError) as error:
                what = f"topic {topic} cannot go from {before} to {after or 'no cluster'} while in use: "
                text, fix = (error.what, error.fix) if not isinstance(error, Refusal) else (str(error), "")
                fix, unfinished = (LATER_FIX, [*unfinished, topic]) if isinstance(error, Unfinished) else (fix, unfinished)
                problems.append(Problem("routes", what + text, fix or FIX, self._new.source))
        if problems:
            self._owner.discard(self._opened)
            raise _refusal(problems, unfinished)
        return Prepared(tuple(changes), self._opened)

    def _change(self, topic: str, before: str, after: str | None) -> Change:
        if after is None:
            raise Refusal("no route matches it any more")
        if _location(self._owner.clusters.cluster(before)) == _location(self._new.clusters[after]):
            raise Refusal("the two are one place under two names, where nothing could wait for the other")
        readers = [declared for declared, loop in self._owner.loops if declared.topic == topic and loop.spec.cluster == before]
        source = self._owner.clusters.backend(before)
        if any(declared.ordered for declared in readers):
            self._check_order(topic, before, source, readers)  # first: it needs no client of the new cluster
        target = self._backend(after)
        for declared in readers:
            check_capabilities(declared, target.capabilities, after)
            check_retries(declared, self._new.tuning(declared.topic, declared.group, declared.tuning), target.capabilities, after)
        count, target_count = self._ensure(topic, source.admin(), target, after)
        return Change(topic, Place(before, count), Place(after, target_count))

    def _check_order(self, topic: str, before: str, source: Backend, readers: Sequence[Declared]) -> None:
        if not source.capabilities.read_by_position:
            raise Refusal(f"its consumers are ordered, and cluster {before} ({source.kind}) cannot tell how far a group is")
        if any(declared.ordered and declared.broadcast for declared in readers):
            raise Refusal("it has an ordered broadcast, which keeps no progress to wait for")
        if self._is_unfinished(topic):
            raise Unfinished("its consumers are ordered, and an earlier change is unfinished: they still read the cluster before that")

    def _backend(self, cluster: str) -> Backend:
        known = self._given.get(cluster) or self._opened.get(cluster) or self._owner.clusters.opened().get(cluster)
        if known is None:
            known = self._opened[cluster] = self._owner.clusters.opened_anew(self._new.clusters[cluster])
        return known

    def _ensure(self, topic: str, source: Admin, target: Backend, cluster: str) -> tuple[int, int]:
        """Numbers of partitions, old (0: nobody has used it there) and new.

        Every group of the old one exists on the new one afterwards, so that none misses a message.
        """
        admin, count = target.admin(), source.partitions(topic)
        creates, rule = self._new.clusters[cluster].create, self._new.topic_rule(topic)
        if creates:
            check_retention(target, cluster, topic, rule)
        if count is None:
            return 0, admin.partitions(topic) or 0
        groups = [info.group for info in source.groups(topic)]
        known = admin.partitions(topic)
        if creates:
            made = ensure_topic(target, cluster, topic, replace(rule, partitions=rule.partitions or (count if known is None else None)))
            for group in groups:
                admin.ensure_group(topic, group, "latest")  # what a new group is owed there begins with the change
            return count, made
        existing = set() if known is None else {info.group for info in admin.groups(topic)}
        missing = [group for group in groups if group not in existing]
        if missing or known is None:
            what = f"its groups {', '.join(missing)} do" if missing else "it does"
            raise Refusal(f"{what} not exist there and `create` is false (mqsdk groups ensure)")
        return count, known


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
