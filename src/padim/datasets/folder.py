"""Which image files a folder holds."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from padim.errors import DatasetError, PathMissingError, format_count
from padim.images.decode import IMAGE_SUFFIXES
from padim.images.stream import is_stdin
from padim.places import Place


def list_images(folder: Path, *, recursive: bool = False) -> tuple[Path, ...]:
    """List the images of a folder, by suffix, in an order that no machine changes.

    What begins with a dot is skipped, and links to folders inside are not followed.

    Returns:
        Files, sorted by their POSIX path relative to ``folder``, code point by code point.

    Raises:
        PathMissingError: There is no such folder.
        DatasetError: It is a file, or may not be read.
    """
    files = [path for path in _files(folder, recursive) if path.suffix.lower() in IMAGE_SUFFIXES]
    return tuple(sorted(files, key=lambda path: path.relative_to(folder).as_posix()))


def expand(paths: Sequence[Path], *, recursive: bool) -> tuple[Path, ...]:
    """Replace every folder by its images; files are kept in their order, whatever their suffix.

    So is what stands for standard input.

    Raises:
        PathMissingError: A path does not exist.
        DatasetError: A folder has no images.
    """
    return drop_repeats(
        file
        for path in paths
        for file in (
            some_images(path, recursive=recursive)
            if not is_stdin(path) and is_folder(path)
            else (path,)
        )
    )


def folder_name(folder: Path) -> str:
    """Name a folder, even from within."""
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def list_visible(folder: Path) -> list[Path]:
    """List what is in a folder and does not begin with a dot, sorted by name.

    Raises:
        PathMissingError: There is no such folder.
        DatasetError: It is a file, or may not be read.
    """
    if not is_folder(folder, "a folder"):
        raise DatasetError(f"{folder} is no folder, but needs to be one. Give its folder.")
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise _unreadable(folder, error) from error


def list_folders(folder: Path) -> list[Path]:
    """List the folders in a folder that may be missing, without hidden ones, sorted by name.

    Raises:
        DatasetError: It may not be read.
    """
    if not folder.is_dir():
        return []
    try:
        with scan(folder) as entries:
            names = sorted(
                entry.name for entry in entries if entry.is_dir() and entry.name[0] != "."
            )
    except OSError as error:
        raise _unreadable(folder, error) from error
    return [folder / name for name in names]


def scan(folder: Path) -> AbstractContextManager[Iterable["os.DirEntry[str] | Path"]]:
    """Go through a folder; what is in it is known to be a folder or not without a look at each."""
    return nullcontext(folder.iterdir()) if isinstance(folder, Place) else os.scandir(folder)


def some_images(folder: Path, *, recursive: bool = False) -> tuple[Path, ...]:
    """List the images of a folder, of which there must be at least one.

    Raises:
        PathMissingError: There is no such folder.
        DatasetError: It has no images.
    """
    images = list_images(folder, recursive=recursive)
    if images:
        return images
    n_others = sum(1 for _ in _files(folder, recursive))
    deeper = () if recursive else list_images(folder, recursive=True)
    inside = format_count(len(deeper), "image")
    advice = f"Use --recursive to take the {inside} of the folders inside it."
    others = f" but {format_count(n_others, 'other file')}" if n_others else ""
    raise DatasetError(
        f"{folder} has no images{others}; it needs files that end in "
        f"{', '.join(sorted(IMAGE_SUFFIXES))}. {advice if deeper else 'Check the path.'}"
    )


def _files(folder: Path, recursive: bool) -> Iterator[Path]:
    for path in list_visible(folder):
        if path.is_file():
            yield path
        elif recursive and path.is_dir() and not path.is_symlink():
            yield from _files(path, recursive)


def folders_in(folder: Path, recursive: bool) -> Iterator[Path]:
    """Go through the folders of a folder, in order; links are not followed further."""
    for path in list_visible(folder):
        if path.is_dir():
            yield path
            if recursive and not path.is_symlink():
                yield from folders_in(path, recursive)


def is_folder(path: Path, needed: str = "an image or a folder of images") -> bool:
    """Whether a path that must exist, and that something is needed of, is a folder.

    Raises:
        PathMissingError: It does not exist.
        DatasetError: It may not be looked at.
    """
    try:
        if not path.exists():
            raise PathMissingError(path, needed)
        return path.is_dir()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DatasetError:
    return DatasetError(
        f"{path} has an obstacle ({error.strerror}), but needs to be readable. "
        "Check its name and its permissions."
    )


def drop_repeats(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Keep the first of paths that mean one file."""
    first: dict[Path, Path] = {}
    for path in paths:
        first.setdefault(path.absolute(), path)
    return tuple(first.values())
