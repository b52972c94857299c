import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from padim.method.fusion import Fusion


def scores(n: int, seed: int) -> np.ndarray:
    logs = np.random.default_rng(seed).normal((5.0, 4.5), (0.2, 0.3), (n, 2))
    return np.exp(logs).astype(np.float32)


@given(n=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_a_joined_score_is_a_power_mean_over_what_is_usual(n: int, seed: int) -> None:
    good, other = scores(n, seed), scores(20, seed + 1).astype(np.float64)
    usual = np.exp(np.log(good.astype(np.float64)).mean(axis=0))
    expected = usual[0] * ((other / usual) ** 10).sum(axis=1) ** 0.1
    found = Fusion.of(good).join(torch.from_numpy(other).unbind(dim=1))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_score_is_that_of_the_map_where_the_second_head_is_silent() -> None:
    fusion = Fusion((150.0, 90.0))
    first = torch.tensor([80.0, 150.0, 400.0])
    torch.testing.assert_close(fusion.join((first, torch.full((3,), 1e-3))), first)


def test_a_score_is_a_finite_number_however_far_the_heads_are_apart() -> None:
    same = Fusion.of(np.ones((3, 2), np.float32))  # good images that are all alike
    first, second = torch.tensor([0.0, 1e-3, 1e4, 1.0]), torch.tensor([0.0, 1e6, 0.0, 1.0])
    joined = same.join((first, second))
    assert joined.isfinite().all()
    assert joined[1] > joined[3] > joined[0]
