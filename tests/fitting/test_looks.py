import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from trees import make_category, striped

from padim.errors import DatasetError
from padim.fitting import update as learning
from padim.fitting.fit import build_model
from padim.fitting.fitter import Fitter, solve
from padim.fitting.kept_features import Keeper, read_kept
from padim.fitting.looks import (
    FirstLook,
    Seen,
    group,
    leave_out,
    look,
    merge_in_order,
    no_progress,
    pick,
    second_look,
)
from padim.method.leave_one_out import LeaveOneOut
from padim.model.file import save_state
from padim.model.state import ModelState
from padim.scoring.calibration import LEAVE_ONE_OUT
from padim.scoring.collector import Collector
from padim.scoring.parity import N_SAMPLES

N_IMAGES = 11
PARTS = [(0, 3), (3, 4), (4, N_IMAGES)]


@pytest.fixture(scope="module")
def fitter() -> Fitter:
    return oracle.small_fitter(store="float32")


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    return list(oracle.random_images(N_IMAGES, (64, 64)))


def look_at(fitter: Fitter, images: list[NDArray[np.uint8]], start: int, stop: int) -> FirstLook:
    return look(
        fitter.embedder,
        images[start:stop],
        no_progress("", 0),
        start=start,
        keeper=Keeper(1 << 30),
        with_samples=True,
        with_thumbnails=True,
    )


def solved(fitter: Fitter, whole: FirstLook) -> ModelState:
    hashes, advance = whole.seen.hashes, no_progress("", 0)
    kept = (fitter.encoder, fitter.recipe, torch.float32, {})
    return solve(*kept, whole.moments, hashes, advance)


def joined(batches: Iterable[list[Tensor]]) -> list[Tensor]:
    return [torch.cat(level, dim=1) for level in zip(*batches, strict=True)]


def test_first_looks_merge_to_the_same_bytes_whoever_finishes_first(
    fitter: Fitter, images: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    parts = [look_at(fitter, images, *part) for part in PARTS]
    written = set()
    for i, order in enumerate(permutations(parts)):
        path = tmp_path / f"{i}"
        save_state(solved(fitter, merge_in_order(order)), path)
        written.add(path.read_bytes())
    assert len(written) == 1
    merged, whole = merge_in_order(parts), look_at(fitter, images, 0, N_IMAGES)
    assert merged.seen.hashes == whole.seen.hashes
    assert [one.brightness for one in merged.seen.thumbnails] == [
        one.brightness for one in whole.seen.thumbnails
    ]
    assert len(merged.seen.samples) == N_SAMPLES
    assert [one.sha256 for one in merged.seen.samples] == sorted(whole.seen.hashes)[:N_SAMPLES]
    device = torch.device("cpu")
    for found, expected in zip(
        joined(read_kept(merged.kept, fitter.encoder.pyramid, device, 4)),
        joined(embeddings for _, embeddings in fitter.embedder.embed(images)),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    for mine, expected in zip(merged.moments.scatter, whole.moments.scatter, strict=True):
        for one, other in zip(mine, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_second_looks_merge_to_the_same_whoever_finishes_first(
    fitter: Fitter, images: list[NDArray[np.uint8]]
) -> None:
    whole = look_at(fitter, images, 0, N_IMAGES)
    state = solved(fitter, whole)
    leave_one_out = LeaveOneOut(whole.moments, state.eps, state.pyramid)

    def look_again(start: int, stop: int) -> Collector:
        device, advance = torch.device("cpu"), no_progress("", 0)
        kept = read_kept(whole.kept, fitter.encoder.pyramid, device, 4)
        distances = leave_out(leave_one_out, pick(kept, set(range(start, stop))))
        return second_look(state, distances, device, advance, start=start, n_maps=4)

    expected, parts = look_again(0, N_IMAGES), [look_again(*part) for part in PARTS]
    found = {merge_in_order(order).image_scores().tobytes() for order in permutations(parts)}
    assert len(found) == 1
    merged = merge_in_order(reversed(parts))
    assert merged.count == N_IMAGES
    np.testing.assert_allclose(merged.image_scores(), expected.image_scores(), rtol=1e-5)
    assert merged.maps().keys() == expected.maps().keys()
    assert len(merged.maps()) == 4
    counts = merged.calibration(LEAVE_ONE_OUT).pixel_count
    assert counts.sum() == N_IMAGES * 64 * 64


def test_a_part_that_is_missing_or_comes_twice_is_refused() -> None:
    first, second = Seen(0, ("a", "b")), Seen(2, ("c",))
    assert merge_in_order((second, first)).hashes == ("a", "b", "c")
    for parts in ((first, Seen(3, ("d",))), (first, second, second)):
        with pytest.raises(DatasetError, match=r"but the next begins with .* each once"):
            merge_in_order(parts)


def test_small_batches_are_joined_in_order() -> None:
    batches = [[torch.full((2, n, 3), float(i))] for i, n in enumerate((20, 20, 1))]
    joined = list(group(batches))
    assert [level[0].shape[1] for level in joined] == [40, 1]
    assert joined[0][0][0, :, 0].tolist() == [0.0] * 20 + [1.0] * 20


class Phases:
    """Writes down which phases begin, with how many steps, and how many of them are taken."""

    def __init__(self) -> None:
        self.taken: list[list[str | int]] = []

    def __call__(self, phase: str, n_steps: int) -> Callable[[int], None]:
        one: list[str | int] = [phase, n_steps, 0]
        self.taken.append(one)

        def advance(n_done: int) -> None:
            assert self.taken[-1] is one, "a bar may be gone when the next phase begins"
            one[2] += n_done  # type: ignore[operator]  # the last is a number

        return advance


def told(*phases: tuple[str, int]) -> list[list[str | int]]:
    return [[name, n_steps, n_steps] for name, n_steps in phases]


@pytest.mark.parametrize("kept_feature_bytes", [0, 1 << 28])
def test_every_phase_of_a_fit_is_told_to_its_end(kept_feature_bytes: int) -> None:
    good = [np.asarray(striped(i)) for i in range(20)]
    images = [*good, np.asarray(striped(100, spot=True))]
    options = {"kept_feature_bytes": kept_feature_bytes}
    cells, phases = 4 * 4, Phases()
    replace(oracle.small_fitter(), **options).fit(images, phases)
    assert phases.taken == told(("fit", 21), ("solve", 2 * cells), ("second look", 21))
    phases = Phases()
    oracle.small_fitter(calibrate=False).fit(images, phases)
    assert phases.taken == told(("fit", 21), ("solve", cells))
    phases = Phases()
    replace(oracle.small_fitter(drop_outliers=0.001), **options).fit(images, phases)
    assert phases.taken == told(
        ("fit", 21),
        ("solve", 2 * cells),
        ("second look", 21),
        ("drop outliers", 21),
        ("solve", 2 * cells),
        ("second look", 20),
    )


def test_every_phase_of_a_fit_in_tiles_is_told_to_its_end() -> None:
    phases = Phases()
    fitter = oracle.small_fitter(size_px=(64, 128), tile_px=64, tile_overlap_px=0)
    fitter.fit(list(oracle.random_images(5, (64, 128))), phases)
    assert phases.taken == told(("read", 5), ("tiles", 20), ("maps", 5))


def test_every_phase_of_learning_is_told_to_its_end(tmp_path: Path) -> None:
    good = sorted((make_category(tmp_path / "c", n_train=6) / "train/good").iterdir())
    path = tmp_path / "m.safetensors"
    fitter = oracle.small_fitter(keep_moments=True)
    build_model(fitter, fitter.fit(good[:4])).save(path, moments=True)
    phases = Phases()
    learning.update(path, good[4:], good, begin=phases)
    assert phases.taken == told(("update", 2), ("solve", 32), ("second look", 6))
    phases = Phases()
    learning.forget(path, good[:1], begin=phases)
    assert phases.taken == told(("forget", 1), ("solve", 16))


def test_a_terminal_shows_a_bar_with_its_rate_for_each_phase(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty", reason="a terminal is a file on POSIX systems only")
    good = make_category(tmp_path / "c", n_train=12) / "train/good"
    ours, theirs = pty.openpty()
    words = ["fit", str(good), "-o", str(tmp_path / "m.safetensors"), "--size", "64"]
    command = [sys.executable, "-m", "padim", *words]
    environment = os.environ | {"COLUMNS": "120", "TERM": "xterm"}
    shown = b""
    with subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL, env=environment):
        os.close(theirs)
        with suppress(OSError):  # what Linux says at the end of a terminal
            while part := os.read(ours, 1 << 12):
                shown += part
    os.close(ours)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    for phase, n_steps in (("fit", 12), ("solve", 40), ("second look", 12)):
        assert re.search(rf"{phase} +\S+ +{n_steps}/{n_steps} +[\d.e+]+/s +0:00:\d\d", plain), plain
