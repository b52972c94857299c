import numpy as np
import pytest
from numpy.typing import NDArray

from padim.images import thumbnails
from padim.images.thumbnails import Look, near_duplicates


def looks_of(pictures: NDArray[np.float64]) -> list[Look]:
    return [Look((32, 32), float(one.mean()), one.astype(np.float32)) for one in pictures]


def draw_pictures(n_images: int) -> NDArray[np.float64]:
    """Pictures of one part under other light, every fifth of which nearly repeats another."""
    drawn = np.random.default_rng(0)
    part = drawn.uniform(40, 200, (32, 32))
    pictures = part * drawn.uniform(0.7, 1.1, (n_images, 1, 1)) + drawn.normal(
        0, 3, (n_images, 32, 32)
    )
    for i in range(0, n_images, 5):
        j = int(drawn.integers(n_images))
        pictures[i] = pictures[j] + drawn.normal(0, 0.3, (32, 32))
    return pictures


@pytest.mark.parametrize("block", [7, 1024])
def test_duplicates_are_those_of_all_pairs(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "_BLOCK", block)
    pictures = draw_pictures(200)
    expected = []
    for i in range(len(pictures)):
        apart = np.sqrt(((pictures[:i] - pictures[i]) ** 2).mean(axis=(1, 2)))
        if (earlier := np.flatnonzero(apart <= 1)).size:
            expected.append((i, int(earlier[0])))
    assert len(expected) > 20
    assert list(near_duplicates(looks_of(pictures))) == expected


def test_pictures_that_are_all_the_same_repeat_the_first() -> None:
    same = np.full((5, 32, 32), 90.0)
    assert list(near_duplicates(looks_of(same))) == [(i, 0) for i in range(1, 5)]


def test_one_picture_repeats_none() -> None:
    assert list(near_duplicates(looks_of(np.full((1, 32, 32), 90.0)))) == []
