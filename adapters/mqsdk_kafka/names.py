"""Names: the last check before one goes to the broker, and what a group of mqsdk is called in Kafka."""

from __future__ import annotations

import re

from mqsdk.spi import ConfigError
from mqsdk_kafka.options import SHARED

# Topics of messages that wait, which are all read by one group.
DELAYS = "mq.delay."
# Kafka's own rule for topics: at most 249 of these characters.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,248}", re.ASCII)


def check_name(what: str, name: str) -> str:
    """Return the name. ConfigError for one that Kafka would refuse or read as something else."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"not a usable {what} name", fix="letters, digits, `.`, `_` and `-`, beginning with a letter or digit")
    return name


def group_id(template: str, topic: str, group: str) -> str:
    """The id of the consumer group. A group's own retry topic is read in the group of the topic that it belongs to, delay topics in one."""
    if template == SHARED:
        return group
    if topic.startswith(DELAYS):
        return f"{DELAYS}{group}"
    return f"{topic.removesuffix(f'.{group}.retry')}.{group}"


def group_of(template: str, topic: str, identifier: str) -> str | None:
    """The group of mqsdk that may have progress in this topic under this id; None when there is none."""
    if template == SHARED:
        return identifier
    _, dot, group = identifier.rpartition(".")
    return group if dot and group and group_id(template, topic, group) == identifier else None
