"""Image scores of every head that a recipe may take, and the metrics of its maps.

Features are computed once for each set, backbone and ``Geometry``, and kept in a folder; so are the
scores of each fit, in a file of their own. What is there is not computed again.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from halves import Half, Places
from numpy.typing import NDArray
from torch import Tensor, nn

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
from padim.method.pyramid import Level, Pyramid
from padim.metrics.counts import MapCounts
from padim.metrics.curves import Floats
from padim.metrics.pixels import PixelMetrics
from padim.metrics.table import METRICS, PixelMetric

N_BATCH = 48  # images in one product
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
    """

    name: str
    recipe: str = "standard"
    size_px: int | None = None
    taps: tuple[int, ...] | None = None
    is_mirrored: bool = False

    def prepare(self, backbone: str) -> Fitter:
        """Find and load what computes them."""
        return prepare(
            FitSettings(
                backbone=backbone,
                recipe=self.recipe,
                size_px=self.size_px,
                taps=self.taps,
                device="cpu",
            )
        )


@dataclass(frozen=True)
class Map:
    """An anomaly map.

    Attributes:
        geometry: Of the features.
        n_levels: How many levels it looks at, from the coarsest; 0 for the coarse head.
        sigma_px: Blur.
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
        levels = fitter.encoder.pyramid.levels
        stem = f"{backbone}-{half.name}-{geometry.name}"
        paths = [folder / f"{stem}-{i}.npy" for i in range(len(levels))]
        if not all(path.is_file() for path in paths):
            partial = [path.with_suffix(".partial") for path in paths]
            kept = [
                np.lib.format.open_memmap(
                    path, "w+", np.float16, (len(pixels), level.n_cells, level.n_dims)
                )
                for path, level in zip(partial, levels, strict=True)
            ]
            start = 0
            for batch in batched(pixels, fitter.embedder.n_batch):
                features = embed(fitter, batch, geometry.is_mirrored)
                for level, own in zip(kept, features, strict=True):
                    level[start : start + len(batch)] = own.transpose(0, 1).numpy()
                start += len(batch)
            for path, whole in zip(partial, paths, strict=True):
                path.rename(whole)
        preprocess = fitter.encoder.preprocess
        parts = [None if m is None else label_regions(preprocess.mask(m))[0] for m in masks]
        return cls(fitter, half, tuple(np.load(path, mmap_mode="r") for path in paths), parts)

    def batches(self, chosen: Places, is_coarse: bool) -> Iterator[list[Tensor]]:
        """Features of some images as a fit has them, of all levels or of the coarse head."""
        for start in range(0, len(chosen), N_BATCH):
            places = chosen[start : start + N_BATCH]
            levels = self.levels[:1] if is_coarse else self.levels
            features = [torch.from_numpy(level[places].astype(np.float32)) for level in levels]
            if is_coarse:
                features = [blur(features[0], self.fitter.encoder.pyramid.levels[0].grid)]
            yield [level.transpose(0, 1) for level in features]

    def pyramid(self, n_levels: int) -> Pyramid:
        """The levels that a map looks at."""
        levels = self.fitter.encoder.pyramid.levels
        return Pyramid(levels[:n_levels] if n_levels else (last_tap(levels[0]),))


def last_tap(level: Level) -> Level:
    """The level of a coarse head: the last tap alone."""
    return Level(level.grid, level.taps[-1:], level.channels[-1:])


def embed(fitter: Fitter, pixels: Sequence[NDArray[np.uint8]], is_mirrored: bool) -> list[Tensor]:
    """Features of grey images, one per level, shape ``(cells, N, d)``."""
    preprocess = fitter.encoder.preprocess
    images = torch.from_numpy(np.stack([preprocess(np.dstack([grey] * 3)) for grey in pixels]))
    with torch.inference_mode():
        features: list[Tensor] = fitter.features(images)
        if not is_mirrored:
            return features
        mirrored: list[Tensor] = fitter.features(images.flip(2))
    pyramid = fitter.encoder.pyramid
    means = []
    for own, other, level, order in zip(
        features, mirrored, pyramid.levels, pyramid.order, strict=True
    ):
        place = np.empty(level.n_cells, np.int64)
        place[order] = np.arange(level.n_cells)
        y, x = np.divmod(order, level.grid[1])
        across = place[y * level.grid[1] + level.grid[1] - 1 - x]
        means.append((own + other[torch.from_numpy(across)]) / 2)
    return means


def blur(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Blur features ``(N, h w, d)`` by [1 2 1] x [1 2 1] / 16, edges replicated."""
    maps = features.transpose(1, 2).reshape(len(features), -1, *grid)
    rows = nn.functional.pad(maps, (1, 1, 1, 1), mode="replicate")
    rows = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4
    blurred = (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 4
    return blurred.flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class Fit:
    """The Gaussians of a fit, and those without each of its images.

    Attributes:
        head: Of all levels.
        without: Likewise.
    """

    head: Head
    without: LeaveOneOut

    @classmethod
    def of(cls, embedded: Embedded, fitted: Places, pyramid: Pyramid, is_coarse: bool) -> "Fit":
        """Fit on some images."""
        recipe = embedded.fitter.recipe
        batches = (level[: len(pyramid.levels)] for level in embedded.batches(fitted, is_coarse))
        moments, _ = add_up(batches)
        if recipe.eps_rule == "relative":
            eps = relative_eps(moments, recipe.eps)
        else:
            eps = [recipe.eps] * len(moments.mean)
        rows = factor(moments, eps, moments.count - 1, torch.float16)
        means = [mean.float() for mean in moments.mean]
        return cls(Head(pyramid, means, rows), LeaveOneOut(moments, eps, pyramid))

    def distances(self, features: Sequence[Tensor], pyramids: Iterable[Pyramid]) -> list[Tensor]:
        """Distances of new images by the first levels of each pyramid, shape ``(N, h, w)``."""
        levels = self.head.levels(features)
        return [
            pyramid.on_grid(pyramid.add_up(levels[: len(pyramid.levels)])).sqrt()
            for pyramid in pyramids
        ]

    def distances_without(
        self, features: Sequence[Tensor], pyramids: Iterable[Pyramid]
    ) -> list[Tensor]:
        """The same of images of the fit, each under the model without it."""
        found = []
        for pyramid in pyramids:
            n_levels = len(pyramid.levels)
            # The rows of a level depend on nothing finer.
            part = copy(self.without)
            part.pyramid = pyramid
            part.rows, part.mean = part.rows[:n_levels], part.mean[:n_levels]
            found.append(part(features[:n_levels]).float())
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
    result: dict[str, Floats] = {}
    wanted: dict[bool, dict[Map, list[float]]] = {False: {}, True: {}}
    for score in scores:
        wanted[not score.map.n_levels].setdefault(score.map, []).append(score.fraction)
    for is_coarse, fractions in wanted.items():
        if not fractions:
            continue
        n_levels = sorted({one.n_levels for one in fractions}, reverse=True)
        pyramids = [embedded.pyramid(n) for n in n_levels]
        fit = Fit.of(embedded, fitted, pyramids[0], is_coarse)
        counted = {one: MapCounts() for one in maps if one in fractions}
        for which, places in (("fit", fitted), ("test", np.concatenate([*tested.values()]))):
            compute = fit.distances_without if which == "fit" else fit.distances
            found: dict[str, list[Tensor]] = {}
            done = 0
            for features in embedded.batches(places, is_coarse):
                some = places[done : done + N_BATCH]
                done += N_BATCH
                features = features[: max(1, n_levels[0])]
                distances = dict(zip(n_levels, compute(features, pyramids), strict=True))
                for one, of in fractions.items():
                    distance = distances[one.n_levels]
                    anomaly_maps = finish(embedded.fitter, distance, one.sigma_px)
                    for fraction, values in hottest(anomaly_maps, of).items():
                        found.setdefault(f"{which} {Score(one, fraction).key}", []).append(values)
                    if which == "test" and one in counted:
                        count_maps(counted[one], anomaly_maps, embedded, some)
            result |= {key: torch.cat(values).double().numpy() for key, values in found.items()}
        for one, counts in counted.items():
            of_kinds = measure_maps(counts, embedded, tested, weights)
            result |= {f"{one.key} {kind}": metrics for kind, metrics in of_kinds.items()}
    return result


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
