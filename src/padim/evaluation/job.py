"""One category of a benchmark: fitted, evaluated, its model and pictures written."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from padim.choices import is_same
from padim.datasets import Category, Sample
from padim.documents import Document, Index
from padim.errors import DatasetError, ImageReadError
from padim.evaluation.category import Evaluation, evaluate, preview
from padim.evaluation.pictures import pictures, save_pictures
from padim.evaluation.record import (
    Curves,
    Fingerprint,
    ImageResult,
    Record,
    Row,
    record_files,
    record_name,
    write_record,
)
from padim.files import Names, move, safe_name, sha256, sync_folder, write_text, write_whole
from padim.fitting.fit import build_model
from padim.fitting.fitter import Fitter
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings
from padim.images.facts import describe_depth, describe_differences
from padim.images.heatmap import DEFAULT_COLORMAP
from padim.images.preprocess import Preprocess
from padim.memory import watch_peak
from padim.metrics.table import METRICS
from padim.model.file import is_whole
from padim.model.pair import moments_path
from padim.temporary import TemporaryFolder

_CURVE_POINTS = 500
_WRITTEN = "written.json"  # a `_Written`, where results are ready
_BESIDE_FITTER = (
    "roi",
    "white",
    "page",
    "dims_seed",
    "calibrate",
    "drop_outliers",
    "n_batch",
    "include_backbone",
    "keep_moments",
    "keep_samples",
)


@dataclass(frozen=True)
class Watcher:
    """Who is told what happens while a benchmark runs."""

    say: Callable[[str], None]  # hears a line
    # Hears that work of a name on so many images begins; gives what hears of each step.
    begin: Callable[[str, int], Callable[[int], None]] = lambda name, n_images: lambda n_done: None


@dataclass(frozen=True)
class Plan:
    """How every category is done; plain enough to be sent to another process."""

    settings: FitSettings
    n_seeds: int = 1  # how often what is random is drawn anew
    skip_unreadable: bool = False  # images are left out and listed; else their category fails
    keep_maps: bool = False  # whether the maps of the test images are kept, as float16
    colormap: str = DEFAULT_COLORMAP  # of the pictures, as ``heatmap.colours_of`` takes it
    # (height, width) of the images, where ``prepare`` has to know it.
    source_px: tuple[int, int] | None = None

    def departures(self) -> dict[str, str | float]:
        """Choices that results rest on and that a fitter does not tell, where not the default."""
        found = {}
        for name in _BESIDE_FITTER:
            value = getattr(self.settings, name)
            if not is_same(value, getattr(FitSettings(), name)):
                found[name] = f"sha256 {sha256(Path(value))}" if name == "roi" else value
        return found

    def fitter(self, seed: int) -> Fitter:
        """Prepare the fit of a seed.

        Raises:
            PadimError: It cannot be prepared.
        """
        dims_seed = self.settings.dims_seed + seed
        return prepare(replace(self.settings, dims_seed=dims_seed), source_px=self.source_px)


@dataclass(frozen=True)
class Job:
    """One category to be done once."""

    category: Category
    seed: int  # of what is random
    fingerprint: Fingerprint  # what the result rests on

    @property
    def name(self) -> str:
        """Of its record."""
        return record_name(self.category.name, self.seed)


@dataclass(frozen=True)
class _Written:
    """Whose results are ready, and which of its places have been written."""

    category: str
    seed: Index
    places: tuple[str, ...]


def run_job(
    job: Job,
    plan: Plan,
    fitter: Fitter,
    out: Path,
    watcher: Watcher,
) -> Record:
    """Fit and evaluate a category, and write its model, its pictures and its record.

    They take the place of what is there of the job once all are whole, and nothing half done is
    left.

    Raises:
        PadimError: It cannot be done.
    """
    with TemporaryFolder(out) as made:
        record = _make(job, plan, fitter, made, watcher)
        write_record(record, made)
        places = _all_places(job.category.name, job.seed, made)
        written = [what for what, path in places.items() if path.exists()]
        facts = {"category": job.category.name, "seed": job.seed, "places": written}
        write_text(made / _WRITTEN, json.dumps(facts))
        made.rename(find_ready(job, out))
        sync_folder(out)
        complete_one(find_ready(job, out), out)
    return record


def _make(job: Job, plan: Plan, fitter: Fitter, made: Path, watcher: Watcher) -> Record:
    """Fit and evaluate a category, and write its model and its pictures."""
    category = job.category
    left_out: list[str] = []

    def leave_out(error: ImageReadError) -> None:
        watcher.say(f"left out: {error}")
        left_out.append(str(error.path))

    def begin(phase: str, n_images: int) -> Callable[[int], None]:
        return watcher.begin(f"{category.name}: {phase}", n_images)

    unreadable = leave_out if plan.skip_unreadable else None
    watcher.say(category.describe())
    peak, start = watch_peak(), time.perf_counter()
    fitted = fitter.fit(category.train, begin, unreadable)
    fit_s, fit_peak = time.perf_counter() - start, peak()
    white = fitter.encoder.preprocess.reading.white
    if words := describe_depth(fitted.state.images, white):
        watcher.say(f"{category.name}: {words}")
    model = build_model(fitter, fitted)
    advance = begin("score", len(category.test))
    evaluation = evaluate(model, category, advance=advance, unreadable=unreadable)
    if words := describe_differences(one.differences for one in evaluation.predictions):
        watcher.say(f"{category.name}: {words}")
    for words in evaluation.describe_flaws():
        watcher.say(f"{category.name}: warning: {words}")
    if job.seed == 0:
        advance = begin("draw", len(evaluation.samples))
        _write_pictures(job, evaluation, fitter.encoder.preprocess, made, plan, advance)
    model_path = _places(category.name, job.seed, made)["model"]
    model.save(model_path, moments=plan.settings.keep_moments)
    return record_of(
        job,
        evaluation,
        left_out,
        fit_s=round(fit_s, 3),
        fit_peak_bytes=fit_peak,
        n_train=fitted.state.count,
        model_bytes=model_path.stat().st_size,
    )


def complete(out: Path) -> None:
    """Let all results that are ready take their places, also when that was cut short."""
    for ready in sorted(out.glob(".*.ready")):
        complete_one(ready, out)


def complete_one(ready: Path, out: Path) -> None:
    """Let the results of one job that are ready take their places."""
    if (ready / _WRITTEN).exists():  # else all has moved
        document = Document(ready / _WRITTEN, DatasetError, f"Remove {ready}.")
        written = document.restore(document.read(ready / _WRITTEN), _Written)
        sources = _all_places(written.category, written.seed, ready)
        places = _all_places(written.category, written.seed, out)
        if sources["record"].exists():  # what says that the others are there goes first
            _remove(places["record"])
        for what, path in places.items():
            if sources[what].is_dir() or what not in written.places:
                _remove(path)
            if sources[what].exists():
                path.parent.mkdir(parents=True, exist_ok=True)
            if sources[what].is_dir():
                shutil.move(sources[what], path)
                sync_folder(path.parent)
            elif sources[what].exists():
                move(sources[what], path)
    shutil.rmtree(ready)


def find_ready(job: Job, out: Path) -> Path:
    """Where results of a job wait that are whole and on their way."""
    digest = hashlib.sha256(os.fsencode(job.name)).hexdigest()
    return out / f".{digest[:16]}.ready"


def find_missing(job: Job, plan: Plan, out: Path, n_images: int) -> list[str]:
    """What a finished job of so many test images must have written, but is not there whole."""
    places = _places(job.category.name, job.seed, out)
    maps = places.pop("maps", None)
    if not n_images:
        places.pop("pictures", None)  # nothing to draw makes no folder
    missing = [what for what, path in places.items() if not path.exists()]
    if plan.keep_maps and maps is not None and len(list(maps.glob("*.npy"))) != n_images:
        missing.append("maps")
    if "model" not in missing and not is_whole(places["model"]):
        missing.append("a part of the model")
    return missing


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _all_places(category: str, seed: int, out: Path) -> dict[str, Path]:
    """Where a job writes, its record last."""
    places = _places(category, seed, out)
    document, arrays = record_files(out, record_name(category, seed))
    moments = moments_path(places["model"])
    return {**places, "moments": moments, "arrays": arrays, "record": document}


def _places(category: str, seed: int, out: Path) -> dict[str, Path]:
    """Where a job writes beside its record; only the first seed is drawn."""
    name = safe_name(category)
    places = {"model": out / "models" / f"{record_name(category, seed)}.safetensors"}
    if seed == 0:
        places["preview"] = out / "previews" / f"{name}.npy"
        places |= {folder: out / folder / name for folder in ("pictures", "maps")}
    return places


def record_of(
    job: Job,
    evaluation: Evaluation,
    unreadable: Sequence[str],
    *,
    n_train: int,
    fit_s: float | None,
    fit_peak_bytes: int | None,
    model_bytes: int,
) -> Record:
    """What is kept of a finished category, and of the images that were left out.

    What is of the fit is None where it was not fitted, or cannot be measured.
    """
    category, samples = job.category, evaluation.samples
    images = tuple(
        ImageResult(
            category.name,
            job.seed,
            category.name_of(sample.path),
            "anomalous" if sample.is_anomalous else "normal",
            sample.defect,
            prediction.score,
            tuple(round(value, 4) for value in prediction.level_scores),
            prediction.label,
            prediction.p_value,
        )
        for sample, prediction in zip(samples, evaluation.predictions, strict=True)
    )
    curves = {"image": evaluation.image_metrics.roc(_CURVE_POINTS)}
    curves |= evaluation.pixel_metrics.curves(_CURVE_POINTS)
    threshold = evaluation.decision and evaluation.decision.threshold
    return Record(
        name=job.name,
        resampled=evaluation.resample(),
        root=str(category.root.absolute()),
        masks=tuple(tuple(map(category.name_of, sample.masks)) for sample in samples),
        threshold=threshold.score if threshold else None,
        threshold_warning=threshold.warning if threshold else "",
        row=Row(
            category.name,
            n_train,
            len(samples),
            {name: evaluation.metrics.get(name) for name in METRICS},
            fit_s,
            round(evaluation.score_s, 3),
            fit_peak_bytes,
            model_bytes,
        ),
        by_defect=evaluation.by_defect(),
        images=images,
        curves=Curves(
            **{name: (tuple(x.tolist()), tuple(y.tolist())) for name, (x, y) in curves.items()}
        ),
        unreadable=tuple(unreadable),
        fingerprint=job.fingerprint,
    )


def _write_pictures(
    job: Job,
    evaluation: Evaluation,
    preprocess: Preprocess,
    out: Path,
    plan: Plan,
    advance: Callable[[int], None],
) -> None:
    places = _places(job.category.name, job.seed, out)
    drawn = pictures(evaluation, preprocess, plan.colormap)
    for _ in save_pictures(_name_pictures(drawn, job.category, places["pictures"])):
        advance(1)
    previews = [preview(anomaly_map) for anomaly_map in evaluation.anomaly_map]
    _save_array(places["preview"], np.array(previews, np.float16))
    for i, anomaly_map in enumerate(evaluation.anomaly_map if plan.keep_maps else ()):
        _save_array(places["maps"] / f"{i:05}.npy", np.asarray(anomaly_map))


def _save_array(path: Path, array: NDArray[np.float16]) -> None:
    with write_whole(path, is_one_of_many=True) as partial, partial.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def _name_pictures(
    drawn: Iterable[tuple[Sample, Image.Image]], category: Category, folder: Path
) -> Iterator[tuple[Path, Image.Image]]:
    """Give each picture a file: by its stem, else by its name, else by the way to it."""
    taken = Names()
    for sample, picture in drawn:
        way = category.name_of(sample.path).replace("/", "_")
        names = [f"{sample.defect}_{name}" for name in (sample.path.stem, sample.path.name, way)]
        yield folder / f"{taken.take(*names)}.png", picture
