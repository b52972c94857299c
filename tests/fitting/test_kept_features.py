from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from torch import Tensor

from padim import temporary
from padim.fitting.kept_features import Keeper, read_kept
from padim.method.pyramid import Level, Pyramid, nest
from padim.tensors.file_tensor import FileTensor

PYRAMID = replace(
    nest([Level((1, 2), (1,), (tuple(range(3)),)), Level((2, 4), (0,), (tuple(range(5)),))]),
    coarse=Pyramid((Level((1, 3), (2,), ((0, 1),)),)),
)
N_FEATURES = 2 * 3 + 8 * 5 + 3 * 2


def features(n_images: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(c, n_images, d, generator=generator) for c, d, _ in PYRAMID.shapes]


def keep(batches: list[list[Tensor]], max_bytes: int, folder: Path) -> Keeper:
    keeper = Keeper(max_bytes, folder)
    for batch in batches:
        keeper.add(batch)
    return keeper


def test_features_come_back_bit_for_bit_and_their_file_goes(tmp_path: Path) -> None:
    n_images = 13
    whole = features(n_images)
    batches = list(map(list, zip(*(level.split(3, dim=1) for level in whole), strict=True)))
    kept = keep(batches, 4 * N_FEATURES * n_images, tmp_path).kept()
    read = list(read_kept(kept, PYRAMID, torch.device("cpu"), 4))
    assert [batch[0].shape[1] for batch in read] == [4, 4, 4, 1]
    for found, level in zip(zip(*read, strict=True), whole, strict=True):
        assert torch.equal(torch.cat(found, dim=1), level)
    assert list(tmp_path.iterdir())
    del kept
    assert not list(tmp_path.iterdir())


def test_what_a_gpu_computes_stays_with_it(tmp_path: Path) -> None:
    batches = [[level.to("meta") for level in features(n)] for n in (3, 2)]
    kept = keep(batches, 1 << 20, tmp_path).kept()
    assert not list(tmp_path.iterdir())
    read = list(read_kept(kept, PYRAMID, torch.device("meta"), 3))
    assert [[level.shape for level in batch] for batch in read] == [
        [level.shape for level in batch] for batch in batches
    ]


@pytest.mark.parametrize("max_bytes", [0, 4 * N_FEATURES * 7 - 1])
def test_too_many_are_not_kept_at_all(tmp_path: Path, max_bytes: int) -> None:
    assert keep([features(4), features(3), features(1)], max_bytes, tmp_path).kept() == ()
    assert not list(tmp_path.iterdir())


def test_a_fit_keeps_features_where_it_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders, write = set(), FileTensor.write

    def tell(self: FileTensor, first: int, values: Tensor) -> None:
        folders.add(self.path.parent.parent)
        write(self, first, values)

    monkeypatch.setattr(FileTensor, "write", tell)
    replace(oracle.small_fitter(), scratch=tmp_path).fit(list(oracle.random_images(3, (64, 64))))
    assert folders == {tmp_path}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("n_written", [None, 0, 1])
def test_a_disk_without_room_changes_no_threshold(
    monkeypatch: pytest.MonkeyPatch, n_written: int | None
) -> None:
    images = list(oracle.random_images(9, (64, 64)))
    fitter = oracle.small_fitter()
    expected = fitter.fit(images).state.calibration
    assert expected is not None
    written, write = [], FileTensor.write

    def refuse(self: FileTensor, first: int, values: Tensor) -> None:
        if len(written) == n_written:
            raise OSError("no space left on device")
        written.append(first)
        write(self, first, values)

    def make_none(_: Path) -> None:
        raise PermissionError("read-only file system")

    if n_written is None:
        monkeypatch.setattr(temporary, "sweep_once", make_none)
    else:
        monkeypatch.setattr(FileTensor, "write", refuse)
    found = fitter.fit(images).state.calibration
    assert found is not None
    np.testing.assert_array_equal(found.image_score, expected.image_score)
    np.testing.assert_array_equal(found.pixel_count, expected.pixel_count)
    assert len(written) == (n_written or 0)
