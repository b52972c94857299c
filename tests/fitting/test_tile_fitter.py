import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import padim
from padim.backbones import backbone
from padim.cli import main
from padim.errors import ModelFileError, ModelFileHashError, UsageError
from padim.features.features import TiledFeatures
from padim.files import sha256
from padim.fitting.fit import build_model
from padim.fitting.fitter import Fitter
from padim.images.roi import Roi
from padim.method.pyramid import build_pyramid
from padim.method.tiles import plan_tiles
from padim.model.file import load_state
from padim.model.padim import PaDiM
from padim.model.scorer import finish_of, scorer_of
from padim.model.torch_score import TileScore
from padim.recipes import RECIPES
from padim.tensors.file_tensor import FileTensor, raw_bytes, write_tensors
from padim.tensors.reading import open_tensors

SIZE_PX = (96, 128)
TILED = {"size_px": SIZE_PX, "tile_px": 64, "tile_overlap_px": 32}


def tiled_fitter(**options: object) -> Fitter:
    return oracle.small_fitter(**(TILED | options))


@pytest.fixture(scope="module")
def model() -> PaDiM:
    fitter = tiled_fitter()
    return build_model(fitter, fitter.fit(list(oracle.random_images(5, SIZE_PX))))


@given(
    grid=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    side=st.integers(1, 8),
    data=st.data(),
    seed=st.none() | st.integers(0, 99),
)
def test_each_cell_is_answered_for_once(
    grid: tuple[int, int], side: int, data: st.DataObject, seed: int | None
) -> None:
    overlap = data.draw(st.integers(0, side - 1))
    size_px = grid[0] * 16, grid[1] * 16
    roi, wanted = None, np.ones(grid, np.bool_)
    if seed is not None:
        wanted = np.random.default_rng(seed).random(grid) < 0.3
        wanted[0, 0] = True
        roi = Roi.of(wanted.repeat(16, 0).repeat(16, 1), lambda mask: mask)
    pyramid = build_pyramid(backbone("efficientnet_lite0"), size_px)
    settings = replace(
        RECIPES["standard"],
        size_px=size_px,
        tile_px=side * 16,
        tile_overlap_px=overlap * 16,
    )
    tiling = plan_tiles(pyramid, settings, None if roi is None else roi.find_cells)
    found = []
    for tile in tiling.tiles:
        height, width = tiling.window_px
        assert 0 <= tile.top <= size_px[0] - height
        assert 0 <= tile.left <= size_px[1] - width
        own = tile.pyramid.order[-1]
        y, x = np.divmod(own, tile.pyramid.levels[-1].grid[1])
        found.append((y + tile.top // 4) * (grid[1] * 4) + x + tile.left // 4)
    np.testing.assert_array_equal(np.concatenate(found), tiling.pyramid.order[-1])
    fine = wanted.repeat(4, 0).repeat(4, 1)
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.flatnonzero(fine))


def test_too_many_tiles_are_refused() -> None:
    pyramid = build_pyramid(backbone("efficientnet_lite0"), (8192, 8192))
    recipe = replace(RECIPES["standard"], size_px=(8192, 8192), tile_px=64, tile_overlap_px=0)
    with pytest.raises(UsageError, match="There would be 16384 tiles, but may be 4096"):
        plan_tiles(pyramid, recipe, None)


def test_neighbours_meet_in_the_middle_of_what_both_see() -> None:
    tiling = tiled_fitter().encoder.tiling
    assert [(tile.top, tile.left) for tile in tiling.tiles] == [
        (top, left) for top in (0, 32) for left in (0, 32, 64)
    ]
    # Of 4 x 4 coarse cells: three columns at the edges, two in the middle.
    assert [tile.pyramid.n_coarse_cells for tile in tiling.tiles] == [9, 6, 9] * 2


def test_one_tile_equals_none() -> None:
    images = list(oracle.random_images(4, (64, 64)))
    plain = oracle.small_fitter().fit(images).state
    tiled = oracle.small_fitter(tile_px=64, tile_overlap_px=32).fit(images).state
    for mine, theirs in zip(tiled.whitening, plain.whitening, strict=True):
        assert isinstance(mine, Tensor)
        assert isinstance(theirs, Tensor)
        assert torch.equal(mine, theirs)
    assert tiled.calibration is not None
    assert plain.calibration is not None
    np.testing.assert_array_equal(tiled.calibration.image_score, plain.calibration.image_score)


def test_tile_by_tile_scores_as_all_at_once(model: PaDiM) -> None:
    fitter = tiled_fitter()
    images = oracle.random_images(3, SIZE_PX, seed=5)
    assert isinstance(fitter.features, TiledFeatures)
    found = TileScore(model.state, fitter.features, torch.device("cpu"))(images)
    with torch.inference_mode():
        expected = scorer_of(model.state, fitter.features)(torch.from_numpy(images))
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs.numpy(), rtol=2e-5)


def test_each_place_has_the_gaussian_of_the_tile_that_answers_for_it(model: PaDiM) -> None:
    fitter = tiled_fitter(eps=0.01, eps_rule="absolute", store="float32", calibrate=False)
    images = oracle.random_images(5, SIZE_PX)
    state = fitter.fit(list(images)).state
    part = oracle.small_fitter(
        size_px=(64, 64), eps=0.01, eps_rule="absolute", store="float32", calibrate=False
    )
    for tile, spans in fitter.encoder.tiling.spans():
        crops = images[:, tile.top : tile.top + 64, tile.left : tile.left + 64]
        alone = part.fit(list(crops)).state
        for i, (rows, span) in enumerate(zip(state.whitening, spans, strict=True)):
            own = replace(alone.pyramid, coarse_cells=tile.pyramid.coarse_cells).order[i]
            place = np.argsort(alone.pyramid.order[i])[own]
            torch.testing.assert_close(rows[span], alone.whitening[i][torch.as_tensor(place)])


def test_a_relative_eps_is_that_of_the_whole_image() -> None:
    images = list(oracle.random_images(6, SIZE_PX))
    whole = oracle.small_fitter(size_px=SIZE_PX, calibrate=False).fit(images).state
    tiled = tiled_fitter(calibrate=False).fit(images).state
    np.testing.assert_allclose(tiled.eps, whole.eps, rtol=0.1)
    assert len(set(tiled.eps)) == len(tiled.eps)


@pytest.mark.parametrize("kept_feature_bytes", [0, 1 << 28])
def test_leave_one_out_is_that_of_refits(kept_feature_bytes: int) -> None:
    images = list(oracle.random_images(4, SIZE_PX))
    fitter = replace(
        tiled_fitter(eps=0.01, eps_rule="absolute", store="float32"),
        kept_feature_bytes=kept_feature_bytes,
    )
    calibration = fitter.fit(images).state.calibration
    assert calibration is not None
    refits = [
        build_model(fitter, fitter.fit(images[:i] + images[i + 1 :])).predict(images[i]).score
        for i in range(4)
    ]
    np.testing.assert_allclose(calibration.image_score, sorted(refits), rtol=1e-4)
    assert calibration.pixel_count.sum() == 4 * SIZE_PX[0] * SIZE_PX[1]


def test_a_defect_on_a_seam_scores_as_one_inside() -> None:
    size_px = (192, 320)
    images = list(oracle.random_images(6, size_px))
    options = {"size_px": size_px, "eps": 0.01, "eps_rule": "absolute", "calibrate": False}
    whole, tiled = (
        build_model(fitter, fitter.fit(images))
        for fitter in (
            oracle.small_fitter(**options),
            oracle.small_fitter(**options, tile_px=192),
        )
    )
    assert [tile.left for tile in tiled.state.tiling.tiles] == [0, 64, 128]
    seams = [128, 192]
    defective = []
    for x in (*seams, 40, 160, 260):
        image = oracle.random_images(1, size_px, seed=50)[0].copy()
        image[84:108, x - 12 : x + 12] = (255, 0, 0)
        defective.append(image)
    for mine, theirs in zip(tiled.predict(defective), whole.predict(defective), strict=True):
        assert mine.score == pytest.approx(theirs.score, rel=0.05)
        assert mine.anomaly_map.max() == pytest.approx(theirs.anomaly_map.max(), rel=0.05)


def test_a_model_of_tiles_is_read_piece_by_piece(model: PaDiM, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model.save(path)
    state = load_state(path)
    assert all(isinstance(rows, FileTensor) for rows in state.whitening)
    assert state.pyramid == model.state.pyramid
    images = list(oracle.random_images(2, SIZE_PX, seed=8))
    for mine, theirs in zip(padim.load(path).predict(images), model.predict(images), strict=True):
        np.testing.assert_array_equal(mine.anomaly_map, theirs.anomaly_map)
    loaded = padim.load(path, n_calls=3)
    assert loaded.n_calls == 1  # rows would be there three times
    model.save(path)
    with pytest.raises(ModelFileError, match="has changed since it was loaded"):
        loaded.predict(images)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFileHashError):
        load_state(path)


def test_the_temporary_files_go_with_the_model(tmp_path: Path) -> None:
    fitter = replace(tiled_fitter(calibrate=False), scratch=tmp_path)
    fitted = fitter.fit(list(oracle.random_images(2, SIZE_PX)))
    assert list(tmp_path.iterdir())
    del fitted
    assert not list(tmp_path.iterdir())


def test_unreadable_images_are_left_out(tmp_path: Path) -> None:
    pixels = list(oracle.random_images(3, SIZE_PX))
    (tmp_path / "1.png").write_bytes(b"none")
    given = [pixels[0], f"{tmp_path}/./1.png", pixels[1], Image.new("F", (8, 8)), pixels[2]]
    seen: list[Path | str] = []
    fitted = tiled_fitter(calibrate=False).fit(
        given, unreadable=lambda error: seen.append(error.path)
    )
    assert len(seen) == 2
    assert fitted.state.count == 3


def test_the_hottest_pixels_are_those_of_a_tile_whatever_the_region() -> None:
    inside = np.zeros(SIZE_PX, np.bool_)
    inside[:64, :64] = True
    for roi, n_counted in ((None, SIZE_PX[0] * SIZE_PX[1]), (inside, 64 * 64)):
        state = tiled_fitter(roi=roi, calibrate=False).fit(list(oracle.random_images(2, SIZE_PX)))
        postprocess = finish_of(state.state).postprocess
        assert postprocess.n_counted == n_counted
        assert postprocess.score_fraction * n_counted == pytest.approx(0.01 * 64 * 64)


def test_a_failed_fit_leaves_nothing(tmp_path: Path) -> None:
    fitter = tiled_fitter(eps=1e-30, eps_rule="absolute", scratch=tmp_path / "new")
    with pytest.raises(UsageError):
        fitter.fit(list(oracle.random_images(2, SIZE_PX)))
    assert not list(tmp_path.iterdir())


def test_fit_takes_tiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = tmp_path / "good"
    good.mkdir()
    for i, image in enumerate(oracle.random_images(4, (100, 130))):
        Image.fromarray(image).save(good / f"{i}.png")
    model, out = tmp_path / "m.safetensors", tmp_path / "out"
    words = ["fit", str(good), "-o", str(model), "--tile-px", "64", "--tile-overlap-px", "32"]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["model_bytes"] == pytest.approx(document["forecast_model_bytes"], rel=0.02)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".padim-")]
    assert main(["info", str(model)]) == 0
    said = capsys.readouterr().out
    assert "6 tiles of 64x64 px" in said
    assert "96x128 px, bilinear" in said
    assert main(["predict", str(model), str(good), "-o", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_images"] == 4
    assert main(["export", str(model), "-o", str(tmp_path / "m.onnx")]) == 2
    assert "tile by tile" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tile_px": 60}, "The tile is 60 px, but needs to be a multiple of 16 px. Try 64"),
        ({"tile_overlap_px": 8}, "The overlap of tiles is 8 px.*Try 0"),
        ({"tile_px": 0}, "The tile is 0 px.*Try 64"),
        (
            {"tile_overlap_px": 64},
            "Tiles of 64 px cannot overlap by 64 px. Set tile_overlap_px to 16, say",
        ),
        ({"keep_moments": True}, "keeps no moments"),
        ({"recipe": "reference", "size_px": (96, 96)}, "cuts the middle out"),
        ({"tile_px": None}, "An overlap needs tiles"),
        ({"drop_outliers": 0.01}, "can drop no outliers"),
    ],
)
def test_impossible_tiles_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        oracle.small_fitter(**(TILED | options))


@given(
    shape=st.lists(st.integers(0, 5), max_size=3),
    dtype=st.sampled_from([torch.float16, torch.float32, torch.float64, torch.uint8, torch.int64]),
)
def test_files_are_read_by_safetensors_itself(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], dtype: torch.dtype
) -> None:
    path = tmp_path_factory.mktemp("file") / "t.safetensors"
    tensors = {"b": torch.randint(0, 9, shape).to(dtype), "a": torch.arange(3.0)}
    write_tensors(tensors, path, {"said": "é"})
    read = load_file(path)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
    with open_tensors(path) as file:
        content = file.read(left=("a",))
    assert torch.equal(content.tensors["b"], tensors["b"])
    assert torch.equal(content.tensors["a"][1:3], torch.tensor([1.0, 2.0]))
    assert content.sha256() == sha256(path)


def test_the_bytes_of_one_value_are_read_whatever_its_stride() -> None:
    column = torch.arange(6, dtype=torch.float32).reshape(3, 2)[:, 1]
    for n_values in (1, 3):
        expected = np.array([1, 3, 5], np.float32)[:n_values].tobytes()
        assert raw_bytes(column[:n_values]).tobytes() == expected
