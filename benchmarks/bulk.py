"""Results of a million images: Parquet beside CSV and JSON lines, counts of maps beside float16.

- *Rows*, made up, of 1,000,000 images: written by what ``padim predict`` writes with (one file a
  part, or a journal and then two tables), and read by one call; each in a fresh process, whose most
  memory is taken. Making the rows up takes time and memory too; it stands beside.
- *Maps*, real, of magnetic tiles that a model of 80 others scores, where the environment variable
  PADIM_DATA is set: bytes, milliseconds and errors of each format, and what becomes of the metrics.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
import process
import pyarrow
import zarr
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet
from zarr.codecs import BloscCodec

import padim
from padim.metrics.counts import MapCounts
from padim.metrics.pixels import PixelMetrics
from padim.metrics.table import OF_PIXELS
from padim.scoring.map_array import MapArray, count_scores, pack_counts, score_counts

N_IMAGES = 1_000_000
N_QUICK = 3_000
N_FITTED = 80
N_OF_A_KIND = 80  # test images
METRICS = ("pixel_auroc", "aupro_30", "aupro_05", "pixel_average_precision")
U16_PER_DOUBLING = 4096
Maps = NDArray[Any]


def run_rows(kind: str, n_images: int, folder: Path) -> dict[str, Any]:
    """Write or read rows in a fresh process."""
    measure.say(f"{kind}, {n_images} images")
    script = Path(__file__).with_name("bulk_rows.py")
    ran = process.run((sys.executable, script, kind, n_images, folder))
    return {"seconds": json.loads(ran.stdout), "peak_bytes": ran.peak_bytes}


def measure_rows(n_images: int, folder: Path) -> dict[str, Any]:
    """Write rows of both kinds, and read them."""
    found: dict[str, Any] = {"made": run_rows("make", n_images, folder)}
    for kind in ("parquet", "tables"):
        place = folder / kind
        place.mkdir()
        found[kind] = run_rows(kind, n_images, place)
        found[kind]["bytes"] = count_bytes(place)
        found[kind]["n_files"] = sum(path.is_file() for path in place.rglob("*"))
        found[kind]["read"] = run_rows(f"read-{kind}", n_images, place)
        shutil.rmtree(place)
    return found


def count_bytes(path: Path) -> int:
    """The bytes of a file, or of the files in a folder."""
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sum(one.stat().st_size for one in files)


def score_tiles(folder: Path, n_of_a_kind: int) -> tuple[Maps, list[NDArray[np.bool_]]]:
    """Maps of magnetic tiles, and their defects."""
    root = Path(os.environ["PADIM_DATA"]) / "magnetic_tile"
    padim.fit(sorted((root / "train/good").iterdir())[:N_FITTED]).save(folder / "tile.safetensors")
    model = padim.load(folder / "tile.safetensors")
    kinds = sorted(path for path in (root / "test").iterdir())
    paths = [path for kind in kinds for path in sorted(kind.iterdir())[:n_of_a_kind]]
    maps = np.stack([prediction.anomaly_map for prediction in model.stream(paths)])
    masks = []
    for path, anomaly_map in zip(paths, maps, strict=True):
        found = list((root / "ground_truth" / path.parent.name).glob(f"{path.stem}*"))
        if path.parent.name == "good":
            masks.append(np.zeros(anomaly_map.shape, np.bool_))
        else:
            truth = np.asarray(Image.open(found[0]).convert("L")) > 127
            masks.append(model.preprocess.mask(truth))
    return maps, masks


def write_npy(path: Path, maps: Maps) -> None:
    """Write maps as one plain array."""
    np.save(path, maps)


def write_ours(path: Path, maps: Maps) -> None:
    """Write counts as the program does."""
    array = MapArray(path, len(maps), len(maps), (maps.shape[1], maps.shape[2]))
    array.begin()
    array.write(0, pack_counts(maps, len(maps)))


def write_zarr(path: Path, maps: Maps) -> None:
    """Write maps of 16 bits as Zarr packs them best: bit by bit."""
    codec = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=2)
    array = zarr.create_array(
        path,
        shape=maps.shape,
        dtype=maps.dtype,
        chunks=(1, *maps.shape[1:]),
        shards=maps.shape,
        compressors=codec,
        filters=None,
    )
    array[:] = maps


def write_parquet(path: Path, maps: Maps) -> None:
    """Write counts as a column of bytes."""
    n_bytes = maps.shape[1] * maps.shape[2]
    column = pyarrow.FixedSizeBinaryArray.from_buffers(
        pyarrow.binary(n_bytes), len(maps), [None, pyarrow.py_buffer(np.ascontiguousarray(maps))]
    )
    parquet.write_table(
        pyarrow.table({"counts": column}), path, compression="zstd", use_dictionary=False
    )


def count_16(maps: Maps) -> Maps:
    """Counts of 16 bits on the same kind of scale."""
    counts: Maps = np.rint(U16_PER_DOUBLING * np.log2(np.maximum(maps, 1))) + 1
    return counts.astype(np.uint16)


def score_16(counts: Maps) -> Maps:
    """The scores that they stand for."""
    return np.exp2((counts.astype(np.float64) - 1) / U16_PER_DOUBLING).astype(np.float32)


def widen(maps: Maps) -> Maps:
    """As float32."""
    return maps.astype(np.float32)


FORMATS: dict[str, tuple[Callable[[Maps], Maps], Callable[[Path, Maps], None], Callable[..., Any]]]
FORMATS = {
    "float32, .npy": (widen, write_npy, widen),
    "float16, .npy": (lambda maps: maps.astype(np.float16), write_npy, widen),
    "float16, Zarr": (lambda maps: maps.astype(np.float16), write_zarr, widen),
    "16-bit counts, Zarr": (count_16, write_zarr, score_16),
    "8-bit counts, .npy": (count_scores, write_npy, score_counts),
    "8-bit counts, Zarr": (count_scores, write_ours, score_counts),
    "8-bit counts, Parquet": (count_scores, write_parquet, score_counts),
}


def measure_maps(folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Write the same maps in each format."""
    measure.say("maps of magnetic tiles")
    maps, masks = score_tiles(folder, 5 if quick else N_OF_A_KIND)
    rows = []
    for i, (name, (pack, write, unpack)) in enumerate(FORMATS.items()):
        measure.say(name)
        path = folder / f"{i}.npy" if ".npy" in name else folder / str(i)
        seconds = []
        for _ in range(1 if quick else 4):  # the first is a warm-up
            shutil.rmtree(path, ignore_errors=True)
            start = time.perf_counter()
            packed = pack(maps)
            write(path, packed)
            seconds.append(time.perf_counter() - start)
        found = unpack(packed)
        exact = PixelMetrics(MapCounts.exact(list(found), masks))
        rows.append(
            {
                "format": name,
                "bytes_a_map": count_bytes(path) / len(maps),
                "write_ms_a_map": 1e3 * float(np.median(seconds[1:] or seconds)) / len(maps),
                "most_relative_error": float((np.abs(found - maps) / maps).max()),
                "metrics": {
                    row.name: float(exact.measure(row.measure))
                    for row in OF_PIXELS
                    if row.name in METRICS
                },
            }
        )
    return rows


def show(rows: dict[str, Any], maps: list[dict[str, Any]]) -> None:
    """Print both tables."""
    measure.print_table(
        ("rows", "written, s", "MB", "files", "most MB held", "scores, s", "some, s", "all, s"),
        [
            (
                kind,
                f"{rows[kind]['seconds']['all']:.0f}",
                f"{rows[kind]['bytes'] / 1e6:.0f}",
                rows[kind]["n_files"],
                f"{rows[kind]['peak_bytes'] / 1e6:.0f}",
                *(f"{value:.2f}" for value in rows[kind]["read"]["seconds"].values()),
            )
            for kind in ("parquet", "tables")
        ],
    )
    if maps:
        print()
        measure.print_table(
            ("maps", "kB a map", "ms a map", "most error", *METRICS),
            [
                (
                    row["format"],
                    f"{row['bytes_a_map'] / 1e3:.1f}",
                    f"{row['write_ms_a_map']:.2f}",
                    f"{row['most_relative_error']:.2%}",
                    *(f"{row['metrics'][name]:.4f}" for name in METRICS),
                )
                for row in maps
            ],
        )


def main() -> None:
    """Measure rows and maps."""
    quick = measure.arguments(__doc__).quick
    about = measure.facts(("pyarrow", "zarr"))
    n_images = N_QUICK if quick else N_IMAGES
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        maps = []
        if "PADIM_DATA" in os.environ:
            maps = measure_maps(folder, quick)
        else:
            measure.say("Without maps: PADIM_DATA does not say where the magnetic tiles are.")
        rows = measure_rows(n_images, folder)
    show(rows, maps)
    aims = []
    if maps:
        size = {row["format"]: row["bytes_a_map"] for row in maps}
        share = size["8-bit counts, Zarr"] / size["float16, .npy"]
        aims = [measure.Aim("bytes of a map, part of float16 in .npy", share, 0.2)]
    content = {
        "settings": {"n_images": n_images, "rows": "made up"},
        "rows": rows,
        "maps": maps,
        "aims": measure.judge(aims),
    }
    measure.finish("bulk", about, content, quick=quick)


if __name__ == "__main__":
    main()
