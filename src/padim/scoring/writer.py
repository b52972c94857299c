"""Predictions into a folder: rows, maps and pictures."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from padim.errors import PadimError, UnknownNameError, UsageError, failure_of, is_of_disk
from padim.files import write_whole
from padim.images.ahead import WRITE_BEHIND, WRITE_THREADS, map_ahead
from padim.images.heatmap import save_picture
from padim.scoring.journal import Entry, Journal
from padim.scoring.prediction import Prediction, PredictionRecord

MAPS = ("npy", "tiff")


class Written(NamedTuple):
    """What was written of an image: its pictures below the folder, and what went wrong."""

    record: PredictionRecord
    files: list[str]
    trouble: str | None


@dataclass(frozen=True)
class PredictionWriter:
    """Writes ``overlays`` and ``maps`` into a folder, and rows into its journal.

    Attributes:
        troubles: What went wrong with pictures of single images, whose rows are there.
    """

    folder: Path
    name: Callable[[Prediction], Path]  # of its pictures, without a suffix
    overlays: bool = True  # whether to draw each image with its map
    maps: str | None = None  # npy or tiff, for maps at source size as well
    min_region_px: int = 1  # source pixels; smaller regions are left out
    troubles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.maps is not None and self.maps not in MAPS:
            raise UnknownNameError("kind of map", self.maps, MAPS)
        require_region_px(self.min_region_px)

    @property
    def n_files(self) -> int:
        """How many pictures there are of each image."""
        return self.overlays + (self.maps is not None)

    def is_done(self, entry: Entry, image_sha256: str) -> bool:
        """Whether a row is that of an image as it is, and its pictures are there."""
        origin = entry.record.origin if entry.record else None
        return (
            origin is not None
            and origin.image_sha256 == image_sha256
            and len(entry.files) == self.n_files
            and all((self.folder / name).is_file() for name in entry.files)
        )

    def write(
        self, predictions: Iterable[Prediction], journal: Journal
    ) -> Iterator[PredictionRecord]:
        """Write predictions, pictures in threads, and yield what has been written of each.

        Raises:
            OSError: The disk is full, say; what is written until then stays.
        """

        def promised() -> Iterator[Prediction]:
            for prediction in predictions:
                if self.n_files:
                    journal.promise(self._name_files(prediction))
                yield prediction

        for written in map_ahead(self.write_one, promised(), WRITE_THREADS, WRITE_BEHIND):
            yield self.note(written, journal)

    def note(self, written: Written, journal: Journal) -> PredictionRecord:
        """Add the row of an image whose pictures are there."""
        if written.trouble is not None:
            self.troubles.append(written.trouble)
        journal.add(written.record, written.files)
        return written.record

    def place(self, written: Written, pictures: Sequence[bytes], journal: Journal) -> Written:
        """Write pictures that were drawn elsewhere, and give what is here.

        Raises:
            OSError: The disk is full, say.
        """
        if written.files:
            journal.promise(written.files)
        try:
            for place, content in zip(written.files, pictures, strict=True):
                with write_whole(self.folder / place, is_one_of_many=True) as partial:
                    partial.write_bytes(content)
        except OSError as error:
            if is_of_disk(error):
                raise
            _, trouble = failure_of(error) or ("", str(error))
            return written._replace(files=[], trouble=trouble)
        return written

    def write_one(self, prediction: Prediction) -> Written:
        """Draw the pictures of an image, and give its row.

        Raises:
            OSError: The disk is full, say.
        """
        regions, outlined = prediction.outlined(self.min_region_px)
        files: list[str] = []
        trouble = None
        try:
            for place in self._name_files(prediction):
                if place.startswith("overlays/"):
                    save_picture(prediction.draw(outlined), self.folder / place)
                else:
                    self._write_map(prediction, self.folder / place)
                files.append(place)
        except (OSError, PadimError) as error:
            if isinstance(error, OSError) and is_of_disk(error):
                raise
            _, trouble = failure_of(error) or ("", str(error))
        return Written(prediction.record(regions), files, trouble)

    def _name_files(self, prediction: Prediction) -> list[str]:
        """The pictures of an image, below the folder."""
        name = self.name(prediction).as_posix()
        files = [f"overlays/{name}.jpg"] * self.overlays
        return files + [f"maps/{name}.{self.maps}"] * (self.maps is not None)

    def _write_map(self, prediction: Prediction, path: Path) -> None:
        source_map = prediction.source_map()
        with write_whole(path, is_one_of_many=True) as partial:
            if self.maps == "npy":
                encoded = BytesIO()  # of a full disk numpy says less than the system does
                np.save(encoded, source_map)
                partial.write_bytes(encoded.getbuffer())
            else:
                Image.fromarray(source_map).save(partial)


def require_region_px(min_region_px: int) -> None:
    """Make sure that regions are of a pixel at least."""
    if min_region_px < 1:
        raise UsageError(f"--min-region-px is {min_region_px}, but needs to be 1 or more. Try 1.")
