"""Decode images ahead of the network, in threads, in order, and never many bytes at a time."""

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from padim.errors import ImageReadError, ShapeError
from padim.images.decode import (
    Depth,
    Hold,
    decode_with_depth,
    reduce_to_8_bit,
    rgb_pixels,
    take_any,
)
from padim.images.failures import raise_own_errors
from padim.images.reading import AS_IT_IS, Reading
from padim.images.stream import fetch, open_regular
from padim.places import FAR_THREADS, find_place, is_far

T = TypeVar("T")
R = TypeVar("R")
ImageInput = str | Path | bytes | bytearray | memoryview | Image.Image | NDArray[np.uint8]
IMAGE_TYPES = (str, Path, bytes, bytearray, memoryview, Image.Image, np.ndarray)  # of one image
Bring = Callable[[Image.Image | NDArray[np.uint8]], NDArray[np.uint8]]

WRITE_THREADS = 2
WRITE_BEHIND = 8  # results that wait to be written, at most
DECODE_THREADS = 2
DECODE_AHEAD = 16  # images decoded and not yet taken, at most
AHEAD_BYTES = 2**30  # that images which are not yet taken may hold, unless it is a single one


@dataclass(frozen=True)
class Loaded:
    """An image of the size that a model takes."""

    image: ImageInput  # as it was given
    pixels: NDArray[np.uint8]  # RGB, (H, W, 3)
    source_px: tuple[int, int]
    sha256: str  # as content_sha256 says; empty when not asked for
    depth: Depth  # what it was before it had 8 bits
    picture: Image.Image | None = None  # the source image of a file, when it was to be kept

    @property
    def brightness(self) -> float:
        """Mean grey level of every fourth row and column, 0 to 255."""
        return float(self.pixels[::4, ::4].mean())

    @property
    def path(self) -> Path | None:
        """Where it came from; None for one given otherwise."""
        return find_place(self.image) if isinstance(self.image, str | Path) else None


def open_image(
    image: ImageInput, reading: Reading = AS_IT_IS, hold: Hold = take_any
) -> tuple[Image.Image | NDArray[np.uint8], Depth]:
    """Read one image: a file, or its bytes, as `decode` does, one in memory as `rgb_pixels`.

    Returns:
        The image of 8 bits, and what it was before.

    Raises:
        ImageReadError: It cannot be read.
        ShapeError: It is in memory, and of another shape or type, or without a pixel.
        UsageError: It is no image.
    """
    if isinstance(image, str | Path):
        return decode_with_depth(find_place(image), reading, hold)
    if isinstance(image, bytearray | memoryview):
        image = bytes(image)
    if isinstance(image, bytes):
        return decode_with_depth(image, reading, hold)
    if isinstance(image, Image.Image):
        found, depth = reduce_to_8_bit(image, white=reading.white)
        return rgb_pixels(found), depth
    pixels = rgb_pixels(image)
    is_grey = image.ndim == 2 or image.shape[2] == 1
    return pixels, Depth("8-bit grey" if is_grey else "8-bit colour")


def content_sha256(image: ImageInput) -> str:
    """The sha256 of an image: of a file's bytes, or of the RGB pixels of an image in memory."""
    if isinstance(image, str | Path):
        with raise_own_errors(image), open_regular(find_place(image)) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    if isinstance(image, bytes | bytearray | memoryview):
        return hashlib.sha256(image).hexdigest()
    return hashlib.sha256(np.ascontiguousarray(rgb_pixels(image)).data).hexdigest()


def hash_all(images: Sequence[T], digest: Callable[[T], R], n_threads: int = 1) -> list[R]:
    """What ``digest`` gives of each image, in threads; in more where one is behind a network."""
    if any(map(is_far, images)):
        n_threads = FAR_THREADS
    return list(map_ahead(digest, images, n_threads, 2 * n_threads))


def load_image(
    image: ImageInput,
    bring: Bring,
    reading: Reading = AS_IT_IS,
    *,
    hashed: bool = False,
    kept_px: int = 0,
    hold: Hold = take_any,
) -> Loaded:
    """Read one image and bring it to the size that a model takes.

    Args:
        image: What ``open_image`` takes.
        bring: The way to that size, by custom a ``Preprocess``.
        reading: How files are read.
        hashed: Whether its content is to be hashed.
        kept_px: Pixels of a file's picture that is kept, at most.
        hold: Told how many bytes of memory it takes, before and after.

    Raises:
        ImageReadError: It cannot be read.
        ShapeError: ``bring`` does not take its size, or as ``open_image``.
        UsageError: It is no image.
    """
    file = fetch(find_place(image)) if isinstance(image, str | Path) else image
    opened, depth = open_image(file, reading, hold)
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
    hold(pixels.nbytes + (3 * kept.height * kept.width if kept else 0))
    digest = content_sha256(file) if hashed else ""
    return Loaded(image, pixels, source_px, digest, depth, kept)


def load_ahead(
    images: Iterable[ImageInput],
    bring: Bring,
    unreadable: Callable[[ImageReadError], None] | None = None,
    *,
    reading: Reading = AS_IT_IS,
    hashed: bool = False,
    kept_px: int = 0,
    n_ahead: int = DECODE_AHEAD,
    n_threads: int = DECODE_THREADS,
) -> Iterator[Loaded]:
    """Do ``load_image`` in order, with the next images in threads while the caller works on these.

    At most ``n_ahead`` are taken and not yet given. ``unreadable`` is told of an image that cannot
    be read, which is then left out; it is raised when None. More threads wait where the first image
    is behind a network.
    """

    def load(image: ImageInput, hold: Hold) -> Loaded | ImageReadError:
        try:
            return load_image(image, bring, reading, hashed=hashed, kept_px=kept_px, hold=hold)
        except ImageReadError as error:
            return error

    rest = iter(images)
    first = list(islice(rest, 1))
    if any(map(is_far, first)):
        n_threads = max(n_threads, FAR_THREADS)
    for loaded in map_within(load, chain(first, rest), n_threads, n_ahead):
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
    What the work raises is raised in its place; what taking items raises, once all that were taken
    before are done.
    """
    return map_within(lambda item, _hold: work(item), items, n_threads, n_ahead)


def map_within(
    work: Callable[[T, Hold], R],
    items: Iterable[T],
    n_threads: int,
    n_ahead: int,
    n_bytes: int = AHEAD_BYTES,
) -> Iterator[R]:
    """Do as ``map_ahead``, with work that says how many bytes it takes, and waits for them.

    Together those whose results are not taken hold at most ``n_bytes``, unless it is a single one.
    """
    rest, room = enumerate(items), _Room(n_bytes)

    def run(place: int, item: T) -> R:
        try:
            return work(item, partial(room.hold, place))
        finally:
            room.pass_turn(place)

    with ThreadPoolExecutor(n_threads, thread_name_prefix="padim") as pool:
        pending: deque[Future[R]] = deque()
        failure: Exception | None = None
        try:
            n_wanted, n_taken = n_ahead, 0
            while True:
                try:
                    for place, item in islice(rest, 0 if failure else n_wanted):
                        pending.append(pool.submit(run, place, item))
                except Exception as error:  # raised below, after what was taken before
                    failure = error
                if not pending:
                    break
                yield pending.popleft().result()
                room.leave(n_taken)
                n_wanted, n_taken = 1, n_taken + 1
            if failure is not None:
                raise failure
        finally:
            room.close()
            for future in pending:
                future.cancel()


class _Room:
    """Memory that pieces of work take in their order, and give back when their results are taken.

    One that is alone may take any amount, so that none waits for ever.
    """

    def __init__(self, n_bytes: int) -> None:
        self._n_bytes = n_bytes
        self._held: dict[int, int] = {}
        self._passed: set[int] = set()
        self._turn = 0
        self._is_closed = False
        self._changed = threading.Condition()

    def hold(self, place: int, n_bytes: int) -> None:
        """Take so many bytes, once those before have; or correct how many are held."""

        def may_go() -> bool:
            is_room = not self._held or sum(self._held.values()) + n_bytes <= self._n_bytes
            return self._is_closed or place < self._turn or (place == self._turn and is_room)

        with self._changed:
            self._changed.wait_for(may_go)
            if self._is_closed:
                raise CancelledError
            self._held[place] = n_bytes
            self._pass(place)

    def pass_turn(self, place: int) -> None:
        """Let the next one have its turn."""
        with self._changed:
            self._pass(place)

    def leave(self, place: int) -> None:
        """Give back what is held."""
        with self._changed:
            self._held.pop(place, None)
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _pass(self, place: int) -> None:
        if place >= self._turn:
            self._passed.add(place)
        while self._turn in self._passed:
            self._passed.remove(self._turn)
            self._turn += 1
        self._changed.notify_all()


def batched(items: Iterable[T], n_items: int) -> Iterator[list[T]]:
    """Group items, the last group being what is left, also when there is an error after it."""
    rest = iter(items)
    while True:
        group: list[T] = []
        try:
            group.extend(islice(rest, n_items))
        except Exception:
            if group:
                yield group
            raise
        if not group:
            return
        yield group
