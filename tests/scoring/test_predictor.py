import hashlib
import io
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from padim.errors import ImageReadError, ModelFileError, ShapeError, UsageError
from padim.images.ahead import ImageInput
from padim.scoring.description import Description
from padim.scoring.predictor import Outputs, Predictor

GREY = (np.arange(20 * 30) % 200 + 50).astype(np.uint8).reshape(20, 30)
RGB = np.repeat(GREY[..., None], 3, axis=2)


def encoded(kind: str, pixels: NDArray[np.uint8] = RGB) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


class Line:
    """A camera that counts how often it was asked for a picture."""

    def __init__(self, n_images: int) -> None:
        self.n_images = n_images
        self.n_pulled = 0

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for i in range(self.n_images):
            self.n_pulled += 1
            yield np.full((8, 8), 200 - i, np.uint8)


@pytest.mark.parametrize("n_ahead", [0, 1, 2, 3, 5, 18, 40])
def test_an_answer_waits_for_no_more_images_than_was_asked(
    predictor: Predictor, n_ahead: int
) -> None:
    line = Line(60)
    answers = predictor.stream(line, n_ahead=n_ahead)
    assert line.n_pulled == 0
    found = []
    for i, prediction in enumerate(answers):
        assert line.n_pulled <= i + 1 + n_ahead
        found.append(prediction.score)
    assert found == [55.0 + i for i in range(60)]


def test_batches_are_scored_at_a_time_and_given_in_order(predictor: Predictor) -> None:
    together, alone = threading.Barrier(3, timeout=20), predictor.score

    def score(images: NDArray[np.uint8]) -> Outputs:
        together.wait()
        return alone(images)

    predictor.score, predictor.n_calls = score, 3
    found = [prediction.score for prediction in predictor.stream(Line(24))]
    assert found == [55.0 + i for i in range(24)]


def test_a_camera_is_asked_for_one_image_at_a_time(predictor: Predictor) -> None:
    line = Line(3)
    answers = predictor.stream(line, n_ahead=0)
    for n_pulled in (1, 2, 3):
        next(answers)
        assert line.n_pulled == n_pulled
    for wrong, said in ((-1, "-1"), (2.5, "2.5"), ("2", "'2'")):
        message = f"n_ahead is {said}, but needs to be a whole number, 0 or more"
        with pytest.raises(UsageError, match=message):
            next(predictor.stream(line, n_ahead=wrong))  # type: ignore[arg-type]  # what users do


@pytest.mark.parametrize(
    "image",
    [
        encoded("PNG"),
        encoded("PNG", GREY),
        bytearray(encoded("BMP")),
        memoryview(encoded("TIFF")),
        GREY,
        GREY[..., None],
        RGB,
        np.dstack((RGB, np.zeros_like(GREY))),
        RGB[::-1][::-1],
        Image.fromarray(GREY),
        Image.fromarray(RGB).convert("RGBA"),
        Image.fromarray(RGB).convert("P"),
    ],
)
def test_whatever_holds_the_same_pixels_scores_the_same(
    predictor: Predictor, image: ImageInput
) -> None:
    found = predictor.predict(image)
    expected = predictor.predict(RGB)
    assert found.score == pytest.approx(expected.score, abs=2)  # a palette has fewer colours
    assert found.source_px == (20, 30)
    assert found.path is None
    assert found.draw().size == (30, 20)


def test_a_jpeg_in_memory_is_the_one_in_a_file(predictor: Predictor, tmp_path: Path) -> None:
    content = encoded("JPEG")
    (tmp_path / "a.jpg").write_bytes(content)
    (of_file,) = predictor.stream([tmp_path / "a.jpg"], traced=True)
    (of_bytes,) = predictor.stream([content], traced=True)
    np.testing.assert_array_equal(of_file.anomaly_map, of_bytes.anomaly_map)
    assert of_file.origin == of_bytes.origin
    assert of_file.origin is not None
    assert of_file.origin.image_sha256 == hashlib.sha256(content).hexdigest()
    assert of_file.origin.model_sha256 == hashlib.sha256(b"the model").hexdigest()
    assert of_file.origin.padim == version("padim-efficientnet")
    assert of_file.origin.engine == f"onnxruntime {version('onnxruntime')}"


def test_a_record_names_the_file_that_was_loaded(predictor: Predictor) -> None:
    assert predictor.path is not None
    predictor.path.write_bytes(b"another")
    (found,) = predictor.stream([RGB], traced=True)
    assert found.origin is not None
    assert found.origin.model_sha256 == hashlib.sha256(b"the model").hexdigest()


def test_several_images_give_a_list(predictor: Predictor, tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    several = [tmp_path / "a.png", str(tmp_path / "a.png"), RGB, encoded("PNG")]
    scores = [predictor.predict(RGB).score] * 4
    for images in (several, tuple(several), iter(several), (one for one in several)):
        found = predictor.predict(images)
        assert [prediction.score for prediction in found] == scores
    assert predictor.predict([]) == []


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((0, 8, 3), np.uint8), ShapeError, r"shape \(0, 8, 3\).* a pixel at least"),
        (np.zeros((8, 0), np.uint8), ShapeError, "a pixel at least"),
        (Image.new("RGB", (0, 8)), ShapeError, "a pixel at least"),
        (np.zeros((8, 8, 3)), ShapeError, "type float64, but needs .* and uint8"),
        (np.zeros((8, 8), np.uint16), ShapeError, "type uint16"),
        (np.zeros((8, 8, 2), np.uint8), ShapeError, r"shape \(8, 8, 2\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), ShapeError, "Give several images one by one"),
        (np.zeros((9, 8, 8), np.uint8), ShapeError, "Give several images one by one"),
        (np.zeros((3, 8, 8), np.uint8), ShapeError, r"channels come first: .*transpose\(1, 2, 0\)"),
        (np.zeros((3, 8, 8), np.float32), ShapeError, "type float32, .*channels come first"),
        (np.zeros(8, np.uint8), ShapeError, r"shape \(8,\)"),
        (3, UsageError, "cannot be of type int. Give a path, the bytes"),
        (None, UsageError, "cannot be of type NoneType"),
        ([RGB, None], UsageError, "cannot be of type NoneType"),
        (b"", ImageReadError, "given as 0 bytes cannot be read as an image: it is empty"),
        (b"no image", ImageReadError, "given as 8 bytes cannot be read .* known format"),
        (encoded("PNG")[:90], ImageReadError, "cut short"),
        (Image.open(io.BytesIO(encoded("PNG")[:90])), ImageReadError, "cut short"),
        (Image.fromarray(np.zeros((8, 8), np.float32)), ImageReadError, "pixels are floats"),
        (
            "nowhere.png",
            ImageReadError,
            "nowhere.png cannot be read .* it does not exist; check the path",
        ),
        (".", ImageReadError, "it is a folder; name the image files in it"),
    ],
)
def test_what_is_no_image_is_refused_in_a_sentence(
    predictor: Predictor, image: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        predictor.predict(image)  # type: ignore[call-overload]  # what users do
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", Outputs._fields)
def test_a_score_is_a_finite_number_or_an_error(
    predictor: Predictor, wrong: float, where: str
) -> None:
    def broken(images: NDArray[np.uint8]) -> Outputs:
        outputs = predictor.score(images)
        values = getattr(outputs, where).copy()
        values.reshape(-1)[-1] = wrong
        return outputs._replace(**{where: values})

    other = Predictor(broken, predictor.description, 4, "onnxruntime")
    with pytest.raises(ModelFileError, match="a score needs to be a finite number"):
        other.predict([RGB, RGB])


def test_a_batch_and_channels_first_score_as_the_message_says(predictor: Predictor) -> None:
    expected = predictor.predict(RGB).score
    assert predictor.predict(RGB.transpose(2, 0, 1).transpose(1, 2, 0)).score == expected
    batch = np.stack([RGB, RGB])
    for found in (list(predictor.stream(batch)), predictor.predict(list(batch))):
        assert [prediction.score for prediction in found] == [expected] * 2


@pytest.mark.parametrize("rates", [(5, None), (None, 5), ("x", None), (None, "x")])
def test_a_rate_that_is_none_is_refused(predictor: Predictor, rates: tuple[Any, Any]) -> None:
    with pytest.raises(UsageError, match=r"alarm rate is (5|'x'), but needs to be a fraction"):
        predictor.at(*rates)


def test_thresholds_change_without_the_model(predictor: Predictor) -> None:
    strict = predictor.at(0.5)
    assert strict.decision is not None
    assert predictor.decision is not None
    assert strict.decision.threshold.score < predictor.decision.threshold.score
    assert predictor.at() is predictor
    assert strict.calibrated(predictor.decision.calibration).decision == predictor.decision
    plain = Description(predictor.preprocess, None, None, predictor.description.facts)
    with pytest.raises(UsageError, match="has no threshold"):
        Predictor(predictor.score, plain, 4, "onnxruntime").at(0.1)


def test_a_model_is_one_line(predictor: Predictor) -> None:
    assert repr(predictor) == (
        "Predictor(none, standard recipe, 16x16 px, fitted on 99 images; "
        "threshold 99 at a false-alarm rate of 0.01; onnxruntime)"
    )


@pytest.mark.parametrize(
    "alone", [None, 3, "a.png", Path("a.png"), b"x", RGB, Image.new("L", (9, 9))]
)
def test_one_image_is_no_stream_of_its_parts(alone: Any, predictor: Predictor) -> None:
    with pytest.raises(UsageError, match=r"cannot be of type .*Give a list"):
        next(predictor.stream(alone))


def test_a_stack_of_images_is_streamed(predictor: Predictor) -> None:
    assert len(list(predictor.stream(np.stack([RGB, RGB])))) == 2
    assert len(list(predictor.stream(np.stack([GREY, GREY, GREY])))) == 3


def test_an_array_of_paths_is_streamed(predictor: Predictor, tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    for kind in (object, np.str_):
        paths = np.array([str(tmp_path / "a.png")] * 2, dtype=kind)
        assert len(list(predictor.stream(paths))) == 2


def test_an_open_file_is_not_taken_for_its_lines(predictor: Predictor) -> None:
    with pytest.raises(UsageError, match="cannot be of type BytesIO"):
        predictor.predict(io.BytesIO(encoded("PNG")))
