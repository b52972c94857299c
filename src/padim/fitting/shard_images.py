"""Which images are in a shard: that depends on their bytes alone."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from padim.errors import DatasetError, PathMissingError, format_count
from padim.images.ahead import DECODE_THREADS, content_sha256, hash_all
from padim.model.shard_file import Shard
from padim.places import find_place

_LISTED = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def choose_images(
    images: Sequence[Path], shard: Shard, known: Mapping[Path, str] | None = None
) -> dict[Path, str]:
    """The images of a shard and their sha256, in whose order they are.

    Args:
        images: All there are.
        shard: Which.
        known: The sha256 of each image, as ``read_hashes`` gives them; all are read for it when
            None.

    Raises:
        ImageReadError: An image cannot be read.
        DatasetError: The shard has none, or the sha256 of one is not known.
    """
    if known is None:
        known = dict(zip(images, hash_all(images, content_sha256, DECODE_THREADS), strict=True))
    elif strange := [path for path in images if path not in known]:
        raise DatasetError(f"The sha256 of {strange[0]} is not in the list. Make the list anew.")
    chosen = sorted((known[path], path) for path in images if shard.has(known[path]))
    if not chosen:
        count = format_count(len(images), "image")
        raise DatasetError(f"Shard {shard} has none of the {count}. Split them into fewer shards.")
    return {path: digest for digest, path in chosen}


def read_hashes(path: Path) -> dict[Path, str]:
    """Read the list that ``sha256sum FILES > LIST`` writes, whose names are as they were given.

    Raises:
        PathMissingError: There is no such file.
        DatasetError: It is no such list.
    """
    if not path.is_file():
        raise PathMissingError(path)
    found: dict[Path, str] = {}
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            match = _LISTED.fullmatch(line.rstrip("\r\n"))
            if match is None:
                raise DatasetError(
                    f"{path}, line {number}, is none of sha256sum. Make it by sha256sum FILES."
                )
            found[find_place(match[2])] = match[1]
    return found
