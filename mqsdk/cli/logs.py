"""Log lines of `mqsdk run` on stderr: text for people, JSON lines with --json. The library itself configures no logger."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

EXTRAS = ("mq_topic", "mq_group", "mq_id", "mq_attempt", "mq_cluster")


class TextLines(logging.Formatter):
    """`12:00:01.123 [pid] INFO mqsdk.consumer: ...`. Further lines of a message are indented: none can pass for one of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03d [%(process)d] %(levelname)s %(name)s: %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name of logging
        return super().formatMessage(record).replace("\r", "\\r").replace("\n", "\n    ")


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        import json

        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
            **{name: getattr(record, name) for name in EXTRAS if hasattr(record, name)},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(level: str, as_json: bool) -> None:
    """Send what the process logs to stderr. level: of the `mqsdk` loggers; everything else at WARNING, or the application's own choice."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else TextLines())
    root = logging.getLogger()
    if not root.handlers:  # an application that configured logging at import keeps its own
        root.addHandler(handler)
    logging.getLogger("mqsdk").setLevel(level)


def level_of(configured: str, quiet: bool, verbose: int) -> str:
    """-q: warnings and errors only; -v: everything; else what the configuration says."""
    return "WARNING" if quiet else "DEBUG" if verbose else configured
