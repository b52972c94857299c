"""The choices of a fit as a file, and those that a model was fitted with."""

import os
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest

from padim.errors import PathMissingError, UsageError
from padim.fitting.config import choices_of, format_choices, read_choices
from padim.fitting.settings import FitChoices, FitSettings, settings_with

EVERY: FitChoices = {
    "roi": "part.png",
    "white": 4095,
    "page": 2,
    "backbone": "resnet18",
    "recipe": "fast",
    "size_px": (64, 96),
    "taps": (1, 2),
    "dims": "all",
    "dims_seed": 3,
    "eps": 1e-05,
    "eps_rule": "absolute",
    "tile_px": 64,
    "tile_overlap_px": 32,
    "weights": 'a "b" \\ é.safetensors',
    "engine": "torch",
    "device": "cpu",
    "precision": "bfloat16",
    "mirrored": True,
    "coarse_scale": 0.5,
    "sigma_px": 2,
    "score_fraction": 0.1 + 0.2,
    "calibrate": False,
    "drop_outliers": 0.005,
    "max_memory": "2GiB",
    "n_batch": 3,
    "n_threads": 1,
    "store": "float32",
    "include_backbone": True,
    "keep_moments": True,
    "keep_samples": False,
}


def written(folder: Path, text: str) -> Path:
    path = folder / "part.toml"
    path.write_text(text, "utf-8")
    return path


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert list(EVERY) == list(vars(FitSettings()))
    text = format_choices(EVERY)
    read = read_choices(written(tmp_path, text))
    files = FitChoices(roi=tmp_path / str(EVERY["roi"]), weights=tmp_path / str(EVERY["weights"]))
    assert read == EVERY | files
    assert type(read["sigma_px"]) is int  # 2 and 2.0 are not the same bytes in a model
    assert settings_with(**read) == settings_with(**(EVERY | files))


def test_nothing_chosen_is_an_empty_file(tmp_path: Path) -> None:
    assert format_choices({}) == ""
    assert read_choices(written(tmp_path, "# of the line in hall 3\n")) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sigma = 2", r"part\.toml: There is no setting sigma\. Did you mean sigma_px\?$"),
        (
            "eps = 'much'",
            r"part\.toml, eps: eps is 'much', but needs to be a number\. Try 0\.01\.$",
        ),
        ("eps = 0", r"part\.toml, eps: eps is 0, but needs to be above 0 and below "),
        ("n_batch = 0", r"part\.toml, n_batch: The batch size is 0"),
        ("calibrate = 1", r"part\.toml, calibrate: calibrate is 1, but needs to be true or false"),
        ("size_px = 2.5", r"part\.toml, size_px: .* such as \[256, 512\]\.$"),
        ("size_px = 'big'", r"part\.toml, size_px: The size is 'big', but needs to be such as 256"),
        ("size_px = [256, 'x']", r"part\.toml, size_px: "),
        ("roi = 3", r"part\.toml, roi: "),
        ("roi = ''", r"part\.toml, roi: there is no file of an empty name"),
        ("store = 'float8'", r"part\.toml, store: There is no store 'float8'"),
        ("[eps]\nvalue = 1", r"part\.toml, eps: eps is \{'value': 1\}"),
        ("eps = 2026-11-26", r"part\.toml, eps: eps is .* needs to be a number"),
        ("eps = " + "9" * 400, r"part\.toml, eps: eps is inf, but needs to be above 0"),
        ("n_batch = -1" + "0" * 400, r"part\.toml, n_batch: The batch size is -inf"),
        ("eps = " + "9" * 5000, r"part\.toml is no TOML: Exceeds the limit"),
        ("eps = " + "[" * 5000 + "]" * 5000, r"part\.toml is no TOML: .*recursion"),
        ("eps: 1", r"part\.toml is no TOML: .*Write lines such as eps = 0\.01\.$"),
    ],
)
def test_a_wrong_file_names_itself_and_the_key(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        read_choices(written(tmp_path, text))
    assert "\n" not in str(raised.value)


def test_a_mark_of_utf_8_at_the_start_is_read_over(tmp_path: Path) -> None:
    (tmp_path / "part.toml").write_bytes(b"\xef\xbb\xbfeps = 0.02\r\n")
    assert read_choices(tmp_path / "part.toml") == {"eps": 0.02}


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"part\.toml has more than 1 MiB"):
        read_choices(written(tmp_path, "#" * (1 << 20) + "\n"))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "part.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is no TOML"):
        read_choices(tmp_path / "part.toml")
    with pytest.raises(PathMissingError, match="does not exist"):
        read_choices(tmp_path / "other.toml")
    with pytest.raises(PathMissingError, match="is a folder"):
        read_choices(tmp_path)
    with pytest.raises(UsageError, match=r"is a device or a pipe, but needs to be a file\."):
        read_choices(Path(os.devnull))


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"dims": 50, "dims_seed": 7, "include_backbone": False, "keep_samples": False},
        {
            "recipe": "fast",
            "store": "float32",
            "calibrate": False,
            "sigma_px": 2,
            "engine": "torch",
        },
        {"size_px": (96, 128), "tile_px": 64, "tile_overlap_px": 32, "engine": "torch"},
        {
            "taps": (1, 4),
            "eps": 0.5,
            "eps_rule": "absolute",
            "score_fraction": 0.0,
            "engine": "torch",
        },
    ],
)
def test_a_model_says_what_fits_it_again(choices: FitChoices) -> None:
    images = list(oracle.random_images(3, (96, 128)))
    state = oracle.small_fitter(**choices).fit(images).state
    said = choices_of(state)
    assert choices.items() <= said.items()
    again = oracle.small_fitter(**said).fit(images).state
    assert again.metadata() == state.metadata()
    assert set(tomllib.loads(format_choices(said))) == set(said)


def test_what_fits_a_model_of_before_again_has_its_levels() -> None:
    state = oracle.small_fitter().fit(list(oracle.random_images(2, (64, 64)))).state
    before = replace(state, recipe=replace(state.recipe, taps=None))  # of three levels
    assert choices_of(before)["taps"] == (1, 2, 4)


def test_files_that_a_model_rests_on_are_to_be_named(tmp_path: Path) -> None:
    region = np.ones((64, 64), np.bool_)
    region[:32] = False
    state = oracle.small_fitter(roi=region, calibrate=False).fit(
        list(oracle.random_images(2, (64, 64)))
    )
    path = written(tmp_path, format_choices(choices_of(state.state)))
    assert read_choices(path)["roi"] == tmp_path / "the file of the region of interest"
