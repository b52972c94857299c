"""Results of many images: Parquet in parts and maps in one array, whole wherever a run stops."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pytest
from darkness import SIDE_PX, make_predictor
from PIL import Image
from pyarrow import parquet

import padim
from padim.errors import (
    DatasetError,
    ImageReadError,
    MissingExtraError,
    PathMissingError,
    UsageError,
)
from padim.scoring import bulk
from padim.scoring.bulk import BulkResults, write_parquet
from padim.scoring.journal import Journal, Run
from padim.scoring.map_array import MapArray, count_scores, read_map, score_counts
from padim.scoring.parts import PartFolder
from padim.scoring.predictor import Predictor
from padim.scoring.writer import PredictionWriter

N_PART = 4
N_IMAGES = 10

# A run in a process of its own, which dies at the n-th call of a function.
DYING = """
import os, signal, sys
from pathlib import Path
from darkness import make_predictor
from padim.scoring import bulk, bulk_part, map_array, parts

root, place, n_left = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
bulk._MOST_IMAGES = 4
def dying(function):
    def call(*words, **more):
        global n_left
        n_left -= 1
        if n_left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*words, **more)
    return call
owner, name = {
    "image": (bulk_part, "count_scores"),
    "maps": (map_array, "write_whole"),
    "rows": (parts, "write_whole"),
    "end": (bulk, "write_text"),
}[place]
setattr(owner, name, dying(getattr(owner, name)))
images = sorted((root / "in").iterdir())
bulk.write_parquet(make_predictor(root), images, root / "out", maps=True)
"""


@pytest.fixture(autouse=True)
def few_images_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "_MOST_IMAGES", N_PART)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return make_images(tmp_path / "in")


def make_images(folder: Path, n_images: int = N_IMAGES) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i:02d}.png" for i in range(n_images)]
    for i, path in enumerate(paths):
        draw(path, 240 - 15 * i)
    return paths


def draw(path: Path, grey: int) -> None:
    image = np.full((SIDE_PX, 2 * SIDE_PX), 250, np.uint8)
    image[4:9, 6:14] = grey
    Image.fromarray(image).save(path)


def contents(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def rows_of(out: Path) -> list[dict[str, object]]:
    table = pyarrow.dataset.dataset(out / "predictions.parquet", format="parquet").to_table()
    rows: list[dict[str, object]] = table.to_pylist()
    return rows


def count_scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which images are scored from now on."""
    scored: list[str] = []
    stream = Predictor.stream

    def note(self: Predictor, paths: list[Path], *words: object, traced: bool) -> object:
        scored.extend(path.name for path in paths)
        return stream(self, paths, *words, traced=traced)  # type: ignore[arg-type]  # as given

    monkeypatch.setattr(Predictor, "stream", note)
    return scored


def test_one_call_reads_the_rows_that_the_tables_have(
    predictor: Predictor, images: list[Path], tmp_path: Path
) -> None:
    assert write_parquet(predictor, images, tmp_path / "out") == N_IMAGES
    writer = PredictionWriter(tmp_path / "plain", lambda _: Path("x"), overlays=False)
    run = Run(None, "", "", None, None, None, False, None, 1)
    with Journal(tmp_path / "plain", run, predictor.decision) as journal:
        list(writer.write(predictor.stream(images, traced=True), journal))
        journal.finish()
    lines = (tmp_path / "plain/predictions.jsonl").read_text().splitlines()
    rows = rows_of(tmp_path / "out")
    assert [row.pop("index") for row in rows] == list(range(N_IMAGES))
    assert any(row["regions"] for row in rows)
    for row, line in zip(rows, map(json.loads, lines), strict=True):
        np.testing.assert_allclose(row.pop("coarse_map"), line.pop("coarse_map"), rtol=1e-6)
        assert row == line
    files = sorted(path.name for path in (tmp_path / "out/predictions.parquet").iterdir())
    assert files == [f"part-{number:06d}.parquet" for number in range(3)]
    done = json.loads((tmp_path / "out/predictions.json").read_text())
    assert (done["n_images"], done["n_rows"], done["unreadable"]) == (N_IMAGES, N_IMAGES, [])


def test_columns_have_types_and_what_is_repeated_is_kept_once(
    predictor: Predictor, images: list[Path], tmp_path: Path
) -> None:
    write_parquet(predictor, images, tmp_path / "out")
    schema = pyarrow.dataset.dataset(tmp_path / "out/predictions.parquet").schema
    assert schema.field("score").type == pyarrow.float64()
    assert schema.field("regions").type.value_type.field("area_px").type == pyarrow.int64()
    for name in ("label", "model_sha256", "padim", "engine"):
        assert pyarrow.types.is_dictionary(schema.field(name).type)
    facts = json.loads(schema.metadata[b"padim"])
    assert facts["run"]["model_sha256"] == predictor.file_sha256
    group = parquet.read_metadata(tmp_path / "out/predictions.parquet/part-000000.parquet")
    assert group.row_group(0).column(0).compression == "ZSTD"


def test_a_map_is_found_by_its_row(
    predictor: Predictor, images: list[Path], tmp_path: Path
) -> None:
    write_parquet(predictor, images, tmp_path / "out", maps=True)
    for row, prediction in zip(rows_of(tmp_path / "out"), predictor.stream(images), strict=True):
        found = padim.read_map(tmp_path / "out", row["index"])  # type: ignore[arg-type]  # a whole number
        expected = np.maximum(prediction.anomaly_map, 1)
        np.testing.assert_allclose(found, expected, rtol=0.0176)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def enlarge(path: Path) -> None:
    path.write_text(path.read_text().replace("10,", "11,", 1))


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("predictions.json", Path.unlink, "out is not finished. Run padim predict again"),
        ("predictions.json", cut, "out is not finished"),
        ("maps.zarr/zarr.json", cut, r"The map 5 of .*maps\.zarr is damaged or missing"),
        ("maps.zarr/zarr.json", enlarge, "is damaged or missing"),
        ("maps.zarr/c/1/0/0", cut, "is damaged or missing"),
        ("maps.zarr/c/1/0/0", Path.unlink, "is damaged or missing"),
    ],
)
def test_a_map_that_is_not_there_is_an_error(
    predictor: Predictor,
    images: list[Path],
    tmp_path: Path,
    name: str,
    damage: Callable[[Path], object],
    words: str,
) -> None:
    write_parquet(predictor, images, tmp_path / "out", maps=True)
    damage(tmp_path / "out" / name)
    with pytest.raises(DatasetError, match=words):
        padim.read_map(tmp_path / "out", 5)


@pytest.mark.parametrize("name", ["maps.zarr/zarr.json", "predictions.json"])
def test_what_others_have_in_a_folder_is_left_alone(
    predictor: Predictor, images: list[Path], tmp_path: Path, name: str
) -> None:
    place = tmp_path / "out" / name
    place.parent.mkdir(parents=True)
    place.write_text('{"attributes": {}}')
    with pytest.raises(UsageError, match=rf"has a {name.split('/')[0]} of something else, but"):
        write_parquet(predictor, images, tmp_path / "out", maps=True)
    assert contents(tmp_path / "out") == {name: b'{"attributes": {}}'}


def test_counts_know_scores_within_what_they_say() -> None:
    scores = np.geomspace(1, 6653, 10_001).astype(np.float32)
    found = score_counts(count_scores(scores))
    assert (np.abs(found / scores - 1)).max() < 0.0176
    ends = np.array([0, 0.5, 1, 7000, 65504, 3e38, np.nan], np.float32)
    assert count_scores(ends).tolist() == [1, 1, 1, 255, 255, 255, 0]
    assert np.isnan(score_counts(np.zeros(1, np.uint8))[0])
    assert np.array_equal(count_scores(score_counts(np.arange(256, dtype=np.uint8))), range(256))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize(
    ("place", "n_left"),
    [("image", 6), ("maps", 0), ("maps", 2), ("rows", 1), ("rows", 2), ("end", 0)],
)
def test_a_killed_run_ends_in_the_same_bytes(
    images: list[Path], tmp_path: Path, place: str, n_left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = make_predictor(tmp_path)
    write_parquet(predictor, images, tmp_path / "whole", maps=True)
    words = [sys.executable, "-c", DYING, str(tmp_path), place, str(n_left)]
    places = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    died = subprocess.run(words, env=environment, check=False, capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not (tmp_path / "out/predictions.json").exists()
    n_whole = len(list((tmp_path / "out/predictions.parquet").glob("part-*")))
    for number in range(n_whole):  # maps come before the rows that say they are there
        maps = f"maps.zarr/c/{number}/0/0"
        assert (tmp_path / "out" / maps).read_bytes() == (tmp_path / "whole" / maps).read_bytes()
    scored = count_scored(monkeypatch)
    write_parquet(predictor, images, tmp_path / "out", maps=True)
    assert len(scored) == max(0, N_IMAGES - n_whole * N_PART)
    ours = contents(tmp_path / "out")
    assert ours == contents(tmp_path / "whole")


def test_only_parts_of_changed_images_are_scored_again(
    predictor: Predictor, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(predictor, images, tmp_path / "out", maps=True)
    scored = count_scored(monkeypatch)
    write_parquet(predictor, images, tmp_path / "out", maps=True)
    assert scored == []
    draw(images[5], 3)
    write_parquet(predictor, images, tmp_path / "out", maps=True)
    assert scored == ["04.png", "05.png", "06.png", "07.png"]
    assert read_map(tmp_path / "out", 5).max() == pytest.approx(252, rel=0.0176)
    write_parquet(predictor, images, tmp_path / "whole", maps=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_images_that_come_or_go_at_the_end_touch_the_last_parts_alone(
    predictor: Predictor, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(predictor, images, tmp_path / "out", maps=True)
    more = make_images(tmp_path / "in", 13)
    scored = count_scored(monkeypatch)
    write_parquet(predictor, more, tmp_path / "out", maps=True)
    assert scored == ["08.png", "09.png", "10.png", "11.png", "12.png"]
    write_parquet(predictor, more, tmp_path / "whole", maps=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    write_parquet(predictor, more[:4], tmp_path / "out", maps=True)
    write_parquet(predictor, more[:4], tmp_path / "few", maps=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "few")


def break_rows(out: Path) -> None:
    part = out / "predictions.parquet/part-000001.parquet"
    part.write_bytes(part.read_bytes()[:-9])


def lose_maps(out: Path) -> None:
    (out / "maps.zarr/c/1/0/0").unlink()


def change_facts(out: Path) -> None:
    part = out / "predictions.parquet/part-000001.parquet"
    table = parquet.read_table(part, partitioning=None)
    parquet.write_table(table.replace_schema_metadata({b"padim": b"[" * 9999}), part)


def spoil_maps(out: Path) -> None:
    path = out / "maps.zarr/c/1/0/0"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize("break_part", [break_rows, lose_maps, spoil_maps, change_facts])
def test_a_part_that_is_not_as_it_was_written_is_scored_again(
    predictor: Predictor,
    images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    break_part: Callable[[Path], None],
) -> None:
    write_parquet(predictor, images, tmp_path / "out", maps=True)
    before = contents(tmp_path / "out")
    break_part(tmp_path / "out")
    scored = count_scored(monkeypatch)
    write_parquet(predictor, images, tmp_path / "out", maps=True)
    assert scored == ["04.png", "05.png", "06.png", "07.png"]
    assert contents(tmp_path / "out") == before


def test_parts_of_another_run_go_before_the_first_is_written(
    predictor: Predictor, images: list[Path], tmp_path: Path
) -> None:
    write_parquet(predictor, images, tmp_path / "out", maps=True)
    (tmp_path / "out/maps.zarr/mine.txt").touch()
    other = predictor.at(false_alarm_rate=0.3)
    with BulkResults(other, images, tmp_path / "out") as results:
        assert results.replaced
        assert set(contents(tmp_path / "out")) == {"maps.zarr/mine.txt"}
    with BulkResults(other, images, tmp_path / "out") as results:
        assert not results.replaced


def test_a_model_that_is_in_no_file_takes_nothing_over(
    predictor: Predictor, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = Predictor(predictor.score, predictor.description, 4, "onnxruntime")
    write_parquet(fitted, images, tmp_path / "out")
    scored = count_scored(monkeypatch)
    write_parquet(fitted, images, tmp_path / "out")
    assert len(scored) == N_IMAGES


def test_a_model_without_a_threshold_gives_no_label(
    predictor: Predictor, images: list[Path], tmp_path: Path
) -> None:
    predictor.decision = None
    write_parquet(predictor, images, tmp_path / "out")
    for row in rows_of(tmp_path / "out"):
        assert (row["label"], row["p_value"], row["threshold"]) == (None, None, None)
        assert row["regions"] == []


def test_an_image_that_cannot_be_read_has_no_row_and_an_empty_map(
    predictor: Predictor, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images[1].write_bytes(b"no image")
    out, told = tmp_path / "out", list[ImageReadError]()
    with pytest.raises(ImageReadError, match=r"01\.png cannot be read"):
        write_parquet(predictor, images, out, maps=True)
    assert rows_left(out) == []
    assert write_parquet(predictor, images, out, maps=True, unreadable=told.append) == 9
    assert [row["index"] for row in rows_of(out)] == [0, *range(2, N_IMAGES)]
    assert np.isnan(read_map(out, 1)).all()
    assert read_map(out, 2).max() == pytest.approx(45, rel=0.0176)
    (left_out,) = json.loads((out / "predictions.json").read_text())["unreadable"]
    assert (left_out["index"], left_out["path"]) == (1, str(images[1]))
    before, scored = contents(out), count_scored(monkeypatch)
    write_parquet(predictor, images, out, maps=True, unreadable=told.append)
    assert scored == []
    assert contents(out) == before
    assert [str(error) for error in told] == [str(told[0])] * 2
    draw(images[1], 100)
    assert write_parquet(predictor, images, out, maps=True, unreadable=told.append) == N_IMAGES
    assert scored == ["00.png", "01.png", "02.png", "03.png"]


def rows_left(out: Path) -> list[Path]:
    return list((out / "predictions.parquet").glob("*"))


def test_a_part_without_an_image_that_can_be_read_is_whole(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_images(tmp_path / "in", 6)
    for path in images[:4]:
        path.write_bytes(b"no image")
    told = list[ImageReadError]()
    assert (
        write_parquet(predictor, images, tmp_path / "out", maps=True, unreadable=told.append) == 2
    )
    scored = count_scored(monkeypatch)
    write_parquet(predictor, images, tmp_path / "out", maps=True, unreadable=told.append)
    assert scored == []
    assert [row["index"] for row in rows_of(tmp_path / "out")] == [4, 5]


@pytest.mark.parametrize("owner", [PartFolder, MapArray])
def test_a_full_disk_keeps_the_parts_that_are_written(
    predictor: Predictor,
    images: list[Path],
    tmp_path: Path,
    owner: type[PartFolder] | type[MapArray],
) -> None:
    write, n_left = owner.write, 1

    def fill(*words: object) -> None:
        nonlocal n_left
        n_left -= 1
        if n_left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*words)  # type: ignore[arg-type]  # as given

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, "write", fill)
        with pytest.raises(OSError, match="No space left"):
            write_parquet(predictor, images, tmp_path / "out", maps=True)
    assert len(rows_left(tmp_path / "out")) == 1
    write_parquet(predictor, images, tmp_path / "out", maps=True)
    write_parquet(predictor, images, tmp_path / "whole", maps=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_part_of_large_maps_is_of_fewer_images(
    predictor: Predictor, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "_MOST_MAP_BYTES", 3 * SIDE_PX**2)
    write_parquet(predictor, images, tmp_path / "out", maps=True)
    assert len(rows_left(tmp_path / "out")) == 4
    assert read_map(tmp_path / "out", 9).max() == pytest.approx(150, rel=0.0176)


def test_a_name_that_is_no_text_has_a_row(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a\udcff.png"
    try:
        draw(path, 9)
    except (OSError, UnicodeError):
        pytest.skip("this system takes no such name")
    write_parquet(predictor, [path], tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    assert row["path"] == str(tmp_path / "a\\udcff.png")
    scored = count_scored(monkeypatch)
    write_parquet(predictor, [path], tmp_path / "out")
    assert scored == []


def test_what_cannot_be_done_is_refused(
    predictor: Predictor, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write_parquet(predictor, images, out, maps=True)
    with pytest.raises(UsageError, match=r"The index is 10, but .* has maps of 10 images"):
        read_map(out, N_IMAGES)
    for index in (1.5, "0", None):
        with pytest.raises(UsageError, match=r"The index is .*, but .* has maps of 10 images"):
            read_map(out, index)
    with pytest.raises(PathMissingError, match=r"maps\.zarr"):
        read_map(tmp_path, 0)
    with pytest.raises(UsageError, match="--min-region-px is 0, but needs to be 1 or more"):
        write_parquet(predictor, images, out, min_region_px=0)
    (out / "predictions.csv").touch()
    with pytest.raises(UsageError, match=r"has predictions\.csv, results as CSV, but Parquet"):
        write_parquet(predictor, images, out)
    for package, extra in (("zarr", "zarr"), ("pyarrow", "parquet")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtraError, match=rf"padim-efficientnet\[{extra}\]"):
            write_parquet(predictor, images, tmp_path / "new", maps=True)
    assert not (tmp_path / "new").exists()
