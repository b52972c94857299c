"""Rows of many images, written or read in a process that holds nothing else.

    python benchmarks/bulk_rows.py make|parquet|tables N_IMAGES FOLDER
    python benchmarks/bulk_rows.py read-parquet|read-tables N_IMAGES FOLDER

The rows are made up: 1,024 of them, one after the other and again, each time with another path and
hash of its image. ``make`` writes nothing: what it takes, the others take too. A line of JSON with
seconds is printed.
"""

import hashlib
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import csv, dataset
from pyarrow import json as lines

from padim.images.ahead import batched
from padim.images.camera import CameraFacts
from padim.images.regions import Region
from padim.scoring.journal import Journal, Run
from padim.scoring.parts import FOLDER, Part, PartFolder
from padim.scoring.prediction import Origin, PredictionRecord

N_PART = 1024
MODEL = "a" * 64
RUN = Run(MODEL, "0.1.0", "onnxruntime 1.27.0", 99.0, 0.01, 120.0, False, None, 1)


def make_record(generator: np.random.Generator) -> PredictionRecord:
    """A row as of a part with no, one or two defects."""

    def draw(low: float, high: float) -> float:
        return float(np.float32(generator.uniform(low, high)))

    def region() -> Region:
        x, y, width, height, area_px, peak_x, peak_y = map(int, generator.integers(0, 2000, 7))
        return Region(
            x, y, width, height, area_px, peak_x, peak_y, peak=draw(50, 200), mean=draw(40, 100)
        )

    cells = generator.gamma(9, 6, (8, 8))
    return PredictionRecord(
        path=None,
        score=draw(20, 240),
        label="normal" if generator.random() < 0.97 else "anomalous",
        p_value=int(generator.integers(1, 1000)) / 1000,
        hottest=region(),
        regions=tuple(region() for _ in range(generator.integers(0, 3))),
        decision=None,
        origin=Origin("", MODEL, "0.1.0", "onnxruntime 1.27.0"),
        level_scores=tuple(draw(20, 200) for _ in range(3)),
        camera=CameraFacts(*(float(generator.uniform(10, 100)) for _ in range(4))),
        coarse_map=tuple(tuple(float(f"{value:.4g}") for value in row) for row in cells),
    )


def make_records(n_images: int) -> Iterator[PredictionRecord]:
    """Rows of so many images."""
    generator = np.random.default_rng(0)
    made = [make_record(generator) for _ in range(N_PART)]
    for i in range(n_images):
        one = made[i % N_PART]
        assert one.origin is not None
        origin = replace(one.origin, image_sha256=hashlib.sha256(str(i).encode()).hexdigest())
        yield replace(one, path=f"/line7/2026-11-27/station3/{i:09d}.jpg", origin=origin)


def write_parquet(n_images: int, folder: Path) -> None:
    """Write rows as ``padim predict --parquet`` does."""
    parts = PartFolder(folder / FOLDER, RUN, None)
    for number, records in enumerate(batched(make_records(n_images), N_PART)):
        parts.write(Part(number, tuple(enumerate(records, number * N_PART)), ()))


def write_tables(n_images: int, folder: Path) -> None:
    """Write rows as ``padim predict`` does without."""
    with Journal(folder, RUN, None) as journal:
        for record in make_records(n_images):
            journal.add(record, ())
        journal.finish()


def read_parquet(folder: Path) -> dict[str, Callable[[], pyarrow.Table]]:
    """What reads the Parquet files: two columns of all rows, some rows, and everything."""
    rows = dataset.dataset(folder / FOLDER, format="parquet")
    is_anomalous = dataset.field("label") == "anomalous"
    return {
        "scores": lambda: rows.to_table(columns=["score", "label"]),
        "anomalous": lambda: rows.to_table(columns=["path", "score"], filter=is_anomalous),
        "all": rows.to_table,
    }


def read_tables(folder: Path) -> dict[str, Callable[[], pyarrow.Table]]:
    """The same of the tables: from the CSV what it has, with regions from the JSON lines."""
    values = folder / "predictions.csv"
    chosen = csv.ConvertOptions(include_columns=["path", "score", "label"])
    is_anomalous = pyarrow.compute.field("label") == "anomalous"
    return {
        "scores": lambda: csv.read_csv(
            values, convert_options=csv.ConvertOptions(include_columns=["score", "label"])
        ),
        "anomalous": lambda: csv.read_csv(values, convert_options=chosen).filter(is_anomalous),
        "all": lambda: lines.read_json(folder / "predictions.jsonl"),
    }


def main() -> None:
    """Do what the arguments say, and print the seconds."""
    kind, n_images, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    taken: dict[str, float] = {}
    start = time.perf_counter()
    if kind.startswith("read"):
        read = read_parquet if kind == "read-parquet" else read_tables
        for name, run in read(folder).items():
            found = run()
            assert name == "anomalous" or len(found) == n_images
            taken[name] = time.perf_counter() - start
            start = time.perf_counter()
    else:
        if kind == "make":
            deque(make_records(n_images), maxlen=0)
        else:
            {"parquet": write_parquet, "tables": write_tables}[kind](n_images, folder)
        taken["all"] = time.perf_counter() - start
    print(json.dumps(taken))


if __name__ == "__main__":
    main()
