"""Modules that are watched and written as graphs, against what torch computes of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from padim.features.onnx import write_onnx
from padim.features.onnx_calls import _CALLS, _LAID_OUT
from padim.features.tracing import UntraceableError, trace

SIZE_PX = (6, 4)


class Of(nn.Module):
    """A function of pixels ``(N, 6, 4, 3)``, float32, from 0 to 2, with a few constants."""

    def __init__(self, function: Callable[[Tensor, "Of"], Tensor]) -> None:
        super().__init__()
        self.function = function
        made = torch.Generator().manual_seed(0)
        self.row: Tensor
        self.register_buffer("row", torch.rand(3, generator=made) + 0.5)
        self.kernel: Tensor
        self.register_buffer("kernel", torch.rand(8, 3, 3, 3, generator=made))
        self.shade: Tensor
        self.register_buffer("shade", torch.rand(*SIZE_PX, 3, generator=made).half())
        self.order: Tensor
        self.register_buffer("order", torch.tensor([2, 0, 1, 1]))

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images.float() / 127.5, self)


def maps(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


KNOWN: dict[str, Callable[[Tensor, Of], Tensor]] = {
    "adaptive_avg_pool2d": lambda x, _: F.adaptive_avg_pool2d(maps(x), 1),
    "add": lambda x, of: 2 + (x + of.row + x.add(1)),
    "amax": lambda x, _: x.amax(dim=1),
    "batch_norm": lambda x, of: F.batch_norm(maps(x), of.row, of.row, of.row, None, eps=0.1),
    "bool": lambda x, _: (x.floor().bool()).float(),
    "cat": lambda x, of: torch.cat((x, x + of.row), dim=2),
    "clamp": lambda x, _: x.clamp(0.5, 1) + x.clamp(max=1.5),
    "clamp_min": lambda x, _: x.clamp_min(0.7),
    "clone": lambda x, _: x.clone() + 1,
    "contiguous": lambda x, _: maps(x).contiguous() + 1,
    "conv1d": lambda x, of: F.conv1d(x.flatten(2), of.kernel.view(12, 6, 3), padding=1),
    "conv2d": lambda x, of: F.conv2d(maps(x), of.kernel, of.kernel[:, 0, 0, 0], 2, (1, 0)),
    "detach": lambda x, _: x.detach() + 1,
    "div": lambda x, of: x / of.row,
    "double": lambda x, _: (x.double() * 3).float(),
    "exp": lambda x, _: x.exp(),
    "flatten": lambda x, _: x.flatten(1) * 2,
    "flip": lambda x, _: x.flip(2) + x.flip((1, 3)),
    "float": lambda x, _: (x > 1).float(),
    "floor": lambda x, _: x.floor(),
    "getitem": lambda x, _: x[:, 1:, ::2, None, -1] + x[..., :5, :2, 0].unsqueeze(3),
    "gt": lambda x, of: (x > of.row).float() + (x > 1).float(),
    "half": lambda x, _: x.half().float(),
    "hardsigmoid": lambda x, _: F.hardsigmoid(4 * x - 4),
    "hardswish": lambda x, _: F.hardswish(4 * x - 4),
    "hardtanh": lambda x, _: F.hardtanh(x - 1, 0, 0.5),
    "index_select": lambda x, of: x.index_select(3, of.order),
    "int": lambda x, _: (3 * x).int().float(),
    "invert": lambda x, _: (~(x > 1)).float(),
    "le": lambda x, _: (x <= 1).float(),
    "log": lambda x, _: (x + 1).log(),
    "long": lambda x, _: (3 * x).long().float(),
    "matmul": lambda x, of: of.row @ (x @ of.kernel[0, 0]).transpose(2, 3),
    "max_pool2d": lambda x, _: F.max_pool2d(maps(x), 3, 2, 1),
    "mean": lambda x, _: x.mean((1, 2), keepdim=True) + x.mean(dim=3, keepdim=True),
    "mul": lambda x, of: x * of.row * 2,
    "neg": lambda x, _: -x,
    "pad": lambda x, _: F.pad(x, (1, 0, 0, 2)) + F.pad(x, (0, 1, 1, 1), value=0.5),
    "permute": lambda x, _: x.permute((0, -1, 1, 2)) * 2,
    "pow": lambda x, _: x**3,
    "rdiv": lambda x, _: 2 / (x + 1),
    "relu": lambda x, _: F.relu(x - 1, inplace=True),
    "relu6": lambda x, _: F.relu6(8 * x - 4),
    "reshape": lambda x, _: x.reshape(-1, 3) * 2,
    "rsub": lambda x, _: 2 - x,
    "sigmoid": lambda x, _: x.sigmoid(),
    "silu": lambda x, _: F.silu(x - 1),
    "sqrt": lambda x, _: x.sqrt(),
    "square": lambda x, _: x.square(),
    "squeeze": lambda x, _: x[:, :1].squeeze(1) * 2,
    "stack": lambda x, of: torch.stack((x, x * of.row), dim=1),
    "sub": lambda x, of: x - of.row,
    "sum": lambda x, of: (x > of.row).sum(dim=3).float() + x.sum(dim=3),
    "t": lambda x, _: x.flatten(1).t() * 2,
    "to": lambda x, _: x.to(torch.float16).to(torch.float32),
    "topk": lambda x, _: torch.topk(x.flatten(1), 5, dim=1).values,
    "transpose": lambda x, _: x.transpose(1, -1) * 2,
    "unflatten": lambda x, _: x.unflatten(1, (2, 3)) * 2,
    "unsqueeze": lambda x, _: x.unsqueeze(1) * 2,
    "view": lambda x, _: (x * 2).view(-1, 24, 3),
}


def write(function: Callable[[Tensor, Of], Tensor], path: Path) -> Of:
    module = Of(function)
    write_onnx(module, path, SIZE_PX, ["out"], "")
    return module


@pytest.fixture
def without_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("torch's exporter was asked")

    monkeypatch.setattr("padim.features.onnx_exporter.export", refuse)


def assert_agrees(module: Of, path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, *SIZE_PX, 3), np.uint8)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": pixels})
    expected = module(torch.from_numpy(pixels)).numpy()
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("without_exporter")
@pytest.mark.parametrize("name", KNOWN)
def test_a_function_computes_as_a_graph_what_it_does_in_torch(tmp_path: Path, name: str) -> None:
    module = write(KNOWN[name], tmp_path / "a.onnx")
    called = trace(module, [torch.zeros(2, *SIZE_PX, 3, dtype=torch.uint8)]).calls
    assert name in {call.function.strip("_") for call in called}
    assert_agrees(module, tmp_path / "a.onnx")


def test_every_function_that_a_graph_may_have_is_in_a_case() -> None:
    assert KNOWN.keys() == {*_CALLS, *_LAID_OUT}


@pytest.mark.usefixtures("without_exporter")
def test_a_sum_may_be_written_over_one_of_its_terms(tmp_path: Path) -> None:
    def add(x: Tensor, of: Of) -> Tensor:
        before = x * 2
        x += before
        x.relu_()
        return x - of.row

    assert_agrees(write(add, tmp_path / "a.onnx"), tmp_path / "a.onnx")


def overwrite_a_view(x: Tensor, _: Of) -> Tensor:
    first = x[:, 0]
    first += 1
    return x


def ask(x: Tensor, _: Of) -> Tensor:
    return x if x.sum() > 0 else -x


def set_item(x: Tensor, _: Of) -> Tensor:
    x[:, 0] = 1
    return x


def count(x: Tensor, _: Of) -> Tensor:
    return x if len(x) < 3 else x + 1


def compute_elsewhere(x: Tensor, _: Of) -> Tensor:
    with torch._C.DisableTorchFunction():  # as a compiled function does
        return x.cos()


def give_a_constant(_: Tensor, of: Of) -> Tensor:
    return of.row * 2


def choose_by_a_mask(x: Tensor, of: Of) -> Tensor:
    return x.permute(3, 1, 2, 0)[of.row > 1]


def pad_by_name(x: Tensor, of: Of) -> Tensor:
    return F.conv2d(maps(x), of.kernel, padding="same")


def index_by_a_list(x: Tensor, _: Of) -> Tensor:
    return x[:, :, :, [2, 1, 0]]


def change_a_constant_later(x: Tensor, _: Of) -> Tensor:
    constant = torch.zeros(3)
    y = x + constant
    constant += 1
    return y


def add_to_a_constant(x: Tensor, _: Of) -> Tensor:
    constant = torch.zeros(())
    constant.add_(x.amax())
    return x + constant


def count_calls(x: Tensor, of: Of) -> Tensor:
    of.row += 1
    return x * of.row


def scale_by_the_number(x: Tensor, _: Of) -> Tensor:
    return x * torch.tensor(float(x.shape[0]))


def take_the_mean_of_all(x: Tensor, _: Of) -> Tensor:
    return x.mean(dim=None, keepdim=True)


def compare_whole_numbers(x: Tensor, _: Of) -> Tensor:
    return (x.long() > -0.5).float()


@pytest.mark.parametrize(
    "function",
    [
        *(index_by_a_list, change_a_constant_later, add_to_a_constant, count_calls),
        *(scale_by_the_number, take_the_mean_of_all, compare_whole_numbers),
        *(overwrite_a_view, set_item, count, ask, compute_elsewhere, give_a_constant),
        *(choose_by_a_mask, pad_by_name),
    ],
)
def test_what_a_list_of_calls_does_not_say_is_left_to_the_exporter(
    tmp_path: Path, function: Callable[[Tensor, Of], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def export(*_: object, **__: object) -> onnx.ModelProto:
        asked.append(function)
        return onnx.ModelProto()

    monkeypatch.setattr("padim.features.onnx_exporter.export", export)
    write(function, tmp_path / "a.onnx")
    assert asked == [function]


def test_a_network_made_in_inference_mode_that_changes_itself_is_left_to_the_exporter() -> None:
    with torch.inference_mode():
        module = Of(count_calls)
    with pytest.raises(UntraceableError, match="add_"):
        trace(module, [torch.zeros(2, *SIZE_PX, 3, dtype=torch.uint8)])


def norm_without_weights(x: Tensor, of: Of) -> Tensor:
    mean = of.kernel.view(-1)[:32]
    wide = x.flatten(1)[:, :32, None]
    once = F.batch_norm(wide, mean, mean)
    return once + F.batch_norm(wide, mean, mean, mean) + F.batch_norm(wide, mean, mean, None, mean)


def pad_twice(x: Tensor, _: Of) -> Tensor:
    deep = x[:, None]
    return F.pad(deep, (1, 0)) * 2 + F.pad(deep, (0, 1))


def join_two_types(x: Tensor, of: Of) -> Tensor:
    return torch.cat((x, x.double(), x.double() * of.row.double()), dim=1).float() + of.row


@pytest.mark.usefixtures("without_exporter")
@pytest.mark.parametrize("function", [norm_without_weights, pad_twice, join_two_types])
def test_constants_that_are_alike_are_not_taken_for_one_another(
    tmp_path: Path, function: Callable[[Tensor, Of], Tensor]
) -> None:
    assert_agrees(write(function, tmp_path / "a.onnx"), tmp_path / "a.onnx")


@pytest.mark.usefixtures("without_exporter")
def test_a_constant_is_kept_in_its_own_type(tmp_path: Path) -> None:
    write(lambda x, of: x * of.shade.float(), tmp_path / "a.onnx")
    constants = onnx.load(tmp_path / "a.onnx").graph.initializer
    kept = {one.name: (one.data_type, list(one.dims)) for one in constants}
    assert kept["shade"] == (onnx.TensorProto.FLOAT16, [*SIZE_PX, 3])
    assert all(len(one.raw_data) <= 2 * 6 * 4 * 3 for one in constants)


@pytest.mark.usefixtures("without_exporter")
def test_a_graph_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        write(KNOWN["conv2d"], tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
