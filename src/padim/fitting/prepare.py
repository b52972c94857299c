"""Find and load everything a fit needs, and refuse what cannot be, before any work."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from padim.backbones import DEFAULT_BACKBONE, backbone
from padim.errors import (
    DatasetError,
    ImageReadError,
    PathMissingError,
    UnknownNameError,
    UsageError,
)
from padim.features.network import Network, choose_batch, choose_device, choose_engine
from padim.features.trunk import with_taps
from padim.features.weights import fetch, read_weights
from padim.files import sha256
from padim.fitting.fitter import Fitter
from padim.fitting.review import OUTLIER_RATE
from padim.fitting.tile_fitter import TileFitter
from padim.images.ahead import ImageInput, load_image
from padim.images.preprocess import Preprocess
from padim.images.roi import Roi
from padim.method.gaussian import STORES
from padim.method.pyramid import RANDOM_DIMS_SEED, build_pyramid
from padim.method.tiles import plan_tiles
from padim.model.file_tensor import n_bytes
from padim.recipes import DEFAULT_RECIPE, known_recipe, recipe
from padim.scoring.calibration import check_rate

INCLUDE_BACKBONE_BYTES = 50_000_000
_GRAPH_BYTES = 40_000_000  # the library of another engine than torch, loaded
_WRITER_BYTES = 120_000_000  # what writes a graph, loaded


def prepare(
    backbone_name: str = DEFAULT_BACKBONE,
    recipe_name: str = DEFAULT_RECIPE,
    *,
    size_px: tuple[int, int] | None = None,
    taps: tuple[int, ...] | None = None,
    dims: int | str | None = None,
    dims_seed: int = 0,
    eps: float | None = None,
    eps_rule: str | None = None,
    sigma_px: float | None = None,
    score_fraction: float | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    precision: str = "float32",
    store: str = "float16",
    include_backbone: bool | None = None,
    keep_moments: bool = False,
    keep_samples: bool = True,
    calibrate: bool = True,
    drop_outliers: float = 0.0,
    keep_outlier_maps: bool = False,
    n_batch: int | None = None,
    engine: str = "auto",
    n_threads: int | None = None,
    roi: NDArray[np.bool_] | None = None,
    tile_px: int | None = None,
    tile_overlap_px: int | None = None,
    source_px: tuple[int, int] | None = None,
    scratch: Path | None = None,
) -> Fitter:
    """Find and load everything a fit needs, and refuse what cannot be, before any work.

    Args:
        backbone_name: Short name of the backbone.
        recipe_name: Name of the recipe.
        size_px: (height, width) of what the network sees.
        taps: Numbers of the tapped blocks, instead of the backbone's own.
        dims: ``all``, or how many dimensions to draw at random.
        dims_seed: Of the draw, counted from that of the published PaDiM figures.
        eps: Added to the diagonal of the covariances.
        eps_rule: ``absolute`` or ``relative``.
        sigma_px: Blur of the map.
        score_fraction: Fraction of the hottest pixels that the image score averages.
        weights: Local weights file instead of the published one.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: What the trunk computes in, ``float32`` or ``bfloat16``.
        store: What the whitening rows are stored in, ``float16`` or ``float32``.
        include_backbone: Whether the trunk travels with the model; under 50 MB when None.
        keep_moments: Whether the moments are to be written as well.
        keep_samples: Whether a few images travel with the model, to compare engines on.
        calibrate: Whether the images are looked at again, for the leave-one-out calibration.
        drop_outliers: Largest p-value, by the bulk of the scores, of an image that is left out;
            0 to leave none out.
        keep_outlier_maps: Whether the maps of outliers are kept, to be drawn.
        n_batch: Images in one forward pass; what suits the device when None.
        engine: Who runs the trunk, as for ``choose_engine``.
        n_threads: Threads of the whole process; one for each core when None.
        roi: True where to look, shape ``(H0, W0)`` of every image; everywhere when None.
        tile_px: Side of the parts that the network sees one at a time; the whole when None.
        tile_overlap_px: By how much they overlap at least.
        source_px: (height, width) of the images: the size at which they are cut into tiles, to the
            nearest that the network takes, when ``size_px`` is None.
        scratch: Folder of the temporary files of a fit tile by tile; the system's when None.

    Raises:
        UsageError: A name or a value is impossible.
        PathMissingError: There is no such weights file.
        WeightsError: The weights are absent and cannot be fetched, or are the wrong ones.
        MissingExtraError: The engine is not installed.
    """
    spec = backbone(backbone_name)
    if (tapped := taps or known_recipe(recipe_name).taps) is not None:
        spec = with_taps(spec, tapped)
    if tile_px is not None and size_px is None and source_px is not None:
        stride = max(spec.strides)
        height, width = (max(stride, round(side / stride) * stride) for side in source_px)
        size_px = height, width
    settings = recipe(
        recipe_name,
        taps=taps,
        size_px=size_px,
        eps=eps,
        eps_rule=eps_rule,
        sigma_px=sigma_px,
        score_fraction=score_fraction,
        tile_px=tile_px,
        tile_overlap_px=tile_overlap_px,
    )
    if dims is None:
        n_random_dims = spec.n_random_dims and min(spec.n_random_dims, spec.n_dims)
    elif dims == "all":
        n_random_dims = None
    else:
        n_random_dims = _whole_number(dims)
    pyramid = build_pyramid(spec, settings.size_px, n_random_dims, RANDOM_DIMS_SEED + dims_seed)
    chosen_device = choose_device(device)
    if store not in STORES:
        raise UnknownNameError("store", store, tuple(STORES))
    if drop_outliers:
        check_rate(drop_outliers, "rate of outliers", OUTLIER_RATE)
    if (drop_outliers or keep_outlier_maps) and not calibrate:
        raise UsageError("Outliers are known by calibrating only. Leave --no-calibrate out.")
    engine = choose_engine(engine, chosen_device, precision)
    preprocess = Preprocess(
        settings.size_px, settings.crop_fraction, settings.resample, spec.mean, spec.std
    )
    if roi is not None:
        preprocess = replace(preprocess, roi=Roi.of(roi, preprocess.mask))
    if tile_px is not None and settings.crop_fraction < 1:
        raise UsageError(
            f"The {settings.name} recipe cuts the middle out of an image, but tiles are for all of "
            "it. Use --recipe standard."
        )
    if tile_overlap_px is not None and tile_px is None and roi is None:
        raise UsageError("An overlap needs tiles. Use --tile-px, or leave --tile-overlap-px out.")
    region = preprocess.roi
    tiling = plan_tiles(pyramid, settings, None if region is None else region.touched)
    in_tiles = len(tiling.tiles) > 1
    if in_tiles and (keep_moments or drop_outliers):
        raise UsageError(
            "A model of tiles keeps no moments, which are several times its size, and can drop no "
            "outliers. Leave --keep-moments and --drop-outliers out."
        )
    path = fetch(spec) if weights is None else Path(weights)
    if not path.is_file():
        raise PathMissingError(path)
    network = Network(
        spec, tiling, preprocess, lambda: read_weights(path), path, weights_sha256=sha256(path)
    )
    known = network.cached.tensors() if engine != "torch" else None
    tensors, image_bytes = known or network.trunk()
    n_batch = choose_batch(n_batch, chosen_device)
    engine_bytes = 0
    if engine != "torch":
        # Its memory grows by doubling, so it may hold the feature maps twice.
        engine_bytes = _GRAPH_BYTES + n_batch * image_bytes
    if engine != "torch" and known is None:
        engine_bytes += _WRITER_BYTES + 4 * n_bytes(tensors)
    if include_backbone is None:
        include_backbone = n_bytes(tensors) < INCLUDE_BACKBONE_BYTES
    made: Callable[..., Fitter] = partial(TileFitter, scratch=scratch) if in_tiles else Fitter
    return made(
        spec=spec,
        settings=settings,
        preprocess=preprocess,
        tiling=tiling,
        features=network.features(engine, precision, n_threads).to(chosen_device),
        image_bytes=image_bytes,
        engine_bytes=engine_bytes,
        weights_sha256=network.weights_sha256,
        engine=engine if engine == "torch" else f"{engine} {version(engine)}",
        precision=precision,
        store=store,
        trunk_tensors=tensors if include_backbone else {},
        device=chosen_device,
        keep_moments=keep_moments,
        keep_samples=keep_samples and not in_tiles,
        calibrate=calibrate,
        drop_outliers=drop_outliers,
        keep_outlier_maps=keep_outlier_maps,
        n_batch=n_batch,
    )


def first_px(images: Iterable[ImageInput]) -> tuple[int, int]:
    """(height, width) of the first image that can be read.

    Raises:
        DatasetError: None can be.
    """
    for image in images:
        with suppress(ImageReadError):
            return load_image(image, lambda _: np.empty(0, np.uint8)).source_px
    raise DatasetError("No image can be read. Name a folder of good images.")


def _whole_number(text: int | str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"dims is {text!r}, but needs to be all or a whole number.") from None
