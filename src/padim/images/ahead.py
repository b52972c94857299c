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
from padim.files import sha256
from padim.images.decode import decode, raise_own_errors, rgb_pixels

T = TypeVar("T")
R = TypeVar("R")
ImageInput = str | Path | bytes | bytearray | memoryview | Image.Image | NDArray[np.uint8]
IMAGE_TYPES = (str, Path, bytes, bytearray, memoryview, Image.Image, np.ndarray)  # of one image
Bring = Callable[[Image.Image | NDArray[np.uint8]], NDArray[np.uint8]]

WRITE_THREADS = 2
WRITE_BEHIND = 8  # results that wait to be written, at most
DECODE_THREADS = 2
DECODE_BYTES_PER_PX = 8  # Pillow's pixels and a copy of them on the way
DECODE_AHEAD = 16  # images decoded and not yet taken, at most


@dataclass(frozen=True)
class Loaded:
    """An image of the size that a model takes."""

    image: ImageInput  # as it was given
    pixels: NDArray[np.uint8]  # RGB, (H, W, 3)
    source_px: tuple[int, int]
    sha256: str  # as content_sha256 says; empty when not asked for
    picture: Image.Image | None = None  # the source image of a file, when it was to be kept

    @property
    def path(self) -> Path | None:
        """Where it came from; None for one given otherwise."""
        return Path(self.image) if isinstance(self.image, str | Path) else None


def open_image(image: ImageInput) -> Image.Image | NDArray[np.uint8]:
    """Read one image: a file, or its bytes, as `decode` does, one in memory as `rgb_pixels`."""
    if isinstance(image, str | Path):
        return decode(Path(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return decode(bytes(image))
    return rgb_pixels(image)


def content_sha256(image: ImageInput) -> str:
    """The sha256 of an image: of a file's bytes, or of the RGB pixels of an image in memory."""
    if isinstance(image, str | Path):
        with raise_own_errors(image):
            return sha256(Path(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return hashlib.sha256(image).hexdigest()
    return hashlib.sha256(np.ascontiguousarray(rgb_pixels(image)).data).hexdigest()


def load_image(image: ImageInput, bring: Bring, hashed: bool = False, kept_px: int = 0) -> Loaded:
    """Read one image and bring it to the size that a model takes.

    Args:
        image: What ``open_image`` takes.
        bring: The way to that size, by custom a ``Preprocess``.
        hashed: Whether its content is to be hashed.
        kept_px: Pixels of a file's picture that is kept, at most.
    """
    opened = open_image(image)
    kept = None
    if isinstance(opened, Image.Image):
        source_px = opened.height, opened.width
        kept = opened if opened.height * opened.width <= kept_px else None
    else:
        source_px = opened.shape[0], opened.shape[1]
    try:
        pixels = bring(opened)
    except ShapeError as error:
        if isinstance(image, str | Path):
            raise ShapeError(f"{image}: {error}") from error
        raise
    return Loaded(image, pixels, source_px, content_sha256(image) if hashed else "", kept)


def load_ahead(
    images: Iterable[ImageInput],
    bring: Bring,
    unreadable: Callable[[ImageReadError], None] | None = None,
    *,
    hashed: bool = False,
    kept_px: int = 0,
    n_ahead: int = DECODE_AHEAD,
) -> Iterator[Loaded]:
    """Do ``load_image`` in order, with the next images in threads while the caller works on these.

    At most ``n_ahead`` are taken and not yet given. ``unreadable`` is told of an image that cannot
    be read, which is then left out; it is raised when None.
    """

    def load(image: ImageInput) -> Loaded | ImageReadError:
        try:
            return load_image(image, bring, hashed, kept_px)
        except ImageReadError as error:
            return error

    for loaded in map_ahead(load, images, DECODE_THREADS, n_ahead):
        if isinstance(loaded, Loaded):
            yield loaded
        elif unreadable is None:
            raise loaded
        else:
            unreadable(loaded)


def map_ahead(
    work: Callable[[T], R], items: Iterable[T], n_threads: int, n_ahead: int
) -> Iterator[R]:
    """Do something with each item in threads, in order, while the caller works on what is done.

    Items are taken in the caller's thread, at most ``n_ahead`` of them whose results are not taken.
    What the work raises is raised in its place.
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
