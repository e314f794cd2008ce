"""What the decorator records and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from mqsdk import App, Backoff, Batch, DeclarationError, Message, MqError, RetryPolicy, Router, StateError


def good(payload: bytes) -> None: ...


BAD_OPTIONS: dict[str, dict[str, Any]] = {
    "concurrency 0": {"concurrency": 0},
    "concurrency -1": {"concurrency": -1},
    "concurrency 10**9": {"concurrency": 10**9},
    "concurrency 10,001": {"concurrency": 10_001},
    "concurrency is a bool": {"concurrency": True},
    "concurrency is text": {"concurrency": "8"},
    "timeout is negative": {"timeout": -1},
    "timeout is 0": {"timeout": 0},
    "timeout is NaN": {"timeout": float("nan")},
    "timeout without a unit": {"timeout": "30"},
    "timeout is a bool": {"timeout": True},
    "retry 0": {"retry": 0},
    "retry is a bool": {"retry": True},
    "retry is text": {"retry": "10"},
    "batch 0": {"batch": 0},
    "batch is text": {"batch": "10"},
    "batch without list": {"batch": 10},
    "ordered is not a bool": {"ordered": 1},
    "from_ is text": {"from_": "yesterday"},
    "from_ is naive": {"from_": datetime(2026, 1, 1)},
    "dead_letter is False": {"dead_letter": False},
    "dead_letter is a bad name": {"dead_letter": "a/b"},
    "dead_letter is reserved": {"dead_letter": "orders.billing.dlq"},
    "dead_letter is the topic": {"dead_letter": "orders"},
    "isolation is unknown": {"isolation": "fiber"},
    "unknown argument": {"conncurrency": 8},
    "group is empty": {"group": ""},
    "group has a dot": {"group": "a.b"},
    "group is not text": {"group": None},
}


@pytest.mark.parametrize("options", BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_a_bad_argument_is_refused_at_the_decorator(options: dict[str, Any]) -> None:
    app = App()
    with pytest.raises(DeclarationError) as caught:
        app.consumer("orders", **{"group": "billing", **options})(good)
    assert isinstance(caught.value, TypeError)
    assert caught.value.what
    assert app._declared == {}


@pytest.mark.parametrize(
    "topic", ["", "a" * 300, "..", "a..b", "a/b", "a\0b", "a\n", "%2e%2e", "a\u200bb", "mq.x", "a.retry", "a.delay", None, 5]
)
def test_a_bad_topic_is_refused_at_the_decorator(topic: Any) -> None:
    with pytest.raises(DeclarationError):
        App().consumer(topic, group="billing")(good)


def test_an_unknown_argument_names_the_nearest_known_one() -> None:
    with pytest.raises(DeclarationError, match="did you mean `concurrency`"):
        App().consumer("orders", group="billing", conncurrency=8)  # type: ignore[call-arg]


def test_the_group_has_no_default_and_the_text_says_why() -> None:
    with pytest.raises(DeclarationError, match="share the messages"):
        App().consumer("orders")(good)  # type: ignore[call-arg]


def test_a_decorator_without_parentheses_is_explained() -> None:
    with pytest.raises(DeclarationError, match="needs a topic and a group"):
        App().consumer(good)  # type: ignore[call-arg, arg-type]


def test_a_consumer_without_anything_is_explained() -> None:
    for declare in (App().consumer, Router().consumer):
        with pytest.raises(DeclarationError, match="needs a topic and a group") as caught:
            declare()  # type: ignore[call-arg]
        assert "test_consumer.py:" in caught.value.where
        assert caught.value.fix


def test_a_broadcast_begins_with_its_instance() -> None:
    App().consumer("orders", group="all", broadcast=True, from_="latest")(good)
    for start in ("earliest", datetime.now(UTC)):
        with pytest.raises(DeclarationError, match="no meaning"):
            App().consumer("orders", group="all", broadcast=True, from_=start)(good)


def test_worker_processes_need_an_importable_handler() -> None:
    def local(payload: bytes) -> None: ...

    with pytest.raises(DeclarationError, match="imported by name"):
        App().consumer("orders", group="billing", isolation="process")(local)
    with pytest.raises(DeclarationError, match="imported by name"):
        App().consumer("orders", group="billing", isolation="process")(lambda payload: None)
    with pytest.raises(DeclarationError, match="imported by name"):
        App().consumer("orders", group="billing", isolation="process")(partial(good))
    App().consumer("orders", group="billing", isolation="process")(good)


# --- functions --------------------------------------------------------------------------------------------------------------------


def no_parameters() -> None: ...
def var_args(*args: bytes) -> None: ...
def var_kwargs(payload: bytes, **more: Any) -> None: ...
def three(payload: bytes, message: Message, more: int) -> None: ...
def keyword_only(payload: bytes, *, more: int) -> None: ...
def second_is_no_message(payload: bytes, more: int) -> None: ...
def message_and_more(message: Message[bytes], more: int) -> None: ...
def list_of_messages(messages: list[Message]) -> None: ...
def generator(payload: bytes) -> Any:
    yield payload


async def async_generator(payload: bytes) -> Any:
    yield payload


class Handlers:
    def method(self, payload: bytes) -> None: ...

    @classmethod
    def of_class(cls, payload: bytes) -> None: ...

    @staticmethod
    def static(payload: bytes) -> None: ...

    def __call__(self, payload: bytes) -> None: ...


class AsyncCall:
    async def __call__(self, event: Any) -> None: ...


MISUSE: dict[str, Any] = {
    "no parameter": no_parameters,
    "*args": var_args,
    "**kwargs": var_kwargs,
    "three parameters": three,
    "keyword-only without default": keyword_only,
    "second parameter is no Message": second_is_no_message,
    "Message and more": message_and_more,
    "list[Message] without batch": list_of_messages,
    "generator": generator,
    "async generator": async_generator,
    "generator in a partial": partial(generator),
    "a class": Handlers,
    "an unbound method": Handlers.method,
    "a classmethod object": Handlers.__dict__["of_class"],
    "a number": 5,
    "nothing": None,
    "a built-in without signature": print,
}


@pytest.mark.parametrize("function", MISUSE.values(), ids=MISUSE.keys())
def test_a_function_that_cannot_be_a_handler_is_refused(function: Any) -> None:
    app = App()
    with pytest.raises(DeclarationError):
        app.consumer("orders", group="billing")(function)
    assert app._declared == {}


def unannotated(payload): ...  # type: ignore[no-untyped-def]
def with_defaults(payload: bytes, tries: int = 3, *, log: bool = False) -> None: ...
def message_by_default(payload: bytes, message: Message | None = None) -> None: ...
def message_of(message: Message[dict]) -> None: ...  # type: ignore[type-arg]
def both_untyped(payload, message): ...  # type: ignore[no-untyped-def]


GOOD: dict[str, tuple[Callable[..., Any], str]] = {
    "payload": (good, "payload"),
    "unannotated": (unannotated, "payload"),
    "further parameters with defaults": (with_defaults, "payload"),
    "Message with a default": (message_by_default, "both"),
    "Message only": (message_of, "message"),
    "two without annotation": (both_untyped, "both"),
    "bound method": (Handlers().method, "payload"),
    "class method": (Handlers.of_class, "payload"),
    "static method": (Handlers.static, "payload"),
    "callable object": (Handlers(), "payload"),
    "partial": (partial(with_defaults, tries=5), "payload"),
}


@pytest.mark.parametrize(("function", "passes"), GOOD.values(), ids=GOOD.keys())
def test_a_function_of_the_contract_is_taken_and_returned_unchanged(function: Callable[..., Any], passes: str) -> None:
    app = App()
    assert app.consumer("orders", group="billing")(function) is function
    assert app._declared["orders", "billing"].shape().passes == passes


def items(payloads: list[bytes]) -> None: ...
def items_and_messages(payloads: list[bytes], messages: list[Message]) -> None: ...
def messages_only(messages: list[Message[bytes]]) -> None: ...
def bare_list(payloads: list) -> None: ...  # type: ignore[type-arg]
def a_tuple(payloads: tuple[bytes, ...]) -> None: ...
def items_and_message(payloads: list[bytes], message: Message) -> None: ...


@pytest.mark.parametrize(("function", "passes"), [(items, "payload"), (items_and_messages, "both"), (messages_only, "message")])
def test_batch_handlers_take_lists(function: Callable[..., Any], passes: str) -> None:
    app = App()
    app.consumer("orders", group="billing", batch=Batch(size=10, wait="50ms"))(function)
    declared = app._declared["orders", "billing"]
    assert (declared.batch, declared.batch_wait_s) == (10, 0.05)
    assert (declared.shape().passes, declared.shape().annotation) == (passes, bytes)


@pytest.mark.parametrize("function", [good, unannotated, bare_list, a_tuple, items_and_message])
def test_a_batch_handler_without_list_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(DeclarationError):
        App().consumer("orders", group="billing", batch=10)(function)


# --- annotations as text (this module has `from __future__ import annotations`) ----------------------------------------------------


def test_a_class_defined_inside_the_function_is_found() -> None:
    @dataclass
    class Order:
        id: int

    app = App()

    @app.consumer("orders", group="billing")
    def bill(order: Order) -> None: ...

    assert app._declared["orders", "billing"].shape().annotation is Order


def test_a_class_defined_below_the_handler_is_found_at_start() -> None:
    app = App()
    app.consumer("orders", group="billing")(uses_later)
    assert app._declared["orders", "billing"].shape().annotation is Later


def uses_later(order: Later) -> None: ...


# Declared while `Later` does not exist yet: the module-level case of a forward reference.
EARLY = App()
EARLY.consumer("orders", group="billing")(uses_later)


class Later: ...


def test_a_forward_reference_is_resolved_when_it_is_needed() -> None:
    assert EARLY._declared["orders", "billing"].early_shape is None
    assert EARLY._declared["orders", "billing"].shape().annotation is Later


def test_an_annotation_that_never_resolves_is_named_at_start(open_app: Callable[[App], App]) -> None:
    app = App()

    @app.consumer("orders", group="billing")
    def bill(order: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    open_app(app)
    with pytest.raises(DeclarationError, match="Nowhere"):
        app.start()
    assert app.state == "OPEN"


# --- the same pair twice ----------------------------------------------------------------------------------------------------------


def test_one_pair_has_one_handler_whatever_its_settings() -> None:
    app = App()
    app.consumer("orders", group="billing", concurrency=2)(good)
    with pytest.raises(DeclarationError, match="declared twice"):
        app.consumer("orders", group="billing", concurrency=4)(unannotated)
    app.consumer("orders", group="search")(good)  # another group gets its own copy, the same function is fine


def test_the_decorator_applied_twice_is_refused() -> None:
    app = App()
    with pytest.raises(DeclarationError, match="declared twice"):

        @app.consumer("orders", group="billing")
        @app.consumer("orders", group="billing")
        def bill(order: bytes) -> None: ...


def test_a_router_brings_its_consumers_and_may_add_more_later() -> None:
    app, router = App(), Router()
    router.consumer("orders", group="billing")(good)
    app.include_router(router)
    router.consumer("orders", group="search")(good)
    assert sorted(app._declared) == [("orders", "billing"), ("orders", "search")]


def test_a_router_with_a_pair_of_the_app_is_refused_whole() -> None:
    app, router = App(), Router()
    app.consumer("orders", group="billing")(good)
    router.consumer("orders", group="audit")(good)
    router.consumer("orders", group="billing")(good)
    with pytest.raises(DeclarationError, match="declared twice"):
        app.include_router(router)
    assert list(app._declared) == [("orders", "billing")]


def test_a_router_belongs_to_one_app() -> None:
    app, router = App(), Router()
    app.include_router(router)
    for other in (app, App()):
        with pytest.raises(DeclarationError, match="already included"):
            other.include_router(router)
    with pytest.raises(DeclarationError):
        app.include_router(app)  # type: ignore[arg-type]


def test_a_router_without_an_app_cannot_publish() -> None:
    with pytest.raises(StateError):
        Router().publish("orders", b"x")


def test_a_router_publishes_through_its_app(app: App) -> None:
    router = Router()
    app.include_router(router)
    assert router.publish("orders", b"x").topic == "orders"
    assert [receipt.topic for receipt in router.publish_many("orders", [b"x", b"y"])] == ["orders", "orders"]


# --- what is recorded -------------------------------------------------------------------------------------------------------------


def test_only_explicit_values_are_recorded_so_that_configuration_can_be_stronger() -> None:
    app = App()
    app.consumer("orders", group="plain")(good)
    app.consumer("orders", group="full", concurrency=2, timeout=None, retry=3)(good)
    assert dict(app._declared["orders", "plain"].tuning) == {}
    assert dict(app._declared["orders", "full"].tuning) == {"concurrency": 2, "timeout_s": None, "retry": RetryPolicy(attempts=3)}


def test_everything_else_is_recorded_as_it_was_given() -> None:
    app = App()
    moment = datetime.now(UTC) - timedelta(days=1)
    policy = RetryPolicy(reject_on=(KeyError,), backoff=Backoff("10ms"))
    app.consumer("orders", group="g", ordered=True, from_=moment, dead_letter="orders.bad", retry=policy, timeout=timedelta(minutes=2))(
        good
    )
    declared = app._declared["orders", "g"]
    assert (declared.ordered, declared.start, declared.dead_letter) == (True, moment, "orders.bad")
    assert declared.reject_on == (KeyError,)
    assert declared.tuning["timeout_s"] == 120.0


def test_a_consumer_may_read_dead_letters() -> None:
    app = App()
    app.consumer("orders.billing.dlq", group="repair")(good)
    assert ("orders.billing.dlq", "repair") in app._declared


@pytest.mark.parametrize(
    "make",
    [
        lambda: Batch(size=0),
        lambda: Batch(size=True),
        lambda: Batch(wait="30"),
        lambda: Backoff("-1s"),
        lambda: RetryPolicy(attempts=0),
        lambda: RetryPolicy(on_exhausted="forget"),  # type: ignore[arg-type]
        lambda: App(config=5),  # type: ignore[arg-type]
        lambda: App(name=""),
        lambda: App(name="a b"),  # as `app:` of the file
        lambda: App(name=3),  # type: ignore[arg-type]
        lambda: Backoff("1m", max="1s"),
        lambda: Backoff("5m"),  # `max` is 1m
    ],
)
def test_the_objects_of_a_declaration_refuse_bad_values(make: Callable[[], Any]) -> None:
    with pytest.raises(MqError):
        make()


def test_only_what_this_version_does_is_offered_for_the_end_of_attempts() -> None:
    with pytest.raises(DeclarationError) as caught:
        RetryPolicy(on_exhausted="forget")  # type: ignore[arg-type]
    assert caught.value.what == '`on_exhausted` is "dead_letter", "drop", "halt_key" or "halt_partition"'


@pytest.mark.parametrize(
    ("halt", "options", "what"),
    [
        ("halt_key", {}, "needs `ordered=True`"),
        ("halt_partition", {"broadcast": True}, "keeps no progress"),
        ("halt_key", {"ordered": True, "broadcast": True}, "keeps no progress"),
    ],
)
def test_a_halt_that_cannot_be_kept_is_refused_at_the_decorator(halt: Any, options: dict[str, Any], what: str) -> None:
    with pytest.raises(DeclarationError, match=what):
        App().consumer("orders", group="billing", retry=RetryPolicy(on_exhausted=halt), **options)(good)


def test_an_unordered_consumer_may_halt_its_partition() -> None:
    App().consumer("orders", group="billing", retry=RetryPolicy(on_exhausted="halt_partition"))(good)


def test_a_wrong_name_of_an_app_is_told_by_its_type() -> None:
    with pytest.raises(DeclarationError, match="text, not int"):
        App(name=3)  # type: ignore[arg-type]


def test_hooks_middleware_and_observers_are_checked_at_the_decorator() -> None:
    app = App()
    bad: list[tuple[Callable[..., Any], Any]] = [
        (app.on_startup, good),
        (app.on_startup, generator),
        (app.on_shutdown, 5),
        (app.middleware, good),
        (app.middleware, lambda: (yield)),
        (app.observe, 5),
        (app.observe, App),
        (app.observe, no_parameters),
        (app.observe, second_is_no_message),
        (app.observe, generator),
        (app.observe, async_generator),
        (app.observe, AsyncCall()),
    ]
    for decorate, function in bad:
        with pytest.raises(DeclarationError):
            decorate(function)
