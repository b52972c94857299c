"""Options that come from the choices of a fit, and files of choices."""

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import trees
from PIL import Image

import padim.cli
from padim.cli import main
from padim.fitting.settings import CHOICES


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([command, "--help"]) == 0
    return capsys.readouterr().out


def test_no_help_reads_as_if_its_example_were_the_default() -> None:
    assert [name for name, choice in CHOICES.items() if re.search(r": \d\S*\.$", choice.help)] == []
    assert "such as 0.005; 0 for none" in CHOICES["drop_outliers"].help


@pytest.mark.parametrize("command", ["fit", "benchmark"])
def test_every_choice_is_an_option_under_its_heading(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(command, capsys)
    sections = dict(re.findall(r"^(\w+):\n((?:  .*\n|\n(?=  ))+)", text + "\n", flags=re.M))
    for name, choice in CHOICES.items():
        assert choice.panel is not None
        assert f"--{name.replace('_', '-')}" in sections[choice.panel.capitalize()], name
    assert "--config" in sections["Options"]
    assert "--threads" not in text  # the names of 0.1 work, but are not shown
    assert "\x1b" not in text


def test_the_defaults_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(help_of("fit", capsys).split())
    for shown in ("efficientnet_lite0", "standard", "float16", "auto", "calibrate"):
        assert f"[default: {shown}]" in text


def test_no_command_has_many_parameters_or_a_long_body() -> None:
    for file in Path(padim.cli.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                arguments = node.args
                n_parameters = len(arguments.args) + len(arguments.kwonlyargs)
                assert n_parameters <= 12, f"{file.name}: {node.name}"
                assert node.end_lineno is not None
                n_lines = node.end_lineno - node.body[0].lineno
                assert n_lines <= 60, f"{file.name}: {node.name} has {n_lines}"


@pytest.fixture(scope="module")
def category(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.make_category(tmp_path_factory.mktemp("options") / "stripes")


Fit = Callable[..., Path]


@pytest.fixture
def fit(category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fit:
    def fit(name: str, *words: str) -> Path:
        out = tmp_path / f"{name}.safetensors"
        assert main(["fit", str(category), "-o", str(out), *words]) == 0, capsys.readouterr().err
        capsys.readouterr()
        return out

    return fit


@pytest.mark.parametrize(
    "words",
    [
        ["--size-px", "64", "--sigma-px", "2"],
        ["--size-px", "64x64", "--dims", "50", "--dims-seed", "5", "--no-keep-samples"],
        ["--size-px", "96", "--tile-px", "64", "--tile-overlap-px", "32", "--store", "float32"],
        ["--size-px", "64", "--recipe", "fast", "--eps", "0.5", "--no-calibrate"],
    ],
)
def test_a_model_is_fitted_again_from_what_it_says(
    words: list[str], fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = fit("first", *words)
    assert main(["info", "--config", str(first)]) == 0
    config = tmp_path / "part.toml"
    config.write_text(capsys.readouterr().out, "utf-8")
    assert fit("again", "--config", str(config)).read_bytes() == first.read_bytes()


def test_the_names_of_version_0_1_go_on_working(fit: Fit) -> None:
    new = fit("new", "--size-px", "64", "--sigma-px", "2", "--n-threads", "1", "--no-keep-samples")
    old = fit("old", "--size", "64", "--sigma", "2", "--threads", "1", "--no-samples")
    assert old.read_bytes() == new.read_bytes()


def test_options_win_over_the_file(
    fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "part.toml"
    config.write_text("size_px = [64, 64]\nsigma_px = 3.0\ncalibrate = false\neps = 0.5\n")
    model = fit("m", "--config", str(config), "--sigma-px", "2", "--calibrate")
    assert main(["info", str(model), "--config", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["sigma_px"], said["calibrate"], said["eps"]) == (2.0, True, 0.5)
    assert said["size_px"] == [64, 64]


def test_benchmark_takes_the_file_of_a_fit(
    category: Path, fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = tmp_path / "part.toml", tmp_path / "out"
    config.write_text("size_px = [64, 64]\ncoarse_scale = 0.5\nkeep_samples = false\n")
    model = fit("m", "--config", str(config))
    words = ["benchmark", str(category.parent), "-o", str(out), "--config", str(config)]
    assert main(words) == 0
    assert (out / "models" / "stripes.safetensors").read_bytes() == model.read_bytes()
    capsys.readouterr()
    assert main(words) == 0
    assert "stripes: done again" not in (again := capsys.readouterr().out)
    assert main([*words, "--no-calibrate", "--overwrite"]) == 0
    assert "stripes: done again, because of calibrate" in capsys.readouterr().out, again


def test_benchmark_takes_a_region_and_tiles(
    category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    region, out = tmp_path / "region.json", tmp_path / "out"
    region.write_text("[[0, 0], [40, 0], [40, 40], [0, 40]]")
    words = ["benchmark", str(category.parent), "-o", str(out), "--roi", str(region)]
    assert main([*words, "--size-px", "64", "--keep-moments"]) == 0
    model = out / "models" / "stripes.safetensors"
    assert model.with_suffix(".moments.safetensors").is_file()
    capsys.readouterr()
    assert main(["info", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["preprocess"]["roi"] is not None
    assert main([*words[:4], "--tile-px", "32", "--tile-overlap-px", "16", "--overwrite"]) == 0
    assert not model.with_suffix(".moments.safetensors").exists()
    capsys.readouterr()
    assert main(["info", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_tiles"] > 1


def test_one_region_is_not_for_images_of_several_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    trees.make_category(root / "small")
    trees.make_category(root / "large")
    for path in (root / "large").rglob("*.png"):
        with Image.open(path) as image:
            image.resize((96, 128)).save(path)
    assert main(["benchmark", str(root), "-o", str(tmp_path / "out"), "--tile-px", "64"]) == 2
    assert "The categories are of several sizes (large 128x96" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dims", "some"], "dims is 'some', but needs to be a whole number or all."),
        (["--taps", "1;2"], "The taps are '1;2', but need to be such as 1,2,4."),
        (["--size-px", "big"], "The size is 'big', but needs to be such as 256 or 256x512 (HxW)."),
        (["--n-batch", "0"], "The batch size is 0, but needs to be 1 or more. Try 1."),
        (["--config", "no.toml"], "no.toml does not exist. Check the path."),
        (["--sigma-pc", "2"], "--sigma-px"),
        (["--max-memory", "much"], "much"),
    ],
)
def test_a_wrong_option_is_refused_before_any_work(
    words: list[str], said: str, category: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("fit", "benchmark"):
        assert main([command, str(category), "-o", str(tmp_path / "out"), *words]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert said in error
    assert not list(tmp_path.iterdir())


def test_a_graph_has_no_file_of_choices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--config", str(tmp_path / "m.onnx")]) == 2
    assert "needs the model file that it was exported from" in capsys.readouterr().err
