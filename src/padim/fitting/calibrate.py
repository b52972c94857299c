"""Thresholds by images that a model was not fitted on."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from padim.choices import require_path
from padim.datasets import expand_defects, normal_images
from padim.errors import DatasetError, ImageReadError, UsageError, format_count, join_names
from padim.files import hold
from padim.images.ahead import ImageInput, content_sha256, hash_all
from padim.images.camera import CameraFacts
from padim.model.opening import load
from padim.places import find_place
from padim.scoring.calibration import HELD_OUT
from padim.scoring.collector import Collector
from padim.scoring.cost import check_weights, least_cost
from padim.scoring.engines import is_graph
from padim.scoring.graph_file import write_description
from padim.scoring.predictor import Predictor


def calibrate(
    model: str | Path | Predictor,
    good: str | Path | Sequence[ImageInput],
    defects: str | Path | Sequence[ImageInput] = (),
    *,
    miss_cost: float = 1.0,
    false_alarm_cost: float = 1.0,
    defect_rate: float | None = None,
    unreadable: Callable[[ImageReadError], None] | None = None,
    advance: Callable[[int], None] = lambda n_images: None,
) -> Predictor:
    """Set a model's thresholds by good images that it was not fitted on.

    Args:
        model: A model file or an exported graph, which is changed; or a loaded model, which stays
            as it is.
        good: A folder of good images, or a list of images as for ``Predictor.predict``.
        defects: The same of known defects: the threshold is then that of least cost on both.
        miss_cost: Of a defect that is called normal.
        false_alarm_cost: Of a good image that is called anomalous.
        defect_rate: Share of parts that are defective on the line, above 0 and below 1; when None,
            that of the images given.
        unreadable: Told of an image that cannot be read, which is then left out; raised when None.
        advance: Told how many more images have been scored.

    Returns:
        The model with those thresholds.

    Raises:
        UsageError: A cost or a rate is impossible, or the file is a graph with a verdict, which
            judges by the thresholds that it was exported with.
        DatasetError: The model was fitted on a good image, a defect is a good image as well, or
            there is no image.
        ImageReadError: An image cannot be read and nobody is told.
        PadimError: The model cannot be loaded, or another process is changing its file.

    Examples:
        >>> model = padim.calibrate("part.safetensors", "part/test/good", "part/test/spot")
        >>> model.decision.threshold.kind
        'cost'
    """
    check_weights(miss_cost, false_alarm_cost, defect_rate)
    if not isinstance(model, Predictor):
        path = require_path(model)
        with hold(path) as check:
            predictor = load(path)
            check_renewable(predictor, path)
            calibrated = calibrate(
                predictor,
                good,
                defects,
                miss_cost=miss_cost,
                false_alarm_cost=false_alarm_cost,
                defect_rate=defect_rate,
                unreadable=unreadable,
                advance=advance,
            )
            check()
            write_calibration(calibrated, path)
        return load(path)
    normal = normal_images(find_place(good)) if isinstance(good, str | Path) else good
    if isinstance(defects, str | Path):
        defects = expand_defects(find_place(defects))
    _check_unseen(normal, defects, set(model.description.facts["image_sha256"]))
    collectors, camera = (Collector(), Collector()), list[CameraFacts | None]()
    for collector, images in zip(collectors, (normal, defects), strict=True):
        for prediction in model.stream(images, unreadable):
            levels = np.array([prediction.level_scores], np.float32)
            collector.add(prediction.anomaly_map[None], prediction.score, levels)
            if images is normal:
                camera.append(prediction.camera)
            advance(1)
    if not collectors[0].count or (defects and not collectors[1].count):
        raise DatasetError("No image could be read. Name a folder of images.")
    known = model.description.calibration
    mean_image = known.reference.mean_image if known and known.reference else None
    seen = [facts for facts in camera if facts is not None]  # all, or none of a camera's graph
    reference = collectors[0].reference(seen, mean_image)
    calibration = collectors[0].calibration(HELD_OUT, reference)
    if defects:
        anomalous = collectors[1].image_scores()
        chosen = least_cost(
            calibration.image_score, anomalous, miss_cost, false_alarm_cost, defect_rate
        )
        calibration = replace(calibration, chosen=chosen)
    return model.calibrated(calibration)


def check_renewable(model: Predictor, path: Path) -> None:
    """Raise a `UsageError` if the file of a model cannot take other thresholds."""
    if model.description.has_verdict:
        raise UsageError(
            f"{path} judges by the thresholds that it was exported with. Calibrate the model file, "
            "and export it again."
        )


def write_calibration(model: Predictor, path: Path) -> None:
    """Write a calibrated model's thresholds into its file or graph, whole or not at all."""
    if is_graph(path):
        write_description(path, json.dumps(dict(model.description.facts), sort_keys=True))
    else:
        from padim.model.file import load_state, save_state  # a graph needs no torch

        save_state(replace(load_state(path), calibration=model.description.calibration), path)


def _check_unseen(
    normal: Sequence[ImageInput], defects: Sequence[ImageInput], fitted: set[str]
) -> None:
    """Make sure that a model was not fitted on images, and that no image is of both kinds."""
    hashes = hash_all(normal, _hash)
    if known := [image for image, digest in zip(normal, hashes, strict=True) if digest in fitted]:
        raise DatasetError(
            f"The model was fitted on {len(known)} of the {format_count(len(normal), 'image')}, "
            f"and scores what it has seen too low for a threshold: {_list_names(known)}. Name "
            "others. A fit sets its own threshold, and leaves each image out in turn for that."
        )
    good = fitted.union(hashes)
    found = zip(defects, hash_all(defects, _hash), strict=True)
    if both := [image for image, digest in found if digest in good]:
        raise DatasetError(
            f"{_list_names(both)}: images of known defects cannot be good ones as well, of this "
            "folder or of the fit. Name a folder of defects only with --anomalous."
        )


def _hash(image: ImageInput) -> str:
    try:
        return content_sha256(image)
    except ImageReadError:  # who scores it says so, or leaves it out
        return ""


def _list_names(images: Sequence[ImageInput]) -> str:
    return join_names(image if isinstance(image, str | Path) else "an array" for image in images)
