import re
import subprocess
import sys
from pathlib import Path

import pytest
from trees import make_category

MAIN = Path(__file__).parents[1] / "main.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(MAIN), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_original_command_line_does_the_whole_job(tmp_path: Path) -> None:
    make_category(tmp_path / "data/carpet")
    make_category(tmp_path / "data/my_part")
    arguments = ("--data_path", tmp_path / "data", "--save_path", tmp_path / "result")
    first = run(*arguments, "--arch", "efficientnet_lite0", "--use_gpu", "-b", "4")
    assert first.returncode == 0, first.stderr
    assert len(re.findall(r"^image ROCAUC: \d\.\d{3}$", first.stdout, re.MULTILINE)) == 2
    assert len(re.findall(r"^pixel ROCAUC: \d\.\d{3}$", first.stdout, re.MULTILINE)) == 2
    assert "Average image ROCAUC: " in first.stdout
    assert "skipped: grid, leather" in first.stdout
    assert "| my_part | " in first.stdout
    result = tmp_path / "result"
    assert (result / "temp_efficientnet_lite0/train_carpet.safetensors").is_file()
    assert (result / "roc_curve.png").is_file()
    drawn = sorted(path.name for path in (result / "pictures_efficientnet_lite0").iterdir())
    assert drawn == [f"{name}_{i}.png" for name in ("carpet", "my_part") for i in range(6)]

    (tmp_path / "data/carpet/train/good/0.png").unlink()
    again = run(
        *arguments,
        "--arch",
        "efficientnet_lite0",
        "--save_gpu_memory",
        "-b",
        "4",
        "--colormap",
        "jet",
    )
    assert again.returncode == 0, again.stderr
    assert re.search(r"^fitted .*train_carpet", again.stdout, re.MULTILINE)
    assert re.search(r"^reused .*train_my_part", again.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--pca",), 2, "--pca and --npca are not supported"),
        (("--npca",), 2, "--pca and --npca are not supported"),
        (("--arch", "efficientnet_b7"), 2, "Did you mean 'efficientnet_b7_ns'"),
        (("-b", "0"), 2, "batch size is 0"),
        (("--colormap", "jett"), 2, "Did you mean 'jet'"),
        (("--nonsense",), 2, "nrecognized arguments"),
    ],
)
def test_wrong_usage_is_one_sentence(
    arguments: tuple[str, ...], status: int, message: str, tmp_path: Path
) -> None:
    make_category(tmp_path / "data/carpet", n_train=1, n_test=1)
    done = run("-d", tmp_path / "data", "-s", tmp_path / "result", *arguments)
    assert done.returncode == status
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_data_path_must_be_there(tmp_path: Path) -> None:
    done = run("-d", tmp_path / "nowhere")
    assert done.returncode == 2
    assert "nowhere does not exist" in done.stderr
    assert run().returncode == 2
