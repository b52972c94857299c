import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from hostile.mutate_json import mutate_value
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import padim
from padim.backbones import backbone
from padim.errors import (
    ModelFileError,
    ModelFileHashError,
    ModelFileTensorError,
    ModelFileTruncatedError,
    ModelFileVersionError,
    PathMissingError,
    UnknownNameError,
    WeightsError,
)
from padim.features.encoder import Encoder, Engine
from padim.files import write_text, write_whole
from padim.fitting.fit import build_model
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings
from padim.images.facts import ImageFacts
from padim.images.preprocess import Preprocess
from padim.images.reading import Reading
from padim.method.moments import Moments
from padim.method.pyramid import Level, nest
from padim.method.tiles import Tiling
from padim.model import file as file_module
from padim.model.file import load_moments, load_state, save_moments, save_state
from padim.model.pair import moments_path
from padim.model.state import ModelState
from padim.recipes import RECIPES
from padim.tensors.reading import TensorFileError, open_tensors
from padim.versions import read_versions

SEED = 0


def small_state(dtype: torch.dtype = torch.float16) -> ModelState:
    """A model of a few kilobytes, whole in every part."""
    generator = torch.Generator().manual_seed(SEED)
    pyramid = nest([Level((1, 1), (1,), ((0, 3),)), Level((2, 2), (0,), ((1,),))])
    spec, settings = (
        replace(backbone("efficientnet_lite0"), strides=(16, 32, 32)),
        replace(RECIPES["standard"], size_px=(32, 32), coarse_scale=0.0),
    )
    return ModelState(
        encoder=Encoder(
            spec=spec,
            tiling=Tiling.whole(pyramid, (32, 32)),
            preprocess=Preprocess((32, 32), 1.0, "bilinear", spec.mean, spec.std),
            engine=Engine("onnxruntime", "1.32.0"),
            precision="float32",
            weights_sha256="5" * 64,
            versions=read_versions(),
        ),
        recipe=settings,
        eps=(0.01, 0.1 + 0.2),
        count=3,
        mean=(torch.randn(1, 2, generator=generator), torch.randn(4, 1, generator=generator)),
        whitening=(
            torch.randn(1, 2, 2, generator=generator).to(dtype),
            torch.randn(4, 1, 3, generator=generator).to(dtype),
        ),
        image_sha256=("a" * 64, "b" * 64, "c" * 64),
        trunk={"conv.weight": torch.randn(2, 1, 3, 3, generator=generator), "n": torch.tensor(7)},
    )


def small_moments(n: int = 4) -> Moments:
    generator = torch.Generator().manual_seed(SEED)
    cells = [(1, n, 2), (4, n, 1)]
    return Moments.of([torch.randn(*shape, generator=generator) for shape in cells])


def assert_same_tensor(ours: Tensor, theirs: Tensor) -> None:
    assert ours.dtype == theirs.dtype
    assert torch.equal(ours, theirs)


def assert_same(ours: ModelState, theirs: ModelState) -> None:
    assert ours.metadata() == theirs.metadata()
    assert ours.encoder.spec == theirs.encoder.spec
    for name in ("recipe", "preprocess", "pyramid", "eps", "image_sha256"):
        assert getattr(ours, name) == getattr(theirs, name)
    for one, other in zip(
        (*ours.mean, *ours.whitening), (*theirs.mean, *theirs.whitening), strict=True
    ):
        assert_same_tensor(one, other)
    assert ours.trunk.keys() == theirs.trunk.keys()
    for name, tensor in ours.trunk.items():
        assert_same_tensor(tensor, theirs.trunk[name])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_state(small_state(), path)
    return path


def header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as opened:
        return dict(opened.metadata())


# Round trips


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_model_survives_its_file_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    before = small_state(dtype)
    save_state(before, tmp_path / "a.safetensors")
    after = load_state(tmp_path / "a.safetensors")
    assert_same(after, before)
    save_state(after, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_model_without_its_trunk_survives_its_file(tmp_path: Path) -> None:
    before = replace(small_state(), trunk={})
    save_state(before, tmp_path / "a.safetensors")
    assert_same(load_state(tmp_path / "a.safetensors"), before)


def test_the_description_is_one_string_of_json(file: Path) -> None:
    data = json.loads(header(file)["padim"])
    assert {key: data[key] for key in ("count", "format_version", "precision")} == {
        "count": 3,
        "format_version": 1,
        "precision": "float32",
    }
    assert data["backbone"]["name"] == "efficientnet_lite0"
    assert data.keys() == json.loads(json.dumps(small_state().metadata())).keys() | {
        "tensor_sha256",
        "metadata_sha256",
    }


def test_moments_survive_their_file_bit_for_bit(tmp_path: Path) -> None:
    before = small_moments()
    save_moments(before, replace(small_state(), count=4), tmp_path / "m.safetensors")
    after = load_moments(tmp_path / "m.safetensors")
    assert after.count == before.count
    for one, other in zip(after.mean, before.mean, strict=True):
        assert_same_tensor(one, other)
    for rows, others in zip(after.scatter, before.scatter, strict=True):
        for one, other in zip(rows, others, strict=True):
            assert_same_tensor(one, other)


def test_the_file_of_a_tensor_that_is_a_view_holds_no_more_than_the_view(tmp_path: Path) -> None:
    whole = small_state()
    view = replace(
        whole, mean=tuple(torch.stack([m, m])[0].t().contiguous().t() for m in whole.mean)
    )
    save_state(whole, tmp_path / "a.safetensors")
    save_state(view, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


# Fits


def images(n: int) -> list[np.ndarray]:
    return list(oracle.random_images(n, (60, 70), seed=3))


FIT = """
import sys
import oracle
from padim.model.file import save_state
from pathlib import Path
from typing import Any
fitted = oracle.small_fitter().fit(list(oracle.random_images(9, (60, 70), seed=3)))
save_state(fitted.state, Path(sys.argv[1]))
"""


def test_the_same_images_twice_give_the_same_bytes(tmp_path: Path) -> None:
    fitter = oracle.small_fitter()
    for name in ("a", "b"):
        save_state(fitter.fit(images(9)).state, tmp_path / name)
    save_state(oracle.small_fitter().fit(images(9)).state, tmp_path / "c")
    subprocess.run(
        [sys.executable, "-c", FIT, str(tmp_path / "d")],
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONHASHSEED": "17"},
    )
    contents = {(tmp_path / name).read_bytes() for name in "abcd"}
    assert len(contents) == 1


def test_loading_and_predicting_do_not_change_a_model(tmp_path: Path) -> None:
    fitter = oracle.small_fitter()
    model = build_model(fitter, fitter.fit(images(4)))
    model.save(tmp_path / "a")
    loaded = padim.PaDiM(load_state(tmp_path / "a"))
    before, after = (m.predict(images(5)) for m in (model, loaded))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.anomaly_map, other.anomaly_map)
        assert one.score == other.score
    loaded.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_tells_nothing_of_where_and_when_it_was_made(tmp_path: Path) -> None:
    good, _ = oracle.solar_cells()
    fitted = oracle.small_fitter(keep_moments=True).fit(good[:3])
    save_state(fitted.state, tmp_path / "model.safetensors")
    save_moments(fitted.moments, fitted.state, tmp_path / "moments.safetensors")
    told = {
        str(tmp_path),
        str(Path.home()),
        str(Path.cwd()),
        str(good[0].parent),
        good[0].name,
        str(Path(sys.prefix)),
        time.strftime("%Y-%m-%d"),
        time.strftime("%H:%M"),
    }
    for name in ("model", "moments"):
        content = (tmp_path / f"{name}.safetensors").read_bytes()
        text = content[8 : 8 + int.from_bytes(content[:8], "little")].decode()
        assert "efficientnet_lite0" in text
        assert not {word for word in told if word.encode() in content}
        assert not re.search(r'"(/|[A-Za-z]:\\)', text)  # an absolute path of anybody


def test_moments_of_two_fits_merge_to_the_fit_on_all(tmp_path: Path) -> None:
    fitter = oracle.small_fitter(keep_moments=True)
    parts = []
    for name, some in (("a", images(12)[:8]), ("b", images(12)[8:])):
        path = tmp_path / f"{name}.safetensors"
        keeping = replace(fitter, settings=replace(fitter.settings, keep_moments=True))
        build_model(keeping, keeping.fit(some)).save(path, moments=True)
        parts.append(load_moments(moments_path(path)))
    merged = parts[0].merge(parts[1])
    whole = fitter.fit(images(12)).moments
    assert merged.count == whole.count == 12
    for level in range(3):
        torch.testing.assert_close(merged.mean[level], whole.mean[level], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            merged.scatter[level], whole.scatter[level], rtol=1e-4, atol=1e-3
        )


def test_a_model_without_its_trunk_needs_the_weights_it_was_fitted_with(tmp_path: Path) -> None:
    fitter = oracle.small_fitter(include_backbone=False)
    build_model(fitter, fitter.fit(images(4))).save(tmp_path / "model.safetensors")
    before = padim.load(tmp_path / "model.safetensors").predict(images(1)[0])

    weights = tmp_path / "own.safetensors"
    tensors = oracle.tensors_of(oracle.whole_network("efficientnet_lite0"))
    save_file(tensors, weights)
    with pytest.raises(WeightsError, match=r"but the model was fitted with weights of 57934424"):
        padim.load(tmp_path / "model.safetensors", weights=weights)
    assert before.anomaly_map.shape == (64, 64)


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    fitter = oracle.small_fitter()
    build_model(fitter, fitter.fit(images(2))).save(tmp_path / "m")
    with pytest.raises(UnknownNameError, match=r"no precision 'bfloat61'\. Did you mean 'bfloat16"):
        padim.load(tmp_path / "m", precision="bfloat61")


# Files that are not what they should be


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    for read in (load_state, load_moments):
        with pytest.raises(PathMissingError, match=r"none does not exist\. Check the path"):
            read(tmp_path / "none")


def test_a_file_cut_short_anywhere_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for n_bytes in range(len(whole)):
        file.write_bytes(whole[:n_bytes])
        with pytest.raises(ModelFileTruncatedError, match=r"no whole model file .*Copy it again"):
            load_state(file)


def test_a_file_with_more_at_its_end_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(ModelFileTruncatedError, match="no whole model file"):
        load_state(file)


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n", bytes(4096), b"\xff" * 4096, b'{"a": 1}' * 100, b"PK\x03\x04"]
)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd").write_bytes(content)
    for read in (load_state, load_moments):
        with pytest.raises(ModelFileTruncatedError, match="odd is no whole model file"):
            read(tmp_path / "odd")


def test_a_shape_that_torch_cannot_count_is_refused(tmp_path: Path) -> None:
    place = {"dtype": "F32", "shape": [1 << 62, 1 << 62, 0], "data_offsets": [0, 0]}
    text = json.dumps({"a": place}).encode()
    (tmp_path / "odd").write_bytes(len(text).to_bytes(8, "little") + text)
    with (
        pytest.raises(TensorFileError, match="tensor a is of a kind or length that cannot be"),
        open_tensors(tmp_path / "odd") as file,
    ):
        file.read()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_safetensors_file_of_others_is_refused(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "odd", metadata=metadata)
    with pytest.raises(ModelFileTruncatedError, match="a safetensors file, but no model"):
        load_state(tmp_path / "odd")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "7",
        "null",
        '"text"',
        '{"format_version": "one"}',
        "[" * 100_000,
        '{"format_version": null}',
        '{"format_version": 1}',
        '{"format_version": 1, "levels": []}',
    ],
    ids=range(12),
)
def test_a_description_that_makes_no_sense_is_refused(tmp_path: Path, text: str) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "odd", metadata={"padim": text})
    for read in (load_state, load_moments):
        with pytest.raises(ModelFileHashError, match=r"odd describes itself .* Copy the file"):
            read(tmp_path / "odd")


def test_how_files_are_read_and_what_images_were_like_is_kept(tmp_path: Path) -> None:
    small, path = small_state(), tmp_path / "a"
    save_state(small, path)
    said = json.loads(header(path)["padim"])
    assert said["format_version"] == 1
    assert not {"images", "reading"} & {*said, *said["preprocess"]}  # as releases before wrote it

    facts = ImageFacts(("16-bit grey",), (10.5, 20.25), 4000)
    preprocess = replace(small.preprocess, reading=Reading(4095, 2))
    kept = replace(small, encoder=replace(small.encoder, preprocess=preprocess), images=facts)
    save_state(kept, path)
    said = json.loads(header(path)["padim"])
    assert said["format_version"] == 2  # an older release would read other pixels
    assert said["preprocess"]["reading"] == {"white": 4095, "page": 2}
    found = load_state(path)
    assert (found.preprocess, found.images) == (preprocess, facts)


def test_a_newer_version_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(ModelState, "format_version", 4)
        small = small_state()
        reading = replace(small.preprocess, reading=Reading(white=4095))
        save_state(
            replace(small, encoder=replace(small.encoder, preprocess=reading)), tmp_path / "new"
        )
    for read in (load_state, load_moments):
        with pytest.raises(
            ModelFileVersionError, match=r"format version 4, but this release reads up to 3\."
        ):
            read(tmp_path / "new")


@pytest.mark.parametrize(
    "name", ["levels/0/mean", "levels/1/whitening", "backbone/conv.weight", "backbone/n"]
)
def test_a_missing_tensor_is_refused_by_name(file: Path, name: str) -> None:
    tensors, metadata = load_file(file), header(file)
    del tensors[name]
    save_file(tensors, file, metadata=metadata)
    with pytest.raises(ModelFileTensorError, match=rf"lacks the tensor {name}\."):
        load_state(file)


def test_a_superfluous_tensor_is_refused_by_name(file: Path) -> None:
    save_file(load_file(file) | {"extra": torch.ones(1)}, file, metadata=header(file))
    with pytest.raises(ModelFileError, match="extra"):
        load_state(file)


def test_swapped_tensors_are_refused(tmp_path: Path) -> None:
    # Of one shape and type: nothing but the contents tells them apart.
    both = {"a": torch.ones(2, 3), "b": torch.zeros(2, 3)}
    save_state(replace(small_state(), trunk=both), tmp_path / "m")
    tensors = load_file(tmp_path / "m")
    tensors["backbone/a"], tensors["backbone/b"] = tensors["backbone/b"], tensors["backbone/a"]
    save_file(tensors, tmp_path / "m", metadata=header(tmp_path / "m"))
    with pytest.raises(ModelFileHashError, match=r"holds another tensor backbone/. than was"):
        load_state(tmp_path / "m")


def test_a_tensor_of_another_type_is_refused(file: Path) -> None:
    tensors = load_file(file)
    tensors["levels/0/mean"] = tensors["levels/0/mean"].view(torch.int32)  # the very same bytes
    save_file(tensors, file, metadata=header(file))
    with pytest.raises(ModelFileHashError, match="another tensor levels/0/mean"):
        load_state(file)


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    wrong = replace(small_state(), mean=(torch.zeros(1, 2), torch.zeros(5, 1)))
    save_state(wrong, tmp_path / "m")
    with pytest.raises(
        ModelFileTensorError, match=r"levels/1/mean of shape \(5, 1\), but needs \(4, 1\)"
    ):
        load_state(tmp_path / "m")


def test_a_model_without_one_of_its_levels_is_refused(tmp_path: Path) -> None:
    whole = small_state()
    wrong = replace(whole, mean=whole.mean[:1], whitening=whole.whitening[:1])
    save_state(wrong, tmp_path / "m")
    with pytest.raises(ModelFileTensorError, match="lacks the tensor levels/1/mean"):
        load_state(tmp_path / "m")


def test_moments_of_another_shape_are_refused(tmp_path: Path) -> None:
    moments = small_moments()
    rows = ((moments.scatter[0][0],), (torch.zeros(4, 1, 3), moments.scatter[1][1]))
    save_moments(replace(moments, scatter=rows), small_state(), tmp_path / "m")
    with pytest.raises(
        ModelFileTensorError, match=r"levels/1/scatter/0 of shape \(4, 1, 3\), but needs \(4, 1, 2"
    ):
        load_moments(tmp_path / "m")


def test_a_model_is_no_moments_and_moments_are_no_model(file: Path, tmp_path: Path) -> None:
    save_moments(small_moments(), small_state(), tmp_path / "m")
    with pytest.raises(ModelFileTensorError, match="holds model, but moments is needed"):
        load_moments(file)
    with pytest.raises(ModelFileTensorError, match="holds moments, but model is needed"):
        load_state(tmp_path / "m")


def loaded_or_error(path: Path) -> ModelState | ModelFileError:
    try:
        return load_state(path)
    except ModelFileError as error:
        return error


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80])
def test_a_byte_flipped_anywhere_is_refused_or_harmless(file: Path, mask: int) -> None:
    """Harmless are blanks: what is read is then what was written, to the bit."""
    before = small_state()
    whole = file.read_bytes()
    n_harmless = 0
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= mask
        file.write_bytes(content)
        after = loaded_or_error(file)
        if isinstance(after, ModelState):
            assert_same(after, before)
            n_harmless += 1
        else:
            assert type(after) is not ModelFileError
            assert re.fullmatch(rf"{re.escape(str(file))} .*\.", str(after), re.DOTALL)
    assert n_harmless < 16


def test_a_number_changed_in_the_description_is_refused(file: Path) -> None:
    metadata = header(file)
    for old, new in (('"count": 3', '"count": 4'), ("0.01", "0.02"), ("aaaa", "aaab")):
        assert old in metadata["padim"]
        changed = {"padim": metadata["padim"].replace(old, new, 1)}
        save_file(load_file(file), file, metadata=changed)
        with pytest.raises(ModelFileHashError, match="describes itself otherwise than was written"):
            load_state(file)


def sealed(facts: Any, tensors: dict[str, Tensor], path: Path) -> Path:
    """A file that says something else of itself, and hashes that agree with it."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    text = json.dumps({**facts, "metadata_sha256": digest}, sort_keys=True)
    save_file(tensors, path, metadata={"padim": text})
    return path


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"coarse_cells": [0]}, "coarse_cells are not those of its tiles"),
        ({"coarse_cells": [1]}, "need to be different and below 1"),
        ({"holds": "cats"}, "at holds, invalid enum value"),
        ({"tensor_sha256": {"a": "b"}}, r"at tensor_sha256\[...\], expected str matching"),
        ({"eps": [1]}, "2 levels need as many eps"),
        ({"calibration": {"source": "held-out", "stale": 1}}, "stale, expected bool"),
    ],
)
def test_fields_that_make_no_sense_are_refused(
    file: Path, changes: dict[str, object], reason: str
) -> None:
    facts = json.loads(header(file)["padim"])
    del facts["metadata_sha256"]
    sealed(facts | changes, load_file(file), file)
    with pytest.raises(ModelFileError, match=rf"describes itself .* be understood: .*{reason}"):
        load_state(file)


def test_changes_at_random_in_a_sealed_description_are_refused_or_open(file: Path) -> None:
    facts, source = json.loads(header(file)["padim"]), random.Random(0)
    # safetensors maps the file that is written over here, in its oldest releases.
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    del facts["metadata_sha256"]
    n_refused = 0
    for _ in range(300):
        changed, _ = mutate_value(source, facts)
        if not isinstance(changed, dict):
            continue
        sealed(changed, tensors, file)
        state = loaded_or_error(file)
        n_refused += isinstance(state, ModelFileError)
        if isinstance(state, ModelState):
            assert state.pyramid.n_cells(1) == 4
    assert 150 < n_refused < 300


# Writing


@pytest.fixture(params=["while writing", "while flushing", "while renaming"])
def full_disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stands in for a disk that fills up at one moment or another."""

    def fail(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    def half(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half a file")
        fail()

    with monkeypatch.context() as patch:
        if request.param == "while writing":
            patch.setattr(file_module, "write_tensors", half)
        elif request.param == "while flushing":
            patch.setattr(os, "fsync", fail)
        else:
            patch.setattr(Path, "replace", fail)
        yield


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize(
    "save",
    [
        lambda path: save_state(small_state(torch.float32), path),
        lambda path: save_moments(small_moments(), small_state(), path),
    ],
)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, save: Callable[[Path], None]
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"the old file")
    with pytest.raises(OSError, match="No space left"):
        save(path)
    assert path.read_bytes() == b"the old file"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with write_whole(tmp_path / "text") as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_a_written_file_has_the_rights_of_any_new_file(file: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_writing_makes_the_folder_and_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "text.txt"
    for text in ("first\n", "second é\n"):
        write_text(path, text)
        assert path.read_bytes() == text.encode()
    assert list(path.parent.iterdir()) == [path]


def test_the_moments_belong_beside_the_model(tmp_path: Path) -> None:
    assert moments_path(tmp_path / "a.safetensors") == tmp_path / "a.moments.safetensors"


def test_a_trunk_above_50_mb_does_not_travel(tmp_path: Path) -> None:
    pixels = oracle.random_images(2, (32, 32))
    network = oracle.random_network(
        "wide_resnet50_2", oracle.normalised(pixels, *oracle.MEAN_STD["imagenet"])
    )
    save_file(oracle.tensors_of(network), tmp_path / "own.safetensors")
    options = {"size_px": (32, 32), "weights": tmp_path / "own.safetensors"}
    assert not prepare(FitSettings(backbone="wide_resnet50_2", **options)).trunk
    assert prepare(FitSettings(backbone="wide_resnet50_2", **options, include_backbone=True)).trunk
    assert oracle.small_fitter().trunk
