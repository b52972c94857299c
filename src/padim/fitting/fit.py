"""``padim.fit``: good images in, a model out."""

from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Unpack

from padim.datasets import normal_images
from padim.fitting.fitter import Fitter
from padim.fitting.looks import Fitted
from padim.fitting.prepare import find_source_px, find_white, prepare
from padim.fitting.settings import FitChoices, FitSettings, settings_with
from padim.images.ahead import ImageInput
from padim.model.padim import PaDiM
from padim.places import find_place


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
        images: A folder (of a category with ``train/good`` only that is taken), a URL of one, a
            tar, a manifest, or a list of images as for ``Predictor.predict``.
        settings: Every choice of the fit; the name of a backbone alone, as in version 0.1, stands
            for the defaults with that backbone.
        recipe_name: Name of the recipe, as in version 0.1; say ``recipe=`` instead.
        recursive: Whether to look into folders inside the folder.
        **choices: Fields of ``FitSettings``, which win over ``settings``.

    Raises:
        UsageError: A name, a value or a path cannot be used.
        ImageReadError: An image cannot be read.
        UnreachableError: Images are behind a network that cannot be reached, or refuses them.
        MemoryLimitError: The fit would need more than ``max_memory``, or than the machine has.
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
        images = normal_images(find_place(images), recursive=recursive)
    settings = find_white(settings, images)
    fitter = prepare(settings, source_px=find_source_px(settings, images))
    n_images = len(images) if isinstance(images, Sized) else None
    fitter.forecast(n_images=n_images).check(settings.max_bytes)
    return build_model(fitter, fitter.fit(images))


def build_model(fitter: Fitter, fitted: Fitted) -> PaDiM:
    """Make a model of what a fit gave, with the network that it was fitted with."""
    return PaDiM(
        fitted.state,
        fitted.moments,
        features=fitter.features,
        device=fitter.embedder.device.type,
        n_batch=fitter.embedder.n_batch,
    )
