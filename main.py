"""The command line of the original PaDiM script, over this package."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from padim.backbones import DEFAULT_BACKBONE, backbone
from padim.cli import run_guarded
from padim.datasets import MVTEC_OBJECTS, MVTEC_TEXTURES, Category, read_dataset
from padim.errors import ModelFileError, PadimError, PathMissingError, UsageError, join_names
from padim.files import sha256
from padim.images.heatmap import DEFAULT_COLORMAP, colours_of
from padim.interrupts import guard

if TYPE_CHECKING:
    from padim.evaluation.record import Record, Settings
    from padim.fitting.fitter import Fitter
    from padim.model.state import ModelState

# What the original drew at random with --reduce_dim; 100 for all others.
_REDUCED_DIMS = {"wide_resnet50_2": 550, "efficientnet_l2_ns_475": 550}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[:1].upper()}{message[1:]}. See python main.py --help.")


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = _Parser("main.py", description="Fit and evaluate PaDiM on MVTec AD.")
    parser.add_argument("-d", "--data_path", type=Path, required=True, help="folder of categories")
    parser.add_argument("-s", "--save_path", type=Path, default=Path("mvtec_result"))
    parser.add_argument("-a", "--arch", default=DEFAULT_BACKBONE, help="see padim backbones")
    parser.add_argument("-r", "--reduce_dim", action="store_true", help="random dimensions")
    parser.add_argument("-b", "--batch_size", type=int, default=8, help="images in a forward pass")
    parser.add_argument(
        "--use_gpu", action="store_true", help="compute on a GPU where there is one"
    )
    parser.add_argument(
        "--colormap", default=DEFAULT_COLORMAP, help="of the pictures: inferno or jet"
    )
    parser.add_argument("--save_gpu_memory", action="store_true", help="accepted and unneeded")
    parser.add_argument("--weights", type=Path, help="local weights of the network")
    parser.add_argument("--pca", action="store_true", help="not supported")
    parser.add_argument("--npca", action="store_true", help="not supported")
    return parser.parse_args(given)


def _run(given: Sequence[str]) -> None:
    arguments = _arguments(given)
    if arguments.pca or arguments.npca:
        raise UsageError(
            "--pca and --npca are not supported: the covariance is factored exactly in their "
            "place. Leave them out, or use --reduce_dim for a smaller model."
        )
    colours_of(arguments.colormap)
    spec = backbone(arguments.arch)
    categories = read_dataset(arguments.data_path)
    known = (*MVTEC_TEXTURES, *MVTEC_OBJECTS)
    names = [category.name for category in categories]
    if absent := [name for name in known if name not in names]:
        print(f"not in {arguments.data_path}, skipped: {', '.join(absent)}")
    rank = {name: i for i, name in enumerate(known)}
    categories = tuple(sorted(categories, key=lambda c: (rank.get(c.name, len(rank)), c.name)))

    import torch

    from padim.evaluation.run import settings_of, write_roc
    from padim.evaluation.run_folder import Failure, Results, markdown
    from padim.fitting.prepare import prepare
    from padim.fitting.settings import FitSettings
    from padim.memory import format_bytes

    if arguments.use_gpu and not torch.cuda.is_available():
        print("no GPU here, computing on the CPU")
    fitter = prepare(
        FitSettings(
            backbone=spec.name,
            recipe="reference",
            dims=_REDUCED_DIMS.get(spec.name, 100) if arguments.reduce_dim else "all",
            device="auto" if arguments.use_gpu else "cpu",
            weights=arguments.weights,
            n_batch=arguments.batch_size,
            calibrate=False,
        )
    )
    temp = arguments.save_path / f"temp_{spec.name}"
    drawn = arguments.save_path / f"pictures_{spec.name}"
    drawn.mkdir(parents=True, exist_ok=True)
    forecast = fitter.forecast()
    print(
        f"forecast: peak memory {format_bytes(forecast.peak_bytes)}, "
        f"each model {format_bytes(forecast.file_bytes)}"
    )
    settings: Settings = {**settings_of(fitter), "n_seeds": 1}
    records: list[Record] = []
    failed: list[Failure] = []
    for category in categories:
        print(category.describe())
        try:
            records.append(_category(category, fitter, settings, temp, drawn, arguments.colormap))
        except PadimError as error:
            print(f"{category.name} failed: {error}")
            failed.append(Failure(category.name, type(error).__name__, str(error)))
    results = Results.of(settings, records, failed)
    write_roc(records, arguments.save_path / "roc_curve.png")
    means = results.means["all"] or {}
    for kind in ("image", "pixel"):
        print(f"Average {kind} ROCAUC: {_digits(means.get(f'{kind}_auroc'))}")
    print(f"\n{markdown(results)}")
    print(
        f"ROC curves: {arguments.save_path / 'roc_curve.png'}. "
        f"Pictures of {join_names(names, 15)}: {drawn}."
    )
    if failed:
        reasons = " ".join(f"{one.category}: {one.message}" for one in failed)
        raise PadimError(f"{len(failed)} of {len(names)} categories failed. {reasons}")


def _category(
    category: Category,
    fitter: "Fitter",
    settings: "Settings",
    temp: Path,
    drawn: Path,
    colormap: str,
) -> "Record":
    from padim.evaluation.category import evaluate
    from padim.evaluation.job import Job, record_of
    from padim.evaluation.pictures import pictures, save_pictures
    from padim.evaluation.run import fingerprint_of
    from padim.fitting.fit import build_model
    from padim.fitting.looks import Fitted

    model_path = temp / f"train_{category.name}.safetensors"
    known = _find_state(fitter, category.train, model_path)
    model = build_model(fitter, Fitted(known, ()) if known else fitter.fit(category.train))
    if not known:
        model.save(model_path)
    print(f"{'reused' if known else 'fitted'} {model_path}")
    evaluation = evaluate(model, category)
    record = record_of(
        Job(category, 0, fingerprint_of(category, settings, colormap)),
        evaluation,
        (),
        n_train=model.state.count,
        fit_s=None,
        fit_peak_bytes=None,
        model_bytes=model_path.stat().st_size,
    )
    for kind in ("image", "pixel"):
        print(f"{kind} ROCAUC: {_digits(record.row.metrics[f'{kind}_auroc'])}")
    made = enumerate(pictures(evaluation, fitter.encoder.preprocess, colormap))
    list(save_pictures((drawn / f"{category.name}_{i}.png", picture) for i, (_, picture) in made))
    return record


def _find_state(fitter: "Fitter", images: Sequence[Path], path: Path) -> "ModelState | None":
    """Load a model file when it is what a fit of these images would give."""
    from padim.method.gaussian import STORES
    from padim.model.file import load_state

    try:
        state = load_state(path)
    except (PathMissingError, ModelFileError):
        return None
    is_it = (
        state.encoder == fitter.encoder
        and state.recipe == fitter.recipe
        and (state.samples is not None) == fitter.settings.keep_samples
        and (state.calibration is not None) == (fitter.settings.calibrate and state.count > 1)
        and state.whitening[0].dtype == STORES[fitter.settings.store]
        and bool(state.trunk) == bool(fitter.trunk)
        and list(state.image_sha256) == sorted(sha256(image) for image in images)
    )
    return state if is_it else None


def _digits(auroc: float | None) -> str:
    return "n/a, one class only" if auroc is None else f"{auroc:.3f}"


if __name__ == "__main__":
    raise SystemExit(guard(lambda: run_guarded(lambda: _run(sys.argv[1:]))))
