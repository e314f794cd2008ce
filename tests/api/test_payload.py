"""Payloads to and from the wire, with msgspec and without: the results must be the same."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest

from mqsdk.api import jsontext
from mqsdk.api.encoding import BINARY, JSON, TEXT, NotEncodable, encode
from mqsdk.api.payload import Limits, decoder
from mqsdk.errors import DeclarationError, DecodeError
from mqsdk.spi import Record

LIMIT = 1024 * 1024


@pytest.fixture(params=["msgspec", "plain"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(jsontext, "msgspec_module", lambda: None)
    return str(request.param)


def read(annotation: Any, raw: bytes, content_type: str | None = None) -> Any:
    return decoder(annotation, Limits(LIMIT))(Record(0, None, raw, content_type=content_type))


class Colour(Enum):
    RED = "red"


class Line(TypedDict):
    sku: str
    count: NotRequired[int]


@dataclass
class Order:
    id: int
    price: float = 0.0
    note: str | None = None
    lines: list[Line] = field(default_factory=list)


@dataclass
class Bare:
    id: int
    tags: list[str] = field(default_factory=list)


class Refund(msgspec.Struct):
    id: int
    note: str | None = None


class Customer(pydantic.BaseModel):
    id: int
    name: str = ""


@dataclass
class Held:
    customer: Customer


class Decoded:
    """A class that no codec knows."""


class Pair(NamedTuple):
    a: int
    b: str


READS: dict[str, tuple[Any, bytes, Any]] = {
    "bytes": (bytes, b"\xff\x00", b"\xff\x00"),
    "str": (str, "é\u2028".encode(), "é\u2028"),
    "empty str": (str, b"", ""),
    "dict": (dict, b'{"a": [1, null]}', {"a": [1, None]}),
    "list": (list, b"[1]", [1]),
    "dict of": (dict[str, int], b'{"a":1}', {"a": 1}),
    "dict with int keys": (dict[int, str], b'{"1":"a"}', {1: "a"}),
    "list of": (list[Bare], b'[{"id":1}]', [Bare(1)]),
    "int": (int, b"7", 7),
    "30 digits": (int, b"1" * 30, int("1" * 30)),
    "float": (float, b"7", 7.0),
    "bool": (bool, b"true", True),
    "union of plain types": (int | str, b'"a"', "a"),
    "optional": (Bare | None, b"null", None),
    "literal": (Literal["a", "b"], b'"b"', "b"),
    "TypedDict": (Line, b'{"sku":"x","more":1}', {"sku": "x"}),
    "list of TypedDict": (list[Line], b'[{"sku":"x","count":2}]', [{"sku": "x", "count": 2}]),
    "dataclass": (Bare, b'{"id":1,"tags":["a"],"more":0}', Bare(1, ["a"])),
    "union of two dataclasses": (Bare | Held, b'{"id":1}', Bare(1)),
    "struct": (Refund, b'{"id":1}', Refund(1)),
    "pydantic": (Customer, b'{"id":"5","name":"x"}', Customer(id=5, name="x")),
    "list of pydantic": (list[Customer], b'[{"id":1}]', [Customer(id=1)]),
    "dataclass that holds pydantic": (Held, b'{"customer":{"id":1}}', Held(Customer(id=1))),
    "named tuple": (Pair, b'[1,"a"]', Pair(1, "a")),
    "tuple": (tuple[int, str], b'[1,"a"]', (1, "a")),
    "datetime": (datetime, b'"2026-01-02T03:04:05Z"', datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
    "date": (date, b'"2026-01-02"', date(2026, 1, 2)),
    "uuid": (UUID, b'"00000000-0000-0000-0000-000000000005"', UUID(int=5)),
    "decimal": (Decimal, b'"1.50"', Decimal("1.50")),
    "enum": (Colour, b'"red"', Colour.RED),
    "duplicate keys: the last one": (dict, b'{"a":1,"a":2}', {"a": 2}),
}


@pytest.mark.parametrize(("annotation", "raw", "expected"), READS.values(), ids=READS.keys())
def test_the_annotation_decides_how_bytes_are_read(path: str, annotation: Any, raw: bytes, expected: Any) -> None:
    value = read(annotation, raw, content_type="image/png")  # a wrong content type changes nothing
    assert value == expected
    assert type(value) is type(expected)


def test_a_typed_dict_inside_a_dataclass_is_read_by_msgspec() -> None:
    assert read(Order, b'{"id":1,"lines":[{"sku":"x"}]}') == Order(1, lines=[{"sku": "x"}])


MISFITS: dict[str, tuple[Any, bytes]] = {
    "str: not UTF-8": (str, b"\xff"),
    "str: surrogates": (str, b"\xed\xa0\x80"),
    "dict: a list": (dict, b"[1]"),
    "list: an object": (list, b"{}"),
    "int from text": (int, b'"1"'),
    "int from 1.0": (int, b"1.0"),
    "int from true": (int, b"true"),
    "bool from 1": (bool, b"1"),
    "float from text": (float, b'"1"'),
    "float from true": (float, b"true"),
    "NaN": (float, b"NaN"),
    "NaN in a dict": (dict, b'{"a":NaN}'),
    "NaN in a model": (Customer, b'{"id":1,"more":NaN}'),
    "Infinity": (dict, b'{"a":-Infinity}'),
    "out of range": (float, b"1e999"),
    "out of range inside": (dict, b'{"a":1e999}'),
    "an integer of 5,000 digits": (int, b"1" * 5000),
    "an integer of 5,000 digits inside": (dict, b'{"a":' + b"1" * 5000 + b"}"),
    "an integer of 5,000 digits in a dataclass": (Bare, b'{"id":' + b"1" * 5000 + b"}"),
    "an integer of 5,000 digits in a model": (Customer, b'{"id":' + b"1" * 5000 + b"}"),
    "lone surrogate": (dict, rb'{"a":"\ud800"}'),
    "bytes that are no UTF-8 inside": (dict, b'{"a":"\xff"}'),
    "65 levels": (list, b"[" * 65 + b"]" * 65),
    "65 levels in a model": (Customer, b'{"id":1,"more":' + b"[" * 65 + b"]" * 65 + b"}"),
    "100,000 levels": (list, b"[" * 100_000),
    "100,000 objects": (dict, b'{"a":' * 100_000),
    "empty": (dict, b""),
    "empty in a model": (Customer, b""),
    "two values": (dict, b"{} {}"),
    "byte order mark": (dict, b"\xef\xbb\xbf{}"),
    "cut off": (dict, b'{"a":'),
    "trailing comma": (list, b"[1,]"),
    "leading zero": (int, b"01"),
    "control character": (dict, b'{"a":"\n"}'),
    "missing field": (Bare, b"{}"),
    "wrong type of a field": (Bare, b'{"id":"1"}'),
    "missing field of a TypedDict": (Line, b"{}"),
    "missing field of a struct": (Refund, b"{}"),
    "missing field of a model": (Customer, b"{}"),
    "not one of the union": (int | str, b"1.5"),
    "not one of the literal": (Literal["a"], b'"SECRET"'),
    "not one of the enum": (Colour, b'"SECRET"'),
}


@pytest.mark.parametrize(("annotation", "raw"), MISFITS.values(), ids=MISFITS.keys())
def test_what_does_not_fit_is_a_decode_error_without_content(path: str, annotation: Any, raw: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        read(annotation, raw)
    text = str(caught.value)
    assert "SECRET" not in text
    assert len(text) < 300
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_a_text_names_the_field_that_the_type_declares(path: str) -> None:
    with pytest.raises(DecodeError, match="id"):
        read(Bare, b'{"id":"SECRET"}')
    with pytest.raises(DecodeError, match="`id`"):
        read(Customer, b'{"id":"SECRET"}')
    with pytest.raises(DecodeError) as caught:
        read(dict[str, Customer], b'{"SECRET":{}}')
    assert "SECRET" not in str(caught.value)


def test_a_validator_of_the_user_that_raises_is_a_decode_error(path: str) -> None:
    @dataclass
    class Picky:
        id: int

        def __post_init__(self) -> None:
            raise ZeroDivisionError("SECRET")

    with pytest.raises(DecodeError) as caught:
        read(Picky, b'{"id":1}')
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("levels", [1, 63, 64])
def test_64_levels_are_read(path: str, levels: int) -> None:
    raw = b"[" * levels + b"]" * levels
    assert json.dumps(read(list, raw)).encode() == raw


def test_brackets_inside_text_are_no_levels(path: str) -> None:
    value = ["[" * 500, '\\"[{' * 100]
    assert read(list, json.dumps(value).encode()) == value


ANY: dict[str, tuple[bytes, str | None, Any]] = {
    "JSON": (b'{"a":1}', "application/json", {"a": 1}),
    "JSON with a charset": (b"[1]", "application/json; charset=utf-8", [1]),
    "a kind of JSON": (b"1", "application/vnd.shop+json", 1),
    "text": (b"abc", "text/plain; charset=utf-8", "abc"),
    "upper case": (b"abc", "Text/HTML", "abc"),
    "bytes": (b"abc", "application/octet-stream", b"abc"),
    "nothing said": (b"abc", None, b"abc"),
}


@pytest.mark.parametrize(("raw", "content_type", "expected"), ANY.values(), ids=ANY.keys())
def test_without_annotation_the_content_type_decides(path: str, raw: bytes, content_type: str | None, expected: Any) -> None:
    assert read(Any, raw, content_type) == expected


@pytest.mark.parametrize(("raw", "content_type"), [(b"{", "application/json"), (b"\xff", "text/plain")])
def test_a_content_type_that_lies_is_a_decode_error(path: str, raw: bytes, content_type: str) -> None:
    with pytest.raises(DecodeError):
        read(Any, raw, content_type)


@pytest.mark.parametrize("annotation", [bytes, str, dict, Any, Bare, Customer])
def test_the_size_is_checked_before_anything_is_parsed(annotation: Any) -> None:
    limits = Limits(10)
    read_it = decoder(annotation, limits)
    with pytest.raises(DecodeError, match=r"limits\.payload is 10"):
        read_it(Record(0, None, b"[" * 11))
    limits.payload = 1000
    if annotation in (bytes, str, Any):
        assert read_it(Record(0, None, b"[" * 11))


@pytest.mark.parametrize("annotation", [bytearray, memoryview, type(open), Refund | Customer, Decoded])
def test_an_annotation_that_no_codec_reads_is_a_declaration_error(annotation: Any) -> None:
    with pytest.raises(DeclarationError):
        decoder(annotation, Limits(LIMIT))


def test_bytes_inside_json_need_msgspec(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(dict[str, bytes], b'{"a":"aGk="}') == {"a": b"hi"}
    monkeypatch.setattr(jsontext, "msgspec_module", lambda: None)
    with pytest.raises(DeclarationError, match="fast"):
        decoder(dict[str, bytes], Limits(LIMIT))


# --- to the wire ------------------------------------------------------------------------------------------------------------------

WRITES: dict[str, tuple[Any, bytes, str]] = {
    "bytes": (b"\xff", b"\xff", BINARY),
    "bytearray": (bytearray(b"a"), b"a", BINARY),
    "memoryview": (memoryview(b"a"), b"a", BINARY),
    "str": ("é", "é".encode(), TEXT),
    "dict": ({"a": [1, None, "é"]}, '{"a":[1,null,"é"]}'.encode(), JSON),
    "int": (5, b"5", JSON),
    "30 digits": (10**30, str(10**30).encode(), JSON),
    "float": (1.5, b"1.5", JSON),
    "bool": (True, b"true", JSON),
    "list": ([1, "a"], b'[1,"a"]', JSON),
    "tuple": ((1, 2), b"[1,2]", JSON),
    "set": ({1}, b"[1]", JSON),
    "keys that are numbers": ({1: 2}, b'{"1":2}', JSON),
    "keys that are booleans": ({True: 1}, b'{"true":1}', JSON),
    "dataclass": (Bare(1, ["a"]), b'{"id":1,"tags":["a"]}', JSON),
    "struct": (Refund(1), b'{"id":1,"note":null}', JSON),
    "pydantic": (Customer(id=1), b'{"id":1,"name":""}', JSON),
    "list of pydantic": ([Customer(id=1)], b'[{"id":1,"name":""}]', JSON),
    "dataclass that holds pydantic": (Held(Customer(id=1)), b'{"customer":{"id":1,"name":""}}', JSON),
    "datetime UTC": (datetime(2026, 1, 2, tzinfo=UTC), b'"2026-01-02T00:00:00Z"', JSON),
    "datetime with an offset": (datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=2))), b'"2026-01-02T00:00:00+02:00"', JSON),
    "naive datetime": (datetime(2026, 1, 2, 3, 4, 5, 6), b'"2026-01-02T03:04:05.000006"', JSON),
    "date": (date(2026, 1, 2), b'"2026-01-02"', JSON),
    "duration": (timedelta(days=1, seconds=5), b'"P1DT5S"', JSON),
    "no duration": (timedelta(0), b'"P0D"', JSON),
    "uuid": (UUID(int=5), b'"00000000-0000-0000-0000-000000000005"', JSON),
    "decimal": (Decimal("1.50"), b'"1.50"', JSON),
    "enum": (Colour.RED, b'"red"', JSON),
    "bytes inside": ({"a": b"hi"}, b'{"a":"aGk="}', JSON),
    "null inside": ({"a": None, "b": 1.5}, b'{"a":null,"b":1.5}', JSON),
    "text that says null": ("null", b"null", TEXT),
}


@pytest.mark.parametrize(("payload", "raw", "content_type"), WRITES.values(), ids=WRITES.keys())
def test_what_goes_to_the_wire(path: str, payload: Any, raw: bytes, content_type: str) -> None:
    assert encode(payload) == (raw, content_type)


class Loop:
    def make(self) -> list[Any]:
        items: list[Any] = []
        items.append(items)
        return items


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


REFUSED: dict[str, Callable[[], Any]] = {
    "NaN": lambda: math.nan,
    "NaN inside": lambda: {"a": [1, math.nan]},
    "NaN as a key": lambda: {math.nan: 1},
    "infinity": lambda: {"a": -math.inf},
    "NaN beside a null": lambda: {"a": None, "b": math.nan},
    "NaN in a dataclass": lambda: Order(1, price=math.nan),
    "NaN in a model": lambda: pydantic.create_model("M", a=(float, 1.0))(a=math.nan),
    "NaN in a struct": lambda: msgspec.defstruct("S", [("a", float)])(math.nan),
    "an integer of 5,000 digits": lambda: 10**5000,
    "lone surrogate": lambda: "\ud800",
    "lone surrogate inside": lambda: {"a": "\ud800"},
    "65 levels": lambda: deep(65),
    "5,000 levels": lambda: deep(5000),
    "a list that holds itself": lambda: Loop().make(),
    "an object": object,
    "a class": lambda: Bare,
    "a function": lambda: encode,
    "keys that are tuples": lambda: {(1, 2): 3},
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_form_on_the_wire_is_refused(path: str, make: Callable[[], Any]) -> None:
    with pytest.raises(NotEncodable) as caught:
        encode(make())
    assert len(str(caught.value)) < 200


def test_what_is_written_is_read_back(path: str) -> None:
    for value in (Bare(1, ["a", "é"]), Held(Customer(id=3, name="x")), {"a": [1, 2.5, None, True]}, deep(64), Refund(5, "x")):
        annotation = type(value)
        assert read(annotation, encode(value)[0]) == value
