"""How much memory a fit will take, said before it starts, and how much it took."""

import re
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from padim.errors import MemoryLimitError, UsageError
from padim.moments import GROUP
from padim.pyramid import Pyramid

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}


def parse_bytes(text: str) -> int:
    """Read a number of bytes, such as ``800MB``, ``2GiB`` or ``1500000000``.

    Raises:
        UsageError: It is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*((?:[KMGT]I?)?B)?\s*", text, re.IGNORECASE)
    if not match:
        raise UsageError(f"{text!r} is no amount of memory. Try 800MB, 2GiB or a number of bytes.")
    return int(float(match[1]) * _UNITS[(match[2] or "").upper()])


def format_bytes(n_bytes: float) -> str:
    """Write a number of bytes for a person: ``812 MB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            value = n_bytes / size
            return f"{value:.2f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{n_bytes:.0f} B"


@dataclass(frozen=True)
class Forecast:
    """What a fit will take.

    Attributes:
        peak_bytes: Peak resident memory of the process.
        file_bytes: Size of the model file.
    """

    peak_bytes: int
    file_bytes: int

    def check(self, max_bytes: int | None) -> None:
        """Refuse work that would not fit.

        Raises:
            MemoryLimitError: The peak exceeds ``max_bytes``.
        """
        if max_bytes is not None and self.peak_bytes > max_bytes:
            raise MemoryLimitError(
                f"This fit needs about {format_bytes(self.peak_bytes)} of memory, but may have "
                f"{format_bytes(max_bytes)}. Raise --max-memory, or take a smaller --size, fewer "
                "--dims or a smaller --backbone."
            )


def forecast_fit(
    trunk: nn.Module,
    pyramid: Pyramid,
    size_px: tuple[int, int],
    *,
    n_batch: int,
    store_bytes: int,
    trunk_bytes: int,
    block_bytes: int,
    keep_moments: bool,
    decode_bytes: int,
) -> Forecast:
    """Forecast a fit from the shapes of its network; it does not depend on the number of images.

    Args:
        trunk: The trunk, on the meta device.
        pyramid: Its levels.
        size_px: (height, width) of what the network sees.
        n_batch: Images in one forward pass.
        store_bytes: Bytes of one stored whitening entry.
        trunk_bytes: Bytes of the trunk's tensors in the file, or 0.
        block_bytes: Working memory of the factorisation.
        keep_moments: Whether the moments are written as well.
        decode_bytes: What the decoder holds at once.
    """
    waiting = 8 * GROUP * pyramid.n_features
    moments = 8 * (pyramid.n_entries + 2 * pyramid.n_features)
    rows = store_bytes * pyramid.n_entries
    file_bytes = rows + 4 * pyramid.n_features + trunk_bytes
    passing = activation_bytes(trunk, size_px, n_batch) + waiting + moments + decode_bytes
    factoring = moments + rows + block_bytes
    saving = rows + file_bytes + (2 * moments if keep_moments else 0)
    work = max(passing, factoring, saving)
    return Forecast(resident_bytes() + work, file_bytes)


def activation_bytes(trunk: nn.Module, size_px: tuple[int, int], n_batch: int) -> int:
    """Most bytes of feature maps alive at once in a forward pass, plus those of the taps.

    Args:
        trunk: The trunk, on the meta device.
        size_px: (height, width) of its input.
        n_batch: Images in one forward pass.
    """
    most = 0

    def see(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        nonlocal most
        alive = [t for t in (*inputs, output) if isinstance(t, torch.Tensor)]
        most = max(most, sum(t.numel() * 4 for t in alive))

    leaves = [module for module in trunk.modules() if not list(module.children())]
    hooks = [leaf.register_forward_hook(see) for leaf in leaves]
    with torch.inference_mode():
        taps = trunk(torch.empty(n_batch, 3, *size_px, device="meta"))
    for hook in hooks:
        hook.remove()
    n_taps: int = sum(tap.numel() * 4 for tap in taps)
    return most + n_taps


def resident_bytes() -> int:
    """Memory this process holds now; the most it ever held where that cannot be told."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()
    except OSError:
        return _most_ever()


def reset_peak() -> bool:
    """Start measuring the peak anew; False where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak_bytes() -> int:
    """The most memory this process held since ``reset_peak``."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        return _most_ever()


def _most_ever() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
