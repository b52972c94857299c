"""Bytes in words, and what memory this process takes; without torch."""

import re
import resource
import sys
from pathlib import Path

from padim.errors import UsageError

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
