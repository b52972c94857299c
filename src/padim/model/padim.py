"""PaDiM: fit on good images, predict on others, save, load."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

from torch import nn

from padim.backbones import BACKBONES
from padim.choices import require_model_place
from padim.errors import PathMissingError, UsageError, WeightsError
from padim.features.features import TiledFeatures
from padim.features.network import (
    DTYPES,
    Network,
    choose_batch,
    choose_device,
    choose_engine,
    open_graphs,
)
from padim.features.trunk_cache import hash_trunk
from padim.features.weights import locate, read_weights, require_weights
from padim.files import lock_new, sha256
from padim.method.moments import Moments
from padim.model.pair import save_alone, save_pair
from padim.model.scorer import scorer_of
from padim.model.state import ModelState
from padim.model.torch_score import TileScore, TorchScore
from padim.scoring.calibration import Calibration
from padim.scoring.description import Description
from padim.scoring.engines import check_calls
from padim.scoring.parity import Samples
from padim.scoring.predictor import FileHash, Predictor, Score, choose_decoders


class PaDiM(Predictor):
    """A Gaussian at each location over features of a pretrained network: scores, and can be saved.

    Args:
        state: The fitted model.
        moments: What it was made from, when kept.
        features: The loaded network, when there is one already, on the same device: the one that
            the state was fitted with, whatever ``engine`` and ``n_threads`` say.
        weights: Local weights file of the backbone, when the model does not bring it.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: What the trunk computes in; what it was fitted with when None.
        n_batch: Images in one forward pass; what suits the device when None.
        engine: Who runs the trunk, as for ``padim.load``.
        n_threads: Threads of the whole process; one for each core when None.
        n_calls: As for ``padim.load``.
        path: The file that it was opened from, if any.
        file_sha256: Of that file, as it was read, or what tells it.

    Examples:
        >>> model = padim.fit("part/train/good", size_px=(64, 64))
        >>> model.at(false_alarm_rate=0.2).predict("spot.png").label
        'anomalous'
        >>> model.save("again.safetensors")
        >>> padim.load("again.safetensors").state.count
        6

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
        n_calls: int = 1,
        path: Path | None = None,
        file_sha256: FileHash = None,
    ) -> None:
        self.state = state
        self.moments = moments
        on_device = choose_device(device)
        precision = precision or state.encoder.precision
        if precision in DTYPES and precision != state.encoder.precision:
            raise UsageError(
                f"The precision is {precision}, but the model was fitted in "
                f"{state.encoder.precision}, and whitening magnifies the difference. Leave "
                "--precision out, or fit it anew."
            )
        engine = choose_engine(engine, on_device, precision)
        check_calls(n_calls)
        is_tiled = len(state.tiling.tiles) > 1
        if is_tiled or on_device.type != "cpu":  # rows of tiles would be there for each call
            n_threads = n_threads and n_threads * n_calls
            n_calls = 1
        if features is None:
            network = network_of(state, weights)
            features = network.features(engine, n_threads, on_device.type, n_calls)
            open_graphs(features)
        else:
            engine = state.encoder.engine.name
        score: Score
        if is_tiled:
            assert isinstance(features, TiledFeatures)
            score = TileScore(state, features, on_device)
        else:
            score = TorchScore(scorer_of(state, features), on_device)
        super().__init__(
            score,
            Description(state.preprocess, state.calibration, None, state.metadata(), state.images),
            choose_batch(n_batch, on_device, mirrored=state.encoder.mirrored),
            engine,
            path,
            file_sha256,
            # While a GPU computes one, results of the other are copied and judged.
            n_calls if is_tiled or on_device.type == "cpu" else 2,
            choose_decoders(on_device.type),
        )

    def read_samples(self) -> Samples | None:
        """A few of the images of the fit, mirrored, and what was said of them; None without."""
        return self.state.samples

    def calibrated(self, calibration: Calibration) -> Self:
        """The same model with thresholds by other images; ``save`` writes those."""
        other = super().calibrated(calibration)
        other.state = replace(self.state, calibration=calibration)
        return other

    def save(self, path: str | Path, *, moments: bool = False) -> None:
        """Write the model to one file, whole or not at all.

        Args:
            path: The file, by custom ``*.safetensors``. It holds how good images score, not the
                rates of ``at``.
            moments: Whether to write the float64 moments beside it, as ``*.moments.safetensors``.

        Raises:
            UsageError: It has no moments, or no file can have such a path.
            PadimError: Another process is changing the file.
        """
        path = require_model_place(path)
        if moments and self.moments is None:
            raise UsageError(
                "The model has no moments to save: it was fitted without keep_moments, or loaded. "
                "Fit it with keep_moments=True, or leave moments out."
            )
        with lock_new(path, is_one_of_several=moments):
            if moments and self.moments is not None:
                save_pair(self.state, self.moments, path)
            else:
                save_alone(self.state, path)


def network_of(state: ModelState, weights: str | Path | None = None) -> Network:
    """The network of a model; ``weights`` name a local file when it does not bring them.

    Raises:
        UsageError: The model brings its backbone, and weights are named all the same.
        PathMissingError: There is no such file.
        WeightsError: The model does not bring its backbone, and the weights are not here, or not
            those it was fitted with.
    """
    if state.trunk and weights is not None:
        raise UsageError("The model brings its weights. Leave --weights out.")
    origin = f"the {state.encoder.spec.name} of the model"
    if state.trunk:
        return Network(state.encoder, partial(dict, state.trunk), origin)
    path = require_weights(state.encoder.spec) if weights is None else Path(weights)
    if not path.is_file():
        raise PathMissingError(path)
    digest = sha256(path)
    if digest != state.encoder.weights_sha256:
        raise WeightsError(
            f"{path} has the sha256 {digest[:8]}..., but the model was fitted with weights of "
            f"{state.encoder.weights_sha256[:8]}.... Name that file with --weights."
        )
    return Network(state.encoder, partial(read_weights, path, digest), origin, digest)


def is_own_network(state: ModelState) -> bool | None:
    """Whether the network inside a model is that of the weights that it names.

    None where that cannot be told: it has none inside, or those weights are not here.
    """
    spec = state.encoder.spec
    known = BACKBONES.get(spec.name)
    if not state.trunk or known is None or (path := locate(spec)) is None:
        return None
    if replace(known, taps=spec.taps, channels=spec.channels, strides=spec.strides) != spec:
        return None
    digest = sha256(path)
    if digest != state.encoder.weights_sha256:
        return None
    network = Network(state.encoder, partial(read_weights, path, digest), path, digest)
    return hash_trunk(network.load().tensors) == hash_trunk(state.trunk)
