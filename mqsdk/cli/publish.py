"""`publish`: one message, or one per line of stdin, pipelined."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from io import BufferedReader, BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from mqsdk.cli.applications import publishing_app
from mqsdk.cli.exits import DONE, exit_code, exit_code_of_many
from mqsdk.cli.session import Command, Session, duration, pass_session
from mqsdk.errors import MqError, PublishError, PublishManyFailed, PublishRejected, PublishUnknown
from mqsdk.message import Outgoing, Receipt

if TYPE_CHECKING:
    from mqsdk.api.app import App
    from mqsdk.cli.drawing import Bar

CHUNK_LINES = 1000
READ_BYTES = 256 * 1024  # a pipe gives at most 64 KiB at once; a file this much, so a chunk is bounded in bytes too
MAX_LINE_BYTES = 16 * 1024 * 1024  # twice what any backend stores as one message
SHOWN_FAILURES = 10  # failures named one by one; the rest is counted


@click.command(cls=Command)
@click.argument("topic")
@click.argument("payload", required=False, metavar="[PAYLOAD|-]")
@click.option("--key", help="Key: messages of one key keep their order.")
@click.option("--header", "headers", multiple=True, metavar="K=V", help="A header; may be repeated.")
@click.option("--delay", type=duration, metavar="D", help="Deliver later, for example 30m.")
@click.option("--id", "message_id", help="Message id, for example of a publish whose outcome was unknown.")
@click.option("--lines", is_flag=True, help="One message per line of stdin.")
@pass_session
def publish(session: Session, /, topic: str, payload: str | None, lines: bool, message_id: str | None, **options: Any) -> int:
    """Publish PAYLOAD to TOPIC as it is; `-` takes stdin, whole or by --lines."""
    fields = {"key": options["key"], "headers": _headers(options["headers"]), "delay": options["delay"]}
    if lines:
        if message_id is not None:
            raise click.UsageError("--id names one message, --lines publishes many")
        if payload not in (None, "-"):
            raise click.UsageError("--lines reads stdin: leave PAYLOAD out")
        return publish_lines(session, topic, fields)
    if payload is None:
        raise click.UsageError("give PAYLOAD, `-` for stdin, or --lines")
    body = text_or_bytes(sys.stdin.buffer.read() if payload == "-" else os.fsencode(payload))
    with publishing_app(session) as app:
        receipt = app.publish(topic, body, id=message_id, timeout=session.timeout_s, **fields)
    _show(session, receipt)
    return DONE


def _headers(pairs: Sequence[str]) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.BadParameter("write it as name=value", param_hint="--header")
        found[name] = value
    return found or None


def text_or_bytes(body: bytes) -> str | bytes:
    """Text where it is UTF-8, so that its content type says so."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body


def _show(session: Session, receipt: Receipt) -> None:
    fields = {name: getattr(receipt, name) for name in ("id", "topic", "cluster", "partition", "position")}
    if receipt.due_at is not None:
        fields["due_at"] = receipt.due_at.isoformat(timespec="milliseconds")
    if session.out.json:
        session.out.document(fields)
    elif not session.out.quiet:
        place = f"position {receipt.position}" if receipt.due_at is None else f"due at {fields['due_at']}"
        session.out.write(f"{receipt.id} stored in {receipt.topic} on {receipt.cluster}, partition {receipt.partition}, {place}")


# --- many ------------------------------------------------------------------------------------------------------------------------


class Tally:
    """What became of the lines so far."""

    def __init__(self) -> None:
        self.lines = 0
        self.bytes = 0
        self.outcomes: Counter[str] = Counter()
        self.cluster = ""
        self.failures: list[dict[str, Any]] = []
        self._codes: dict[int, MqError] = {}  # one error for each exit code

    @property
    def code(self) -> int:
        return exit_code_of_many(self._codes.values())

    def add_chunk(self, chunk: Sequence[bytes], outcomes: Sequence[object]) -> None:
        for outcome in outcomes:
            self.add(outcome)
        self.bytes += sum(len(line) + 1 for line in chunk)

    def add(self, outcome: object) -> None:
        """The outcome of the next line."""
        self.lines += 1
        if isinstance(outcome, Receipt):
            self.outcomes["stored"] += 1
            self.cluster = outcome.cluster
            return
        self.outcomes["unknown" if isinstance(outcome, PublishUnknown) else "rejected"] += 1
        if isinstance(outcome, MqError):
            self._codes.setdefault(exit_code(outcome), outcome)
        if isinstance(outcome, MqError) and len(self.failures) < SHOWN_FAILURES:
            code = outcome.code if isinstance(outcome, PublishRejected) else "unknown"
            self.failures.append({"line": self.lines, "code": code, "what": outcome.what, "fix": outcome.fix})


def publish_lines(session: Session, topic: str, fields: dict[str, Any]) -> int:
    """Publish each line of stdin. Ends early when a whole chunk fails, but for its lines' own fault: the rest would meet the same."""
    tally, began = Tally(), time.monotonic()
    stream = sys.stdin.buffer
    with publishing_app(session) as app, _bar(session, topic, stream) as bar:
        try:
            for chunk in chunks(stream):
                outcomes = _publish_chunk(app, topic, chunk, session.timeout_s, fields)
                tally.add_chunk(chunk, outcomes)
                bar(tally.lines, tally.bytes)
                if not any(isinstance(outcome, Receipt) or _is_of_the_line(outcome) for outcome in outcomes):
                    break
        except PublishRejected as endless:  # a line without an end; what came before it is told all the same
            tally.add(endless)
    _summary(session, topic, tally, time.monotonic() - began)
    return tally.code


def _publish_chunk(app: App, topic: str, chunk: Sequence[bytes], timeout_s: float | None, fields: dict[str, Any]) -> Sequence[object]:
    """One outcome per line. A line that cannot be sent refuses the call before anything is sent: then the halves go by themselves."""
    try:
        if len(chunk) == 1:
            return [app.publish(topic, text_or_bytes(chunk[0]), timeout=timeout_s, **fields)]
        return app.publish_many(topic, [Outgoing(text_or_bytes(line), **fields) for line in chunk], timeout=timeout_s)
    except PublishManyFailed as failed:
        return failed.outcomes
    except PublishError as refused:
        if len(chunk) == 1 or not _is_of_the_line(refused):  # else a rule of the other arguments, which every line breaks
            return [refused] * len(chunk)
    middle = len(chunk) // 2
    halves = [_publish_chunk(app, topic, half, timeout_s, fields) for half in (chunk[:middle], chunk[middle:])]
    return [outcome for half in halves for outcome in half]


def _is_of_the_line(outcome: object) -> bool:
    """Whether the line itself is what was refused, so that the next one may fare better."""
    return isinstance(outcome, PublishRejected) and (outcome.code == "too_large" or getattr(outcome, "field", "") == "payload")


def chunks(stream: BinaryIO) -> Iterator[list[bytes]]:
    """Lines without their line ends, in chunks bounded in lines and bytes.

    Takes what has arrived instead of filling a chunk: `tail -f file | mqsdk publish topic --lines` must not hold lines back.
    """
    arrived = stream.read1 if isinstance(stream, (BufferedReader, BytesIO)) else stream.read
    rest = b""
    while data := arrived(READ_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        for start in range(0, len(lines), CHUNK_LINES):
            yield [line.removesuffix(b"\r") for line in lines[start : start + CHUNK_LINES]]
        if len(rest) > MAX_LINE_BYTES:
            raise PublishRejected(f"the line is longer than {MAX_LINE_BYTES // 1024**2} MiB", code="too_large", fix="is the input text?")
    if rest:
        yield [rest]


def _bar(session: Session, topic: str, stream: BinaryIO) -> AbstractContextManager[Bar]:
    """A progress bar when stderr is a terminal; without one, nothing of rich is loaded."""
    if session.out.json or session.out.quiet or not sys.stderr.isatty():
        return nullcontext(lambda _messages, _size: None)
    from mqsdk.cli.drawing import progress_bar

    return progress_bar(topic, _size_of(stream))


def _size_of(stream: BinaryIO) -> int | None:
    """Bytes to read when stdin is a file, None for a pipe."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _summary(session: Session, topic: str, tally: Tally, seconds: float) -> None:
    figures = {name: tally.outcomes[name] for name in ("stored", "rejected", "unknown")}
    if session.out.json:
        document = {"topic": topic, "cluster": tally.cluster, "published": tally.lines, **figures, "seconds": round(seconds, 3)}
        session.out.document({**document, "failures": tally.failures})
        return
    for failure in tally.failures:
        session.out.warn(f"line {failure['line']}: {failure['what']} ({failure['code']})")
    rate = f", {tally.lines / seconds:,.0f}/s" if seconds > 0 else ""
    counts = ", ".join(f"{count:,} {name}" for name, count in figures.items())
    session.out.say(f"{tally.lines:,} messages to {topic} in {seconds:.1f} s{rate}: {counts}")
