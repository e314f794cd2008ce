"""The place of one consumer in its group: who else is there, how many partitions are its share, when to look again."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
import zlib
from collections.abc import Sequence
from typing import Any

from mqsdk.spi import Partition, Subscription
from mqsdk_redis import names
from mqsdk_redis.wire import Command, Scripts

MARGIN = 0.1  # of the lease: nothing may start in the last tenth, so that a start and a takeover are seen in this order
HANDOVER_LEASES = 3  # how many leases a revoked owner may take to finish what runs
RENEWALS = 3  # per lease
SHORT_LOOKS = (0.05, 0.5)  # seconds between looks of one that waits for a partition: a tenth of the lease, within these
EXPIRY_SLACK_S = 0.01


class Seat:
    """Membership of one consumer: of every topic, so that all of them are seen to be in use; shares are those of the first.

    topics: name -> number of partitions, those that it reads. awaited: companions in which the group has not begun yet.
    """

    def __init__(self, scripts: Scripts, subscription: Subscription, partitions: int) -> None:
        """partitions: of the first topic."""
        self.member = b"%013x-%s" % (time.time_ns() // 1_000_000, secrets.token_hex(4).encode())  # in order of joining
        self.first, *self.awaited = subscription.topics
        self.topics = {self.first: partitions}
        self.group = subscription.group
        self.lease_s = subscription.lease_s
        self.lease_ms = max(1, int(subscription.lease_s * 1000))
        self.due = 0.0
        self.leaving = False
        self.server_ms = 0
        self._scripts = scripts
        self._about = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "instance": subscription.instance})
        self._members: dict[str, list[bytes]] = {}
        self.news: dict[bytes, bytes] = {}

    def valid_until(self, sent: float) -> float:
        return sent + self.lease_s * (1 - MARGIN)

    def give_back_by(self, now: float) -> float:
        return now + HANDOVER_LEASES * self.lease_s

    def commands(self, leaving: bool = False) -> list[Command]:
        """Show life, or leave, in every topic."""
        about = "" if leaving or self.leaving else self._about
        return [self._scripts.member.call(names.members(topic, self.group), self.member, self.lease_ms, about) for topic in self.topics]

    def seen(self, now: float, replies: Sequence[Any]) -> None:
        """What the members' lists say; sets the time of the next look."""
        self.due = now + self.lease_s / RENEWALS
        for topic, reply in zip(self.topics, replies, strict=True):
            server_ms, news, members, expiries = int(reply[0]), reply[1], reply[2::2], reply[3::2]
            self.server_ms = server_ms
            self.news[names.members(topic, self.group)[2]] = news
            self._members[topic] = sorted(members)
            others = [float(expiry) for member, expiry in zip(members, expiries, strict=True) if member != self.member]
            if others:
                self.due = min(self.due, now + max(0.0, (min(others) - server_ms) / 1000) + EXPIRY_SLACK_S)

    def waiting(self, now: float) -> None:
        """A partition of this one's share is still another's: look again soon, whoever forgets to tell."""
        least, most = SHORT_LOOKS
        self.due = min(self.due, now + max(least, min(most, self.lease_s / 10)))

    def share(self) -> int:
        """How many partitions of the first topic belong to this member: all shares together are all partitions."""
        members = self._members.get(self.first, [])
        if self.leaving or self.member not in members:
            return 0
        each, rest = divmod(self.topics[self.first], len(members))
        return each + (members.index(self.member) < rest)

    def candidates(self, owned: Sequence[int]) -> list[Partition]:
        """Partitions of the first topic to look at, each member beginning somewhere else."""
        count = self.topics[self.first]
        begin = zlib.crc32(self.member) % count
        return [Partition(self.first, number % count) for number in range(begin, begin + count) if number % count not in owned]

    def tell(self) -> Command:
        """Wake the other members: a partition is free."""
        return ("XADD", names.members(self.first, self.group)[2], "MAXLEN", 1, "*", "n", "1")
