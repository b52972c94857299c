"""Decode images ahead of the network, in threads, in order, and never many at a time."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from padim.errors import ImageReadError, ShapeError
from padim.images.decode import decode, upright_8_bit

T = TypeVar("T")
R = TypeVar("R")
ImageInput = str | Path | Image.Image | NDArray[np.uint8]
Bring = Callable[[Image.Image | NDArray[np.uint8]], NDArray[np.uint8]]

WRITE_THREADS = 2
WRITE_BEHIND = 8  # results that wait to be written, at most
DECODE_THREADS = 2
DECODE_BYTES_PER_PX = 8  # Pillow's pixels and a copy of them on the way
DECODE_AHEAD = 16  # images decoded and not yet taken, at most


@dataclass(frozen=True)
class Loaded:
    """An image of the size that a model takes.

    Attributes:
        path: Where it came from; None for one given as pixels.
        pixels: RGB, shape ``(H, W, 3)``, uint8.
        source_px: (height, width) of the source image.
        sha256: Of the file's bytes, or of the pixels for one given as pixels; empty when not asked
            for.
        picture: The source image of a file, when it was to be kept.
    """

    path: Path | None
    pixels: NDArray[np.uint8]
    source_px: tuple[int, int]
    sha256: str
    picture: Image.Image | None = None


def load_image(image: ImageInput, bring: Bring, hashed: bool = False, kept_px: int = 0) -> Loaded:
    """Read one image and bring it to the size that a model takes.

    Args:
        image: What to read.
        bring: The way to that size, by custom a ``Preprocess``.
        hashed: Whether its content is to be hashed.
        kept_px: Pixels of a source image that is kept, at most.

    Raises:
        ImageReadError: It cannot be read.
        ShapeError: It is an array, but not RGB of 8 bits, or not of the size that ``bring`` wants.
    """
    digest = ""
    if isinstance(image, str | Path):
        path = Path(image)
        picture = decode(path)
        if hashed:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        source_px = picture.height, picture.width
        kept = picture if picture.height * picture.width <= kept_px else None
        try:
            return Loaded(path, bring(picture), source_px, digest, kept)
        except ShapeError as error:
            raise ShapeError(f"{path}: {error}") from error
    if isinstance(image, Image.Image):
        image = np.asarray(upright_8_bit(image).convert("RGB"))
    pixels = bring(image)
    if hashed:
        digest = hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()
    return Loaded(None, pixels, (image.shape[0], image.shape[1]), digest)


def load_ahead(
    images: Iterable[ImageInput],
    bring: Bring,
    unreadable: Callable[[ImageReadError], None] | None = None,
    *,
    hashed: bool = False,
    kept_px: int = 0,
) -> Iterator[Loaded]:
    """Read images in order, the next ones in threads while the caller works on these.

    Args:
        images: What to read.
        bring: The way to the size that a model takes.
        unreadable: Told of an image that cannot be read, which is then left out; raised when None.
        hashed: Whether their content is to be hashed.
        kept_px: Pixels of a source image that is kept, at most.

    Yields:
        The images, in the order given.

    Raises:
        ImageReadError: An image cannot be read and nobody is told.
        ShapeError: As for ``load_image``.
    """

    def load(image: ImageInput) -> Loaded | ImageReadError:
        try:
            return load_image(image, bring, hashed, kept_px)
        except ImageReadError as error:
            return error

    for loaded in mapped_ahead(load, images, DECODE_THREADS, DECODE_AHEAD):
        if isinstance(loaded, Loaded):
            yield loaded
        elif unreadable is None:
            raise loaded
        else:
            unreadable(loaded)


def mapped_ahead(
    work: Callable[[T], R], items: Iterable[T], n_threads: int, n_ahead: int
) -> Iterator[R]:
    """Do something with each item in threads, in order, while the caller works on what is done.

    Args:
        work: What to do.
        items: With what; taken in the caller's thread.
        n_threads: Threads.
        n_ahead: Items taken whose results are not, at most.

    Yields:
        What it gave, in the order of the items. What it raises is raised in its place.
    """
    rest = iter(items)
    with ThreadPoolExecutor(n_threads, thread_name_prefix="padim") as pool:
        pending: deque[Future[R]] = deque()
        try:
            for item in islice(rest, n_ahead):
                pending.append(pool.submit(work, item))
            while pending:
                yield pending.popleft().result()
                for item in islice(rest, 1):
                    pending.append(pool.submit(work, item))
        finally:
            for future in pending:
                future.cancel()


def batched(items: Iterable[T], n_items: int) -> Iterator[list[T]]:
    """Group items, the last group being what is left."""
    rest = iter(items)
    while group := list(islice(rest, n_items)):
        yield group
