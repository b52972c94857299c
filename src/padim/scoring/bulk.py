"""Results of a million images: scored part by part, and what is written whole is not done again."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from padim.errors import ImageReadError, UsageError
from padim.files import lock_folder, plain_text, sha256, write_text
from padim.images.ahead import hash_all, map_ahead
from padim.places import find_place
from padim.scoring import map_array, parts
from padim.scoring.bulk_part import (
    Note,
    Packed,
    PackParts,
    PartChoices,
    PartImages,
    score_part,
    try_hash,
)
from padim.scoring.journal import Run
from padim.scoring.map_array import MapArray, drop_maps, is_map_array, name_file
from padim.scoring.parts import LeftOut, Part, PartFolder, is_summary
from padim.scoring.prediction import PredictionRecord
from padim.scoring.predictor import Predictor
from padim.scoring.writer import require_region_px

_MOST_IMAGES = 1024  # of a part
_MOST_MAP_BYTES = 128 << 20  # of a part
_OF_OTHERS = ("predictions.csv", ".predictions.jsonl")
Unreadable = Callable[[ImageReadError], None] | None


class BulkResults:
    """Rows of any number of images in a folder, and maps if wanted; in a ``with`` block.

    No other process writes into the folder meanwhile. ``find_done`` comes first, then ``score``;
    ``finish`` once that has given all.

    Args:
        predictor: What scores.
        images: Paths of images, none of them a pipe; their order is that of the rows.
        folder: Where the results go.
        maps: Whether maps are written, at the size that the network sees.
        min_region_px: Source pixels of a region, at least.

    Attributes:
        replaced: Whether parts of another run were there, which are gone.

    Raises:
        MissingExtraError: pyarrow, or with maps zarr, is not installed.
        UsageError: The folder has results of another kind.
    """

    def __init__(
        self,
        predictor: Predictor,
        images: Sequence[Path],
        folder: Path,
        *,
        maps: bool = False,
        min_region_px: int = 1,
    ) -> None:
        require_region_px(min_region_px)
        self.predictor = predictor
        self.images = images
        self.folder = folder
        self.min_region_px = min_region_px
        self.replaced = False
        self._parts = PartFolder(
            folder / parts.FOLDER, self._describe_run(maps), predictor.decision
        )
        size_px = predictor.preprocess.size_px
        self.n_part = _MOST_IMAGES
        self._maps: MapArray | None = None
        if maps:
            self.n_part = max(1, min(_MOST_IMAGES, _MOST_MAP_BYTES // (size_px[0] * size_px[1])))
            self._maps = MapArray(folder / map_array.FOLDER, len(images), self.n_part, size_px)
        self._waiting = set(range(-(-len(images) // self.n_part)))
        self._n_rows = 0
        self._left_out: list[LeftOut] = []
        self._held = ExitStack()

    def __enter__(self) -> Self:
        if found := [name for name in _OF_OTHERS if (self.folder / name).exists()]:
            raise UsageError(
                f"{self.folder} has {found[0]}, results as CSV, but Parquet needs a folder of its "
                "own. Choose another."
            )
        is_begun = (self.folder / parts.FOLDER).is_dir()
        for name, is_ours in ((map_array.FOLDER, is_map_array), (parts.DONE, is_summary)):
            place = self.folder / name
            if place.exists() and not is_begun and not is_ours(place):
                raise UsageError(
                    f"{self.folder} has a {name} of something else, but results need a folder of "
                    "their own. Choose another."
                )
        with ExitStack() as held:
            held.enter_context(lock_folder(self.folder))
            (self.folder / parts.DONE).unlink(missing_ok=True)
            for file, number in self._parts.list_files().items():
                self.replaced |= (is_of_another := self._parts.is_of_another(file))
                if is_of_another or number not in self._waiting:
                    file.unlink()
            self._drop_maps()
            self._held = held.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held.__exit__(kind, error, trace)

    def find_done(self, unreadable: Unreadable = None) -> Iterator[PredictionRecord]:
        """Give the rows of parts that are whole and whose images are as they were.

        What else is there of this run goes.

        Args:
            unreadable: Told of images that were left out; when None, their parts are not done.
        """
        for number in sorted(self._waiting):
            part = self._find_whole(number, has_left_out=unreadable is not None)
            if part is None:
                self._parts.name(number).unlink(missing_ok=True)
                continue
            self._waiting.remove(number)
            self._note(part, unreadable)
            for _, record in part.rows:
                yield record
        self._drop_maps()

    def score(
        self,
        unreadable: Unreadable = None,
        note: Note = lambda _: None,
        by: PackParts | None = None,
    ) -> Iterator[PredictionRecord]:
        """Score the images of the other parts, and give the rows of each once it is written.

        Args:
            unreadable: Told of an image that cannot be read, which is then left out; raised when
                None.
            note: Told of each image how it differs from those of the fit, once it is scored.
            by: Who scores them elsewhere; they are scored here when None, in order.

        Raises:
            ImageReadError: An image cannot be read and nobody is told.
            OSError: The disk is full, say; the parts that are written stay.
        """
        if self._maps is not None:
            self._maps.begin()
        choices = PartChoices(
            self.n_part, self._maps is not None, self.min_region_px, unreadable is not None
        )
        waiting = (self._images(number) for number in sorted(self._waiting))
        if by is None:
            scored = (score_part(self.predictor, one, choices, note) for one in waiting)
            packed = map_ahead(lambda one: self._write(one.pack(choices)), scored, 1, 2)
        else:
            packed = map(self._write, by(waiting, choices, note))
        for part in packed:
            self._waiting.remove(part.number)
            self._note(part, unreadable)
            for _, record in part.rows:
                yield record

    def finish(self) -> None:
        """Write what says that all parts are there, and which images have no row."""
        assert not self._waiting
        left_out = sorted(self._left_out, key=lambda one: one.index)
        document = {
            "n_images": len(self.images),
            "n_rows": self._n_rows,
            "n_images_of_a_part": self.n_part,
            "run": asdict(self._parts.run),
            "unreadable": [asdict(one) for one in left_out],
        }
        write_text(self.folder / parts.DONE, json.dumps(document, indent=2) + "\n")

    def _describe_run(self, maps: bool) -> Run:
        """What the rows rest on."""
        decision = self.predictor.decision
        return Run(
            *self.predictor.origin,
            threshold=decision.threshold.score if decision else None,
            false_alarm_rate=decision.threshold.rate if decision else None,
            pixel_threshold=decision.pixel_threshold if decision else None,
            overlays=False,
            maps="zarr" if maps else None,
            min_region_px=self.min_region_px,
        )

    def _drop_maps(self) -> None:
        """Remove the maps of parts that are not there."""
        numbers = () if self._maps is None else self._parts.list_files().values()
        drop_maps(self.folder / map_array.FOLDER, {name_file(number) for number in numbers})

    def _images(self, number: int) -> PartImages:
        """The images of a part."""
        start = number * self.n_part
        return PartImages(number, start, tuple(self.images[start : start + self.n_part]))

    def _find_whole(self, number: int, *, has_left_out: bool) -> Part | None:
        """A part that is as it would be written now."""
        part = self._parts.read(number)
        if part is None or (part.left_out and not has_left_out):
            return None
        if part.rows and self._maps is not None:
            maps = self._maps.folder / name_file(number)
            if not maps.is_file() or sha256(maps) != part.maps_sha256:
                return None
        were = part.describe_images()
        _, start, paths = self._images(number)
        names = {index: plain_text(str(path)) for index, path in enumerate(paths, start)}
        if {index: name for index, (name, _) in were.items()} != names:
            return None
        found = hash_all(paths, try_hash)
        return part if found == [were[index][1] for index in names] else None

    def _write(self, packed: Packed) -> Part:
        """Write a part; its rows come last, since they say that it is whole."""
        part = packed.part
        if self._maps is not None and packed.maps is not None:
            self._maps.write(part.number, packed.maps)
            part = replace(part, maps_sha256=hashlib.sha256(packed.maps).hexdigest())
        self._parts.write(part)
        return part

    def _note(self, part: Part, unreadable: Unreadable) -> None:
        self._n_rows += len(part.rows)
        self._left_out += part.left_out
        for one in part.left_out:
            assert unreadable is not None
            unreadable(ImageReadError(one.path, one.reason))


def write_parquet(
    model: Predictor,
    images: Iterable[str | Path],
    folder: str | Path,
    *,
    maps: bool = False,
    min_region_px: int = 1,
    unreadable: Unreadable = None,
) -> int:
    """Score any number of image files into a folder of Parquet files, which one call reads.

    What is there of the same model, options and images is not scored again, so the same call goes
    on where one was stopped. The page *Results* says what is in the folder.

    Args:
        model: What scores.
        images: Paths of image files.
        folder: Where the results go: ``predictions.parquet``, and ``maps.zarr`` with maps.
        maps: Whether maps are written, at the size that the network sees.
        min_region_px: Source pixels of a region; smaller ones are left out.
        unreadable: Told of an image that cannot be read, which then has no row; raised when None.

    Returns:
        How many rows there are.

    Raises:
        ImageReadError: An image cannot be read and nobody is told.
        MissingExtraError: pyarrow, or with maps zarr, is not installed.
        UsageError: The folder has results as CSV, or maps or a summary of something else.

    Examples:
        >>> model = padim.load("part.safetensors")
        >>> padim.write_parquet(model, ["good.png", "spot.png"], "results", maps=True)
        2
    """
    paths = [find_place(path) for path in images]
    n_rows = 0
    with BulkResults(model, paths, Path(folder), maps=maps, min_region_px=min_region_px) as results:
        for step in (results.find_done, results.score):
            n_rows += sum(1 for _ in step(unreadable))
        results.finish()
    return n_rows
