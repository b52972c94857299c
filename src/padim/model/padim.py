"""PaDiM: fit on good images, predict on others, save, load."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from padim.backbones import DEFAULT_BACKBONE
from padim.datasets import normal_images
from padim.errors import ModelFileError, PathMissingError, UsageError, WeightsError
from padim.features.cached_trunk import open_graphs
from padim.features.network import DTYPES, Network, choose_device, choose_engine
from padim.features.weights import fetch, read_weights, sha256
from padim.fitting.fitter import STORES, Fitted, Fitter
from padim.fitting.prepare import choose_batch, first_px, prepare
from padim.fitting.tile_fitter import TileScore
from padim.images.ahead import ImageInput
from padim.images.roi import read_roi
from padim.memory import parse_bytes
from padim.method.moments import Moments
from padim.method.tiles import TiledFeatures
from padim.model.graph import scorer_of
from padim.model.pair import save_pair
from padim.model.scorer import Scorer
from padim.model.state import ModelState, installed_versions, load_state, save_state
from padim.recipes import DEFAULT_RECIPE
from padim.scoring.predictor import Outputs, Prediction, Predictor, Score


class TorchScore:
    """Runs a graph in torch.

    Args:
        scorer: The graph.
        device: Where.
    """

    def __init__(self, scorer: Scorer, device: torch.device) -> None:
        self.scorer = scorer.to(device).eval()
        self.device = device

    def __call__(self, images: NDArray[np.uint8]) -> Outputs:
        """Score a batch.

        Args:
            images: RGB at network size, shape ``(N, H, W, 3)``.
        """
        with torch.inference_mode():
            scores = self.scorer(torch.from_numpy(images).to(self.device))
        return Outputs(*(output.cpu().numpy() for output in scores))


class PaDiM:
    """A Gaussian at each location over features of a pretrained network.

    Args:
        state: The fitted model.
        moments: What it was made from, when kept.
        features: The loaded network, when there is one already, on the same device: the one that
            the state was fitted with, whatever ``engine`` and ``n_threads`` say.
        weights: Local weights file of the backbone, when the model does not bring it.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: What the trunk computes in; what it was fitted with when None.
        n_batch: Images in one forward pass; what suits the device when None.
        engine: Who runs the trunk, as for ``networks.choose_engine``.
        n_threads: Threads of the whole process; one for each core when None.

    Attributes:
        predictor: Scores images; safe to share between threads.

    Source:
        Defard et al. 2021, PaDiM: a patch distribution modeling framework for anomaly detection
        and localization.
    """

    def __init__(
        self,
        state: ModelState,
        moments: Moments | None = None,
        *,
        features: nn.Module | None = None,
        weights: str | Path | None = None,
        device: str = "auto",
        precision: str | None = None,
        n_batch: int | None = None,
        engine: str = "auto",
        n_threads: int | None = None,
    ) -> None:
        self.state = state
        self.moments = moments
        on_device = choose_device(device)
        precision = precision or state.precision
        if precision in DTYPES and precision != state.precision:
            raise UsageError(
                f"The precision is {precision}, but the model was fitted in {state.precision}, and "
                "whitening magnifies the difference. Leave --precision out, or fit it anew."
            )
        engine = choose_engine(engine, on_device, precision)
        if features is None:
            features = network_of(state, weights).features(engine, precision, n_threads)
            open_graphs(features)
        else:
            engine = state.engine.partition(" ")[0]
        score: Score
        if len(state.tiling.tiles) > 1:
            assert isinstance(features, TiledFeatures)
            score = TileScore(state, features, on_device)
        else:
            score = TorchScore(scorer_of(state, features), on_device)
        self.predictor = Predictor(
            score,
            state.preprocess,
            choose_batch(n_batch, on_device),
            engine,
            state.metadata(),
            calibration=state.calibration,
        )

    @overload
    def predict(self, images: str | Path | Image.Image | NDArray[np.uint8]) -> Prediction: ...
    @overload
    def predict(self, images: list[ImageInput] | tuple[ImageInput, ...]) -> list[Prediction]: ...
    def predict(self, images: Any) -> Prediction | list[Prediction]:
        """Score images, as ``Predictor.predict`` does."""
        return self.predictor.predict(images)  # type: ignore[no-any-return]  # as overloaded

    def save(self, path: str | Path, *, moments: bool = False) -> None:
        """Write the model to one file, whole or not at all.

        Args:
            path: The file, by custom ``*.safetensors``.
            moments: Whether to write the float64 moments beside it, as ``*.moments.safetensors``.
        """
        if moments and self.moments is not None:
            save_pair(self.state, self.moments, Path(path))
        else:
            save_state(self.state, Path(path))


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


def network_of(state: ModelState, weights: str | Path | None = None) -> Network:
    """The network of a model.

    Args:
        state: The model.
        weights: Local weights file of the backbone, when the model does not bring it.

    Raises:
        UsageError: The model brings its backbone, and weights are named all the same.
        PathMissingError: There is no such file.
        WeightsError: The model does not bring its backbone, and the weights are not here, or not
            those it was fitted with.
    """
    if state.trunk and weights is not None:
        raise UsageError("The model brings its weights. Leave --weights out.")
    if state.trunk:
        read: Callable[[], Mapping[str, Tensor]] = partial(dict, state.trunk)
    else:
        path = fetch(state.spec) if weights is None else Path(weights)
        if not path.is_file():
            raise PathMissingError(path)
        digest = sha256(path)
        if digest != state.weights_sha256:
            raise WeightsError(
                f"{path} has the sha256 {digest[:8]}..., but the model was fitted with weights of "
                f"{state.weights_sha256[:8]}.... Name that file with --weights."
            )
        read = partial(read_weights, path)
    origin = f"the {state.spec.name} of the model"
    return Network(state.spec, state.tiling, state.preprocess, read, origin, state.weights_sha256)
