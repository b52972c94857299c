"""What a CUDA device makes of it: scoring and fitting with large networks, and what bounds them.

Networks of the sizes that the paper's authors and others take, with random weights, on which time
does not depend, at 256 px with the default recipe. They are fitted here on photographs of solar
cells.

- *roofline*: each network and its distances in torch, for uint8 images that are on the device, in
  batches that are replayed: in float32 as padim computes it, with TF32 allowed, and with the
  network in bfloat16. Beside the time stands the bound: the operations of all products over the
  rate of a large product of that type, or the bytes that all operations read and write, each from
  memory, over the rate of a large copy. Operations and bytes are *computed* from shapes; both rates
  are measured here. A part of 1 is as fast as such a program can be; fused operations move fewer
  bytes.
- *engines*: B5, from decoded images in memory to maps and scores in memory: what
  ``padim.load(...).score`` takes in torch, and for its graph in ONNX Runtime and TensorRT; and how
  many images a second two such calls at a time give, as ``stream`` has them for a model file.
- *anomalib* (the alternative): B5 of its own with three levels, beside ours with the same ones,
  from decoded images as well. Its convolutions are in TF32, as torch has it by default.
- *fit*: 1,000 photographs of 300 px, and 300 of them as JPEG files of 5 megapixels, as a line's
  camera gives them, each beside decoding the same files alone on the same threads.

Aims: 5,000 images a second of B5 in bfloat16; a fit takes at most 1.1 of its decoding, of files of
5 megapixels. ``--device cpu --quick`` shows that the script runs.
"""

import copy
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from cells import THREE_LEVELS, photographs, write_random_weights
from numpy.typing import NDArray
from operations import count
from peer_env import fit_peer, serving
from PIL import Image
from torch import Tensor, nn

from padim.errors import DeviceError
from padim.features.device import computing
from padim.features.recording import Recorded
from padim.fitting.fitter import Fitter
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitChoices, FitSettings, settings_with
from padim.images.ahead import load_ahead
from padim.model.export import export
from padim.model.file import save_state
from padim.model.opening import load
from padim.model.scorer import scorer_of
from padim.model.state import ModelState
from padim.scoring.engines import ENGINES

NAMES = ("efficientnet_b5_ns", "efficientnet_b7_ns", "efficientnet_v2_m")
PRECISIONS = ("float32", "TF32", "bfloat16")
AIM_IMAGES_S = 5000
AIM_FIT = 1.1
N_FEW = 48  # images of the models that score
LARGE_PX = 2448, 2048  # (width, height)


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        device: What computes.
        names: Of the backbones, the one that is compared first.
        size_px: Side of what they see.
        batches: Images at a time.
        n_rounds: How often each is timed.
        n_fitted: Photographs of the fit.
        n_large: Of the fit of large files.
        n_copied: Float32 numbers of the large copy.
        n_side: Side of the large product.
    """

    device: torch.device
    names: tuple[str, ...] = NAMES
    size_px: int = 256
    batches: tuple[int, ...] = (1, 8, 32, 128, 256)
    n_rounds: int = 15
    n_fitted: int = 1000
    n_large: int = 300
    n_copied: int = 1 << 28
    n_side: int = 8192


def seconds(device: torch.device, run: Callable[[], object]) -> float:
    """How long an operation takes until the device has done it."""

    def done() -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()

    if device.type == "cuda":
        torch.cuda.synchronize()
    return measure.seconds(done)


@contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in one of ``PRECISIONS``; bfloat16 is the network's own matter."""
    if precision != "TF32":
        with computing(device):
            yield
        return
    switches: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = True
        with torch.inference_mode():
            yield
    finally:
        for switch, allowed in zip(switches, before, strict=True):
            switch.allow_tf32 = allowed


def settle(
    plan: Plan, runs: Mapping[str, Callable[[], object]], precision: str = "float32"
) -> dict[str, measure.Spread]:
    """Time operations in turn."""
    timed = {name: partial(seconds, plan.device, run) for name, run in runs.items()}
    with computing_in(precision, plan.device):
        return measure.in_turn(timed, plan.n_rounds, n_warm_up=3)


def measure_rates(plan: Plan) -> dict[str, float]:
    """Bytes a second of a large copy, and operations a second of a large product by its type."""
    source = torch.ones(plan.n_copied, device=plan.device)
    target = torch.empty_like(source)
    copied = settle(plan, {"copy": partial(target.copy_, source)})["copy"]
    rates = {"bytes": 2 * source.nbytes / copied.median}
    for precision in PRECISIONS:
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        square = torch.randn(plan.n_side, plan.n_side, device=plan.device, dtype=dtype)
        taken = settle(plan, {"product": partial(torch.mm, square, square)}, precision)["product"]
        rates[precision] = 2 * plan.n_side**3 / taken.median
    return rates


def prepare_fit(plan: Plan, weights: Path, choices: FitChoices | None = None) -> Fitter:
    """Prepare a fit of the backbone whose weights these are."""
    size_px = plan.size_px, plan.size_px
    own: FitChoices = {"backbone": weights.stem, "weights": weights, "size_px": size_px}
    settings = FitSettings(engine="torch", device=plan.device.type, include_backbone=True)
    settings = settings_with(settings, **own)
    return prepare(settings_with(settings, **(choices or {})))


def measure_roofline(plan: Plan, weights: Path, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Time a network and its distances in each precision and batch, against what bounds them."""
    rows = []
    state: ModelState | None = None
    for precision in PRECISIONS:
        of_network = "bfloat16" if precision == "bfloat16" else "float32"
        fitter = prepare_fit(plan, weights, {"precision": of_network, "calibrate": False})
        if state is None:
            state = fitter.fit(photographs()[:N_FEW]).state
        scorer = scorer_of(state, fitter.features).to(plan.device).eval()
        for n_images in plan.batches:
            measure.say(f"{weights.stem}, {precision}, {n_images} at a time")
            size = (n_images, plan.size_px, plan.size_px, 3)
            images = torch.randint(256, size, dtype=torch.uint8, device=plan.device)
            rows.append(measure_row(plan, fitter.features, scorer, images, precision, rates))
            rows[-1] = {"backbone": weights.stem, **rows[-1]}
    return rows


def measure_row(
    plan: Plan,
    features: nn.Module,
    scorer: nn.Module,
    images: Tensor,
    precision: str,
    rates: Mapping[str, float],
) -> dict[str, Any]:
    """Time one network on a batch, whole and without its distances, against what bounds it."""
    candidates = {"whole": scorer, "network": features}
    runs = {name: partial(Recorded(one, features), images) for name, one in candidates.items()}
    taken = settle(plan, runs, precision)
    plain = copy.deepcopy(scorer).to("meta")  # shapes alone, without a GPU's own ways
    work = count(partial(plain, images.to("meta")))
    bounds = {
        "products": work.n_operations / rates[precision],
        "bytes": work.n_bytes / rates["bytes"],
    }
    bound = max(bounds, key=lambda name: bounds[name])
    whole = taken["whole"]
    return {
        "precision": precision,
        "n_images": len(images),
        "images_s": len(images) / whole.median,
        "seconds": whole.to_json(),
        "network_over_whole": taken["network"].over(whole).to_json(),
        "operations_computed": work.n_operations,
        "bytes_computed": work.n_bytes,
        "bound": bound,
        "part_of_bound": bounds[bound] / whole.median,
    }


def measure_engines(plan: Plan, weights: Path, folder: Path) -> list[dict[str, Any]]:
    """Time the engines from decoded images to maps and scores."""
    model, graph = folder / "model.safetensors", folder / "model.onnx"
    save_state(prepare_fit(plan, weights).fit(photographs()[:N_FEW]).state, model)
    export(model, graph)
    low = folder / "bfloat16.safetensors"
    save_state(
        prepare_fit(plan, weights, {"precision": "bfloat16"}).fit(photographs()[:N_FEW]).state, low
    )
    device = plan.device.type
    candidates = {
        "torch": partial(load, model, engine="torch", device=device),
        "torch, bfloat16": partial(load, low, engine="torch", device=device),
        "onnxruntime": partial(load, graph, engine="onnxruntime", device=device),
        "tensorrt": partial(load, graph, engine="tensorrt", device="cuda"),
    }
    predictors = {}
    for name, opening in candidates.items():
        try:
            predictors[name] = opening()
        except DeviceError as error:
            measure.say(f"Without {name}: {error}")
    rows = []
    for n_images in plan.batches:
        pixels = noise(plan, n_images)
        runs = {name: partial(one.score, pixels) for name, one in predictors.items()}
        taken = settle(plan, runs)
        rows += [
            {
                "engine": name,
                "n_images": n_images,
                "images_s": n_images / spread.median,
                "images_s_two_calls": count_two_at_a_time(plan, runs[name], n_images),
                "seconds": spread.to_json(),
                "over_torch": spread.over(taken["torch"]).to_json(),
            }
            for name, spread in taken.items()
        ]
    return rows


def count_two_at_a_time(plan: Plan, run: Callable[[], object], n_images: int) -> float:
    """Images a second of calls of which two are under way at a time."""
    n_calls = 2 * plan.n_rounds
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(run) for _ in range(4)]:
            future.result()
        start = time.perf_counter()
        for future in [pool.submit(run) for _ in range(n_calls)]:
            future.result()
    return n_calls * n_images / (time.perf_counter() - start)


def noise(plan: Plan, n_images: int) -> NDArray[np.uint8]:
    """Images of noise."""
    size = (n_images, plan.size_px, plan.size_px, 3)
    return np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)


def measure_peer(plan: Plan, weights: Path, folder: Path) -> list[dict[str, Any]] | None:
    """Time anomalib and ours with the same three levels; None where it cannot be installed."""
    good = folder / "good"
    good.mkdir()
    for path in photographs()[:N_FEW]:
        (good / path.name).symlink_to(path.resolve())
    options = ("--backbone", weights.stem.removesuffix("_ns"), "--size", plan.size_px)
    try:
        fit_peer(good, folder, *options)
    except subprocess.CalledProcessError as error:
        measure.say(f"Without anomalib, which cannot be installed or run here: {error}")
        return None
    model = folder / "model.safetensors"
    save_state(prepare_fit(plan, weights, THREE_LEVELS).fit(sorted(good.iterdir())).state, model)
    ours = load(model, engine="torch", device=plan.device.type)
    rows = []
    with serving(folder, "torch", device=plan.device.type) as server:
        for n_images in plan.batches[:3]:
            pixels, file = noise(plan, n_images), folder / f"{n_images}.npy"
            np.save(file, pixels)
            timed: dict[str, Callable[[], float]] = {
                "ours": partial(seconds, plan.device, partial(ours.score, pixels)),
                "anomalib": partial(server.score, file),
            }
            taken = measure.in_turn(timed, plan.n_rounds, n_warm_up=3)
            rows.append(
                {
                    "n_images": n_images,
                    **{name: spread.to_json() for name, spread in taken.items()},
                    "times_faster": taken["anomalib"].over(taken["ours"]).to_json(),
                }
            )
    return rows


def enlarge(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Write photographs as JPEG files of 5 megapixels."""

    def write(path: Path) -> Path:
        large = folder / f"{path.stem}.jpg"
        with Image.open(path) as image:
            image.resize(LARGE_PX).save(large, quality=90)
        return large

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(write, paths))


def measure_fit(
    plan: Plan, weights: Path, paths: Sequence[Path], what: str
) -> dict[str, Any]:  # a row of the JSON
    """Time a whole fit, and decoding its images alone."""
    fitter = prepare_fit(plan, weights)
    bring, n_decoders = fitter.encoder.preprocess, fitter.embedder.n_decoders

    def decode() -> None:
        for _ in load_ahead(
            paths, bring, hashed=True, n_ahead=2 * n_decoders, n_threads=n_decoders
        ):
            pass

    runs: dict[str, Callable[[], object]] = {"fit": partial(fitter.fit, paths), "decode": decode}
    timed = {name: partial(seconds, plan.device, run) for name, run in runs.items()}
    taken = measure.in_turn(timed, min(plan.n_rounds, 3))
    return {
        "images": what,
        "n_images": len(paths),
        "n_decoders": n_decoders,
        **{f"{name}_s": spread.to_json() for name, spread in taken.items()},
        "fit_over_decode": taken["fit"].over(taken["decode"]).to_json(),
    }


def show(rows: list[dict[str, Any]], *keys: str) -> None:
    """Print what was found; numbers of a spread are medians."""

    def shown(value: Any) -> str:
        value = value["median"] if isinstance(value, dict) else value
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    print()
    measure.print_table(keys, [[shown(row[key]) for key in keys] for row in rows])


def main() -> None:
    """Run the benchmark."""
    given = measure.arguments(__doc__, devices=("cuda", "cpu"))
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("This machine has no CUDA device. To see it run: --device cpu --quick")
    if given.device == "cpu" and not given.quick:
        raise SystemExit("On a CPU the script only shows that it runs: --device cpu --quick")
    plan = Plan(torch.device(given.device))
    if given.quick:
        plan = Plan(plan.device, ("efficientnet_lite0",), 64, (1, 2), 2, 24, 4, 1 << 20, 256)
    name = torch.cuda.get_device_name() if given.device == "cuda" else "cpu"
    about = measure.facts(["elpv-dataset"], name)
    about["software"]["onnxruntime"] = ENGINES["onnxruntime"].version()
    rates = measure_rates(plan)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = [write_random_weights(name, folder) for name in plan.names]
        roofline = [row for file in files for row in measure_roofline(plan, file, rates)]
        engines = measure_engines(plan, files[0], folder)
        few = photographs()[: plan.n_fitted]
        fits = [measure_fit(plan, files[0], few, "300 px")]
        large = enlarge(few[: plan.n_large], folder)
        fits.append(measure_fit(plan, files[0], large, "5 megapixels"))
        (folder / "peer").mkdir()
        peer = measure_peer(plan, files[0], folder / "peer")
    print(", ".join(f"{name} {rate:.3g} a second" for name, rate in rates.items()))
    keys = ("images_s", "network_over_whole", "bound", "part_of_bound")
    show(roofline, "backbone", "precision", "n_images", *keys)
    show(engines, "engine", "n_images", "images_s", "images_s_two_calls", "over_torch")
    show(fits, "images", "n_images", "fit_s", "decode_s", "fit_over_decode")
    if peer:
        show(peer, "n_images", "ours", "anomalib", "times_faster")
    fast = [row for row in engines if row["engine"] == "torch, bfloat16"]
    best = max(row[key] for row in fast for key in ("images_s", "images_s_two_calls"))
    ratio = fits[-1]["fit_over_decode"]["median"]
    aims = measure.judge(
        (
            measure.Aim("B5 in bfloat16, images a second", best, AIM_IMAGES_S, at_least=True),
            measure.Aim("A fit over decoding its files of 5 megapixels", ratio, AIM_FIT),
        )
    )
    content = {
        "settings": {"size_px": plan.size_px, "n_rounds": plan.n_rounds, "n_warm_up": 3},
        "rates": rates,
        "roofline": roofline,
        "engines": engines,
        "fits": fits,
        "peer": peer,
        "aims": aims,
    }
    measure.finish("gpu", about, content, quick=given.quick)


if __name__ == "__main__":
    main()
