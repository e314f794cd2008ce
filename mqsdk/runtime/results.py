"""Where a producer puts its results and the publisher finds them: at once behind an inline producer, later behind an async one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from mqsdk.runtime.clock import Clock
from mqsdk.spi import Flow, Link, Outcome, ProducerEvent, Published, Unknown

Runs = list[tuple[Outcome, int]]

# An async producer answers by the deadline, from its own thread; so long it may come late before we say Unknown in its place.
MARGIN_S = 0.5
_NO_RESULT = Unknown("the backend gave no result")


class Results(Protocol):
    """`put` is called from any thread; `expect` and `take` by the thread that publishes, before and after."""

    def put(self, event: ProducerEvent, /) -> None: ...

    def expect(self, token: int, count: int, /) -> None:
        """Results of so many tokens from this one on will be taken."""

    def take(self, token: int, count: int, deadline: float, /) -> Runs:
        """Outcomes as (outcome, length) runs. A result that the adapter does not give is a doubt, so Unknown."""


class InlineResults:
    """By first token. An inline producer puts them before `publish` returns, so a plain dict is enough. flow: hears what is no result."""

    def __init__(self, flow: Callable[[Flow], None]) -> None:
        self._found: dict[int, Published] = {}
        self._flow = flow

    def put(self, event: ProducerEvent, /) -> None:
        if isinstance(event, Published):
            self._found[event.token] = event
        else:
            _tell_other(event, self._flow)

    def expect(self, token: int, count: int, /) -> None:
        """Nothing to prepare."""

    def take(self, token: int, count: int, deadline: float, /) -> Runs:
        return _runs(self._found, token, count)


class _Awaited:
    """The results of one call; `left` counts those that are missing."""

    __slots__ = ("done", "found", "left")

    def __init__(self, count: int) -> None:
        self.found: dict[int, Published] = {}
        self.left = count
        self.done = threading.Event()


class AsyncResults:
    """By call: the thread that published sleeps until the last result of its call is there. Late results are dropped."""

    def __init__(self, clock: Clock, flow: Callable[[Flow], None]) -> None:
        self._clock = clock
        self._flow = flow
        self._lock = threading.Lock()
        self._calls: dict[int, _Awaited] = {}  # by each token, because a run may begin anywhere in a call

    def put(self, event: ProducerEvent, /) -> None:
        if not isinstance(event, Published):
            _tell_other(event, self._flow)
            return
        with self._lock:
            call = self._calls.get(event.token)
            if call is None or event.token in call.found:
                return
            call.found[event.token] = event
            call.left -= event.length
            if call.left <= 0:
                call.done.set()

    def expect(self, token: int, count: int, /) -> None:
        call = _Awaited(count)
        with self._lock:
            self._calls.update(dict.fromkeys(range(token, token + count), call))

    def take(self, token: int, count: int, deadline: float, /) -> Runs:
        call = self._calls[token]
        try:
            self._wait(call.done, max(0.0, deadline + MARGIN_S - self._clock.mono()))
        finally:  # a signal handler may raise out of the wait
            with self._lock:
                for each in range(token, token + count):
                    del self._calls[each]
        return _runs(call.found, token, count)

    def _wait(self, done: threading.Event, timeout_s: float) -> None:
        done.wait(timeout_s)


def _tell_other(event: Flow | Link, flow: Callable[[Flow], None]) -> None:
    """A link that is down shows in the answers to publishes."""
    if isinstance(event, Flow):
        flow(event)
    elif not isinstance(event, Link):
        raise TypeError(f"a producer put {type(event).__name__}")


def _runs(found: dict[int, Published], token: int, count: int) -> Runs:
    """Take the results of the tokens from `token` on out of `found`."""
    end = token + count
    runs: Runs = []
    while token < end:
        event = found.pop(token, None)
        if event is None:
            runs.append((_NO_RESULT, 1))
            token += 1
        else:
            runs.append((event.outcome, event.length))
            token += event.length
    return runs
