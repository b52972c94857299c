"""Networks of timm against what the whole network computes at the modules that timm names."""

import gc
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import oracle
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import padim
from padim.backbones import BACKBONES, INTERMEDIATES
from padim.cli import main
from padim.errors import UsageError, WeightsError
from padim.features.intermediates import describe_network, find_names, takes_size
from padim.features.onnx import write_onnx
from padim.features.trunk import activation_bytes, build_trunk, load_trunk, optimise, with_taps
from padim.features.weights import fetch, locate, require_weights, verify
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings
from padim.method.pyramid import build_pyramid
from padim.model.file import load_state

SIZE_PX = (64, 64)


@dataclass(frozen=True)
class Family:
    """A small member of a family, and what its own paper and code say of it."""

    name: str
    side_px: int
    taps: tuple[int, ...]
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    behind: str  # tensors of the whole network that lie behind the last tap
    layout: Literal["NCHW", "NHWC", "tokens"] = "NCHW"  # of what the tapped modules give
    n_prefix: int = 0  # tokens that are no patches

    def whole(self) -> nn.Module:
        """The whole network, with random weights."""
        torch.manual_seed(0)
        is_fixed = timm.get_pretrained_cfg(self.name).fixed_input_size
        network: nn.Module = timm.create_model(
            self.name, **({"img_size": self.side_px} if is_fixed else {})
        )
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        return network.eval().requires_grad_(False)

    def expected(self, network: nn.Module, images: Tensor) -> list[Tensor]:
        """What the tapped modules of the whole network give, as maps (N, C, h, w)."""
        names = [network.feature_info[tap]["module"] for tap in self.taps]
        found = oracle.hooked(network, names, images)
        if self.layout == "NHWC":
            return [one.permute(0, 3, 1, 2) for one in found]
        if self.layout == "tokens":
            side = self.side_px // self.strides[0]
            return [one[:, self.n_prefix :].mT.unflatten(2, (side, side)) for one in found]
        return found


FAMILIES = [
    Family("test_convnext", 64, (0, 1, 2), (4, 8, 16), (24, 32, 48), "stages.3"),
    Family("resnet18", 64, (1, 2, 3), (4, 8, 16), (64, 128, 256), "layer4"),
    Family("regnety_002", 64, (1, 2, 3), (4, 8, 16), (24, 56, 152), "s4"),
    Family("mobilenetv3_small_050", 64, (1, 2, 3), (4, 8, 16), (8, 16, 24), "blocks.4"),
    Family("mobilenetv4_conv_small_035", 64, (1, 2, 3), (4, 8, 16), (16, 24, 32), "blocks.4"),
    Family("tf_efficientnet_b0", 64, (1, 2, 3), (4, 8, 16), (24, 40, 112), "blocks.5"),
    Family(
        "swin_tiny_patch4_window7_224",
        64,
        (0, 1, 2),
        (4, 8, 16),
        (96, 192, 384),
        "layers.3",
        "NHWC",
    ),
    Family("test_maxvit", 64, (1, 2, 3), (4, 8, 16), (32, 64, 96), "stages.3"),
    Family("test_vit", 64, (3,), (16,), (64,), "blocks.4", "tokens", 1),
    Family("vit_small_patch14_reg4_dinov2", 56, (6,), (14,), (384,), "blocks.7", "tokens", 5),
    Family("vit_small_patch16_dinov3", 64, (6,), (16,), (384,), "blocks.7", "tokens", 5),
    Family("densenet121", 64, (1, 2, 3), (4, 8, 16), (256, 512, 1024), "features.denseblock4"),
    Family("test_nfnet", 64, (1, 2, 3), (4, 8, 16), (32, 64, 96), "stages.3"),
    Family("test_mambaout", 64, (0, 1, 2), (4, 8, 16), (16, 32, 48), "stages.3", "NHWC"),
    Family("pvt_v2_b0", 64, (0, 1, 2), (4, 8, 16), (32, 64, 160), "stages.3"),
]
# timm 1.0.16, the oldest allowed, does not have these, or gives no feature maps of them.
LATE = ("densenet121", "test_nfnet", "test_maxvit", "vit_small_patch16_dinov3")
BY_NAME = {family.name: family for family in FAMILIES}
each_family = pytest.mark.parametrize("family", FAMILIES, ids=BY_NAME)


@each_family
def test_the_maps_are_what_the_whole_network_computes_there(family: Family) -> None:
    if family.name in LATE and timm.__version__ == "1.0.16":
        with pytest.raises(UsageError, match=r"gives no feature maps of it|There is no backbone"):
            describe_network(f"timm:{family.name}")
        pytest.skip("timm 1.0.16 does not have it, or gives no feature maps of it")
    network = family.whole()
    images = torch.randn(2, 3, family.side_px, family.side_px)
    expected = family.expected(network, images)
    spec, size_px = describe_network(f"timm:{family.name}"), (family.side_px,) * 2
    assert (spec.taps, spec.strides, spec.channels) == (
        family.taps,
        family.strides,
        family.channels,
    )
    trunk = load_trunk(spec, network.state_dict(), "here", size_px)
    names = set(trunk.network.state_dict())
    assert names < set(network.state_dict()), "the tensors keep their names"
    assert any(name.startswith(family.behind) for name in network.state_dict())
    head = () if timm.__version__ == "1.0.16" else ("head", "fc")  # it may leave a norm of that
    assert not any(name.startswith((family.behind, *head)) for name in names)
    for found in (trunk(images), optimise(trunk)(images)):
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.std()))


def write_weights(family: Family, path: Path, **other: Tensor) -> Path:
    """The whole network as a file of random weights."""
    save_file({n: t.contiguous() for n, t in (family.whole().state_dict() | other).items()}, path)
    return path


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("test_convnext", "torch"),
        ("test_vit", "torch"),
        ("test_vit", "onnxruntime"),
        ("test_convnext", "openvino"),
    ],
)
def test_a_model_of_timm_is_saved_and_scores_bit_for_bit(
    tmp_path: Path, name: str, engine: str
) -> None:
    weights = write_weights(BY_NAME[name], tmp_path / "net.safetensors")
    images = list(oracle.random_images(4, SIZE_PX))
    fitted = padim.fit(
        images[:3], backbone=f"timm:{name}", weights=weights, size_px=SIZE_PX, engine=engine
    )
    fitted.save(tmp_path / "a.safetensors")
    again = padim.load(tmp_path / "a.safetensors", engine=engine)
    assert again.state.encoder.spec.name == f"timm:{name}.r160_in1k"
    ours, theirs = again.predict(images[3]), fitted.predict(images[3])
    assert (ours.score, ours.anomaly_map.tobytes()) == (theirs.score, theirs.anomaly_map.tobytes())
    if engine == "torch":  # the graph is of the model, whoever fitted it
        parity = padim.export(tmp_path / "a.safetensors", tmp_path / "a.onnx")
        assert parity.score_error < parity.tolerance


def test_weights_that_do_not_travel_are_known_by_their_hash(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    weights = write_weights(BY_NAME["test_convnext"], tmp_path / "net.safetensors")
    images = list(oracle.random_images(4, SIZE_PX))
    padim.fit(
        images[:3],
        backbone="timm:test_convnext",
        weights=weights,
        size_px=SIZE_PX,
        engine="torch",
        include_backbone=False,
    ).save(path)
    assert padim.load(path, weights=weights, engine="torch").predict(images[3]).score > 0
    with pytest.raises(WeightsError, match=r"timm:test_convnext\.r160_in1k are not here\. Name"):
        padim.load(path)
    other = write_weights(BY_NAME["test_vit"], tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="the model was fitted with weights of"):
        padim.load(path, weights=other)


def test_weights_that_a_network_may_work_on_are_not_rounded(tmp_path: Path) -> None:
    weights = write_weights(BY_NAME["test_convnext"], tmp_path / "net.safetensors")
    settings = FitSettings(
        backbone="timm:test_convnext",
        weights=weights,
        size_px=SIZE_PX,
        engine="torch",
        device="cpu",
        precision="bfloat16",
    )
    features = prepare(settings).features
    kinds = {p.dtype for p in features.parameters()}
    assert kinds == {torch.float32}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of timm's own way to resample
@pytest.mark.parametrize("name", ["test_vit", "swin_tiny_patch4_window7_224"])
def test_positions_are_resampled_as_timm_does(name: str) -> None:
    family, side_px = BY_NAME[name], 96
    torch.manual_seed(0)
    tensors = timm.create_model(name).state_dict()
    theirs = timm.create_model(
        name,
        img_size=side_px,
        pretrained=True,
        pretrained_cfg_overlay={"state_dict": tensors, "hf_hub_id": None},
    ).eval()
    images = torch.randn(1, 3, side_px, side_px)
    expected = replace(family, side_px=side_px).expected(theirs, images)
    spec = describe_network(f"timm:{name}")
    trunk = load_trunk(spec, tensors, "here", (side_px, side_px))
    for ours, wanted in zip(trunk(images), expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


def test_weights_with_a_head_of_somebodys_own_are_taken_and_others_are_not() -> None:
    spec = describe_network("timm:test_vit")
    own = timm.create_model("test_vit", num_classes=7).state_dict()
    assert load_trunk(spec, own, "here", SIZE_PX)(torch.zeros(1, 3, *SIZE_PX))
    del own["blocks.2.attn.qkv.weight"]
    with pytest.raises(WeightsError, match=r"here has no tensor blocks\.2\.attn\.qkv\.weight, but"):
        load_trunk(spec, own, "here", SIZE_PX)
    wide = timm.create_model("test_vit2").state_dict()
    with pytest.raises(WeightsError, match=r"timm cannot bring these weights|has no tensor|shape"):
        load_trunk(spec, wide, "here", SIZE_PX)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("timm:test_vitt", r"no backbone 'timm:test_vitt'\. Did you mean 'timm:test_vit"),
        ("timm:test_vit.none", r"no backbone 'timm:test_vit.none'\. Did you mean 'timm:test_vit"),
        ("timm:hf-hub:timm/test_vit", "There is no backbone 'timm:hf-hub:timm/test_vit'"),
        ("timm:local-dir:/tmp", "There is no backbone 'timm:local-dir:/tmp'"),
        ("timm:pit_b_224", "timm:pit_b_224 cannot be used: .* no whole stride"),
    ],
)
def test_what_timm_lacks_or_cannot_be_used_is_refused(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        describe_network(name)


def test_maps_of_other_strides_than_timm_says_are_refused_simulated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = "padim.features.intermediates._offered_strides"
    monkeypatch.setattr(said, lambda _: [2, 4, 8, 16])  # those of ConvNeXt are 4, 8, 16, 32
    with pytest.raises(UsageError, match="numbers its feature maps otherwise than it describes"):
        describe_network("timm:test_convnext")


def test_other_taps_are_feature_maps_of_the_network() -> None:
    spec = with_taps(describe_network("timm:test_vit"), (0, 2, 5))
    assert (spec.taps, spec.channels, spec.strides) == ((0, 2, 5), (64,) * 3, (16,) * 3)
    (level,) = build_pyramid(spec, SIZE_PX).levels
    assert (level.grid, level.taps) == ((4, 4), (0, 1, 2))
    with pytest.raises(UsageError, match=r"taps are 2, 9, but .* has the feature maps 0 to 5, .*3"):
        with_taps(spec, (2, 9))


def test_a_size_that_is_no_multiple_of_the_patch_is_refused(tmp_path: Path) -> None:
    family = BY_NAME["vit_small_patch14_reg4_dinov2"]
    with pytest.raises(UsageError, match=r"multiple of 14 px for its grids to nest\. Try 252x252"):
        padim.fit([], backbone=f"timm:{family.name}", weights=tmp_path / "a", size_px=256)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"architecture": "hf-hub"}, "timm has no network hf-hub.r160_in1k"),
        ({"weights_tag": "none"}, "timm has no network test_convnext.none"),
        ({"taps": (0, 1, 7)}, "test_convnext has no feature maps 0, 1, 7"),
        ({"channels": (24, 32, 49)}, "m describes test_convnext otherwise than it is"),
        ({"strides": (4, 8, 8)}, "m describes test_convnext otherwise than it is"),
    ],
)
def test_what_a_model_file_says_of_a_network_is_held_against_timm(
    changed: dict[str, object], reason: str
) -> None:
    spec = replace(describe_network("timm:test_convnext"), **changed)  # type: ignore[arg-type]  # values of many types
    with pytest.raises(WeightsError, match=reason):
        load_trunk(spec, {}, "m", SIZE_PX)


def test_intermediates_are_of_timm() -> None:
    with pytest.raises(ValueError, match="intermediates are of timm"):
        replace(BACKBONES["resnet18"], block=INTERMEDIATES)


def test_an_address_in_a_model_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "net-5e3c1a9b.pth").write_bytes(b"weights")
    address = (tmp_path / "net-5e3c1a9b.pth").as_uri()
    for spec in (BACKBONES["resnet18"], describe_network("timm:test_convnext")):
        with pytest.raises(WeightsError, match=r"are not here\. Name them with --weights"):
            require_weights(replace(spec, url=address))


def test_another_network_under_a_name_of_the_table_is_not_fetched(hub: Path) -> None:
    own = BACKBONES["resnet18"]
    path = hub.parent / "torch/hub/checkpoints" / own.weights_file
    path.parent.mkdir(parents=True)
    path.touch()
    named_so = replace(describe_network("timm:test_convnext"), name=own.name, url=own.url)
    assert require_weights(named_so) == path


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of timm's hub without a network, and no other place of weights."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "hub"


def put_into(hub: Path, name: str, weights: Path) -> Path:
    """Lay a file where the hub's client lays what it fetched."""
    folder = hub / f"models--timm--{name}"
    blob = folder / "blobs" / hashlib.sha256(weights.read_bytes()).hexdigest()
    link = folder / "snapshots/0" / "model.safetensors"
    for parent in (blob.parent, link.parent, folder / "refs"):
        parent.mkdir(parents=True)
    blob.write_bytes(weights.read_bytes())
    link.symlink_to(blob)
    (folder / "refs/main").write_text("0")
    return link


def test_what_timm_fetched_is_found_without_a_network(hub: Path, tmp_path: Path) -> None:
    spec = describe_network("timm:test_convnext")
    assert locate(spec) is None
    with pytest.raises(
        WeightsError, match=r"are not here and cannot be fetched.*model\.safetensors"
    ):
        fetch(spec)
    weights = write_weights(BY_NAME["test_convnext"], tmp_path / "net.safetensors")
    path = put_into(hub, "test_convnext.r160_in1k", weights)
    assert locate(spec) == fetch(spec) == path
    assert verify(spec, path).matched == "the one that the hub has of it"
    assert main(["weights", "fetch", "timm:test_convnext", "--to", str(tmp_path / "carry")]) == 0
    carried = tmp_path / "carry" / "test_convnext.r160_in1k.safetensors"
    assert carried.read_bytes() == weights.read_bytes()
    blob = path.resolve()
    blob.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match="is not what was published"):
        verify(spec, path)


def test_a_search_that_finds_many_describes_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backbones", "--search", "test_", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in document] == find_names("test_")
    assert [len(one) > 1 for one in document] == [i < 12 for i in range(len(document))]


def test_a_search_lists_what_can_be_used_and_why_others_cannot(
    hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["backbones", "--search", "pit_b_224.in1k"]) == 0
    assert "timm:pit_b_224.in1k cannot be used: 31x31" in capsys.readouterr().out
    assert main(["backbones", "--search", "timm:TEST_convnext.", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["name"] == "timm:test_convnext.r160_in1k"
    assert (found["taps"], found["strides"]) == ([0, 1, 2], [4, 8, 16])
    assert main(["backbones", "--search", " "]) == 2
    assert main(["backbones", "--search", "nothing of it"]) == 2
    assert len(find_names("")) > 1000


def test_the_forecast_counts_what_each_operation_takes_and_gives() -> None:
    spec = describe_network("timm:test_vit")
    channels, heads = 64, 2
    # The patches of the image
    most = 4 * (3 * 64 * 64 + channels * 16)
    assert activation_bytes(build_trunk(spec, SIZE_PX), SIZE_PX) == most + 4 * channels * 16
    # What each of 577 tokens sees of each, beside query, key, value and what comes of them
    most = 4 * (heads * 577**2 + 4 * 577 * channels)
    maps = 4 * channels * 24**2
    assert activation_bytes(build_trunk(spec, (384, 384)), (384, 384)) == most + maps


def test_a_batch_norm_beside_a_convolution_stays() -> None:
    trunk = optimise(build_trunk(describe_network("timm:resnet18")))
    assert any(isinstance(module, nn.BatchNorm2d) for module in trunk.modules())


class Cosines(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.cos(images.float())


class Choosing(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float() if images.sum() > 0 else images.float() + 1


@pytest.mark.parametrize(
    ("network", "reason"),
    [(Cosines(), "it has the operator Cos"), (Choosing(), "torch's exporter")],
)
def test_a_network_that_no_graph_can_be_says_who_runs_it(
    tmp_path: Path, network: nn.Module, reason: str
) -> None:
    with pytest.raises(UsageError, match=rf"cannot be a graph: {reason}.*Use --engine torch"):
        write_onnx(network, tmp_path / "a.onnx", (4, 4), ["score"], "")
    assert gc.isenabled()
    assert not vars(torch.fx.config).get("do_not_emit_stack_traces")


def test_a_network_built_for_a_size_may_take_no_other() -> None:
    assert takes_size(describe_network("timm:test_convnext"), (64, 64), (48, 48))
    swin = describe_network("timm:swin_tiny_patch4_window7_224")
    assert not takes_size(swin, (224, 224), (128, 128))


def test_a_recipe_has_no_coarse_head_where_a_network_takes_one_size_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, good, model = tmp_path / "net.safetensors", tmp_path / "good", tmp_path / "a"
    tensors = timm.create_model("test_vit3").state_dict()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, weights)
    good.mkdir()
    for i, pixels in enumerate(oracle.random_images(3, SIZE_PX)):
        Image.fromarray(pixels).save(good / f"{i}.png")
    command = ["fit", str(good), "-o", str(model), "--backbone", "timm:test_vit3"]
    command += ["--weights", str(weights), "--size-px", "64", "--engine", "torch"]

    assert main(command) == 0
    said = "No coarse head: timm:test_vit3.r160_in1k takes no smaller copy of an image."
    assert said in capsys.readouterr().out
    assert load_state(model).recipe.coarse_scale == 0
    padim.export(model, tmp_path / "a.xml", to="openvino")  # has an Identity

    assert main([*command, "--coarse-scale", "0.75"]) == 2
    assert "takes images of 64x64 px alone" in capsys.readouterr().err
