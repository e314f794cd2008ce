"""One member's talk with the others of its group: what it tells, what it hears. On the loop's thread."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

from mqsdk_rabbitmq import names
from mqsdk_rabbitmq.peers import BEGUN, BYE, HELLO, HERE, WHO, Note, Peers
from mqsdk_rabbitmq.teller import Teller

Owned = Callable[[str], Mapping[int, int]]


class Gossip:
    """me: id of this member. owned: of a topic, partition -> deliveries held. is_quiet: it takes no part for now.

    peers: of the topic; the companions follow it, so nobody tells of them unasked. beside: the companions.
    """

    def __init__(self, me: str, instance: str, group: str, topic: str, partitions: int, teller: Teller, owned: Owned) -> None:
        self.is_quiet = False
        self.peers = Peers(me, partitions)
        self.beside: set[str] = set()
        self._me = me
        self._instance = instance
        self._group = group
        self._topic = topic
        self._teller = teller
        self._owned = owned

    def forget(self) -> None:
        """The connection is gone; whoever is there will say so again."""
        self.peers.others.clear()
        self.beside.clear()

    def hello(self) -> None:
        self._tell_all(HELLO)

    def bye(self) -> None:
        self._tell_all(BYE)

    def changed(self) -> None:
        """Tell every known member what this one owns; those whose queue is gone are forgotten."""
        if not self.is_quiet:
            for member in list(self.peers.others):
                self._tell(member)

    def heard(self, body: bytes) -> str | None:
        """Take a note in; its kind where it changes something."""
        note = Note.parse(body)
        if note is None or note.member == self._me:
            return None
        if note.kind == WHO:
            if note.reply.startswith(names.inbox("")) and (note.topic == self._topic or note.topic in self.beside):
                self._teller.tell("", note.reply, self._note(HERE, note.topic).encode(), lambda _: None)
            return None
        if note.kind == BEGUN:
            return BEGUN
        if note.topic != self._topic:
            return None
        self.peers.heard(note)
        if note.kind == HELLO and not self.is_quiet:
            self._tell(note.member)
        return note.kind

    def _note(self, kind: str, topic: str) -> Note:
        owned = dict(sorted(self._owned(topic).items()))
        return Note(kind, topic, self._me, tuple(owned), tuple(owned.values()), socket.gethostname(), os.getpid(), self._instance)

    def _tell_all(self, kind: str) -> None:
        """By the group's exchange: also to members that are not known yet."""
        self._teller.tell(names.members(self._topic, self._group), "", self._note(kind, self._topic).encode(), lambda _: None)

    def _tell(self, member: str) -> None:
        def told(result: str) -> None:
            if result == "returned":  # its queue went with its connection
                self.peers.gone(member)

        self._teller.tell("", names.inbox(member), self._note(HERE, self._topic).encode(), told)
