"""What is changed and then used: for each kind of input its files, and what padim gives."""

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol, final

import numpy as np

from hostile.mutate_bytes import mutate_bytes
from hostile.mutate_image import draw, mutate_image
from hostile.mutate_json import mutate_json
from hostile.mutate_model import mutate_model
from hostile.mutate_text import mutate_csv, mutate_toml, mutate_xml, mutate_zip
from padim.datasets import read_dataset
from padim.datasets.check import check
from padim.evaluation.compare import compare
from padim.evaluation.run_folder import markdown, read_run
from padim.fitting import update as learning
from padim.fitting.config import read_choices
from padim.images.decode import decode_stretched, read_levels, read_size_px
from padim.images.roi import read_roi
from padim.model.opening import load, verify
from padim.report.page import write_report
from padim.scoring.predictor import Predictor

_SOME_SEALED = 0.3  # of changed graphs, the share whose seal stays the old one
_SOME_DRAWN = 0.2  # of changed images, the share that is drawn with its map
_SOME_VERIFIED = 0.1  # of them, the share whose samples are scored as well


@dataclass(frozen=True)
class Change:
    """What was done to an input."""

    what: str
    is_sealed: bool = False  # whether its seal is the old one, so that another result is a fault


class Target(Protocol):
    """A kind of input, whose files lie in a folder of its own."""

    is_fixed: bool  # whether what is changed is always the same

    def restore(self) -> None:
        """Make the files what they were before any change."""

    def change(self, random: Random) -> Change:
        """Change the files, which are restored before."""

    def use(self) -> object:
        """Use them as a command would; what that gives, to be compared."""


def _predict(predictor: Predictor, look: Path) -> object:
    """What a model says of itself and of an image."""
    prediction = predictor.predict(look)
    seen = prediction.anomaly_map
    if predictor.description.preprocess.roi is not None:  # outside there is no number
        seen = seen[~np.isnan(seen)]
    numbers = [prediction.score, *prediction.level_scores, seen.sum()]
    if not np.isfinite(numbers).all():
        return "not finite"
    facts = json.dumps(predictor.description.facts, sort_keys=True, default=repr)
    digest = hashlib.sha256(prediction.anomaly_map.tobytes()).hexdigest()
    return prediction.score, digest, facts, json.dumps(prediction.to_dict()), repr(predictor)


def _bring(site: Path, names: Iterable[str], folder: Path) -> None:
    """Copy files into a folder, over what is there."""
    for name in names:
        shutil.copy(site / name, folder / name)


@final
class ModelFile:
    """A model file, and an image that it looks at."""

    is_fixed = True

    def __init__(self, site: Path, folder: Path, name: str = "part") -> None:
        self._whole = (site / f"{name}.safetensors").read_bytes()
        self._other = (site / "other.safetensors").read_bytes()
        self._path, self._look = folder / f"{name}.safetensors", site / "look.png"

    def restore(self) -> None:
        self._path.write_bytes(self._whole)

    def change(self, random: Random) -> Change:
        changed, what, is_sealed = mutate_model(random, self._whole, self._other)
        self._path.write_bytes(changed)
        return Change(what, is_sealed)

    def use(self) -> object:
        return _predict(load(self._path, n_threads=1, engine="torch"), self._look)


@final
class Pair:
    """A model file with its moments, one of which changes, and which then learns an image."""

    is_fixed = True

    def __init__(self, site: Path, folder: Path) -> None:
        self._site, self._path = site, folder / "part.safetensors"
        self._names = ("part.moments.safetensors", "part.safetensors")
        self.restore()

    def restore(self) -> None:
        _bring(self._site, self._names, self._path.parent)

    def change(self, random: Random) -> Change:
        self.restore()
        name = self._names[random.random() < 0.15]
        whole = (self._site / name).read_bytes()
        changed, what, is_sealed = mutate_model(random, whole, b"")
        self._path.with_name(name).write_bytes(changed)
        return Change(f"{name} {what}", is_sealed)

    def use(self) -> object:
        state = learning.update(self._path, self._site / "more/a.png").state
        numbers = [array.double().numpy() for array in (*state.mean, *state.in_memory())]
        if not all(np.isfinite(array).all() for array in numbers):
            return "not finite"
        digest = hashlib.sha256(b"".join(array.tobytes() for array in numbers)).hexdigest()
        return digest, state.image_sha256


@final
class GraphFile:
    """A graph with what travels beside it, and an image that it looks at."""

    is_fixed = True

    def __init__(self, site: Path, folder: Path, suffix: str) -> None:
        self._site, self._path, self._look = site, folder / f"part{suffix}", site / "look.png"
        ends = (".xml", ".bin") if suffix == ".xml" else (suffix,)
        self._names = [f"part{end}" for end in ends]
        self._is_verified = False
        self.restore()

    def restore(self) -> None:
        _bring(self._site, self._names, self._path.parent)

    def change(self, random: Random) -> Change:
        from hostile.mutate_graph import mutate_onnx, mutate_openvino
        from hostile.seal import seal_graph

        self.restore()
        if self._path.suffix == ".xml":
            what = mutate_openvino(random, self._path)
        else:
            whole = self._path.read_bytes()
            changed, what = mutate_onnx(random, whole, whole[len(whole) // 2 :])
            self._path.write_bytes(changed)
        self._is_verified = random.random() < _SOME_VERIFIED
        is_sealed = random.random() < _SOME_SEALED or not seal_graph(self._path)
        return Change(what if is_sealed else f"resealed {what}", is_sealed)

    def use(self) -> object:
        if self._is_verified:
            verify(self._path, n_threads=1)
        return _predict(load(self._path, n_threads=1), self._look)


@final
class ImageFile:
    """An image, of which every reader of images is asked, and a model."""

    is_fixed = False

    def __init__(self, site: Path, folder: Path) -> None:
        self._path = folder / "image.png"
        self._model = load(site / "part.safetensors", n_threads=1, engine="torch")
        self._whole, self._is_drawn = b"", False

    def restore(self) -> None:
        self._path.write_bytes(self._whole)

    def change(self, random: Random) -> Change:
        changed = self._whole = draw(random)
        what = "as it is"
        for _ in range(1 if random.random() < 0.8 else 2):
            changed, what = mutate_image(random, changed, draw(random))
        self._path.write_bytes(changed)
        self._is_drawn = random.random() < _SOME_DRAWN
        return Change(what)

    def use(self) -> object:
        given: list[object] = [read_size_px(self._path)]
        image, _, mode = decode_stretched(self._path)
        given += [mode, image.size, read_levels(self._path).shape]
        prediction = self._model.predict(self._path)
        if not np.isfinite([prediction.score, prediction.anomaly_map.max()]).all():
            return "not finite"
        if self._is_drawn:
            prediction.save(self._path.with_suffix(".jpg"))
        return (*given, prediction.score)


@final
class TextFile:
    """One text of a folder that holds more, changed and read by one of its readers."""

    is_fixed = False

    def __init__(self, site: Path, folder: Path, texts: tuple["Text", ...]) -> None:
        self._texts, self._folder = texts, folder
        for text in texts:
            shutil.copytree(site / text.tree, folder / text.tree, dirs_exist_ok=True)
        self._wholes = {text.name: (folder / text.name).read_bytes() for text in texts}
        self._text, self._way = texts[0], 0.0

    def change(self, random: Random) -> Change:
        self.restore()
        self._text, self._way = random.choice(self._texts), random.random()
        whole = self._wholes[self._text.name]
        if self._text.mutate is None:
            changed, what = mutate_json(random, json.loads(whole))
        else:
            changed, what = self._text.mutate(random, whole)
        (self._folder / self._text.name).write_bytes(changed)
        return Change(f"{self._text.name} {what}")

    def restore(self) -> None:
        (self._folder / self._text.name).write_bytes(self._wholes[self._text.name])

    def use(self) -> object:
        return self._text.read(self._folder / self._text.tree, self._way)


@dataclass(frozen=True)
class Text:
    """A text, where it lies, and who reads it."""

    tree: str  # the folder that is copied, and that the reader is given
    name: str
    read: Callable[[Path, float], object]  # given its folder, and 0 to 1 for which way
    mutate: Callable[[Random, bytes], tuple[bytes, str]] | None = None  # None: as JSON


def _read_data(root: Path, way: float) -> object:
    found = read_dataset(root)
    if way < 0.3:
        return [check(one, 1) for one in found]
    return repr(found)


def _read_masks(root: Path, way: float) -> object:
    if way < 0.1:
        return _read_data(root, way)
    masks = [sample.read_mask() for one in read_dataset(root) for sample in one.test]
    return [None if mask is None else mask.tobytes() for mask in masks]


def _read_run(root: Path, way: float) -> object:
    if way < 0.1:
        write_report(root)
        return "a report"
    if way < 0.3:
        return repr(compare(root, root.with_name("second")))
    results, records = read_run(root)
    return markdown(results) + repr(records)[:10_000]


def _read_config(root: Path, way: float) -> object:
    return repr(read_choices(root / "choices.toml"))


def _read_roi(root: Path, way: float) -> object:
    return read_roi(root / "roi.json", (72, 72)).tobytes()


_DATASETS = (
    Text("data/loco", "data/loco/pushpins/defects_config.json", _read_data),
    Text("data/visa", "data/visa/split_csv/1cls.csv", _read_data, mutate_csv),
    Text("data/manifest", "data/manifest/manifest.csv", _read_data, mutate_csv),
    Text(
        "data/real_iad", "data/real_iad/realiad_jsons/realiad_jsons/audiojack.json", _read_data
    ),
    Text("data/roi", "data/roi/roi.json", _read_roi),
)  # fmt: skip
_ANNOTATIONS = (
    Text("data/labelme", "data/labelme/test/dent/2.json", _read_masks),
    Text("data/coco", "data/coco/all.json", _read_masks),
    Text("data/cvat", "data/cvat/all.xml", _read_masks, mutate_xml),
)
_PARQUET = Text("data/parquet", "data/parquet/manifest.parquet", _read_data, mutate_bytes)
_RUN = (
    Text("second", "second/results.json", lambda root, way: repr(read_run(root)[0])),
    Text("first", "first/results.json", _read_run),
    Text("first", "first/records/carpet.json", _read_run),
    Text("first", "first/records/carpet.npz", _read_run, mutate_zip),
)
_CONFIG = (Text("config", "config/choices.toml", _read_config, mutate_toml),)

TARGETS: dict[str, Callable[[Path, Path], Target]] = {
    "model": ModelFile,
    "tiles": lambda site, folder: ModelFile(site, folder, "tiles"),
    "roi": lambda site, folder: ModelFile(site, folder, "roi"),
    "moments": Pair,
    "onnx": lambda site, folder: GraphFile(site, folder, ".onnx"),
    "openvino": lambda site, folder: GraphFile(site, folder, ".xml"),
    "image": ImageFile,
    "dataset": lambda site, folder: TextFile(site, folder, _DATASETS),
    "annotation": lambda site, folder: TextFile(site, folder, _ANNOTATIONS),
    "run": lambda site, folder: TextFile(site, folder, _RUN),
    "config": lambda site, folder: TextFile(site, folder, _CONFIG),
}
SHARES = {  # of all cases, by kind
    "model": 6000, "tiles": 500, "roi": 500, "moments": 3000, "onnx": 10_000, "openvino": 1500,
    "image": 20_000, "dataset": 900, "annotation": 900, "run": 800, "config": 300,
}  # fmt: skip
if importlib.util.find_spec("pyarrow"):
    TARGETS["parquet"] = lambda site, folder: TextFile(site, folder, (_PARQUET,))
    SHARES["parquet"] = 300
