"""Bytes in words, what memory this process takes, and its garbage; without torch."""

import gc
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from padim.errors import UsageError

_UNITS = {"": 1, "B": 1} | {
    f"{letter}{infix}B": base**power
    for infix, base in (("", 1000), ("I", 1024))
    for power, letter in enumerate("KMGT", 1)
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


# What a container may have, in the two forms that Linux knows.
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@contextmanager
def without_collecting() -> Iterator[None]:
    """Let garbage lie while much is made that stays, as when a large library is loaded.

    Python looks through all that there is again and again, which is a fifth of the time.
    """
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_collecting:
            gc.enable()


@contextmanager
def loading() -> Iterator[None]:
    """Load a large library that stays to the end of a program: Python never looks through it."""
    with without_collecting():
        yield
    gc.freeze()


def machine_bytes() -> int:
    """Memory of this machine, or of the container that this process is in, if that is less."""
    import psutil

    limits = [psutil.virtual_memory().total]
    for path in _CGROUP_LIMITS:
        try:
            limits.append(int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):  # another system, or no limit
            continue
    return min(limits)


def resident_bytes() -> int:
    """Memory this process holds now."""
    import psutil

    return psutil.Process().memory_info().rss


def watch_peak() -> Callable[[], int | None]:
    """Watch the most memory this process holds from now on.

    Returns:
        What tells it. It tells None where the system does not: macOS never does, and Windows, whose
        peak is that of the process since its start, only when it is higher than it was before.
    """
    before = None
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        before = _read_peak()

    def peak() -> int | None:
        most = _read_peak()
        return None if most is None or (before is not None and most <= before) else most

    return peak


def _read_peak() -> int | None:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        import psutil

        return getattr(psutil.Process().memory_info(), "peak_wset", None)
