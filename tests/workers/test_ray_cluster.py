"""A real Ray of two workers, of which one is killed: nothing else comes out."""

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from trees import benchmark, make_two_categories, striped

from padim.cli import main
from padim.cli.cluster import require_cluster
from padim.errors import DatasetError, ImageReadError, PadimError
from padim.files import sha256
from padim.fitting.looks import NO_IMAGE
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings
from padim.fitting.spread import N_SHARDS, count_shards, fit_by
from padim.model.shard_file import find_number
from padim.places import find_place
from padim.scoring import bulk
from padim.workers.protocol import Shared, Tell
from padim.workers.ray_cluster import MOST_DEATHS, RayCluster, connect


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patched.delenv("RAY_ADDRESS", raising=False)
        with connect() as found:
            yield found


def _work(number: int, tell: Tell, *, marks: Path, power: Shared[int]) -> int:
    """Give a power of a number; a few die, always or the first time."""
    tell(number)
    if number == 13:
        raise DatasetError("13 is not liked.")
    if number == 99:
        raise ZeroDivisionError
    if number in (666, 7):
        begun = marks / f"{number}-{time.monotonic_ns()}"
        begun.touch()
        if number == 666 or len(list(marks.glob("7-*"))) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    return int(number ** power.get())


def test_a_piece_whose_worker_dies_is_done_again_and_costs_no_other(
    cluster: RayCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[int] = []
    gone: list[int] = []
    work = partial(_work, marks=tmp_path, power=cluster.put(2))
    ended = {
        one.item: one for one in cluster.map(work, [7, 13, 2, 666, 3], told.append, gone.append)
    }
    assert {item: one.result for item, one in ended.items()} == {
        7: 49,
        13: None,
        2: 4,
        666: None,
        3: 9,
    }
    assert ended[13].failure == ("DatasetError", "13 is not liked.")
    kind, message = ended[666].failure or ("", "")
    assert kind == "ProcessDied"
    assert message.startswith("Its worker died 3 times (WorkerCrashedError).")
    assert sorted(gone) == [7] + [666] * MOST_DEATHS
    assert {7, 13, 2, 3} <= set(told)
    assert capfd.readouterr() == ("", "")


def test_a_mistake_in_the_work_is_raised_with_its_place(
    cluster: RayCluster, tmp_path: Path
) -> None:
    work = partial(_work, marks=tmp_path, power=cluster.put(2))
    with pytest.raises(ZeroDivisionError) as caught:
        list(cluster.map(work, [99], print))
    assert "in _work" in caught.value.__notes__[0]


@pytest.mark.usefixtures("cluster")
def test_a_ray_is_known_by_how_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray  # once padim has said how it is to be quiet

    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    require_cluster("ray")


@contextmanager
def one_killed() -> Iterator[None]:
    """Kill the first worker that is seen at work with torch."""
    killed, is_over = threading.Event(), threading.Event()

    def kill() -> None:
        ours = psutil.Process()
        while not is_over.wait(0.02):
            for process in ours.children(recursive=True):
                with suppress(psutil.Error, IndexError):
                    is_at_work = process.cmdline()[0].startswith("ray::_do")
                    if is_at_work and process.memory_info().rss > 300_000_000:
                        process.kill()
                        killed.set()
                        return

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
    assert killed.is_set()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    for i in range(12):
        striped(i).save(folder / f"{i:02}.png")
    return folder


def run(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def model(cluster: RayCluster, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was fitted on the cluster, while a worker died."""
    out = tmp_path_factory.mktemp("spread") / "part.safetensors"
    with one_killed():
        run("fit", folder, "-o", out, "--cluster", "ray", "--size-px", 64, "--keep-moments", "-q")
    return out


def test_a_fit_on_a_cluster_is_that_of_shards(folder: Path, model: Path, tmp_path: Path) -> None:
    n_shards = count_shards([sha256(path) for path in folder.iterdir()])
    assert 1 < n_shards < N_SHARDS
    looks, scores, out = [], [], tmp_path / "part.safetensors"
    for number in range(1, n_shards + 1):
        looks.append(tmp_path / f"{number}.moments.safetensors")
        shard = ("--shard", f"{number}/{n_shards}")
        run("fit", folder, *shard, "-o", looks[-1], "--size-px", 64, "--n-threads", 1, "-q")
    run("merge", *looks, "-o", out, "-q")
    for number in range(1, n_shards + 1):
        scores.append(tmp_path / f"{number}.scores.safetensors")
        second = ("--shard", f"{number}/{n_shards}", "--second-look", out)
        run("fit", folder, *second, "-o", scores[-1], "--n-threads", 1, "-q")
    run("merge", out, *scores, "-o", out, "-q")
    assert out.read_bytes() == model.read_bytes()
    moments = "part.moments.safetensors"
    assert (tmp_path / moments).read_bytes() == model.with_name(moments).read_bytes()
    there = {path.name for path in model.parent.iterdir() if path.suffix != ".lock"}
    assert there == {model.name, moments}


def make_torn(folder: Path) -> Path:
    """Add a damaged image that is alone in its shard."""
    hashes = [sha256(path) for path in folder.iterdir()]
    begin, torn = next(folder.iterdir()).read_bytes()[:200], folder / "torn.png"
    for i in range(1000):
        torn.write_bytes(begin + str(i).encode())
        n_shards = count_shards([*hashes, sha256(torn)])
        numbers = [find_number(one, n_shards) for one in (*hashes, sha256(torn))]
        if numbers.count(numbers[-1]) == 1:
            return torn
    raise AssertionError


def test_a_fit_leaves_out_what_a_plain_one_does(cluster: RayCluster, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i in range(6):  # in three of four shards
        striped(i).save(images / f"{i:02}.png")
    hashes = [sha256(path) for path in images.iterdir()]
    torn, gone = make_torn(images), images / "gone.png"
    paths, settings = [*sorted(images.iterdir()), gone], FitSettings(size_px=(64, 64))
    told: list[ImageReadError] = []
    here = prepare(settings).fit(paths, unreadable=told.append).state
    reasons, told = {one.path: one.reason for one in told}, []
    there = fit_by(cluster, paths, settings, None, tmp_path / "fit", unreadable=told.append).state
    assert len(told) == len(reasons) == 2
    assert {find_place(one.path): one.reason for one in told} == reasons
    assert reasons.keys() == {torn, gone}
    assert sorted(there.image_sha256) == sorted(here.image_sha256) == sorted(hashes)
    assert here.calibration is not None
    assert there.calibration is not None
    np.testing.assert_allclose(
        there.calibration.image_score, here.calibration.image_score, rtol=1e-4
    )


@pytest.mark.parametrize("name", ["gone.png", "torn.png"])
def test_a_fit_ends_at_what_cannot_be_read(cluster: RayCluster, tmp_path: Path, name: str) -> None:
    (tmp_path / "torn.png").write_bytes(b"no image")
    paths, settings = [tmp_path / name], FitSettings(size_px=(64, 64))
    with pytest.raises(PadimError, match=rf"{re.escape(str(paths[0]))} cannot be read as an image"):
        fit_by(cluster, paths, settings, None, tmp_path / "fit")
    told: list[ImageReadError] = []
    with pytest.raises(DatasetError, match=NO_IMAGE):
        fit_by(cluster, paths, settings, None, tmp_path / "fit", unreadable=told.append)
    assert [Path(one.path) for one in told] == paths


@pytest.mark.parametrize("more", [(), ("--parquet", "--maps", "zarr")])
def test_what_a_cluster_writes_of_images_is_what_one_machine_writes(
    cluster: RayCluster,
    folder: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: Sequence[str],
) -> None:
    monkeypatch.setattr(bulk, "_MOST_IMAGES", 8)  # of a part
    images = tmp_path / "images"
    images.mkdir()
    for i in range(40):
        striped(100 + i, spot=i % 3 == 0).save(images / f"{i:02}.png")
    (images / "torn.png").write_bytes(b"no image")
    options = ("-q", "--skip-unreadable", "--min-region-px", 4, *more)
    run("predict", model, images, "-o", tmp_path / "here", *options)
    with one_killed():
        run("predict", model, images, "-o", tmp_path / "there", "--cluster", "ray", *options)
    here, there = (
        {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        for out in (tmp_path / "here", tmp_path / "there")
    )
    assert here == there


def test_the_jobs_of_a_benchmark_are_done_by_a_cluster(cluster: RayCluster, tmp_path: Path) -> None:
    root, measured = make_two_categories(tmp_path / "data"), ("fit_s", "score_s", "fit_peak_bytes")
    for name, more in (("here", ()), ("there", ("--cluster", "ray"))):
        assert benchmark(root, tmp_path / name, "--n-threads", "1", "-q", *more) == 0
    here, there = (
        [
            {name: value for name, value in row.items() if name not in measured}
            for row in json.loads((tmp_path / name / "results.json").read_text())["rows"]
        ]
        for name in ("here", "there")
    )
    assert here == there
