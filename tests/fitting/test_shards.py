"""A fit that is spread: the same bytes however it is done, as one machine would have it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import make_category, striped

import padim
from padim.cli import main
from padim.errors import DatasetError, UsageError
from padim.files import sha256
from padim.fitting import shard_images, shards
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings
from padim.model.shard_file import Shard, save_look, save_scores

SMALL = ("--size-px", "64", "-q")
N_SHARDS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty good images, one of which does not belong."""
    folder = tmp_path_factory.mktemp("good")
    for i in range(19):
        striped(i).save(folder / f"{i:02}.png")
    Image.fromarray(np.full((64, 64, 3), 250, np.uint8)).save(folder / "odd.png")
    return folder


def run(*words: object, status: int = 0) -> None:
    assert main([str(word) for word in words]) == status


def look(folder: Path, to: Path, *more: object) -> list[Path]:
    """The first look at each shard, the last first."""
    files = []
    for number in range(N_SHARDS, 0, -1):
        out = to / f"part.{number}.moments.safetensors"
        run("fit", folder, "--shard", f"{number}/{N_SHARDS}", "-o", out, *SMALL, *more)
        files.append(out)
    return files


def look_again(folder: Path, model: Path, to: Path, *more: object) -> list[Path]:
    files = []
    for number in (2, 3, 1):
        out = to / f"part.{number}.scores.safetensors"
        shard = ("--shard", f"{number}/{N_SHARDS}", "--second-look", model)
        run("fit", folder, *shard, "-o", out, "-q", *more)
        files.append(out)
    return files


@pytest.fixture(scope="module")
def first(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return look(folder, tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def merged(first: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of all shards, without a threshold."""
    out = tmp_path_factory.mktemp("merged") / "part.safetensors"
    run("merge", *first, "-o", out, "-q")
    return out


def test_each_image_is_in_one_shard(folder: Path) -> None:
    images = sorted(folder.iterdir())
    chosen = [shard_images.choose_images(images, Shard(n, N_SHARDS)) for n in (1, 2, 3)]
    assert sorted(path for one in chosen for path in one) == images
    for one in chosen:
        assert list(one.values()) == sorted(one.values())


def test_a_spread_fit_is_the_fit_of_one_machine(folder: Path, merged: Path, tmp_path: Path) -> None:
    scores = look_again(folder, merged, tmp_path)
    out = tmp_path / "part.safetensors"
    run("merge", merged, *scores, "-o", out, "-q")
    expected = padim.fit(folder, size_px=(64, 64))
    found = padim.load(out, engine="torch")
    assert found.state.image_sha256 == expected.state.image_sha256
    assert found.state.images == expected.state.images
    assert found.state.samples is not None
    assert expected.state.samples is not None
    np.testing.assert_array_equal(found.state.samples.image, expected.state.samples.image)
    for ours, theirs in zip(found.state.mean, expected.state.mean, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(found.state.whitening, expected.state.whitening, strict=True):
        np.testing.assert_allclose(ours[:].float(), theirs[:].float(), rtol=2e-3, atol=1e-4)
    ours, theirs = found.state.calibration, expected.state.calibration
    assert ours is not None
    assert theirs is not None
    assert ours.source == theirs.source
    np.testing.assert_allclose(ours.image_score, theirs.image_score, rtol=1e-5)
    assert ours.reference is not None
    assert theirs.reference is not None
    np.testing.assert_allclose(ours.reference.camera, theirs.reference.camera, rtol=1e-6)
    np.testing.assert_allclose(
        ours.reference.level_scores, theirs.reference.level_scores, rtol=1e-4
    )
    picture = folder / "odd.png"
    assert found.predict(picture).score == pytest.approx(expected.predict(picture).score, rel=1e-4)


def test_the_bytes_do_not_depend_on_who_finishes_first(
    folder: Path, first: list[Path], merged: Path, tmp_path: Path
) -> None:
    out = tmp_path / "part.safetensors"
    run("merge", *reversed(first), "-o", out, "-q")
    assert out.read_bytes() == merged.read_bytes()
    moments = "part.moments.safetensors"
    assert (tmp_path / moments).read_bytes() == merged.with_name(moments).read_bytes()
    scores = look_again(folder, merged, tmp_path)
    contents = set()
    for order in (scores, scores[::-1], scores[1:] + scores[:1]):
        run("merge", *order, merged, "-o", out, "-q")
        contents.add(out.read_bytes())
    assert len(contents) == 1


def test_outliers_are_listed_and_dropped_as_in_a_single_fit(
    folder: Path, merged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "part.safetensors"
    for name in ("part.safetensors", "part.moments.safetensors"):
        shutil.copy(merged.with_name(name), tmp_path / name)
    scores = look_again(folder, model, tmp_path, "--drop-outliers", "0.005")
    capsys.readouterr()
    run("merge", model, *scores, "-o", model, "--json", "-q")
    said = json.loads(capsys.readouterr().out)
    single = padim.fit(folder, size_px=(64, 64), drop_outliers=0.005)
    assert str(folder / "odd.png") in said["dropped"]
    assert said["n_train"] == single.state.count == 20 - len(said["dropped"])
    scores = look_again(folder, model, tmp_path)
    run("merge", model, *scores, "-o", model, "-q")
    found, expected = padim.load(model, engine="torch").state, single.state
    assert found.image_sha256 == expected.image_sha256
    assert found.calibration is not None
    assert expected.calibration is not None
    np.testing.assert_allclose(
        found.calibration.image_score, expected.calibration.image_score, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--shard", "3"), "needs to be such as 3/16"),
        (("--shard", "4/3"), "needs to be one of 1/N to N/N"),
        (("--shard", "0/3"), "needs to be one of 1/N to N/N"),
        (("--shard", "1/3", "--white", "auto"), "Give --white as a number"),
        (("--second-look", "none.safetensors"), "Leave it out"),
        (("--hashes", "none.txt"), "Name one with --shard"),
        (("--shard", "1/3", "--hashes", "none.txt"), "none.txt"),
        (("--shard", "1/3", "--drop-outliers", "0.01"), "--drop-outliers cannot be used here"),
        (("--shard", "1/3", "--no-calibrate"), "--calibrate cannot be used here"),
        (("--shard", "1/3", "--second-look", "none.safetensors"), "takes it from the model"),
    ],
)
def test_what_is_no_shard_is_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple, said: str
) -> None:
    run("fit", folder, "-o", tmp_path / "a.safetensors", *SMALL, *words, status=2)
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert said in told
    assert list(tmp_path.iterdir()) == []


def test_a_shard_without_an_image_is_told(tmp_path: Path) -> None:
    striped(0).save(tmp_path / "a.png")
    whose = [n for n in (1, 2) if _has(tmp_path / "a.png", Shard(n, 2))]
    (other,) = {1, 2} - set(whose)
    with pytest.raises(DatasetError, match=f"Shard {other}/2 has none of the 1 image"):
        shard_images.choose_images([tmp_path / "a.png"], Shard(other, 2))


def test_a_list_of_sha256_spares_reading_all(folder: Path, tmp_path: Path) -> None:
    images = sorted(folder.iterdir())
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{sha256(path)}  {path}\n" for path in images))
    known = shard_images.read_hashes(listed)
    for number in (1, 2):
        shard = Shard(number, 2)
        assert shard_images.choose_images(images, shard, known) == shard_images.choose_images(
            images, shard
        )
    with pytest.raises(DatasetError, match=r"new\.png is not in the list"):
        shard_images.choose_images([*images, tmp_path / "new.png"], Shard(1, 2), known)
    wrong = dict.fromkeys(images, "0" * 64)
    fitter = prepare(FitSettings(size_px=(64, 64)))
    chosen = shard_images.choose_images(images, Shard(1, 2), wrong)
    with pytest.raises(DatasetError, match="has another sha256 than before or in the list"):
        shards.look_at_shard(fitter, chosen, Shard(1, 2))
    listed.write_text("no list\n")
    with pytest.raises(DatasetError, match=r"line 1, is none of sha256sum"):
        shard_images.read_hashes(listed)


def _has(path: Path, shard: Shard) -> bool:
    return bool(path.is_file() and shard.has(sha256(path)))


def test_a_shard_that_is_missing_or_there_twice_is_named(
    first: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "part.safetensors"
    run("merge", *first[1:], "-o", out, "-q", status=1)
    assert "The shards 3/3 are missing" in capsys.readouterr().err
    twice = shutil.copy(first[0], tmp_path / "again.safetensors")
    run("merge", *first, twice, "-o", out, "-q", status=1)
    assert "are both shard 3/3" in capsys.readouterr().err
    assert not out.exists()


def test_shards_that_do_not_fit_together_are_refused_by_name(
    folder: Path, first: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, other = tmp_path / "part.safetensors", tmp_path / "other.safetensors"
    shard = ("--shard", "3/3", "-o", other, "-q")
    for words, said in (
        (("--size-px", "64", "--sigma-px", "3"), "differ in their recipe"),
        (("--size-px", "64", "--store", "float32"), "differ in their choices"),
        (("--size-px", "64", "--no-keep-samples"), "differ in their choices"),
        (("--size-px", "64", "--backbone", "efficientnet_lite1"), "differ in their backbone"),
    ):
        run("fit", folder, *words, *shard)
        run("merge", other, *first[1:], "-o", out, "-q", status=2)
        assert said in capsys.readouterr().err
    run("fit", folder, "--size-px", "64", "--shard", "2/2", "-o", other, "-q")
    run("merge", other, *first, "-o", out, "-q", status=1)
    assert "Split all alike" in capsys.readouterr().err


def test_a_half_written_shard_is_not_taken(
    first: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(first[0].read_bytes()[:-1000])
    run("merge", cut, *first[1:], "-o", tmp_path / "part.safetensors", "-q", status=1)
    assert "cut.safetensors is no whole model file" in capsys.readouterr().err


def test_a_second_look_under_another_model_is_refused(
    folder: Path, merged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = look_again(folder, merged, tmp_path)
    other = tmp_path / "other.safetensors"
    run("fit", folder, "-o", other, "--keep-moments", *SMALL)
    run("merge", other, *scores, "-o", tmp_path / "part.safetensors", "-q", status=1)
    assert "is of another model" in capsys.readouterr().err


def test_a_folder_that_has_changed_is_noticed(
    folder: Path, merged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = shutil.copytree(folder, tmp_path / "good")
    striped(99).save(changed / "new.png")
    new = next(n for n in (1, 2, 3) if _has(changed / "new.png", Shard(n, 3)))
    words = ("--second-look", merged, "-o", tmp_path / "scores")
    run("fit", changed, "--shard", f"{new}/3", *words)
    assert "1 image is not in" in capsys.readouterr().out
    gone = next(n for n in (1, 2, 3) if _has(changed / "03.png", Shard(n, 3)))
    (changed / "03.png").unlink()
    run("fit", changed, "--shard", f"{gone}/3", *words, "-q", status=1)
    assert "which is not there any more" in capsys.readouterr().err


def test_nothing_that_is_read_is_written_over(
    folder: Path, first: list[Path], merged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = merged.read_bytes()
    look = ("--shard", "1/3", "--second-look", merged, "-o")
    for out in (merged, merged.with_name("part.moments.safetensors")):
        run("fit", folder, *look, out, "-q", status=2)
        assert "would be written over" in capsys.readouterr().err
    whole = first[0].with_name("part.3.safetensors")
    run("merge", *first, "-o", whole, "-q", status=2)
    assert "would be written over" in capsys.readouterr().err
    moments = merged.with_name("part.moments.safetensors")
    run("merge", *first, moments, "-o", whole.with_name("a.safetensors"), "-q", status=2)
    assert "not of a shard. Leave it out" in capsys.readouterr().err
    assert merged.read_bytes() == before


def test_a_shard_whose_images_are_all_gone_is_left_out(folder: Path, tmp_path: Path) -> None:
    """Each of many shards has an image or two, and that of one was an outlier."""
    images = sorted(folder.iterdir())
    n_shards = next(
        n
        for n in range(2, 200)
        if [path for path in images if _number(path, n) == _number(folder / "odd.png", n)]
        == [folder / "odd.png"]
    )
    alone = _number(folder / "odd.png", n_shards)
    model = tmp_path / "part.safetensors"
    padim.fit(images, size_px=(64, 64), keep_moments=True).save(model, moments=True)
    padim.forget(model, [folder / "odd.png"])
    files = []
    second = shards.SecondLook.open(model)
    for number in {_number(path, n_shards) for path in images}:
        shard = Shard(number, n_shards)
        chosen = shard_images.choose_images(images, shard)
        if number == alone:
            with pytest.raises(DatasetError, match="Merge the others without it"):
                second.look(chosen, shard)
            continue
        files.append(tmp_path / f"{number}.scores")
        save_scores(second.look(chosen, shard), second.state, files[-1])
    fitted = shards.merge_scores(model, files, tmp_path / "whole.safetensors")
    assert fitted.state.calibration is not None
    assert fitted.state.calibration.count == 19
    with pytest.raises(DatasetError, match="missing"):
        shards.merge_scores(model, files[1:], tmp_path / "whole.safetensors")


def _number(path: Path, n_shards: int) -> int:
    (number,) = (n for n in range(1, n_shards + 1) if Shard(n, n_shards).has(sha256(path)))
    return number


def test_tiles_are_not_spread(tmp_path: Path) -> None:
    category = make_category(tmp_path / "stripes")
    images = sorted((category / "train/good").iterdir())
    fitter = prepare(FitSettings(size_px=(128, 128), tile_px=64, tile_overlap_px=0))
    chosen = shard_images.choose_images(images, Shard(1, 1))
    with pytest.raises(UsageError, match="tile by tile keeps no moments"):
        shards.look_at_shard(fitter, chosen, Shard(1, 1))


def test_files_of_shards_are_the_same_bytes_again(folder: Path, tmp_path: Path) -> None:
    fitter = prepare(FitSettings(size_px=(64, 64)))
    chosen = shard_images.choose_images(sorted(folder.iterdir()), Shard(1, 2))
    for name in ("a", "b"):
        save_look(shards.look_at_shard(fitter, chosen, Shard(1, 2)), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.slow
def test_the_script_for_slurm_fits_as_an_array_does(folder: Path, tmp_path: Path) -> None:
    """With `bash` in the place of Slurm, which sets the same variables."""
    script = Path(__file__).parents[2] / "docs/examples/shards.slurm"
    shutil.copytree(folder, tmp_path / "good_parts")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for words in (
        ("good_parts",),
        ("merge",),
        ("good_parts", "part.safetensors"),
        ("merge", "part.safetensors"),
    ):
        for k in range(1, 1 + (1 if words[0] == "merge" else 2)):
            array = {"SLURM_ARRAY_TASK_ID": str(k), "SLURM_ARRAY_TASK_COUNT": "2"}
            environment = os.environ | array | {"PATH": path}
            done = subprocess.run(
                ["bash", str(script), *words],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
    calibration = padim.load(tmp_path / "part.safetensors", engine="torch").state.calibration
    assert calibration is not None
    assert calibration.count == 20
