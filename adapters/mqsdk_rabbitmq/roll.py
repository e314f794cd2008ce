"""Asking a group for its members: each answers into a queue of the asker."""

from __future__ import annotations

import time

from pika import spec
from pika.adapters.blocking_connection import BlockingChannel

from mqsdk.spi import Member, Unavailable
from mqsdk_rabbitmq import names
from mqsdk_rabbitmq.peers import WHO, Note
from mqsdk_rabbitmq.session import Session

ANSWER_S = 1.0


def roll_call(session: Session, topic: str, group: str, count: int) -> tuple[Member, ...]:
    """The members, in order of joining. Those that do not answer in time (frozen ones) stand there without a name."""
    answers: dict[str, Note] = {}
    channel = session.connection.channel()
    queue = channel.queue_declare(names.inbox(f"roll.{time.time_ns():x}"), exclusive=True).method.queue

    def heard(_: BlockingChannel, __: spec.Basic.Deliver, ___: spec.BasicProperties, body: bytes) -> None:
        note = Note.parse(body)
        if note is not None and note.topic == topic:
            answers[note.member] = note

    channel.basic_consume(queue, heard, auto_ack=True)
    channel.basic_publish(names.members(topic, group), "", Note(WHO, topic, reply=queue).encode())
    try:
        session.wait(lambda: len(answers) >= count, time.monotonic() + ANSWER_S, "not all members of the group answer")
    except Unavailable:
        silent = count - len(answers)
    else:
        silent = 0
    channel.close()
    known = [Member(note.instance or note.member, note.host, note.pid, note.partitions) for _, note in sorted(answers.items())]
    return tuple(known) + (Member("?"),) * silent
