import json
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from PIL import Image

import padim
from padim.cli import main
from padim.errors import DatasetError, PadimError, UsageError
from padim.files import lock_file
from padim.fitting import update as learning
from padim.images.ahead import content_sha256
from padim.method.moments import Moments
from padim.method.pyramid import Level, nest
from padim.method.tiles import Tiling
from padim.model.file import load_state
from padim.model.pair import load_pair, moments_path, save_pair
from padim.model.state import ModelState
from padim.scoring.calibration import LEAVE_ONE_OUT

SIZE_PX = (64, 64)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    for i, pixels in enumerate(oracle.random_images(12, SIZE_PX)):
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return sorted(folder.iterdir())


def fitted(images: list[Path], path: Path, **options: Any) -> Path:
    settings = {"size_px": SIZE_PX, "device": "cpu", "store": "float32", "keep_moments": True}
    padim.fit(images, **settings | options).save(path, moments=True)
    return path


@pytest.fixture(scope="module")
def whole(images: list[Path], tmp_path_factory: pytest.TempPathFactory) -> ModelState:
    return load_state(fitted(images, tmp_path_factory.mktemp("whole") / "m.safetensors"))


def assert_equal(ours: ModelState, theirs: ModelState) -> None:
    assert ours.count == theirs.count
    assert ours.image_sha256 == theirs.image_sha256
    np.testing.assert_allclose(ours.eps, theirs.eps, rtol=1e-6)
    for mine, expected in zip(ours.whitening, theirs.whitening, strict=True):
        scale = expected.abs().max()
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5 * float(scale))


def test_an_updated_model_equals_a_fit_on_all(
    images: list[Path], whole: ModelState, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fitted(images[:7], tmp_path / "m.safetensors")
    assert main(["update", str(path), *map(str, images[7:])]) == 0
    assert "The threshold is stale" in capsys.readouterr().out
    state, moments = load_pair(path)
    assert_equal(state, whole)
    assert moments.count == 12
    assert state.calibration is not None
    assert state.calibration.stale
    assert main(["info", str(path)]) == 0
    assert "The threshold is stale" in capsys.readouterr().out
    model = padim.load(path)
    assert "; stale threshold " in repr(model)
    assert model.decision is not None
    stale = model.decision.threshold.warning
    assert stale.startswith("The threshold is stale: the model has changed")
    arguments = ["predict", str(path), str(images[0]), "-o", str(tmp_path / "out"), "-q"]
    assert main([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["threshold"]["warning"] == stale
    assert f"warning: {stale}\n" in err
    # The samples are of the model as it is, so it can still be exported.
    assert main(["export", str(path), "-o", str(tmp_path / "m.onnx"), "-q"]) == 0
    assert "warning: The threshold is stale" in capsys.readouterr().err
    with pytest.raises(DatasetError, match=r"knows .* already"):
        learning.update(path, images[3:5])


def test_an_update_can_set_the_threshold_anew(
    images: list[Path], whole: ModelState, tmp_path: Path
) -> None:
    path = fitted(images[:7], tmp_path / "m.safetensors")
    state = learning.update(path, images[7:], images).state
    assert state.calibration is not None
    assert whole.calibration is not None
    assert (state.calibration.source, state.calibration.stale) == (LEAVE_ONE_OUT, False)
    np.testing.assert_allclose(
        state.calibration.image_score, whole.calibration.image_score, rtol=1e-4
    )


def test_what_is_forgotten_leaves_no_trace(images: list[Path], tmp_path: Path) -> None:
    path = fitted(images, tmp_path / "m.safetensors")
    before = load_state(path)
    gone = images[:5]
    assert main(["forget", str(path), *map(str, gone), "-q"]) == 0
    state = load_state(path)
    assert_equal(state, load_state(fitted(images[5:], tmp_path / "other.safetensors")))
    assert before.samples is not None
    forgotten = [np.asarray(Image.open(path))[:, ::-1].tobytes() for path in gone]
    expected = [s.tobytes() for s in before.samples.image if s.tobytes() not in forgotten]
    assert 0 < len(expected) < len(before.samples.image)
    assert state.samples is not None
    assert [sample.tobytes() for sample in state.samples.image] == expected
    with pytest.raises(DatasetError, match="was not fitted on"):
        learning.forget(path, gone[:1])
    with pytest.raises(DatasetError, match="would have no image left"):
        learning.forget(path, images[5:])
    with pytest.raises(DatasetError, match="has one image, but needs two or more"):
        learning.forget(path, images[6:], recalibrate=images[5])
    assert load_state(path).count == len(images) - 5


def test_merged_models_equal_a_fit_on_all(
    images: list[Path], whole: ModelState, tmp_path: Path
) -> None:
    first = fitted(images[:5], tmp_path / "a.safetensors")
    second = fitted(images[5:], tmp_path / "b.safetensors")
    words = ["merge", first, second, "-o", tmp_path / "c.safetensors", "-q"]
    assert main(list(map(str, words))) == 0
    assert_equal(load_pair(tmp_path / "c.safetensors")[0], whole)
    with pytest.raises(DatasetError, match="have 5 images in common"):
        learning.merge(first, first, tmp_path / "d.safetensors")
    state = load_state(first)
    older = replace(state, encoder=replace(state.encoder, versions={"torch": "2.0"}))
    save_pair(older, load_pair(first)[1], tmp_path / "older.safetensors")
    with pytest.raises(UsageError, match=r"was fitted with .*, but .* has "):
        learning.merge(tmp_path / "older.safetensors", second, tmp_path / "d.safetensors")
    with pytest.raises(UsageError, match=r"The model was fitted with .* this installation has"):
        learning.update(tmp_path / "older.safetensors", images[6:])
    other = fitted(images[5:], tmp_path / "e.safetensors", sigma_px=3.0)
    with pytest.raises(UsageError, match="differ in their recipe"):
        learning.merge(first, other, tmp_path / "d.safetensors")
    assert not (tmp_path / "d.safetensors").exists()


def test_a_model_without_moments_does_not_learn(
    images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fitted(images[:4], tmp_path / "m.safetensors")
    moments_path(path).unlink()
    assert main(["update", str(path), str(images[5])]) == 2
    said = capsys.readouterr().err
    assert "has no moments of its own beside it" in said
    assert said.endswith("with keep_moments=True and save(path, moments=True).\n")
    fitted(images[4:], tmp_path / "n.safetensors")
    shutil.copy(moments_path(tmp_path / "n.safetensors"), moments_path(path))
    with pytest.raises(UsageError, match="has no moments of its own"):
        load_pair(path)


@pytest.mark.slow
def test_a_pair_is_always_the_old_or_the_new(whole: ModelState, tmp_path: Path) -> None:
    pyramid = nest([Level((8, 8), (0,), ((0, 1),))])
    path = tmp_path / "m.safetensors"

    def pair(version: int) -> tuple[ModelState, Moments]:
        state = replace(
            whole,
            encoder=replace(whole.encoder, tiling=Tiling.whole(pyramid, SIZE_PX)),
            recipe=replace(whole.recipe, coarse_scale=0.0),
            fusion=None,
            count=version,
            image_sha256=(f"{version:064x}",),
            mean=(torch.full((64, 2), float(version)),),
            whitening=(torch.full((64, 2, 2), float(version)),),
            eps=(0.1,),
            trunk={},
            samples=None,
            calibration=None,
        )
        mean = torch.full((64, 2), float(version), dtype=torch.float64)
        return state, Moments(version, (mean,), ((mean[:, :, None].expand(64, 2, 2),),))

    save_pair(*pair(1), path)
    generator = random.Random(0)
    seen = set()
    taken_s = 0.01  # a load and a save, on a machine as busy as it is
    for _ in range(50):
        process = os.fork()
        if not process:
            version = load_state(path).count
            while True:
                version += 1
                save_pair(*pair(version), path)
        time.sleep(generator.uniform(0, max(0.05, 8 * taken_s)))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        start = time.perf_counter()
        state, moments = load_pair(path)
        save_pair(state, moments, path)
        taken_s = time.perf_counter() - start
        assert state.count == moments.count == int(moments.mean[0][0, 0])
        seen.add(state.count)
    assert len(seen) > 12


def test_a_model_is_changed_by_one_at_a_time(images: list[Path], tmp_path: Path) -> None:
    path = fitted(images[:7], tmp_path / "m.safetensors")
    before = path.read_bytes()
    with lock_file(path):
        for change in (learning.update, learning.forget):
            with pytest.raises(PadimError, match=r"Another padim is changing .*m\.safetensors"):
                change(path, images[7:] if change is learning.update else images[:1])
    assert path.read_bytes() == before
    assert learning.update(path, images[7:]).state.count == 12


def test_a_pair_that_is_new_is_written_by_one_at_a_time(images: list[Path], tmp_path: Path) -> None:
    one = fitted(images[:3], tmp_path / "one.safetensors")
    other = fitted(images[3:6], tmp_path / "other.safetensors")
    model, path = padim.merge(one, other, tmp_path / "both"), tmp_path / "new.safetensors"
    with lock_file(path):
        with pytest.raises(PadimError, match=r"Another padim is changing .*new\.safetensors"):
            model.save(path, moments=True)
        with pytest.raises(PadimError, match=r"Another padim is changing .*new\.safetensors"):
            model.save(path)  # whose moments would be beside it
        with pytest.raises(PadimError, match=r"Another padim is changing .*new\.safetensors"):
            padim.merge(one, other, path)
        words = ["fit", images[0].parent, "-o", path, "--size-px", "64", "--keep-moments", "-q"]
        assert main(list(map(str, words))) == 1
    assert not path.exists()


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file as a program that minds no lock does."""
    other = path.with_suffix(".other")
    other.write_bytes(content)
    other.replace(path)


def test_what_was_read_is_what_is_replaced(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = fitted(images[:4], tmp_path / "m"), fitted(images[4:7], tmp_path / "o")
    theirs = other.read_bytes()

    def solve(*words: Any) -> ModelState:
        replace_file(path, theirs)
        return real(*words)

    real = learning.solve
    monkeypatch.setattr(learning, "solve", solve)
    for change in (
        lambda: learning.update(path, images[7:]),
        lambda: learning.forget(path, images[4:5]),
    ):
        with pytest.raises(PadimError, match="has changed since it was read, and nothing was"):
            change()
        assert path.read_bytes() == theirs
        shutil.copy(moments_path(other), moments_path(path))


def test_calibrate_and_export_stay_apart_from_what_changes_a_model(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, graph = fitted(images[:4], tmp_path / "m.safetensors"), tmp_path / "m.onnx"
    padim.export(path, graph)
    before = path.read_bytes(), graph.read_bytes()
    for held in (path, graph):
        with lock_file(held), pytest.raises(PadimError, match=f"Another padim is changing {held}"):
            padim.calibrate(held, images[6:])
    with lock_file(path):
        words = ["fit", images[0].parent, "-o", path, "--size", "64", "-q"]
        assert main(list(map(str, words))) == 1
        with pytest.raises(PadimError, match="Another padim is changing"):
            padim.load(path).save(path)
    with lock_file(graph), pytest.raises(PadimError, match="Another padim is changing"):
        padim.export(path, graph)
    assert (path.read_bytes(), graph.read_bytes()) == before

    for held in (path, graph):
        known = held.read_bytes()

        def touch(image: object, held: Path = held, known: bytes = known) -> str:
            replace_file(held, known)
            return content_sha256(image)  # type: ignore[arg-type]  # as it was given

        with monkeypatch.context() as patch:
            patch.setattr("padim.fitting.calibrate.content_sha256", touch)
            with pytest.raises(PadimError, match="has changed since it was read"):
                padim.calibrate(held, images[6:])
        assert held.read_bytes() == known
        assert padim.calibrate(held, images[6:]).decision is not None


def test_a_folder_that_grows_is_added_as_it_is(
    images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = fitted(images[:5], tmp_path / "m.safetensors"), images[0].parent
    with pytest.raises(DatasetError, match="leave out those that it has with --skip-known"):
        learning.update(path, folder)
    words = ["update", str(path), str(folder), "--skip-known"]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["count"], document["n_known"]) == (12, 5)
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert main(words) == 0
    assert capsys.readouterr().out.endswith("knows 12 images already. Nothing was changed.\n")
    assert learning.update(path, folder, skip_known=True).state.count == 12
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_images_unlike_those_of_the_model_are_said_when_they_are_added(
    images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fitted(images[:5], tmp_path / "m.safetensors")
    Image.fromarray(np.full(SIZE_PX, 300, np.uint16)).save(tmp_path / "deep.png")
    assert main(["update", str(path), str(images[5]), "-q"]) == 0
    assert not capsys.readouterr().err
    assert main(["update", str(path), str(images[6]), str(tmp_path / "deep.png"), "-q"]) == 0
    assert "1 of 2 images is not like those of the fit: 1 of 16-bit grey" in capsys.readouterr().err


def test_a_model_takes_the_place_of_nothing_else(
    images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fitted(images[:4], tmp_path / "m.safetensors")
    picture = Path(shutil.copy(images[0], tmp_path / "a.png"))
    before = picture.read_bytes(), moments_path(path).read_bytes()
    model = padim.load(path)
    assert isinstance(model, padim.PaDiM)
    for taken, words in ((picture, "no model file"), (moments_path(path), "name of moments")):
        assert main(["fit", str(images[0].parent), "-o", str(taken)]) == 2
        assert words in capsys.readouterr().err
        with pytest.raises(UsageError, match=words):
            model.save(taken)
        with pytest.raises(UsageError, match=words):
            learning.merge(path, path, taken)
    assert (picture.read_bytes(), moments_path(path).read_bytes()) == before
    (tmp_path / "cut").write_bytes(path.read_bytes()[:99])
    model.save(tmp_path / "cut")
    assert load_state(tmp_path / "cut").count == 4


def test_a_fit_leaves_no_moments_of_another_model(images: list[Path], tmp_path: Path) -> None:
    path = fitted(images[:4], tmp_path / "m.safetensors")
    kept = moments_path(path)
    padim.fit(images[:4], size_px=SIZE_PX, device="cpu", store="float32").save(path)
    assert load_pair(path)[1].count == 4  # they are of this model as well
    words = ["fit", str(images[0].parent), "-o", str(path), "--size", "64", "-q"]
    assert main(words) == 0
    assert not kept.exists()
    for other in (b"notes of another program", path.read_bytes()):
        kept.write_bytes(other)
        assert main(words) == 0
        assert kept.read_bytes() == other


def test_a_merge_does_not_depend_on_who_is_first(images: list[Path], tmp_path: Path) -> None:
    a, b = fitted(images[:5], tmp_path / "a"), fitted(images[5:], tmp_path / "b")
    for first, second, out in ((a, b, "ab"), (b, a, "ba")):
        learning.merge(first, second, tmp_path / out)
    for path in (Path, moments_path):
        assert path(tmp_path / "ab").read_bytes() == path(tmp_path / "ba").read_bytes()


def test_a_graph_learns_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.onnx").touch()
    assert main(["update", str(tmp_path / "m.onnx"), str(tmp_path / "m.onnx")]) == 2
    assert "is a graph, which learns nothing more" in capsys.readouterr().err
