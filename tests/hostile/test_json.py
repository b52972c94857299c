"""Changed files of JSON are refused with a sentence, or mean something that works to the end."""

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hostile.mutate_json import mutate_json, mutate_value
from padim.errors import DatasetError, PadimError
from padim.evaluation.compare import compare
from padim.evaluation.record import read_record, to_plain
from padim.evaluation.run import write_roc
from padim.evaluation.run_folder import markdown, read_run, write_results
from padim.images.roi import read_roi

KEPT = Path(__file__).parents[1] / "kept/v1/benchmark"


@contextmanager
def refused_or_whole(counts: list[int]) -> Iterator[None]:
    try:
        yield
    except PadimError:
        counts[0] += 1


def changes(document: Any, n: int, seed: int) -> Iterator[bytes]:
    source = random.Random(seed)
    for _ in range(n):
        yield mutate_json(source, document)[0]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(KEPT / "first", tmp_path / "first"))


@pytest.mark.parametrize("name", ["results.json", "records/carpet.json"])
def test_a_changed_folder_of_results_is_refused_or_works(run: Path, name: str) -> None:
    path, refused = run / name, [0]
    for text in changes(json.loads(path.read_text()), 200, seed=1):
        path.write_bytes(text)
        with refused_or_whole(refused):
            results, records = read_run(run)
            assert markdown(results)
            flat = [record for seeds in records.values() for record in seeds]
            write_results(results, flat, run.parent / "again")
            to_plain(compare(KEPT / "second", run))
    assert 100 < refused[0] < 200


@pytest.mark.parametrize(
    ("name", "old", "new", "reason"),
    [
        ("results.json", '"n_seeds": 1', '"n_seeds": 1000000000', "expected int <= 1000"),
        ("results.json", '"texture": ', '"other": ', "invalid enum value"),
        ("results.json", '"rows": [', '"rows": [' + "[" * 200_000, "it is no JSON"),
        ("records/carpet.json", '"masks": [', '"masks": [[], ', "entries of masks, but"),
        ("records/carpet.json", '"level_scores": [', '"level_scores": [1, ', "numbers of levels"),
        ("records/carpet.json", '"image": [[', '"image": [[0, ', "a value for each"),
        ("records/carpet.json", '"category": "carpet"', '"category": "\\ud800"', "no file can be"),
        ("records/carpet.json", '"score": ', '"score": 1e30, "old": ', "expected float <="),
    ],
)
def test_a_relation_that_does_not_hold_is_refused(
    run: Path, name: str, old: str, new: str, reason: str
) -> None:
    text = (run / name).read_text()
    assert old in text
    (run / name).write_text(text.replace(old, new, 1))
    with pytest.raises(DatasetError, match=rf"\.json cannot be understood: .*({reason})"):
        read_run(run)


def test_records_of_other_resamples_are_refused(run: Path) -> None:
    bomb = run / "records/carpet.npz"
    np.savez_compressed(bomb, image_auroc=np.zeros(1 << 27, np.uint8))
    with pytest.raises(DatasetError, match=r"carpet\.npz is not as it was written"):
        read_record(run, "carpet")
    np.savez(bomb, image_auroc=np.zeros(9), pixel_auroc=np.zeros(10))
    with pytest.raises(DatasetError, match=r"carpet\.npz is not as it was written"):
        read_record(run, "carpet")


def test_curves_of_a_changed_record_can_be_drawn(run: Path) -> None:
    path, refused = run / "records/carpet.json", [0]
    document = json.loads(path.read_text())
    source = random.Random(2)
    for i in range(20):
        curves, _ = mutate_value(source, document["curves"])
        path.write_text(json.dumps(document | {"curves": curves}))
        with refused_or_whole(refused):
            record = read_record(run, "carpet")
            assert record is not None
            write_roc([record], run / f"roc{i}.png")
    assert refused[0]


def test_a_changed_polygon_is_refused_or_drawn(tmp_path: Path) -> None:
    path, refused = tmp_path / "roi.json", [0]
    for text in changes([[[1, 1], [9, 1], [9, 9]], [[2, 2], [3, 2], [3.5, 4]]], 200, seed=3):
        path.write_bytes(text)
        with refused_or_whole(refused):
            assert read_roi(path, (10, 12)).shape == (10, 12)
    assert 50 < refused[0] < 200
