"""What a module computes, written down call by call while it does."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

# A `Value`, a constant tensor, a number, a name, a type, or several of them.
Argument: TypeAlias = object

PER_IMAGE = object()  # in place of a number that more images make larger

_FACTS = frozenset((  # they ask how a tensor is laid out, not what it holds
    "__get__", "__len__", "dim", "element_size", "get_device", "is_contiguous",
    "is_floating_point", "numel", "size", "stride",
))  # fmt: skip


class UntraceableError(Exception):
    """A module does what no list of calls says."""


@dataclass(frozen=True)
class Value:
    """A tensor that depends on what the module is given."""

    number: int
    shape: tuple[int | None, ...]  # None where more images make it longer
    dtype: torch.dtype


@dataclass(frozen=True)
class Call:
    """A function of torch, what it was given, and what it gave."""

    function: str  # such as ``conv2d`` or ``__getitem__``
    args: Sequence[Argument]
    kwargs: Mapping[str, Argument]
    results: Sequence[Value]


@dataclass(frozen=True)
class Trace:
    """The calls of a module, in order."""

    inputs: tuple[Value, ...]
    calls: tuple[Call, ...]
    outputs: tuple[Value, ...]


def trace(module: nn.Module, inputs: Sequence[Tensor]) -> Trace:
    """Write down what a module calls. Of what depends on its inputs nothing but shapes is computed.

    What depends on none is a constant, unless it is larger than what it is made of.

    Args:
        module: On the CPU.
        inputs: Examples of what it is given; no number in them matters.

    Raises:
        UntraceableError: What it does depends on the numbers in its inputs, or it overwrites a
            tensor that has two names, or computes with something else than torch.
    """
    watcher = _Watcher(module)
    with torch.inference_mode(mode=False), torch.no_grad():
        shapes = [torch.empty_like(one, device="meta") for one in inputs]
        values = tuple(watcher.add(one) for one in shapes)
        with watcher:
            found = module(*shapes)
    outputs = [watcher.refer(one) for one in flatten(found)]
    watcher.require_unchanged()
    traced = tuple(one for one in outputs if isinstance(one, Value))
    if len(traced) < len(outputs):
        raise UntraceableError("an output depends on no input")
    return Trace(values, tuple(watcher.calls), traced)


class _Watcher(TorchFunctionMode):
    """Lets constants be computed, and of all else the shape."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._n_values = 0
        self._values: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._constants: WeakIdKeyDictionary = WeakIdKeyDictionary()
        # How often those that matter had been changed when they began to.
        self._held: dict[int, tuple[Tensor, int]] = {}
        for one in (*module.parameters(), *module.buffers()):
            self._constants[one] = True
            self._held[id(one)] = one, _count_changes(one)

    def add(self, tensor: Tensor) -> Value:
        """Give a tensor that depends on the inputs its number."""
        value = Value(self._n_values, tuple(tensor.shape), tensor.dtype)
        self._n_values += 1
        self._values[tensor] = value
        return value

    def refer(self, argument: Argument) -> Argument:
        """The argument, with values in place of their tensors."""
        return _replace(argument, self._refer)

    def _refer(self, argument: Argument) -> Argument:
        if not isinstance(argument, Tensor) or argument in self._constants:
            return argument
        if argument in self._values:
            return self._values[argument]
        raise UntraceableError("it computes with something else than torch")

    def require_unchanged(self) -> None:
        """Refuse a module that has changed what a call was given, or its own."""
        if any(_count_changes(one) != n for one, n in self._held.values()):
            raise UntraceableError("it overwrites a constant")

    def __torch_function__(
        self,
        func: Callable[..., Any],
        _types: object,
        args: tuple[Argument, ...] = (),
        kwargs: Mapping[str, Argument] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        referred = [self.refer(one) for one in args]
        named = {key: self.refer(one) for key, one in kwargs.items()}
        given = _find_tensors((args, kwargs.values()))
        if not any(one in self._values for one in given):
            found = _call(func, args, kwargs, _on_cpu)
            results = _find_tensors(found)
            if not given or sum(map(_count_bytes, results)) <= sum(map(_count_bytes, given)):
                for one in results:
                    self._constants[one] = True
                return found
        name = func.__name__
        constants = [one for one in given if one not in self._values]
        for one in constants:
            self._held.setdefault(id(one), (one, _count_changes(one)))
        versions = list(map(_count_changes, given))
        stand_ins: list[Tensor] = []
        found = _call(func, args, kwargs, partial(self._without_numbers, stand_ins))
        results = _find_tensors(found)
        pairs = zip(given, versions, strict=True)
        overwritten = [id(one) for one, version in pairs if _count_changes(one) != version]
        if any(map(_count_changes, stand_ins)):
            raise UntraceableError(f"{name} overwrites a constant")
        if overwritten and (overwritten != [*map(id, results)] or self._is_shared(results[0])):
            raise UntraceableError(f"{name} overwrites a tensor")
        if not results and name not in _FACTS:
            raise UntraceableError(f"{name} asks what its inputs are")
        if overwritten or any(one is not given[0] for one in results):
            self.calls.append(Call(name, referred, named, [self.add(one) for one in results]))
        return found

    def _without_numbers(self, stand_ins: list[Tensor], argument: Argument) -> Argument:
        if not isinstance(argument, Tensor) or argument in self._values:
            return argument
        stand_ins.append(torch.empty_like(argument, device="meta"))
        return stand_ins[-1]

    def _is_shared(self, tensor: Tensor) -> bool:
        """Whether another value lies in the same memory."""
        place = tensor.untyped_storage()._cdata
        others = (one for one in self._values if one is not tensor)
        return any(one.untyped_storage()._cdata == place for one in others)


def _call(
    func: Callable[..., Any],
    args: Sequence[Argument],
    kwargs: Mapping[str, Argument],
    convert: Callable[[Argument], Argument],
) -> Any:
    converted = {key: _replace(one, convert) for key, one in kwargs.items()}
    try:
        return func(*(_replace(one, convert) for one in args), **converted)
    except (RuntimeError, NotImplementedError) as error:
        raise UntraceableError(f"{func.__name__} fails without its inputs' numbers") from error


def _replace(argument: Argument, convert: Callable[[Argument], Argument]) -> Argument:
    """The argument with another in place of each that it is made of."""
    if isinstance(argument, tuple | list):
        replaced = (_replace(one, convert) for one in argument)
        return tuple(replaced) if isinstance(argument, tuple) else list(replaced)
    return convert(argument)


def _on_cpu(argument: Argument) -> Argument:
    is_elsewhere = isinstance(argument, torch.device) and argument.type == "meta"
    return torch.device("cpu") if is_elsewhere else argument


def _find_tensors(found: object) -> list[Tensor]:
    return [one for one in flatten(found) if isinstance(one, Tensor)]


def _count_changes(tensor: Tensor) -> int:
    """How often a tensor was changed; those made in inference mode, all constants, do not say."""
    return 0 if tensor.is_inference() else tensor._version


def _count_bytes(tensor: Tensor) -> int:
    return tensor.nbytes


def flatten(found: object) -> Iterator[object]:
    """What is in sequences of sequences, one by one."""
    if isinstance(found, Tensor | str) or not hasattr(found, "__iter__"):
        yield found
    else:
        for one in found:
            yield from flatten(one)


def compare(one: Trace, other: Trace) -> Trace:
    """What two traces of a module have in common that was given more images the second time.

    ``PER_IMAGE`` is in place of a number that differs.

    Raises:
        UntraceableError: With more images it does something else.
    """
    if len(one.calls) != len(other.calls):
        raise _differing()
    return Trace(
        tuple(map(_compare_values, one.inputs, other.inputs)),
        tuple(map(_compare_calls, one.calls, other.calls)),
        tuple(map(_compare_values, one.outputs, other.outputs)),
    )


def _differing() -> UntraceableError:
    return UntraceableError("with more images it does something else")


def _compare_values(one: Value, other: Value) -> Value:
    if (one.number, one.dtype, len(one.shape)) != (other.number, other.dtype, len(other.shape)):
        raise _differing()
    sides = zip(one.shape, other.shape, strict=True)
    return Value(one.number, tuple(a if a == b else None for a, b in sides), one.dtype)


def _compare_calls(one: Call, other: Call) -> Call:
    if one.function != other.function or one.kwargs.keys() != other.kwargs.keys():
        raise _differing()
    return Call(
        one.function,
        tuple(map(_compare_arguments, one.args, other.args)),
        {name: _compare_arguments(one.kwargs[name], other.kwargs[name]) for name in one.kwargs},
        tuple(map(_compare_values, one.results, other.results)),
    )


def _compare_arguments(one: Argument, other: Argument) -> Argument:
    if isinstance(one, Value) and isinstance(other, Value):
        return _compare_values(one, other)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        compared = map(_compare_arguments, one, other)
        return tuple(compared) if isinstance(one, tuple) else list(compared)
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one is not other and (one.dtype != other.dtype or not torch.equal(one, other)):
            raise UntraceableError("a constant depends on how many images there are")
        return one
    if type(one) is not type(other):
        raise _differing()
    return one if one == other else PER_IMAGE
