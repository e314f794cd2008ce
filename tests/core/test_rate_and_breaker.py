"""The bucket and the breaker alone, against models of a few lines: a number of tokens, a list of attempts."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from mqsdk.core.actions import BreakerPolicy
from mqsdk.core.breaker import SLOTS, Breaker
from mqsdk.core.rate import Bucket

RATES = st.sampled_from((1 / 3600, 0.5, 1.0, 3.0, 15.0, 200.0, 9_999.0))
STEPS = st.lists(st.tuples(st.sampled_from(("take", "batch", "back", "retune")), st.integers(1, 50), st.floats(0, 3)), max_size=60)


@given(RATES, STEPS, RATES)
def test_the_bucket_is_a_number_of_tokens_that_grows(rate: float, steps: list[tuple[str, int, float]], other: float) -> None:
    now, bucket, tokens = 1000.0, Bucket(rate), Fraction(max(1, int(rate / 10)))
    for what, count, gaps in steps:
        now += gaps / rate
        tokens = min(Fraction(bucket.burst), tokens + Fraction(gaps))
        available = bucket.available(now)
        assert abs(available - max(0, int(tokens + Fraction(1, 10**5)))) <= (abs(tokens - round(tokens)) < 0.001)
        assert (available > 0) == (now >= bucket.moment(1))
        if what == "take" and available:
            bucket.take(now, 1)
            tokens -= 1
        elif what == "batch" and now >= bucket.moment(count):
            assert tokens >= min(count, bucket.burst) - Fraction(1, 1000)
            bucket.take(now, count)
            tokens -= count
        elif what == "back":
            bucket.give_back(count)
            tokens = min(Fraction(bucket.burst), tokens + count)
        elif what == "retune":
            missing = bucket.burst - tokens
            bucket, rate, other = bucket.retuned(now, other), other, rate
            tokens = Fraction(bucket.burst) - min(missing, Fraction(bucket.burst))


ATTEMPTS = st.lists(st.tuples(st.floats(0, 4), st.integers(0, 5), st.integers(0, 5)), max_size=40)


@given(ATTEMPTS, st.sampled_from((0.2, 0.5, 0.9, 1.0)), st.integers(1, 12))
def test_it_opens_by_the_attempts_of_its_window_alone(attempts: list[tuple[float, int, int]], share: float, minimum: int) -> None:
    """The model knows every attempt; an attempt at the edge of the window, by a slot of it, may count or not."""
    breaker, now, seen = Breaker(BreakerPolicy(share, minimum, 10.0, 1.0)), 1000.0, list[tuple[float, int, int]]()
    for token, (wait, good, failed) in enumerate(attempts, 1):
        now += wait
        seen.append((now, good + failed, failed))
        slot = int(now // (10.0 / SLOTS))
        window = [one for one in seen if int(one[0] // (10.0 / SLOTS)) > slot - SLOTS]
        total, bad = sum(one[1] for one in window), sum(one[2] for one in window)
        assert all(now - moment <= 10.0 for moment, _, _ in window)
        opens = failed > 0 and total >= minimum and bad / total >= share
        assert breaker.ended(now, token, good + failed, failed) == opens
        if opens:
            assert (breaker.state, breaker.failed, breaker.attempts, breaker.moment()) == ("open", bad, total, now + 1.0)
            return


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(("good", "bad", "nothing", "stranger"))), min_size=1, max_size=30))
def test_an_open_breaker_has_one_probe_out_and_closes_on_its_success_alone(steps: list[tuple[bool, str]]) -> None:
    breaker, now, token, out = Breaker(BreakerPolicy(0.5, 1, 10.0, 5.0)), 0.0, 1, False
    assert breaker.ended(now, token, 1, 1)
    for waits, what in steps:
        now += 5.0 if waits else 0.0
        moment = breaker.moment()
        assert (moment is None) == out
        if moment is not None and now >= moment:
            token, out = token + 1, True
            breaker.started(token)
        if what == "stranger":
            assert not breaker.ended(now, 999, 1, 0)
        elif out:
            breaker.ended(now, token, what != "nothing", what == "bad")
            out = False
            assert breaker.state == {"good": "closed", "bad": "open", "nothing": "probing"}[what]
            if what == "good":
                assert breaker.moment() is None
                return
