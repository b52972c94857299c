"""Maps of many images in one Zarr array, as counts of 8 bits on a fixed scale of score.

A count c of 1 to 255 stands for the score 2^((c - 1) / 20): from 1 to 6,654, each within 1.75%. A
lower score counts as 1, a higher one as 255. 0 is where a map does not look, or an image has none.
"""

import json
import operator
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from padim.errors import DatasetError, MissingExtraError, PathMissingError, UsageError
from padim.files import write_whole
from padim.scoring.parts import DONE, read_summary

FOLDER = "maps.zarr"
_PER_DOUBLING = 20
_SCALE = f"2 ** ((count - 1) / {_PER_DOUBLING}); 0: no score"
_MOST_PX = 1 << 26  # of a map
_SCORES = np.exp2((np.arange(256) - 1) / _PER_DOUBLING).astype(np.float32)
_SCORES[0] = np.nan
_LEVEL = 3  # of zstd: 9 makes maps an eighth smaller, and takes three times as long


def count_scores(anomaly_map: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The counts of a map, of any shape."""
    doublings = np.log2(np.fmax(anomaly_map, np.float32(1)))
    counts = np.minimum(np.rint(_PER_DOUBLING * doublings), 254) + 1
    return np.where(np.isnan(anomaly_map), 0, counts).astype(np.uint8)


def score_counts(counts: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The scores that counts stand for; NaN for 0."""
    return _SCORES[counts]


def read_map(folder: str | Path, index: int) -> NDArray[np.float32]:
    """Read the map of one image from the results of many.

    Args:
        folder: What ``write_parquet`` or ``padim predict --parquet --maps zarr`` wrote into.
        index: Of the image: the column ``index`` of its row.

    Returns:
        Standard deviations of normal patches, shape ``(H, W)`` of the network, from 1 to 6,654 and
        within 1.75%; NaN where the map does not look, and for an image that could not be read.

    Raises:
        PathMissingError: The results have no maps.
        UsageError: The results have no such image.
        DatasetError: The run is not finished, or the maps are damaged or missing.
        MissingExtraError: zarr is not installed.

    Examples:
        >>> model = padim.load("part.safetensors")
        >>> n_rows = padim.write_parquet(model, ["good.png", "spot.png"], "maps", maps=True)
        >>> padim.read_map("maps", 1).shape
        (64, 64)
    """
    place = Path(folder) / FOLDER
    if not place.is_dir():
        raise PathMissingError(place)
    zarr = _import_zarr()
    try:
        summary = read_summary(place.parent / DONE)
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{folder} is not finished. Run padim predict again.") from error
    n_images = summary.n_images
    try:
        place_in_list = operator.index(index)
    except TypeError:
        place_in_list = -1
    if not 0 <= place_in_list < n_images:
        raise UsageError(
            f"The index is {index!r}, but {place} has maps of {n_images} images, from 0 on. "
            "Take the column index of a row."
        )
    is_left_out = any(one.index == index for one in summary.unreadable)
    try:
        has_file = (place / name_file(place_in_list // summary.n_images_of_a_part)).is_file()
        counts = zarr.open_array(place, mode="r")
        if (counts.ndim, counts.shape[0], str(counts.dtype)) != (3, n_images, "uint8"):
            raise ValueError(counts.shape)
        if counts.shape[1] * counts.shape[2] > _MOST_PX or not (has_file or is_left_out):
            raise ValueError(counts.shape)
        return score_counts(np.asarray(counts[place_in_list]))
    except MemoryError:
        raise
    except Exception as error:  # whatever zarr finds wrong with a file
        raise DatasetError(
            f"The map {index} of {place} is damaged or missing. Run padim predict again."
        ) from error


def is_map_array(folder: Path) -> bool:
    """Whether a folder is an array of maps of a run, or is empty but for what a kill left."""
    try:
        if all(entry.name.startswith(".") for entry in folder.iterdir()):
            return True
        attributes = json.loads((folder / "zarr.json").read_bytes())["attributes"]
        return bool(attributes["score"] == _SCALE)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def name_file(number: int) -> str:
    """The file of a part's maps, below the folder of the array."""
    return f"c/{number}/0/0"


def drop_maps(folder: Path, kept: Container[str]) -> None:
    """Remove the maps of parts from an array but those in the files that are kept."""
    for file in sorted(folder.glob("c/*/0/0")):
        if file.relative_to(folder).as_posix() not in kept:
            file.unlink()
            _drop_empty(file.parent, file.parent.parent)
    if not list(folder.glob("c/*")):
        _drop_empty(folder / "c")
        (folder / "zarr.json").unlink(missing_ok=True)
        _drop_empty(folder)


def _drop_empty(*folders: Path) -> None:
    """Remove folders that are empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def pack_counts(counts: NDArray[np.uint8], n_part: int) -> bytes:
    """The file of a part's maps, shape ``(n, H, W)``, n at most ``n_part``."""
    array, files = _make((n_part, *counts.shape[1:]), n_part)
    array[: len(counts)] = counts
    return bytes(files[name_file(0)].to_bytes())


class MapArray:
    """The maps of a run in a folder, a file for each part.

    Args:
        folder: Of the array.
        n_images: How many maps it has room for.
        n_part: Images of a part.
        size_px: (H, W) of a map.

    Raises:
        MissingExtraError: zarr is not installed.
    """

    def __init__(self, folder: Path, n_images: int, n_part: int, size_px: tuple[int, int]) -> None:
        self.folder = folder
        self.shape = (n_images, *size_px)
        self.n_part = n_part
        _import_zarr()

    def begin(self) -> None:
        """Write what says how the array is laid out."""
        self._write("zarr.json", _make(self.shape, self.n_part)[1]["zarr.json"].to_bytes())

    def write(self, number: int, packed: bytes) -> None:
        """Write the maps of a part, as ``pack_counts`` gave them."""
        self._write(name_file(number), packed)

    def _write(self, name: str, content: bytes) -> None:
        with write_whole(self.folder / name, is_one_of_many=True) as partial:
            partial.write_bytes(content)


def _make(shape: tuple[int, ...], n_part: int) -> tuple[Any, dict[str, Any]]:
    """An array in memory, and its files: zarr itself leaves half a file where it is killed."""
    zarr = _import_zarr()
    files: dict[str, Any] = {}  # buffers of zarr, which may not be installed
    array = zarr.create_array(
        zarr.storage.MemoryStore(files),
        shape=shape,
        dtype="uint8",
        chunks=(1, *shape[1:]),
        shards=(n_part, *shape[1:]),
        compressors=zarr.codecs.ZstdCodec(level=_LEVEL),
        filters=None,
        fill_value=0,
        dimension_names=("image", "y", "x"),
        attributes={"score": _SCALE},
    )
    return array, files


def _import_zarr() -> Any:
    try:
        import zarr
    except ModuleNotFoundError as error:
        raise MissingExtraError("zarr", "zarr") from error
    return zarr
