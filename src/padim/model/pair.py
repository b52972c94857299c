"""A model file and the moments beside it, which change together or not at all.

New moments are written under a third name, then the model takes its place, then the moments take
theirs. Whenever that is cut short, the moments of the model that is there are under one of the two
names, and say by the images that they were made of whose they are.
"""

from contextlib import suppress
from pathlib import Path

from padim.errors import ModelFileError, PathMissingError, UsageError
from padim.method.moments import Moments
from padim.model.file import load_moments, load_state, moments_belong, save_moments, save_state
from padim.model.state import ModelState


def moments_path(path: Path) -> Path:
    """Where the moments of a model file belong."""
    return path.with_name(f"{path.stem}.moments{path.suffix}")


def save_pair(state: ModelState, moments: Moments, path: Path) -> None:
    """Write a model file and the moments that it was made from, both or neither."""
    # Finish what was cut short, so that the name for new moments is free.
    with suppress(PathMissingError, ModelFileError):
        if _path_of_moments(load_state(path), path) == _next_path(path):
            _next_path(path).replace(moments_path(path))
    save_moments(moments, state, _next_path(path))
    save_state(state, path)
    _next_path(path).replace(moments_path(path))


def load_pair(path: Path) -> tuple[ModelState, Moments]:
    """Read a model file and its moments.

    Raises:
        PathMissingError: There is no such model file.
        UsageError: It has no moments beside it.
        ModelFileError: A file is damaged.
    """
    state = load_state(path)
    found = _path_of_moments(state, path)
    if found is None and len(state.tiling.tiles) > 1:
        raise UsageError(
            f"{path} looks at images tile by tile, and such models keep no moments. Fit it anew on "
            "all images."
        )
    if found is None:
        raise UsageError(
            f"{path} has no moments of its own beside it, as {moments_path(path).name}. Fit it "
            "with --keep-moments; in Python, with keep_moments=True and save(path, moments=True)."
        )
    return state, load_moments(found)


def _path_of_moments(state: ModelState, path: Path) -> Path | None:
    for candidate in (moments_path(path), _next_path(path)):
        with suppress(ModelFileError, PathMissingError):
            if moments_belong(candidate, state):
                return candidate
    return None


def _next_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.moments.next{path.suffix}")
