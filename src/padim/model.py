"""PaDiM: fit on good images, predict on others, save, load."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from padim.backbones import DEFAULT_BACKBONE
from padim.datasets import normal_images
from padim.errors import (
    ImageReadError,
    ModelFileError,
    PathMissingError,
    UnknownNameError,
    WeightsError,
)
from padim.fitting import PRECISIONS, Fitted, Fitter, choose_batch, choose_device, prepare
from padim.loading import ImageInput, batched, load_ahead
from padim.memory import parse_bytes
from padim.moments import Moments
from padim.preprocess import Preprocess
from padim.recipes import DEFAULT_RECIPE
from padim.regions import Region, peak_region
from padim.scorer import Features, Head, Scorer
from padim.state import ModelState, load_state, save_moments, save_state
from padim.trunk import load_trunk, optimise
from padim.weights import fetch, read_weights, sha256


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        path: Where the image came from; None for one given as pixels.
        score: The image score, in standard deviations of normal patches; higher is more anomalous.
        anomaly_map: The same for each pixel at network size, shape ``(H, W)``, float32.
        level_scores: What each level of the network adds, coarse to fine: which was surprised.
        source_px: (height, width) of the source image.
        preprocess: The way from the source image to the map.
        label: ``normal`` or ``anomalous``; None until the model is calibrated.
        p_value: Share of good images that score at least as high; None until it is calibrated.
    """

    path: Path | None
    score: float
    anomaly_map: NDArray[np.float32]
    level_scores: tuple[float, ...]
    source_px: tuple[int, int]
    preprocess: Preprocess
    label: str | None = None
    p_value: float | None = None

    def source_map(self) -> NDArray[np.float32]:
        """The anomaly map in source pixels.

        Returns:
            Shape ``source_px``; NaN where a centre crop did not look.
        """
        return self.preprocess.to_source(self.anomaly_map, self.source_px)

    def region(self) -> Region:
        """Where the image is most anomalous: the hottest 1% around the peak, in source pixels."""
        return peak_region(self.source_map())[0]


class PaDiM:
    """A Gaussian at each location over features of a pretrained network.

    Safe to share between threads: predicting changes nothing.

    Args:
        state: The fitted model.
        moments: What it was made from, when kept.
        features: The loaded network, when there is one already, on the same device.
        weights: Local weights file of the backbone, when the model does not bring it.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: What the trunk computes in; what it was fitted with when None.
        n_batch: Images in one forward pass; what suits the device when None.

    Source:
        Defard et al. 2021, PaDiM: a patch distribution modeling framework for anomaly detection
        and localization.
    """

    def __init__(
        self,
        state: ModelState,
        moments: Moments | None = None,
        *,
        features: Features | None = None,
        weights: str | Path | None = None,
        device: str = "auto",
        precision: str | None = None,
        n_batch: int | None = None,
    ) -> None:
        self.state = state
        self.moments = moments
        self.device = choose_device(device)
        self.n_batch = choose_batch(n_batch, self.device)
        precision = precision or state.precision
        if precision not in PRECISIONS:
            raise UnknownNameError("precision", precision, tuple(PRECISIONS))
        features = features or Features(
            optimise(
                load_trunk(
                    state.spec,
                    _trunk_tensors(state, weights),
                    f"the {state.spec.name} of the model",
                )
            ),
            state.pyramid,
            state.preprocess,
            PRECISIONS[precision],
        )
        self._scorer = self._built(features, torch.float32).to(self.device).eval()

    def graph(self, store: torch.dtype) -> Scorer:
        """The graph that scores, with rows of another type: what is exported.

        Args:
            store: Type the whitening rows are kept in.
        """
        return self._built(self._scorer.features, store).to(self.device).eval()

    def _built(self, features: Features, store: torch.dtype) -> Scorer:
        state = self.state
        return Scorer(
            features,
            Head(state.pyramid, state.mean, state.whitening, store=store),
            state.preprocess.size_px,
            state.recipe.sigma_px,
            state.recipe.score_fraction,
        )

    @overload
    def predict(self, images: str | Path | Image.Image | NDArray[np.uint8]) -> Prediction: ...
    @overload
    def predict(self, images: list[ImageInput] | tuple[ImageInput, ...]) -> list[Prediction]: ...
    def predict(self, images: Any) -> Prediction | list[Prediction]:
        """Score images.

        Args:
            images: A path, a Pillow image, a uint8 array ``(H0, W0, 3)``, or a list of such, of
                any sizes.

        Returns:
            One prediction, or one for each.

        Raises:
            ImageReadError: An image cannot be read.
        """
        if isinstance(images, str | Path | Image.Image | np.ndarray):
            return next(self.stream([images]))
        return list(self.stream(images))

    def stream(
        self,
        images: Iterable[ImageInput],
        unreadable: Callable[[ImageReadError], None] | None = None,
    ) -> Iterator[Prediction]:
        """Score any number of images in bounded memory, in order.

        Args:
            images: As for ``predict``.
            unreadable: Told of an image that cannot be read, which is then left out; raised when
                None.

        Raises:
            ImageReadError: An image cannot be read and nobody is told.
        """
        preprocess = self.state.preprocess
        for batch in batched(load_ahead(images, preprocess, unreadable), self.n_batch):
            pixels = torch.stack([torch.from_numpy(image.pixels) for image in batch])
            with torch.inference_mode():
                scores = self._scorer(pixels.to(self.device))
            maps, levels = scores.anomaly_map.cpu().numpy(), scores.level_scores.tolist()
            for image, score, one_map, own in zip(
                batch, scores.image_score.tolist(), maps, levels, strict=True
            ):
                yield Prediction(
                    image.path, score, one_map, tuple(own), image.source_px, preprocess
                )

    def save(self, path: str | Path, *, moments: bool = False) -> None:
        """Write the model to one file, whole or not at all.

        Args:
            path: The file, by custom ``*.safetensors``.
            moments: Whether to write the float64 moments beside it, as ``*.moments.safetensors``.
        """
        save_state(self.state, Path(path))
        if moments and self.moments is not None:
            save_moments(self.moments, self.state, moments_path(Path(path)))


def moments_path(path: Path) -> Path:
    """Where the moments of a model file belong."""
    return path.with_name(f"{path.stem}.moments{path.suffix}")


def fit(
    images: str | Path | Sequence[ImageInput],
    backbone: str = DEFAULT_BACKBONE,
    recipe: str = DEFAULT_RECIPE,
    *,
    recursive: bool = False,
    max_memory: int | str | None = None,
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
        **options: As for ``padim.fitting.prepare``.

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
    fitter = prepare(backbone, recipe, **options)
    if max_memory is not None:
        limit = parse_bytes(max_memory) if isinstance(max_memory, str) else max_memory
        fitter.forecast().check(limit)
    return from_fitted(fitter, fitter.fit(chosen))


def from_fitted(fitter: Fitter, fitted: Fitted) -> PaDiM:
    """Make a model of what a fit gave, with the network that it was fitted with.

    Args:
        fitter: Who fitted.
        fitted: What it gave.
    """
    return _with_network(fitter, fitted.state, fitted.moments if fitter.keep_moments else None)


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
        if fitter.would_give(state) and list(state.image_sha256) == hashes:
            return _with_network(fitter, state), True
    fitted = fitter.fit(images, advance or (lambda n_images: None))
    save_state(fitted.state, path)
    return from_fitted(fitter, fitted), False


def load(
    path: str | Path,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    precision: str | None = None,
) -> PaDiM:
    """Load a model.

    Args:
        path: A file that ``save`` or ``padim fit`` wrote.
        weights: Local weights file of the backbone, when the model does not bring it.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: What the trunk computes in; what it was fitted with when None.

    Raises:
        ModelFileError: The file is damaged, or of a newer release.
        WeightsError: The model does not bring its backbone, and it is not here.
    """
    state = load_state(Path(path))
    return PaDiM(state, weights=weights, device=device, precision=precision)


def _with_network(fitter: Fitter, state: ModelState, moments: Moments | None = None) -> PaDiM:
    return PaDiM(
        state,
        moments,
        features=fitter.features,
        device=fitter.device.type,
        n_batch=fitter.n_batch,
    )


def _trunk_tensors(state: ModelState, weights: str | Path | None) -> Any:
    if state.trunk:
        return state.trunk
    path = fetch(state.spec) if weights is None else Path(weights)
    if not path.is_file():
        raise PathMissingError(path)
    if sha256(path) != state.weights_sha256:
        raise WeightsError(
            f"{path} has the sha256 {sha256(path)[:8]}..., but the model was fitted with "
            f"weights of {state.weights_sha256[:8]}.... Name that file with --weights."
        )
    return read_weights(path)
