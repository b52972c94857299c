"""Scores as bins, and sparse rows of counts over them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from padim.errors import UsageError
from padim.metrics.curves import Floats

N_FLOAT16 = 1 << 16
_HIGHEST = 65504.0  # of float16
_SIGN = np.uint16(1 << 15)
_BLOCK_BYTES = 1 << 25
_WIDE = N_FLOAT16  # more columns than this, as exact levels have, are mostly 0

Bins = NDArray[np.integer[Any]]
# Which rows, which columns, ascending, and their counts, shape (rows, columns)
Block = tuple[slice, slice | NDArray[np.intp], Floats]


def bins_of(scores: NDArray[np.float32], levels: NDArray[np.float32] | None) -> Bins:
    """The bin of each score; what is NaN gets any.

    Args:
        scores: Any shape.
        levels: The scores that may occur, ascending, or it is a `UsageError`; None for those of
            float16, to which others are rounded.

    Returns:
        Shape of the scores: uint16, or uint32 where levels are given. Bins ascend with scores.
    """
    if levels is None:
        pattern = scores.clip(-_HIGHEST, _HIGHEST).astype(np.float16).view(np.uint16)
        pattern[pattern == _SIGN] = 0  # -0
        # Of negative numbers patterns descend.
        return np.where(pattern & _SIGN, ~pattern, pattern | _SIGN)
    bins = levels.searchsorted(scores.ravel()).clip(0, max(levels.size - 1, 0))
    bins = bins.reshape(scores.shape).astype(np.uint32)
    is_number = ~np.isnan(scores)
    if is_number.any() and not (
        levels.size and np.array_equal(levels[bins[is_number]], scores[is_number])
    ):
        raise UsageError(
            "The map has scores that are none of the levels, but needs them to be. "
            "Count without levels."
        )
    return bins


def scores_of(bins: Bins, levels: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """The score that a bin stands for, float32."""
    if levels is not None:
        return levels[bins]
    pattern = bins.astype(np.uint16)
    pattern = np.where(pattern & _SIGN, pattern ^ _SIGN, ~pattern)
    return pattern.view(np.float16).astype(np.float32)


def n_block_rows(n_columns: int) -> int:
    """Rows of one block: one where columns are so many that most are 0."""
    return 1 if n_columns > _WIDE else max(1, _BLOCK_BYTES // (8 * max(n_columns, 1)))


class Rows:
    """Sparse rows of counts, 6 bytes for each bin in use."""

    def __init__(self, bins: Sequence[Bins] = (), counts: Sequence[NDArray[Any]] = ()) -> None:
        self.bins = list(bins)  # of each row, those in use, ascending
        self.counts = list(counts)  # of each row, how many pixels each has, uint32

    def __len__(self) -> int:
        return len(self.bins)

    def __add__(self, other: "Rows") -> "Rows":
        return Rows((*self.bins, *other.bins), (*self.counts, *other.counts))

    def add(self, bins: Bins, n_bins: int) -> None:
        """Count the bins of some pixels as one more row."""
        if bins.size < n_bins // 8:
            used, counts = np.unique(bins, return_counts=True)
        else:
            all_counts = np.bincount(bins, minlength=n_bins)
            used = np.flatnonzero(all_counts)
            counts = all_counts[used]
        self.bins.append(used.astype(bins.dtype))
        self.counts.append(counts.astype(np.uint32))

    def n_px(self) -> Floats:
        """Pixels of each row, shape ``(rows,)``."""
        return np.array([counts.sum(dtype=np.int64) for counts in self.counts], np.float64)

    def blocks(self, column: NDArray[np.intp], n_columns: int) -> Iterator[Block]:
        """Some rows at a time, written out.

        Args:
            column: Where each bin goes; descends with the bins.
            n_columns: K.

        Yields:
            Blocks of ``n_block_rows``; counts of all other columns are 0.
        """
        n_rows = n_block_rows(n_columns)
        if n_columns > _WIDE:
            for i, (bins, counts) in enumerate(zip(self.bins, self.counts, strict=True)):
                yield slice(i, i + 1), column[bins[::-1]], counts[None, ::-1].astype(np.float64)
            return
        for start in range(0, len(self), n_rows):
            chosen = slice(start, min(start + n_rows, len(self)))
            block = np.zeros((chosen.stop - start, n_columns))
            for row, bins, counts in zip(
                block, self.bins[chosen], self.counts[chosen], strict=True
            ):
                row[column[bins]] = counts
            yield chosen, slice(None), block

    def flat(self, dtype: np.dtype[Any]) -> dict[str, NDArray[Any]]:
        """All rows one after the other, and how long each is."""
        return {
            "bins": np.concatenate((np.empty(0, dtype), *self.bins)),
            "counts": np.concatenate((np.empty(0, np.uint32), *self.counts)),
            "n_bins": np.array([bins.size for bins in self.bins], np.uint32),
        }

    @classmethod
    def of_flat(cls, bins: Bins, counts: NDArray[np.uint32], n_bins: NDArray[np.uint32]) -> "Rows":
        """Rows from what ``flat`` gave."""
        ends = np.cumsum(n_bins, dtype=np.int64)[:-1]
        if not n_bins.size:
            return cls()
        return cls(np.split(bins, ends), np.split(counts, ends))
