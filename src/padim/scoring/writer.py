"""Predictions into a folder: a table, JSON lines, maps and pictures."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from padim.errors import UnknownNameError, UsageError
from padim.files import write_whole
from padim.images.ahead import WRITE_BEHIND, WRITE_THREADS, map_ahead
from padim.images.heatmap import save_picture
from padim.scoring.prediction import Prediction, PredictionRecord

COLUMNS = (
    *("path", "score", "label", "p_value", "peak_x", "peak_y"),
    *("x", "y", "width", "height", "area_px"),
    *("threshold", "false_alarm_rate", "pixel_threshold"),
    *("image_sha256", "model_sha256", "padim", "engine"),
)
MAPS = ("npy", "tiff")


@dataclass(frozen=True)
class PredictionWriter:
    """Writes ``predictions.csv`` and ``.jsonl`` into a folder, ``overlays`` and ``maps``."""

    folder: Path
    name: Callable[[Prediction], Path]  # of its pictures, without a suffix
    overlays: bool = True  # whether to draw each image with its map
    maps: str | None = None  # npy or tiff, for maps at source size as well
    min_region_px: int = 1  # source pixels; smaller regions are left out

    def __post_init__(self) -> None:
        if self.maps is not None and self.maps not in MAPS:
            raise UnknownNameError("kind of map", self.maps, MAPS)
        if self.min_region_px < 1:
            raise UsageError(
                f"--min-region-px is {self.min_region_px}, but needs to be 1 or more. Try 1."
            )

    def write(self, predictions: Iterable[Prediction]) -> Iterator[PredictionRecord]:
        """Write predictions, pictures in threads, and yield what has been written of each.

        The tables are there once all have come.
        """
        with ExitStack() as stack:
            lines = stack.enter_context(write_whole(self.folder / "predictions.jsonl"))
            values = stack.enter_context(write_whole(self.folder / "predictions.csv"))
            jsonl = stack.enter_context(lines.open("w", encoding="utf-8", newline="\n"))
            # Names of files need not be text.
            file = stack.enter_context(
                values.open("w", encoding="utf-8", errors="surrogateescape", newline="")
            )
            table = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
            table.writeheader()
            for record in map_ahead(self._write_one, predictions, WRITE_THREADS, WRITE_BEHIND):
                row = record.to_dict()
                table.writerow(row)
                jsonl.write(json.dumps(row) + "\n")
                yield record

    def _write_one(self, prediction: Prediction) -> PredictionRecord:
        name = self.name(prediction)
        regions, outlined = prediction.outlined(self.min_region_px)
        if self.overlays:
            save_picture(prediction.draw(outlined), self.folder / "overlays" / f"{name}.jpg")
        if self.maps is not None:
            source_map = prediction.source_map()
            with write_whole(self.folder / "maps" / f"{name}.{self.maps}") as partial:
                if self.maps == "npy":
                    encoded = BytesIO()  # of a full disk numpy says less than the system does
                    np.save(encoded, source_map)
                    partial.write_bytes(encoded.getbuffer())
                else:
                    Image.fromarray(source_map).save(partial)
        return prediction.record(regions)
