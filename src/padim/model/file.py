"""The model file, as docs/format.md describes it: one safetensors file that holds all there is."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padim.documents import Count, Document
from padim.errors import (
    ModelFileError,
    ModelFileHashError,
    ModelFileTensorError,
    ModelFileTruncatedError,
    ModelFileVersionError,
    PathMissingError,
    join_names,
)
from padim.features.encoder import Encoder, Engine
from padim.files import write_whole
from padim.images.camera import MeanImage
from padim.method.fusion import Fusion
from padim.method.moments import Moments
from padim.method.pyramid import Level, Pyramid
from padim.method.tiles import Tiling, plan_tiles
from padim.model.state import FORMAT_VERSION, ModelState
from padim.scoring.calibration import ARRAYS, Calibration
from padim.scoring.facts import ChosenFacts, FileFacts
from padim.scoring.parity import Samples
from padim.scoring.reference import ARRAYS as REFERENCE_ARRAYS
from padim.scoring.reference import Reference
from padim.tensors.file_tensor import FileTensor, hash_tensor, write_tensors
from padim.tensors.reading import Content, TensorFileError, TensorReader, open_tensors

T = TypeVar("T")
F = TypeVar("F", bound=FileFacts)
Json = dict[str, Any]  # what a file says of itself, as it is written


@dataclass(frozen=True)
class _Version:
    format_version: Count


def save_state(state: ModelState, path: Path) -> None:
    """Write a model file, whole or not at all; same model, same bytes."""
    tensors: dict[str, Tensor | FileTensor] = {
        f"backbone/{name}": tensor for name, tensor in state.trunk.items()
    }
    for level, (mean, whitening) in enumerate(zip(state.mean, state.whitening, strict=True)):
        tensors[f"levels/{level}/mean"] = mean
        tensors[f"levels/{level}/whitening"] = whitening
    if state.samples is not None:
        for name, array in asdict(state.samples).items():
            tensors[f"samples/{name}"] = torch.from_numpy(array)
    if state.calibration is not None:
        for name in ARRAYS:
            array = getattr(state.calibration, name)
            tensors[f"calibration/{name}"] = torch.from_numpy(array)
        for name, array in _list_reference(state.calibration.reference).items():
            tensors[f"reference/{name}"] = torch.from_numpy(array)
    write_file(tensors, state.metadata(), path)


def _list_reference(reference: Reference | None) -> dict[str, NDArray[Any]]:
    """The arrays of a reference, under their names in a file; none where there is none."""
    if reference is None:
        return {}
    arrays = {name: np.ascontiguousarray(getattr(reference, name)) for name in REFERENCE_ARRAYS}
    mean_image = reference.mean_image
    return arrays if mean_image is None else arrays | {"mean_image": mean_image.small}


def load_state(path: Path) -> ModelState:
    """Read a model file, as ``load_hashed`` does."""
    return load_hashed(path)[0]


def load_hashed(path: Path) -> tuple[ModelState, Callable[[], str]]:
    """Read a model file into memory; what is given beside it tells the sha256 of what was read.

    Raises:
        PathMissingError: There is no such file.
        ModelFileTruncatedError: It is cut short, or no model file.
        ModelFileVersionError: It is of a newer format.
        ModelFileTensorError: A tensor is missing, superfluous or of another shape.
        ModelFileHashError: A tensor, or what the file says of itself, is not what was written.
    """
    content, facts = read_file(path, FileFacts, "model")
    tensors: Mapping[str, Any] = content.tensors
    tiling = find_tiling(facts, path)
    mean, whitening = [], []
    for i, shape in enumerate(tiling.pyramid.shapes):
        mean.append(_find(tensors, f"levels/{i}/mean", shape[:2], path))
        whitening.append(_find(tensors, f"levels/{i}/whitening", shape, path))
    try:
        state = ModelState(
            encoder=find_encoder(facts, tiling),
            recipe=facts.recipe,
            eps=facts.eps,
            count=facts.count,
            mean=tuple(mean),
            whitening=tuple(whitening),
            image_sha256=facts.image_sha256,
            trunk=_take(tensors, "backbone/"),
            samples=_samples(tensors, facts, path),
            calibration=_calibration(tensors, facts.calibration, path),
            images=facts.images,
            fusion=_fusion_of(facts),
        )
    except ValueError as error:
        raise _describe(path, ModelFileError).refuse(str(error)) from error
    return state, content.sha256


def find_encoder(facts: FileFacts, tiling: Tiling) -> Encoder:
    """What decides the features, as a file says it."""
    return Encoder(
        spec=facts.backbone,
        tiling=tiling,
        preprocess=facts.preprocess,
        engine=Engine.parse(facts.engine),
        precision=facts.precision,
        weights_sha256=facts.weights_sha256,
        versions=facts.versions,
        mirrored=facts.recipe.mirrored,
    )


def _fusion_of(facts: FileFacts) -> Fusion | None:
    said = facts.fusion
    return None if said is None else Fusion(said.usual, said.power)


def find_tiling(facts: FileFacts, path: Path) -> Tiling:
    """Cut the picture as the fit did; a `ModelFileError` if that gives other cells."""
    levels = (Level(level.grid, level.taps, level.channels) for level in facts.levels)
    pyramid, roi = Pyramid(tuple(levels), facts.coarse_cells), facts.preprocess.roi
    document = _describe(path, ModelFileError)
    try:
        tiling = plan_tiles(pyramid, facts.recipe, None if roi is None else roi.find_cells)
    except ValueError as error:
        raise document.refuse(str(error)) from error
    if tiling.pyramid.heads[0] != pyramid:
        raise document.refuse("coarse_cells are not those of its tiles and its region of interest")
    return tiling


def _calibration(
    tensors: Mapping[str, Tensor], said: ChosenFacts | None, path: Path
) -> Calibration | None:
    if said is None:
        return None
    found = _take(tensors, "calibration/")
    if missing := [name for name in ARRAYS if name not in found]:
        raise _report_missing(path, f"calibration/{missing[0]}")
    score, value, count = (found[name] for name in ARRAYS)
    if (score.dtype, value.dtype, count.dtype) != (torch.float32, torch.float32, torch.int64):
        raise ValueError("calibration needs scores of float32 and counts of int64")
    arrays = score.numpy(), value.numpy(), count.numpy()
    return Calibration(said.source, *arrays, said.chosen, said.stale, _reference(tensors, path))


def _reference(tensors: Mapping[str, Tensor], path: Path) -> Reference | None:
    found = _take(tensors, "reference/")
    if not found:
        return None
    if missing := [name for name in REFERENCE_ARRAYS if name not in found]:
        raise _report_missing(path, f"reference/{missing[0]}")
    arrays = [found[name] for name in REFERENCE_ARRAYS]
    if any(array.dtype != torch.float32 for array in arrays):
        raise ValueError("the reference needs to be of float32")
    small = found.get("mean_image")
    if small is not None and small.dtype != torch.uint8:
        raise ValueError("the mean image needs to be of uint8")
    mean_image = None if small is None else MeanImage(small.numpy())
    level_scores, camera, coarse_map = (array.numpy() for array in arrays)
    return Reference(level_scores, camera, coarse_map, mean_image)


def _take(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The tensors of a part of a file, under their names in it."""
    taken = (name for name in tensors if name.startswith(prefix))
    return {name.removeprefix(prefix): tensors[name] for name in taken}


def _samples(tensors: Mapping[str, Tensor], facts: FileFacts, path: Path) -> Samples | None:
    found = _take(tensors, "samples/")
    if not found:
        return None
    needed = [field.name for field in fields(Samples)]
    if found.keys() != set(needed):
        raise ModelFileTensorError(
            f"{path} holds the samples {join_names(sorted(found))}, but needs "
            f"{join_names(needed)}. Copy it again."
        )
    if any(tensor.dtype not in (torch.uint8, torch.float32) for tensor in found.values()):
        raise ValueError("samples need to be uint8 and float32")
    samples = Samples(**{name: tensor.numpy() for name, tensor in found.items()})
    samples.check(facts.preprocess.size_px, facts.n_level_scores)
    return samples


def save_moments(moments: Moments, state: ModelState, path: Path) -> None:
    """Write the float64 moments of a model beside it, for updates and merges."""
    write_file(list_moments(moments), state.metadata() | {"holds": "moments"}, path)


def list_moments(moments: Moments) -> dict[str, Tensor | FileTensor]:
    """Moments as a file has them."""
    tensors: dict[str, Tensor | FileTensor] = {}
    for level, (mean, rows) in enumerate(zip(moments.mean, moments.scatter, strict=True)):
        tensors[f"levels/{level}/mean"] = mean
        for above, block in enumerate(rows):
            tensors[f"levels/{level}/scatter/{above}"] = block
    return tensors


def is_whole(path: Path) -> bool:
    """Whether a model file that is there has all its bytes; what they are is not looked at."""
    try:
        with _open(path):
            return True
    except ModelFileError:
        return False


def find_content(path: Path) -> str:
    """What a file holds, in a word: ``model``, ``moments``, ``shard`` or ``scores``.

    Raises:
        PadimError: As ``load_state``.
    """
    with _open(path) as (_, said):
        return str(said.get("holds", "model"))


def read_said(path: Path, kind: type[T]) -> T:
    """What a file says of itself, as a table has it; its tensors are not read.

    Raises:
        PadimError: As ``load_state``.
    """
    with _open(path) as (_, said):
        return _describe(path, ModelFileError).restore(said, kind)


def moments_belong(path: Path, state: ModelState) -> bool:
    """Whether a file holds the moments of a model, whose calibration may have been renewed.

    Raises:
        PadimError: As ``load_state``.
    """
    expected = json.loads(_json(state.metadata() | {"holds": "moments"}))
    with _open(path) as (_, said):
        return all(said.get(key) == expected[key] for key in expected.keys() - {"calibration"})


def load_moments(path: Path) -> Moments:
    """Read the moments of a model.

    Raises:
        PadimError: As ``load_state``.
    """
    content, facts = read_file(path, FileFacts, "moments")
    return find_moments(content, facts, path)


def find_moments(content: Content, facts: FileFacts, path: Path) -> Moments:
    """The moments that a file holds.

    Raises:
        ModelFileTensorError: One is missing, or of another shape.
    """
    pyramid = find_tiling(facts, path).pyramid
    means, scatters = [], []
    dims = pyramid.by_head([n_dims for _, n_dims, _ in pyramid.shapes])
    above = [own[: i + 1] for own in dims for i in range(len(own))]
    for i, (shape, widths) in enumerate(zip(pyramid.shapes, above, strict=True)):
        means.append(_find(content.tensors, f"levels/{i}/mean", shape[:2], path))
        scatters.append(
            tuple(
                _find(content.tensors, f"levels/{i}/scatter/{k}", (*shape[:2], width), path)
                for k, width in enumerate(widths)
            )
        )
    return Moments(facts.count, tuple(means), tuple(scatters))


def write_file(tensors: Mapping[str, Tensor | FileTensor], metadata: Json, path: Path) -> None:
    """Write tensors and what is said of them, whole or not at all; same content, same bytes."""
    hashes = {name: hash_tensor(tensor) for name, tensor in sorted(tensors.items())}
    metadata = metadata | {"tensor_sha256": hashes}
    text = _json(metadata | {"metadata_sha256": _json_sha256(metadata)})
    with write_whole(path) as partial:
        write_tensors(tensors, partial, {"padim": text})


def read_file(path: Path, kind: type[F], holds: str) -> tuple[Content, F]:
    """Read what a file holds, and what it says of it as a table has it.

    Raises:
        PadimError: As ``load_state``, also where it holds something else.
    """
    with _open(path) as (file, data):
        document = _describe(path, ModelFileError)
        said = document.restore(data, FileFacts).holds
        if said != holds:
            raise ModelFileTensorError(
                f"{path} holds {said}, but {holds} is needed. Name another file."
            )
        facts = document.restore(data, kind)
        content = file.read(left=("/whitening",) if facts.recipe.tile_px else ())
    hashes = facts.tensor_sha256
    if missing := sorted(hashes.keys() - content.hashes.keys()):
        raise _report_missing(path, join_names(missing))
    for name, digest in content.hashes.items():
        if digest != hashes.get(name):
            raise ModelFileHashError(
                f"{path} holds another tensor {name} than was written. Copy the file again."
            )
    return content, facts


@contextmanager
def _open(path: Path) -> Iterator[tuple[TensorReader, Json]]:
    """Open a file, and read what it says of itself."""
    if not path.is_file():
        raise PathMissingError(path)
    try:
        with open_tensors(path) as file:
            yield file, _metadata(file.metadata, path)
    except TensorFileError as error:
        raise ModelFileTruncatedError(
            f"{path} is no whole model file ({error}). Copy it again, or fit it anew."
        ) from error


def _describe(path: Path, error: type[ModelFileError]) -> Document:
    return Document(f"{path} describes itself in a way that", error, "Copy the file again.")


def _report_missing(path: Path, name: str) -> ModelFileTensorError:
    return ModelFileTensorError(f"{path} lacks the tensor {name}. Copy it again.")


def _metadata(metadata: Mapping[str, str], path: Path) -> Json:
    text = metadata.get("padim")
    if text is None:
        raise ModelFileTruncatedError(
            f"{path} is a safetensors file, but no model. Name one that padim fit wrote."
        )
    document = _describe(path, ModelFileHashError)
    data: Json = document.parse(text)
    version = document.restore(data, _Version).format_version
    if version > FORMAT_VERSION:
        raise ModelFileVersionError(
            f"{path} has the format version {version}, but this release reads up to "
            f"{FORMAT_VERSION}. Install the release that wrote it, or a newer one."
        )
    recorded = data.pop("metadata_sha256", None)
    if _json_sha256(data) != recorded:
        raise ModelFileHashError(
            f"{path} describes itself otherwise than was written. Copy the file again."
        )
    return data


def _find(tensors: Mapping[str, Any], name: str, shape: tuple[int, ...], path: Path) -> Any:
    """A tensor of a file, which must be of this shape."""
    if name not in tensors:
        raise _report_missing(path, name)
    if tuple(tensors[name].shape) != shape:
        raise ModelFileTensorError(
            f"{path} has {name} of shape {tuple(tensors[name].shape)}, but needs {shape}. "
            "Copy it again."
        )
    return tensors[name]


def _json(data: Json) -> str:
    return json.dumps(data, sort_keys=True)


def _json_sha256(data: Json) -> str:
    return hashlib.sha256(_json(data).encode()).hexdigest()
