"""Online conformal p-values, of many statistics at a time and in bounded memory."""

import numpy as np
from numpy.typing import NDArray


class Pool:
    """The parts that the next one is compared with: rows of statistics.

    Once there are more than ``n_kept``, one of them goes, the newest as likely as any other. So the
    p-values stay exact: which of the parts in the pool and the next one is the newest, is a
    question that all the p-values before say nothing about.

    Args:
        rows: One a part, shape ``(n, statistics)``, ``n_kept`` at most.
        n_kept: Parts that are kept.
    """

    def __init__(self, rows: NDArray[np.float32], n_kept: int) -> None:
        self.n_kept = n_kept
        self._columns = np.empty((rows.shape[1], n_kept), np.float32)
        self._columns[:, : len(rows)] = rows.T
        self._n = len(rows)

    @property
    def rows(self) -> NDArray[np.float32]:
        """The parts that are there."""
        return self._columns[:, : self._n].T

    @property
    def count(self) -> int:
        """How many those are."""
        return self._n

    def p_values(
        self, row: NDArray[np.float32], uniform: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Of each statistic, the share of parts that are as high: small where this one is high.

        Where parts are exchangeable they are uniform and independent from part to part.

        Args:
            row: The next part.
            uniform: Numbers from 0 to 1, by which ties are broken, one for each statistic.

        Source:
            Vovk, Gammerman & Shafer 2005, Algorithmic Learning in a Random World, chapter 7.
        """
        columns = self._columns[:, : self._n]
        higher = np.count_nonzero(columns > row[:, None], axis=1)
        equal = np.count_nonzero(columns == row[:, None], axis=1) + 1
        return np.asarray((higher + uniform * equal) / (self._n + 1), np.float64)

    def add(self, row: NDArray[np.float32], uniform: float) -> None:
        """Add a part; ``uniform``, from 0 to 1, says which one goes when there are too many."""
        if self._n < self.n_kept:
            self._columns[:, self._n] = row
            self._n += 1
        elif (leaving := int(uniform * (self.n_kept + 1))) < self.n_kept:
            self._columns[:, leaving] = row
