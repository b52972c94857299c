"""Masks beside maps: what is a region, what is refused, and what resampling draws."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from padim.datasets import read_category
from padim.errors import DatasetError
from padim.evaluation.category import Evaluation, evaluate
from padim.images.preprocess import Preprocess
from padim.metrics.resamples import intervals
from padim.scoring.prediction import Prediction
from padim.scoring.predictor import Predictor

SOURCE_PX, MAP_PX = 1024, 256
WHOLE = Preprocess((MAP_PX, MAP_PX), 1, "bilinear", (0, 0, 0), (1, 1, 1))


@dataclass
class Given:
    """Maps and scores that stand for those of a model."""

    maps: dict[str, NDArray[np.float32]]
    preprocess: Preprocess = WHOLE
    decision: None = None
    scores: dict[str, float] = field(default_factory=dict)

    def stream(self, paths: Sequence[Path], unreadable: Any) -> Iterator[Prediction]:
        for path in paths:
            anomaly_map = self.maps[path.name]
            score = self.scores.get(path.name, float(np.nanmax(anomaly_map)))
            with Image.open(path) as image:
                source_px = image.height, image.width
            yield Prediction(path, score, anomaly_map, (), source_px, self.preprocess)


def evaluated(root: Path, given: Given) -> Evaluation:
    return evaluate(cast(Predictor, given), read_category(root))


def write(root: Path, name: str, mask: Image.Image | None = None, side: int = SOURCE_PX) -> None:
    defect, _, stem = name.partition("/")
    for folder in ("train/good", f"test/{defect}", f"ground_truth/{defect}"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8)).save(root / "train/good/0.png")
    Image.new("L", (side, side)).save(root / f"test/{defect}/{stem}.png")
    if mask is not None:
        mask.save(root / f"ground_truth/{defect}/{stem}_mask.png")


def test_a_thin_defect_is_one_region_and_a_small_one_is_not_lost(tmp_path: Path) -> None:
    mask = Image.new("L", (SOURCE_PX, SOURCE_PX))
    draw = ImageDraw.Draw(mask)
    draw.line((100, 80, 700, 433), fill=255, width=2)
    draw.rectangle((701, 702, 901, 902), fill=255)
    draw.rectangle((5, 1001, 6, 1001), fill=255)
    write(tmp_path, "crack/a", mask)
    write(tmp_path, "good/b")
    anomaly_map = np.zeros((MAP_PX, MAP_PX), np.float32)
    anomaly_map[170:230, 170:230] = 1  # the square, and nothing of the other two
    found = evaluated(tmp_path, Given({"a.png": anomaly_map, "b.png": np.zeros_like(anomaly_map)}))
    assert len(found.counts.regions) == 3
    shown = found.metrics["aupro_30"]
    n_normal = 2 * MAP_PX**2 - int(WHOLE.mask(np.asarray(mask) > 0).sum()) - 1
    fpr = (anomaly_map.sum() - 50 * 51) / n_normal
    # A third of the regions is found at once; the rest of the way to FPR 1 is a straight line.
    at_limit = 1 / 3 + 2 / 3 * (0.3 - fpr) / (1 - fpr)
    expected = (fpr / 2 * 1 / 3 + (0.3 - fpr) * (1 / 3 + at_limit) / 2) / 0.3
    assert shown == pytest.approx(expected, abs=0.01)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "crack/a", Image.new("L", (20, 72), 255), side=72)
    write(tmp_path, "good/b", side=72)
    maps = {name: np.zeros((MAP_PX, MAP_PX), np.float32) for name in ("a.png", "b.png")}
    with pytest.raises(DatasetError, match=r"a\.png is 72x20 px, but its image 72x72 px"):
        evaluated(tmp_path, Given(maps))


def test_recall_is_resampled_over_anomalous_images_alone(tmp_path: Path) -> None:
    flat = np.zeros((MAP_PX, MAP_PX), np.float32)
    scores = {f"n{i}.png": float(i) for i in range(6)} | {f"a{i}.png": i + 2.5 for i in range(6)}
    for name in scores:
        write(tmp_path, f"{'good' if name[0] == 'n' else 'crack'}/{name[:-4]}", side=8)
    found = evaluated(tmp_path, Given(dict.fromkeys(scores, flat), scores=scores))
    metrics, drawn = found.metrics, found.resample(4000)
    assert metrics["image_recall_at_0"] == 0.5  # 5.5, 6.5 and 7.5 are above 5
    # Of six drawn, each is found with probability one half.
    assert drawn["image_recall_at_0"].mean() == pytest.approx(0.5, abs=0.02)
    assert drawn["image_recall_at_0"].std() == pytest.approx((0.25 / 6) ** 0.5, abs=0.02)
    assert drawn["image_auroc"].std() > 0.05
    low, high = intervals(drawn, metrics)["image_recall_at_0"] or (1, 0)
    assert low < 0.5 < high
