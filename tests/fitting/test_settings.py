"""Every choice of a fit: its type, range and name."""

import inspect
import json
import pickle
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest

import padim
from padim.errors import UnknownNameError, UsageError
from padim.features.network import DTYPES
from padim.fitting.config import read_choices
from padim.fitting.prepare import prepare
from padim.fitting.settings import (
    CHOICES,
    STORE_NAMES,
    FitChoices,
    FitSettings,
    recipe_of,
    settings_with,
)
from padim.method.gaussian import STORES
from padim.recipes import RECIPES, Recipe
from padim.scoring.engines import PRECISIONS


def test_the_keywords_of_a_fit_are_the_fields_with_their_types() -> None:
    assert get_type_hints(FitChoices) == get_type_hints(FitSettings)
    assert list(get_type_hints(FitChoices)) == list(CHOICES)


def test_the_names_are_those_that_others_know() -> None:
    assert tuple(STORES) == STORE_NAMES
    assert set(DTYPES) == set(PRECISIONS)


def test_a_misspelt_setting_is_guessed() -> None:
    with pytest.raises(UsageError, match=r"^There is no setting sigma\. Did you mean sigma_px\?$"):
        padim.fit([], sigma=2)  # type: ignore[call-arg]  # the misspelling
    with pytest.raises(
        UsageError, match=r"^There is no setting colour\. There are: roi, white, page, backbone"
    ):
        settings_with(colour=2)  # type: ignore[call-arg]  # no such setting


def test_a_misspelt_setting_fails_the_type_checker(tmp_path: Path) -> None:
    calls = [
        "prepare(FitSettings(sigma=2))",
        "prepare(FitSettings(), sigma=2)",
        "padim.fit('x', sigma=2)",
        "settings_with(FitSettings(), sigma=2)",
    ]
    imports = [
        "import padim",
        "from padim.fitting.prepare import prepare",
        "from padim.fitting.settings import FitSettings, settings_with",
    ]
    (tmp_path / "a.py").write_text("\n".join([*imports, *calls]) + "\n")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(root / ".mypy_cache")]
    done = subprocess.run(
        [*command, str(tmp_path / "a.py")], cwd=root, capture_output=True, text=True
    )
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    places = [int(line.split(":")[1]) for line in errors]
    assert places == list(range(len(imports) + 1, len(imports) + len(calls) + 1)), done.stdout
    assert all('Unexpected keyword argument "sigma"' in line for line in errors), done.stdout


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"eps": 0}, r"^eps is 0, but needs to be above 0 and below 1e\+06\. Try 0\.01\.$"),
        ({"eps": float("inf")}, "needs to be above 0"),
        ({"eps": float("nan")}, "needs to be above 0"),
        ({"eps": 1e300}, "needs to be above 0 and below"),
        ({"eps": "much"}, r"^eps is 'much', but needs to be a number\. Try 0\.01\.$"),
        (
            {"white": "abc"},
            r"^white is 'abc', but needs to be a whole number or auto\. Try 4095\.$",
        ),
        ({"eps": True}, "needs to be a number"),
        ({"size_px": 2.5}, r"^The size is 2\.5, but needs to be .* such as \[256, 512\]"),
        ({"size_px": True}, r"^The size is True, but needs to be "),
        ({"size_px": "big"}, r"^The size is 'big', but needs to be such as 256 or 256x512 \(HxW\)"),
        ({"size_px": 0}, r"^The size is 0x0, but needs to be 1 or more\. Try 256\.$"),
        ({"size_px": (64, 0)}, r"^The size is 64x0, but needs to be 1 or more\. Try 256\.$"),
        ({"size_px": (64, 64, 64)}, "needs to be .* or two whole numbers"),
        ({"taps": (1, 2.5)}, "taps is .* but needs to be whole numbers"),
        ({"dims": "some"}, r"^dims is 'some', but needs to be a whole number or all\.$"),
        ({"sigma_px": -1}, r"^sigma_px is -1, but needs to be 0 or more\. Try 0\.$"),
        ({"score_fraction": 2}, r"needs to lie between 0 and 1\. Try 1\.$"),
        ({"score_fraction": -2}, r"needs to lie between 0 and 1\. Try 0\.$"),
        ({"drop_outliers": 1}, r"needs to be above 0 and below 1\. Try 0\.005\.$"),
        ({"n_batch": 0}, r"^The batch size is 0, but needs to be 1 or more\. Try 1\.$"),
        ({"n_threads": 0}, r"^The number of threads is 0"),
        ({"n_threads": 10**9}, r"^The number of threads is 1e\+09, but .* 1 and 1024\. Try 1\."),
        ({"calibrate": None}, r"^calibrate is None, but needs to be true or false\.$"),
        ({"roi": 3}, "roi is 3, but needs to be a text or a file or an array"),
        ({"max_memory": -1}, "max_memory is -1, but needs to be 1 or more"),
    ],
)
def test_an_impossible_value_is_refused(choices: FitChoices, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        settings_with(**choices)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"backbone": "resnet"}, "no backbone 'resnet'. Did you mean 'resnet18'"),
        ({"recipe": "fats"}, "no recipe 'fats'. Did you mean 'fast'"),
        ({"eps_rule": "wild"}, "no eps rule 'wild'"),
        ({"store": "float8"}, "no store 'float8'"),
        ({"engine": "tpu"}, "no engine 'tpu'"),
        ({"precision": "float8"}, "no precision 'float8'"),
        ({"device": "gpu"}, "no device 'gpu'"),
    ],
)
def test_an_unknown_name_is_refused(choices: FitChoices, words: str) -> None:
    with pytest.raises(UnknownNameError, match=words):
        settings_with(**choices)


@pytest.mark.parametrize(
    "choices",
    [{"drop_outliers": 0}, {"eps": np.float64(1)}, {"n_batch": np.int64(1)}, {"sigma_px": 0}],
)
def test_a_possible_value_is_kept(choices: FitChoices) -> None:
    ((name, value),) = choices.items()
    assert getattr(settings_with(**choices), name) == value


@pytest.mark.parametrize(
    ("name", "given", "read"),
    [
        ("size_px", 256, (256, 256)),
        ("size_px", np.int64(64), (64, 64)),
        ("size_px", "256x512", (256, 512)),
        ("size_px", "96", (96, 96)),
        ("taps", "1,2,4", (1, 2, 4)),
        ("dims", "50", 50),
        ("dims", "all", "all"),
    ],
)
def test_python_and_a_file_take_what_the_option_takes(
    name: str, given: object, read: object, tmp_path: Path
) -> None:
    assert getattr(settings_with(**{name: given}), name) == read  # type: ignore[arg-type]  # of many types
    (tmp_path / "part.toml").write_text(f"{name} = {json.dumps(given, default=int)}\n")
    assert read_choices(tmp_path / "part.toml") == {name: read}


def test_a_list_is_as_good_as_a_tuple() -> None:
    assert FitSettings(size_px=[64, 96]).size_px == (64, 96)  # type: ignore[arg-type]  # a list


def test_what_is_chosen_wins_over_the_base() -> None:
    base = FitSettings(eps=0.5, backbone="resnet18")
    settings = settings_with(base, eps=0.25)
    assert (settings.eps, settings.backbone) == (0.25, "resnet18")
    assert base.eps == 0.5


def test_settings_compare_and_travel_with_a_region() -> None:
    region = np.eye(4, dtype=np.bool_)
    settings = FitSettings(roi=region, size_px=(64, 64))
    assert settings == FitSettings(roi=region.copy(), size_px=(64, 64))
    assert settings != FitSettings(roi=~region, size_px=(64, 64))
    assert settings != FitSettings(size_px=(64, 64))
    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_without_changes_is_as_it_stands(name: str) -> None:
    assert recipe_of(FitSettings(recipe=name)) == RECIPES[name]


@pytest.mark.parametrize(
    ("choices", "scale"),
    [
        ({"size_px": 512}, 0.3125),
        ({"size_px": 128}, 0.625),
        ({"size_px": (512, 128)}, 0.625),
        ({"size_px": 1024, "tile_px": 256}, 0.625),
        ({"size_px": 1024, "tile_px": 512}, 0.3125),
        ({"size_px": 512, "coarse_scale": 0.5}, 0.5),
        ({"recipe": "accurate", "size_px": 384}, 0.4125),
        ({"recipe": "fast"}, 0),
        ({"calibrate": False}, 0),
        ({"calibrate": False, "coarse_scale": 0.5}, 0.5),
    ],
)
def test_the_smaller_copy_does_not_grow_with_the_image(choices: FitChoices, scale: float) -> None:
    assert recipe_of(settings_with(**choices)).coarse_scale == pytest.approx(scale)


def test_a_recipe_takes_every_change() -> None:
    changed = {
        "size_px": (64, 64),
        "eps": 1.0,
        "eps_rule": "absolute",
        "sigma_px": 0.0,
        "score_fraction": 0.0,
        "taps": (1, 2),
        "tile_px": 32,
        "tile_overlap_px": 0,
        "mirrored": True,
        "coarse_scale": 0.5,
    }
    recipe = recipe_of(FitSettings(**changed))  # type: ignore[arg-type]  # values of many types
    assert {name: getattr(recipe, name) for name in changed} == changed
    own = {
        "name",
        "crop_fraction",
        "resample",
        "coarse_fraction",
    }  # of the recipe alone
    assert {one.name for one in fields(Recipe)} == own | changed.keys()


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"sigma_px": 65, "size_px": (64, 96)}, r"between 0 and 64\. Try 64\.$"),
        ({"recipe": "reference", "size_px": (64, 96)}, "crops a square.*Try 64"),
    ],
)
def test_changes_that_do_not_fit_together_are_refused(choices: FitChoices, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        recipe_of(settings_with(**choices))


def test_a_region_in_a_file_needs_the_size_of_the_images() -> None:
    with pytest.raises(UsageError, match=r"in part\.png, but the size of the images is unknown"):
        prepare(FitSettings(size_px=(64, 64), roi="part.png"))


def test_prepare_has_few_parameters() -> None:
    assert len(inspect.signature(prepare).parameters) <= 4
