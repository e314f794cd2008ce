"""What one member knows of the others: who has joined, who has died, who stands still."""

from __future__ import annotations

import os
from pathlib import Path

from . import members
from .observation import Observation


class Peers:
    """The other members of a group, as one of them sees them. One thread.

    Each watches the next one in the order of ids: one descriptor each, and still somebody notices a death at once. A look at all of them
    every `Observation.interval_s` covers what that misses.
    """

    def __init__(self, directory: Path, observation: Observation) -> None:
        self._directory = directory
        self._observation = observation
        self._ids: list[str] | None = None
        self._terms: dict[str, float] = {}
        self._next = ""
        self._fd = -1

    @property
    def fd(self) -> int:
        """Reports a hang-up when the watched neighbour dies or leaves; -1 without one."""
        return self._fd

    def look(self, me: str, now: float) -> bool:
        """True when the membership is not what it was at the last look: somebody came, went, died or was found standing still."""
        found = members.ids(self._directory)
        alive = [member for member in found if member == me or not members.bury(self._directory, member)]
        changed = alive != self._ids
        self._ids = alive
        self._watch(me)
        return bool(self.frozen(me, now)) or changed

    def frozen(self, me: str, now: float) -> list[str]:
        """Members that have shown no life for the term that they promised."""
        return [member for member in self._ids or () if member != me and self._quiet_s(member, now) >= self._term_s(member)]

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._next = -1, ""

    def _quiet_s(self, member: str, now: float) -> float:
        return self._observation.quiet_s(member, members.heartbeat(self._directory, member), now)

    def _term_s(self, member: str) -> float:
        if member not in self._terms:
            self._terms[member] = members.describe(self._directory, member).lease_s
        return self._terms[member]

    def _watch(self, me: str) -> None:
        others = [member for member in self._ids or () if member != me]
        following = next((member for member in others if member > me), others[0] if others else "")
        if following == self._next and self._fd >= 0:
            return
        self.close()
        if following:
            fd = members.watch(self._directory, following)
            self._fd, self._next = (-1, "") if fd is None else (fd, following)
