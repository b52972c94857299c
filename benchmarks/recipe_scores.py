"""Image scores of every head that a recipe may take, and the metrics of its maps.

Features are computed once for each set, backbone and ``Geometry``, and kept in a folder; so are the
scores of each fit, in a file of their own. What is there is not computed again.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from halves import Half, Places
from numpy.typing import NDArray
from torch import Tensor

from padim.files import write_whole
from padim.fitting.fitter import Fitter
from padim.fitting.looks import add_up
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings
from padim.images.ahead import batched
from padim.images.regions import label_regions
from padim.method.gaussian import factor, relative_eps
from padim.method.head import Head
from padim.method.leave_one_out import LeaveOneOut
from padim.method.postprocess import Postprocess
from padim.method.pyramid import Pyramid
from padim.metrics.counts import MapCounts
from padim.metrics.curves import Floats
from padim.metrics.pixels import PixelMetrics
from padim.metrics.table import METRICS, PixelMetric

N_BATCH = 48  # images in one product
OF_IMAGES = ("image_auroc", "image_recall_at_0", "image_recall_at_1", "false_alarms_at_05")
OF_MAPS = ("aupro_30", "aupro_05", "aupimo")


@dataclass(frozen=True)
class Geometry:
    """What the features are: levers that differ in less share them.

    Attributes:
        name: Of the files that keep them.
        recipe: What it starts from.
        size_px: Side of what the network sees; the recipe's when None.
        taps: Numbers of the tapped blocks; the backbone's when None.
        is_mirrored: Whether they are the mean of an image's and of its left-right mirror's.
        coarse_scale: Of the copy of the image that the coarse head sees.
    """

    name: str
    recipe: str = "standard"
    size_px: int | None = None
    taps: tuple[int, ...] | None = None
    is_mirrored: bool = False
    coarse_scale: float = 0.625

    def prepare(self, backbone: str) -> Fitter:
        """Find and load what computes them."""
        return prepare(
            FitSettings(
                backbone=backbone,
                recipe=self.recipe,
                size_px=self.size_px,
                taps=self.taps,
                mirrored=self.is_mirrored,
                coarse_scale=self.coarse_scale,
                device="cpu",
            )
        )


@dataclass(frozen=True)
class Map:
    """An anomaly map.

    Attributes:
        geometry: Of the features.
        n_levels: How many levels it looks at, from the coarsest; 0 for the cells of the coarse
            head.
        sigma_px: Blur; none of those cells.
    """

    geometry: Geometry
    n_levels: int
    sigma_px: float

    @property
    def key(self) -> str:
        """Its name in a file."""
        return f"{self.n_levels} {self.sigma_px:g}"


@dataclass(frozen=True)
class Score:
    """An image score.

    Attributes:
        map: What it is taken from.
        fraction: Of the hottest pixels, whose mean it is; 0 for the maximum.
    """

    map: Map
    fraction: float

    @property
    def key(self) -> str:
        """Its name in a file."""
        return f"{self.map.key} {self.fraction:g}"


@dataclass(frozen=True)
class Case:
    """A fit.

    Attributes:
        backbone: Name.
        set: Of the images.
        n: Images that it is to be made from; a set may have fewer.
        seed: Of their draw.
    """

    backbone: str
    set: str
    n: int
    seed: int

    def path(self, folder: Path, geometry: Geometry) -> Path:
        """Where its scores are kept."""
        return folder / f"{self.backbone}-{self.set}-{geometry.name}-{self.n}-{self.seed}.npz"


@dataclass(frozen=True)
class Embedded:
    """The features of a set.

    Attributes:
        fitter: Of the geometry.
        half: Of the set.
        levels: One per level, shape ``(N, cells, d)``, float16.
        parts: For each image, 0 where normal and 1 to n on its n defects, at network size; or None
            without a mask.
    """

    fitter: Fitter
    half: Half
    levels: tuple[NDArray[np.float16], ...]
    parts: list[NDArray[np.int32] | None]

    @classmethod
    def of(
        cls,
        folder: Path,
        geometry: Geometry,
        backbone: str,
        half: Half,
        pixels: Sequence[NDArray[np.uint8]],
        masks: Iterable[NDArray[np.bool_] | None],
    ) -> "Embedded":
        """Compute features, unless they are kept."""
        fitter = geometry.prepare(backbone)
        shapes = fitter.encoder.pyramid.shapes
        stem = f"{backbone}-{half.name}-{geometry.name}"
        paths = [folder / f"{stem}-{i}.npy" for i in range(len(shapes))]
        if not all(path.is_file() for path in paths):
            partial = [path.with_suffix(".partial") for path in paths]
            kept = [
                np.lib.format.open_memmap(path, "w+", np.float16, (len(pixels), n_cells, n_dims))
                for path, (n_cells, n_dims, _) in zip(partial, shapes, strict=True)
            ]
            start = 0
            for batch in batched(pixels, fitter.embedder.n_batch):
                network = [fitter.encoder.preprocess(np.dstack([grey] * 3)) for grey in batch]
                features = fitter.features(torch.from_numpy(np.stack(network)))
                for level, own in zip(kept, features, strict=True):
                    level[start : start + len(batch)] = own.transpose(0, 1).numpy()
                start += len(batch)
            for path, whole in zip(partial, paths, strict=True):
                path.rename(whole)
        preprocess = fitter.encoder.preprocess
        parts = [None if m is None else label_regions(preprocess.mask(m))[0] for m in masks]
        return cls(fitter, half, tuple(np.load(path, mmap_mode="r") for path in paths), parts)

    def batches(self, chosen: Places) -> Iterator[list[Tensor]]:
        """Features of some images as a fit has them, ``(cells, N, d)`` per level."""
        for start in range(0, len(chosen), N_BATCH):
            places = chosen[start : start + N_BATCH]
            yield [
                torch.from_numpy(level[places].astype(np.float32)).transpose(0, 1)
                for level in self.levels
            ]


@dataclass(frozen=True)
class Distances:
    """The distances of a head, or of its coarsest levels alone.

    Attributes:
        levels: Where its levels stand among those of all heads.
        head: From the features of new images.
        without: From those of the images of the fit, each under the model without it.
    """

    levels: slice
    head: Head
    without: LeaveOneOut

    def of(self, features: Sequence[Tensor], *, is_new: bool) -> Tensor:
        """Compute them, shape ``(N, h, w)``."""
        own = features[self.levels]
        return self.head(own) if is_new else self.without(own)[0].float()


def fit(embedded: Embedded, fitted: Places, n_levels: Iterable[int]) -> dict[int, Distances]:
    """Fit on some images.

    Args:
        embedded: Of the set.
        fitted: The images.
        n_levels: As of ``Map``.
    """
    recipe, pyramid = embedded.fitter.recipe, embedded.fitter.encoder.pyramid
    moments = add_up(embedded.batches(fitted), embedded.fitter.encoder.pyramid)
    if recipe.eps_rule == "relative":
        eps = relative_eps(moments, recipe.eps)
    else:
        eps = [recipe.eps] * len(moments.mean)
    rows = factor(moments, eps, moments.count - 1, torch.float16)
    without = LeaveOneOut(moments, eps, pyramid)
    fine, coarse = pyramid.heads
    found = {}
    for n in n_levels:
        levels = slice(n) if n else slice(len(fine.levels), None)
        # The rows of a level depend on nothing finer.
        part = Pyramid(fine.levels[:n]) if n else coarse
        means = [mean.float() for mean in moments.mean[levels]]
        own = copy(without)
        own.pyramid, own.rows, own.mean = part, without.rows[levels], without.mean[levels]
        found[n] = Distances(levels, Head(part, means, rows[levels]), own)
    return found


def hottest(maps: Tensor, fractions: Sequence[float]) -> dict[float, Tensor]:
    """Mean of each fraction of the hottest pixels of maps ``(N, H, W)``, as ``image_score``."""
    pixels = maps.flatten(1)
    counts = {fraction: max(1, round(fraction * pixels.shape[1])) for fraction in fractions}
    top = torch.topk(pixels, max(counts.values()), dim=1).values
    return {fraction: top[:, :count].mean(dim=1) for fraction, count in counts.items()}


def measure_case(
    embedded: Embedded, case: Case, scores: Iterable[Score], maps: Iterable[Map], n_tested: int
) -> dict[str, Floats]:
    """Fit, and measure some scores and maps of one geometry.

    Returns:
        By ``fit`` or ``test`` and the key of a score: those of the images of the fit, each under
        the model without it, and of the tested ones. By the key of a map and a kind of defect:
        each of ``OF_MAPS`` in each bootstrap sample, shape ``(samples, metrics)``.
    """
    fitted, tested = embedded.half.draw(case.n, case.seed, n_tested)
    weights = embedded.half.weights()
    fractions: dict[Map, list[float]] = defaultdict(list)
    for score in scores:
        fractions[score.map].append(score.fraction)
    heads = fit(embedded, fitted, {one.n_levels for one in fractions})
    counted = {one: MapCounts() for one in maps}
    found: dict[str, list[Tensor]] = defaultdict(list)
    for which, places in (("fit", fitted), ("test", np.concatenate([*tested.values()]))):
        for i, features in enumerate(embedded.batches(places)):
            distances = {n: head.of(features, is_new=which == "test") for n, head in heads.items()}
            for one, of in fractions.items():
                anomaly_maps = distances[one.n_levels]
                if one.n_levels:
                    anomaly_maps = finish(embedded.fitter, anomaly_maps, one.sigma_px)
                for fraction, values in hottest(anomaly_maps, of).items():
                    found[f"{which} {Score(one, fraction).key}"].append(values)
                if which == "test" and one in counted:
                    some = places[i * N_BATCH : (i + 1) * N_BATCH]
                    count_maps(counted[one], anomaly_maps, embedded, some)
    result: dict[str, Floats] = {
        key: torch.cat(values).double().numpy() for key, values in found.items()
    }
    for one, counts in counted.items():
        of_kinds = measure_maps(counts, embedded, tested, weights)
        result |= {f"{one.key} {kind}": metrics for kind, metrics in of_kinds.items()}
    return result


def measure_images(
    normal: Floats, anomalous: Floats, w_normal: Floats, w_anomalous: Floats, threshold: float
) -> list[Floats]:
    """Each of ``OF_IMAGES`` in each bootstrap sample, as ``padim.metrics`` defines it.

    Args:
        normal: Scores of the normal images.
        anomalous: Scores of the anomalous ones.
        w_normal: How often each is in each sample, shape ``(samples, n)``.
        w_anomalous: Likewise.
        threshold: What a normal image lies above to be a false alarm.
    """
    order = np.argsort(normal)
    below = np.searchsorted(normal[order], anomalous, "left")
    up_to = np.searchsorted(normal[order], anomalous, "right")
    n_below = np.pad(w_normal[:, order].cumsum(axis=1), ((0, 0), (1, 0)))
    n_anomalous = w_anomalous.sum(axis=1)
    won = (w_anomalous * (n_below[:, below] + n_below[:, up_to])).sum(axis=1) / 2
    found = [won / n_below[:, -1] / n_anomalous]
    for n_alarms in (0, 1):
        # The normal images are kept: resampling could only take the highest away.
        found.append(w_anomalous @ (below >= len(normal) - n_alarms) / n_anomalous)
    return [*found, w_normal @ (normal > threshold) / w_normal.sum(axis=1)]


def finish(fitter: Fitter, distance: Tensor, sigma_px: float) -> Tensor:
    """From distances ``(N, h, w)`` to anomaly maps."""
    grid = distance.shape[1], distance.shape[2]
    maps: Tensor = Postprocess(grid, fitter.recipe.size_px, sigma_px, 0.0)(distance)[0]
    return maps


def count_maps(counts: MapCounts, maps: Tensor, embedded: Embedded, places: Places) -> None:
    """Count the pixels of maps; those of defects that are not known where do not matter."""
    n_good = len(embedded.half.kinds["good"])
    for anomaly_map, place in zip(maps.numpy(), places, strict=True):
        part, is_anomalous = embedded.parts[place], bool(place >= n_good)
        if part is None and is_anomalous:
            anomaly_map.fill(np.nan)
        counts.add(anomaly_map, part, is_anomalous=is_anomalous)


def measure_maps(
    counts: MapCounts, embedded: Embedded, tested: Mapping[str, Places], weights: Floats
) -> dict[str, Floats]:
    """Metrics of the maps of each kind of defect, shape ``(samples, metrics)``."""
    rows = [row for row in (METRICS[name] for name in OF_MAPS) if isinstance(row, PixelMetric)]
    metrics = PixelMetrics(counts)
    found: dict[str, Floats] = {}
    ends = np.cumsum([len(places) for places in tested.values()])
    n_good = ends[0]
    drawn = weights[:, np.concatenate([*tested.values()])]
    for (kind, places), end in zip(tested.items(), ends, strict=True):
        if kind == "good" or embedded.parts[places[0]] is None:
            continue
        of_kind = np.zeros_like(drawn)
        for span in (slice(0, n_good), slice(end - len(places), end)):
            of_kind[:, span] = drawn[:, span]
        found[kind] = metrics.measure(
            lambda sums, order: np.stack([row.measure(sums, order) for row in rows], axis=1),
            of_kind,
        )
    return found


def keep(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays to a file, whole or not at all."""
    with write_whole(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def read(path: Path) -> dict[str, Floats]:
    """Read them; none where there is no file."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return dict(file)
