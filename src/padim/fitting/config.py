"""The choices of a fit as a file under version control, and those that a model was fitted with."""

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, cast

from padim.errors import PathMissingError, UsageError
from padim.files import sha256
from padim.fitting.settings import CHOICES, KINDS, FitChoices, require_known
from padim.images.reading import AS_IT_IS

if TYPE_CHECKING:
    from padim.features.encoder import Encoder
    from padim.model.state import ModelState

_FILES = ("roi", "weights")
_MOST_BYTES = 1 << 20
_SEEDS = range(100)  # of draws that are compared with a model's


def read_choices(path: Path) -> FitChoices:
    """Read choices of a fit from a TOML file, each under the name of its field.

    Files in it are named from where it lies.

    Raises:
        PathMissingError: There is no such file.
        UsageError: It is no TOML, or a choice is unknown or cannot be had.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UsageError(f"{path} is a device or a pipe, but needs to be a file. Name a .toml.")
    if not path.is_file():
        raise PathMissingError(path)
    if path.stat().st_size > _MOST_BYTES:
        raise UsageError(f"{path} has more than {_MOST_BYTES >> 20} MiB. Name a .toml of choices.")
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8-sig")  # Notepad writes a mark
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of bytes, TOML, long numbers; of nesting
        raise UsageError(f"{path} is no TOML: {error}. Write lines such as eps = 0.01.") from None
    try:
        require_known(table)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    for name, value in table.items():
        try:
            table[name] = CHOICES[name].read(name, value, KINDS[name])
        except UsageError as error:
            raise UsageError(f"{path}, {name}: {error}") from None
        if name in _FILES:
            if not value:
                raise UsageError(f"{path}, {name}: there is no file of an empty name. Name one.")
            table[name] = path.parent / value
    return cast(FitChoices, table)


def format_choices(choices: FitChoices) -> str:
    """Choices of a fit as TOML, in the order of their fields; their values look as in JSON."""
    known = {name: choices.get(name) for name in CHOICES}
    return "".join(
        f"{name} = {json.dumps(str(value) if isinstance(value, Path) else value)}\n"
        for name, value in known.items()
        if value is not None
    )


def choices_of(state: "ModelState") -> FitChoices:
    """What to choose for a fit that gives a model again from the same images.

    A model knows neither its device nor its batch, nor which images were dropped. Files that it
    rests on are not in it: in the place of their names stands what to name there.

    Raises:
        UsageError: Its dimensions were drawn by a seed that is not known.
    """
    recipe, encoder = state.recipe, state.encoder
    choices: FitChoices = {
        "backbone": encoder.spec.name,
        "recipe": recipe.name,
        "size_px": recipe.size_px,
        "taps": encoder.spec.taps,
        "eps": recipe.eps,
        "eps_rule": recipe.eps_rule,
        "engine": encoder.engine.name,
        "precision": encoder.precision,
        "mirrored": recipe.mirrored,
        "coarse_scale": recipe.coarse_scale,
        "sigma_px": recipe.sigma_px,
        "score_fraction": recipe.score_fraction,
        "calibrate": state.calibration is not None or state.count == 1,
        "store": str(state.whitening[0].dtype).removeprefix("torch."),
        "include_backbone": bool(state.trunk),
        "keep_samples": state.samples is not None or len(encoder.tiling.tiles) > 1,
    }
    if recipe.tile_px is not None:
        choices["tile_px"] = recipe.tile_px
    if (reading := encoder.preprocess.reading) != AS_IT_IS:
        choices["white"], choices["page"] = reading.white, reading.page
    if encoder.preprocess.roi is not None:
        choices["roi"] = "the file of the region of interest"
    if recipe.tile_px is not None or encoder.preprocess.roi is not None:
        choices["tile_overlap_px"] = recipe.tile_overlap_px
    if not _is_published(encoder):
        choices["weights"] = f"the file of the weights with sha256 {encoder.weights_sha256}"
    if encoder.pyramid.n_dims == encoder.spec.n_dims:
        choices["dims"] = "all"
    else:
        choices["dims"], choices["dims_seed"] = encoder.pyramid.n_dims, _find_seed(encoder)
    return choices


def _is_published(encoder: "Encoder") -> bool:
    """Whether a model's weights are those that its backbone has without a file being named."""
    from padim.features.weights import locate, promised_hash

    if promised := promised_hash(encoder.spec.weights_file):
        return encoder.weights_sha256.startswith(promised)
    here = locate(encoder.spec)
    return here is None or sha256(here) == encoder.weights_sha256


def _find_seed(encoder: "Encoder") -> int:
    """The seed of the draw of a model's dimensions, which is not in its file."""
    from padim.method.pyramid import RANDOM_DIMS_SEED, build_pyramid

    for seed in _SEEDS:
        number = RANDOM_DIMS_SEED + seed
        drawn = build_pyramid(
            encoder.spec, encoder.preprocess.size_px, encoder.pyramid.n_dims, number
        )
        if drawn.levels == encoder.pyramid.levels:
            return seed
    raise UsageError(
        f"The model has {encoder.pyramid.n_dims} dimensions that no seed below {len(_SEEDS)} "
        "draws. Keep the settings of such a fit in a file of your own."
    )
