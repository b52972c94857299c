"""``padim.fit``: good images in, a model out."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Unpack

from padim.datasets import normal_images
from padim.errors import ModelFileError, PathMissingError, UsageError
from padim.files import sha256
from padim.fitting.fitter import Fitter
from padim.fitting.looks import Begin, Fitted, no_progress
from padim.fitting.prepare import first_px, needs_source_px, prepare
from padim.fitting.settings import FitChoices, FitSettings, settings_with
from padim.images.ahead import ImageInput
from padim.method.gaussian import STORES
from padim.model.file import load_state, save_state
from padim.model.padim import PaDiM
from padim.model.state import ModelState


def fit(
    images: str | Path | Sequence[ImageInput],
    settings: FitSettings | str | None = None,
    recipe_name: str | None = None,
    *,
    recursive: bool = False,
    **choices: Unpack[FitChoices],
) -> PaDiM:
    """Fit a model on good images.

    Args:
        images: A folder (of a category with ``train/good`` only that is taken), or a list of images
            as for ``Predictor.predict``.
        settings: Every choice of the fit; the name of a backbone alone, as in version 0.1, stands
            for the defaults with that backbone.
        recipe_name: Name of the recipe, as in version 0.1; say ``recipe=`` instead.
        recursive: Whether to look into folders inside the folder.
        **choices: Fields of ``FitSettings``, which win over ``settings``.

    Raises:
        UsageError: A name, a value or a path cannot be used.
        ImageReadError: An image cannot be read.
        MemoryLimitError: The fit would need more than ``max_memory``.
        WeightsError: The pretrained weights are absent and cannot be fetched.

    Examples:
        >>> model = padim.fit("part", size_px=(64, 64), sigma_px=2)
        >>> model.predict("spot.png").label
        'anomalous'
        >>> padim.fit("part", sigma=2)
        Traceback (most recent call last):
        padim.errors.UsageError: There is no setting sigma. Did you mean sigma_px?
    """
    if isinstance(settings, str):
        settings = FitSettings(backbone=settings)
    if recipe_name is not None:
        settings = settings_with(settings, recipe=recipe_name)
    settings = settings_with(settings, **choices)
    if isinstance(images, str | Path):
        images = normal_images(Path(images), recursive=recursive)
    source_px = None
    if needs_source_px(settings):
        if isinstance(images, Iterator):
            raise UsageError(
                "The images come from an iterator, but a region of interest and tiles need to know "
                "their size first. Give a list of them."
            )
        source_px = first_px(images)
    fitter = prepare(settings, source_px=source_px)
    if (limit := settings.max_bytes) is not None:
        fitter = fitter.within(limit, len(images), (0, 0))
        fitter.forecast(n_images=len(images)).check(limit)
    return from_fitted(fitter, fitter.fit(images))


def from_fitted(fitter: Fitter, fitted: Fitted) -> PaDiM:
    """Make a model of what a fit gave, with the network that it was fitted with."""
    return PaDiM(
        fitted.state,
        fitted.moments,
        features=fitter.features,
        device=fitter.embedder.device.type,
        n_batch=fitter.embedder.n_batch,
    )


def fit_or_reuse(
    fitter: Fitter, images: Sequence[Path], path: Path, begin: Begin = no_progress
) -> tuple[PaDiM, bool]:
    """Load a model file when it is what this fit would give, else fit and write it.

    Args:
        fitter: How to fit.
        images: Good images.
        path: The model file.
        begin: Told of each phase and its number of steps; gives what is told of each step.

    Returns:
        The model, and whether it was reused.

    Raises:
        PadimError: An image cannot be read, or the images cannot be fitted on.
    """
    try:
        state = load_state(path)
    except (PathMissingError, ModelFileError):
        pass
    else:
        hashes = sorted(sha256(image) for image in images)
        if _would_give(fitter, state) and list(state.image_sha256) == hashes:
            return from_fitted(fitter, Fitted(state, None, (), (), {}, tuple(images))), True
    fitted = fitter.fit(images, begin)
    save_state(fitted.state, path)
    return from_fitted(fitter, fitted), False


def _would_give(fitter: Fitter, state: ModelState) -> bool:
    """Whether a fit on the same images would give this model."""
    return (
        state.encoder == fitter.encoder
        and state.recipe == fitter.recipe
        and (state.samples is not None) == fitter.settings.keep_samples
        and (state.calibration is not None) == (fitter.settings.calibrate and state.count > 1)
        and state.whitening[0].dtype == STORES[fitter.settings.store]
        and bool(state.trunk) == bool(fitter.trunk)
    )
