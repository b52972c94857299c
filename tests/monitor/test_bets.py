"""The alarm's mathematics, against the formulas written out and against exact enumeration."""

from collections import Counter
from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from padim.monitor.bets import Bets
from padim.monitor.pool import Pool

values = st.lists(st.integers(0, 4).map(float), min_size=1, max_size=30)


def conformal(stream: list[float], u: list[float]) -> list[float]:
    """p_t = (#{i < t: s_i > s_t} + U #{i <= t: s_i = s_t}) / t, as it is written."""
    found = []
    for t in range(1, len(stream) + 1):
        s = stream[t - 1]
        higher = sum(stream[i] > s for i in range(t - 1))
        equal = sum(stream[i] == s for i in range(t))
        found.append((higher + u[t - 1] * equal) / t)
    return found


def jumper(p_values: list[float], jump: float = 0.01) -> list[float]:
    """The capital of the Simple Jumper after each p-value, as Vovk et al. write it."""
    capital = dict.fromkeys((-1, 0, 1), 1 / 3)
    found = []
    for p in p_values:
        total = sum(capital.values())
        for side in capital:
            capital[side] = (1 - jump) * capital[side] + jump / 3 * total
            capital[side] *= 1 + side * (p - 0.5)
        found.append(sum(capital.values()))
    return found


def shiryaev_roberts(capital: list[float]) -> list[float]:
    """The sum over all starts of what a capital has grown to from there."""
    return [
        sum(capital[t] / (capital[k - 1] if k else 1) for k in range(t + 1))
        for t in range(len(capital))
    ]


@given(stream=values, seed=st.integers(0, 1000))
def test_p_values_are_those_of_the_formula(stream: list[float], seed: int) -> None:
    u = np.random.default_rng(seed).random((len(stream), 2))
    pool = Pool(np.empty((0, 1), np.float32), 50)
    found = []
    for s, (own, leaving) in zip(stream, u, strict=True):
        row = np.array([s], np.float32)
        found += pool.p_values(row, np.array([own])).tolist()
        pool.add(row, leaving)
    assert found == pytest.approx(conformal(stream, u[:, 0].tolist()))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_bets_are_those_of_the_formulas(p_values: list[float]) -> None:
    bets = Bets.start(1, 0)
    capital, evidence = jumper(p_values), shiryaev_roberts(jumper(p_values))
    for i, p in enumerate(p_values):
        bets = bets.step(np.array([p]), i)
        assert bets.capital == pytest.approx(capital[i])
        assert bets.total == pytest.approx(evidence[i])
    before = [1.0, *capital[:-1]]
    least = min(before)
    since = int(bets.since[0])
    assert before[since] == pytest.approx(least)
    assert bets.find_gain(0) == pytest.approx(capital[-1] / least)


def test_several_statistics_bet_each_for_itself() -> None:
    p_values = np.random.default_rng(0).random((50, 3)) ** [1, 2, 0.5]
    together, alone = Bets.start(3, 0), [Bets.start(1, 0) for _ in range(3)]
    for i, row in enumerate(p_values):
        together = together.step(row, i)
        alone = [one.step(row[[k]], i) for k, one in enumerate(alone)]
    assert together.total == pytest.approx(np.mean([one.total for one in alone]))
    assert together.capital == pytest.approx(np.mean([one.capital for one in alone]))
    assert together.find_culprit() == int(together.evidence.argmax())
    assert together.is_higher(1)  # small p-values are those of high values
    assert not together.is_higher(2)


@pytest.mark.parametrize("n_kept", [1, 2, 3])
def test_p_values_of_a_pool_that_forgets_are_exactly_independent(n_kept: int) -> None:
    """Over every order of five parts and every part that may leave, each row of ranks is as likely.

    The rank is read off the p-value of U = 0: how many in the pool are higher.
    """
    n_parts, counts = 5, Counter[tuple[int, ...]]()
    choices = [i / (n_kept + 1) + 1e-6 for i in range(n_kept + 1)]
    n_leaving = n_parts - n_kept
    for order in permutations(range(n_parts)):
        for leaving in product(choices, repeat=n_leaving):
            pool, ranks = Pool(np.empty((0, 1), np.float32), n_kept), []
            for i, part in enumerate(order):
                row = np.array([part], np.float32)
                ranks.append(round(float(pool.p_values(row, np.zeros(1))[0]) * (pool.count + 1)))
                pool.add(row, leaving[i - n_kept] if i >= n_kept else 0.0)
            counts[tuple(ranks)] += 1
    sizes = [min(i, n_kept) + 1 for i in range(n_parts)]
    assert len(counts) == np.prod(sizes)
    total = sum(counts.values())
    assert {Fraction(n, total) for n in counts.values()} == {Fraction(1, int(np.prod(sizes)))}


def test_a_newcomer_leaves_as_often_as_any_other() -> None:
    rng, left = np.random.default_rng(1), Counter[float]()
    for _ in range(4000):
        pool = Pool(np.arange(3, dtype=np.float32)[:, None], 3)
        pool.add(np.array([3], np.float32), rng.random())
        left[next(iter({0.0, 1.0, 2.0, 3.0} - set(pool.rows[:, 0].tolist())))] += 1
    assert all(abs(n - 1000) < 120 for n in left.values())  # four standard deviations


@given(stream=values, limit=st.integers(1, 3), seed=st.integers(0, 1000))
def test_betting_on_accepted_parts_is_the_p_value_above_those_rejected(
    stream: list[float], limit: int, seed: int
) -> None:
    """Of an accepted part, (p - a) / (1 - a) is its p-value among the accepted ones."""
    *before, last = stream
    accepted = [s for s in before if s <= limit]
    if last > limit:
        return
    u = float(np.random.default_rng(seed).random())
    p = conformal(stream, [0.0] * len(before) + [u])[-1]
    a = sum(s > limit for s in before) / len(stream)
    pool = Pool(np.array(accepted, np.float32).reshape(-1, 1), 50)
    found = pool.p_values(np.array([last], np.float32), np.array([u]))[0]
    assert found == pytest.approx((p - a) / (1 - a))


def false_alarms(*, is_growing: bool) -> float:
    """The share of streams of 2,000 parts after 300 others in which a capital reaches 100."""
    rng, n_streams, n_reference, n_parts = np.random.default_rng(5), 400, 300, 2000
    scores = rng.gamma(9.0, size=(n_reference + n_parts, n_streams)).astype(np.float32)
    capital = {side: np.full(n_streams, 1 / 3) for side in (-1, 0, 1)}
    highest = np.zeros(n_streams)
    for t in range(n_reference, n_reference + n_parts):
        known = scores[: t if is_growing else n_reference]
        p = ((known > scores[t]).sum(axis=0) + rng.random(n_streams)) / (len(known) + 1)
        total = sum(capital.values())
        for side in capital:
            capital[side] = (0.99 * capital[side] + total / 300) * (1 + side * (p - 0.5))
        highest = np.maximum(highest, sum(capital.values()))
    return float((highest >= 100).mean())


def test_a_growing_reference_keeps_the_promise_that_a_fixed_one_breaks() -> None:
    """One stream in a hundred may ring; against 300 images that stay the same, many more do."""
    assert false_alarms(is_growing=True) <= 0.02
    assert false_alarms(is_growing=False) >= 0.05


def test_evidence_stays_finite_while_nobody_looks_at_an_alarm() -> None:
    bets = Bets.start(3, 0)
    for number in range(4000):
        bets = bets.step(np.array([0.001, 0.5, 0.999]), number)
    assert np.isfinite(bets.evidence).all()
    assert bets.total > 1e299
    assert np.isfinite(bets.capital)
    assert bets.find_culprit() in (0, 2)
