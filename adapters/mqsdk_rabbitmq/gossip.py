"""One member's talk with the others of its group: what it tells, what it hears. On the loop's thread."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

from mqsdk_rabbitmq import names
from mqsdk_rabbitmq.peers import BYE, HELLO, HERE, WHO, Note, Peers
from mqsdk_rabbitmq.teller import Teller

Owned = Callable[[str], Mapping[int, int]]


class Gossip:
    """me: id of this member. owned: of a topic, partition -> deliveries held. is_quiet: it takes no part for now."""

    def __init__(self, me: str, instance: str, group: str, topics: Mapping[str, int], teller: Teller, owned: Owned) -> None:
        self.is_quiet = False
        self._me = me
        self._instance = instance
        self._group = group
        self._teller = teller
        self._owned = owned
        self._peers = {topic: Peers(me, count) for topic, count in topics.items()}

    def peers(self, topic: str) -> Peers:
        return self._peers[topic]

    def forget(self) -> None:
        """The connection is gone; whoever is there will say so again."""
        for peers in self._peers.values():
            peers.others.clear()

    def hello(self) -> None:
        self._tell_all(HELLO)

    def bye(self) -> None:
        self._tell_all(BYE)

    def changed(self, topic: str) -> None:
        """Tell every known member what this one owns; those whose queue is gone are forgotten."""
        if not self.is_quiet:
            for member in list(self._peers[topic].others):
                self._tell(member, topic)

    def heard(self, body: bytes) -> str | None:
        """Take a note in; the topic that it changes something for."""
        note = Note.parse(body)
        if note is None or note.topic not in self._peers or note.member == self._me:
            return None
        if note.kind == WHO:
            if note.reply.startswith(names.inbox("")):
                self._teller.tell("", note.reply, self._note(HERE, note.topic).encode(), lambda _: None)
            return None
        self._peers[note.topic].heard(note)
        if note.kind == HELLO and not self.is_quiet:
            self._tell(note.member, note.topic)
        return note.topic

    def _note(self, kind: str, topic: str) -> Note:
        owned = dict(sorted(self._owned(topic).items()))
        return Note(kind, topic, self._me, tuple(owned), tuple(owned.values()), socket.gethostname(), os.getpid(), self._instance)

    def _tell_all(self, kind: str) -> None:
        """By the group's exchange: also to members that are not known yet."""
        for topic in self._peers:
            self._teller.tell(names.members(topic, self._group), "", self._note(kind, topic).encode(), lambda _: None)

    def _tell(self, member: str, topic: str) -> None:
        def told(result: str) -> None:
            if result == "returned":  # its queue went with its connection
                self._peers[topic].gone(member)

        self._teller.tell("", names.inbox(member), self._note(HERE, topic).encode(), told)
