"""Which recipe finds most defects? Chosen on one half of the sets, reported once on the other.

A lever is the ``standard`` recipe with something changed. ``--phase choose`` tries them one by one,
``--phase combine`` together, on the same sets; ``--phase report`` shows what those named in
``REPORTED`` give on sets that no choice was made on.

- *choose*, *combine*: monocrystalline solar cells; magnetic tiles with blowholes; small defects
  made on good ones of both.
- *report*: polycrystalline solar cells and small defects made on good ones; tiles with cracks;
  uneven tiles. The good tiles are those of the other half, for there are no more.

The tiles are in the folder that the environment variable PADIM_DATA names; without it they are left
out. Of all good images of a set, n are drawn to fit on, and the rest are test normals. A small
defect is made on every good image, and counts where that image is not fitted on.

Measured are the image AUROC, shown as the error 1 - AUROC, and, where there are masks, AUPRO-0.3:
the mean over defects (parts that hang together over edges or corners) of the share of each that is
found, integrated over false positive rates up to 0.3 of all normal pixels and divided by it
(Bergmann et al. 2021). Defects outside the centre crop of ``reference`` are in no mask of it, which
favours its AUPRO; its image AUROC has to do without them.

Differences are paired: 95% of bootstrap samples of the test images, the same for all levers, seeds,
n and kinds of defect; a good image and its damaged copy are drawn together. What another draw of
the images to fit on would change is not in them.
"""

import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from numpy.typing import NDArray
from small_defects import make_small_defect
from torch import Tensor

from padim.datasets import list_images, read_category
from padim.datasets.solar_cells import lay_out_solar_cells
from padim.fitting.fitter import Fitter
from padim.fitting.looks import GROUP
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings
from padim.images.ahead import batched
from padim.images.decode import decode
from padim.images.masks import read_mask
from padim.images.regions import label_regions
from padim.method.gaussian import STORES, factor, relative_eps
from padim.method.head import Head
from padim.method.moments import Accumulator, Moments
from padim.method.postprocess import Postprocess, image_score
from padim.method.pyramid import Pyramid

COUNTS = (60, 300)  # images to fit on: below and above the dimensions
SEEDS = (0, 1, 2)
N_BOOTSTRAP = 500
AUPRO_FPR = 0.3
THRESHOLD_FPR = 0.6  # of the good images alone, at the lowest threshold of a curve
N_THRESHOLDS = 400
N_QUICK = 30  # images of each kind
# Axes of a batch of images that each further copy of the good ones is reversed along.
MIRRORS: dict[str, tuple[tuple[int, ...], ...]] = {
    "": (),
    "left-right": ((2,),),
    "all": ((2,), (1,), (1, 2)),
}

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Lever:
    """A recipe as it is measured.

    Attributes:
        name: Of the lever.
        recipe: What it starts from.
        size_px: Side of what the network sees.
        taps: Numbers of the tapped blocks.
        eps_rule: ``absolute`` or ``relative``.
        eps: Added to the diagonal of each covariance.
        mirrored: Which copies of the good images are fitted on besides, a key of ``MIRRORS``.
        mirrored_if_few: Whether only with fewer images than dimensions.
        blend: Share of the level's mean covariance in each cell's.
        map_without: Finest levels that the map does without.
        score_without: Finest levels that the image score does without, on a grid as coarse.
        score_blend: Share of the mean covariance for the image score; that of the map when None.
        score_fraction: Of the hottest pixels, whose mean the image score is.
        score_less: How many times the median of the map is taken away from the image score.
        sigma_px: Blur of the map.
    """

    name: str
    recipe: str = "standard"
    size_px: int = 256
    taps: tuple[int, ...] = (1, 2, 4)
    eps_rule: str = "relative"
    eps: float = 0.01
    mirrored: str = ""
    mirrored_if_few: bool = False
    blend: float = 0.0
    map_without: int = 0
    score_without: int | None = None
    score_blend: float | None = None
    score_fraction: float = 0.01
    score_less: float = 0.0
    sigma_px: float = 4.0

    @property
    def map_source(self) -> "Source":
        """What the map is made of."""
        return Source(self.gaussian(self.blend), self.map_without, self.sigma_px)

    @property
    def score_source(self) -> "Source":
        """What the image score is made of."""
        without = self.map_without if self.score_without is None else self.score_without
        blend = self.blend if self.score_blend is None else self.score_blend
        return Source(self.gaussian(blend), without, self.sigma_px)

    def with_images(self, n: int, n_dims: int) -> "Lever":
        """What it is with n images."""
        return replace(self, mirrored="") if self.mirrored_if_few and n >= n_dims else self

    def gaussian(self, blend: float) -> "Gaussian":
        """What is fitted."""
        return Gaussian(self.eps_rule, self.eps, self.mirrored, blend)


@dataclass(frozen=True)
class Gaussian:
    """A fit; levers that differ in less share it.

    Attributes:
        eps_rule: As of the lever.
        eps: Likewise.
        mirrored: Likewise.
        blend: Share of the mean covariance.
    """

    eps_rule: str
    eps: float
    mirrored: str
    blend: float


@dataclass(frozen=True)
class Source:
    """A map; levers that differ in less share it.

    Attributes:
        gaussian: What its distances are from.
        without: Finest levels that it does without.
        sigma_px: Blur.
    """

    gaussian: Gaussian
    without: int
    sigma_px: float


STANDARD = Lever("standard")
REFERENCE = Lever(
    "reference", recipe="reference", size_px=224, eps_rule="absolute", score_fraction=0.0
)
PLAIN = Lever("plain", eps_rule="absolute", score_fraction=0.0)
COARSE = replace(STANDARD, taps=(2, 3, 4))
FEW = replace(STANDARD, mirrored="all", mirrored_if_few=True)
LEVERS = (
    REFERENCE,
    PLAIN,
    STANDARD,
    replace(STANDARD, name="hottest 0.5%", score_fraction=0.005),
    replace(STANDARD, name="hottest 2%", score_fraction=0.02),
    replace(STANDARD, name="hottest 5%", score_fraction=0.05),
    replace(STANDARD, name="sigma 2", sigma_px=2.0),
    replace(STANDARD, name="sigma 6", sigma_px=6.0),
    replace(STANDARD, name="score without finest", score_without=1),
    replace(STANDARD, name="score of coarsest", score_without=2),
    replace(STANDARD, name="blend 0.1", blend=0.1),
    replace(STANDARD, name="blend 0.1, score own", blend=0.1, score_blend=0.0),
    replace(STANDARD, name="blend 0.1, score without finest", blend=0.1, score_without=1),
    replace(STANDARD, name="blend 0.3", blend=0.3),
    replace(STANDARD, name="eps 0.1", eps=0.1),
    replace(STANDARD, name="eps 0.3", eps=0.3),
    replace(STANDARD, name="mirrored left-right", mirrored="left-right"),
    replace(STANDARD, name="mirrored all ways", mirrored="all"),
    replace(STANDARD, name="score less half the median", score_less=0.5),
    replace(STANDARD, name="hottest 0.5%, less half", score_fraction=0.005, score_less=0.5),
    replace(FEW, name="mirrored all ways if few"),
    replace(FEW, name="mirrored all ways if few, less half", score_less=0.5),
    replace(FEW, name="mirrored all ways if few, blend 0.1", blend=0.1),
    replace(FEW, name="mirrored all ways if few, blend 0.1, less half", blend=0.1, score_less=0.5),
    replace(
        FEW,
        name="mirrored all ways if few, hottest 0.5%, less half",
        score_fraction=0.005,
        score_less=0.5,
    ),
    replace(STANDARD, name="taps 2,4", map_without=1),
    replace(COARSE, name="taps 2,3,4"),
    replace(COARSE, name="taps 2,3,4, score without finest", score_without=1),
    replace(COARSE, name="taps 2,3,4, hottest 2%", score_fraction=0.02),
    replace(COARSE, name="taps 2,3,4, blend 0.1", blend=0.1),
    replace(COARSE, name="taps 2,3,4, blend 0.1, score without finest", blend=0.1, score_without=1),
    replace(COARSE, name="taps 3,4", map_without=1),
    replace(STANDARD, name="taps 1,3,4", taps=(1, 3, 4)),
    replace(STANDARD, name="taps 1,3,4, score without finest", taps=(1, 3, 4), score_without=1),
    replace(STANDARD, name="taps 1,2,3,4", taps=(1, 2, 3, 4)),
    replace(STANDARD, name="taps 1,2,3,4, score 2,3,4", taps=(1, 2, 3, 4), score_without=1),
    replace(STANDARD, name="224 px", size_px=224),
    replace(STANDARD, name="224 px, taps 2,4", size_px=224, map_without=1),
    replace(COARSE, name="224 px, taps 2,3,4", size_px=224),
    replace(COARSE, name="320 px, taps 2,3,4", size_px=320),
)
# What helped in a first look at the choosing half, put together.
SMALLER = replace(STANDARD, score_fraction=0.005, sigma_px=2.0)
COMBINED = (
    replace(SMALLER, name="hottest 0.5%, sigma 2"),
    replace(SMALLER, name="hottest 0.5%, sigma 3", sigma_px=3.0),
    replace(SMALLER, name="hottest 0.5%, sigma 1", sigma_px=1.0),
    replace(SMALLER, name="hottest 0.2%", score_fraction=0.002, sigma_px=4.0),
    replace(SMALLER, name="hottest 0.2%, sigma 2", score_fraction=0.002),
    replace(SMALLER, name="hottest 0.5%, blend 0.1", blend=0.1, sigma_px=4.0),
    replace(SMALLER, name="hottest 0.5%, sigma 2, blend 0.1", blend=0.1),
    replace(SMALLER, name="hottest 0.5%, sigma 2, score 2,4", score_without=1),
    replace(SMALLER, name="taps 2,4, hottest 0.5%", map_without=1, sigma_px=4.0),
    replace(SMALLER, name="taps 2,4, hottest 0.5%, sigma 2", map_without=1),
    replace(SMALLER, name="224 px, taps 2,4, hottest 0.5%, sigma 2", size_px=224, taps=(2, 4)),
)
# On the choosing half as good as ``standard`` on large defects, with a fifth less error on small
# ones, at no cost; and the same of a third of its entries. Fewer pixels yet, down to the maximum,
# lose on large defects; the blend finds more defective cells, but fewer small defects on tiles.
CHOSEN = ("hottest 0.5%, sigma 2", "taps 2,4, hottest 0.5%, sigma 2")
REPORTED = ("reference", "plain", "standard", *CHOSEN)
AGAINST = ("standard", "reference", "plain")


@dataclass(frozen=True)
class Photographs:
    """Good and defective images of one thing.

    Attributes:
        name: Of the set.
        pixels: Grey, each ``(H0, W0)``; the good ones first, then one group after the other.
        masks: True on the defect, or None where there is none or it is not known.
        groups: Positions of the images of each kind of defect, and of the ``good`` ones.
    """

    name: str
    pixels: list[NDArray[np.uint8]]
    masks: list[NDArray[np.bool_] | None]
    groups: dict[str, NDArray[np.int64]]

    @classmethod
    def of(
        cls,
        name: str,
        good: Sequence[Path],
        defects: Mapping[str, Sequence[tuple[Path, Path | None]]],
        with_small: bool,
    ) -> "Photographs":
        """Read them, and make small defects on the good ones."""
        pixels = [np.array(decode(path).convert("L")) for path in good]
        masks: list[NDArray[np.bool_] | None] = [None] * len(good)
        groups = {"good": np.arange(len(good))}
        for defect, paths in defects.items():
            groups[defect] = len(pixels) + np.arange(len(paths))
            pixels += [np.array(decode(path).convert("L")) for path, _ in paths]
            masks += [None if mask is None else read_mask(mask).mask for _, mask in paths]
        if with_small:
            groups["small"] = len(pixels) + np.arange(len(good))
            for i in range(len(good)):
                small = make_small_defect(pixels[i], (0, i))
                pixels.append(small.pixels)
                masks.append(small.mask)
        return cls(name, pixels, masks, groups)

    def weights(self) -> NDArray[np.float32]:
        """How often each image is in each bootstrap sample; in the first, all are once."""
        n_good = len(self.groups["good"])
        weights = np.ones((1 + N_BOOTSTRAP, len(self.pixels)), np.float32)
        for i, (group, places) in enumerate(self.groups.items()):
            n = len(places)
            drawn = np.random.default_rng(i).multinomial(n, np.full(n, 1 / n), size=N_BOOTSTRAP)
            weights[1:, places] = drawn if group != "small" else weights[1:, :n_good]
        return weights


def find_photographs(folder: Path, phase: str, quick: bool) -> Iterator[Photographs]:
    """The sets of one half."""
    few = slice(N_QUICK if quick else None)
    kind, tile_defects = {
        False: ("mono", ("blowhole",)),
        True: ("poly", ("crack", "uneven")),
    }[phase == "report"]
    cells = lay_out_solar_cells(folder, "mono" if kind == "mono" else "poly")
    anomalous = [(path, None) for path in list_images(cells / "test" / "anomalous")[few]]
    good = good_images(cells)[few]
    yield Photographs.of(kind, good, {f"{kind} cells": anomalous}, with_small=True)
    if "PADIM_DATA" not in os.environ:
        measure.say("Without the magnetic tiles: PADIM_DATA does not say where they are.")
        return
    tiles = Path(os.environ["PADIM_DATA"]) / "magnetic_tile"
    samples = read_category(tiles).test
    defects = {
        f"tiles, {defect}": [
            (s.path, next(iter(s.masks), None)) for s in samples if s.defect == defect
        ][few]
        for defect in tile_defects
    }
    yield Photographs.of("tiles", good_images(tiles)[few], defects, with_small=phase != "report")


def good_images(root: Path) -> list[Path]:
    """All good images of a category, whether to fit or to test on."""
    return [path for part in ("train", "test") for path in list_images(root / part / "good")]


@dataclass(frozen=True)
class Embedded:
    """The features of a set, and where its defects are at network size.

    Attributes:
        fitter: Of the recipe.
        levels: One per level, shape ``(N, cells, d)``.
        mirrored: The same of the good images alone, by the axes they are reversed along.
        parts: For each image, shape ``(H, W)``, 0 where normal and 1 to n on its n defects; or None
            without a mask.
    """

    fitter: Fitter
    levels: tuple[Tensor, ...]
    mirrored: dict[tuple[int, ...], tuple[Tensor, ...]]
    parts: list[NDArray[np.int32] | None]

    @classmethod
    def of(cls, photographs: Photographs, levers: Sequence[Lever]) -> "Embedded":
        """Compute them, once for all levers that share them."""
        lever = levers[0]
        fitter = prepare(
            FitSettings(
                recipe=lever.recipe,
                size_px=(lever.size_px, lever.size_px),
                taps=lever.taps,
                device="cpu",
            )
        )
        levels = features_of(fitter, photographs.pixels, ())
        good = photographs.pixels[: len(photographs.groups["good"])]
        wanted = {axes for lever in levers for axes in MIRRORS[lever.mirrored]}
        mirrored = {axes: features_of(fitter, good, axes) for axes in wanted}
        masks = [
            None if m is None else fitter.encoder.preprocess.mask(m) for m in photographs.masks
        ]
        parts = [None if mask is None else label_regions(mask)[0] for mask in masks]
        return cls(fitter, levels, mirrored, parts)

    def batches(
        self, chosen: NDArray[np.int64], axes: tuple[int, ...] = ()
    ) -> Iterator[list[Tensor]]:
        """Embeddings of some images, as a fit has them."""
        levels = self.mirrored[axes] if axes else self.levels
        for start in range(0, len(chosen), GROUP):
            indices = torch.from_numpy(chosen[start : start + GROUP])
            yield [level[indices].transpose(0, 1) for level in levels]

    def moments(self, chosen: NDArray[np.int64], mirrored: str) -> Moments:
        """Add some images up, and copies of them."""
        accumulator = Accumulator()
        for axes in ((), *MIRRORS[mirrored]):
            for embeddings in self.batches(chosen, axes):
                accumulator.add(embeddings)
        return accumulator.moments()

    def squared(
        self, moments: Moments, gaussian: Gaussian, chosen: NDArray[np.int64]
    ) -> list[Tensor]:
        """What each level adds to the squared distances of some images, ``(cells, N)``."""
        eps = [gaussian.eps] * len(self.levels)
        if gaussian.eps_rule == "relative":
            eps = relative_eps(moments, gaussian.eps)
        store = STORES[self.fitter.settings.store]
        rows = factor(blended(moments, gaussian.blend), eps, moments.count - 1, store)
        head = Head(self.fitter.encoder.pyramid, [mean.float() for mean in moments.mean], rows)
        added = [head.levels(batch) for batch in self.batches(chosen)]
        return [torch.cat(level, dim=1) for level in zip(*added, strict=True)]


def features_of(
    fitter: Fitter, pixels: Sequence[NDArray[np.uint8]], axes: tuple[int, ...]
) -> tuple[Tensor, ...]:
    """Features of images reversed along some axes, one per level, shape ``(N, cells, d)``."""
    levels: list[Tensor] = []
    start = 0
    for batch in batched(pixels, fitter.embedder.n_batch):
        network = [fitter.encoder.preprocess(np.dstack([grey] * 3)) for grey in batch]
        embeddings = fitter.features(torch.from_numpy(np.stack(network)).flip(axes))
        if not levels:
            levels = [e.new_empty(len(pixels), *e.shape[::2]) for e in embeddings]
        for level, embedding in zip(levels, embeddings, strict=True):
            level[start : start + len(batch)] = embedding.transpose(0, 1)
        start += len(batch)
    return tuple(levels)


def blended(moments: Moments, blend: float) -> Moments:
    """Replace a share of each cell's scatter by the mean over the level's cells.

    Every cell has as many descendants as any other, so the means of nested levels belong together.
    """
    scatter = tuple(
        tuple((1 - blend) * block + blend * block.mean(dim=0) for block in blocks)
        for blocks in moments.scatter
    )
    return replace(moments, scatter=scatter) if blend else moments


def distances(squared: Sequence[Tensor], pyramid: Pyramid, without: int) -> Tensor:
    """Mahalanobis distances of all levels but the finest few, shape ``(N, h, w)``."""
    kept = len(squared) - without
    total = squared[0]
    for own in squared[1:kept]:
        total = (own.view(len(total), -1, own.shape[1]) + total[:, None]).view(own.shape)
    in_rows = torch.empty_like(total)
    in_rows[torch.as_tensor(pyramid.order[kept - 1])] = total
    return in_rows.t().reshape(-1, *pyramid.levels[kept - 1].grid).sqrt()


def auroc(normal: Floats, anomalous: Floats, w_normal: Floats, w_anomalous: Floats) -> Floats:
    """Image AUROC in each bootstrap sample.

    Args:
        normal: Scores of the normal images.
        anomalous: Scores of the anomalous ones.
        w_normal: How often each is in each sample, shape ``(samples, n)``.
        w_anomalous: Likewise.
    """
    above = anomalous[:, None] > normal
    wins = (above + 0.5 * (anomalous[:, None] == normal)).astype(np.float32)
    won = np.einsum("sn,sn->s", w_anomalous @ wins, w_normal, dtype=np.float64)
    n_pairs = w_anomalous.sum(axis=1, dtype=np.float64) * w_normal.sum(axis=1, dtype=np.float64)
    return np.asarray(won / n_pairs)


@dataclass(frozen=True)
class Curves:
    """How many pixels are above each threshold, the highest first.

    Attributes:
        normal: Normal pixels of each image, shape ``(N, thresholds)``.
        n_normal: All normal pixels of each, shape ``(N,)``.
        defects: Shares of each defect, shape ``(defects, thresholds)``.
        image_of: Whose defect each is.
    """

    normal: Floats
    n_normal: Floats
    defects: Floats
    image_of: NDArray[np.int64]

    @classmethod
    def of(
        cls, maps: Tensor, parts: Sequence[NDArray[np.int32] | None], thresholds: Tensor
    ) -> "Curves":
        """Count.

        Args:
            maps: Anomaly maps, shape ``(N, H, W)``.
            parts: As of ``Embedded``; an image without a mask counts as normal.
            thresholds: Ascending.
        """
        n_bins = len(thresholds) + 1
        normal, n_normal, defects, image_of = [], [], [], []
        for i, (anomaly_map, labels) in enumerate(zip(maps, parts, strict=True)):
            bins = torch.bucketize(anomaly_map, thresholds, out_int32=True).numpy().ravel()
            n_parts = 0 if labels is None else int(labels.max())
            if labels is not None:
                bins = bins + n_bins * labels.ravel()
            counts = np.bincount(bins, minlength=n_bins * (n_parts + 1)).reshape(-1, n_bins)
            above = counts[:, :0:-1].cumsum(axis=1)
            area_px = counts.sum(axis=1)
            normal.append(above[0])
            n_normal.append(area_px[0])
            defects += list(above[1:] / area_px[1:, None])
            image_of += [i] * n_parts
        return cls(
            np.array(normal, np.float32),
            np.array(n_normal, np.float32),
            np.array(defects, np.float32).reshape(-1, len(thresholds)),
            np.array(image_of, np.int64),
        )


def aupro(
    good: Curves, defective: Curves, w_good: Floats, w_defective: Floats, limit: float = AUPRO_FPR
) -> Floats:
    """Area under the curve of defects found over false positives, in each bootstrap sample.

    Args:
        good: Of the normal images.
        defective: Of the anomalous ones.
        w_good: How often each is in each sample, shape ``(samples, N)``.
        w_defective: Likewise.
        limit: Largest false positive rate; the area is divided by it.
    """
    weights = w_defective[:, defective.image_of]
    n_found = weights @ defective.defects
    found = n_found / weights.sum(axis=1, keepdims=True)
    false = w_good @ good.normal + w_defective @ defective.normal
    fpr = false / (w_good @ good.n_normal + w_defective @ defective.n_normal)[:, None]
    areas = []
    for x, y in zip(fpr, found, strict=True):
        x, y = np.append(0.0, x), np.append(0.0, y)
        inside = x < limit
        x_end, y_end = np.append(x[inside], limit), np.append(y[inside], np.interp(limit, x, y))
        areas.append(np.trapezoid(y_end, x_end) / limit)
    return np.array(areas)


class Figures:
    """What came out, in each bootstrap sample; the first is the images themselves."""

    def __init__(self) -> None:
        # By metric, lever, and kind of defect with n: one array per seed.
        self.values: dict[tuple[str, str], dict[tuple[str, int], list[Floats]]] = defaultdict(
            lambda: defaultdict(list)
        )

    def add(self, metric: str, lever: str, defect: str, n: int, value: Floats) -> None:
        """Note one seed."""
        self.values[metric, lever][defect, n].append(value)

    def mean(self, metric: str, lever: str, small: bool, case: str | None = None) -> Floats | None:
        """Mean over the seeds and the cases, or None without any.

        Args:
            metric: Which.
            lever: Whose.
            small: Of the defects that were made, or of the real ones.
            case: Only of this kind of defect.
        """
        means = [
            np.mean(values, axis=0)
            for (defect, _), values in self.values[metric, lever].items()
            if defect.endswith("small") == small and case in (None, defect)
        ]
        return np.mean(means, axis=0) if means else None

    def rows(self) -> list[dict[str, Any]]:
        """Every figure, without its samples."""
        return [
            {
                "lever": lever,
                "defect": defect,
                "n": n,
                metric: [float(value[0]) for value in values],
            }
            for (metric, lever), cases in self.values.items()
            for (defect, n), values in cases.items()
        ]


def run_case(
    photographs: Photographs,
    embedded: Embedded,
    levers: Sequence[Lever],
    n: int,
    seed: int,
    figures: Figures,
) -> None:
    """Fit once, and measure the levers that share the features."""
    n_good = len(photographs.groups["good"])
    fitted = np.sort(np.random.default_rng((seed, n)).permutation(n_good)[:n])
    held_out = np.setdiff1d(np.arange(n_good), fitted)
    groups = {
        f"{photographs.name}, small" if group == "small" else group: (
            places[held_out] if group == "small" else places
        )
        for group, places in photographs.groups.items()
        if group != "good"
    }
    tested = np.concatenate([held_out, *groups.values()])
    weights = photographs.weights()
    moments: dict[str, Moments] = {}
    settings, pyramid = embedded.fitter.recipe, embedded.fitter.encoder.pyramid
    has_masks = {g: embedded.parts[places[0]] is not None for g, places in groups.items()}
    wanted: dict[Source, tuple[list[Lever], list[Lever]]] = defaultdict(lambda: ([], []))
    for lever in (lever.with_images(n, pyramid.n_dims) for lever in levers):
        wanted[lever.map_source][0].append(lever)
        wanted[lever.score_source][1].append(lever)
    squared: dict[Gaussian, list[Tensor]] = {}
    for source, (mapped, scored) in wanted.items():
        gaussian = source.gaussian
        if gaussian.mirrored not in moments:
            moments[gaussian.mirrored] = embedded.moments(fitted, gaussian.mirrored)
        if gaussian not in squared:
            squared[gaussian] = embedded.squared(moments[gaussian.mirrored], gaussian, tested)
        distance = distances(squared[gaussian], pyramid, source.without)
        grid = distance.shape[1], distance.shape[2]
        finish = Postprocess(grid, settings.size_px, source.sigma_px, 0.0)
        maps = torch.cat([finish(some)[0] for some in torch.split(distance, GROUP)])
        of_good = maps[: len(held_out)]
        ends = np.cumsum([len(held_out), *map(len, groups.values())])
        for fraction, less in {(lever.score_fraction, lever.score_less) for lever in scored}:
            scores = image_score(maps, fraction).numpy()
            if less:
                scores = scores - less * maps.flatten(1).median(dim=1).values.numpy()
            for (group, places), end in zip(groups.items(), ends[1:], strict=True):
                value = auroc(
                    scores[: len(held_out)],
                    scores[end - len(places) : end],
                    weights[:, held_out],
                    weights[:, places],
                )
                for lever in scored:
                    if (lever.score_fraction, lever.score_less) == (fraction, less):
                        figures.add("image_auroc", lever.name, group, n, value)
        if not mapped or not any(has_masks.values()):
            continue
        some_pixels = of_good.reshape(-1)[::13].numpy()
        quantiles = 1 - THRESHOLD_FPR * np.linspace(1, 0, N_THRESHOLDS) ** 2
        thresholds = torch.from_numpy(np.unique(np.quantile(some_pixels, quantiles)))
        thresholds = thresholds.to(maps.dtype)
        good = Curves.of(of_good, [None] * len(of_good), thresholds)
        for (group, places), end in zip(groups.items(), ends[1:], strict=True):
            if not has_masks[group]:
                continue
            parts = [embedded.parts[place] for place in places]
            defective = Curves.of(maps[end - len(places) : end], parts, thresholds)
            value = aupro(good, defective, weights[:, held_out], weights[:, places])
            for lever in mapped:
                figures.add("aupro_30", lever.name, group, n, value)


def interval(values: Floats) -> dict[str, float]:
    """The value itself and where 95% of its bootstrap samples lie."""
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def n_entries(lever: Lever) -> int:
    """Entries that are stored: those of the finest level that is wanted and all above."""
    pyramid = prepare(
        FitSettings(
            recipe=lever.recipe, size_px=(lever.size_px,) * 2, taps=lever.taps, device="cpu"
        )
    ).encoder.pyramid
    used = min(lever.map_source.without, lever.score_source.without)
    n_gaussians = len({lever.map_source.gaussian, lever.score_source.gaussian})
    return n_gaussians * Pyramid(pyramid.levels[: len(pyramid.levels) - used]).n_entries


def summary(figures: Figures, lever: Lever) -> dict[str, Any]:
    """Errors and AUPRO of a lever, and what it gains over others."""
    result: dict[str, Any] = {"lever": lever.name, "n_entries": n_entries(lever)}
    for small, metric in product((False, True), ("image_auroc", "aupro_30")):
        own = figures.mean(metric, lever.name, small)
        if own is None:
            continue
        what = ("small_" if small else "") + metric
        result[what] = interval(own)
        for name in AGAINST:
            other = figures.mean(metric, name, small)
            if other is None:
                continue
            result[f"{what}_minus_{name}"] = interval(own - other)
            if metric == "image_auroc":
                # With few images there may be no error to divide by.
                ratio = (1 - own) / np.maximum(1 - other, 1e-9)
                result[f"{what}_error_over_{name}"] = interval(ratio)
    return result


def shown(value: dict[str, float] | None, factor: float = 100, digits: int = 1) -> str:
    """A value and its interval, in per cent."""
    if value is None:
        return ""
    middle, low, high = (f"{factor * value[k]:.{digits}f}" for k in ("value", "low", "high"))
    return f"{middle} [{low}, {high}]"


def print_summaries(figures: Figures, levers: Iterable[Lever], summaries: list[Any]) -> None:
    """Print errors, AUPRO and gains, and then the kinds of defect one by one."""
    lines: list[tuple[object, ...]] = []
    for row in summaries:
        lines.append((row["lever"], f"{row['n_entries'] / 1e6:.1f}"))
        for what in ("", "small_"):
            auc = row.get(f"{what}image_auroc")
            lines[-1] += (
                f"{100 - 100 * auc['value']:.2f}" if auc else "",
                shown(row.get(f"{what}image_auroc_minus_standard"), digits=2),
                shown(row.get(f"{what}image_auroc_minus_plain"), digits=2),
                shown(row.get(f"{what}image_auroc_error_over_reference"), 1, 2),
                f"{100 * row[f'{what}aupro_30']['value']:.2f}" if f"{what}aupro_30" in row else "",
                shown(row.get(f"{what}aupro_30_minus_standard"), digits=2),
                shown(row.get(f"{what}aupro_30_minus_plain"), digits=2),
            )
    of_each = ("error", "AUROC +", "+ plain", "err/ref", "AUPRO", "+", "+ plain")
    measure.print_table(("lever", "M entries", *of_each, *(f"s {h}" for h in of_each)), lines)
    print("\nPoints of 100 over standard (+) and plain; s: small defects. Then error / AUPRO each:")
    cases = list(figures.values["image_auroc", "standard"])
    masked = figures.values["aupro_30", "standard"]
    lines = []
    for lever in levers:
        cells: list[object] = [lever.name]
        for case in cases:
            auc = np.mean(figures.values["image_auroc", lever.name][case], axis=0)[0]
            text = f"{100 - 100 * auc:.1f}"
            if case in masked:
                pro = np.mean(figures.values["aupro_30", lever.name][case], axis=0)[0]
                text += f" / {100 * pro:.1f}"
            cells.append(text)
        lines.append(tuple(cells))
    measure.print_table(("lever", *(f"{defect}, {n}" for defect, n in cases)), lines)


def aims(summaries: Iterable[Mapping[str, Any]]) -> Iterator[measure.Aim]:
    """What the chosen ones are to reach on the sets that they were not chosen on."""
    for row in summaries:
        name = row["lever"]
        if name in CHOSEN:
            ratio = row["image_auroc_error_over_reference"]["value"]
            yield measure.Aim(f"{name}, image error over that of reference", ratio, 0.6)
        if name in CHOSEN and "aupro_30_minus_plain" in row:
            high = 100 * row["aupro_30_minus_plain"]["high"]
            what = f"{name}, points of AUPRO-0.3 over plain, upper end of the interval"
            yield measure.Aim(what, high, 0.0, at_least=True)


def settings() -> dict[str, Any]:
    """What the figures rest on."""
    return {
        "backbone": prepare(FitSettings(device="cpu")).encoder.spec.name,
        "counts": COUNTS,
        "seeds": SEEDS,
        "n_bootstrap": N_BOOTSTRAP,
        "aupro_fpr": AUPRO_FPR,
        "small_defects": "small_defects.py, one on each good image",
    }


@torch.inference_mode()
def main() -> None:
    """Run the benchmark."""
    arguments = measure.arguments(__doc__, phases=("choose", "combine", "report"))
    quick, phase = arguments.quick, arguments.phase
    about = measure.facts(["elpv-dataset"])
    levers = {
        "choose": LEVERS,
        "combine": (PLAIN, STANDARD, *COMBINED),
        "report": tuple(lever for lever in (*LEVERS, *COMBINED) if lever.name in REPORTED),
    }[phase]
    counts, seeds = ((N_QUICK // 2,), SEEDS[:1]) if quick else (COUNTS, SEEDS)
    sharing: dict[tuple[object, ...], list[Lever]] = defaultdict(list)
    for lever in levers:
        sharing[lever.recipe, lever.size_px, lever.taps].append(lever)
    figures = Figures()
    with tempfile.TemporaryDirectory() as folder:
        for photographs in find_photographs(Path(folder), phase, quick):
            for key, shared in sharing.items():
                measure.say(f"{photographs.name}: {key}")
                embedded = Embedded.of(photographs, shared)
                for n, seed in product(counts, seeds):
                    measure.say(f"  {n} images, seed {seed}")
                    run_case(photographs, embedded, shared, n, seed, figures)
    summaries = [summary(figures, lever) for lever in levers]
    print_summaries(figures, levers, summaries)
    content = {
        "phase": phase,
        "settings": settings(),
        "levers": [asdict(lever) for lever in levers],
        "summaries": summaries,
        "rows": figures.rows(),
    }
    if phase == "report":
        content |= {"chosen": CHOSEN, "aims": measure.judge(aims(summaries))}
    measure.finish("recipe_levers", about, content, quick=quick, phase=phase)


if __name__ == "__main__":
    main()
