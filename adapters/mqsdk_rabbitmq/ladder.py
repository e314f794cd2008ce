"""The ladder of delays: queues whose messages the server itself moves on when they have waited, step by step, until they are due.

A message has the keys of its steps among its routing keys. The first leads it into the queue of that step at once. Every step has an
exchange, too, to which the messages that have waited in the step above come (dead-letter exchange): one with the step's key goes to its
queue, one without it falls through to the next lower step (alternate exchange). Below the lowest step its last key leads to the exchange of
its topic, and the number of the partition, which was its first key all the time, to the queues of the groups. So no process moves anything,
and every message of a step waits equally long: none stands behind a longer one.

The queues are quorum queues whatever the cluster's `queues` says: those alone hand a message on with a confirmation.
"""

from __future__ import annotations

from typing import Any

from mqsdk_rabbitmq import names
from mqsdk_rabbitmq.session import Session

TICK_MS = 125  # a step is work for the server: no more of them than lateness asks for
_HIGHEST = 25
# Ticks of each step: powers of two, and the highest several times, because no timer of the server's runs longer than 2^32 ms (50 days), and
# no message may come to one queue twice (the server takes it for a cycle and drops it).
STEPS = (*(1 << level for level in range(_HIGHEST + 1)), *(1 << _HIGHEST,) * 6)
LONGEST_MS = sum(STEPS) * TICK_MS  # 388 days
OLDEST = (3, 10)  # time to live in quorum queues, and dead-lettering with confirmations


def keys(wait_ms: int) -> list[str]:
    """Keys of the steps that make up this wait, or up to a tick more. Raises ValueError for one over LONGEST_MS."""
    if wait_ms > LONGEST_MS:
        raise ValueError(f"it is due in more than {LONGEST_MS // 86_400_000} days")
    left = -(-wait_ms // TICK_MS)
    found: list[str] = []
    for level in range(len(STEPS) - 1, -1, -1):
        if STEPS[level] <= left:
            left -= STEPS[level]
            found.append(names.step_key(level, not found))
    return found


def step_arguments(level: int) -> dict[str, Any]:
    return {
        "x-queue-type": "quorum",
        # The server drops the fraction of the millisecond in which a message comes: one more, or it leaves too early.
        "x-message-ttl": STEPS[level] * TICK_MS + 1,
        "x-dead-letter-exchange": _below(level),
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",  # which at-least-once asks for
    }


def _below(level: int) -> str:
    return names.step(level - 1) if level else names.DUE


def make(session: Session) -> None:
    """Declare it. Raises UnsafeBackend for a queue that is there and is another one."""
    session.channel.exchange_declare(names.DUE, "direct", durable=True, arguments={"alternate-exchange": names.DEAD})
    session.channel.exchange_declare(names.LADDER, "direct", durable=True)
    for level in range(len(STEPS)):
        _make_step(session, level)


def check(session: Session) -> None:
    """Of one that was made: declare again what is gone, for a message passes by a step that is not there. Raises as `make`."""
    for level in range(len(STEPS)):
        if session.queue(names.step(level)) is None:
            _make_step(session, level)
        else:
            _check_step(session, level)


def _make_step(session: Session, level: int) -> None:
    name = names.step(level)
    session.channel.exchange_declare(name, "direct", durable=True, arguments={"alternate-exchange": _below(level)})
    _check_step(session, level)
    session.channel.queue_bind(name, name, names.step_key(level, is_first=False))
    session.channel.queue_bind(name, names.LADDER, names.step_key(level, is_first=True))


def _check_step(session: Session, level: int) -> None:
    """It also declares one that is not there."""
    harm = "what is delayed would come at another time"
    session.require(names.step(level), [step_arguments(level)], harm, "wait until it is empty and delete it on the server")
