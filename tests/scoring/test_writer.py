import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from padim.errors import UnknownNameError, UsageError
from padim.scoring.journal import COLUMNS, Journal, Run
from padim.scoring.prediction import Prediction
from padim.scoring.predictor import Predictor
from padim.scoring.writer import PredictionWriter

RUN = Run("0" * 64, "0.1", "torch 2", 99.0, 0.01, 120.0, True, "npy", 1)


def numbered(prediction: Prediction) -> Path:
    return Path(f"{prediction.score:03.0f}")


def frames() -> list[np.ndarray]:
    images = [np.full((12, 20), 240, np.uint8) for _ in range(6)]
    for i, image in enumerate(images):
        image[3:9, 5:11] = 200 - 30 * i
    return images


def test_what_came_of_a_camera_is_written_as_of_files(predictor: Predictor, tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path / "out", numbered, maps="npy")
    with Journal(tmp_path / "out", RUN, predictor.decision) as journal:
        records = list(writer.write(predictor.stream(frames(), traced=True), journal))
        journal.finish()
    assert [record.score for record in records] == [55, 85, 115, 145, 175, 205]
    lines = (tmp_path / "out/predictions.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [record.to_dict() for record in records]
    with (tmp_path / "out/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    model_sha256 = hashlib.sha256(b"the model").hexdigest()
    for row, record, image in zip(rows, records, frames(), strict=True):
        assert float(row["score"]) == record.score
        assert row["label"] == ("anomalous" if record.score > 99 else "normal")
        assert (row["path"], row["threshold"], row["false_alarm_rate"]) == ("", "99.0", "0.01")
        rgb = np.repeat(image[..., None], 3, axis=2)
        assert row["image_sha256"] == hashlib.sha256(rgb.tobytes()).hexdigest()
        assert row["model_sha256"] == model_sha256
        assert row["engine"].startswith("onnxruntime ")
        assert np.load(tmp_path / f"out/maps/{record.score:03.0f}.npy").shape == (12, 20)
        with Image.open(tmp_path / f"out/overlays/{record.score:03.0f}.jpg") as drawn:
            assert drawn.size == (20, 12)


def test_old_columns_come_first() -> None:
    assert COLUMNS[:11] == (
        *("path", "score", "label", "p_value", "peak_x", "peak_y"),
        *("x", "y", "width", "height", "area_px"),
    )


def test_impossible_choices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="There is no kind of map 'png'"):
        PredictionWriter(tmp_path, numbered, maps="png")
    with pytest.raises(UsageError, match="--min-region-px is 0, but needs to be 1 or more"):
        PredictionWriter(tmp_path, numbered, min_region_px=0)
