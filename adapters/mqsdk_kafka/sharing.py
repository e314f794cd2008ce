"""Who of a group gets which partitions. Pure: the leader computes it from what all members say, every leader the same.

Partition p of all topics that are read together goes to one member, so that a topic and its retry topic share their lanes. Members keep
what they hold as far as a fair share allows. What moves is given to nobody until its owner has handed it back: two rounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

Place = tuple[str, int]  # topic, partition


class Said(NamedTuple):
    """What a member says when it joins. held: partitions that it owns and has not handed back. leaving: it takes nothing more."""

    topics: frozenset[str]
    held: frozenset[Place] = frozenset()
    generation: int = -1
    leaving: bool = False


def share_out(members: Mapping[str, Said], counts: Mapping[str, int]) -> dict[str, list[Place]]:
    """Member -> places that it has from now on. counts: partitions of each topic; a topic without any is given to nobody."""
    holders = _holders(members)
    given: dict[str, list[Place]] = {name: [] for name in members}
    for topics in _together(said.topics for said in members.values()):
        numbers = range(max((counts.get(topic, 0) for topic in topics), default=0))
        owners = _owners(topics, numbers, members, holders)
        for number in numbers:
            places = [(topic, number) for topic in topics if number < counts.get(topic, 0)]
            _give(places, owners[number], members, holders, given)
    return given


def _holders(members: Mapping[str, Said]) -> dict[Place, str]:
    """Place -> member that holds it; of two that say so, the one that joined last knows."""
    holders: dict[Place, str] = {}
    for name, said in sorted(members.items(), key=lambda item: (item[1].generation, item[0])):
        holders.update(dict.fromkeys(said.held, name))
    return holders


def _together(sets: Iterable[frozenset[str]]) -> list[list[str]]:
    """Topics that some member reads together, each group of them sorted; groups by their first topic."""
    groups: list[set[str]] = []
    for topics in sets:
        touched = [group for group in groups if group & topics]
        groups = [group for group in groups if not group & topics] + [set(topics).union(*touched)]
    return sorted(sorted(group) for group in groups)


def _owners(topics: Sequence[str], numbers: Iterable[int], members: Mapping[str, Said], holders: Mapping[Place, str]) -> list[str | None]:
    """The owner that each number should have, None when nobody may take it."""
    takers = sorted(name for name, said in members.items() if not said.leaving and said.topics & set(topics))
    wanted: list[str | None] = [next((holders[place] for topic in topics if (place := (topic, n)) in holders), None) for n in numbers]
    if not takers:
        return [None for _ in wanted]
    loads = {name: [number for number, owner in enumerate(wanted) if owner == name] for name in takers}
    least, extra = divmod(len(wanted), len(takers))
    quotas = dict.fromkeys(takers, least)
    # Who holds most keeps one more: the fewest moves.
    for name in sorted(takers, key=lambda name: (-len(loads[name]), name))[:extra]:
        quotas[name] += 1
    kept = {number: name for name in takers for number in loads[name][: quotas[name]]}
    free = [number for number in range(len(wanted)) if number not in kept]
    for name in takers:
        for _ in range(quotas[name] - min(quotas[name], len(loads[name]))):
            kept[free.pop(0)] = name
    return [kept[number] for number in range(len(wanted))]


def _give(
    places: Sequence[Place],
    owner: str | None,
    members: Mapping[str, Said],
    holders: Mapping[Place, str],
    given: dict[str, list[Place]],
) -> None:
    """Give a number's places to its owner once nobody else holds one; one who is leaving keeps what it has until it hands it back."""
    others = {holders[place] for place in places if place in holders} - {owner}
    for place in places:
        holder = holders.get(place)
        if holder is not None and holder != owner and members[holder].leaving:
            given[holder].append(place)
        elif owner is not None and place[0] in members[owner].topics and (holder == owner or not others):
            given[owner].append(place)
