"""A model file and the moments beside it, which change together or not at all.

New moments are written under a third name, then the model takes its place, then the moments take
theirs. Whenever that is cut short, the moments of the model that is there are under one of the two
names, and say by the images that they were made of whose they are.
"""

from contextlib import suppress
from pathlib import Path

from padim.errors import ModelFileError, PathMissingError, UsageError
from padim.files import move
from padim.method.moments import Moments
from padim.model.file import (
    find_content,
    load_moments,
    load_state,
    moments_belong,
    save_moments,
    save_state,
)
from padim.model.state import ModelState


def moments_path(path: Path) -> Path:
    """Where the moments of a model file belong."""
    return path.with_name(f"{path.stem}.moments{path.suffix}")


def save_pair(state: ModelState, moments: Moments, path: Path) -> None:
    """Write a model file and the moments that it was made from, both or neither."""
    # Finish what was cut short, so that the name for new moments is free.
    with suppress(PathMissingError, ModelFileError):
        is_cut_short = next_moments_path(path).exists()
        if is_cut_short and _path_of_moments(load_state(path), path) == next_moments_path(path):
            move(next_moments_path(path), moments_path(path))
    save_moments(moments, state, next_moments_path(path))
    save_state(state, path)
    move(next_moments_path(path), moments_path(path))


def save_alone(state: ModelState, path: Path) -> None:
    """Write a model file without moments; those of another model that was there before go."""
    save_state(state, path)
    for moments in (moments_path(path), next_moments_path(path)):
        with suppress(ModelFileError, PathMissingError):  # no file of ours
            if find_content(moments) == "moments" and not moments_belong(moments, state):
                moments.unlink()


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
    for candidate in (moments_path(path), next_moments_path(path)):
        with suppress(ModelFileError, PathMissingError):
            if moments_belong(candidate, state):
                return candidate
    return None


def next_moments_path(path: Path) -> Path:
    """Where new moments of a model file are, until they take the place of those of before."""
    return path.with_name(f"{path.stem}.moments.next{path.suffix}")
