"""Scores of models that were fitted on few images, each kept in a file of its own.

A *draw* is n good images of one half of a set, by seed. Its model scores each of them as if it were
not fitted on it, and other good images and the defective ones of that half. Once as drawn, and once
with one of the n replaced by a defective image: the odd one, that somebody took for good.

Far fewer images than dimensions: all is computed from their products, n x n for each cell. With Z
the features about the mean over the root of eps, and c = dof, the squared distance of z is
``zᵀz - zᵀZ (ZᵀZ + c I)⁻¹ Zᵀz``. The first draw is checked against the package.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from features import Features
from halves import Half
from numpy.typing import NDArray
from torch import Tensor

from padim.files import write_whole
from padim.fitting.fitter import Fitter
from padim.method.gaussian import level_eps
from padim.method.leave_one_out import LeaveOneOut

N_UNSEEN = 150  # good images that are scored, at most
N_DEFECTIVE = 40  # of each kind, at most

Scores = NDArray[np.float32]
Of = tuple[str, int, int, bool]


@dataclass(frozen=True)
class Draw:
    """The scores of one model.

    Attributes:
        of: Set, n, number of the draw, and whether an odd image was planted.
        fitted: Leave-one-out scores of its n images, ascending.
        unseen: Scores of other good images.
        defective: Scores of each kind of defect.
    """

    of: Of
    fitted: Scores
    unseen: Scores
    defective: dict[str, Scores]


@dataclass(frozen=True)
class Photographs:
    """The features of one half of a set, and where each kind stands, the good ones first."""

    name: str
    features: Features
    places: dict[str, NDArray[np.int64]]

    @classmethod
    def read(cls, half: Half, fitter: Fitter) -> "Photographs":
        """Compute the features."""
        paths: list[Path] = []
        places = {}
        for kind, pairs in half.pairs.items():
            chosen = pairs if kind == "good" else pairs[:N_DEFECTIVE]
            places[kind] = len(paths) + np.arange(len(chosen))
            paths.extend(path for path, _ in chosen)
        return cls(half.name, Features.of(half.name, paths, fitter), places)

    def draw(self, n: int, number: int, *, is_odd: bool) -> Draw:
        """Fit on n of the good images, or on n - 1 and a defective one, and score."""
        rng = np.random.default_rng((n, number))
        good = rng.permutation(self.places["good"])
        odd = int(rng.integers(len(good), sum(map(len, self.places.values()))))
        fitted = good[:n].tolist()
        if is_odd:
            fitted[0] = odd
        kinds = {kind: places[places != odd] for kind, places in self.places.items()}
        kinds["good"] = good[n:][:N_UNSEEN]
        own, others = self._score(fitted, np.concatenate(tuple(kinds.values())).tolist())
        ends = np.cumsum([len(places) for places in kinds.values()]).tolist()
        starts = [0, *ends[:-1]]
        parts = {k: others[a:b] for k, a, b in zip(kinds, starts, ends, strict=True)}
        return Draw((self.name, n, number, is_odd), np.sort(own), parts.pop("good"), parts)

    def check(self) -> None:
        """Make sure that scores are those of the package, to a hundredth."""
        fitted, tested = list(range(20)), list(range(20, 60))
        moments = self.features.moments(fitted)
        eps, head = self.features.solved(moments)
        leave_one_out = LeaveOneOut(moments, eps, self.features.fitter.encoder.pyramid)
        own, others = self._score(fitted, tested)
        expected = self.features.scored(fitted, lambda one: leave_one_out(one)[0])
        np.testing.assert_allclose(own, expected, rtol=0.01)
        np.testing.assert_allclose(others, self.features.scored(tested, head), rtol=0.01)

    def _score(self, fitted: list[int], tested: list[int]) -> tuple[Scores, Scores]:
        """Leave-one-out scores of the images of a fit, and the scores of others."""
        n, recipe = len(fitted), self.features.fitter.recipe
        levels = [level[fitted].double() for level in self.features.levels]
        means = [level.mean(dim=0) for level in levels]
        variances = [float(level.var(dim=0).mean()) for level in levels]
        roots = [math.sqrt(eps) for eps in level_eps(variances, recipe.eps)]
        own, others = (
            [
                (level[chosen].to(dtype) - mean.to(dtype)).transpose(0, 1) / root  # (cells, N, d)
                for level, mean, root in zip(self.features.levels, means, roots, strict=True)
            ]
            for chosen, dtype in ((fitted, torch.float64), (tested, torch.float32))
        )
        kernel = _add_up([one @ one.mT for one in own])  # (cells, n, n)
        across = _add_up([one.float() @ new.mT for one, new in zip(own, others, strict=True)])
        norms = _add_up([new.square().sum(dim=2) for new in others])
        ridge = torch.eye(n, dtype=torch.float64)
        rows = torch.linalg.cholesky(kernel + (n - 1) * ridge).float()
        whitened = torch.linalg.solve_triangular(rows, across, upper=False)
        new = (norms - whitened.square().sum(dim=1)).clamp_min(0).sqrt()
        dof, factor = max(n - 2, 1), n / (n - 1)
        inverse = torch.linalg.inv(kernel + dof * ridge).diagonal(dim1=1, dim2=2)
        rest = factor * inverse.clamp_min(1e-9) * dof - (factor - 1)  # 1 - factor * (1 - dof * q)
        distance = factor * (dof * (1 - dof * inverse).clamp_min(0) / rest.clamp_min(1e-15)).sqrt()
        return self._finish(distance), self._finish(new)

    def _finish(self, distances: Tensor) -> Scores:
        """Image scores of nested distances ``(cells, N)``."""
        on_grid = self.features.fitter.encoder.pyramid.on_grid(distances)
        parts = [on_grid[i : i + 32].float() for i in range(0, len(on_grid), 32)]
        return np.concatenate([self.features.finish(part)[1].numpy() for part in parts])


def keep(draw: Draw, folder: Path) -> None:
    """Write it to a folder."""
    arrays = {"fitted": draw.fitted, "unseen": draw.unseen, **draw.defective}
    with write_whole(_place(folder, draw.of)) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def find_kept(folder: Path, of: Of) -> Draw | None:
    """What ``keep`` wrote; None when there is nothing."""
    path = _place(folder, of)
    if not path.is_file():
        return None
    with np.load(path) as arrays:
        found = dict(arrays.items())
    return Draw(of, found.pop("fitted"), found.pop("unseen"), found)


def _add_up(levels: Sequence[Tensor]) -> Tensor:
    """The sum over levels, each cell of a finer one with its parent; cells in nested order."""
    total = levels[0]
    for level in levels[1:]:
        total = total.repeat_interleave(len(level) // len(total), dim=0) + level
    return total


def _place(folder: Path, of: Of) -> Path:
    name, n, number, is_odd = of
    return folder / f"{name}-{n}-{number}{'-odd' if is_odd else ''}.npz"
