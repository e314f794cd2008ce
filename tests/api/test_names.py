"""The one validator for names."""

import pytest

from mqsdk import names

BAD_TOPICS = {
    "empty": "",
    "300 characters": "a" * 300,
    "121 characters": "a" * 121,
    "two dots": "a..b",
    "slash": "a/b",
    "NUL": "a\0b",
    "newline": "a\nb",
    "newline at the end": "ab\n",
    "percent": "%2e%2e",
    "zero-width": "a\u200bb",
    "letters beyond ASCII": "ä",
    "digits beyond ASCII": "a\u0661",
    "leading dot": ".a",
    "wildcard": "a.*",
    "space": "a b",
    "reserved prefix": "mq.internal",
    "dead letters": "a.b.dlq",
    "retries": "a.b.retry",
    "delays": "a.delay",
    "not text": 7,
    "nothing": None,
    "bytes": b"orders",
}


@pytest.mark.parametrize("name", BAD_TOPICS.values(), ids=BAD_TOPICS.keys())
def test_a_bad_topic_has_a_sentence_without_control_characters(name: object) -> None:
    problem = names.topic_problem(name)
    assert problem
    assert problem.isprintable()
    assert len(problem) < 200


@pytest.mark.parametrize("name", ["a", "orders.created", "A-1_b.c", "0", "a" * 120, "mq", "mqx.a"])
def test_a_good_topic_passes(name: str) -> None:
    assert names.topic_problem(name) is None


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "a" * 121, "-a", "a\n", 3])
def test_a_bad_group_has_a_sentence(name: object) -> None:
    assert names.group_problem(name)


def test_a_reader_may_name_dead_letters_of_the_longest_pair() -> None:
    longest = names.composed("t" * 120, "g" * 120)
    assert len(longest) <= names.MAX_COMPOSED
    assert names.topic_problem(longest, reading=True) is None
    assert names.topic_problem(longest)
    assert names.topic_problem("a.b.retry", reading=True)


def test_a_pair_whose_composed_names_are_too_long_is_found() -> None:
    assert names.pair_problem("t" * 120, "g" * 120) is None
    assert names.pair_problem(names.composed("t" * 120, "g" * 120), "g")
