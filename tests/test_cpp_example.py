"""The page for C++ is followed word by word: its commands build the program and run it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import oracle
import pytest
from PIL import Image

import padim
from padim.model.export import export

ROOT = Path(__file__).parents[1]
SIZE_PX = (64, 96)
TOLERANCE = 1e-3  # relative
COMPILERS = (os.environ.get("CXX", "c++"), "g++", "clang++")

pytestmark = [
    pytest.mark.skipif(shutil.which("cmake") is None, reason="there is no cmake"),
    pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="there is no C++ compiler"),
    pytest.mark.skipif(shutil.which("sh") is None, reason="there is no shell"),
]


def run(workplace: Path, command: str) -> subprocess.CompletedProcess[str]:
    # The page's python is the one with openvino in it.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return subprocess.run(
        ["sh", "-ec", command],
        cwd=workplace,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workplace")
    shutil.copytree(ROOT / "docs/examples", folder / "docs/examples")
    for i, pixels in enumerate(oracle.random_images(2, SIZE_PX, seed=3)):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    shutil.copy(folder / "0.png", folder / "part.png")
    model = folder / "part.safetensors"
    good = list(oracle.random_images(8, SIZE_PX))
    padim.fit(good, size_px=SIZE_PX, device="cpu").save(model)
    images = [folder / "0.png", folder / "1.png"]
    export(model, folder / "part.xml", images, to="openvino", verdict=True)
    export(model, folder / "four.onnx", images, n_batch=4, verdict=True)
    export(model, folder / "plain.onnx", images)
    return folder


@pytest.fixture(scope="module")
def output(workplace: Path) -> str:
    page = (ROOT / "docs/cpp.md").read_text(encoding="utf-8")
    (commands,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    done = run(workplace, commands)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check(
    output: str, workplace: Path, rate: float | None = None, pixel_rate: float | None = None
) -> None:
    model = padim.load(workplace / "part.safetensors", device="cpu")
    expected = model.at(rate, pixel_rate).predict(workplace / "part.png")
    number = r"([\d.e+-]+)"
    found = re.search(
        rf"^label (\w+), p_value {number}, (\d+) pixels in the mask\n"
        rf"image_score {number}\npeak {number} at row (\d+), column (\d+) of a map of 64 x 96$",
        output,
        re.MULTILINE,
    )
    assert found, output
    assert (found[1], float(found[2])) == (expected.label, pytest.approx(expected.p_value))
    n_above = expected.defects(min_region_px=0)[1].sum()
    assert int(found[3]) == pytest.approx(n_above, abs=5)  # of 6144, at the edge
    score, peak = float(found[4]), float(found[5])
    assert score == pytest.approx(expected.score, rel=TOLERANCE)
    assert peak == pytest.approx(float(expected.anomaly_map.max()), rel=TOLERANCE)
    # Neighbours of the peak may be as high but for the last digits.
    there = float(expected.anomaly_map[int(found[6]), int(found[7])])
    assert there == pytest.approx(peak, rel=TOLERANCE)


def test_the_program_of_the_page_scores_as_padim_does(output: str, workplace: Path) -> None:
    check(output, workplace, 0.01)


@pytest.mark.usefixtures("output")
@pytest.mark.parametrize(("rate", "pixel_rate"), [(0.9, 0.5), (0.3, 0.01)])
def test_the_program_judges_at_the_rates_that_it_is_given(
    workplace: Path, rate: float, pixel_rate: float
) -> None:
    done = run(workplace, f"build/score part.xml part.ppm {rate} {pixel_rate}")
    assert done.returncode == 0, done.stderr
    check(done.stdout, workplace, rate, pixel_rate)


@pytest.mark.usefixtures("output")
def test_it_runs_an_onnx_file_of_fixed_batch_too(workplace: Path) -> None:
    done = run(workplace, "build/score four.onnx part.ppm")
    assert done.returncode == 0, done.stderr
    check(done.stdout, workplace)


@pytest.mark.usefixtures("output")
@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "other.ppm",
            b"P6 64 96 255\n" + bytes(64 * 96 * 3),
            "other.ppm has 96 x 64 pixels (height x width), but the graph needs 64 x 96.",
        ),
        ("short.ppm", b"P6\n# made by hand\n96 64\n255\n" + bytes(9), "short.ppm is cut short."),
        ("text.ppm", b"P3 96 64 255\n", "text.ppm is no binary PPM (P6) of 8 bits."),
        ("deep.ppm", b"P6 96 64 65535\n", "deep.ppm is no binary PPM (P6) of 8 bits."),
        ("missing.ppm", None, "missing.ppm cannot be opened."),
    ],
)
def test_it_refuses_what_it_cannot_score(
    workplace: Path, name: str, data: bytes | None, message: str
) -> None:
    if data is not None:
        (workplace / name).write_bytes(data)
    done = run(workplace, f"build/score part.xml {name}")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {message}\n")


@pytest.mark.usefixtures("output")
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ("part.xml", 2),
        ("nowhere.xml part.ppm", 1),
        ("plain.onnx part.ppm", 1),
        ("part.xml part.ppm 1.5", 1),
        ("part.xml part.ppm nan", 1),
        ("part.xml part.ppm 0.1x", 1),
        ("part.xml part.ppm 0.1 0.1 0.1", 2),
    ],
)
def test_it_says_what_is_wrong_with_its_arguments(
    workplace: Path, arguments: str, status: int
) -> None:
    done = run(workplace, f"build/score {arguments}")
    assert done.returncode == status
    assert done.stderr.startswith("error: ")
