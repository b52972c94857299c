"""``padim.fit``: good images in, a model out."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from padim.backbones import DEFAULT_BACKBONE
from padim.datasets import normal_images
from padim.errors import ModelFileError, PathMissingError, UsageError
from padim.files import sha256
from padim.fitting.fitter import Fitted, Fitter
from padim.fitting.prepare import first_px, prepare
from padim.images.ahead import ImageInput
from padim.images.roi import read_roi
from padim.memory import parse_bytes
from padim.method.gaussian import STORES
from padim.method.moments import Moments
from padim.model.file import load_state, save_state
from padim.model.padim import PaDiM
from padim.model.state import ModelState
from padim.recipes import DEFAULT_RECIPE
from padim.versions import installed_versions


def fit(
    images: str | Path | Sequence[ImageInput],
    backbone: str = DEFAULT_BACKBONE,
    recipe: str = DEFAULT_RECIPE,
    *,
    recursive: bool = False,
    max_memory: int | str | None = None,
    roi: str | Path | NDArray[np.bool_] | None = None,
    **options: Any,
) -> PaDiM:
    """Fit a model on good images.

    Args:
        images: A folder (of a category with ``train/good`` only that is taken), or a list of paths,
            Pillow images or uint8 arrays ``(H0, W0, 3)``.
        backbone: Short name of the backbone.
        recipe: Name of the recipe.
        recursive: Whether to look into folders inside the folder.
        max_memory: Bytes, or such as ``2GiB``; a fit that would need more is refused.
        roi: The region of interest, True where to look, shape ``(H0, W0)`` of every image; or a
            file as for ``padim.images.roi.read_roi``.
        **options: As for ``padim.fitting.prepare.prepare``.

    Raises:
        UsageError: A name, a value or a path cannot be used.
        ImageReadError: An image cannot be read.
        MemoryLimitError: The fit would need more than ``max_memory``.
        WeightsError: The pretrained weights are absent and cannot be fetched.
    """
    chosen: Sequence[ImageInput]
    if isinstance(images, str | Path):
        chosen = normal_images(Path(images), recursive=recursive)
    else:
        chosen = images
    source_px = options.pop("source_px", None)
    if source_px is None and (isinstance(roi, str | Path) or options.get("tile_px") is not None):
        if isinstance(chosen, Iterator):
            raise UsageError(
                "The images come from an iterator, but a region of interest and tiles need to know "
                "their size first. Give a list of them."
            )
        source_px = first_px(chosen)
    if isinstance(roi, str | Path):
        roi = read_roi(Path(roi), source_px)
    fitter = prepare(backbone, recipe, roi=roi, source_px=source_px, **options)
    if max_memory is not None:
        limit = parse_bytes(max_memory) if isinstance(max_memory, str) else max_memory
        fitter = fitter.within(limit, len(chosen), (0, 0))
        fitter.forecast(n_images=len(chosen)).check(limit)
    return from_fitted(fitter, fitter.fit(chosen))


def from_fitted(fitter: Fitter, fitted: Fitted) -> PaDiM:
    """Make a model of what a fit gave, with the network that it was fitted with.

    Args:
        fitter: Who fitted.
        fitted: What it gave.
    """
    return _with_network(fitter, fitted.state, fitted.moments)


def fit_or_reuse(
    fitter: Fitter, images: Sequence[Path], path: Path, advance: Callable[[int], None] | None = None
) -> tuple[PaDiM, bool]:
    """Load a model file when it is what this fit would give, else fit and write it.

    Args:
        fitter: How to fit.
        images: Good images.
        path: The model file.
        advance: Told how many more images have been seen.

    Returns:
        The model, and whether it was reused.

    Raises:
        PadimError: As for ``Fitter.fit``.
    """
    try:
        state = load_state(path)
    except (PathMissingError, ModelFileError):
        pass
    else:
        hashes = sorted(sha256(image) for image in images)
        if _would_give(fitter, state) and list(state.image_sha256) == hashes:
            return _with_network(fitter, state), True
    fitted = fitter.fit(images, advance or (lambda n_images: None))
    save_state(fitted.state, path)
    return from_fitted(fitter, fitted), False


def _would_give(fitter: Fitter, state: ModelState) -> bool:
    """Whether a fit on the same images would give this model."""
    return (
        state.spec == fitter.spec
        and state.recipe == fitter.settings
        and state.preprocess == fitter.preprocess
        and state.pyramid == fitter.pyramid
        and state.engine == fitter.engine
        and state.precision == fitter.precision
        and (state.samples is not None) == fitter.keep_samples
        and (state.calibration is not None) == (fitter.calibrate and state.count > 1)
        and state.whitening[0].dtype == STORES[fitter.store]
        and state.weights_sha256 == fitter.weights_sha256
        and bool(state.trunk) == bool(fitter.trunk_tensors)
        and state.versions == installed_versions()
    )


def _with_network(fitter: Fitter, state: ModelState, moments: Moments | None = None) -> PaDiM:
    return PaDiM(
        state,
        moments,
        features=fitter.features,
        device=fitter.device.type,
        precision=fitter.precision,
        n_batch=fitter.n_batch,
    )
