import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageShow

from padim.errors import UsageError
from padim.scoring.description import Description
from padim.scoring.prediction import Prediction
from padim.scoring.predictor import Predictor


def spotted() -> np.ndarray:
    pixels = np.full((32, 48), 250, np.uint8)
    pixels[8:16, 30:42] = 20
    return pixels


@pytest.mark.parametrize("wrong", ["x", None, float("nan"), -1])
def test_a_smallest_region_is_a_number(prediction: Prediction, wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"min_region_px is .*needs to be a number of pixels"):
        prediction.defects(wrong)
    assert len(prediction.defects(np.float32(4))[0]) == 1


@pytest.fixture
def prediction(predictor: Predictor) -> Prediction:
    return predictor.predict(spotted())


def test_a_prediction_is_one_line(prediction: Prediction, predictor: Predictor) -> None:
    assert repr(prediction) == (
        "Prediction(an image: anomalous, score 235, 32x48 px, threshold 99, p 0.001)"
    )
    plain = Description(predictor.preprocess, None, None, predictor.description.facts)
    found = Predictor(predictor.score, plain, 4, "onnxruntime").predict(spotted())
    assert repr(found) == "Prediction(an image: score 235, 32x48 px, the model has no threshold)"


def test_a_notebook_shows_image_map_and_verdict(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "a<b>.png"
    Image.fromarray(spotted()).save(path)
    shown = predictor.predict(path)._repr_html_()
    assert "a&lt;b&gt;.png: anomalous, score 235" in shown
    sources = re.findall(r'src="([^"]+)"', shown)
    pictures = []
    for source in sources:
        head, _, data = source.partition(",")
        assert head == "data:image/jpeg;base64"
        pictures.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int))
    image, drawn = pictures
    assert image.shape == drawn.shape == (32, 48, 3)
    assert abs(image[12, 36] - 20).max() < 30
    assert abs(image - drawn).max() > 60


def test_a_picture_that_is_gone_is_said_to_be(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(spotted()).save(path)
    found = predictor.predict(path)
    path.unlink()
    assert "a.png cannot be read as an image: it does not exist" in found._repr_html_()


@pytest.mark.parametrize("name", ["a.jpg", "a.PNG", "deep/a.webp", "a.tif", "a.bmp"])
def test_the_drawn_image_is_saved(prediction: Prediction, tmp_path: Path, name: str) -> None:
    prediction.save(tmp_path / name)
    picture = np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int)
    assert abs(picture - np.asarray(prediction.draw())).mean() < 6
    with pytest.raises(UsageError, match=r"a\.txt is no image by its name\. Try a\.txt\.jpg"):
        prediction.save(tmp_path / "a.txt")


def test_the_drawn_image_is_shown(prediction: Prediction, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []

    class Viewer(ImageShow.Viewer):
        def show(self, image: Image.Image, **options: object) -> int:
            shown.append(image)
            return 1

    monkeypatch.setattr(ImageShow, "_viewers", [Viewer()])  # there is no screen here
    prediction.show()
    np.testing.assert_array_equal(np.asarray(shown[0]), np.asarray(prediction.draw()))


def test_a_prediction_is_plain_data(predictor: Predictor) -> None:
    (prediction,) = predictor.stream([spotted()], traced=True)
    found = prediction.to_dict()
    assert json.loads(json.dumps(found)) == found
    (region,) = found["regions"]
    assert region["peak"] == 235
    assert (region["x"], region["y"], region["width"], region["height"]) == (30, 8, 12, 8)
    assert prediction.to_dict(min_region_px=10_000)["regions"] == []
    assert found | {"regions": None} == {
        "path": None,
        "score": 235,
        "label": "anomalous",
        "p_value": pytest.approx(0.1 / 99),
        **{key: found[key] for key in ("x", "y", "width", "height", "area_px")},
        **{key: found[key] for key in ("peak_x", "peak_y", "peak", "mean")},
        "regions": None,
        "threshold": 99,
        "false_alarm_rate": 0.01,
        "pixel_threshold": prediction.decision.pixel_threshold,
        "image_sha256": prediction.origin.image_sha256,
        "model_sha256": prediction.origin.model_sha256,
        "padim": prediction.origin.padim,
        "engine": prediction.origin.engine,
        "level_scores": list(prediction.level_scores),
        "camera": {
            "grey": pytest.approx(spotted().mean(), abs=2),
            "contrast": found["camera"]["contrast"],
            "sharpness": found["camera"]["sharpness"],
            "shift_px": None,
        },
        "coarse_map": found["coarse_map"],
    }
    np.testing.assert_allclose(found["coarse_map"], prediction.coarse_map(), rtol=1e-3)
    untraced = predictor.predict(spotted()).to_dict()
    assert untraced.keys() == found.keys()
    assert untraced["image_sha256"] is untraced["engine"] is None
