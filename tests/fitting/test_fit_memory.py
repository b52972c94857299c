"""What a fit takes, measured in a process of its own, against what was forecast."""

import json
import subprocess
import sys
from pathlib import Path

import oracle
import pytest
from safetensors.torch import save_file

from padim.memory import watch_peak

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(watch_peak()() is None, reason="the system does not reset the peak"),
]

MEASURE = """
import json
import sys
from pathlib import Path

import numpy as np

from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings
from padim.memory import resident_bytes, watch_peak
from padim.model.file import save_moments, save_state

options = json.loads(sys.argv[1])
n_images = options.pop("n_images")
backbone = options.pop("backbone")
fitter = prepare(FitSettings(backbone=backbone, device="cpu", **options))
generator = np.random.default_rng(0)
forecast = fitter.forecast(n_images=n_images)
images = [generator.integers(0, 256, (90, 120, 3), dtype=np.uint8) for _ in range(n_images)]
peak = watch_peak()
before = resident_bytes()
fitted = fitter.fit(images)
folder = Path(sys.argv[2])
if fitter.settings.keep_moments:
    save_moments(fitted.moments, fitted.state, folder / "moments")
save_state(fitted.state, folder / "model")
print(json.dumps({
    "forecast": forecast.peak_bytes,
    "file": forecast.file_bytes,
    "written": (folder / "model").stat().st_size,
    "before": before,
    "peak": peak(),
}))
"""


def measured(tmp_path: Path, n_images: int, backbone: str, **options: object) -> dict[str, int]:
    settings = json.dumps({"n_images": n_images, "backbone": backbone, **options})
    process = subprocess.run(
        [sys.executable, "-c", MEASURE, settings, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    result: dict[str, int] = json.loads(process.stdout)
    return result


@pytest.mark.parametrize(
    ("n_images", "options"),
    [
        (70, {}),
        (70, {"keep_moments": True}),
        (70, {"drop_outliers": 0.1}),
        (70, {"calibrate": False}),
        (70, {"size_px": (512, 256)}),
    ],
)
def test_the_peak_of_the_default_is_forecast_within_15_percent(
    tmp_path: Path, n_images: int, options: dict[str, object]
) -> None:
    figures = measured(tmp_path, n_images, "efficientnet_lite0", **options)
    assert figures["forecast"] == pytest.approx(figures["peak"], rel=0.15), figures
    assert figures["file"] == pytest.approx(figures["written"], rel=0.01)


@pytest.mark.parametrize(("size_px", "dims"), [((224, 224), None), ((128, 192), "all")])
def test_the_peak_of_a_resnet_is_forecast_within_15_percent(
    tmp_path: Path, size_px: tuple[int, int], dims: str | None
) -> None:
    pixels = oracle.random_images(4, (64, 64))
    network = oracle.random_network(
        "resnet18", oracle.normalised(pixels, *oracle.MEAN_STD["imagenet"])
    )
    weights = tmp_path / "own.safetensors"
    save_file(oracle.tensors_of(network), weights)
    figures = measured(tmp_path, 70, "resnet18", size_px=size_px, dims=dims, weights=str(weights))
    assert figures["forecast"] == pytest.approx(figures["peak"], rel=0.15), figures
    assert figures["file"] == pytest.approx(figures["written"], rel=0.01)


@pytest.mark.parametrize("calibrate", [True, False])
def test_the_peak_grows_by_what_is_kept_of_each_image_alone(
    tmp_path: Path, calibrate: bool
) -> None:
    def measure(n_images: int) -> dict[str, int]:
        return measured(
            tmp_path, n_images, "efficientnet_lite0", size_px=(64, 64), calibrate=calibrate
        )

    measure(1)  # writes the trunk's graph
    # 48 images are gathered at a time: 40 are less than one such group, 70 and 1500 are more.
    by_count = {n: measure(n) for n in (40, 70, 1500)}
    assert by_count[70]["peak"] == pytest.approx(by_count[40]["peak"], rel=0.05)
    grown, expected = (by_count[1500][what] - by_count[70][what] for what in ("peak", "forecast"))
    grown -= by_count[1500]["before"] - by_count[70]["before"]  # the images themselves
    assert grown == pytest.approx(expected, rel=0.3, abs=12e6)
