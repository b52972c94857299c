import pickle
from functools import reduce

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from padim.errors import ShapeError
from padim.method.moments import GROUP, Accumulator, Moments

# Cells per parent and dimensions of each level, coarse to fine.
LEVELS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=3)
SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=6)

# Far from zero the textbook E[xxᵀ] − μμᵀ loses most of its digits.
FAR = 1e6


def features(levels: list[tuple[int, int]], n: int, seed: int, start: float = FAR) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cells = 1
    embeddings = []
    for ratio, dims in levels:
        cells *= ratio
        noise = torch.randn(cells, n, dims, generator=generator, dtype=torch.float64)
        embeddings.append(start + noise)
    return embeddings


def shards(embeddings: list[Tensor], sizes: list[int]) -> list[list[Tensor]]:
    return [list(level) for level in zip(*(e.split(sizes, dim=1) for e in embeddings), strict=True)]


def assert_equal(ours: Moments, theirs: Moments) -> None:
    assert ours.count == theirs.count
    torch.testing.assert_close(ours.mean, theirs.mean, rtol=1e-14, atol=0)
    for rows, other_rows in zip(ours.scatter, theirs.scatter, strict=True):
        torch.testing.assert_close(rows, other_rows, rtol=1e-9, atol=1e-8)


def assert_moments_of(moments: Moments, embeddings: list[Tensor]) -> None:
    """The sums written out, cell by cell."""
    arrays = [e.numpy() for e in embeddings]
    assert moments.count == arrays[0].shape[1]
    for level, own in enumerate(arrays):
        np.testing.assert_allclose(moments.mean[level], own.mean(axis=1), rtol=1e-14, atol=1e-13)
        assert len(moments.scatter[level]) == level + 1
        for k, above in enumerate(arrays[: level + 1]):
            siblings = own.shape[0] // above.shape[0]
            for cell in range(own.shape[0]):
                a, b = own[cell], above[cell // siblings]
                expected = (a - a.mean(axis=0)).T @ (b - b.mean(axis=0))
                np.testing.assert_allclose(
                    moments.scatter[level][k][cell], expected, rtol=1e-9, atol=1e-8
                )


@given(levels=LEVELS, n=st.integers(1, 9), seed=SEEDS)
def test_moments_are_the_sums_they_stand_for(
    levels: list[tuple[int, int]], n: int, seed: int
) -> None:
    embeddings = features(levels, n, seed)
    assert_moments_of(Moments.of(embeddings), embeddings)


@given(levels=LEVELS, sizes=SIZES, seed=SEEDS)
def test_merged_shards_equal_one_pass(
    levels: list[tuple[int, int]], sizes: list[int], seed: int
) -> None:
    embeddings = features(levels, sum(sizes), seed)
    merged = reduce(Moments.merge, map(Moments.of, shards(embeddings, sizes)))
    assert_moments_of(merged, embeddings)


@given(levels=LEVELS, sizes=SIZES, seed=SEEDS)
def test_batches_added_one_by_one_equal_one_pass(
    levels: list[tuple[int, int]], sizes: list[int], seed: int
) -> None:
    embeddings = features(levels, sum(sizes), seed)
    accumulator = Accumulator(len(embeddings))
    for shard in shards(embeddings, sizes):
        accumulator.add(shard)
    assert_moments_of(accumulator.moments(), embeddings)


@pytest.mark.parametrize("sizes", [[GROUP], [GROUP - 3, 7], [1, 2 * GROUP], [GROUP + 1] * 2])
def test_batches_that_fill_a_group_or_cross_it_equal_one_pass(sizes: list[int]) -> None:
    embeddings = features([(2, 2), (2, 3)], sum(sizes), seed=0)
    accumulator = Accumulator(len(embeddings))
    for shard in shards(embeddings, sizes):
        accumulator.add(shard)
    assert_moments_of(accumulator.moments(), embeddings)


@given(levels=LEVELS, sizes=st.tuples(*[st.integers(1, 5)] * 3), seed=SEEDS)
def test_merging_is_associative_and_commutative(
    levels: list[tuple[int, int]], sizes: tuple[int, int, int], seed: int
) -> None:
    embeddings = features(levels, sum(sizes), seed)
    a, b, c = map(Moments.of, shards(embeddings, list(sizes)))
    assert_equal(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert_equal(a.merge(b), b.merge(a))


@given(levels=LEVELS, n=st.integers(1, 9), seed=SEEDS)
def test_the_order_of_the_images_does_not_matter(
    levels: list[tuple[int, int]], n: int, seed: int
) -> None:
    embeddings = features(levels, n, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert_equal(Moments.of([e[:, order] for e in embeddings]), Moments.of(embeddings))


def test_a_pilot_far_from_the_mean_costs_no_digits() -> None:
    # The first batch is an outlier: everything after it is far from the pilot.
    embeddings = features([(2, 2), (2, 3)], 40, seed=0, start=0.0)
    shifted = [e.clone() for e in embeddings]
    for e in shifted:
        e[:, 0] += 1e3
    accumulator = Accumulator(len(embeddings))
    for shard in shards(shifted, [1, 39]):
        accumulator.add(shard)
    assert_moments_of(accumulator.moments(), shifted)


def test_features_in_float32_are_summed_in_float64() -> None:
    embeddings = [e.float() for e in features([(1, 2), (4, 3)], 500, seed=0, start=1000.0)]
    moments = Moments.of(embeddings)
    assert {t.dtype for t in (*moments.mean, *(b for r in moments.scatter for b in r))} == {
        torch.float64
    }
    assert_moments_of(moments, [e.double() for e in embeddings])


def test_merging_changes_neither_of_the_two() -> None:
    embeddings = features([(1, 2), (4, 3)], 6, seed=0)
    a, b = map(Moments.of, shards(embeddings, [2, 4]))
    before = [t.clone() for m in (a, b) for t in (*m.mean, *(s for r in m.scatter for s in r))]
    a.merge(b)
    after = [t for m in (a, b) for t in (*m.mean, *(s for r in m.scatter for s in r))]
    assert all(map(torch.equal, before, after))


def test_one_image_has_no_scatter() -> None:
    moments = Moments.of(features([(2, 2), (3, 1)], 1, seed=0))
    assert moments.count == 1
    assert not any(block.any() for rows in moments.scatter for block in rows)


def test_models_of_other_shapes_do_not_merge() -> None:
    a, b = (Moments.of(features([(2, dims)], 3, seed=0)) for dims in (2, 3))
    with pytest.raises(ShapeError, match=r"cells of shape \[\(2, 2\)\], the other \[\(2, 3\)\]"):
        a.merge(b)


@pytest.mark.parametrize("batch", [1, 3, 10])
def test_batch_size_changes_no_moment_of_real_features(batch: int) -> None:
    fitter = oracle.small_fitter()
    pixels = torch.from_numpy(oracle.random_images(10, (64, 64)))
    with torch.inference_mode():
        embeddings = fitter.features(pixels)
    accumulator = Accumulator(len(embeddings))
    for shard in shards(embeddings, [len(part) for part in torch.arange(10).split(batch)]):
        accumulator.add(shard)
    assert_moments_of(accumulator.moments(), [e.double() for e in embeddings])


def test_moments_travel_bit_for_bit() -> None:
    sent = Moments.of(features([(2, 3), (4, 2)], 5, 0))
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(sent, 5, buffer_callback=buffers.append)
    assert len(buffers) == 2 + 3  # their arrays are not copied
    found = pickle.loads(content, buffers=[memoryview(one.raw()).toreadonly() for one in buffers])
    assert found.count == sent.count
    torch.testing.assert_close(
        (found.mean, found.scatter), (sent.mean, sent.scatter), rtol=0, atol=0
    )
    found.mean[0].zero_()
    assert sent.mean[0].any()
