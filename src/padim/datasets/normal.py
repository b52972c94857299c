"""The good images that a path stands for, whatever it is."""

from collections.abc import Sequence
from pathlib import Path

from padim.datasets.folder import drop_repeats, folders_in, is_folder, some_images
from padim.datasets.layouts import layout_of
from padim.datasets.manifest import is_manifest, read_manifest
from padim.datasets.mvtec import MVTEC
from padim.errors import DatasetError, join_names


def normal_images(path: Path | Sequence[Path], *, recursive: bool = False) -> tuple[Path, ...]:
    """List the normal images to learn from, each once.

    Args:
        path: A category of any layout, of which only what is to be fitted on is taken; any other
            folder, whose own images are taken; an image; or several of these.
        recursive: Look into the folders inside as well.

    Raises:
        PathMissingError: A path does not exist.
        DatasetError: A folder has no images, or holds several categories.
    """
    paths = [path] if isinstance(path, Path) else path
    return drop_repeats(file for one in paths for file in _normal_images(one, recursive))


def _normal_images(path: Path, recursive: bool) -> tuple[Path, ...]:
    if not is_folder(path):
        return read_manifest(path).train if is_manifest(path) else (path,)
    if MVTEC.fits(path):
        return some_images(path / MVTEC.train, recursive=recursive)
    if (layout := layout_of(path)) is not None:
        return layout.read(path).train
    categories = [folder for folder in folders_in(path, recursive) if layout_of(folder)]
    if categories:
        names = join_names(folder.relative_to(path).as_posix() for folder in categories)
        raise DatasetError(
            f"{path} has categories inside ({names}), but needs to be of one thing. "
            f"Name one category, such as {categories[0]}."
        )
    return some_images(path, recursive=recursive)
