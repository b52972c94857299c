import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import padim
from padim.errors import (
    MemoryLimitError,
    ModelFileError,
    PadimError,
    ParityError,
    UnknownNameError,
    UsageError,
)
from padim.scoring.calibration import Calibration
from padim.serving.recipes import Opened, Recipes, forecast_bytes
from padim.serving.station import Computing, RecipeSettings
from padim.store.database import UnavailableError

KEPT = Path(__file__).parents[1] / "kept/v1"


def note_nothing(_name: str, _opened: Opened) -> None:
    pass


def write_model(path: Path, add: float = 0.0) -> Path:
    """A model file that scores as the kept one does, and whose threshold is higher by a number."""
    model = padim.load(KEPT / "model.safetensors")
    found = model.description.calibration
    assert found is not None
    scores = found.image_score + np.float32(add)
    model.calibrated(Calibration("held-out", scores, found.pixel_score, found.pixel_count)).save(
        path
    )
    return path


def open_recipes(tmp_path: Path, *names: str, **computing: int) -> Recipes:
    settings = {}
    for name in names:
        path = tmp_path / f"{name}.safetensors"
        shutil.copy(KEPT / "model.safetensors", path)
        settings[name] = RecipeSettings(path, false_alarm_rate=0.2)
    return Recipes(
        settings,
        Computing(n_threads=1, **computing),
        tmp_path / "kept",
        note_nothing,
    )


def test_a_model_is_opened_once_and_has_reproduced_its_samples(tmp_path: Path) -> None:
    recipes = open_recipes(tmp_path, "part")
    opened = recipes.use("part")
    assert opened.n_samples == 4
    assert opened.predictor.decision is not None
    assert opened.predictor.decision.threshold.rate == 0.2
    assert recipes.use("part") is opened
    recipes.close()
    opened.lane.join(10)
    assert not opened.lane.is_running


def test_an_unknown_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"no recipe 'prat'\. Did you mean 'part'"):
        open_recipes(tmp_path, "part").use("prat")


def test_a_graph_that_says_something_else_than_its_fit_is_refused(tmp_path: Path) -> None:
    recipes = open_recipes(tmp_path, "part")
    model = padim.load(KEPT / "model.safetensors")
    model.state.samples.image_score[:] *= 1.1
    model.save(tmp_path / "part.safetensors")
    with pytest.raises(ParityError, match="differs from torch by"):
        recipes.use("part")


def test_a_model_without_a_threshold_is_refused(tmp_path: Path) -> None:
    recipes = open_recipes(tmp_path, "part")
    model = padim.load(KEPT / "model.safetensors")
    object.__setattr__(model.state, "calibration", None)
    model.save(tmp_path / "part.safetensors")
    with pytest.raises(UsageError, match="has no threshold"):
        recipes.use("part")


def test_a_stale_threshold_is_said_by_the_log_and_the_recipe(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipes = open_recipes(tmp_path, "part")
    assert not recipes["part"].warning
    recipes.use("part")
    assert not recipes["part"].warning
    assert not caplog.text
    model = padim.load(KEPT / "model.safetensors")
    model.calibrated(replace(model.description.calibration, stale=True)).save(tmp_path / "new")
    (tmp_path / "new").replace(tmp_path / "part.safetensors")
    assert recipes.follow_files() == ["part"]
    assert recipes["part"].warning.startswith("The threshold is stale: the model has changed")
    path = tmp_path / "part.safetensors"
    assert f"recipe part, {path}: {recipes['part'].warning}" in caplog.text
    assert not recipes["part"].trouble
    recipes.close()


def test_a_file_that_takes_the_place_of_another_answers_from_then_on(tmp_path: Path) -> None:
    recipes = open_recipes(tmp_path, "part", "other")
    first, other = recipes.use("part"), recipes.use("other")
    assert recipes.follow_files() == []
    write_model(tmp_path / "new", add=5).replace(tmp_path / "part.safetensors")
    assert recipes.follow_files() == ["part"]
    second = recipes.use("part")
    assert second is not first
    assert recipes["part"].previous is first
    assert recipes.use("other") is other
    assert recipes.follow_files() == []
    assert first.lane.enter()  # it lives, for a way back
    first.lane.leave()


def test_a_damaged_file_is_not_taken_and_said(tmp_path: Path) -> None:
    recipes = open_recipes(tmp_path, "part")
    first, path = recipes.use("part"), tmp_path / "part.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    assert recipes.follow_files() == []
    assert recipes.use("part") is first
    assert "part.safetensors" in recipes["part"].trouble
    path.write_bytes(content)
    assert recipes.follow_files() == ["part"]
    assert not recipes["part"].trouble


def test_a_way_back_returns_the_file_too(tmp_path: Path) -> None:
    recipes = open_recipes(tmp_path, "part")
    path = tmp_path / "part.safetensors"
    first, content = recipes.use("part"), path.read_bytes()
    with pytest.raises(UsageError, match="There is no way back"):
        recipes.go_back("part")
    write_model(path, add=5)
    second, changed = recipes.change("part"), path.read_bytes()
    assert recipes.go_back("part").lane is first.lane
    assert path.read_bytes() == content
    assert recipes.follow_files() == []
    assert recipes.go_back("part").lane is second.lane
    assert path.read_bytes() == changed
    assert recipes.follow_files() == []


def test_a_copy_that_is_another_by_now_is_no_way_back(tmp_path: Path) -> None:
    recipes = open_recipes(tmp_path, "part")
    path = tmp_path / "part.safetensors"
    first, content = recipes.use("part"), path.read_bytes()
    copy = tmp_path / "kept" / str(first.predictor.file_sha256) / "part.safetensors"
    write_model(path, add=5)
    second, changed = recipes.change("part"), path.read_bytes()
    copy.write_bytes(b"garbage")
    with pytest.raises(ModelFileError, match="is not the model that answered before"):
        recipes.go_back("part")
    assert (recipes.use("part"), path.read_bytes()) == (second, changed)
    path.write_bytes(content)  # the copy is made anew when its model answers again
    recipes.change("part")
    assert copy.read_bytes() == content
    recipes.close()


def test_a_model_that_is_being_changed_is_not_taken_twice(tmp_path: Path) -> None:
    recipes = open_recipes(tmp_path, "part")
    first, entered, go_on = recipes.use("part"), threading.Event(), threading.Event()

    def wait(_name: str, _opened: Opened) -> None:
        entered.set()
        assert go_on.wait(30)

    recipes._note = wait
    write_model(tmp_path / "part.safetensors", add=5)
    changing = threading.Thread(target=recipes.change, args=("part",))
    changing.start()
    assert entered.wait(30)
    found: list[list[str]] = []
    following = threading.Thread(target=lambda: found.append(recipes.follow_files()))
    following.start()
    following.join(0.2)
    go_on.set()
    changing.join(30), following.join(30)
    assert found == [[]]
    assert recipes["part"].previous is first


def test_a_damaged_file_is_looked_at_once_and_its_trouble_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = open_recipes(tmp_path, "part")
    recipes.use("part")
    path, tried = tmp_path / "part.safetensors", []
    path.rename(tmp_path / "old")
    path.write_bytes(b"no model")
    opening = recipes._open
    monkeypatch.setattr(recipes, "_open", lambda *words: tried.append(words) or opening(*words))
    assert recipes.follow_files() == []
    assert recipes.follow_files() == []
    assert len(tried) == 1
    assert recipes["part"].trouble
    (tmp_path / "old").replace(path)
    assert recipes.follow_files() == []
    assert not recipes["part"].trouble


def test_a_model_that_cannot_be_noted_is_not_taken(tmp_path: Path) -> None:
    recipes = open_recipes(tmp_path, "part")
    first = recipes.use("part")

    def fail(_name: str, _opened: Opened) -> None:
        raise UnavailableError("The database cannot be used.")

    recipes._note = fail
    write_model(tmp_path / "part.safetensors", add=5)
    assert recipes.follow_files() == []
    assert recipes.use("part") is first
    recipes._note = note_nothing
    assert recipes.follow_files() == ["part"]


def test_an_old_file_that_comes_back_is_taken(tmp_path: Path) -> None:
    recipes = open_recipes(tmp_path, "part")
    recipes.use("part")
    path = tmp_path / "part.safetensors"
    path.rename(tmp_path / "old")
    write_model(path, add=5)
    assert recipes.follow_files() == ["part"]
    (tmp_path / "old").replace(path)
    assert recipes.follow_files() == ["part"]


def test_a_model_is_tried_without_being_taken(tmp_path: Path) -> None:
    recipes = open_recipes(tmp_path, "part")
    first = recipes.use("part")
    recipes.try_model("part", write_model(tmp_path / "new.safetensors"))
    (tmp_path / "bad.safetensors").write_bytes(b"no model")
    with pytest.raises(ModelFileError):
        recipes.try_model("part", tmp_path / "bad.safetensors")
    assert recipes.use("part") is first


def test_the_longest_unused_goes_when_memory_is_short(tmp_path: Path) -> None:
    n_bytes = forecast_bytes(KEPT / "model.safetensors")
    recipes = open_recipes(tmp_path, "a", "b", "c", most_bytes=2 * n_bytes)
    recipes.use("a"), recipes.use("b"), recipes.use("a"), recipes.use("c")
    assert [name for name, one in recipes.items() if one.current] == ["a", "c"]
    assert recipes.use("b").n_samples == 4
    assert [name for name, one in recipes.items() if one.current] == ["b", "c"]


def test_a_model_that_has_no_room_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MemoryLimitError, match="Allow more with --memory"):
        open_recipes(tmp_path, "part", most_bytes=1000).use("part")


def test_an_update_that_has_no_room_closes_no_other_model(tmp_path: Path) -> None:
    n_bytes = forecast_bytes(KEPT / "model.safetensors")
    recipes = open_recipes(tmp_path, "a", "b", most_bytes=2 * n_bytes)
    recipes.use("a"), recipes.use("b")
    write_model(tmp_path / "a.safetensors", add=1)
    assert recipes.follow_files() == ["a"]  # whose turn "b" has made room for
    assert [name for name, one in recipes.items() if one.current] == ["a"]
    recipes.close()
    recipes = open_recipes(tmp_path, "a", "b", most_bytes=2 * n_bytes)
    recipes.use("a"), recipes.use("b")
    model = padim.load(KEPT / "model.safetensors")
    found = model.description.calibration
    assert found is not None
    scores = np.repeat(found.image_score, 1000)
    larger = Calibration("held-out", scores, found.pixel_score, found.pixel_count)
    model.calibrated(larger).save(tmp_path / "a.safetensors")
    assert recipes.follow_files() == []
    assert recipes["a"].trouble.startswith("The new model of a takes")
    assert [name for name, one in recipes.items() if one.current] == ["a", "b"]
    recipes.close()


def test_a_shadow_that_cannot_be_opened_again_keeps_no_picture_waiting(tmp_path: Path) -> None:
    n_bytes = forecast_bytes(KEPT / "model.safetensors")
    model, shadow = tmp_path / "part.safetensors", tmp_path / "shadow.safetensors"
    for path in (model, shadow):
        shutil.copy(KEPT / "model.safetensors", path)
    settings = {
        "part": RecipeSettings(model, shadow=shadow),
        "lid": RecipeSettings(model),
    }
    computing = Computing(n_threads=1, most_bytes=2 * n_bytes)
    recipes = Recipes(settings, computing, tmp_path / "kept", note_nothing)
    recipes.use("part"), recipes.use("lid")
    shadow.write_bytes(b"no model")
    assert recipes.use("part").n_samples == 4
    assert recipes["part"].shadow is None
    assert recipes["part"].trouble.startswith("The shadow scores nothing: ")
    recipes.follow_files()
    assert recipes["part"].trouble.startswith("The shadow scores nothing: ")
    with pytest.raises(PadimError, match=r"The recipe part cannot begin\. The shadow"):
        recipes.open_all()
    recipes.close()
