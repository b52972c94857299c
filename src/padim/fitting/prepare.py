"""Find and load everything a fit needs, and refuse what cannot be, before any work."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from padim.backbones import TIMM, TWO_TAPS, BackboneSpec, backbone
from padim.errors import DatasetError, ImageReadError, PathMissingError, UsageError
from padim.features.encoder import Encoder, Engine
from padim.features.intermediates import describe_network, takes_size
from padim.features.network import Network, choose_batch, choose_device, choose_engine
from padim.features.trunk import with_taps
from padim.features.trunk_cache import hash_trunk
from padim.features.weights import fetch, read_weights
from padim.files import sha256
from padim.fitting.fitter import Fitter
from padim.fitting.forecast import NetworkBytes
from padim.fitting.looks import Embedder
from padim.fitting.settings import FitSettings, recipe_of
from padim.images.ahead import ImageInput, load_ahead, load_image
from padim.images.preprocess import Preprocess
from padim.images.reading import FULL_WHITE, smallest_white
from padim.images.roi import Roi, read_roi
from padim.method.pyramid import RANDOM_DIMS_SEED, build_pyramid
from padim.method.tiles import Tiling, plan_tiles
from padim.recipes import TWO_LEVELS, Recipe
from padim.tensors.file_tensor import n_bytes
from padim.versions import read_versions

INCLUDE_BACKBONE_BYTES = 50_000_000
_GRAPH_BYTES = 40_000_000  # the library of another engine than torch, loaded
_WRITER_BYTES = 10_000_000  # what writes a graph, loaded
_WRITER_COPIES = 5  # of the network's tensors, as measured at most
_BUILDER_BYTES = 200_000_000  # what builds a network, loaded


def prepare(
    settings: FitSettings,
    *,
    source_px: tuple[int, int] | None = None,
    scratch: Path | None = None,
) -> Fitter:
    """Find and load everything a fit needs, and refuse what cannot be, before any work.

    Args:
        settings: Every choice of the fit.
        source_px: (height, width) of the images. A region of interest in a file needs it, and so
            do tiles without a size: images are then cut at their own, to the nearest that the
            network takes.
        scratch: Folder of temporary files; the system's when None.

    Raises:
        UsageError: A name or a value is impossible.
        PathMissingError: There is no such weights file.
        WeightsError: The weights are absent and cannot be fetched, or are the wrong ones.
        MissingExtraError: The engine is not installed.
    """
    spec, settings = _find_spec(settings)
    if settings.tile_px is not None and settings.size_px is None and source_px is not None:
        stride = max(spec.strides)
        height, width = (max(stride, round(side / stride) * stride) for side in source_px)
        settings = replace(settings, size_px=(height, width))
    device = choose_device(settings.device)
    require_outliers_known(settings, bool(settings.drop_outliers))
    engine = choose_engine(settings.engine, device, settings.precision)
    recipe, preprocess, tiling = _plan(settings, spec, source_px)
    path = fetch(spec) if settings.weights is None else Path(settings.weights)
    if not path.is_file():
        raise PathMissingError(path)
    who, versions, digest = Engine.find(engine), read_versions(), sha256(path)
    encoder = Encoder(
        spec, tiling, preprocess, who, settings.precision, digest, versions, recipe.mirrored
    )
    network = Network(encoder, partial(read_weights, path, digest), path, digest)
    n_batch = choose_batch(settings.n_batch, device, mirrored=recipe.mirrored)
    known = None if engine == "torch" else network.read_cached()
    loaded = known or network.trunk()
    tensors, image_bytes = loaded
    image_bytes *= 1 + recipe.mirrored
    engine_bytes = writer_bytes = 0
    if engine != "torch":
        network = replace(network, trunk_sha256=hash_trunk(tensors))
        # Its memory grows by doubling, so it may hold the feature maps twice.
        engine_bytes = _GRAPH_BYTES + n_batch * image_bytes
        if not network.graph_path.is_file():
            writer_bytes = _WRITER_BYTES + _WRITER_COPIES * n_bytes(tensors)
            engine_bytes += _BUILDER_BYTES if known else 0  # else it is there already
    is_inside = settings.include_backbone
    if is_inside is None:
        is_inside = n_bytes(tensors) < INCLUDE_BACKBONE_BYTES
    trunk = tensors if is_inside else {}
    features = network.features(engine, settings.n_threads, device.type, loaded=loaded).to(device)
    keep_samples = settings.keep_samples and len(tiling.tiles) == 1
    return Fitter(
        settings=replace(settings, keep_samples=keep_samples),
        recipe=recipe,
        embedder=Embedder(encoder, features, device, n_batch),
        trunk=trunk,
        network_bytes=NetworkBytes(image_bytes, engine_bytes, writer_bytes, n_bytes(trunk)),
        scratch=scratch,
    )


def _find_spec(settings: FitSettings) -> tuple[BackboneSpec, FitSettings]:
    """The facts of the backbone with its taps; they are settings where they are not its own.

    A network of timm alone has the coarsest two of its strides where a recipe has two levels.
    """
    is_of_timm = settings.backbone.startswith(TIMM)
    name = settings.backbone
    own = describe_network(name, settings.taps) if is_of_timm else backbone(name)
    taps = settings.taps or own.taps
    if settings.taps is None and settings.recipe in TWO_LEVELS:
        coarsest = sorted(set(own.strides))[-2:]
        pairs = zip(own.taps, own.strides, strict=True)
        of_two = tuple(tap for tap, stride in pairs if stride in coarsest)
        taps = of_two if is_of_timm else TWO_TAPS[own.name]
    if taps == own.taps:
        return own, replace(settings, taps=None)
    return with_taps(own, taps), replace(settings, taps=taps)


def _plan(
    settings: FitSettings, spec: BackboneSpec, source_px: tuple[int, int] | None
) -> tuple[Recipe, Preprocess, Tiling]:
    """What the network sees; no smaller copy where a recipe has one and the network takes none."""
    recipe = recipe_of(settings)
    preprocess = _build_preprocess(settings, recipe, spec, source_px)
    tiling = _plan_tiling(settings, recipe, spec, preprocess)
    coarse_px = tiling.coarse_px
    if coarse_px is None or takes_size(spec, tiling.window_px, coarse_px):
        return recipe, preprocess, tiling
    if settings.coarse_scale is not None:
        (height, width), (low, narrow) = tiling.window_px, coarse_px
        raise UsageError(
            f"{spec.name} takes images of {height}x{width} px alone once it is built, but the "
            f"coarse head needs to see {low}x{narrow} px. Leave --coarse-scale out."
        )
    recipe = replace(recipe, coarse_scale=0.0)
    return recipe, preprocess, _plan_tiling(settings, recipe, spec, preprocess)


def require_outliers_known(settings: FitSettings, are_wanted: bool) -> None:
    """Make sure that outliers are known where they are to be dropped or drawn.

    Raises:
        UsageError: They are not.
    """
    if are_wanted and not settings.calibrate:
        raise UsageError("Outliers are known by calibrating only. Leave --no-calibrate out.")


def find_source_px(settings: FitSettings, images: Iterable[ImageInput]) -> tuple[int, int] | None:
    """(height, width) of the first image that can be read, where ``prepare`` has to know it.

    Raises:
        DatasetError: None can be read.
        UsageError: They can be looked at once only.
    """
    if not isinstance(settings.roi, str | Path) and settings.tile_px is None:
        return None
    if isinstance(images, Iterator):
        raise UsageError(
            "The images come from an iterator, but a region of interest and tiles need to know "
            "their size first. Give a list of them."
        )
    for image in images:
        with suppress(ImageReadError):
            return load_image(image, _bring_nothing, settings.reading).source_px
    raise DatasetError("No image can be read. Name a folder of good images.")


def find_white(settings: FitSettings, images: Iterable[ImageInput]) -> FitSettings:
    """Replace a white that is to be found by the smallest usual one that holds all good images.

    Raises:
        UsageError: They can be looked at once only.
    """
    if settings.white != "auto":
        return settings
    if isinstance(images, Iterator):
        raise UsageError(
            "The images come from an iterator, but white is found by looking at all of them first. "
            "Give a list of them, or a number as white."
        )
    loaded = load_ahead(images, _bring_nothing, lambda error: None, reading=settings.reading)
    highest = max((one.depth.highest for one in loaded if one.depth.is_deep), default=FULL_WHITE)
    return replace(settings, white=smallest_white(highest))


def _bring_nothing(_: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.empty(0, np.uint8)


def _build_preprocess(
    settings: FitSettings, recipe: Recipe, spec: BackboneSpec, source_px: tuple[int, int] | None
) -> Preprocess:
    """The way from an image to the network, with the region of interest."""
    preprocess = Preprocess(
        recipe.size_px,
        recipe.crop_fraction,
        recipe.resample,
        spec.mean,
        spec.std,
        reading=settings.reading,
    )
    region = settings.roi
    if isinstance(region, str | Path):
        if source_px is None:
            raise UsageError(
                f"The region of interest is in {region}, but the size of the images is unknown. "
                "Give source_px as well."
            )
        region = read_roi(Path(region), source_px)
    roi = None if region is None else Roi.of(region, preprocess.mask)
    return replace(preprocess, roi=roi)


def _plan_tiling(
    settings: FitSettings, recipe: Recipe, spec: BackboneSpec, preprocess: Preprocess
) -> Tiling:
    """What the network sees of an image at a time."""
    n_random_dims = None if settings.dims == "all" else settings.dims
    if settings.dims is None:
        n_random_dims = spec.n_random_dims and min(spec.n_random_dims, spec.n_dims)
    seed = RANDOM_DIMS_SEED + settings.dims_seed
    pyramid = build_pyramid(spec, recipe.size_px, n_random_dims, seed)
    region = preprocess.roi
    if settings.tile_px is not None and recipe.crop_fraction < 1:
        raise UsageError(
            f"The {recipe.name} recipe cuts the middle out of an image, but tiles are for all of "
            "it. Use --recipe standard."
        )
    if settings.tile_overlap_px is not None and settings.tile_px is None and region is None:
        raise UsageError("An overlap needs tiles. Use --tile-px, or leave --tile-overlap-px out.")
    tiling = plan_tiles(pyramid, recipe, None if region is None else region.find_cells)
    if len(tiling.tiles) > 1 and (settings.keep_moments or settings.drop_outliers):
        raise UsageError(
            "A model of tiles keeps no moments, which are several times its size, and can drop no "
            "outliers. Leave --keep-moments and --drop-outliers out."
        )
    return tiling
