"""The event loop of TestApp: in lock-step with the test, in virtual time, and real where time cannot be virtual."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from mqsdk.testing.clock import VirtualClock
from mqsdk.testing.executor import VirtualLoop


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(mono_s=100.0)


@pytest.fixture
def loop(clock: VirtualClock) -> Iterator[VirtualLoop]:
    virtual = VirtualLoop(clock)
    yield virtual
    assert virtual.close(10.0)


def start(loop: VirtualLoop, seconds: float, ended: list[float]) -> None:
    async def sleeper() -> None:
        await asyncio.sleep(seconds)
        ended.append(loop.clock.mono())

    asyncio.run_coroutine_threadsafe(sleeper(), loop.loop)
    loop.run_until_idle()


def test_a_sleep_ends_when_the_clock_was_turned_and_not_before(loop: VirtualLoop, clock: VirtualClock) -> None:
    ended: list[float] = []
    start(loop, 5.0, ended)
    assert loop.due() == 105.0
    clock.advance(4.9)
    loop.run_until_idle()
    assert ended == []
    clock.advance(0.1)
    loop.run_until_idle()
    assert ended == [105.0]
    assert loop.due() is None


def test_running_a_coroutine_turns_the_clock_as_far_as_it_waits(loop: VirtualLoop, clock: VirtualClock) -> None:
    async def work() -> str:
        await asyncio.sleep(3600)
        return "done"

    assert loop.run(work()) == "done"
    assert clock.mono() == 3700.0


def test_timeouts_of_asyncio_fire_in_virtual_time(loop: VirtualLoop, clock: VirtualClock) -> None:
    async def work() -> None:
        async with asyncio.timeout(3):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        loop.run(work())
    assert clock.mono() == 103.0


def test_waiting_for_what_never_comes_is_an_error_and_no_hang(loop: VirtualLoop) -> None:
    async def work() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError, match="does not come"):
        loop.run(work())


def test_threads_of_a_handler_are_waited_for(loop: VirtualLoop, clock: VirtualClock) -> None:
    released = threading.Event()

    async def work() -> bool:
        asyncio.get_running_loop().call_soon(released.set)
        return await asyncio.to_thread(released.wait, 10.0)

    assert loop.run(work()) is True
    assert clock.mono() == 100.0


def test_the_network_is_real(loop: VirtualLoop) -> None:
    async def work() -> bytes:
        server = await asyncio.start_server(_greet, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        greeting = await reader.read()
        writer.close()
        server.close()
        return greeting

    assert loop.run(work()) == b"hello"


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello")
    writer.close()


def test_a_crash_ends_every_task(loop: VirtualLoop) -> None:
    ended: list[float] = []
    start(loop, 1.0, ended)
    loop.abandon()
    assert loop.due() is None
    assert ended == []


def test_a_blocked_loop_is_told_from_an_idle_one(loop: VirtualLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqsdk.testing.executor.REAL_WAIT_S", 0.05)
    release = threading.Event()
    loop.loop.call_soon_threadsafe(release.wait, 10.0)
    with pytest.raises(TimeoutError, match="blocks the event loop"):
        loop.run_until_idle()
    release.set()
