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

from padim.errors import ImageReadError
from padim.images import decode, upright_8_bit
from padim.preprocess import Preprocess

T = TypeVar("T")
ImageInput = str | Path | Image.Image | NDArray[np.uint8]

DECODE_THREADS = 2
DECODE_BYTES_PER_PX = 8  # Pillow's pixels and a copy of them on the way
DECODE_AHEAD = 16  # images decoded and not yet taken, at most


@dataclass(frozen=True)
class Loaded:
    """An image at network size.

    Attributes:
        path: Where it came from; None for one given as pixels.
        pixels: RGB, shape ``(H, W, 3)``, uint8.
        source_px: (height, width) of the source image.
        sha256: Of the file's bytes, or of the pixels for one given as pixels.
    """

    path: Path | None
    pixels: NDArray[np.uint8]
    source_px: tuple[int, int]
    sha256: str


def load_image(image: ImageInput, preprocess: Preprocess) -> Loaded:
    """Read one image and bring it to network size.

    Raises:
        ImageReadError: It cannot be read.
        ShapeError: It is an array, but not RGB of 8 bits.
    """
    if isinstance(image, str | Path):
        path = Path(image)
        picture = decode(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Loaded(path, preprocess(picture), (picture.height, picture.width), digest)
    if isinstance(image, Image.Image):
        image = np.asarray(upright_8_bit(image).convert("RGB"))
    pixels = preprocess(image)
    digest = hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()
    return Loaded(None, pixels, (image.shape[0], image.shape[1]), digest)


def load_ahead(
    images: Iterable[ImageInput],
    preprocess: Preprocess,
    unreadable: Callable[[ImageReadError], None] | None = None,
) -> Iterator[Loaded]:
    """Read images in order, the next ones in threads while the caller works on these.

    Args:
        images: What to read.
        preprocess: The way to network size.
        unreadable: Told of an image that cannot be read, which is then left out; raised when None.

    Yields:
        The images, in the order given.

    Raises:
        ImageReadError: An image cannot be read and nobody is told.
    """
    rest = iter(images)
    with ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="padim-decode") as pool:
        pending: deque[Future[Loaded]] = deque(
            pool.submit(load_image, image, preprocess) for image in islice(rest, DECODE_AHEAD)
        )
        try:
            while pending:
                try:
                    loaded = pending.popleft().result()
                except ImageReadError as error:
                    if unreadable is None:
                        raise
                    unreadable(error)
                else:
                    yield loaded
                for image in islice(rest, 1):
                    pending.append(pool.submit(load_image, image, preprocess))
        finally:
            for future in pending:
                future.cancel()


def batched(items: Iterable[T], n_items: int) -> Iterator[list[T]]:
    """Group items, the last group being what is left."""
    rest = iter(items)
    while group := list(islice(rest, n_items)):
        yield group
