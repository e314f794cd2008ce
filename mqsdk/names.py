"""The one validator for names of topics and groups: publish, the decorators, the command line and adapters' callers all ask here. A leaf.

Rules of the contract: `[A-Za-z0-9][A-Za-z0-9._-]{0,119}`, no `..`, groups without dots; prefix `mq.` and suffixes `.dlq .retry .delay`
are the SDK's own. A name that passes may go into a path, a URL or a broker's key without escaping.
"""

from __future__ import annotations

import re

MAX_NAME = 120
# Kafka's limit on a topic name, and the tightest of the backends: every composed name has to fit it.
MAX_COMPOSED = 249
RESERVED_PREFIX = "mq."
DEAD_LETTERS, RETRIES, DELAYS = ".dlq", ".retry", ".delay"
RESERVED_SUFFIXES = (DEAD_LETTERS, RETRIES, DELAYS)
# Topics of messages that wait, where the backend itself cannot delay: `mq.delay.<step>`.
DELAY_PREFIX = RESERVED_PREFIX + "delay."
# In client ids and metrics of every backend.
APP, APP_RULE = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "letters, digits, `.`, `_`, `-`, at most 64"

_TOPIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*", re.ASCII)


def topic_problem(name: object, *, reading: bool = False) -> str | None:
    """Why `name` cannot be a topic, as a sentence, or None. reading: a consumer, `peek` and `lag` may also name a `.dlq` topic."""
    if not isinstance(name, str):
        return f"a topic name is text, not {type(name).__name__}"
    dead_letters = reading and name.endswith(DEAD_LETTERS)
    problem = _spelling("topic", name, _TOPIC, "letters, digits, `.`, `_` and `-`", MAX_COMPOSED if dead_letters else MAX_NAME)
    if problem is not None:
        return problem
    if ".." in name:
        return f"topic {shown(name)} contains `..`"
    if name.startswith(RESERVED_PREFIX):
        return f"topic {shown(name)}: names that begin with `{RESERVED_PREFIX}` are reserved"
    if name.endswith(RESERVED_SUFFIXES) and not dead_letters:
        return f"topic {shown(name)}: names that end with {', '.join(f'`{suffix}`' for suffix in RESERVED_SUFFIXES)} are reserved"
    return None


def topic_fix(name: object) -> str:
    """What to write instead of a topic name that has a problem."""
    if isinstance(name, str) and (name.startswith(RESERVED_PREFIX) or name.endswith(RESERVED_SUFFIXES)):
        return "only mqsdk itself writes there: choose another name (dead letters come back by `mqsdk dlq redrive`)"
    return f"topic names are letters, digits, `.`, `_` and `-`, at most {MAX_NAME}"


def group_problem(name: object) -> str | None:
    """Why `name` cannot be a group, as a sentence, or None."""
    if not isinstance(name, str):
        return f"a group name is text, not {type(name).__name__}"
    return _spelling("group", name, _GROUP, "letters, digits, `_` and `-` (no dots: `<topic>.<group>.dlq` names one pair)", MAX_NAME)


def app_problem(name: object) -> str | None:
    """Why `name` cannot name an application (`App(name=)`, `app:` of the file), as a sentence, or None."""
    if not isinstance(name, str):
        return f"an application's name is text, not {type(name).__name__}"
    if not re.fullmatch(APP, name, re.ASCII):
        return f"{shown(name)} names no application: use {APP_RULE}"
    return None


def pair_problem(topic: str, group: str) -> str | None:
    """Why the names made from a valid topic and group do not fit every backend, or None."""
    longest = max(len(composed(topic, group, suffix)) for suffix in RESERVED_SUFFIXES)
    if longest > MAX_COMPOSED:
        return f"`<topic>.<group>{RETRIES}` has {longest} characters, at most {MAX_COMPOSED} fit every backend"
    return None


def composed(topic: str, group: str, suffix: str = DEAD_LETTERS) -> str:
    """The SDK's own topic beside a topic and group: `<topic>.<group>.dlq`, `.retry` or `.delay`."""
    return f"{topic}.{group}{suffix}"


def shown(name: str) -> str:
    """A name as it may stand in an error or log line: escaped, at most 60 characters."""
    text = ascii(name)
    return text if len(text) <= 60 else f"{text[:57]}...'"


def _spelling(kind: str, name: str, pattern: re.Pattern[str], allowed: str, longest: int) -> str | None:
    if not name:
        return f"a {kind} name is not empty"
    if len(name) > longest:
        return f"a {kind} name has at most {longest} characters, not {len(name)}"
    if not pattern.fullmatch(name):
        return f"{kind} {shown(name)}: a name begins with a letter or digit and holds only {allowed}"
    return None
