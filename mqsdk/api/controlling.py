"""What an App answers over its control socket: `mqsdk ps`, `reload`, `stacks` and `groups release`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mqsdk.config.requirement import sdk_version
from mqsdk.runtime.control import REPLY_TIMEOUT_S, Answers, Orders, parts

if TYPE_CHECKING:
    from mqsdk.api.app import App
    from mqsdk.api.session import Session
    from mqsdk.runtime.inspection import ConsumerInfo


# Time for storing a release: the asker must have its answer before it gives up.
RELEASE_S = REPLY_TIMEOUT_S - 1.0


def answers(app: App) -> Answers:
    """The commands of one App. They run on the control thread, so they only read, or do what `app.reload()` does from any thread."""
    return {"status": lambda: status(app), "reload": lambda: reload(app), "stacks": lambda: stacks(app)}


def orders(app: App) -> Orders:
    """The commands that are told something."""
    return {"release": lambda given: release(app, given)}


def status(app: App) -> Mapping[str, Any]:
    session = app._session
    if session is None:
        nothing = {"app": None, "config": None, "behind": None}
        return {"pid": os.getpid(), **nothing, "state": str(app.state), "sdk": sdk_version(), "consumers": []}
    return told(app, session, [shown(one) for one in session.supervisor.consumers(with_lag=False)])


def told(app: App, session: Session, consumers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is told of an open App, with its consumers as they are to be shown. behind: why it does not follow its configuration."""
    behind = session.behind.reason
    return {
        "pid": os.getpid(),
        "app": session.supervisor.app,
        "state": str(app.state),
        "config": session.configuration.version,
        "behind": None if behind is None else parts(behind),
        "sdk": sdk_version(),
        "consumers": consumers,
    }


def shown(one: ConsumerInfo) -> dict[str, Any]:
    """One consumer, as plain data."""
    return {
        "topic": one.topic,
        "group": one.group,
        "cluster": one.cluster,
        "state": one.state,
        "concurrency": one.concurrency,
        "in_flight": one.in_flight,
        "partitions": list(one.partitions),
        "paused": one.paused,
        "rate": one.rate,
        "breaker": one.breaker,
        "halted": [halted._asdict() for halted in one.halted],
    }


def reload(app: App) -> Mapping[str, Any]:
    """Raises ConfigError or StateError, which the asker is shown."""
    return {"changes": [{"key": one.key, "old": one.old, "new": one.new, "applies": one.applies} for one in app.reload()]}


def release(app: App, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Free halted messages of one consumer; `running` is false where it does not run. Raises StateError, which the asker is shown.

    given: topic, group, outcome, and keys in hexadecimal (null for messages without key), or null for all.
    """
    session, pair = app._session, (given["topic"], given["group"])
    if session is None or pair not in [(declared.topic, declared.group) for declared, _ in session.supervisor.loops]:
        return {"running": False}
    keys = given["keys"] and [None if key is None else bytes.fromhex(key) for key in given["keys"]]
    done = session.supervisor.release(*pair, given["outcome"], keys, RELEASE_S)
    return {"running": True, "freed": done.freed, "left": done.left, "lost": done.lost}


def stacks(app: App) -> Mapping[str, Any]:
    session = app._session
    now = time.monotonic()
    handlers = [
        {
            "topic": declared.topic,
            "group": declared.group,
            "id": record.id or f"{origin.cluster}:{origin.topic}:{origin.partition}:{record.ref}",
            "age_s": round(now - started, 3),
            "stack": stack,
        }
        for declared, loop in (session.supervisor.loops if session is not None else [])
        for started, record, origin, stack in loop.running()
    ]
    return {"handlers": handlers}
