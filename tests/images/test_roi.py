import json
from pathlib import Path

import numpy as np
import oracle
import pytest
import scipy.ndimage
import torch
from numpy.typing import NDArray
from PIL import Image
from trees import make_category, striped

import padim
from padim.cli import main
from padim.datasets import read_category
from padim.errors import ShapeError, UsageError
from padim.evaluation.category import evaluate
from padim.fitting.fit import build_model
from padim.fitting.fitter import Fitter
from padim.images.roi import Roi, read_roi
from padim.model.padim import PaDiM
from padim.model.scorer import scorer_of

SIZE_PX = (64, 96)


@pytest.fixture(scope="module")
def region() -> NDArray[np.bool_]:
    """A part of every coarse cell it touches, and a part that is apart."""
    mask = np.zeros(SIZE_PX, np.bool_)
    mask[10:40, 20:50] = True
    mask[60, 90] = True
    return mask


def fitters(region: NDArray[np.bool_]) -> tuple[Fitter, Fitter]:
    """Without and with a region."""
    settings = {"size_px": SIZE_PX, "eps": 0.01, "eps_rule": "absolute", "store": "float32"}
    return oracle.small_fitter(**settings), oracle.small_fitter(**settings, roi=region)


@pytest.fixture(scope="module")
def models(region: NDArray[np.bool_]) -> tuple[PaDiM, PaDiM]:
    images = list(oracle.random_images(6, SIZE_PX))
    whole, partial = fitters(region)
    return build_model(whole, whole.fit(images)), build_model(partial, partial.fit(images))


def test_cells_outside_are_neither_stored_nor_scored(
    models: tuple[PaDiM, PaDiM], region: NDArray[np.bool_]
) -> None:
    whole, partial = (model.state for model in models)
    touched = region.reshape(4, 16, 6, 16).any(axis=(1, 3))
    assert partial.pyramid.coarse_cells == tuple(np.flatnonzero(touched))
    for mine, theirs in zip(partial.whitening, whole.whitening, strict=True):
        assert len(mine) * touched.size == len(theirs) * touched.sum()
    images = torch.from_numpy(oracle.random_images(3, SIZE_PX, seed=7))
    features = [fitter.features for fitter in fitters(region)]
    with torch.inference_mode():
        everywhere, inside = (
            (scorer := scorer_of(state, part)).heads[0](scorer.features(images)).numpy()
            for state, part in zip((whole, partial), features, strict=True)
        )
    modelled = touched.repeat(4, axis=0).repeat(4, axis=1)
    np.testing.assert_allclose(inside[:, modelled], everywhere[:, modelled], rtol=1e-6)
    assert not inside[:, ~modelled].any()


def test_the_map_averages_what_is_modelled_only(
    models: tuple[PaDiM, PaDiM], region: NDArray[np.bool_]
) -> None:
    partial = models[1]
    image = oracle.random_images(1, SIZE_PX, seed=7)
    with torch.inference_mode():
        scorer = scorer_of(partial.state, fitters(region)[1].features)
        distance = scorer.heads[0](scorer.features(torch.from_numpy(image))).double()
    modelled = (distance > 0).double()

    def finished(grid: torch.Tensor) -> NDArray[np.float64]:
        pixels = torch.nn.functional.interpolate(grid[None], SIZE_PX, mode="bilinear")
        return scipy.ndimage.gaussian_filter(pixels[0, 0].numpy(), 4)

    with np.errstate(invalid="ignore"):
        expected = finished(distance) / finished(modelled)
    found = partial.predict(image[0])
    np.testing.assert_allclose(found.anomaly_map[region], expected[region], rtol=1e-5)
    assert np.isnan(found.anomaly_map[~region]).all()
    n_hottest = round(0.01 * region.sum())
    hottest = np.sort(expected[region])[-n_hottest:]
    assert found.score == pytest.approx(hottest.mean(), rel=1e-5)


def test_a_map_in_source_pixels_is_not_diluted_at_the_border() -> None:
    region = np.zeros((64, 64), np.bool_)
    region[:32, :32] = True
    preprocess = oracle.small_fitter(roi=region).encoder.preprocess
    five = np.where(region, np.float32(5), np.float32(np.nan))
    found = preprocess.to_source(five, (128, 128))
    np.testing.assert_allclose(found[:64, :64], 5, rtol=1e-6)
    assert np.isnan(found[64:]).all()
    assert np.isnan(found[:, 64:]).all()


def test_info_knows_a_region_that_touches_every_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dotted = np.ones((64, 64), np.bool_)
    dotted[::16, ::16] = False
    model = padim.fit(list(oracle.random_images(2, (64, 64))), size_px=(64, 64), roi=dotted)
    model.save(tmp_path / "m.safetensors")
    assert main(["info", str(tmp_path / "m.safetensors")]) == 0
    assert "16 of 16 coarse cells" in capsys.readouterr().out


def test_pixels_outside_are_not_counted(
    models: tuple[PaDiM, PaDiM], region: NDArray[np.bool_]
) -> None:
    calibration = models[1].state.calibration
    assert calibration is not None
    assert calibration.pixel_count.sum() == 6 * region.sum()


def test_leave_one_out_is_that_of_refits(region: NDArray[np.bool_]) -> None:
    images = list(oracle.random_images(4, SIZE_PX))
    fitter = fitters(region)[1]
    calibration = fitter.fit(images).state.calibration
    assert calibration is not None
    refits = [
        build_model(fitter, fitter.fit(images[:i] + images[i + 1 :])).predict(images[i]).score
        for i in range(4)
    ]
    np.testing.assert_allclose(calibration.image_score, sorted(refits), rtol=1e-4)


def test_a_model_keeps_its_region(
    models: tuple[PaDiM, PaDiM], region: NDArray[np.bool_], tmp_path: Path
) -> None:
    models[1].save(tmp_path / "m.safetensors")
    models[0].save(tmp_path / "whole.safetensors")
    image = oracle.random_images(1, SIZE_PX, seed=9)[0]
    loaded = padim.load(tmp_path / "m.safetensors")
    assert loaded.preprocess.roi is not None
    np.testing.assert_array_equal(loaded.preprocess.roi.mask, region)
    np.testing.assert_array_equal(
        loaded.predict(image).anomaly_map, models[1].predict(image).anomaly_map
    )
    n_bytes = {path.stem: path.stat().st_size for path in tmp_path.iterdir()}
    assert n_bytes["m"] < n_bytes["whole"]
    with pytest.raises(ShapeError, match=r"64x64 px, but the region of interest is for 64x96 px"):
        loaded.predict(image[:, :64])


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_a_graph_keeps_the_region_too(models: tuple[PaDiM, PaDiM], tmp_path: Path, to: str) -> None:
    models[1].save(tmp_path / "m.safetensors")
    out = tmp_path / ("m.onnx" if to == "onnx" else "m.xml")
    words = ["export", str(tmp_path / "m.safetensors"), "-o", str(out), "--to", to, "-q"]
    assert main([*words, "--camera", "64x96"]) == 0
    image = oracle.random_images(1, SIZE_PX, seed=9)[0]
    expected, found = models[1].predict(image), padim.load(out).predict(image)
    np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, rtol=1e-3)
    assert found.score == pytest.approx(expected.score, rel=1e-3)
    assert main([*words, "--camera", "64x64"]) == 2


def test_what_lies_outside_does_not_count_in_an_evaluation(tmp_path: Path) -> None:
    category = make_category(tmp_path / "stripes")
    left = np.zeros((72, 72), np.bool_)
    left[:, :36] = True
    model = padim.fit(category, size_px=(64, 64), roi=left, device="cpu")
    evaluation = evaluate(model, read_category(category))
    counted = model.preprocess.mask(left)
    counts = evaluation.counts
    assert counts.normal.n_px().sum() + counts.regions.n_px().sum() == 6 * counted.sum()


def test_a_region_smaller_than_its_surroundings_takes_the_network_there_only() -> None:
    region = np.zeros((512, 512), np.bool_)
    region[200:240, 100:180] = True
    fitter = oracle.small_fitter(size_px=(512, 512), roi=region, tile_overlap_px=64)
    # Whole cells of 16 px, and 32 px around them.
    assert fitter.encoder.tiling.window_px == (112, 160)
    assert (fitter.encoder.tiling.tiles[0].top, fitter.encoder.tiling.tiles[0].left) == (160, 64)
    model = build_model(fitter, fitter.fit(list(oracle.random_images(3, (512, 512)))))
    image = oracle.random_images(1, (512, 512), seed=3)[0]
    elsewhere = image.copy()
    elsewhere[:160] = 0
    assert model.predict(image).score == model.predict(elsewhere).score


@pytest.mark.parametrize(
    ("polygon", "n_pixels"),
    [
        ([[0, 0], [3, 0], [3, 3], [0, 3]], 16),
        ([[[0, 0], [3, 0], [3, 3], [0, 3]], [[6, 0], [7, 0], [7, 1], [6, 1]]], 20),
    ],
)
def test_polygons_are_drawn_in_source_pixels(
    tmp_path: Path, polygon: object, n_pixels: int
) -> None:
    (tmp_path / "roi.json").write_text(json.dumps(polygon))
    mask = read_roi(tmp_path / "roi.json", (8, 10))
    assert mask.shape == (8, 10)
    assert mask.sum() == n_pixels
    assert mask[:4, :4].all()


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "[[1, 2], [3, 4]]", '["a"]', "[[1]]", "3", "[[]]", "[" * 200_000),
        *("[[NaN, 0], [1, 0], [1, 1]]", f"[[1{'0' * 400}, 0], [1, 0], [1, 1]]"),
    ],
)
def test_what_is_no_polygon_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "roi.json").write_text(text)
    with pytest.raises(UsageError, match=r"cannot be understood: .* Give the corners of a polygon"):
        read_roi(tmp_path / "roi.json", (8, 10))


def test_a_region_that_covers_nothing_is_refused(tmp_path: Path) -> None:
    Image.new("L", (10, 8)).save(tmp_path / "roi.png")
    with pytest.raises(UsageError, match="covers no pixel of the images"):
        read_roi(tmp_path / "roi.png", (8, 10))
    with pytest.raises(UsageError, match="covers no pixel of what the network sees"):
        Roi.of(np.ones((8, 10), np.bool_), np.zeros_like)


def test_fit_takes_a_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    category = make_category(tmp_path / "stripes")
    mask = np.zeros((72, 72), np.uint8)
    mask[:36, :36] = 255
    Image.fromarray(mask).save(tmp_path / "roi.png")
    model = tmp_path / "m.safetensors"
    fit = ["fit", str(category), "-o", str(model), "--size", "64", "-q"]
    assert main([*fit, "--roi", str(tmp_path / "roi.png")]) == 0
    capsys.readouterr()
    assert main(["info", str(model)]) == 0
    assert "25% of images of 72x72 px, 4 of 16 coarse cells" in capsys.readouterr().out
    out = tmp_path / "out"
    words = ["predict", str(model), str(category / "test"), "-o", str(out), "--recursive", "-q"]
    assert main(words) == 0
    picture = np.asarray(Image.open(out / "overlays/spot/0.jpg").convert("RGB")).astype(int)
    source = np.asarray(Image.open(category / "test/spot/0.png").convert("RGB")).astype(int)
    changed = np.abs(picture - source).max(axis=2) > 60
    assert changed[:36, :36].any()
    assert not changed[44:, 44:].any()

    striped(0, 64).save(tmp_path / "small.png")
    assert main(["predict", str(model), str(tmp_path / "small.png"), "-o", str(out), "-q"]) == 1
    assert "small.png: The image is 64x64 px" in capsys.readouterr().err
    Image.new("L", (64, 64), 255).save(tmp_path / "small.png")
    assert main([*fit, "--roi", str(tmp_path / "small.png")]) == 2
    assert "64x64 px, but the images are 72x72 px" in capsys.readouterr().err
    assert main([*fit, "--roi", str(tmp_path / "none.png")]) == 2


def test_noise_of_a_compressed_mask_is_not_looked_at(tmp_path: Path) -> None:
    marked = np.zeros((64, 96), np.bool_)
    marked[21:43, 30:75] = True
    Image.fromarray(marked).convert("L").save(tmp_path / "a.jpg", quality=50)
    with Image.open(tmp_path / "a.jpg") as picture:
        assert np.count_nonzero(np.asarray(picture)) > 1.1 * marked.sum()
    np.testing.assert_array_equal(read_roi(tmp_path / "a.jpg", (64, 96)), marked)


def test_a_mask_that_is_no_number_is_called_that(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 9), np.nan, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UsageError, match="has pixels that are NaN, but needs numbers"):
        read_roi(tmp_path / "a.tif", (8, 9))
