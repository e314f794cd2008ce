"""Layer 2 whole, with real threads over the in-memory log: what a consumer does from start to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from mqsdk.config.model import Cluster, Configuration, Route
from mqsdk.core.actions import Failure, Job, Run, Settle
from mqsdk.core.retry import Backoff, RetryPolicy
from mqsdk.errors import CapabilityError, StateError, Unavailable
from mqsdk.events import DeadLettered, Event, Retried
from mqsdk.message import Call, Origin, Receipt
from mqsdk.runtime.environment import Declared, Environment
from mqsdk.runtime.sender import Draft
from mqsdk.runtime.supervisor import Supervisor
from mqsdk.spi import Capabilities, Partition, Progress, Record
from mqsdk.testing.simlog import MEMORY, SimBackend, SimLog

BOUND_S = 5.0
MEMORY_ONLY = Configuration(
    clusters={"local": Cluster(name="local", backend="memory", lease_s=3.0)}, routes=(Route(topics=("*",), cluster="local"),)
)
QUICK = RetryPolicy(attempts=3, backoff=Backoff("1ms", jitter=0))


class Recorder:
    """A sync handler that notes what it saw and fails as told."""

    is_async = False
    batch = False

    def __init__(self, behave: Callable[[Record], Failure | None] | None = None) -> None:
        self.behave = behave or (lambda record: None)
        self.seen: list[tuple[bytes, int]] = []
        self.changed = threading.Condition()

    def invoke(self, call: Call) -> Failure | None:
        failure = self.behave(call.record)
        with self.changed:
            self.seen.append((call.record.value, call.attempt))
            self.changed.notify_all()
        return failure

    async def invoke_async(self, call: Call) -> Failure | None:
        raise AssertionError("not async")

    def invoke_batch(self, call: Call) -> Any:
        raise AssertionError("not batch")

    async def invoke_batch_async(self, call: Call) -> Any:
        raise AssertionError("not batch")

    def wait_for(self, count: int) -> list[tuple[bytes, int]]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.seen) >= count, BOUND_S), f"{len(self.seen)} of {count} calls"
            return list(self.seen)


class AsyncRecorder(Recorder):
    is_async = True

    async def invoke_async(self, call: Call) -> Failure | None:
        return self.invoke(call)


@dataclass
class Process:
    """One process's layer 2 over a shared store."""

    store: SimLog
    capabilities: Capabilities = MEMORY
    configuration: Configuration = MEMORY_ONLY
    events: list[Event] = field(default_factory=list)
    supervisor: Supervisor = field(init=False)

    def __post_init__(self) -> None:
        environment = Environment(
            make_backend=lambda cluster: SimBackend(self.store, name=cluster.name, capabilities=self.capabilities),
            observe=self.events.append,
        )
        self.supervisor = Supervisor(self.configuration, environment, "test")

    def publish(self, topic: str, *values: str, key: str | None = None) -> list[Receipt]:
        drafts = [Draft(None if key is None else key.encode(), value.encode(), value) for value in values]
        answers = self.supervisor.publisher(topic).send(topic, drafts, BOUND_S)
        return [answer for answer in answers if isinstance(answer, Receipt)]

    def start(
        self, handler: Recorder, *, topic: str = "orders", group: str = "billing", tuning: Mapping[str, Any] | None = None, **spec: Any
    ) -> None:
        declared = Declared(topic=topic, group=group, handler=handler, tuning=tuning or {"retry": QUICK}, **spec)
        self.supervisor.start([declared], BOUND_S)

    def wait(self, condition: Callable[[], bool]) -> None:
        """For states that no handler announces (settled progress, stored copies)."""
        end = time.monotonic() + BOUND_S
        while not condition():
            assert time.monotonic() < end, "condition not met in time"
            threading.Event().wait(0.002)

    def lag(self, topic: str = "orders", group: str = "billing") -> int:
        return self.supervisor.lag(topic, group).messages


@pytest.fixture
def process() -> Iterator[Process]:
    made = Process(SimLog())
    yield made
    made.supervisor.close(BOUND_S)


def fails(*values: bytes, times: int = 1000) -> Callable[[Record], Failure | None]:
    left = dict.fromkeys(values, times)

    def behave(record: Record) -> Failure | None:
        if left.get(record.value, 0) == 0:
            return None
        left[record.value] -= 1
        return Failure("error", "ValueError: no", place="shop.py:1 in bill")

    return behave


def test_published_messages_are_handled_and_settled(process: Process) -> None:
    handler = Recorder()
    process.start(handler)
    process.publish("orders", "a", "b", "c")
    assert sorted(handler.wait_for(3)) == [(b"a", 1), (b"b", 1), (b"c", 1)]
    process.wait(lambda: process.lag() == 0)


def test_async_handlers_run_on_the_event_loop(process: Process) -> None:
    handler = AsyncRecorder()
    process.start(handler)
    process.publish("orders", *[str(i) for i in range(100)])
    assert len(handler.wait_for(100)) == 100
    process.wait(lambda: process.lag() == 0)


def test_two_groups_each_see_everything(process: Process) -> None:
    one, two = Recorder(), Recorder()
    both = [Declared(topic="orders", group=group, handler=handler) for group, handler in (("one", one), ("two", two))]
    process.supervisor.start(both, BOUND_S)
    process.publish("orders", "a", "b")
    assert len(one.wait_for(2)) == len(two.wait_for(2)) == 2


def test_a_failed_attempt_is_retried_with_a_count(process: Process) -> None:
    handler = Recorder(fails(b"a", times=2))
    process.start(handler)
    process.publish("orders", "a")
    assert handler.wait_for(3) == [(b"a", 1), (b"a", 2), (b"a", 3)]
    process.wait(lambda: process.lag() == 0)
    assert [event.attempt for event in process.events if isinstance(event, Retried)] == [1, 2]


def test_an_exhausted_message_is_stored_as_a_dead_letter_with_its_story(process: Process) -> None:
    handler = Recorder(fails(b"poison"))
    process.start(handler)
    process.publish("orders", "poison", key="k7")
    process.wait(lambda: any(isinstance(event, DeadLettered) for event in process.events))
    process.wait(lambda: process.lag() == 0)
    admin = process.supervisor.clusters.backend("local").admin()
    (letter,) = [record for number in range(8) for record in admin.read("orders.billing.dlq", number, 0, 10)]
    assert (letter.key, letter.value, letter.id) == (b"k7", b"poison", "poison")
    extra = dict(letter.extra)
    assert extra["mq-dlq-topic"] == "orders"
    assert extra["mq-dlq-group"] == "billing"
    assert extra["mq-dlq-attempts"] == "3"
    assert extra["mq-dlq-reason"] == "exhausted"
    assert extra["mq-dlq-error"] == "ValueError: no"


def test_ordered_messages_of_a_key_wait_behind_a_failing_one_and_others_go_on(process: Process) -> None:
    handler = Recorder(fails(b"a1", times=2))
    process.start(handler, ordered=True)
    process.publish("orders", "a1", "a2", key="a")
    process.publish("orders", "b1", key="b")
    seen = [value for value, _ in handler.wait_for(5)]
    assert [value for value in seen if value.startswith(b"a")] == [b"a1", b"a1", b"a1", b"a2"]
    assert seen.index(b"b1") < seen.index(b"a2")


def test_a_stop_waits_for_running_handlers_and_settles_what_ended(process: Process) -> None:
    inside, go = threading.Event(), threading.Event()

    def behave(record: Record) -> None:
        inside.set()
        assert go.wait(BOUND_S)

    handler = Recorder(behave)
    process.start(handler, tuning={"concurrency": 1})
    process.publish("orders", "a", "b", "c")
    assert inside.wait(BOUND_S)
    stopped: list[Any] = []
    stopper = threading.Thread(target=lambda: stopped.append(process.supervisor.stop(BOUND_S)))
    stopper.start()
    process.wait(lambda: process.supervisor.consumers(with_lag=False)[0].state == "draining")
    go.set()
    stopper.join(BOUND_S * 3)
    assert (stopped[0].unfinished, stopped[0].clean) == (0, True)
    assert handler.seen == [(b"a", 1)]
    assert process.lag() == 2


def test_a_stop_ends_at_its_deadline_with_a_hanging_handler(process: Process) -> None:
    inside, go = threading.Event(), threading.Event()

    def behave(record: Record) -> None:
        inside.set()
        go.wait(BOUND_S * 6)

    process.start(Recorder(behave))
    process.publish("orders", "a")
    assert inside.wait(BOUND_S)
    began = time.monotonic()
    report = process.supervisor.stop(0.2)
    assert time.monotonic() - began < BOUND_S
    assert report.unfinished == 1
    assert process.lag() == 1
    go.set()


def test_paused_starts_nothing_and_resume_goes_on(process: Process) -> None:
    handler = Recorder()
    process.start(handler)
    process.publish("orders", "a")
    handler.wait_for(1)
    process.supervisor.pause("orders", "billing", True)
    process.wait(lambda: process.supervisor.consumers()[0].paused)
    process.publish("orders", "b")
    process.wait(lambda: process.lag() == 1)
    assert len(handler.seen) == 1
    process.supervisor.pause("orders", "billing", False)
    assert handler.wait_for(2)[1] == (b"b", 1)


def test_more_concurrency_reaches_running_consumers(process: Process) -> None:
    entered, go = threading.Semaphore(0), threading.Event()

    def behave(record: Record) -> None:
        entered.release()
        assert go.wait(BOUND_S)

    process.start(Recorder(behave), tuning={})
    configuration = process.configuration
    process.supervisor.apply(_with_concurrency(configuration, 1))
    process.wait(lambda: process.supervisor.consumers(with_lag=False)[0].concurrency == 1)
    process.publish("orders", *"abcdef")
    assert entered.acquire(timeout=BOUND_S)
    process.supervisor.apply(_with_concurrency(configuration, 4))
    for _ in range(3):
        assert entered.acquire(timeout=BOUND_S)
    go.set()


def _with_concurrency(configuration: Configuration, concurrency: int) -> Configuration:
    from dataclasses import replace

    return replace(configuration, defaults={"concurrency": concurrency})


def test_another_process_takes_over_what_a_crashed_one_had_not_settled() -> None:
    store = SimLog()
    first, second = Process(store), Process(store)
    inside, go = threading.Event(), threading.Event()

    def hang(record: Record) -> None:
        inside.set()
        assert go.wait(BOUND_S)

    first.start(Recorder(hang), tuning={"concurrency": 1})
    first.publish("orders", "a", "b")
    assert inside.wait(BOUND_S)
    handler = Recorder()
    backend = first.supervisor.clusters.backend("local")
    assert isinstance(backend, SimBackend)
    backend.crash()
    second.start(handler)
    assert sorted(handler.wait_for(2)) == [(b"a", 1), (b"b", 1)]
    second.supervisor.close(BOUND_S)
    go.set()
    first.supervisor.close(
        BOUND_S
    )  # only its backend has died: the threads are this process's, and would spin through the tests that follow


def test_a_consumer_whose_adapter_breaks_is_restarted(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqsdk.runtime.loop.RESTART_FIRST_S", 0.01)
    handler = Recorder()
    process.start(handler)
    (_, loop) = process.supervisor.loops[0]
    broken = loop._consumer

    def poll(max_records: int, timeout_s: float) -> list[Any]:
        raise Unavailable("the server went away", cluster="local", backend="memory")

    monkeypatch.setattr(broken, "poll", poll)
    broken.wake()
    process.wait(lambda: loop._consumer is not broken)
    process.publish("orders", "a")
    assert handler.wait_for(1) == [(b"a", 1)]


def test_an_adapter_that_fails_at_every_call_does_not_end_the_consumer(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqsdk.runtime.loop.RESTART_FIRST_S", 0.01)
    handler = Recorder()
    process.start(handler, tuning={"in_flight_records": 4})
    process.wait(lambda: len(owned(process)) == 8)
    (_, loop) = process.supervisor.loops[0]
    broken = loop._consumer

    def fails(*given: Any) -> Any:
        raise TypeError("a defect of the adapter")

    for name in ("poll", "credit", "settle"):
        monkeypatch.setattr(broken, name, fails)
    broken.wake()
    process.wait(lambda: loop._consumer is not broken)
    process.publish("orders", "a")
    assert handler.wait_for(1) == [(b"a", 1)]


def test_a_broadcast_that_is_restarted_goes_on_where_it_was(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqsdk.runtime.loop.RESTART_FIRST_S", 0.01)
    handler = Recorder()
    process.start(handler, broadcast=True)
    process.publish("orders", "a", key="k")
    handler.wait_for(1)
    (_, loop) = process.supervisor.loops[0]
    process.wait(lambda: loop.view().last_settled_at is not None)
    broken = loop._consumer

    def fails(*given: Any) -> Any:
        if given:
            process.publish("orders", "meanwhile", key="k")
        monkeypatch.undo()
        raise TypeError("a defect of the adapter")

    monkeypatch.setattr(broken, "poll", fails)
    broken.wake()
    assert handler.wait_for(2) == [(b"a", 1), (b"meanwhile", 1)]
    assert loop._consumer is not broken


def test_a_job_is_started_even_if_the_settle_before_it_fails(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = Recorder()
    process.start(handler)
    process.wait(lambda: len(owned(process)) == 8)
    (_, loop) = process.supervisor.loops[0]
    partition, epoch = next(iter(loop._gates))

    def settle(progress: Any) -> None:
        raise TypeError("a defect of the adapter")

    monkeypatch.setattr(loop._consumer, "settle", settle)
    job = Job(1_000_000, partition, Origin("orders", "billing", "local", partition.number, epoch), [Record(0, None, b"a")], 1, batch=False)
    with pytest.raises(TypeError):
        loop._perform([Settle(Progress(partition, epoch, 0)), Run(job)])
    assert handler.wait_for(1) == [(b"a", 1)]


def test_a_change_that_comes_while_the_consumer_is_restarted_reaches_its_workers(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqsdk.runtime.loop.RESTART_FIRST_S", 0.3)
    entered, go = threading.Semaphore(0), threading.Event()

    def behave(record: Record) -> None:
        entered.release()
        assert go.wait(BOUND_S)

    process.supervisor.apply(_with_concurrency(process.configuration, 1))
    process.start(Recorder(behave), tuning={})
    (_, loop) = process.supervisor.loops[0]
    broken = loop._consumer

    def poll(max_records: int, timeout_s: float) -> list[Any]:
        raise Unavailable("the server went away", cluster="local", backend="memory")

    monkeypatch.setattr(broken, "poll", poll)
    broken.wake()
    process.wait(lambda: loop.failure != "")
    process.supervisor.apply(_with_concurrency(process.configuration, 3))
    process.wait(lambda: loop._consumer is not broken)
    process.publish("orders", *"abcdef")
    for _ in range(3):
        assert entered.acquire(timeout=BOUND_S)
    go.set()


def test_a_stop_whose_last_settle_fails_is_not_clean(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go = threading.Event(), threading.Event()

    def behave(record: Record) -> None:
        inside.set()
        assert go.wait(BOUND_S)

    process.start(Recorder(behave))
    process.publish("orders", "a")
    assert inside.wait(BOUND_S)
    (_, loop) = process.supervisor.loops[0]

    def settle(progress: Any) -> None:
        raise TypeError("a defect of the adapter")

    monkeypatch.setattr(loop._consumer, "settle", settle)
    go.set()
    report = process.supervisor.stop(BOUND_S)
    assert not report.clean


def test_what_a_backend_cannot_do_is_refused_at_start() -> None:
    process = Process(SimLog(), capabilities=Capabilities(settle="receipt", publish="inline", ordered=False))
    with pytest.raises(CapabilityError) as caught:
        process.start(Recorder(), ordered=True)
    assert (caught.value.capability, caught.value.cluster, caught.value.consumer) == ("ordered", "local", "orders/billing")


def test_pausing_a_consumer_that_does_not_run_is_a_state_error(process: Process) -> None:
    with pytest.raises(StateError):
        process.supervisor.pause("orders", "nobody", True)


def test_the_oldest_running_handler_is_shown_with_its_stack(process: Process) -> None:
    inside, go = threading.Event(), threading.Event()

    def waits_in_here(record: Record) -> None:
        inside.set()
        assert go.wait(BOUND_S)

    process.start(Recorder(waits_in_here))
    process.publish("orders", "a")
    assert inside.wait(BOUND_S)
    oldest = process.supervisor.consumers()[0].oldest
    assert oldest is not None
    assert oldest.id == "a"
    assert "waits_in_here" in oldest.stack
    go.set()


def owned(process: Process) -> set[int]:
    return {number for info in process.supervisor.consumers(with_lag=False) for number in info.partitions}


def test_partitions_are_shared_by_processes_of_a_group() -> None:
    store = SimLog()
    first, second = Process(store), Process(store)
    first.start(Recorder())
    second.start(Recorder())

    first.wait(lambda: len(owned(first)) == len(owned(second)) == 4 and not owned(first) & owned(second))
    assert Partition("orders", 0).number in owned(first) | owned(second)
    first.supervisor.close(BOUND_S)
    second.wait(lambda: len(owned(second)) == 8)
    second.supervisor.close(BOUND_S)
