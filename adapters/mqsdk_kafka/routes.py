"""Whether a partition exists, before a record is handed to the client: the client waits a minute for a topic that does not."""

from __future__ import annotations

from mqsdk.spi import AccessDenied, Partition, Rejected
from mqsdk_kafka.client import Client
from mqsdk_kafka.line import Line
from mqsdk_kafka.looking import Looking

NO_TOPIC = Rejected("no_route", "there is no such topic", fix="create the topic first")
NO_PARTITION = Rejected("no_route", "the topic has no such partition", fix="declare the partitions that the topic has")
DENIED = Rejected("denied", "the user may not publish here", fix="grant the user WRITE and DESCRIBE on the topic")


class Routes:
    """Of one producer, used by its thread alone. What is known stays: a topic that was deleted is told by the broker."""

    def __init__(self, client: Client) -> None:
        self._looking = Looking(client)
        self._counts: dict[str, int] = {}
        self._lines: dict[str, Line] = {}

    def is_open(self, partition: Partition, line: Line) -> bool:
        """Whether this line has carried a record there or could."""
        topic, number = partition
        return self._lines.get(topic) is line and 0 <= number < self._counts[topic]

    def refusal(self, partition: Partition, line: Line, deadline: float) -> Rejected | None:
        """None when the line can carry a record there. Raises BackendError or the client's KafkaError when that cannot be found out."""
        topic, number = partition
        if self.is_open(partition, line):
            return None
        try:
            found = self._looking.counts([topic], deadline).get(topic)
        except AccessDenied:
            return DENIED
        if found is None:
            return NO_TOPIC
        self._counts[topic] = found
        if not 0 <= number < found:
            return NO_PARTITION
        line.knows(topic)
        self._lines[topic] = line
        return None
