"""The photographs that recipes are chosen on, and those that the choice is reported on.

Each photograph of the solar cells and of the magnetic tiles goes by a fixed seed to one half, kind
by kind. On every good one a small defect is made. The tiles are in the folder that the environment
variable PADIM_DATA names.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from small_defects import make_small_defect

from padim.datasets import list_images, read_category
from padim.datasets.solar_cells import lay_out_solar_cells
from padim.errors import DatasetError
from padim.images.decode import decode
from padim.images.masks import read_mask
from padim.metrics.curves import Floats

HALVES = ("choose", "report")
SETS = ("mono", "poly", "tiles")
HARDER = ("poly cells", "tiles, crack", "tiles, uneven")
EASIER = ("mono cells", "tiles, blowhole")
SMALL = tuple(f"{name}, small" for name in SETS)
N_BOOTSTRAP = 500
N_QUICK = 40  # images of each kind
_SEED = 2026

Pair = tuple[Path, Path | None]  # an image and its mask
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Half:
    """The images of one thing in one half.

    Attributes:
        half: One of ``HALVES``.
        name: Of the set, one of ``SETS``.
        pairs: Images and masks of each kind of defect, the ``good`` ones first.
    """

    half: str
    name: str
    pairs: Mapping[str, Sequence[Pair]]

    @classmethod
    def find(cls, half: str, name: str, folder: Path, *, quick: bool) -> "Half":
        """Find a set of one half.

        Args:
            half: One of ``HALVES``.
            name: One of ``SETS``.
            folder: The solar cells are laid out in it.
            quick: Whether a few images of each kind will do.
        """
        pairs = {}
        for i, (kind, of_kind) in enumerate(_list_kinds(name, folder).items()):
            order = np.random.default_rng((_SEED, SETS.index(name), i)).permutation(len(of_kind))
            chosen = np.sort(order[HALVES.index(half) :: 2])[: N_QUICK if quick else None]
            pairs[kind] = [of_kind[place] for place in chosen]
        return cls(half, name, pairs)

    @property
    def kinds(self) -> dict[str, Places]:
        """Where the images of each kind stand; last come the small defects on the good ones."""
        counts = {kind: len(pairs) for kind, pairs in self.pairs.items()}
        counts[f"{self.name}, small"] = counts["good"]
        ends = np.cumsum([*counts.values()])
        return {
            kind: np.arange(end - n, end)
            for (kind, n), end in zip(counts.items(), ends, strict=True)
        }

    def read(self) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.bool_] | None]]:
        """Read all images, grey, shape ``(H0, W0)``, and their masks; make the small defects.

        A mask is True on the defect, and None where there is none or it is not known.
        """
        pixels: list[NDArray[np.uint8]] = []
        masks: list[NDArray[np.bool_] | None] = []
        for path, mask in (pair for pairs in self.pairs.values() for pair in pairs):
            pixels.append(np.array(decode(path).convert("L")))
            masks.append(None if mask is None else read_mask(mask).mask)
        seed = _SEED, HALVES.index(self.half), SETS.index(self.name)
        for i in range(len(self.pairs["good"])):
            small = make_small_defect(pixels[i], (*seed, i))
            pixels.append(small.pixels)
            masks.append(small.mask)
        return pixels, masks

    def draw(self, n: int, seed: int, n_tested: int) -> tuple[Places, dict[str, Places]]:
        """Draw n good images to fit on, and list what is then tested, the ``good`` ones first.

        Fewer are drawn where less than ``n_tested`` would be left.
        """
        n_good = len(self.pairs["good"])
        order = np.random.default_rng((seed, n)).permutation(n_good)
        fitted = np.sort(order[: min(n, n_good - n_tested)])
        held_out = np.setdiff1d(np.arange(n_good), fitted)
        return fitted, {
            kind: held_out if kind == "good" else places[held_out] if kind in SMALL else places
            for kind, places in self.kinds.items()
        }

    def weights(self) -> Floats:
        """How often each image is in each bootstrap sample; in the first, all are once."""
        kinds = self.kinds
        n_good, n_images = len(kinds["good"]), sum(map(len, kinds.values()))
        weights = np.ones((1 + N_BOOTSTRAP, n_images))
        for i, (kind, places) in enumerate(kinds.items()):
            n = len(places)
            drawn = np.random.default_rng(i).multinomial(n, np.full(n, 1 / n), size=N_BOOTSTRAP)
            # A good image and its damaged copy are drawn together.
            weights[1:, places] = weights[1:, :n_good] if kind in SMALL else drawn
        return weights


def _list_kinds(name: str, folder: Path) -> Mapping[str, Sequence[Pair]]:
    """All images of a set, of both halves, the good ones first."""
    if name != "tiles":
        cells = lay_out_solar_cells(folder, name)
        anomalous = [(path, None) for path in list_images(cells / "test" / "anomalous")]
        return {"good": list(_list_good(cells)), f"{name} cells": anomalous}
    if "PADIM_DATA" not in os.environ:
        raise DatasetError("The magnetic tiles are needed, but PADIM_DATA does not say where.")
    tiles = Path(os.environ["PADIM_DATA"]) / "magnetic_tile"
    samples = read_category(tiles).test
    return {"good": list(_list_good(tiles))} | {
        f"tiles, {defect}": [(s.path, next(iter(s.masks))) for s in samples if s.defect == defect]
        for defect in ("blowhole", "crack", "uneven")
    }


def _list_good(root: Path) -> Iterator[Pair]:
    """All good images of a category, whether to fit or to test on."""
    for part in ("train", "test"):
        yield from ((path, None) for path in list_images(root / part / "good"))
