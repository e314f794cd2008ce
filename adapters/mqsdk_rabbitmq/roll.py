"""Asking a group for its members: each answers into a queue of the asker."""

from __future__ import annotations

import time
from contextlib import suppress

from pika import spec
from pika.adapters.blocking_connection import BlockingChannel

from mqsdk.spi import Unavailable
from mqsdk_rabbitmq import names
from mqsdk_rabbitmq.peers import HERE, WHO, Note
from mqsdk_rabbitmq.session import Session

ANSWER_S = 1.0


def roll_call(session: Session, topic: str, group: str) -> list[Note]:
    """What every member says, in order of joining. Those that do not answer in time (frozen ones) are notes without a name."""
    _, count = session.queue(names.members(topic, group)) or (0, 0)
    if count == 0:
        return []
    answers: dict[str, Note] = {}
    channel = session.connection.channel()
    queue = channel.queue_declare(names.inbox(f"roll.{time.time_ns():x}"), exclusive=True).method.queue

    def heard(_: BlockingChannel, __: spec.Basic.Deliver, ___: spec.BasicProperties, body: bytes) -> None:
        note = Note.parse(body)
        if note is not None and note.topic == topic:
            answers[note.member] = note

    channel.basic_consume(queue, heard, auto_ack=True)
    channel.basic_publish(names.members(topic, group), "", Note(WHO, topic, reply=queue).encode())
    with suppress(Unavailable):
        session.wait(lambda: len(answers) >= count, time.monotonic() + ANSWER_S, "not all members of the group answer")
    channel.close()
    return [note for _, note in sorted(answers.items())] + [Note(HERE, topic)] * (count - len(answers))
